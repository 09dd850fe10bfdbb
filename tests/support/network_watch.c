/* Writes every attempt to reach another machine, and every look-up of a name, to the file $NETWORK_WATCH. Preloaded. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what, const char *whom) {
    const char *path = getenv("NETWORK_WATCH");
    char line[600];
    int fd, length = snprintf(line, sizeof line, "%s %s\n", what, whom);
    if (path == NULL || length < 0 || (fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0) return;
    if (write(fd, line, length < (int)sizeof line ? length : (int)sizeof line - 1) < 0) length = 0;
    close(fd);
}

static void note_address(const char *what, const struct sockaddr *to) {
    char text[INET6_ADDRSTRLEN] = "?";
    if (to == NULL) return;
    if (to->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)to;
        if ((ntohl(four->sin_addr.s_addr) >> 24) == 127) return;
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
    } else if (to->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)to;
        if (IN6_IS_ADDR_LOOPBACK(&six->sin6_addr)) return;
        if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) && six->sin6_addr.s6_addr[12] == 127) return;
        inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
    } else {
        return;
    }
    note(what, text);
}

static void note_name(const char *what, const char *name) {
    unsigned char address[sizeof(struct in6_addr)];
    if (name == NULL || strcmp(name, "localhost") == 0) return;
    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1) return;
    note(what, name);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int connect(int fd, const struct sockaddr *to, socklen_t length) {
    note_address("connect", to);
    return REAL(connect)(fd, to, length);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    note_address("sendto", to);
    return REAL(sendto)(fd, data, size, flags, to, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    note_address("sendmsg", message->msg_name);
    return REAL(sendmsg)(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    for (unsigned int n = 0; n < count; n++) note_address("sendmmsg", messages[n].msg_hdr.msg_name);
    return REAL(sendmmsg)(fd, messages, count, flags);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    note_name("getaddrinfo", node);
    return REAL(getaddrinfo)(node, service, hints, found);
}

struct hostent *gethostbyname(const char *name) {
    note_name("gethostbyname", name);
    return REAL(gethostbyname)(name);
}

struct hostent *gethostbyname2(const char *name, int family) {
    note_name("gethostbyname2", name);
    return REAL(gethostbyname2)(name, family);
}

int gethostbyname_r(const char *name, struct hostent *into, char *buffer, size_t size, struct hostent **found, int *why) {
    note_name("gethostbyname_r", name);
    return REAL(gethostbyname_r)(name, into, buffer, size, found, why);
}

struct hostent *gethostbyaddr(const void *address, socklen_t length, int family) {
    note("gethostbyaddr", "?");
    return REAL(gethostbyaddr)(address, length, family);
}

int gethostbyaddr_r(const void *address, socklen_t length, int family, struct hostent *into, char *buffer, size_t size,
                    struct hostent **found, int *why) {
    note("gethostbyaddr_r", "?");
    return REAL(gethostbyaddr_r)(address, length, family, into, buffer, size, found, why);
}
