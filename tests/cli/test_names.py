"""Names are bytes: every command, in every locale, below folders of any name, into pipes and onto terminals."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.in_turn import all_well, python
from tests.support.pictures import picture
from tests.support.tiny_models import any_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8"),
]

NAMES = [
    b"plain.jpg",
    "Café.jpg".encode(),
    "Cafe\u0301 2.jpg".encode(),  # decomposed, as macOS has it
    b"latin-\xe9.jpg",
    b"\xff\xfe.jpg",
    "می\u200cخواهم.jpg".encode(),
    "क\u094d\u200dष.jpg".encode(),
    "👨\u200d👩\u200d👧.jpg".encode(),
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f.jpg".encode(),
    "soft\u00adhyphen\ufe0f.jpg".encode(),
    b"\x1b[31mred\x1b]0;title\x07.jpg",
    "\u202egpj.exe.jpg".encode(),
    "\u2066isolate\u2069.jpg".encode(),
    "\x9b31m.jpg".encode(),
    b"quote'\"$HOME.jpg",
    b"back\\slash.jpg",
    b"new\nline.jpg",
    b'a,b;\t"c"\r\nd\re.jpg',
]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def clipsearch(
    *arguments: str | bytes | Path, folder: Path, env: Mapping[str, str | Path] = {}, status: int = 0
) -> bytes:
    """What a command writes to stdout, byte by byte. With `env`, a new Python decides what its locale is."""
    if not env:
        return os.fsencode(commands.clipsearch(*arguments, folder=folder, status=status).stdout)
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", *arguments],
        cwd=folder,
        capture_output=True,
        timeout=120,
        env={**os.environ, **env},
    )
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
    assert b"Traceback" not in done.stderr
    return done.stdout


def started(*lines: list[str], folder: Path, env: Mapping[str, str | Path]) -> list[bytes]:
    """What commands write to stdout, in turn, in one Python that is started with `env`."""
    if not env:
        return [clipsearch(*line, folder=folder) for line in lines]
    return all_well(*lines, folder=folder, env={**os.environ, **{name: str(value) for name, value in env.items()}})


def on_terminal(*lines: list[str], folder: Path, env: Mapping[str, str] = {}) -> list[bytes]:
    """What commands write to a terminal that is their stdout and stderr, in one Python that is started with `env`."""
    master, slave = pty.openpty()
    with subprocess.Popen(python(lines), cwd=folder, stdout=slave, stderr=slave, env={**os.environ, **env}) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            if not part:
                break
            seen += part
    os.close(master)
    assert process.returncode == 0, seen
    seen = seen.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n")  # CSV ends its lines so itself
    said = seen.split(b"\0")
    assert said[1::2] == [b"0"] * len(lines), seen
    return said[:-1:2]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with a picture of each name, indexed."""
    folder = tmp_path_factory.mktemp("names") / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        picture(number).save(folder / "x.jpg")
        os.rename(os.fsencode(folder / "x.jpg"), os.fsencode(folder) + b"/" + name)  # noqa: PTH104
    (folder / "\x1b[2Jbad.jpg").write_bytes(b"\xff\xd8\xff")
    clipsearch("index", "photos", "--model", any_model(), "-q", folder=folder.parent)
    return folder


def paths_of(folder: Path) -> set[bytes]:
    return {os.fsencode(folder) + b"/" + name for name in NAMES}


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "env",
    [
        ASCII,
        {"LC_ALL": "C.UTF-8"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "POSIX"},
        {"PYTHONUTF8": "1"},
        {},
    ],
    ids=str,
)
def test_pipes_get_the_very_names(named: Path, env: dict[str, str]) -> None:
    everything = ["query", "ext:jpg", "-k", "99"]
    ended, lines, table, hits, _ = started(
        [*everything, "-0"], [*everything, "--paths"], [*everything, "--csv"], [*everything, "--json"], everything,
        folder=named, env=env,
    )  # fmt: skip
    assert set(ended.split(b"\0")[:-1]) == paths_of(named)
    assert set(lines.split(b"\n")[:-1]) == {path.replace(b"\n", b"\\x0a") for path in paths_of(named)}  # one a line
    rows = list(csv.DictReader(io.StringIO(table.decode("utf-8", "surrogateescape"), newline="")))
    assert {os.fsencode(row["path"]) for row in rows} == paths_of(named)  # line breaks in quotes
    assert {
        bytes.fromhex(hit["path_bytes"]) if "path_bytes" in hit else hit["path"].encode() for hit in json.loads(hits)
    } == paths_of(named)
    clipsearch("status", "--skipped", folder=named, env=env)


@pytest.mark.parametrize(
    "arguments", [["query", "ext:jpg"], ["similar", "plain.jpg"], ["status"], ["status", "--skipped"], ["dedupe"]]
)
def test_json_is_read_by_strict_parsers(named: Path, arguments: list[str]) -> None:
    written = clipsearch(*arguments, "--json", folder=named)
    json.dumps(json.loads(written), ensure_ascii=False).encode("utf-8")  # no lone surrogate


@pytest.mark.few(2)
@pytest.mark.parametrize("env", [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, ASCII], ids=str)
def test_terminals_get_nothing_that_they_could_obey(named: Path, env: dict[str, str]) -> None:
    lines = [
        ["query", "ext:jpg", "-k", "99"],
        ["query", "ext:jpg", "-k", "99", "--paths"],
        ["query", "ext:jpg", "-k", "99", "--csv"],
        ["query", "ext:jpg", "-k", "99", "--json"],
        ["status", "--skipped"],
        ["index", ".", "--retry-skipped"],
    ]
    for arguments, said in zip(lines, on_terminal(*lines, folder=named, env=env), strict=True):
        seen = said.decode("utf-8", "replace")
        seen = re.sub("\x1b\\[[0-9;?]*[A-Za-z]|\r", "", seen) if arguments[0] == "index" else seen  # its progress
        assert not OBEYED.search(seen.replace("\t", "")), (arguments, seen)
        if arguments[0] == "query" and "--json" not in arguments and not env:
            assert "👨\u200d👩\u200d👧.jpg" in seen and "می\u200cخواهم.jpg" in seen and "latin-\\xe9.jpg" in seen


COMMANDS = [
    ["index", "."],
    ["query", "a picture", "--all"],
    ["query", "ext:jpg", "--csv"],
    ["similar", "0"],
    ["dedupe", "--script", "remove.sh"],
    ["status"],
    ["status", "--json"],
    ["verify"],
    ["compact"],
    ["tune"],
    ["concept", "add", "é", "0", "1"],
    ["concept", "list"],
    ["concept", "remove", "é"],
    ["verify", "--repair"],
]


BELOW = [b"caf\xe9", b"\xff\x80", "mé\u200dme".encode(), b"\x1b[31mred", b"a b'\"$x"]


@pytest.mark.few(each="env names")
@pytest.mark.parametrize("env", [{}, ASCII], ids=["utf8", "ascii"])
@pytest.mark.parametrize("names", [BELOW[:2], BELOW[2:]], ids=["no-text", "text"])
def test_every_command_below_folders_of_any_name(
    tmp_path: Path, names: list[bytes], env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try_every_command(tmp_path, b"/".join(names), env, monkeypatch)


@pytest.mark.few(like="test_every_command_below_folders_of_any_name")
@pytest.mark.parametrize("env", [{}, ASCII], ids=["utf8", "ascii"])
@pytest.mark.parametrize("name", BELOW, ids=range(len(BELOW)))
def test_every_command_below_a_folder_of_one_name(
    tmp_path: Path, name: bytes, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try_every_command(tmp_path, name, env, monkeypatch)


def try_every_command(tmp_path: Path, name: bytes, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / os.fsdecode(name)
    photos = top / os.fsdecode(b"deeper " + name)
    photos.mkdir(parents=True)
    for number in range(3):
        picture(number).save(photos / f"p{number}.jpg")
    monkeypatch.setenv("CLIPSEARCH_STATE_DIR", str(top / "state"))
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(top / "cache"))
    clipsearch("index", os.fsencode(photos), "--model", any_model(), folder=tmp_path, env=env)
    picture(3).save(photos / "p3.jpg")
    if env:
        started(*COMMANDS, folder=photos, env=env)
    else:
        for command in COMMANDS:
            clipsearch(*command, folder=photos)
    found = clipsearch("query", "ext:jpg", "-0", folder=tmp_path, env=env)  # by the registry
    assert set(found.split(b"\0")[:-1]) == {os.fsencode(photos / f"p{number}.jpg") for number in range(4)}
    moved = tmp_path / "moved"
    photos.rename(moved)
    _, found = started(["verify"], ["query", "ext:jpg", "-0"], folder=moved, env=env)
    assert os.fsencode(moved / "p3.jpg") in found.split(b"\0")


@pytest.mark.few(2)
@pytest.mark.skipif(shutil.which("localedef") is None, reason="no localedef to make a locale with")
@pytest.mark.parametrize(
    ("locale", "charmap"),
    [("de_DE", "ISO-8859-1"), ("ja_JP", "EUC-JP"), ("ru_RU", "KOI8-R")],
)
def test_locales_of_other_encodings_read_the_same_names(tmp_path: Path, locale: str, charmap: str) -> None:
    made = subprocess.run(
        ["localedef", "-i", locale, "-f", charmap, tmp_path / f"{locale}.{charmap}"], capture_output=True
    )
    if not (tmp_path / f"{locale}.{charmap}").is_dir():
        pytest.skip(f"no such locale can be made: {made.stderr!r}")
    env = {"LC_ALL": f"{locale}.{charmap}", "LOCPATH": str(tmp_path)}
    photos = tmp_path / "p"
    photos.mkdir()
    picture(1).save(photos / "Café.jpg")
    picture(2).save(photos / os.fsdecode(b"caf\xe9.jpg"))
    clipsearch("index", "p", "--model", any_model(), folder=tmp_path, env=env)
    lines = [["verify"], ["query", "ext:jpg", "-0"]]
    here = [clipsearch(*line, folder=photos) for line in lines]
    for _, said in (here, started(*lines, folder=photos, env=env)):
        found = set(said.split(b"\0")[:-1])
        assert found == {os.fsencode(photos) + b"/Caf\xc3\xa9.jpg", os.fsencode(photos) + b"/caf\xe9.jpg"}
    assert b"2 unchanged" in clipsearch("index", "p", folder=tmp_path)
    if charmap == "ISO-8859-1":  # words are what the terminal's encoding makes them
        assert clipsearch("query", "name:caf\xe9".encode("latin-1"), "-0", folder=photos, env=env).count(b"\0") >= 1


def test_a_command_that_is_shown_can_be_pasted(tmp_path: Path) -> None:
    photos = tmp_path / os.fsdecode(b"caf\xe9 'x' \x1b[1m")
    photos.mkdir()
    picture(1).save(photos / "a.jpg")
    told = clipsearch("index", os.fsencode(photos), "--model", any_model(), folder=tmp_path).decode("ascii")
    command = told.strip().splitlines()[-1].partition(": ")[2]
    program = f'clipsearch() {{ "{sys.executable}" -m clipsearch "$@"; }}; '
    done = subprocess.run(
        ["bash", "-c", program + command + " --all -0"], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert done.stdout == os.fsencode(photos / "a.jpg") + b"\0", done.stderr
