"""The command line, with the embedded model and real files."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from clipsearch.cli.app import app
from clipsearch.search.collection import Collection
from clipsearch.store import open_snapshot
from tests.support.commands import clipsearch
from tests.support.fake_encoder import COLOURS
from tests.support.pictures import fill, picture, plain

COMMANDS = ("index", "query", "status", "verify", "compact", "tune")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three plain pictures and two bad files, indexed with the embedded model."""
    folder = tmp_path_factory.mktemp("cli") / "photos"
    folder.mkdir()
    for name, colour in {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (30, 60, 220)}.items():
        plain(colour).save(folder / f"{name}.png")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "notes.txt").write_text("hello")
    clipsearch("index", "photos", "--model", "builtin", "-q", folder=folder.parent)
    return folder


@pytest.mark.slow
def test_the_summary_of_a_run(photos: Path) -> None:
    fill(photos, 2)
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    out = clipsearch("index", "photos", "--model", "builtin", folder=photos.parent).stdout
    assert re.sub(r"[\d.]+ s \([\d.]+ pictures/s\)", "TIME", out).splitlines() == [
        "2 indexed, 1 skipped in TIME",
        "  skipped 1 that are cut short",
        "    cut.jpg: the JPEG ends before the picture does",
        '2 pictures in the index. Search with: clipsearch query "a dog on a beach" --index photos',
    ]
    again = clipsearch("index", "photos", folder=photos.parent).stdout
    assert re.sub(r"in [\d.]+ s", "in TIME", again).splitlines()[0] == "0 indexed, 3 unchanged, 1 skipped in TIME"


@pytest.mark.slow
def test_the_plan_of_a_run(photos: Path) -> None:
    fill(photos, 2)
    out = clipsearch("index", "photos", "--plan", "--model", "builtin", folder=photos.parent).stdout
    size = sum(path.stat().st_size for path in photos.rglob("*.jpg")) / 1000
    assert out.splitlines() == [
        f"a new index in {photos}/.clipsearch, model builtin",
        f"2 files: 2 pictures to read ({size:.3g} kB)",
        "Nothing was changed.",
    ]
    assert not (photos / ".clipsearch").exists()
    clipsearch("index", "photos", "-q", folder=photos.parent)
    told = json.loads(clipsearch("index", "photos", "--plan", "--json", folder=photos.parent).stdout)
    assert (told["to_read"], told["unchanged"], told["new_index"]) == (0, 2, False)


def test_hits_for_people(indexed: Path) -> None:
    out = clipsearch("query", "--all", "a picture", "-k", "2", folder=indexed).stdout
    lines = out.splitlines()
    assert len(lines) == 2
    assert all(
        re.fullmatch(r"  [12]  -?\d\.\d{3}  (strong  |maybe   |unlikely)  (red|green|blue)\.png", line)
        for line in lines
    )


@pytest.mark.slow
def test_where_nothing_is_certain_the_nearest_are_shown_below_a_line_that_says_so(indexed: Path) -> None:
    sought = ("query", "a picture of the stock exchange in 1929")
    done = clipsearch(*sought, folder=indexed, status=3)
    assert done.stderr == "nothing certain; nearest:\n"
    assert len(done.stdout.splitlines()) == 3 and done.stdout.count("unlikely") == 3
    as_json = clipsearch(*sought, "--json", folder=indexed, status=3)
    assert [hit["band"] for hit in json.loads(as_json.stdout)] == ["unlikely"] * 3
    assert as_json.stdout == clipsearch(*sought, "--all", "--json", folder=indexed).stdout
    for names in ("--paths", "-0"):  # what other programs take for found
        done = clipsearch(*sought, names, folder=indexed, status=3)
        assert done.stdout == "" and "nothing certain" in done.stderr and "--all" in done.stderr
    done = clipsearch("query", "red folder:nowhere", folder=indexed, status=3)
    assert done.stdout == "" and "no picture matches folder:nowhere" in done.stderr


@pytest.mark.slow
def test_what_is_not_certain_is_not_copied(indexed: Path, tmp_path: Path) -> None:
    sought = ("query", "a picture of the stock exchange in 1929", "--copy", tmp_path / "out")
    done = clipsearch(*sought, folder=indexed, status=3)
    assert done.stdout.count("unlikely") == 3 and "nothing copied" in done.stderr
    assert not (tmp_path / "out").exists()
    clipsearch(*sought, "--all", folder=indexed)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_hits_as_json(indexed: Path) -> None:
    hits = json.loads(clipsearch("query", "--all", "blue", "--json", folder=indexed).stdout)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert {hit["path"] for hit in hits} == {str(indexed / f"{c}.png") for c in ("red", "green", "blue")}
    assert {hit["row_id"] for hit in hits} <= set(range(5))
    assert (hits[0]["width"], hits[0]["height"], hits[0]["format"]) == (40, 40, "PNG")


@pytest.mark.slow
def test_hits_as_csv_paths_and_nul(indexed: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(clipsearch("query", "--all", "blue", "--csv", folder=indexed).stdout)))
    paths = clipsearch("query", "--all", "blue", "--paths", folder=indexed).stdout.splitlines()
    zero = clipsearch("query", "--all", "blue", "-0", folder=indexed).stdout.split("\0")
    assert [row["path"] for row in rows] == paths == zero[:-1]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]


def paths_of(*arguments: str, folder: Path, status: int = 0) -> list[str]:
    out = clipsearch("query", "--all", *arguments, "--json", folder=folder, status=status).stdout
    return [Path(hit["path"]).name for hit in json.loads(out)]


@pytest.mark.slow
def test_the_query_language(indexed: Path) -> None:
    vector = paths_of("blue - red", folder=indexed)
    assert paths_of("blue", "-", "red", folder=indexed) == vector
    assert paths_of("blue", "-red", "-k", "3", folder=indexed) == vector
    assert set(paths_of("blue name:red or name:green", folder=indexed)) == {"red.png", "green.png"}
    assert paths_of("name:*.PNG", "--sort", "path", folder=indexed) == ["blue.png", "green.png", "red.png"]
    assert paths_of("x", "name:no such name", folder=indexed, status=3) == []
    listed = clipsearch("query", "--all", "ext:png -name:red", "--sort", "path", folder=indexed).stdout
    assert listed == "  1      -  blue.png\n  2      -  green.png\n"
    none = clipsearch("query", "--all", "x size:>1GB", "--json", folder=indexed, status=3)
    assert (json.loads(none.stdout), none.stderr) == ([], f"nothing found: {indexed}: no picture matches size:>1GB\n")
    assert json.loads(clipsearch("query", "--all", "ext:png", "--json", folder=indexed).stdout)[0]["score"] is None


def test_mistakes_in_a_query_are_pointed_at(indexed: Path) -> None:
    assert clipsearch("query", "--all", "a dog near:48.85", folder=indexed, status=2).stderr.splitlines() == [
        "clipsearch: near: needs a latitude, a longitude and a distance",
        "  a dog near:48.85",
        "             ^",
        'Write near:48.85,2.35,10km or near:lisbon. To search for the words, put them in double quotes: "near:48.85"',
    ]
    assert "nothing follows this +" in clipsearch("query", "--all", "dog", "+", folder=indexed, status=2).stderr
    assert "no tag or concept is called dog" in clipsearch("query", "tag:dog", folder=indexed, status=3).stderr


@pytest.mark.slow
def test_saved_searches(indexed: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(indexed, here)
    said = clipsearch("saved", "add", "my reds", "name:red*", "--sort", "path", folder=here).stdout
    assert "clipsearch query --saved 'my reds'" in said
    assert "red.png" in clipsearch("query", "--saved", "MY reds", "--paths", folder=here).stdout
    assert clipsearch("query", "--saved", "my reds", "name:blue*", "--paths", folder=here, status=3).stdout == ""
    taken = clipsearch("saved", "add", "My Reds", "blue", folder=here, status=2).stderr
    assert "there is a saved search 'my reds' already" in taken and "clipsearch saved add --replace" in taken
    clipsearch("saved", "add", "all of it", "name:red*", "--all", folder=here)
    narrowed = clipsearch("query", "--saved", "all of it", "--min-confidence", "0", "--paths", folder=here).stdout
    assert "red.png" in narrowed
    clipsearch("saved", "remove", "all of it", folder=here)
    clipsearch("saved", "rename", "my reds", "reds", folder=here)
    assert clipsearch("saved", "list", folder=here).stdout == "reds: name:red*\n"
    assert json.loads(clipsearch("saved", "list", "--json", folder=here).stdout)[0]["sort"] == "path"
    assert "no saved search 'my reds'" in clipsearch("query", "--saved", "my reds", folder=here, status=2).stderr
    assert "width" in clipsearch("saved", "add", "wrong", "width:x", folder=here, status=2).stderr
    assert clipsearch("saved", "remove", "REDS", folder=here).stdout == "Removed. It was: name:red*\n"
    assert clipsearch("saved", "list", folder=here).stdout == ""


@pytest.mark.slow
def test_similar_concepts_and_duplicates(indexed: Path, tmp_path: Path) -> None:
    here = tmp_path / "photos"
    shutil.copytree(indexed, here)
    hits = json.loads(clipsearch("similar", "red.png", "--json", folder=here).stdout)
    assert {Path(hit["path"]).name for hit in hits} == {"green.png", "blue.png"}
    by_id = clipsearch("similar", str(hits[0]["row_id"]), "-k", "1", folder=here).stdout
    assert re.fullmatch(r"  1  \d\.\d{3}  (strong|maybe|unlikely) +\S+\.png\n", by_id)
    assert "matches" in clipsearch("concept", "add", "my reds", "red.png", "--not", "blue.png", folder=here).stdout
    assert clipsearch("concept", "list", folder=here).stdout == "concept  my reds  (2 examples)\n"
    assert paths_of('tag:"my reds"', folder=here)[0] == "red.png"
    assert "red.png" in paths_of("x", "tag:my reds", folder=here)
    taken = clipsearch("concept", "add", "MY REDS", "blue.png", folder=here, status=2).stderr
    assert "already has the concept 'my reds' (2 examples). Nothing was changed" in taken
    assert paths_of('tag:"my reds"', folder=here)[0] == "red.png"
    clipsearch("concept", "add", "my reds", "blue.png", "--replace", folder=here)
    assert paths_of('tag:"my reds"', folder=here)[0] == "blue.png"
    clipsearch("concept", "remove", "my reds", folder=here)
    assert "no tag" in clipsearch("query", "tag:reds", folder=here, status=3).stderr
    assert "cannot be a name" in clipsearch("concept", "add", " ", "red.png", folder=here, status=2).stderr
    (here / "copies of red").mkdir()
    picture(3, size=(400, 300)).save(here / "large.png")
    picture(3, size=(400, 300)).resize((200, 150)).save(here / "small.png")
    for copy in ("one.png", "two.png", "three.png"):
        shutil.copy(here / "red.png", here / "copies of red" / copy)
    clipsearch("index", ".", "-q", folder=here)
    others = json.loads(clipsearch("similar", "red.png", "-k", "2", "--json", folder=here).stdout)
    assert len(others) == 2
    assert not any("red" in hit["path"] for hit in others)
    shutil.rmtree(here / "copies of red")
    clipsearch("index", ".", "-q", folder=here)
    found = clipsearch("dedupe", "--script", "remove.sh", folder=here)
    assert re.search(r"^keep  \S+/large\.png  400x300, .*\n   =  \S+/small\.png  200x150, ", found.stdout)
    assert "1 group, 1 spare picture" in found.stderr
    assert (here / "small.png").exists()
    size = (here / "small.png").stat().st_size
    last = (here / "remove.sh").read_text().splitlines()[-1]
    assert re.fullmatch(rf"remove similar {re.escape(str(here / 'small.png'))} '\d+ {size}'", last)
    assert "already exists" in clipsearch("dedupe", "--script", "remove.sh", folder=here, status=1).stderr
    (group,) = json.loads(clipsearch("dedupe", "--json", folder=here).stdout)
    assert [Path(other["path"]).name for other in group["others"]] == ["small.png"]


@pytest.mark.slow
def test_a_text_is_illustrated(indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "story.md").write_text("# Story\n\nA red thing.\n\nA blue <b>thing</b>.\n")
    done = clipsearch("illustrate", tmp_path / "story.md", "--all", folder=indexed)
    assert re.findall(r"^!\[(\w+)\.png \(.+\)\]\(\./\1\.png\)$", done.stdout, re.M)
    assert done.stderr == "2 pictures, 0 gaps\n"
    page = tmp_path / "story.html"
    clipsearch("illustrate", tmp_path / "story.md", "--all", "-o", page, folder=indexed)
    assert "A blue &lt;b&gt;thing&lt;/b&gt;." in page.read_text()
    told = json.loads(clipsearch("illustrate", tmp_path / "story.md", "--json", "--all", folder=indexed).stdout)
    assert len({block["hit"]["row_id"] for block in told}) == 2
    assert "no such file" in clipsearch("illustrate", "none.md", folder=indexed, status=1).stderr.lower()


@pytest.mark.slow
def test_near_duplicates_are_folded_and_listed(photos: Path) -> None:
    picture(1, size=(640, 480)).save(photos / "large.png")
    picture(1, size=(640, 480)).resize((320, 240)).save(photos / "small.png")
    picture(3, size=(640, 480)).save(photos / "other.png")
    clipsearch("index", "photos", "--model", "builtin", "-q", folder=photos.parent)
    hits = json.loads(clipsearch("query", "--all", "x", "--unique", "--json", folder=photos).stdout)
    assert {Path(hit["path"]).name for hit in hits} == {"large.png", "other.png"}
    (folded,) = (hit["others"] for hit in hits if hit["others"])
    assert [Path(other["path"]).name for other in folded] == ["small.png"]
    assert (
        "                      = small.png"
        in clipsearch("query", "--all", "x", "--unique", folder=photos).stdout.splitlines()
    )


def test_similar_pictures(indexed: Path) -> None:
    (hit,) = json.loads(clipsearch("query", "--all", "red.png", "-k", "1", "--json", folder=indexed).stdout)
    assert hit["path"] == str(indexed / "red.png")
    assert hit["score"] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_index_is_found_from_below_by_name_by_variable_and_by_memory(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = indexed / "sub"
    below.mkdir(exist_ok=True)
    clipsearch("query", "--all", "x", folder=below)
    clipsearch("query", "--all", "x", "--index", indexed, folder=tmp_path)
    clipsearch("query", "--all", "x", "--index", indexed / ".clipsearch", folder=tmp_path)
    clipsearch("query", "--all", "x", folder=tmp_path)  # the one used last
    monkeypatch.setenv("CLIPSEARCH_STATE_DIR", str(tmp_path / "fresh"))
    err = clipsearch("query", "--all", "x", folder=tmp_path, status=1).stderr
    assert "no index found" in err
    assert "clipsearch index FOLDER" in err
    monkeypatch.setenv("CLIPSEARCH_INDEX", str(indexed))
    clipsearch("query", "--all", "x", folder=tmp_path)
    monkeypatch.setenv("CLIPSEARCH_INDEX", str(tmp_path))
    assert str(tmp_path) in clipsearch("query", "--all", "x", folder=tmp_path, status=1).stderr


def test_status_and_its_list_of_skipped_files(indexed: Path) -> None:
    out = clipsearch("status", folder=indexed).stdout
    assert re.search(r"^pictures +3$", out, re.M)
    assert re.search(r"^skipped +1$", out, re.M)
    assert re.search(r"^model +builtin, 512 dimensions$", out, re.M)
    listed = clipsearch("status", "--skipped", folder=indexed).stdout.splitlines()
    assert [line.split("\t")[1] for line in listed] == ["cut.jpg"]
    body = json.loads(clipsearch("status", "--json", "--skipped", folder=indexed).stdout)
    assert body["pictures"] == 3
    assert {skip["path"] for skip in body["skipped"]} == {"cut.jpg"}


@pytest.mark.slow
def test_verify_compact_and_repair(indexed: Path, tmp_path: Path) -> None:
    shutil.copytree(indexed, tmp_path / "photos")
    here = tmp_path / "photos"
    assert "is intact: 3 pictures" in clipsearch("verify", folder=here).stdout
    (here / "red.png").unlink()
    clipsearch("index", ".", folder=here)
    assert "deleted row" in clipsearch("compact", "--recall", "0.97", folder=here).stdout
    assert json.loads(clipsearch("tune", "--json", folder=here).stdout)["recall_target"] == 0.97
    clipsearch("index", here, "--recall", "0.95", "-q", folder=here)
    assert json.loads(clipsearch("tune", "--json", folder=here).stdout)["recall_target"] == 0.95
    assert "0.4 is not in the range" in clipsearch("compact", "--recall", "0.4", folder=here, status=2).stderr
    with open_snapshot(here / ".clipsearch") as snapshot:
        victim = snapshot.index_dir / snapshot.manifest.segments[0].mapped.path
    raw = victim.read_bytes()
    victim.write_bytes(raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:])
    broken = clipsearch("query", "--all", "x", folder=here, status=1)
    assert victim.name in broken.stderr
    assert "clipsearch verify --repair" in broken.stderr
    assert "verify --repair" in clipsearch("verify", folder=here, status=1).stderr
    repaired = clipsearch("verify", "--repair", folder=here).stdout
    assert "repaired: " in repaired
    assert "1 damaged file kept in" in repaired
    assert len(clipsearch("query", "--all", "x", folder=here).stdout.splitlines()) == 2


def test_nothing_found_exits_with_3(photos: Path) -> None:
    (only,) = fill(photos, 1)
    clipsearch("index", "photos", "--model", "builtin", folder=photos.parent)
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    only.unlink()
    clipsearch("index", "photos", folder=photos.parent)
    done = clipsearch("query", "--all", "x", "--json", "--index", "photos", folder=photos.parent, status=3)
    assert json.loads(done.stdout) == []
    assert "nothing found" in done.stderr


@pytest.mark.parametrize("words", ["similar 99999", "query --like 99999", "query like:99999", "concept add x 99999"])
def test_an_unknown_row_id_is_wrong_usage_of_every_command(indexed: Path, words: str) -> None:
    done = clipsearch(*words.split(), folder=indexed, status=2)
    assert "the index has no picture 99999" in done.stderr and done.stdout == ""


def test_an_empty_query_lists_the_newest_pictures(indexed: Path) -> None:
    listed = clipsearch("query", "", "--paths", folder=indexed).stdout
    with Collection(indexed / ".clipsearch") as photos:
        assert listed.splitlines() == [hit.path for hit in photos.search("")] and listed
    for words in ([], [" "], ["", ""]):
        assert clipsearch("query", *words, "--paths", folder=indexed).stdout == listed


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["index", "nowhere"], 1, "the folder does not exist"),
        (["index", "photos"], 1, "no pictures in"),
        (["index", "photos", "--model", "ViT-Z-99__none"], 1, "clipsearch models list"),
        (["index", "photos", "--model", "./no-model"], 1, "does not exist"),
        (["query", "x", "-k", "0"], 2, "k is 0: it must be at least 1"),
        (["query", "x", "--offset", "-1"], 2, "offset is -1"),
        (["query", "x", "--diversity", "2"], 2, "diverse is 2.0"),
        (["query", "x", "--json", "--csv"], 2, "use only one of"),
        (["query", "x", "--index", "elsewhere"], 1, "no index found"),
        (["models", "info", "nonsense"], 1, "unknown model 'nonsense'"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_mistakes_are_answered_with_advice(photos: Path, arguments: list[str], status: int, said: str) -> None:
    assert said in clipsearch(*arguments, folder=photos.parent, status=status).stderr


def test_another_model_is_refused_with_the_command_that_reindexes(indexed: Path, tmp_path: Path) -> None:
    import clipsearch.models

    here = tmp_path / "photos"
    shutil.copytree(indexed, here)
    model = tmp_path / "model"
    shutil.copytree(Path(clipsearch.models.__file__).parent / "builtin", model)
    preprocess = json.loads((model / "visual" / "preprocess_cfg.json").read_text())
    (model / "visual" / "preprocess_cfg.json").write_text(json.dumps({**preprocess, "mean": [0.4, 0.5, 0.6]}))
    for command in (["query", "x", "--index", "photos"], ["index", "photos"]):
        err = globals()["clipsearch"](*command, "--model", model, folder=tmp_path, status=1).stderr
        assert "was built with the model builtin" in err
        assert "--reindex" in err


@pytest.mark.slow
def test_strict_runs_fail_on_bad_pictures(photos: Path) -> None:
    fill(photos, 1)
    (photos / "readme.txt").write_text("not a picture, and no reason to fail")
    clipsearch("index", "photos", "--model", "builtin", "--strict", folder=photos.parent)
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    clipsearch("index", "photos", "--strict", folder=photos.parent, status=1)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(photos: Path) -> None:
    fill(photos, 300)
    process = subprocess.Popen(
        [sys.executable, "-m", "clipsearch", "index", "photos", "--model", "builtin"],
        cwd=photos.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (photos / ".clipsearch" / "CURRENT").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Stopped. Finished work is kept. Continue with: clipsearch index photos" in err
    done = int(out.split(" indexed")[0])
    assert 0 < done < 300
    report = json.loads(clipsearch("index", "photos", "--json", folder=photos.parent).stdout)
    assert (report["indexed"], report["pictures"]) == (300 - done, 300)


@pytest.mark.slow
def test_timing_is_told_on_request(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clipsearch("query", "--all", "x", folder=indexed).stderr == ""
    monkeypatch.setenv("CLIPSEARCH_TIMING", "1")
    lines = clipsearch("query", "--all", "x", folder=indexed).stderr.splitlines()
    assert [line.split("ms  ")[1] for line in lines] == [
        "start and imports",
        "open and verify the index",
        "load the model and encode the query",
        "refine and select",
        "find the nearest",
        "judge and cut",
        "sort, fold and vary",
        "look up the rows",
        "judge what is shown",
        "remember the index and print",
        "in all",
    ]
    steps = [float(line.split()[0]) for line in lines]
    assert sum(steps[:-1]) == pytest.approx(steps[-1], abs=1)


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(indexed: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m clipsearch query x --json | head -c 1", shell=True, cwd=indexed, capture_output=True
    )
    assert done.stdout == b"["
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def every_command() -> list[str]:
    """As they are typed, those of groups too."""
    group: Any = typer.main.get_command(app)
    found = []
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        found += [f"{name} {sub}" for sub in getattr(command, "commands", ())] or [name]
    return ["train probe" if name == "train pairs" else name for name in found] + ["train"]


@pytest.mark.parametrize("command", every_command())
def test_every_command_has_help_with_examples(command: str, tmp_path: Path) -> None:
    out = clipsearch(*command.split(), "--help", folder=tmp_path).stdout
    assert "Example" in out
    assert f"clipsearch {command}" in out


def every_parameter() -> dict[str, Any]:
    """COMMAND PARAMETER -> the parameter."""
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    waiting = [(name, group.get_command(None, name)) for name in group.list_commands(None)]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {sub}", each) for sub, each in getattr(command, "commands", {}).items()]
        found |= {f"{name} {parameter.name}": parameter for parameter in command.params}
    return found


@pytest.mark.slow
def test_no_option_takes_what_is_no_number(tmp_path: Path) -> None:
    given = 0
    for name, parameter in every_parameter().items():
        if parameter.type.name.startswith("float"):
            path = [part for part in name.split()[:-1] if part != "pairs"]
            done = clipsearch(*path, f"{parameter.opts[0]}=nan", folder=tmp_path, status=2)
            assert "'nan' is not a number" in done.stderr, name
            if parameter.metavar != "DAYS":
                done = clipsearch(*path, f"{parameter.opts[0]}=inf", folder=tmp_path, status=2)
                assert "'inf' is not a number" in done.stderr or "is not in the range" in done.stderr, name
            given += 1
    assert given > 12


@pytest.mark.slow
def test_a_name_without_a_letter_is_no_folder(tmp_path: Path) -> None:
    plain(COLOURS["red"]).save(tmp_path / "red.png")
    given = 0
    for name, parameter in every_parameter().items():
        if isinstance(parameter.type, click.Path):
            path = [part for part in name.split()[:-1] if part != "pairs"]
            arguments = ["--", ""] if parameter.param_type_name == "argument" else [f"{parameter.opts[0]}="]
            done = clipsearch(*path, *arguments, folder=tmp_path, status=2)
            assert "the name is empty" in done.stderr or "Missing argument" in done.stderr, name
            given += "the name is empty" in done.stderr
    assert given > 30
    assert [path.name for path in tmp_path.iterdir()] == ["red.png"]


def test_every_argument_and_option_has_a_help() -> None:
    """Also arguments: click 8.5 takes theirs from typer."""
    texts = {name: parameter.help or "" for name, parameter in every_parameter().items()}
    assert len(texts) > 200
    assert {name: text for name, text in texts.items() if not text.endswith((".", "clipsearch models list"))} == {}


def test_every_command_is_in_the_readme() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    for command in every_command():
        assert f"clipsearch {command.split()[0]}" in readme


def test_models_are_listed_and_described(tmp_path: Path) -> None:
    listed = json.loads(clipsearch("models", "list", "--json", folder=tmp_path).stdout)
    assert listed[0]["name"] == "builtin"
    assert listed[0]["available"]
    assert any(model["recommended"] for model in listed)
    told = json.loads(clipsearch("models", "info", "builtin", "--json", folder=tmp_path).stdout)
    assert told["dim"] == 512
    assert re.fullmatch("[0-9a-f]{32}", told["fingerprint"])
    assert clipsearch("--version", folder=tmp_path).stdout.startswith("clipsearch 0.")


@pytest.mark.slow
def test_a_query_imports_neither_torch_nor_gradio_nor_pandas(indexed: Path) -> None:
    code = (
        "import sys; sys.argv = ['clipsearch', 'query', 'a dog', '--all']\n"
        "import clipsearch.cli.app\n"
        "try: clipsearch.cli.app.main()\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'gradio', 'pandas', 'pyarrow', 'PIL', 'faiss'} & set(sys.modules), file=sys.stderr)"
    )
    clipsearch("query", "a dog", "--all", folder=indexed)  # this cache is not the one that `index` put drawings into
    done = subprocess.run([sys.executable, "-c", code], cwd=indexed, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr.strip() == ""
