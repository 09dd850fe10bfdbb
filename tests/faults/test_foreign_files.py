"""Whatever lies where, and whatever is done: no file that is not ours is ever changed.

Folder trees with our own names among those of other people, indexes at any place, kills, errors, drives that come
and go, repairs. Set CLIPSEARCH_TREES to the number of cases.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clipsearch.indexer.build import IndexOptions, index_folder
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.commands import Commands, Done
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM
from tests.support.faults import COMMAND_ONLY, Family, Faults, Mode
from tests.support.mounts import can_mount
from tests.support.pictures import fill, picture
from tests.support.trees import OUR_FOLDER, OURS, Entry, differences, tree

CASES = tries("CLIPSEARCH_TREES", 8, 20)

HEX = "0123456789abcdef0123456789abcdef"
OUR_FOLDERS = (
    "data", "tags", "rows", "records", "vectors", "search", "manifests", "staging", "damaged", "dead", "tombstones",
    "columns", "faiss", "paths", ".clipsearch",
)  # fmt: skip
OUR_FILES = (
    "CURRENT", "INDEX", "LOCK", f"{HEX}.parquet", f"{HEX}.npy", f"{HEX}.tag", f"{HEX}.rows", "00000001.json",
    "00000042.json", "4711-815.npy",
)  # fmt: skip
THEIR_FOLDERS = ("2024", "@eaDir", "set", "drive")
THEIR_FILES = (
    "deploy.json",
    "train.csv",
    "labels.txt",
    "a.jpg",
    "b.png",
    "\udcff\udcfe.jpg",
    "x\ny.jpg",
    "notes",
    ".hidden.jpg",
)
KINDS = ("picture", "picture", "text", "manifest", "current", "empty", "link", "dangling", "fifo", "folder")


@dataclass(frozen=True, slots=True)
class Item:
    """A thing of somebody's: where, and what it is."""

    parts: tuple[str, ...]
    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a command: an error at its nth call of a family, or its end there."""

    family: Family
    nth: int
    mode: Mode
    error: int


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done. `place` and `folder` are relative to the world; "" is the world itself."""

    action: str
    folder: str = "photos"
    place: str | None = None
    options: tuple[str, ...] = ()
    fault: Fault | None = None
    item: Item | None = None


folders = st.sampled_from(OUR_FOLDERS + THEIR_FOLDERS)
files = st.sampled_from(OUR_FILES + THEIR_FILES)
items = st.builds(
    Item,
    st.builds(
        lambda top, below, name: (top, *below, name),
        st.sampled_from(["photos", "photos", "photos", "other", "elsewhere", "drive"]),
        st.one_of(st.lists(folders, max_size=3), st.lists(st.sampled_from(OUR_FOLDERS), min_size=1, max_size=1)),
        files,
    ),
    st.sampled_from(KINDS),
    st.integers(0, 5),
)
PLACES = (
    None, None, None, None, "", "photos", "photos", "photos/.clipsearch",
    "photos/data", "photos/2024", "photos/set/index", "other",
    "other/.clipsearch", "elsewhere", "elsewhere/index", "index", "index", "elsewhere/staging", "other/tags",
)  # fmt: skip
places = st.sampled_from(PLACES)
looked_after = st.one_of(st.sampled_from([None, "photos", "index", "other"]), places)
faults_of_commands = st.one_of(
    st.none(),
    st.builds(
        Fault,
        st.sampled_from(["rename", "unlink", "write", "sync", "open", "mkdir"]),
        st.integers(1, 40),
        st.just("kill"),
        st.just(0),
    ),
    st.builds(
        Fault,
        st.sampled_from(["rename", "unlink", "write", "sync", "open", "mkdir", "read", "stat", "list"]),
        st.integers(1, 80),
        st.sampled_from(["once", "from then on"]),
        st.sampled_from([errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.ENOTCONN, errno.ESTALE]),
    ),
)
INDEX_OPTIONS = ((), (), ("--reindex",), ("--prune",), ("--keep-missing", "0"), ("--retry-skipped",))
indexing = st.builds(
    Step,
    st.just("index"),
    st.sampled_from(["photos", "photos", "photos", "other", ""]),
    places,
    st.sampled_from(INDEX_OPTIONS),
    faults_of_commands,
)
looking_after = st.builds(
    Step,
    st.sampled_from(["compact", "repair", "tag"]),
    st.just("photos"),
    looked_after,
    st.just(()),
    faults_of_commands,
)
THEIR_NAMES_IN_INDEXES = (
    ("staging", "@eaDir", "thumb.jpg"), ("manifests", "deploy.json"), ("tags", "labels.txt"), ("data", "train.csv"),
    ("notes.txt",), ("vectors", "mine.npy"), ("rows", f"{HEX}.rows.bak"), ("album", "a.jpg"), ("manifests", "1.json"),
    ("data", f"{HEX.upper()}.parquet"), ("tags", f"{HEX[:-1]}.tag"), ("damaged.txt",), (".DS_Store",),
)  # fmt: skip
living = st.one_of(
    st.builds(Step, st.just("add"), item=items),
    st.builds(
        Step,
        st.just("add to index"),
        place=st.sampled_from(["photos/.clipsearch", "index", "other/.clipsearch"]),
        item=st.builds(Item, st.sampled_from(THEIR_NAMES_IN_INDEXES), st.just("text"), st.integers(0, 5)),
    ),
    st.builds(Step, st.sampled_from(["away", "back", "remove", "drive fails"])),
)
stories = st.tuples(
    st.lists(items, min_size=12, max_size=30),
    st.sampled_from(["link", "mount", "folder"]),
    indexing,
    st.lists(st.one_of(indexing, looking_after, looking_after, living), min_size=3, max_size=7),
)


def jpeg(number: int) -> bytes:
    data = io.BytesIO()
    picture(number).save(data, "JPEG")
    return data.getvalue()


BEGINNING = re.compile(r"INDEX\.[0-9a-f]{32}\.part")
JPEGS = [jpeg(number) for number in range(6)]


class World:
    """A folder with everything in it, and who made what."""

    def __init__(self, home: Path, commands: Commands, faults: Faults, drive: str) -> None:
        self.home, self.commands, self.faults = home, commands, faults
        self.drive_kind = drive
        self.drive_fails = False
        self.mounted = False
        for folder in ("photos", "other", "elsewhere", "drive"):
            (home / folder).mkdir()
        for number, name in enumerate(("photos/1.jpg", "photos/in/2.jpg", "other/3.jpg", "drive/4.jpg", "drive/5.jpg")):
            path = home / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(JPEGS[number])
        self.attach()
        self.theirs: dict[str, Entry] = {}
        self.ours: set[str] = set()

    # -- what people do

    @property
    def _drive(self) -> Path:
        return self.home / "photos" / "attached"

    def attach(self) -> None:
        """Let the collection see the drive."""
        if self.drive_kind == "link" and not self._drive.is_symlink():
            self._drive.symlink_to(self.home / "drive")
        elif self.drive_kind == "mount" and not self.mounted:
            self._drive.mkdir(exist_ok=True)
            subprocess.run(["mount", "--bind", str(self.home / "drive"), str(self._drive)], check=True)
            self.mounted = True
        elif self.drive_kind == "folder" and not self._drive.exists():
            shutil.copytree(self.home / "drive", self._drive, symlinks=True, copy_function=shutil.copy2, ignore=_pipes)
            self.drive_kind = "folder that is there"

    def detach(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._drive)], check=True)
            self.mounted = False
        elif self.drive_kind == "link" and (self.home / "drive").exists():
            (self.home / "drive").rename(self.home / "unplugged")
        elif self.drive_kind == "folder that is there" and self._drive.exists():
            self._drive.rename(self.home / "moved away")

    def reattach(self) -> None:
        if (self.home / "unplugged").exists():
            (self.home / "unplugged").rename(self.home / "drive")
        if (self.home / "moved away").exists():
            (self.home / "moved away").rename(self._drive)
        if self.drive_kind == "mount":
            self.attach()

    def add(self, parts: Sequence[str], kind: str, number: int) -> None:
        path = self.home.joinpath(*parts)
        try:
            if os.path.lexists(path):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "picture":
                path.write_bytes(JPEGS[number])
            elif kind == "link":
                path.symlink_to(self.home / ("other" if number % 2 else "photos/1.jpg"))
            elif kind == "dangling":
                path.symlink_to("nowhere")
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "folder":
                path.mkdir()
            else:
                texts = {
                    "text": f"mine {number}".encode(),
                    "manifest": b'{"generation": 1, "checksum": "' + HEX.encode() + b'"}',
                    "current": f"clipsearch 1 00000001 {HEX}\n".encode(),
                    "empty": b"",
                }
                path.write_bytes(texts[kind])
        except (FileExistsError, NotADirectoryError, FileNotFoundError):
            return  # there is something else in its way
        if path.is_file() and not path.is_symlink():
            path.chmod(0o640)
            os.utime(path, ns=(10**18 + number, 10**18 + number))

    def settle(self) -> None:
        """All that is there now and that no command made, is theirs."""
        self.theirs = {path: entry for path, entry in self.tree().items() if path not in self.ours}

    def tree(self) -> dict[str, Entry]:
        return tree(self.home, but=self._drive if self.mounted else None)

    # -- what commands do

    def run(self, step: Step) -> Done:
        place: list[str | Path] = [] if step.place is None else ["--index", self.home / step.place]
        folder = self.home / step.folder
        if step.action == "index":
            arguments: list[str | Path] = ["index", folder, *place, *step.options, "-q"]
        elif step.action == "tag":
            arguments = ["concept", "add", "cat", folder / "1.jpg", "--replace", *(place or ["--index", folder])]
        elif step.action == "repair":
            arguments = ["verify", "--repair", *(place or ["--index", folder])]
        else:
            arguments = ["compact", *(place or ["--index", folder])]
        if step.fault is not None:
            fault = step.fault
            only = COMMAND_ONLY if fault.mode == "kill" else 0
            self.faults.arm(fault.family, self.home, nth=fault.nth, mode=fault.mode, error=fault.error, pid=only)
        elif self.drive_fails:
            below = [self._drive, self.home / "drive"]
            self.faults.arm(("stat", "list", "open", "read"), below, error=errno.ENOTCONN, mode="from then on")
        try:
            return self.commands.run(*arguments, cwd=self.home)
        finally:
            self.faults.disarm()

    def check(self, step: Step, done: Done) -> None:
        """Nothing of theirs has changed, and what is new has our names and lies in an index."""
        now = self.tree()
        changed = differences(self.theirs, now)
        assert not changed, f"{step}: {changed}\n{done}"
        self.ours = {path for path in now if path not in self.theirs}
        strange = [path for path in self.ours if not self._is_ours(path)]
        assert not strange, f"{step}: made {strange}\n{done}"
        if step.fault is None and not self.drive_fails:
            assert "Traceback" not in done.err, f"{step}: {done.err}"

    def _is_ours(self, path: str) -> bool:
        place = self.home / path
        if (place / "INDEX").is_file():
            return True
        if BEGINNING.fullmatch(place.name):
            return True  # the marker of an index that was about to begin
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            return True
        for index in place.parents:
            name = place.relative_to(index).as_posix()
            if (index / "INDEX").is_file() and (OUR_FOLDER if place.is_dir() else OURS).fullmatch(name):
                return True
            if index == self.home:
                break
        # a folder that had to be made for an index below it
        return place.is_dir() and all(self._is_ours((Path(path) / below.name).as_posix()) for below in place.iterdir())

    def close(self) -> None:
        self.faults.disarm()
        if self.mounted:
            self.detach()


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


def tell(
    story: tuple[list[Item], str, Step, list[Step]], home: Path, commands: Commands, faults: Faults, may_mount: bool
) -> None:
    """Let a story happen, and check after each command."""
    things, drive, first, steps = story
    world = World(home, commands, faults, "link" if drive == "mount" and not may_mount else drive)
    try:
        for item in things:
            world.add(item.parts, item.kind, item.number)
        world.settle()
        for step in (first, *steps, Step("index")):
            if step.action in ("index", "compact", "repair", "tag"):
                world.check(step, world.run(step))
                continue
            if step.action == "add" and step.item is not None:
                world.add(step.item.parts, step.item.kind, step.item.number)
            elif step.action == "add to index" and step.item is not None and step.place is not None:
                if (home / step.place).is_dir():
                    world.add((step.place, *step.item.parts), step.item.kind, step.item.number)
            elif step.action == "away":
                world.detach()
            elif step.action == "back":
                world.reattach()
            elif step.action == "remove":
                (home / "photos" / "1.jpg").unlink(missing_ok=True)
            elif step.action == "drive fails":
                world.drive_fails = not world.drive_fails
            world.settle()
    finally:
        world.close()


@pytest.fixture(scope="module")
def may_mount(tmp_path_factory: pytest.TempPathFactory) -> bool:
    return can_mount(tmp_path_factory.mktemp("mounting"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


@pytest.mark.slow
@settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize="CLIPSEARCH_TREES" not in os.environ,
    phases=(Phase.generate, Phase.shrink) if "CLIPSEARCH_TREES" in os.environ else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(story=stories)
def test_what_is_not_ours_never_changes(
    story: tuple[list[Item], str, Step, list[Step]],
    commands: Commands,
    faults: Faults,
    may_mount: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp(), prefix="world") as home:
        tell(story, Path(home), commands, faults, may_mount)


# -- the cases that were found, one by one


def one(home: Path, commands: Commands, faults: Faults, things: list[Item], *steps: Step) -> None:
    tell((things, "link", steps[0], list(steps[1:])), home, commands, faults, may_mount=False)


def test_folders_with_our_names_beside_the_pictures(home: Path, commands: Commands, faults: Faults) -> None:
    things = [
        Item(("photos", "data", "a.jpg"), "picture", 1),
        Item(("photos", "data", "train.csv"), "text", 1),
        Item(("photos", "tags", "labels.txt"), "text", 2),
    ]
    one(home, commands, faults, things, Step("index", place="photos"), Step("index", "photos/data", place="photos"))


@pytest.mark.few(each="action sign")
@pytest.mark.parametrize("action", thinned(["index", "compact", "repair", "tag"], 2))
@pytest.mark.parametrize("sign", ["manifests", "CURRENT"])
def test_a_folder_that_only_looks_like_an_index(
    action: str, sign: str, home: Path, commands: Commands, faults: Faults
) -> None:
    things = [
        Item(("photos", "staging", "b.jpg"), "picture", 1),
        Item(("photos", "data", f"{HEX}.parquet"), "text", 1),
        Item(("photos", "manifests", "deploy.json"), "manifest", 1)
        if sign == "manifests"
        else Item(("photos", "CURRENT"), "current", 1),
    ]
    one(home, commands, faults, things, Step(action), Step(action, place="photos"))


def test_files_of_others_in_an_index(home: Path, commands: Commands, faults: Faults) -> None:
    added = [
        Step("add to index", place="photos/.clipsearch", item=Item(parts, "text", 1))
        for parts in THEIR_NAMES_IN_INDEXES
    ]
    commanded = [Step(action) for action in ("compact", "repair", "tag", "index")]
    one(home, commands, faults, [], Step("index"), *added, *commanded, Step("index", options=("--reindex",)))


def test_a_folder_of_others_in_staging_hinders_nothing(tmp_path: Path, commands: Commands) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.jpg").write_bytes(JPEGS[1])
    commands.index(photos)
    thumbnail = photos / ".clipsearch" / "staging" / "@eaDir" / "thumb.jpg"
    thumbnail.parent.mkdir()
    thumbnail.write_bytes(b"mine")
    (photos / "2.jpg").write_bytes(JPEGS[2])
    assert commands.index(photos)["indexed"] == 1
    jobs: tuple[list[str | Path], ...] = (
        ["compact"],
        ["verify", "--repair"],
        ["concept", "add", "cat", photos / "1.jpg"],
    )
    for command in jobs:
        done = commands.run(*command, "--index", photos)
        assert done.status == 0, done.err
    assert thumbnail.read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["photos", "other", "", "elsewhere"])
def test_an_index_in_a_folder_of_others_is_refused(place: str, home: Path, commands: Commands, faults: Faults) -> None:
    things = [Item(("elsewhere", "notes"), "text", 1), Item(("other", "a.jpg"), "picture", 2)]
    world = World(home, commands, faults, "link")
    for item in things:
        world.add(item.parts, item.kind, item.number)
    world.settle()
    step = Step("index", place=place)
    done = world.run(step)
    world.check(step, done)
    assert done.status in (1, 2), done
    assert not world.ours
    assert commands.index(home / "photos")["indexed"] >= 2


def test_an_index_of_a_newer_format_is_refused_not_repaired(tmp_path: Path, commands: Commands) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.jpg").write_bytes(JPEGS[1])
    commands.index(photos)
    index = photos / ".clipsearch"
    for name in ("INDEX", "CURRENT"):
        place = index / name
        if place.exists():
            raw = place.read_text()
            place.write_text(raw.replace("clipsearch 1 ", "clipsearch 9 ").replace("clipsearch 2 ", "clipsearch 9 "))
    before = tree(index)
    commands_of_all_kinds: tuple[list[str | Path], ...] = (
        ["index", photos],
        ["verify", "--repair", "--index", photos],
        ["verify", "--index", photos],
        ["compact", "--index", photos],
        ["query", "--all", "red", "--index", photos],
    )
    for arguments in commands_of_all_kinds:
        done = commands.run(*arguments)
        assert done.status == 1
        assert "newer" in done.err, done
        assert {path: entry for path, entry in tree(index).items() if path in before and path != "LOCK"} == {
            path: entry for path, entry in before.items() if path != "LOCK"
        }


PIPES = [
    "INDEX", "CURRENT", "LOCK", "COMMIT", "LOCK.held", "manifests/{0:08d}.json", "manifests/{1:08d}.json",
    "manifests/{2:08d}.json", "records/*.parquet", "rows/*.rows", "search/*.npy", "vectors/*.parquet",
    f"records/{HEX}.parquet", f"tags/{HEX}.tag", f"staging/{HEX}.part",
    "../.clipsearchignore", "../CACHEDIR.TAG", "../.nomedia", "../set000/.clipsearchignore",
    "../set000/CACHEDIR.TAG", "../set000/p00000.xmp", "../notes",
]  # fmt: skip


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was indexed twice. No test writes to it."""
    photos = tmp_path_factory.mktemp("two runs") / "photos"
    for count, first in ((3, 0), (1, 5)):
        fill(photos, count, first=first)
        index_folder(photos, FakeEncoder(dim=DIM), options=IndexOptions(workers=1))
    return photos


@pytest.mark.parametrize("name", thinned(PIPES, 3))
def test_a_pipe_in_the_place_of_a_file_makes_nobody_wait(
    name: str, home: Path, commands: Commands, two_runs: Path
) -> None:
    """Whoever opens a pipe waits for somebody who writes into it."""
    photos = home / "photos"
    shutil.copytree(two_runs, photos, dirs_exist_ok=True)
    index = photos / ".clipsearch"
    newest = int((index / "CURRENT").read_text().split()[2])
    pattern = name.format(newest, newest - 1, newest + 1)
    path = min(index.glob(pattern)) if "*" in pattern else index / pattern
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    commands_given: tuple[list[str | Path], ...] = (
        ["query", "--all", "red", "--index", index],
        ["index", photos, "-q"],
        ["verify", "--index", index],
        ["verify", "--repair", "--index", index],
        ["concept", "add", "dog", photos / "set000" / "p00001.jpg", "--index", index],
        ["index", photos, "-q"],
        ["compact", "--index", index],
    )
    for arguments in commands_given:
        done = commands.run(*arguments, timeout_s=120)
        assert "Traceback" not in done.err, done.err
