"""Machines without a home, a user, a folder for temporary files, a wide terminal, or somebody who reads to the end."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch import places
from tests.support.cases import thinned
from tests.support.commands import clipsearch
from tests.support.in_turn import Words, all_well, python
from tests.support.pictures import fill
from tests.support.tiny_models import any_model

SLOW = pytest.mark.slow
pytestmark = SLOW  # each starts commands
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
ALL_CASES = "CLIPSEARCH_EXAMPLES" in os.environ
"""Whether every command meets every reader, or each of both some of the others."""


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "photos"
    fill(folder, 12)
    run("index", folder, "--model", any_model(), "-q")
    return folder


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "clipsearch", *map(str, arguments)]


def run(*arguments: str | Path, code: int = 0, **own: str | Path) -> subprocess.CompletedProcess[str]:
    """Nothing in `own` may be what Python minds when it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, str(value))
        return clipsearch(*arguments, folder=Path.cwd(), status=code)


def both(photos: Path, env: dict[str, str], within: tuple[str, ...] = (), model: str | None = None) -> None:
    """Index and search, in a Python that is started so."""
    index: Words = ["index", photos, "--model", model or any_model()]
    query: Words = ["query", "waves", "--all", "--index", photos]
    all_well(index, query, folder=photos.parent, env={**os.environ, **env}, within=within)


OWN = ("CLIPSEARCH_CACHE_DIR", "CLIPSEARCH_STATE_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HF_HOME")


@pytest.mark.few(3)
@pytest.mark.slow
@pytest.mark.parametrize("home", ["", "/nonexistent", "/proc", "not/absolute"])
def test_a_home_that_is_none(home: str, photos: Path, tmp_path: Path) -> None:
    fill(photos, 3)
    here = tmp_path / "here"
    here.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    all_well(
        ("index", photos, "--model", any_model() if home else "builtin"),
        ("query", "waves", "--all", "--index", photos),
        ("status", "--index", photos),
        folder=here,
        env=environment | {"HOME": home, "TMPDIR": str(tmp_path)},
    )
    assert list(here.iterdir()) == []  # no folder called ~
    if not os.path.isabs(home):  # noqa: PTH117
        assert (tmp_path / f"clipsearch-{os.getuid()}" / "state" / "indexes.json").is_file()  # not in passwd's home


@LINUX
@pytest.mark.slow
def test_a_user_without_a_name_or_a_home(photos: Path, tmp_path: Path) -> None:
    """As in a container that is started with any user id: getpwuid knows nobody, HOME is not set."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make passwd empty with")
    source, library = tmp_path / "nobody.c", tmp_path / "nobody.so"
    source.write_text(
        "#include <pwd.h>\nstruct passwd *getpwuid(uid_t u) { return 0; }\n"
        "int getpwuid_r(uid_t u, struct passwd *p, char *b, size_t n, struct passwd **r) { *r = 0; return 0; }\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    fill(photos, 3)
    temporary, here = tmp_path / "tmp", tmp_path / "here"
    temporary.mkdir()
    here.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in (*OWN, "HOME")}
    environment |= {"TMPDIR": str(temporary), "LD_PRELOAD": str(library)}
    all_well(
        ["index", photos, "--model", any_model()],
        ["query", "~x waves", "--all", "--index", photos],
        ["models", "list"],
        folder=here,
        env=environment,
    )
    kept = temporary / f"clipsearch-{os.getuid()}"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert (kept / "cache").is_dir()
    assert list(here.iterdir()) == []


def test_nothing_is_kept_in_a_folder_that_others_could_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = []
    for prepare in (lambda p: p.mkdir(0o777), lambda p: p.symlink_to("/"), lambda p: p.write_text(""), lambda p: None):
        place = tmp_path / f"clipsearch-{os.getuid()}"
        prepare(place)
        if place.is_dir() and not place.is_symlink():
            place.chmod(0o777)
        places._among_temporary_files.cache_clear()
        found.append(places._among_temporary_files())
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    places._among_temporary_files.cache_clear()
    assert found == [places.NOWHERE] * 3 + [tmp_path / f"clipsearch-{os.getuid()}"]


@pytest.mark.slow
@pytest.mark.parametrize("path", thinned(["~nobody-of-this-name/x", "~"], 2))
def test_a_tilde_is_a_name_where_there_is_no_home(path: str, monkeypatch: pytest.MonkeyPatch, indexed: Path) -> None:
    assert isinstance(places.expanded(path), Path)
    assert run("query", path, "waves", "--all", "--index", indexed).stdout


@pytest.mark.few(2)
@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("place", ["both", "cache", "state"])
def test_own_folders_that_cannot_be_written_to(place: str, photos: Path) -> None:
    """/proc refuses every write, also root's."""
    fill(photos, 3)
    own: dict[str, Any] = {"CLIPSEARCH_CACHE_DIR": "/proc/clipsearch"} if place != "state" else {}
    own |= {"CLIPSEARCH_STATE_DIR": "/proc/clipsearch"} if place != "cache" else {}
    run("index", photos, "--model", "builtin" if place == "both" else any_model(), **own)
    run("query", "waves", "--all", "--index", photos, **own)
    run("query", "waves", "--all", "--daemon", "auto", "--index", photos, **own)
    run("similar", "1", "--index", photos, **own)


@LINUX
@pytest.mark.parametrize("precision", ["auto", pytest.param("int8", marks=SLOW)])
def test_a_cache_that_cannot_be_written_to_costs_speed_only(precision: str, photos: Path) -> None:
    fill(photos, 3)
    done = run(
        "index", photos, "--model", "builtin", "--precision", precision, CLIPSEARCH_CACHE_DIR="/proc/clipsearch",
        code=0 if precision == "auto" else 1,
    )  # fmt: skip
    assert precision == "auto" or "--precision fp32" in done.stderr


@pytest.mark.few(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    "temporary", ["/nonexistent", *(pytest.param(other, marks=SLOW) for other in ("", "relative"))]
)
def test_tmpdir_that_is_not_there(temporary: str, photos: Path) -> None:
    fill(photos, 3)
    both(photos, {"TMPDIR": temporary})


@LINUX
@pytest.mark.slow
def test_no_folder_for_temporary_files_and_no_shared_memory(photos: Path) -> None:
    """All of /tmp, /var/tmp and /dev/shm read-only, as far as a mount namespace can be had."""
    fill(photos, 3)
    script = 'for d in /dev/shm /var/tmp; do mount -t tmpfs -o ro,size=64k none $d || exit 77; done; cd /; exec "$@"'
    before = ("unshare", "-Urm", "sh", "-c", script, "sh")
    try:
        probe = subprocess.run([*before, "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if probe.returncode:
        pytest.skip("no mount namespaces here")
    both(photos, {"TMPDIR": "/nonexistent"}, within=before)


@pytest.mark.slow
@LINUX
def test_one_core(photos: Path) -> None:
    fill(photos, 3)
    if shutil.which("taskset") is None:
        pytest.skip("no taskset here")
    both(photos, {}, within=("taskset", "-c", str(min(os.sched_getaffinity(0)))), model="builtin")


WITHOUT_A_FOLDER: list[tuple[list[str], int]] = [
    (["query", "waves", "--all", "--index", "photos"], 0), (["status", "--index", "photos"], 0),
    (["illustrate", "text.md", "--index", "photos"], 0), (["similar", "p00001.jpg", "--index", "photos"], 0),
    (["dedupe", "--index", "photos"], 0), (["verify", "--index", "photos"], 0),
    (["index", "photos", "-q"], 0), (["query", "waves", "--all", "--index", "nowhere"], 1),
    (["index", "nowhere", "--model", "builtin"], 1),
]  # fmt: skip


@pytest.mark.few(6)
@LINUX
@pytest.mark.parametrize(("words", "status"), thinned(WITHOUT_A_FOLDER, 6))
def test_a_working_folder_that_was_deleted(words: list[str], status: int, indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("Waves.\n\nSand.\n")
    there = {"photos": indexed, "text.md": tmp_path / "text.md", "p00001.jpg": next(indexed.rglob("p00001.jpg"))}
    line = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"'
    told = ["sh", "-c", line, str(tmp_path / "gone"), *command(*(there.get(word, word) for word in words))]
    done = subprocess.run(told, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done.stderr


# --- who reads what is printed ------------------------------------------------------------------------


SPEAKERS = [
    ["query", "waves", "--all"], ["query", "waves", "--all", "--json"], ["query", "waves", "--all", "-0"],
    ["query", "waves", "--all", "--csv"], ["query", "waves", "--all", "--paths"], ["status"], ["status", "--json"],
    ["query", "--help"], ["--version"], ["models", "list"],
]  # fmt: skip


ALL = [
    *SPEAKERS, ["index", "."], ["index", ".", "--json"], ["verify"], ["verify", "--json"], ["compact"], ["tune"],
    ["dedupe"], ["similar", "p00001.jpg"], ["classify", ".", "--labels", "waves,sand"], ["models", "info", "builtin"],
    ["concept", "list"], ["export", "all.parquet"], ["illustrate", "text.md"],
    ["train", "--help"], ["serve", "--help"],
]  # fmt: skip


def in_photos(words: list[str], indexed: Path) -> list[str]:
    (indexed / "text.md").write_text("Waves.\n\nSand.\n")
    more = ["--model", any_model()] if words[0] in ("index", "classify") and words[-1] != "--help" else []
    return command(*(str(next(indexed.rglob(word))) if word == "p00001.jpg" else word for word in words), *more)


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("unbuffered", "words"),
    [(way, words) for number, words in enumerate(ALL) for way in ("", "1") if ALL_CASES or number % 2 == len(way)],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_reader_who_has_seen_enough(unbuffered: str, words: list[str], indexed: Path) -> None:
    """The command does its work and ends as it would have: nothing is said, also not of stderr's reader."""
    told = in_photos(words, indexed)
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    (indexed / "all.parquet").unlink(missing_ok=True)
    own = {"stderr": subprocess.PIPE} if unbuffered else {"stderr": subprocess.STDOUT}
    done = subprocess.run(told, cwd=indexed, stdout=write, text=True, env=environment, **own)  # type: ignore[call-overload]
    os.close(write)
    assert done.returncode == 0
    assert "Traceback" not in (done.stderr or "")
    assert "Broken" not in (done.stderr or "")


READERS = ["head -1", "head -0", "head -c 3", "true"]
READ = [ALL[0], ALL[5], ["models", "list"], ["verify"], ["classify", "."]]


@pytest.mark.few(each="reader")
@pytest.mark.parametrize(
    ("reader", "words"),
    [(a, b) for n, a in enumerate(READERS) for m, b in enumerate(READ) if ALL_CASES or (n + m) % 2 == 0],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_head_under_pipefail(reader: str, words: list[str], indexed: Path) -> None:
    told = in_photos(words, indexed)
    line = f'set -o pipefail; "$@" | {reader}'
    done = subprocess.run(["bash", "-c", line, "bash", *told], cwd=indexed, capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("both", thinned(["", "2>&1"], 2))
def test_a_run_is_complete_though_nobody_reads_what_it_says(both: str, photos: Path) -> None:
    fill(photos, 12)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    line = f'set -o pipefail; "$@" {both} | head -0'
    told = command("index", photos, "--model", any_model())
    done = subprocess.run(["bash", "-c", line, "bash", *told], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(run("status", "--json", "--index", photos).stdout)["pictures"] == 12


def test_a_status_that_is_not_0_stays_when_nobody_reads(indexed: Path, tmp_path: Path) -> None:
    for words, status in ((["query", "folder:/nowhere"], 3), (["status", "--index", tmp_path], 1), (["nonsense"], 2)):
        line = 'set -o pipefail; "$@" 2>&1 | true'
        told = ["bash", "-c", line, "bash", *command(*words)]
        assert subprocess.run(told, cwd=indexed).returncode == status


@pytest.mark.few(3)
@LINUX
@pytest.mark.parametrize(
    ("words", "unbuffered"), thinned([(words, number % 2 == 0) for number, words in enumerate(SPEAKERS[:7])], 4)
)
def test_a_full_disk_under_the_answer_is_said(words: list[str], unbuffered: bool, indexed: Path) -> None:
    with open("/dev/full", "w") as full:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        environment |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
        told = command(*words, "--index", indexed)
        done = subprocess.run(told, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("clipsearch: cannot write the output")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("words", "closed"),
    thinned(
        [
            (SPEAKERS[0], "<&- >&- 2>&-"),
            (SPEAKERS[1], ">&-"),
            (SPEAKERS[2], ">&-"),
            (SPEAKERS[3], "<&- >&-"),
            (SPEAKERS[5], "2>&-"),
            (["index"], "<&-"),
            (["index"], "<&- >&- 2>&-"),
        ],
        4,
    ),
)
def test_closed_streams(words: list[str], closed: str, indexed: Path) -> None:
    """No traceback, no file of the index opened as standard output by accident."""
    own = [str(indexed), "-q"] if words == ["index"] else ["--index", str(indexed)]
    line = f'exec "$@" {closed}'
    done = subprocess.run(["sh", "-c", line, "sh", *command(*words, *own)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert run("verify", "--index", indexed)


def on_a_terminal(*lines: Words, columns: int, kind: str) -> list[str]:
    """What commands print on a terminal of so many columns."""
    arguments = python(lines)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = kind
        os.environ.pop("COLUMNS", None)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        os.execv(arguments[0], arguments)
    said = b"".join(_said(terminal, pid)).decode("utf-8", "replace").split("\0")
    assert said[1::2] == ["0"] * len(lines), said
    return said[:-1:2]


def _said(terminal: int, pid: int) -> Iterator[bytes]:
    while True:
        try:
            said = os.read(terminal, 65536)
        except OSError:  # Linux: the other end was closed
            break
        if not said:
            break
        yield said
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (20, "xterm"),
        pytest.param(20, "dumb", marks=SLOW),
        pytest.param(1, "xterm", marks=SLOW),
        pytest.param(0, "xterm", marks=SLOW),
        pytest.param(40, "", marks=SLOW),
    ],
)
def test_small_and_simple_terminals(columns: int, kind: str, photos: Path) -> None:
    fill(photos, 12)
    said, help_text, found = on_a_terminal(
        ("index", photos, "--model", any_model()),
        ("query", "--help"),
        ("query", "waves", "--all", "--json", "--index", photos),
        columns=columns,
        kind=kind,
    )
    assert "12 indexed" in said.replace("\r\n", " ")
    assert "Traceback" not in said
    if kind in ("dumb", ""):
        assert "\x1b" not in said
    assert "--unique" in help_text
    assert len(json.loads(found)) == 12
