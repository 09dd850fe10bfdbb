"""What is no part of a collection: tables, markers, the user's patterns."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import timeit
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clipsearch
from clipsearch.errors import NoPictures
from clipsearch.indexer.build import IndexOptions
from clipsearch.indexer.ignore import Ignore, pattern_from
from clipsearch.indexer.scan import Scan, scan
from clipsearch.pictures.folders import FOLDERS
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture

EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 15, 40)


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(root: Path, *exclude: str) -> list[str]:
    return sorted(file.path for file in scan(root, ignore=Ignore(root, exclude))[0])


SYSTEMS = [
    "$Recycle.Bin", "$RECYCLE.BIN", "RECYCLER", "RECYCLED", "Recycle Bin", "#recycle", "#Recycle", "@Recycle",
    ".Recycle", ".Trash-1000", ".Trashes", "Network Trash Folder", "Network Recycle Bin 1", "_NAS_Recycle_RAID",
    "trashbox", "@Recently-Snapshot/daily", "#snapshot/GMT-2024", "~snapshot/hourly.0", "@GMT-2024.05.01-00.00.00",
    ".snapshots/1", ".zfs/snapshot/a", "Backups.backupdb/mac", "2024-01-31-101500.backup", "files_versions",
    "files_trashbin", "@eaDir", "@EADIR/x.jpg", "@tmp", "@database", "@sharebin", ".@__thumb", "ix-applications",
    "appdata/plex", "appdata_ocab12xyz/preview", "System Volume Information", "AppData/Local", "found.000",
    "FOUND.012", "lost+found", "LOST.DIR", "__MACOSX", "Temporary Items", "Data.noindex", "iPod Photo Cache",
    "x.sparsebundle/bands", "A Previews.lrdata/0", "A Smart Previews.LRDATA", "A.lrcat-data",
    "CaptureOne/Cache/Thumbnails", "Library/Caches", "node_modules/a", "__pycache__", "site-packages/skimage/data",
    ".picasaoriginals", "[Originals]", "mipmaps-0123456789abcdef0123456789abcdef01234567.d/1",
    "Android/data/com.a/cache", "PRIVATE/M4ROOT/THMBNL", "A.photoslibrary/resources/derivatives/0",
    "A.photoslibrary/resources/renders",
    "A.photoslibrary/resources/cloudsharing/resources/derivatives", "A.photoslibrary/database",
    "A.photoslibrary/scopes/cloudsharing/resources",
    "iPhoto Library.photolibrary/Thumbnails/2010", "B.PhotoLibrary/Previews", "C.aplibrary/Previews",
    "D.migratedphotolibrary/Thumbnails", "E.cocatalog/Cache", "F.lrlibrary/0a1b/previews", "G.app/Contents/Resources",
    "Adobe Camera Raw Cache 2", "gallery3/var/thumbs", "gallery3/var/resizes/album", "pwg_representative",
    ".kodi/userdata/Thumbnails/0", "portable_data/userdata/Thumbnails", "lychee/uploads/thumb",
    "Media Cache Files", "Adobe Premiere Pro Preview Files/trip.PRV", "OneDriveTemp", "_vti_cnf",
    "shotwell/thumbs/thumbs128", "pp/storage/cache/thumbnails", "@SynoEAStream", "@__qini", "_recycle",
    "X.framework/Versions/A/Resources", "Y.framework/Resources",
]  # fmt: skip


@pytest.mark.parametrize("folder", SYSTEMS)
@pytest.mark.parametrize("below", thinned(["", "2019/trip/"], 2))
def test_folders_of_systems_and_programs_are_left_out(folder: str, below: str, tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", f"{below}{folder}/b.jpg", f"{below}{folder}/c/d.jpg")
    assert found(tmp_path) == ["a.jpg"]


PEOPLE = [
    "Recycling", "My Recycle Art", "snapshots", "Snapshot", "Backup", "tmp", "cache", "Caches", "Thumbnails",
    "Previews", "originals", "Originals", "Masters", "Library", "data", "Data/Android", "@home", "@Mexico", "#sunset",
    "~me", "$money", "found", "found.0001", "lost and found", "CVs", "Windows", "Program Files", "thumbs",
    "Trash the dress", "app", "trip.app", "Holiday.framework", "Capture One", "Previews.lrdata.old",
    "Mobile Downloads.lrdata/ab/originals", "A.photoslibrary/originals/0",
    "A.photoslibrary/resources/cloudsharing/data/1/2",
    "A.photoslibrary/scopes/cloudsharing/data/1", "A.photoslibrary/scopes/momentshared/originals",
    "B.photolibrary/Masters/2010", "C.aplibrary/Masters", "E.cocatalog/Originals/1",
    "F.lrlibrary/0a1b/originals/2020", "Android/media/com.whatsapp/WhatsApp/Media", "2024-01-31", "2024.backup",
    "mipmaps", "captureone", "Nextcloud/Photos",
]  # fmt: skip


@pytest.mark.parametrize("folder", PEOPLE)
def test_folders_of_people_are_searched(folder: str, tmp_path: Path) -> None:
    write(tmp_path, f"{folder}/b.jpg", f"x/{folder}/b.jpg")
    assert found(tmp_path) == sorted([f"{folder}/b.jpg", f"x/{folder}/b.jpg"])


@given(st.sampled_from(sorted(FOLDERS)), st.randoms(use_true_random=False))
def test_capitals_make_no_difference(name: str, random: object) -> None:
    written = "".join(c.upper() if random.random() < 0.5 else c for c in name)  # type: ignore[attr-defined]
    assert Ignore("/photos").enter_folder("", [written]).skips(written, written, True)


def test_what_only_its_neighbours_tell(tmp_path: Path) -> None:
    write(
        tmp_path, "immich/upload/a.jpg", "immich/thumbs/a.jpg", "immich/encoded-video/a.jpg",
        "c/Windows/a.jpg", "c/Program Files/a.jpg", "c/Users/me/a.jpg",
        "old/AlbumData.xml", "old/Originals/a.jpg", "old/Modified/a.jpg", "old/Data/a.jpg",
        "pp/originals/a.jpg", "pp/storage/cache/a.jpg", "pp/storage/sidecar/a.yml",
        "picasa/.picasa.ini", "picasa/a.jpg", "picasa/Originals/a.jpg",
        "mine/.picasa.ini", "mine/a.jpg", "mine/Originals/other.jpg",
        "venv/pyvenv.cfg", "venv/a.png",
    )  # fmt: skip
    pictures = [path for path in found(tmp_path) if path.endswith(".jpg")]
    assert pictures == [
        "c/Users/me/a.jpg", "immich/upload/a.jpg", "mine/Originals/other.jpg", "mine/a.jpg", "old/Originals/a.jpg",
        "picasa/a.jpg", "pp/originals/a.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("marker", ["AlbumData.xml", "iPhotoMain.iPhoto"])
@pytest.mark.parametrize("library", ["", "iPhoto Library/", "x/Bilder.photolibrary/"])
def test_the_originals_of_an_old_iphoto_library_lie_in_days(marker: str, library: str, tmp_path: Path) -> None:
    day = f"{library}2003/05/12"
    wanted = [f"{day}/IMG_1.jpg", f"{day}/Originals/IMG_1.jpg", f"{library}Originals/2005/Roll 1/a.jpg"]
    made = [f"{day}/Thumbs/1.jpg", f"{day}/Data/1.data.jpg", f"{day}/data/x/1.jpg", f"{library}Modified/2005/a.jpg"]
    write(tmp_path, library + marker, *wanted, *made, f"{library}Data/2005/a.jpg", f"{library}20030/a.jpg")
    assert [path for path in found(tmp_path) if path.endswith(".jpg")] == sorted(wanted)


def test_backups_that_rsnapshot_rotates_and_previews_of_clouds(tmp_path: Path) -> None:
    made = ["r/hourly.0/a.jpg", "r/hourly.1/a.jpg", "r/weekly.3/a.jpg", "s/daily.0/x/a.jpg", "s/monthly.0/a.jpg"]
    own = [f"export/{name}/a.jpg" for name in ("thumb", "small", "medium", "large")]  # for a page of one's own
    people = ["t/daily.0/a.jpg", "u/weekly.12/a.jpg", "u/weekly.x/a.jpg", "v/thumbnails/a.jpg", "n/files/a.jpg"]
    write(
        tmp_path,
        *made,
        *people,
        "n/thumbnails/1/a.jpg",
        "l/small/a.jpg",
        "l/medium/a.jpg",
        "l/thumb/Thumbs.db",
        "l/import/Thumbs.db",
        "w/var/thumb/a.jpg",
        "w/small/a.jpg",
        *own,
    )
    pictures = [path for path in found(tmp_path) if path.endswith(".jpg")]
    assert pictures == sorted([*people, *own, "w/var/thumb/a.jpg", "w/small/a.jpg"])


def test_nomedia_and_cache_tags_leave_out_their_folder_and_what_is_below(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.jpg",
        "x/.nomedia",
        "x/b.jpg",
        "x/y/c.jpg",
        "z/d.jpg",
        "cache/e.jpg",
        "named/CACHEDIR.TAG",
        "named/f.jpg",
    )
    (tmp_path / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# made by a test")
    assert found(tmp_path) == ["a.jpg", "named/f.jpg", "z/d.jpg"]
    _, result = scan(tmp_path)
    assert result.left_out == {"x": ".nomedia", "cache": "CACHEDIR.TAG"}
    assert result.leaves_out("x/y/c.jpg") == ".nomedia"
    assert result.leaves_out("z/d.jpg") is None


@pytest.mark.parametrize("name", ["@eaDir", "A.photoslibrary", "$RECYCLE.BIN", "node_modules", "x.noindex"])
def test_a_folder_that_is_named_is_searched_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, "a.jpg", "originals/b.jpg", "resources/derivatives/c.jpg", ".nomedia")
    own = ["a.jpg", "originals/b.jpg"] + ([] if "photos" in name else ["resources/derivatives/c.jpg"])
    assert found(tmp_path / name) == own


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ("*.png", ["a.jpg", "raw/d.jpg", "raw/deep/e.jpg", "x/raw.jpg"]),
        ("raw/", ["a.jpg", "b.png", "x/c.png", "x/raw.jpg"]),
        ("/raw", ["a.jpg", "b.png", "x/c.png", "x/raw.jpg"]),
        ("raw/*\n!raw/deep/", ["a.jpg", "b.png", "raw/deep/e.jpg", "x/c.png", "x/raw.jpg"]),
        ("*.png\n!x/c.png", ["a.jpg", "raw/d.jpg", "raw/deep/e.jpg", "x/c.png", "x/raw.jpg"]),
        ("# a comment\r\n\r\nx/**\r\n", ["a.jpg", "b.png", "raw/d.jpg", "raw/deep/e.jpg"]),
        ("\ufeff**/deep", ["a.jpg", "b.png", "raw/d.jpg", "x/c.png", "x/raw.jpg"]),
        ("*\n!*/\n!*.png", ["b.png", "x/c.png"]),
    ],
)
def test_an_ignore_file_is_read_as_git_reads_its(lines: str, left: list[str], tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.png", "raw/d.jpg", "raw/deep/e.jpg", "x/c.png", "x/raw.jpg", "x/@eaDir/c.jpg")
    (tmp_path / ".clipsearchignore").write_bytes(lines.encode())
    assert found(tmp_path) == left


def test_nested_files_speak_of_their_folder_and_win_over_those_above(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "x/a.png", "x/y/a.png", "x/y/b.jpg", "y/b.jpg")
    (tmp_path / ".clipsearchignore").write_text("*.png\n")
    (tmp_path / "x" / ".clipsearchignore").write_text("!a.png\n/y/*.jpg\n")
    assert found(tmp_path) == ["x/a.png", "x/y/a.png", "y/b.jpg"]


def test_a_line_that_names_a_folder_of_the_tables_brings_it_back(tmp_path: Path) -> None:
    write(
        tmp_path,
        "@eaDir/a.jpg",
        ".hidden/b.jpg",
        "node_modules/c.jpg",
        "secret/.nomedia",
        "secret/d.jpg",
        ".clipsearch/e.jpg",
    )
    (tmp_path / ".clipsearchignore").write_text("!@eadir/\n!@eaDir/\n!.hidden\n!secret/\n!*/\n!.clipsearch/\n")
    assert found(tmp_path) == [".hidden/b.jpg", "@eaDir/a.jpg", "secret/d.jpg"]


def test_what_cannot_be_understood_is_said(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.png")
    (tmp_path / ".clipsearchignore").write_text("*.png\n!\n")
    ignore = Ignore(tmp_path)
    assert [file.path for file in scan(tmp_path, ignore=ignore)[0]] == ["a.jpg"]
    assert len(ignore.problems) == 1
    assert ".clipsearchignore, line 2" in ignore.problems[0]


def test_a_class_matches_no_slash(tmp_path: Path) -> None:
    write(tmp_path, "raw/a.jpg", "raws/a.jpg", "raw1/a.jpg", "x/raw/b.jpg")
    for line in ("raw[!0-9]*", "raw[^0-9]*", "raw[!0-9]", "raw[+-/s]", "raw[[:punct:][:alpha:]]"):
        (tmp_path / ".clipsearchignore").write_text(line)
        assert found(tmp_path) == ["raw/a.jpg", "raw1/a.jpg", "x/raw/b.jpg"]


@pytest.mark.parametrize("line", ["a[", "[[:alhpa:]]", "[a-", "[]", "x/[[:alpha:]*", "[\\]"])
def test_a_class_that_is_none_is_a_problem_and_matches_nothing(line: str, tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "a[", "b/a.jpg")
    (tmp_path / ".clipsearchignore").write_text(f"# [notes\n{line}\n")
    ignore = Ignore(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(scan(tmp_path, ignore=ignore)[0])) == 3
    assert len(ignore.problems) == 1
    assert ".clipsearchignore, line 2" in ignore.problems[0]


WHITE_ENDS = [
    ("/**\t", ["a\t"]), ("*\t", ["a\t"]), ("a\t", ["a\t"]), ("b/\t", []), ("a\\\t", ["a\t"]), ("c\u00a0", ["c\u00a0"]),
    ("*\u3000", ["d\u3000"]), ("**/*\v", []), ("a \t", []), ("a\t ", ["a\t"]), ("e\\ ", ["e "]), ("e\\  ", ["e "]),
    (" f", [" f"]), ("g  ", ["g"]), ("\t", []), ("[a]\t", ["a\t"]), ("?\t", ["a\t"]), ("!a\t\nb", ["b/a"]),
    ("a\t/", []), ("h\\", []),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "left"), WHITE_ENDS)
def test_only_blanks_at_the_end_of_a_pattern_are_none_of_it(lines: str, left: list[str], tmp_path: Path) -> None:
    names = ["a", "a\t", "b/a", "c", "c\u00a0", "d", "d\u3000", "e", "e ", "f", " f", "g", "h"]
    write(tmp_path, *names)
    (tmp_path / ".clipsearchignore").write_bytes(f"{lines}\r\n".encode())
    assert found(tmp_path) == sorted(set(names) - set(left))
    if shutil.which("git") is not None:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        listed = ["git", "-C", str(tmp_path), "ls-files", "-z", "--others", "--exclude-per-directory=.clipsearchignore"]
        theirs = subprocess.run(listed, capture_output=True, check=True).stdout.decode().split("\0")
        assert sorted(name for name in theirs if name and name != ".clipsearchignore") == sorted(set(names) - set(left))


NAMES = st.sampled_from(["a", "b", "ab", "abc", "d e", "a.jpg", "x#", "B", "a-", "7", "b]", "[", "^a", "a\t"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
IN_CLASSES = st.sampled_from([
    "a", "b", "B", "-", "!", "^", "]", "[", r"\]", r"\\", r"\-", "a-c", "+-9", "7-0", "[:", ":]",
    "[:alpha:]", "[:punct:]", "[:digit:]", "[:upper:]", "[:space:]", "[:none:]", "&&", "~~", "||", "--", "/",
])  # fmt: skip
CLASSES = st.builds(
    lambda before, negated, items, after: f"{before}[{negated}{''.join(items)}]{after}",
    st.sampled_from(["", "a", "*", "ab", "\\"]),
    st.sampled_from(["", "!", "^"]),
    st.lists(IN_CLASSES, min_size=1, max_size=3),
    st.sampled_from(["", "*", "b", "?", "[", "]"]),
)
PIECES = (
    st.sampled_from(
        [
            "a",
            "b",
            "ab",
            "*",
            "**",
            "?",
            "a*",
            "*b",
            "[ab]",
            "[!a]",
            "d e",
            r"d\ e",
            r"\#",
            "B",
            "a\t",
            "*\t",
            " ",
            "a ",
        ]
    )
    | CLASSES
)
LINES = st.builds(
    lambda negated, start, pieces, end: negated + start + "/".join(pieces) + end,
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(PIECES, min_size=1, max_size=3),
    st.sampled_from(["", "/"]),
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="compared with git, which is not here")
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    files=st.sets(PATHS, min_size=1, max_size=12),
    rules=st.dictionaries(
        st.sampled_from(["", "a", "b", "a/b", "ab"]), st.lists(LINES, min_size=1, max_size=5), max_size=3
    ),
)
def test_the_same_files_are_left_as_by_git(files: set[str], rules: dict[str, list[str]]) -> None:
    """Names are ASCII here: to git, `?` is a byte; to clipsearch it is a character."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        subprocess.run(["git", "init", "-q", root], check=True)
        for file in sorted(files):
            if not any((root / parent).is_file() for parent in Path(file).parents) and not (root / file).is_dir():
                write(root, file)
        for folder, lines in rules.items():
            if (root / folder).is_dir():
                (root / folder / ".clipsearchignore").write_text("\n".join(lines), encoding="utf-8")
        listed = ["git", "-C", place, "ls-files", "-z", "--others", "--exclude-per-directory=.clipsearchignore"]
        theirs = subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0")
        wanted = sorted(name for name in theirs if name and not name.endswith(".clipsearchignore"))
        assert found(root) == wanted


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ("*.gif", "*.gif"),
        ("Screenshots", "Screenshots"),
        ("./raw", "/raw"),
        ("raw/2019/", "raw/2019/"),
        ("#x", r"\#x"),
        ("{root}/raw", "/raw"),
        ("{root}/raw [old]/", r"/raw \[old]/"),
        ("photos/raw/", "/raw/"),
        ("photos/raw [old]", r"/raw \[old]"),
        ("!keep", "!keep"),
    ],
)
def test_patterns_as_people_write_them(
    given: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    write(root, "raw/a.jpg", "raw [old]/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert pattern_from(given.format(root=root), str(root)) == pattern


@pytest.mark.parametrize("given", ["", "/", "./", "{root}", "{root}/", "!"])
def test_patterns_that_name_nothing_are_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".+"):
        pattern_from(given.format(root=tmp_path), str(tmp_path))


def test_a_plain_file_costs_next_to_nothing() -> None:
    """Under 0.3 microseconds by more than half on a quiet machine; this asks for ten times that."""
    folder = Ignore("/photos").enter_folder("2019", {"a.jpg"})
    seconds = min(timeit.repeat(lambda: folder.skips("2019/a.jpg", "a.jpg", False), number=10_000, repeat=5))
    assert seconds / 10_000 < 3e-6


def test_folders_that_are_left_out_now_are_no_longer_searched_and_counted_by_themselves(photos: Path) -> None:
    encoder = FakeEncoder()
    fill(photos, 30)
    assert clipsearch.index(photos, encoder=encoder).pictures == 30
    (photos / "set000" / "p00003.jpg").unlink()
    (photos / "set001" / ".nomedia").touch()
    again = clipsearch.index(photos, encoder=encoder, options=IndexOptions(exclude=("set002/p0002[0-4]*",)))
    assert (again.removed, again.withdrawn, again.pictures) == (1, 15, 14)
    assert again.left_out == {"--exclude": 5, ".nomedia": 1}
    back = clipsearch.index(photos, encoder=encoder)
    assert (back.removed, back.withdrawn, back.pictures) == (0, 0, 19)


def test_an_empty_collection_says_what_was_left_out(photos: Path) -> None:
    fill(photos / "@eaDir", 2)
    with pytest.raises(NoPictures, match=r"folders of NAS systems \(1\)"):
        clipsearch.index(photos, encoder=FakeEncoder())


def test_an_index_inside_an_indexed_folder_warns_and_so_does_one_around_it(photos: Path) -> None:
    encoder = FakeEncoder()
    inner = photos / "2019" / "trip"
    inner.mkdir(parents=True)
    picture(1).save(inner / "a.jpg")
    picture(2).save(photos / "b.jpg")
    assert clipsearch.index(inner, encoder=encoder).warnings == []
    outer = clipsearch.index(photos, encoder=encoder)
    assert len(outer.warnings) == 1
    assert f"{inner} has its own index" in outer.warnings[0]
    assert clipsearch.index(photos, encoder=encoder).warnings == []  # said once
    other = photos / "2019"
    assert any(f"{other} is in {photos}" in line for line in clipsearch.index(other, encoder=encoder).warnings)


def test_scan_has_room_for_what_is_left_out() -> None:
    result = Scan(left_out={"a/b": "x"})
    assert [result.leaves_out(path) for path in ("a/b", "a/b/c/d", "a", "a/bc", "")] == ["x", "x", None, None, None]
