"""Absence is not deletion: what cannot be seen is kept, and comes back without being read or encoded again."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import thinned
from tests.support.commands import Commands, State
from tests.support.faults import Family, Faults
from tests.support.mounts import Mounts
from tests.support.pictures import fill, picture

STAYING = 20
GOING = 12


class World:
    """A collection: 20 pictures that stay, and `drive`, a folder of it with 12 more that go away and come back."""

    def __init__(self, home: Path, commands: Commands, faults: Faults, mounts: Mounts) -> None:
        self.home, self.commands, self.faults, self.mounts = home, commands, faults, mounts
        self.photos = home / "photos"
        self.drive = self.photos / "drive"
        self.store = home / "store"
        fill(self.photos, STAYING)

    @property
    def index(self) -> Path:
        return self.photos / ".clipsearch"

    def run(self, *options: str) -> dict[str, Any]:
        return self.commands.index(self.photos, "--follow-links", *options)

    def state(self) -> State:
        state = self.commands.state(self.index)
        assert state.error is None
        assert not state.problems
        return state


class Absence(ABC):
    """A way for a folder to be away for a while."""

    answered: bool | None = False
    """Whether its pictures are found meanwhile; None where both are right."""

    @abstractmethod
    def begin(self, world: World) -> None:
        """Put the drive's pictures, which are in `world.store`, where the collection sees them."""

    @abstractmethod
    def leave(self, world: World) -> None: ...

    @abstractmethod
    def come_back(self, world: World) -> None: ...


class LinkToNowhere(Absence):
    def begin(self, world: World) -> None:
        world.drive.symlink_to(world.store)

    def leave(self, world: World) -> None:
        world.store.rename(world.home / "unplugged")

    def come_back(self, world: World) -> None:
        (world.home / "unplugged").rename(world.store)


class LinkToAnEmptyFolder(LinkToNowhere):
    def leave(self, world: World) -> None:
        super().leave(world)
        world.store.mkdir()

    def come_back(self, world: World) -> None:
        world.store.rmdir()
        super().come_back(world)


class LinkToAnEmptyDevice(LinkToNowhere):
    def leave(self, world: World) -> None:
        super().leave(world)
        world.mounts.tmpfs(world.store)

    def come_back(self, world: World) -> None:
        world.mounts.unmount(world.store)
        world.store.rmdir()
        super().come_back(world)


class LinkGone(LinkToNowhere):
    def leave(self, world: World) -> None:
        world.drive.unlink()

    def come_back(self, world: World) -> None:
        self.begin(world)


class Unmounted(Absence):
    """Pictures on a mount, an empty folder without it."""

    def begin(self, world: World) -> None:
        world.mounts.bind(world.store, world.drive)

    def leave(self, world: World) -> None:
        world.mounts.unmount(world.drive)

    def come_back(self, world: World) -> None:
        world.mounts.bind(world.store, world.drive)


class UnmountedWithReadme(Unmounted):
    def leave(self, world: World) -> None:
        super().leave(world)
        (world.drive / "README").write_text("Nothing is mounted here.")


class UnmountedWithPicture(Unmounted):
    """Somebody copied a picture to the mount point while nothing was mounted."""

    def leave(self, world: World) -> None:
        super().leave(world)
        fill(world.drive, 1, first=900)

    def come_back(self, world: World) -> None:
        shutil.rmtree(world.drive / "set090")
        super().come_back(world)


class MountedOver(Unmounted):
    """Another drive at the same place."""

    def leave(self, world: World) -> None:
        world.mounts.tmpfs(world.drive)
        fill(world.drive, 1, first=900)

    def come_back(self, world: World) -> None:
        world.mounts.unmount(world.drive)


class Moved(Absence):
    """A folder on the same drive that is renamed to somewhere else, and back."""

    def begin(self, world: World) -> None:
        world.store.rename(world.drive)

    def leave(self, world: World) -> None:
        world.drive.rename(world.store)

    def come_back(self, world: World) -> None:
        world.store.rename(world.drive)


class UnmountedWithPicturesAmong(Unmounted):
    """The mount point holds pictures in folders of the same names, as a backup that ran without the drive leaves."""

    def begin(self, world: World) -> None:
        for folder in ("set010", "set011"):
            (world.drive / folder).mkdir(parents=True)
            picture(900).save(world.drive / folder / "other.png")
        super().begin(world)


class MovedLeavingReadme(Moved):
    def leave(self, world: World) -> None:
        super().leave(world)
        world.drive.mkdir()
        (world.drive / "README").write_text("Nothing is mounted here.")

    def come_back(self, world: World) -> None:
        shutil.rmtree(world.drive)
        super().come_back(world)


class Failing(Moved):
    """Everything below it answers with an error, as a network drive does whose server is away."""

    answered = None

    def __init__(self, error: int) -> None:
        self.error = error

    def leave(self, world: World) -> None:
        world.faults.arm(("stat", "list", "open", "read"), world.drive, error=self.error, mode="from then on")

    def come_back(self, world: World) -> None:
        assert world.faults.disarm().failed


class FailingToList(Failing):
    def leave(self, world: World) -> None:
        world.faults.arm("list", world.drive, error=self.error, mode="from then on")


class FailingToStat(Failing):
    def leave(self, world: World) -> None:
        below = [path for path in world.drive.rglob("*") if path.is_file()]
        world.faults.arm("stat", below, error=self.error, mode="from then on")


ABSENCES: dict[str, Absence] = {
    "link to nowhere": LinkToNowhere(),
    "link to an empty folder": LinkToAnEmptyFolder(),
    "link to an empty device": LinkToAnEmptyDevice(),
    "link gone": LinkGone(),
    "unmounted": Unmounted(),
    "unmounted, with a README": UnmountedWithReadme(),
    "unmounted, with a picture": UnmountedWithPicture(),
    "unmounted, with pictures among": UnmountedWithPicturesAmong(),
    "another drive mounted over it": MountedOver(),
    "moved": Moved(),
    "moved, leaving a README": MovedLeavingReadme(),
    "ENOTCONN": Failing(errno.ENOTCONN),
    "ESTALE": Failing(errno.ESTALE),
    "EIO": Failing(errno.EIO),
    "EACCES": Failing(errno.EACCES),
    "cannot be listed": FailingToList(errno.EIO),
    "files cannot be looked at": FailingToStat(errno.EACCES),
}
SOME = ["link to nowhere", "unmounted", "moved, leaving a README"]


@pytest.fixture
def world(tmp_path: Path, commands: Commands, faults: Faults, mounts: Mounts) -> World:
    return World(tmp_path, commands, faults, mounts)


def begin(world: World, absence: Absence) -> State:
    fill(world.store, GOING, first=100)
    absence.begin(world)
    assert world.run()["indexed"] == STAYING + GOING
    whole = world.state()
    assert len(whole.found) == STAYING + GOING
    return whole


def on_the_drive(state: State) -> set[str]:
    return {path for path in state.paths if path.startswith("drive/set01") and path.endswith(".jpg")}


@pytest.mark.few(each="leads_to link")
@pytest.mark.parametrize("leads_to", ["the mount", "a folder in the mount", "a folder above the mount"])
@pytest.mark.parametrize("link", ["drive", "set000/drive"])
def test_a_link_to_a_mount_of_the_same_file_system_that_is_away(leads_to: str, link: str, world: World) -> None:
    """A few of its pictures are missing, too, where others lie in the folder that it was mounted on."""
    mount = world.home / "elsewhere" / "mount"
    within = "album" if leads_to == "a folder in the mount" else ""
    fill(world.store / within, 5, first=100)
    for path in (mount / within, world.store / within):
        path.mkdir(parents=True, exist_ok=True)
        shutil.copy2(next((world.photos / "set000").glob("*.jpg")), path / "left.jpg")
    target = mount.parent if leads_to == "a folder above the mount" else mount / within
    (world.photos / link).parent.mkdir(exist_ok=True)
    (world.photos / link).symlink_to(target)
    world.mounts.bind(world.store, mount)
    for path in (world.store / within / "set010").glob("*.jpg"):
        path.rename(path.parent.parent / path.name)  # so that no folder goes whole
    before = world.run()
    paths = world.state().paths
    world.mounts.unmount(mount)
    away = world.run()
    assert (away["removed"], away["missing"]) == (0, 5)
    world.mounts.bind(world.store, mount)
    back = world.run()
    assert (back["indexed"], back["returned"], back["pictures"]) == (0, 5, before["pictures"])
    assert world.state().paths == paths
    (world.store / within / "p00100.jpg").unlink()
    assert world.run()["removed"] == 1  # and while it is there, what is deleted is deleted


@pytest.mark.parametrize("name", thinned(ABSENCES, 8))
def test_what_goes_and_comes_back_is_not_encoded_again(name: str, world: World) -> None:
    absence = ABSENCES[name]
    whole = begin(world, absence)
    absence.leave(world)
    for _ in range(2):
        away = world.run()
        assert away["removed"] == 0
    assert away["indexed"] == 0
    meanwhile = world.state()
    if absence.answered is not None:
        assert len(on_the_drive(meanwhile)) == (GOING if absence.answered else 0)
    assert meanwhile.paths >= whole.paths - on_the_drive(whole)
    absence.come_back(world)
    back = world.run()
    assert back["indexed"] == 0
    assert world.state().found == pytest.approx(whole.found)
    assert world.run()["indexed"] == 0


@pytest.mark.few(each="name options")
@pytest.mark.parametrize("options", [["--prune"], ["--keep-missing", "0"]], ids=["prune", "keep-missing"])
@pytest.mark.parametrize("name", thinned(SOME, 3))
def test_what_is_missing_is_forgotten_when_asked(name: str, options: list[str], world: World) -> None:
    absence = ABSENCES[name]
    if name == "link to nowhere" and "--prune" not in options:
        pytest.skip("where nobody can look, time proves nothing: only --prune forgets")
    whole = begin(world, absence)
    absence.leave(world)
    assert world.run()["missing"] == GOING
    reports = [world.run(*options), world.run(*options)]
    assert sum(report["forgotten"] for report in reports) == GOING
    assert reports[-1]["missing"] == 0
    assert not on_the_drive(world.state())
    absence.come_back(world)
    world.run()
    assert world.state().paths == whole.paths


def test_what_is_missing_is_kept_for_thirty_days(world: World) -> None:
    whole = begin(world, Moved())
    ABSENCES["moved"].leave(world)
    world.run()
    world.run("--keep-missing", "29")
    world.run()
    ABSENCES["moved"].come_back(world)
    assert world.run()["indexed"] == 0
    assert world.state().paths == whole.paths


def test_the_summary_says_what_is_missing_in_one_line(world: World) -> None:
    begin(world, Moved())
    ABSENCES["moved"].leave(world)
    for _ in range(2):
        done = world.commands.run("index", world.photos)
        said = [line for line in (done.out + done.err).splitlines() if "missing" in line]
        assert len(said) == 1
        assert f"{GOING}" in said[0]


@pytest.mark.few(2)
@pytest.mark.parametrize("name", thinned(["unmounted", "link to nowhere", "moved", "ENOTCONN"], 4))
def test_compacting_and_repairing_keep_what_is_missing(name: str, world: World) -> None:
    absence = ABSENCES[name]
    whole = begin(world, absence)
    absence.leave(world)
    world.run()
    fill(world.photos, 3, first=300)
    world.run()
    for command in (["compact"], ["verify", "--repair"]):
        done = world.commands.run(*command, "--index", world.photos)
        assert done.status == 0, done.err
    (world.index / "CURRENT").unlink()
    done = world.commands.run("verify", "--repair", "--index", world.photos)
    assert done.status == 0, done.err
    world.run()
    absence.come_back(world)
    assert world.run()["indexed"] == 0
    assert world.state().paths >= whole.paths


@pytest.mark.few(2)
@pytest.mark.parametrize("mode", thinned([0o000, 0o444, 0o111], 3), ids=oct)
def test_an_album_without_permission_keeps_its_vectors(mode: int, obedient: Commands, world: World) -> None:
    world.commands = obedient
    whole = begin(world, Moved())
    album = world.drive / "set010"
    album.chmod(mode)
    try:
        for _ in range(2):
            assert world.run()["indexed"] == 0
            world.state()
    finally:
        album.chmod(0o755)
    assert world.run()["indexed"] == 0
    assert world.state().found == pytest.approx(whole.found)


def test_files_without_permission_keep_their_vectors(obedient: Commands, world: World) -> None:
    """Their times are new, so they would be read."""
    world.commands = obedient
    whole = begin(world, Moved())
    files = list(world.drive.rglob("*.jpg"))
    for path in files:
        os.utime(path)
        path.chmod(0)
    assert world.run()["indexed"] == 0
    assert world.state().paths == whole.paths
    for path in files:
        path.chmod(0o644)
    assert world.run()["indexed"] == 0
    assert world.state().found == pytest.approx(whole.found)


@pytest.mark.few(each="family error")
@pytest.mark.parametrize("family", ["open", "read"])
@pytest.mark.parametrize("error", thinned([errno.EIO, errno.EACCES], 2), ids=errno.errorcode.get)
def test_a_picture_that_cannot_be_read_again_keeps_its_vector(
    family: Any, error: int, world: World, faults: Faults
) -> None:
    whole = begin(world, Moved())
    files = list(world.drive.rglob("*.jpg"))
    for path in files:
        os.utime(path)
    with faults.armed(family, files, error=error, mode="from then on"):
        world.run()
        assert faults.struck().failed
    assert world.state().paths == whole.paths
    assert world.run()["indexed"] == 0
    assert world.state().found == pytest.approx(whole.found)


# -- what is really deleted


@pytest.mark.few(each="state family")
@pytest.mark.parametrize(
    ("state", "family"),
    thinned(itertools.product(["new", "touched", "moved", "unchanged"], ["open", "read", "stat"]), 5),
)
def test_a_sidecar_that_cannot_be_read_once_is_read_by_the_next_run(
    state: str, family: Family, tmp_path: Path, commands: Commands, faults: Faults
) -> None:
    """One error of a drive or network: no date is lost, and none that the sidecar gives is missing for good."""
    photos = tmp_path / "photos"
    fill(photos, 3)
    first = photos / "set000" / "p00000.jpg"
    beside = first.with_suffix(".xmp")
    beside.write_text(XMP)
    if state != "new":
        commands.index(photos)
        assert len(of_2003(photos, commands)) == 1
    if state == "touched":
        os.utime(beside)
    if state == "moved":
        first.rename(first.with_name("moved.jpg"))
        beside = beside.rename(first.with_name("moved.xmp"))
    with faults.armed(family, beside, error=errno.ESTALE, mode="from then on"):
        report = commands.index(photos)
        assert (report["pictures"], report["skipped"]) == (3, [])
        assert len(of_2003(photos, commands)) == (state != "new")
    report = commands.index(photos)
    assert report["indexed"] == 0
    found = of_2003(photos, commands)
    assert [Path(path).suffix for path in found] == [".jpg"]
    assert commands.index(photos)["metadata_read"] == 0


XMP = (
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    "<rdf:Description xmlns:exif='http://ns.adobe.com/exif/1.0/' exif:DateTimeOriginal='2003-04-05T10:00:00'/>"
    "</rdf:RDF></x:xmpmeta>"
)


def of_2003(photos: Path, commands: Commands) -> list[str]:
    done = commands.run("query", "after:2003-01 before:2004", "--paths", "--index", photos)
    assert done.status in (0, 3), done.err
    return done.out.split()


def test_a_few_deleted_pictures_are_forgotten_at_once(world: World) -> None:
    begin(world, Moved())
    (world.photos / "set000" / "p00003.jpg").unlink()
    (world.drive / "set010" / "p00101.jpg").unlink()
    report = world.run()
    assert report["removed"] == 2
    assert len(world.state().found) == STAYING + GOING - 2


def test_many_that_vanish_at_once_are_missing_first(tmp_path: Path, commands: Commands) -> None:
    """Two of each ten, of 150: 30 are more than a tenth, and more than twenty."""
    photos = tmp_path / "photos"
    files = fill(photos, 150)
    commands.index(photos)
    whole = commands.state(photos)
    aside = tmp_path / "aside"
    aside.mkdir()
    taken = [path for path in files if int(path.stem[1:]) % 5 == 0]
    for path in taken:
        path.rename(aside / path.name)
    commands.index(photos)
    assert len(commands.state(photos / ".clipsearch").found) == 120
    for path in taken:
        (aside / path.name).rename(path)
    assert commands.index(photos)["indexed"] == 0
    assert commands.state(photos / ".clipsearch").paths == (whole.paths or {str(p.relative_to(photos)) for p in files})


# -- an index elsewhere


@pytest.fixture
def elsewhere(tmp_path: Path, commands: Commands) -> tuple[Path, Path, State]:
    """A folder with 30 pictures, its index elsewhere, and what that answers."""
    photos, index = tmp_path / "nas" / "photos", tmp_path / "index"
    fill(photos, 30)
    commands.index(photos, "--index", index)
    return photos, index, commands.state(index)


@pytest.mark.parametrize("empty", [False, True], ids=["gone", "empty mount point"])
def test_an_index_whose_folder_is_away_is_kept(
    empty: bool, elsewhere: tuple[Path, Path, State], commands: Commands
) -> None:
    photos, index, whole = elsewhere
    aside = photos.with_name("aside")
    photos.rename(aside)
    if empty:
        photos.mkdir()
    done = commands.run("index", photos, "--index", index)
    assert "Traceback" not in done.err
    assert done.status != 0 or "missing" in done.out
    if empty:
        photos.rmdir()
    aside.rename(photos)
    assert commands.index(photos, "--index", index)["indexed"] == 0
    assert commands.state(index) == whole


@pytest.mark.parametrize("others", [0, 30], ids=["away", "both there"])
def test_another_folder_does_not_take_over_an_index(
    others: int, elsewhere: tuple[Path, Path, State], commands: Commands, tmp_path: Path
) -> None:
    photos, index, whole = elsewhere
    other = tmp_path / "other"
    fill(other, 25, first=500)
    if not others:
        photos.rename(photos.with_name("aside"))
    done = commands.run("index", other, "--index", index)
    assert done.status == 1
    assert "Traceback" not in done.err
    if not others:
        photos.with_name("aside").rename(photos)
    assert commands.state(index) == whole
    assert commands.index(photos, "--index", index)["indexed"] == 0


def test_the_same_pictures_at_another_place_may_keep_their_index(
    elsewhere: tuple[Path, Path, State], commands: Commands, tmp_path: Path
) -> None:
    photos, index, whole = elsewhere
    moved = tmp_path / "usb" / "photos"
    moved.parent.mkdir()
    photos.rename(moved)
    fill(moved, 1, first=600)
    done = commands.run("index", moved, "--index", index, "--json", "-q")
    if done.status == 0:
        assert done.json()["indexed"] == 1
        assert commands.state(index).paths > whole.paths
    else:
        assert "Traceback" not in done.err
        assert commands.state(index) == whole


# -- identity


def copy_with_cp(photos: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", photos, to], check=True)


def copy_file_by_file(photos: Path, to: Path) -> None:
    """As rsync -a: each file beside its place, with its time, then renamed."""
    for path in sorted(photos.rglob("*")):
        place = to / path.relative_to(photos)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f".{place.name}.part")
            shutil.copy2(path, part)
            part.rename(place)


@pytest.mark.parametrize("copy", [copy_with_cp, copy_file_by_file])
def test_a_copy_of_a_folder_with_its_index_is_not_read(
    copy: Any, tmp_path: Path, commands: Commands, faults: Faults
) -> None:
    photos, copied = tmp_path / "photos", tmp_path / "copied"
    size = sum(path.stat().st_size for path in fill(photos, 60))
    first = commands.index(photos)
    whole = commands.state(photos / ".clipsearch")
    copy(photos, copied)
    faults.watch(copied, but=copied / ".clipsearch")
    report = commands.index(copied)
    assert (report["indexed"], report["unchanged"], report["updated"]) == (0, 60, 0)
    assert faults.traffic().bytes_read < size / 100
    assert report["generation"] == first["generation"]
    assert commands.state(copied / ".clipsearch").found == pytest.approx(whole.found)


def test_restored_files_are_not_read(tmp_path: Path, commands: Commands, faults: Faults) -> None:
    """Their inodes are new, as on file systems that number them anew at every mount."""
    photos = tmp_path / "photos"
    files = fill(photos, 30)
    first = commands.index(photos)
    for path in files:
        part = path.with_name("part")
        shutil.copy2(path, part)
        part.replace(path)
    faults.watch(photos, but=photos / ".clipsearch")
    report = commands.index(photos)
    assert (report["indexed"], report["unchanged"], report["generation"]) == (0, 30, first["generation"])
    assert faults.traffic().bytes_read == 0


def test_renamed_and_moved_pictures_are_not_read(tmp_path: Path, commands: Commands, faults: Faults) -> None:
    photos = tmp_path / "photos"
    fill(photos, 30)
    commands.index(photos)
    whole = commands.state(photos / ".clipsearch")
    (photos / "set000").rename(photos / "holiday")
    (photos / "set001" / "p00010.jpg").rename(photos / "set002" / "first.jpg")
    faults.watch(photos, but=photos / ".clipsearch")
    report = commands.index(photos)
    assert report["indexed"] == 0
    assert faults.traffic().bytes_read == 0
    moved = commands.state(photos / ".clipsearch")
    assert sorted(moved.found.values()) == pytest.approx(sorted(whole.found.values()))
    assert sum(path.startswith("holiday/") for path in moved.found) == 10
    assert "set002/first.jpg" in moved.found and "set001/p00010.jpg" not in moved.found


def test_copies_of_one_new_picture_are_encoded_once(tmp_path: Path, commands: Commands) -> None:
    photos = tmp_path / "photos"
    (first,) = fill(photos, 1)
    shutil.copyfile(first, photos / "copy.jpg")
    shutil.copyfile(first, photos / "set000" / "another.jpg")
    assert commands.index(photos)["indexed"] == 1
    assert len(commands.state(photos / ".clipsearch").found) == 3
    (second,) = fill(photos, 1, first=1)
    shutil.copyfile(second, photos / "copy2.jpg")
    shutil.copyfile(second, photos / "copy3.jpg")
    shutil.copyfile(first, photos / "copy4.jpg")
    assert commands.index(photos)["indexed"] == 1
    assert len(commands.state(photos / ".clipsearch").found) == 7


YEAR_S = 365.2425 * 86_400


@pytest.mark.few(3)
@pytest.mark.parametrize("year", thinned([1, 1601, 1678, 2262, 2263, 2445, 9999], 3))
def test_any_time_that_a_file_system_knows_can_be_indexed(
    year: int, tmp_path: Path, commands: Commands, mounts: Mounts
) -> None:
    photos = tmp_path / "photos"
    mounts.tmpfs(photos)  # other file systems cut times to what they can hold
    files = fill(photos, 3)
    seconds = int((year - 1970) * YEAR_S) + 12_345
    os.utime(files[1], ns=(seconds * 10**9 + 7, seconds * 10**9 + 7))
    assert files[1].stat().st_mtime_ns == seconds * 10**9 + 7
    first = commands.index(photos)
    assert first["indexed"] == 3
    again = commands.index(photos)
    assert (again["unchanged"], again["generation"]) == (3, first["generation"])
    assert len(commands.state(photos / ".clipsearch").found) == 3
    found = commands.run("query", "--all", "red date:>1900", "--json", "--index", photos)
    assert "Traceback" not in found.err
    picture(50).save(files[1])
    assert commands.index(photos)["indexed"] == 1
