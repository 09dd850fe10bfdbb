"""What below a folder is no part of the collection: other programs' and systems' folders, and what the user left out.

Three sources, the later ones stronger: the tables below; `.nomedia` and `CACHEDIR.TAG` in a folder; `.clipsearchignore`
files (gitignore syntax, in any folder, as git reads them) and `--exclude`. A line such as `!@eaDir/` brings a folder of
the tables back if it names it (a wildcard does not). The folder that is indexed is never left out itself.

Where such a file is there and cannot be read, nobody knows what it leaves out: its folder is *held*, as it was before.

To add a program: put its folder's name into FOLDERS (`pictures/folders`), with the category that people read. Capitals
make no difference.
A name that people may well give needs evidence beside it: see INSIDE, BESIDE and PACKAGES.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from clipsearch.config import INDEX_DIR_NAME, MARKER, is_index, read_plain
from clipsearch.errors import InvalidArgument
from clipsearch.pictures.folders import FOLDERS, category_of
from clipsearch.places import leads_out
from clipsearch.query.arguments import shown

Archives = bool | frozenset[str] | None
OF_DATASET = "data set"
"""What a manifest says of archives where only those of a data set of Hugging Face's `datasets` are read."""
IGNORE_FILE = ".clipsearchignore"
NO_MEDIA = frozenset({".nomedia", ".NOMEDIA", ".Nomedia"})
CACHE_TAG = "CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"  # see bford.info/cachedir
VIRTUAL_ENV = "pyvenv.cfg"
INDEX_FILES = frozenset({MARKER, "CURRENT"})
MARKERS = NO_MEDIA | {IGNORE_FILE, CACHE_TAG, VIRTUAL_ENV}
"""Files that make a folder, or part of it, no part of the collection."""

HIDDEN = "hidden"
EXCLUDED = "--exclude"
LARGEST_IGNORE_FILE_BYTES = 1 << 20


INSIDE: dict[tuple[str, str], str] = {
    ("captureone", "cache"): "previews of other programs",  # beside the pictures of a Capture One session
    ("library", "caches"): "folders of macOS",
    ("m4root", "thmbnl"): "previews of other programs",  # Sony cameras
    ("avf_info", "thmbnl"): "previews of other programs",
    ("android", "data"): "folders of programs",
    ("android", "obb"): "folders of programs",
    ("application support", "plex media server"): "previews of other programs",
    ("timeshift", "snapshots"): "snapshots and backups",
    ("_data", "i"): "previews of other programs",  # Piwigo
    ("var", "thumbs"): "previews of other programs",  # Gallery 3
    ("var", "resizes"): "previews of other programs",
    ("userdata", "thumbnails"): "previews of other programs",  # Kodi
    ("uploads", "thumb"): "previews of other programs",  # Lychee
    ("thumbs", "thumbs128"): "previews of other programs",  # Shotwell
    ("thumbs", "thumbs360"): "previews of other programs",
    ("storage", "cache"): "previews of other programs",  # PhotoPrism
}
"""(The folder that it is in, its name): names that say something only there."""

BESIDE: dict[str, tuple[frozenset[str], str]] = {
    "thumbs": (frozenset({"encoded-video", "upload"}), "previews of other programs"),  # immich
    "encoded-video": (frozenset({"thumbs", "upload"}), "previews of other programs"),
    "windows": (frozenset({"program files", "users"}), "folders of Windows"),
    "program files": (frozenset({"windows", "users"}), "folders of Windows"),
    "program files (x86)": (frozenset({"windows", "users"}), "folders of Windows"),
    "programdata": (frozenset({"windows", "users"}), "folders of Windows"),
    "cache": (frozenset({"sidecar"}), "previews of other programs"),  # PhotoPrism
    "small": (frozenset({"thumb", "import"}), "previews of other programs"),  # Lychee
    "medium": (frozenset({"thumb", "small", "import"}), "previews of other programs"),
    "thumbnails": (frozenset({"files"}), "previews of other programs"),  # ownCloud, Nextcloud
}
"""Names that say something only beside certain others."""

_PHOTOS = (
    ("originals",),
    ("masters",),
    ("scopes", "*", "originals"),
    ("scopes", "*", "data"),  # shared albums, and where Photos kept them before
    ("resources", "cloudsharing", "data"),
)
PACKAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "photoslibrary": _PHOTOS,  # Apple Photos, iPhoto and Aperture
    "photolibrary": _PHOTOS,
    "migratedphotolibrary": _PHOTOS,
    "aplibrary": _PHOTOS,
    "migratedaplibrary": _PHOTOS,
    "lrlibrary": (("*", "originals"),),  # Lightroom (cloud)
    "cocatalog": (("originals",),),  # Capture One
    "app": (),
}
"""Libraries of photo programs by ending: only these folders of them hold originals, others what was made of them."""
APP_NEEDS = "Contents"  # within it, or a folder called trip.app is just that
FRAMEWORK_NEEDS = frozenset({"Versions", "Resources", "Headers", "Modules", "Info.plist"})
OLD_LIBRARY = frozenset({"AlbumData.xml", "Library6.iPhoto", "Library.iPhoto", "iPhotoMain.iPhoto"})
"""Files that make a folder an iPhoto library, whatever it is called."""
MADE_IN_A_DAY = frozenset({"thumbs", "data"})
"""What iPhoto 1 to 4 made of the originals, which it kept in YYYY/MM/DD."""
_OF_A_PACKAGE = "parts of photo libraries that are not originals"
_ROTATED = re.compile(r"(hourly|daily|weekly|monthly|yearly|alpha|beta|gamma|delta)\.\d+", re.ASCII)
_YEAR = re.compile(r"\d{4}", re.ASCII)
PICASA = frozenset({".picasa.ini", "Picasa.ini", "picasa.ini"})

_OF_THE_SYSTEM = {f"/{name}": "folders of Linux" for name in ("proc", "sys", "dev", "run")}


class _Pattern:
    """One line of gitignore syntax, for a scan that goes down folder by folder.

    pathspec's expressions also match what is below a folder that they name; here each entry is asked for by itself,
    as git does, so that `*` and `!*/` do not fight over files.
    """

    __slots__ = ("_contents", "_expression", "_folders", "literal", "wanted")

    def __init__(self, line: str) -> None:
        """Raises: ValueError."""
        from pathspec import GitIgnoreSpec

        line, classes = _without_classes(_trimmed(line))
        text = line
        self._folders = text.endswith("/**/")  # the folders in a folder, at any depth
        folders = set(text.removeprefix("!").strip("/").split("/")[:-1]) - {"**"}
        self._contents = text.endswith(("/**", "/**/")) and bool(folders)  # what is in these, not they themselves
        parsed = list(GitIgnoreSpec.from_lines([text[:-1] if self._folders else line]).patterns)
        self._expression = parsed[0].regex if parsed and parsed[0].include is not None else None
        if classes and self._expression is not None:
            expression = self._expression.pattern
            for mark, written in classes.items():
                expression = expression.replace(mark, written)
            self._expression = re.compile(expression)
        self.wanted = text.startswith("!")
        self.literal = (
            not any(written[0] in "[(" for written in classes.values())
            and re.search(r"[*?]", text.rstrip("/").rpartition("/")[2]) is None
        )

    def matches(self, path: str, is_dir: bool) -> bool:
        """`path` ends with a slash if `is_dir`."""
        if self._expression is None or (self._folders and not is_dir):
            return False
        for match in self._expression.finditer(path):
            below = match.groupdict().get("ps_d")
            if below is not None and match.end("ps_d") != len(path):
                continue
            if self._contents and match.end() == len(path):
                continue
            return True
        return False


_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f", "digit": "0-9",
    "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r" \t\n\r", "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}  # fmt: skip


_ENDS_WITH_BLANKS = re.compile(r"((?:[^\\]|\\.)*?) *", re.DOTALL)


def _trimmed(line: str) -> str:
    """A line without the blanks at its end, as git reads it: no other white space, and none behind a backslash."""
    found = _ENDS_WITH_BLANKS.fullmatch(line)
    return line if found is None else found[1]


_WHITE = re.compile(r"[^\S ]")


def _without_classes(line: str) -> tuple[str, dict[str, str]]:
    """A line with a character of its own in place of each class such as [a-c], and regular expressions for these.

    pathspec's classes match a slash, end at one and know no [:alpha:]; git's do not, or do. Also in place of tabs and
    other white space, which pathspec takes away at the end of a line. Raises: ValueError.
    """
    if ("[" not in line and _WHITE.search(line) is None) or line.startswith("#"):
        return line, {}
    marks = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in line)
    kept: list[str] = []
    classes: dict[str, str] = {}
    at, slash_within = 0, False
    while at < len(line):
        white = _WHITE.match(line, at + (line[at] == "\\"))
        if line[at] != "[" and white is None:
            step = 2 if line[at] == "\\" else 1
            kept.append(line[at : at + step])
            at += step
            continue
        expression, end = _class_at(line, at) if white is None else (re.escape(white[0]), white.end())
        mark = next(marks, None)
        if mark is None:
            raise ValueError("too many classes in one line")
        classes[mark] = expression
        slash_within = slash_within or "/" in line[at:end]
        kept.append(mark)
        at = end
    text = "".join(kept)
    if slash_within and "/" not in text.rstrip().rstrip("/"):  # to git, it counts from here as any other slash does
        text = "!/" + text[1:] if text.startswith("!") else "/" + text
    return text, classes


def _class_at(line: str, start: int) -> tuple[str, int]:
    """The regular expression of the class at `start`, read as git reads it, and where it ends. Raises: ValueError."""
    at = start + 1
    negated = line[at : at + 1] in ("!", "^")
    at += negated
    first, found, previous = at, "", ""
    while line[at : at + 1] != "]" or at == first:
        character, escaped, at = _character_of_class(line, at)
        if character == "-" and not escaped and previous and line[at : at + 1] != "]":
            character, _, at = _character_of_class(line, at)
            if previous <= character:
                found += f"{re.escape(previous)}-{re.escape(character)}"
            previous = ""
            continue
        end = line.find("]", at) if character == "[" and line[at : at + 1] == ":" and not escaped else -1
        if end > at + 1 and line[end - 1] == ":":
            name = line[at + 1 : end - 1]
            if name not in _POSIX:
                raise ValueError(f"unknown class [:{name}:]")
            found, previous, at = found + _POSIX[name], "", end + 1
            continue
        found += re.escape(character)
        previous = character
    if negated:
        return f"[^/{found}]", at + 1
    return (f"(?!/)[{found}]" if found else "(?!)"), at + 1


def _character_of_class(line: str, at: int) -> tuple[str, bool, int]:
    """A character, whether it is escaped, and where the next one is."""
    escaped = line[at : at + 1] == "\\"
    at += escaped
    if at >= len(line):
        raise ValueError("a [ without a ]; write \\[ for the character")
    return line[at], escaped, at + 1


class _NobodyKnows(Exception):
    """The file `name` may leave something out, and cannot be read."""

    def __init__(self, problem: str, name: str) -> None:
        super().__init__(f"{problem}: its folder is left as it was")
        self.name = name


PASSING_ERRORS = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EHOSTDOWN)
"""What a drive or network may say once and not again: it is asked a second and third time."""
OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What says nothing of the folder: a walk cannot go on."""


def _is_plain(place: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(place).st_mode)
    except OSError:
        return True


class _Rules(NamedTuple):
    """The patterns of one file, the last one first, for paths below `folder` ("" or ending with a slash)."""

    folder: str
    patterns: list[_Pattern]
    reason: str


class Ignore:
    """What is left out below `root`. Folders are entered from the top down; may be used by one scan after another."""

    def __init__(self, root: str | os.PathLike[str], exclude: Sequence[str] = (), *, follow_links: bool = True) -> None:
        """`exclude`: patterns of the user's (see `pattern_from`). `follow_links`: also those out of the folder.

        Raises: InvalidArgument for what is no pattern.
        """
        self.root = os.path.abspath(root)
        self.follow_links = follow_links
        self.archives: Archives = None
        """Whether to look into tars and tables, or into which. None: nobody said so, and they are other files."""
        self.listed = ""
        """The file in `root` that is the source, if it is not all of it: an archive, or a list of paths."""
        self.may_be_gone = False
        """Whether the source as a whole may be gone: an index has pictures of it."""
        self.problems: list[str] = []
        """What could not be understood, one sentence each."""
        self.held: dict[str, str] = {}
        """Folders of which nobody knows what to leave out, and why."""
        self._files: dict[str, _Rules] = {}  # by folder; only those that have any
        self._excluded = None
        if exclude:
            patterns = [self._excluding(given) for given in exclude]
            self._excluded = _Rules("", patterns[::-1], EXCLUDED)
        self._libraries: set[str] = set()  # iPhoto libraries, which only their content tells

    def _excluding(self, given: str) -> _Pattern:
        try:
            return _Pattern(pattern_from(given, self.root))
        except ValueError as error:
            raise InvalidArgument("exclude", shown(given), f"a pattern ({error})") from None

    def takes_archive(self, path: str) -> bool:
        """Whether to look into a tar or table, where anybody said which."""
        return path in self.archives if isinstance(self.archives, frozenset) else bool(self.archives)

    def enter_folder(self, relative: str, names: Collection[str]) -> Folder:
        """What applies in the folder `relative` ("": the root), whose entries are called `names`.

        Its ancestors below the root must have been entered before.
        """
        whole = None
        self.held.pop(relative, None)
        if not MARKERS.isdisjoint(names):
            try:
                whole = self._marked(relative, names)
            except _NobodyKnows as error:
                whole = self.held[relative] = f"{error.name}: {error}"
        if whole is None and relative and not INDEX_FILES.isdisjoint(names) and self._is_index(relative):
            whole = "indexes of clipsearch"
        if not OLD_LIBRARY.isdisjoint(names):
            self._libraries.add(relative)
        return Folder(self, relative, names, self._rules_for(relative), whole)

    def leads_out(self, relative: str) -> bool:
        """Whether the link `relative` is left out: it leads out of the folder."""
        return not self.follow_links and leads_out(self.root, relative)

    def why(self, relative: str, is_dir: bool, entered: dict[str, Folder]) -> str | None:
        """Why a path is left out, by itself or with a folder that it is in; None where it is not.

        Looks into the folders on the way, and remembers them in `entered`.
        """
        folder, parts = "", relative.split("/")
        for number, name in enumerate(parts):
            here = entered.get(folder)
            if here is None:
                here = entered[folder] = self.enter_folder(folder, _listed(self.root, folder))
            path = f"{folder}/{name}" if folder else name
            reason = here.whole or here.skips(path, name, is_dir or number < len(parts) - 1)
            if reason is not None:
                return reason
            folder = path
        return None

    def _marked(self, relative: str, names: Collection[str]) -> str | None:
        if IGNORE_FILE in names:
            self._read(relative)
        if relative == "" or (self._verdict(self._rules_for(relative), relative, True) or ("", True))[1] is False:
            return None
        if not NO_MEDIA.isdisjoint(names):
            return ".nomedia"
        if CACHE_TAG in names and self._is_cache(relative):
            return CACHE_TAG
        return "folders of programs" if VIRTUAL_ENV in names else None

    def _is_index(self, relative: str) -> bool:
        wanted = self._verdict(self._rules_for(relative), relative, True)
        return (wanted is None or wanted[1] is not False) and is_index(Path(self.root, relative))

    def _is_cache(self, relative: str) -> bool:
        head = self._told(relative, CACHE_TAG, len(CACHE_SIGNATURE))
        return head == CACHE_SIGNATURE

    def _told(self, relative: str, name: str, limit_bytes: int) -> bytes | None:
        """What a file says that leaves something out; None if it is gone, or no plain file. Raises: _NobodyKnows."""
        place = os.path.join(self.root, relative, name)
        for wait_s in (0.05, 0.2, None):
            try:
                return read_plain(place, limit_bytes)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not os.path.islink(place):
                    return None
                if error.errno == errno.ENXIO and not _is_plain(place):
                    return None
                if error.errno in OF_THE_PROCESS:
                    raise
                if wait_s is None or error.errno not in PASSING_ERRORS:
                    raise _NobodyKnows(f"it cannot be read ({error.strerror or error})", name) from error
                time.sleep(wait_s)
        raise AssertionError

    def _read(self, relative: str) -> None:
        shown = f"{relative}/{IGNORE_FILE}" if relative else IGNORE_FILE
        self._files.pop(relative, None)
        data = self._told(relative, IGNORE_FILE, LARGEST_IGNORE_FILE_BYTES + 1)
        if data is None:
            self.problems.append(f"{shown} is no file: it has no patterns")
            return
        if len(data) > LARGEST_IGNORE_FILE_BYTES:
            raise _NobodyKnows(f"it is larger than {LARGEST_IGNORE_FILE_BYTES:,} bytes", IGNORE_FILE)
        text = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))
        patterns = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                patterns.append(_Pattern(line.removesuffix("\r")))
            except ValueError as error:
                self.problems.append(f"{shown}, line {number}: {error}")
        self._files[relative] = _Rules(f"{relative}/" if relative else "", patterns[::-1], IGNORE_FILE)

    def _rules_for(self, relative: str) -> tuple[_Rules, ...]:
        """The rules that apply in a folder, the strongest first."""
        found = [] if self._excluded is None else [self._excluded]
        if self._files:
            folder = relative
            while True:
                rules = self._files.get(folder)
                if rules is not None:
                    found.append(rules)
                if not folder:
                    break
                folder = folder.rpartition("/")[0]
        return tuple(found)

    @staticmethod
    def _verdict(rules: tuple[_Rules, ...], path: str, is_dir: bool) -> tuple[str, bool | None] | None:
        """Who speaks of a path, and whether they leave it out (True), name it as wanted (False), or only allow it."""
        allowed = None  # by a pattern with a wildcard; one before it may name the path
        for one in rules:
            inside = path[len(one.folder) :]
            if not inside:
                continue
            asked = f"{inside}/" if is_dir else inside
            for pattern in one.patterns:
                if not pattern.matches(asked, is_dir):
                    continue
                if pattern.wanted and pattern.literal:
                    return one.reason, False
                if not pattern.wanted:
                    return allowed or (one.reason, True)
                allowed = allowed or (one.reason, None)
        return allowed


class Folder:
    """What applies to the entries of one folder. `whole`: why everything in it is left out, if it is."""

    __slots__ = ("_ignore", "_names", "_relative", "_rules", "whole")

    def __init__(
        self, ignore: Ignore, relative: str, names: Collection[str], rules: tuple[_Rules, ...], whole: str | None
    ) -> None:
        self._ignore = ignore
        self._relative = relative
        self._names = names
        self._rules = rules
        self.whole = whole

    @property
    def judges_files(self) -> bool:
        """Whether `skips` may leave out a plain file whose name does not begin with a dot."""
        return bool(self._rules) or self.whole is not None

    def skips(self, path: str, name: str, is_dir: bool) -> str | None:
        """Why an entry is left out, or None. `path` is its path below the root."""
        if self._rules or self.whole is not None:
            return self._judged(path, name, is_dir)
        if is_dir:
            return HIDDEN if name[0] == "." else self._of_others(path, name)
        return HIDDEN if name[0] == "." else None

    def _judged(self, path: str, name: str, is_dir: bool) -> str | None:
        if self.whole is not None:
            return self.whole
        if name == INDEX_DIR_NAME:
            return HIDDEN
        verdict = self._ignore._verdict(self._rules, path, is_dir)
        if verdict is not None:
            reason, left_out = verdict
            if left_out is not None:
                return reason if left_out else None
        if name[0] == ".":
            return HIDDEN
        return self._of_others(path, name) if is_dir else None

    def _of_others(self, path: str, name: str) -> str | None:
        """Why a folder is none of the user's, by its name, its place and what is beside it."""
        folded = name.casefold()
        known = category_of(name)
        if known is not None:
            return known
        parent = (self._relative or self._ignore.root).rpartition("/")[2].casefold()
        known = INSIDE.get((parent, folded))
        if known is not None:
            return known
        if (rotated := _ROTATED.fullmatch(folded)) is not None and self._is_rotated(rotated[1]):
            return "snapshots and backups"
        if folded.endswith(".framework") and not FRAMEWORK_NEEDS.isdisjoint(_listed(self._ignore.root, path)):
            return "folders of programs"
        beside = BESIDE.get(folded)
        if beside is not None and beside[0] <= {other.casefold() for other in self._names}:
            return beside[1]
        if folded == "originals" and not PICASA.isdisjoint(self._names) and self._has_all_of(path):
            return FOLDERS["[originals]"]
        if self._ignore.root == "/" and f"/{path}" in _OF_THE_SYSTEM:
            return _OF_THE_SYSTEM[f"/{path}"]
        return self._of_a_package(path)

    def _is_rotated(self, period: str) -> bool:
        """Whether rsnapshot numbers its backups here: a 0 and a 1, or another period."""
        names = {name.casefold() for name in self._names}
        rotations = [match[1] for match in map(_ROTATED.fullmatch, names) if match is not None]
        return (f"{period}.0" in names and len(rotations) > 1) or len(set(rotations)) > 1

    def _has_all_of(self, path: str) -> bool:
        """Whether every file of a folder has a namesake here: Picasa keeps what it changed so."""
        inside = [name for name in _listed(self._ignore.root, path) if name[0] != "." and name not in PICASA]
        return bool(inside) and all(name in self._names for name in inside)

    def _of_a_package(self, path: str) -> str | None:
        """Whether a folder lies in a photo program's library, and not where that keeps originals."""
        ignore = self._ignore
        parts = [ignore.root.rpartition("/")[2], *path.split("/")]
        folded = [part.casefold() for part in parts]
        for number in range(len(parts) - 1):
            ending = folded[number].rpartition(".")[2] if "." in folded[number] else ""
            wanted = PACKAGES.get(ending)
            folder = "/".join(parts[1 : number + 1])
            below = folded[number + 1 :]
            if folder in ignore._libraries:
                wanted = _PHOTOS
                if _YEAR.fullmatch(below[0]) and MADE_IN_A_DAY.isdisjoint(below):
                    continue
            if wanted is None or (not wanted and APP_NEEDS not in parts[number + 1 : number + 2]):
                continue
            if not any(all(w in ("*", b) for w, b in zip(one, below, strict=False)) for one in wanted):
                return _OF_A_PACKAGE if wanted else "folders of programs"
        return None


def pattern_from(given: str, root: str) -> str:
    """A pattern in gitignore syntax from what a user writes: also a path that is there, from `root` or from here.

    Raises: ValueError for one that names nothing.
    """
    text = given.strip("\n")
    slash = "/" if text.endswith("/") else ""
    if os.path.isabs(text):
        if text == root or text.rstrip("/") == root:
            raise ValueError(f"{given} is the folder itself")
        if text.startswith(root.rstrip("/") + "/"):
            return _literal(os.path.relpath(text, root)) + slash
    elif "/" in text.rstrip("/") and not text.startswith("!"):
        place = os.path.abspath(text)
        below = os.path.relpath(place, root)
        if not below.startswith("..") and os.path.lexists(place) and not os.path.lexists(os.path.join(root, text)):
            if below == ".":
                raise ValueError(f"{given} is the folder itself")
            return _literal(below) + slash
        text = text.removeprefix("./") if not text.startswith("./") else text[1:]
    if text.strip().strip("/") in ("", ".", ".."):
        raise ValueError("an empty pattern")
    if text.startswith("#"):
        text = "\\" + text
    _Pattern(text)
    return text


def _literal(path: str) -> str:
    """A pattern for exactly this path below the root."""
    return "/" + re.sub(r"([\\*?\[])", r"\\\1", path)


def _listed(root: str, relative: str) -> list[str]:
    try:
        return os.listdir(os.path.join(root, relative))
    except OSError:
        return []


def overlapping(root: Path, index_dir: Path, nested: Sequence[str]) -> list[str]:
    """What to tell somebody who makes an index of `root`: it is part of an indexed folder, or holds one (`nested`)."""
    from clipsearch.config import is_index

    said = []
    for above in root.parents:
        other = above / INDEX_DIR_NAME
        if is_index(other) and other != index_dir:
            folder = root.relative_to(above).as_posix()
            said.append(
                f"{root} is in {above}, which has an index: its pictures are encoded and stored twice. To search "
                f'only this folder, query that index with folder:"/{folder}". You can then delete {index_dir}'
            )
            break
    for relative in nested:
        inner = root / relative
        if inner / INDEX_DIR_NAME != index_dir:
            said.append(
                f"{inner} has its own index, which this run does not change: its pictures are stored twice, and "
                f"queries from that folder use its own index. Unless you want that, delete {inner / INDEX_DIR_NAME}"
            )
    return said
