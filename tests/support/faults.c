/* Makes chosen calls of a process fail, counts what it reads, or kills it at one of them. LD_PRELOADed by faults.py.
 *
 * What to do is in a file that the test and every process map (CLIPSEARCH_FAULTS names it), so a test can arm and
 * disarm processes that run already. A call belongs to a family, and concerns a path: as given (made absolute, "."
 * and ".." resolved by their letters), or that of its file descriptor. The n-th call of an armed family that concerns
 * one of the prefixes fails. Headers that declare stat() and open() inline are left out: the functions here take
 * their place. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, READ = 2, STAT = 4, RENAME = 8, SYNC = 16, UNLINK = 32, WRITE = 64, LIST = 128, FLOCK = 256, MKDIR = 512, SYNC_FOLDER = 1024, LINK = 2048 };
enum { ONCE, FROM_THEN_ON, KILL, STOP, KILL_FROM_THEN_ON };
enum { TEXT = 16384, PATH = 4096 };

/* The same as in faults.py. */
struct control {
    int64_t armed, families, nth, error, mode, pid;
    int64_t count, hits, bytes_read, bytes_written, files_opened, spare;
    int64_t by_family[12]; /* calls that concern the prefixes, also those after which nothing failed */
    char prefixes[TEXT], except[TEXT], watched[TEXT], watched_except[TEXT]; /* one path a line */
    char where[PATH];                                                      /* the call that failed last */
};

static struct control *control;
static int no_locks; /* the error of every lock, whatever is ordered */

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("CLIPSEARCH_TEST_NO_LOCKS");
    no_locks = name ? atoi(name) : 0;
    name = getenv("CLIPSEARCH_FAULTS");
    if (name == NULL) return;
    int fd = (int)syscall(SYS_openat, -100, name, 2 | 02000000, 0); /* AT_FDCWD, O_RDWR | O_CLOEXEC */
    if (fd < 0) return;
    void *map = (void *)syscall(SYS_mmap, NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map != MAP_FAILED) control = map;
}

/* "/a/./b//c/.." -> "/a/b" */
static void tidy(char *path) {
    char *to = path;
    for (const char *from = path; *from;) {
        while (*from == '/') from++;
        size_t length = strcspn(from, "/");
        if (length == 2 && from[0] == '.' && from[1] == '.') {
            while (to > path && *--to != '/') {
            }
        } else if (length && !(length == 1 && from[0] == '.')) {
            *to++ = '/';
            memmove(to, from, length);
            to += length;
        }
        from += length;
    }
    *to = 0;
}

static int of_fd(int fd, char *out) {
    char link[40] = "/proc/self/fd/";
    char digits[12];
    int n = 0;
    if (fd < 0) return 0;
    do digits[n++] = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    size_t at = strlen(link);
    while (n) link[at++] = digits[--n];
    ssize_t length = readlink(link, out, PATH - 1);
    if (length <= 0 || out[0] != '/') return 0;
    out[length] = 0;
    return 1;
}

static int of_path(int dir, const char *path, char *out) {
    size_t at = 0;
    if (path == NULL) return 0;
    if (path[0] != '/') {
        if (dir == -100) {
            if (getcwd(out, PATH) == NULL) return 0;
        } else if (!of_fd(dir, out)) {
            return 0;
        }
        at = strlen(out);
        if (at + 1 < PATH) out[at++] = '/';
    }
    if (at + strlen(path) >= PATH) return 0;
    strcpy(out + at, path);
    tidy(out);
    return 1;
}

static int below_any(const char *path, const char *lines) {
    while (*lines) {
        size_t length = strcspn(lines, "\n");
        if (length && strncmp(path, lines, length) == 0 && (path[length] == 0 || path[length] == '/')) return 1;
        lines += length;
        if (*lines) lines++;
    }
    return 0;
}

static const char *name_of(int family) {
    switch (family) {
        case OPEN: return "open ";
        case READ: return "read ";
        case STAT: return "stat ";
        case RENAME:
        case LINK: return "rename ";
        case SYNC:
        case SYNC_FOLDER: return "sync ";
        case UNLINK: return "unlink ";
        case WRITE: return "write ";
        case LIST: return "list ";
        case FLOCK: return "flock ";
        default: return "mkdir ";
    }
}

/* 1 with errno set if this call is to fail. */
static int strikes(int family, const char *path) {
    struct control *c = control;
    if (!below_any(path, c->prefixes) || below_any(path, c->except)) return 0;
    __atomic_add_fetch(&c->by_family[__builtin_ctz((unsigned)family)], 1, __ATOMIC_SEQ_CST);
    int64_t number = __atomic_add_fetch(&c->count, 1, __ATOMIC_SEQ_CST);
    int on = c->mode == FROM_THEN_ON || c->mode == KILL_FROM_THEN_ON;
    if (on ? number < c->nth : number != c->nth) return 0;
    size_t at = strlen(name_of(family));
    memcpy(c->where, name_of(family), at);
    strncpy(c->where + at, path, PATH - at - 1);
    __atomic_add_fetch(&c->hits, 1, __ATOMIC_SEQ_CST);
    if (c->mode == KILL || c->mode == KILL_FROM_THEN_ON) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (c->mode == STOP) {
        kill(getpid(), SIGSTOP);
        return 0;
    }
    errno = (int)c->error;
    return 1;
}

static int armed(int family) {
    return control && control->armed && (control->families & family) && (!control->pid || control->pid == getpid());
}

static int fails_path(int family, int dir, const char *path) {
    char full[PATH];
    int before = errno;
    if (!armed(family)) return 0;
    if (of_path(dir, path, full) && strikes(family, full)) return 1;
    errno = before;
    return 0;
}

static int fails_fd(int family, int fd) {
    char full[PATH];
    int before = errno;
    if (!armed(family)) return 0;
    if (of_fd(fd, full) && strikes(family, full)) return 1;
    errno = before;
    return 0;
}

static int is_watched(const char *path) {
    return below_any(path, control->watched) && !below_any(path, control->watched_except);
}

static void note(int64_t *total, int fd, int64_t bytes) {
    char full[PATH];
    if (!control || !control->watched[0] || bytes <= 0) return;
    int before = errno;
    if (of_fd(fd, full) && is_watched(full)) __atomic_add_fetch(total, bytes, __ATOMIC_SEQ_CST);
    errno = before;
}

static void note_open(int fd) {
    if (control) note(&control->files_opened, fd, 1);
}

#define REAL(type, name, ...)                                  \
    static type (*real)(__VA_ARGS__);                          \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* -- open */

static int mode_of(int flags, va_list more) {
    return flags & (0100 | 020200000) ? va_arg(more, int) : 0; /* O_CREAT, O_TMPFILE */
}

#define OPEN_LIKE(name)                                             \
    int name(const char *path, int flags, ...) {                    \
        REAL(int, name, const char *, int, ...);                    \
        va_list more;                                               \
        va_start(more, flags);                                      \
        int mode = mode_of(flags, more);                            \
        va_end(more);                                               \
        if (fails_path(OPEN, -100, path)) return -1;                \
        int fd = real(path, flags, mode);                           \
        note_open(fd);                                              \
        return fd;                                                  \
    }
OPEN_LIKE(open)
OPEN_LIKE(open64)

#define OPENAT_LIKE(name)                                           \
    int name(int dir, const char *path, int flags, ...) {           \
        REAL(int, name, int, const char *, int, ...);               \
        va_list more;                                               \
        va_start(more, flags);                                      \
        int mode = mode_of(flags, more);                            \
        va_end(more);                                               \
        if (fails_path(OPEN, dir, path)) return -1;                 \
        int fd = real(dir, path, flags, mode);                      \
        note_open(fd);                                              \
        return fd;                                                  \
    }
OPENAT_LIKE(openat)
OPENAT_LIKE(openat64)

#define OPEN_2_LIKE(name)                                           \
    int name(const char *path, int flags) {                         \
        REAL(int, name, const char *, int);                         \
        return fails_path(OPEN, -100, path) ? -1 : real(path, flags); \
    }
OPEN_2_LIKE(__open_2)
OPEN_2_LIKE(__open64_2)

#define FOPEN_LIKE(name)                                            \
    void *name(const char *path, const char *mode) {                \
        REAL(void *, name, const char *, const char *);             \
        return fails_path(OPEN, -100, path) ? NULL : real(path, mode); \
    }
FOPEN_LIKE(fopen)
FOPEN_LIKE(fopen64)

/* -- read and write */

ssize_t read(int fd, void *into, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    if (fails_fd(READ, fd)) return -1;
    ssize_t done = real(fd, into, size);
    if (control) note(&control->bytes_read, fd, done);
    return done;
}

#define PREAD_LIKE(name)                                            \
    ssize_t name(int fd, void *into, size_t size, off64_t at) {     \
        REAL(ssize_t, name, int, void *, size_t, off64_t);          \
        if (fails_fd(READ, fd)) return -1;                          \
        ssize_t done = real(fd, into, size, at);                    \
        if (control) note(&control->bytes_read, fd, done);          \
        return done;                                                \
    }
PREAD_LIKE(pread)
PREAD_LIKE(pread64)

ssize_t readv(int fd, const struct iovec *into, int n) {
    REAL(ssize_t, readv, int, const struct iovec *, int);
    if (fails_fd(READ, fd)) return -1;
    ssize_t done = real(fd, into, n);
    if (control) note(&control->bytes_read, fd, done);
    return done;
}

#define MMAP_LIKE(name)                                                                   \
    void *name(void *at, size_t size, int protection, int flags, int fd, off64_t offset) { \
        REAL(void *, name, void *, size_t, int, int, int, off64_t);                       \
        void *map = real(at, size, protection, flags, fd, offset);                        \
        if (control && fd >= 0 && map != MAP_FAILED) note(&control->bytes_read, fd, (int64_t)size); \
        return map;                                                                       \
    }
MMAP_LIKE(mmap)
MMAP_LIKE(mmap64)

ssize_t write(int fd, const void *from, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (fails_fd(WRITE, fd)) return -1;
    ssize_t done = real(fd, from, size);
    if (control) note(&control->bytes_written, fd, done);
    return done;
}

#define PWRITE_LIKE(name)                                           \
    ssize_t name(int fd, const void *from, size_t size, off64_t at) { \
        REAL(ssize_t, name, int, const void *, size_t, off64_t);    \
        if (fails_fd(WRITE, fd)) return -1;                         \
        ssize_t done = real(fd, from, size, at);                    \
        if (control) note(&control->bytes_written, fd, done);       \
        return done;                                                \
    }
PWRITE_LIKE(pwrite)
PWRITE_LIKE(pwrite64)

ssize_t writev(int fd, const struct iovec *from, int n) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (fails_fd(WRITE, fd)) return -1;
    ssize_t done = real(fd, from, n);
    if (control) note(&control->bytes_written, fd, done);
    return done;
}

#define COPY_LIKE(name, ...)                                                      \
    ssize_t name(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) { \
        REAL(ssize_t, name, int, off64_t *, int, off64_t *, size_t, unsigned);    \
        if (fails_fd(READ, from) || fails_fd(WRITE, to)) return -1;               \
        ssize_t done = real(from, from_at, to, to_at, size, flags);               \
        if (control) note(&control->bytes_read, from, done);                      \
        if (control) note(&control->bytes_written, to, done);                     \
        return done;                                                              \
    }
COPY_LIKE(copy_file_range)

#define SENDFILE_LIKE(name)                                                       \
    ssize_t name(int to, int from, off64_t *at, size_t size) {                    \
        REAL(ssize_t, name, int, int, off64_t *, size_t);                         \
        if (fails_fd(READ, from) || fails_fd(WRITE, to)) return -1;               \
        ssize_t done = real(to, from, at, size);                                  \
        if (control) note(&control->bytes_read, from, done);                      \
        if (control) note(&control->bytes_written, to, done);                     \
        return done;                                                              \
    }
SENDFILE_LIKE(sendfile)
SENDFILE_LIKE(sendfile64)

#define FTRUNCATE_LIKE(name)                                        \
    int name(int fd, off64_t size) {                                \
        REAL(int, name, int, off64_t);                              \
        return fails_fd(WRITE, fd) ? -1 : real(fd, size);           \
    }
FTRUNCATE_LIKE(ftruncate)
FTRUNCATE_LIKE(ftruncate64)

/* -- stat: the names of glibc from 2.33 on, and those of programs built with older ones */

#define STAT_LIKE(name)                                             \
    int name(const char *path, void *out) {                         \
        REAL(int, name, const char *, void *);                      \
        return fails_path(STAT, -100, path) ? -1 : real(path, out); \
    }
STAT_LIKE(stat)
STAT_LIKE(stat64)
STAT_LIKE(lstat)
STAT_LIKE(lstat64)

#define FSTAT_LIKE(name)                                            \
    int name(int fd, void *out) {                                   \
        REAL(int, name, int, void *);                               \
        return fails_fd(STAT, fd) ? -1 : real(fd, out);             \
    }
FSTAT_LIKE(fstat)
FSTAT_LIKE(fstat64)

#define AT_EMPTY 0x1000
#define FSTATAT_LIKE(name)                                          \
    int name(int dir, const char *path, void *out, int flags) {     \
        REAL(int, name, int, const char *, void *, int);            \
        int empty = (flags & AT_EMPTY) && path && !*path;           \
        if (empty ? fails_fd(STAT, dir) : fails_path(STAT, dir, path)) return -1; \
        return real(dir, path, out, flags);                         \
    }
FSTATAT_LIKE(fstatat)
FSTATAT_LIKE(fstatat64)

int statx(int dir, const char *path, int flags, unsigned mask, void *out) {
    REAL(int, statx, int, const char *, int, unsigned, void *);
    int empty = (flags & AT_EMPTY) && (!path || !*path);
    if (empty ? fails_fd(STAT, dir) : fails_path(STAT, dir, path)) return -1;
    return real(dir, path, flags, mask, out);
}

#define XSTAT_LIKE(name)                                            \
    int name(int version, const char *path, void *out) {            \
        REAL(int, name, int, const char *, void *);                 \
        return fails_path(STAT, -100, path) ? -1 : real(version, path, out); \
    }
XSTAT_LIKE(__xstat)
XSTAT_LIKE(__xstat64)
XSTAT_LIKE(__lxstat)
XSTAT_LIKE(__lxstat64)

#define FXSTAT_LIKE(name)                                           \
    int name(int version, int fd, void *out) {                      \
        REAL(int, name, int, int, void *);                          \
        return fails_fd(STAT, fd) ? -1 : real(version, fd, out);    \
    }
FXSTAT_LIKE(__fxstat)
FXSTAT_LIKE(__fxstat64)

#define FXSTATAT_LIKE(name)                                         \
    int name(int version, int dir, const char *path, void *out, int flags) { \
        REAL(int, name, int, int, const char *, void *, int);       \
        return fails_path(STAT, dir, path) ? -1 : real(version, dir, path, out, flags); \
    }
FXSTATAT_LIKE(__fxstatat)
FXSTATAT_LIKE(__fxstatat64)

int access(const char *path, int mode) {
    REAL(int, access, const char *, int);
    return fails_path(STAT, -100, path) ? -1 : real(path, mode);
}

/* -- names */

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return fails_path(RENAME, -100, from) || fails_path(RENAME, -100, to) ? -1 : real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    return fails_path(RENAME, to_dir, to) ? -1 : real(from_dir, from, to_dir, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    return fails_path(RENAME, to_dir, to) ? -1 : real(from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    return fails_path(LINK, -100, to) ? -1 : real(from, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return fails_path(LINK, to_dir, to) ? -1 : real(from_dir, from, to_dir, to, flags);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    return fails_path(UNLINK, -100, path) ? -1 : real(path);
}

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    return fails_path(UNLINK, dir, path) ? -1 : real(dir, path, flags);
}

int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    return fails_path(UNLINK, -100, path) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return fails_path(MKDIR, -100, path) ? -1 : real(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    return fails_path(MKDIR, dir, path) ? -1 : real(dir, path, mode);
}

/* -- durability and locks */

static int is_folder(int fd) {
    int before = errno;
    long found = syscall(SYS_openat, fd, ".", 010000000 | 02000000, 0); /* O_PATH | O_CLOEXEC */
    if (found >= 0) syscall(SYS_close, found);
    errno = before;
    return found >= 0;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    int family = armed(SYNC_FOLDER) && is_folder(fd) ? SYNC_FOLDER : SYNC;
    return fails_fd(family, fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return fails_fd(SYNC, fd) ? -1 : real(fd);
}

int flock(int fd, int how) {
    REAL(int, flock, int, int);
    if (no_locks) {
        errno = no_locks;
        return -1;
    }
    return fails_fd(FLOCK, fd) ? -1 : real(fd, how);
}

#define FCNTL_LIKE(name)                                                        \
    int name(int fd, int command, ...) {                                        \
        REAL(int, name, int, int, ...);                                         \
        va_list more;                                                           \
        va_start(more, command);                                                \
        void *argument = va_arg(more, void *);                                  \
        va_end(more);                                                           \
        int locks = command == 6 || command == 7 || command == 37 || command == 38; /* F_SETLK(W), F_OFD_SETLK(W) */ \
        return locks && fails_fd(FLOCK, fd) ? -1 : real(fd, command, argument); \
    }
FCNTL_LIKE(fcntl)
FCNTL_LIKE(fcntl64)

/* -- folders: their entries come from getdents, which only the C library calls */

DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    return fails_path(LIST, -100, path) ? NULL : real(path);
}

DIR *fdopendir(int fd) {
    REAL(DIR *, fdopendir, int);
    return fails_fd(LIST, fd) ? NULL : real(fd);
}

#define READDIR_LIKE(type, name)                                    \
    type *name(DIR *folder) {                                       \
        REAL(type *, name, DIR *);                                  \
        return fails_fd(LIST, dirfd(folder)) ? NULL : real(folder); \
    }
READDIR_LIKE(struct dirent, readdir)
READDIR_LIKE(struct dirent64, readdir64)
