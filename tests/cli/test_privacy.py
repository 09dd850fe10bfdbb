"""A whole session, recorded: nothing reaches another machine, and nobody else writes below the home folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from clipsearch.privacy import SWITCHES
from tests.support import breadth
from tests.support.in_turn import Words, in_turn
from tests.support.pictures import fill
from tests.support.training_pairs import write_shapes

SOURCE = Path(__file__).parents[1] / "support" / "network_watch.c"
OURS = (".cache/clipsearch", ".local/state/clipsearch", ".local/share/clipsearch")


class Session:
    """A user without settings, who has only just got this machine, or whose home is a copy of `used`."""

    def __init__(self, folder: Path, used: Path | None = None) -> None:
        self.home = folder / "home"
        if used is None:
            self.home.mkdir()
        else:
            shutil.copytree(used, self.home)
        self.seen = folder / "seen.txt"
        library = folder / "watch.so"
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("no C compiler to make the recorder with")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        ours = {switch.variable for switch in SWITCHES} | {"HF_HUB_OFFLINE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"}
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ours and not name.startswith(("CLIPSEARCH_", "HF_", "ORT_", "MPL"))
        }
        self.environment |= {
            "HOME": str(self.home),
            "LD_PRELOAD": str(library),
            "NETWORK_WATCH": str(self.seen),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "clipsearch", *map(str, arguments)]

    def run(self, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, env=self.environment)
        assert done.returncode in codes, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*arguments), stderr=subprocess.PIPE, env=self.environment)

    def run_all(self, *lines: Words, codes: tuple[int, ...] = (0,)) -> None:
        """Several commands, in one Python: all that importing them reaches is seen, too."""
        for one in in_turn(*lines, folder=self.home.parent, env=self.environment):
            assert one.status in codes, one

    def python(self, program: str) -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=True).stdout

    def check(self) -> None:
        """Raises AssertionError if something reached out, or left a file that is not ours."""
        seen = self.seen.read_text() if self.seen.exists() else ""
        assert sorted(set(seen.splitlines())) == []
        files = [str(file.relative_to(self.home)) for file in self.home.rglob("*") if not file.is_dir()]
        assert [file for file in files if not file.startswith(OURS)] == []


@pytest.fixture
def new_session(tmp_path: Path) -> Session:
    return Session(tmp_path)


@dataclass(frozen=True, slots=True)
class Used:
    """What somebody has who has indexed and searched before: the first time takes five seconds longer."""

    home: Path
    photos: Path


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    """In a new home, `index` and `query` reach nobody."""
    session, photos = Session(tmp_path_factory.mktemp("used")), tmp_path_factory.mktemp("photos")
    fill(photos, 3)
    query = ("query", "waves", "--all", "--index", photos)
    session.run_all(("index", photos, "--model", "builtin", "-q"), query)
    session.check()
    shutil.rmtree(session.home / ".local")
    return Used(session.home, photos)


@pytest.fixture
def session(used: Used, tmp_path: Path) -> Session:
    return Session(tmp_path, used.home)


@pytest.fixture
def indexed(used: Used, photos: Path) -> Path:
    """A copy of the pictures and their index."""
    shutil.copytree(used.photos, photos, dirs_exist_ok=True)
    return photos


def test_the_recorder_sees_who_is_asked_and_written_to(new_session: Session) -> None:
    session = new_session
    session.python(
        "import socket, pathlib\n"
        "try: socket.create_connection(('collector.invalid', 443), 1)\n"
        "except OSError: pass\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for send in (lambda: s.sendto(b'x', ('192.0.2.1', 53)), lambda: s.connect(('192.0.2.2', 53))):\n"
        "    try: send()\n"
        "    except OSError: pass\n"
        "pathlib.Path.home().joinpath('device-id').write_text('x')"
    )
    assert session.seen.read_text().split() == [
        "getaddrinfo", "collector.invalid", "sendto", "192.0.2.1", "connect", "192.0.2.2"
    ]  # fmt: skip
    with pytest.raises(AssertionError):
        session.check()


@pytest.mark.slow
def test_index_and_query_reach_nobody(session: Session, indexed: Path) -> None:
    """The first run and the first query did not, or there would be no `session`: nor do later ones."""
    fill(indexed, 2, first=20)
    session.run("index", indexed, "-q")  # as it is typed
    session.run_all(["similar", "1", "--index", indexed], ["status", "--index", indexed], ["models", "list"])
    session.check()


@pytest.mark.slow
def test_reading_words_reaches_nobody(session: Session, indexed: Path) -> None:
    pytest.importorskip("rapidocr")
    session.run("read", "--all", "--workers", "1", "--index", indexed)
    queries = (["query", words, "--index", indexed] for words in ("text:total", "total amount"))
    session.run_all(*queries, codes=(0, 3))
    session.check()


@pytest.mark.slow
def test_a_command_that_is_told_no_model_asks_no_hub(session: Session, tmp_path: Path) -> None:
    """But `index`, which fetches one. That the recorder would see it: `classify --model auto` asks."""
    pairs = write_shapes(tmp_path / "pairs", 2)
    for name in ("one", "two"):
        fill(tmp_path / "classes" / name, 4, first=5 * len(name) + ord(name[0]))
    session.run_all(
        ["classify", tmp_path / "classes" / "one", "--labels", "waves, dogs", "-q"],
        ["eval", pairs, "-q"],
        ["train", "probe", tmp_path / "classes", "--out", tmp_path / "probe", "-q"],
        ["classify", tmp_path / "classes" / "one", "--probe", tmp_path / "probe", "-q"],
        ["train", pairs, "--check", "-q"],
    )
    session.check()
    session.run("classify", tmp_path / "classes" / "one", "--labels", "waves, dogs", "-q", "--model", "auto")
    assert "huggingface.co" in session.seen.read_text()


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def ask(address: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address, data, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.slow
def test_servers_and_the_daemon_reach_nobody(session: Session, indexed: Path) -> None:
    """With thumbnails, an uploaded picture the page, and Gradio's endpoints."""
    session.run("query", "waves", "--all", "--daemon", "auto", "--index", indexed)
    servers = [
        (session.start(*command, "--index", indexed, "--port", str(port)), f"http://127.0.0.1:{port}")
        for command, port in zip((["serve"], ["ui", "--no-browser"]), free_ports(2), strict=True)
    ]
    for server, address in servers:
        deadline = time.monotonic() + 120
        while True:
            try:
                ask(f"{address}/healthz")
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        found = json.loads(ask(f"{address}/v1/search", {"query": "waves", "all": True}))["hits"]
        ask(f"{address}/v1/images/{found[0]['row_id']}/thumbnail")
    _, page = servers[-1]
    ask(f"{page}/")
    assert "/search" in json.loads(ask(f"{page}/gradio_api/info"))["named_endpoints"]
    time.sleep(6)  # the picture warm-up, and what threads do when nobody looks
    for server, _ in servers:
        server.terminate()
        server.communicate(timeout=60)
    session.check()
    shutil.rmtree(indexed / ".clipsearch")  # which ends the daemon


@pytest.mark.slow
@pytest.mark.torch
def test_training_that_is_told_no_model_and_its_pictures_reach_nobody(session: Session, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pairs, out = write_shapes(tmp_path / "pairs", 6), tmp_path / "run"
    words: list[str | Path] = [
        "train", pairs, "--out", out, "--batch", "16", "--epochs", "2", "--views", "1", "--anchor", pairs,
        "--accept-anchor-drop", "--no-gate", "--quiet",
    ]  # fmt: skip
    if breadth.ALL:
        session.run(*words)
    else:  # with a tenth of the general sentences, and without a run for each fifth of the pairs
        words += ["--dev", pairs]
        session.python(
            "import sys\nfrom clipsearch.__main__ import main\nfrom clipsearch.training import methods, sentences\n"
            "methods.general_sentences = lambda: sentences.general_sentences(150)\n"
            f"sys.argv = {['clipsearch', *(str(word) for word in words)]!r}\nmain()"
        )
    assert find_spec("matplotlib") is None or (out / "curves.png").is_file()
    session.check()


@pytest.mark.slow
@pytest.mark.torch
def test_training_processes_reach_only_each_other(new_session: Session) -> None:
    session = new_session
    pytest.importorskip("torch")
    session.environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "WORLD_SIZE": "2"}
    said = session.python(  # the two are forked from one that has imported PyTorch
        "import os, torch\nfrom clipsearch.training.distributed import gather, joined\n"
        "from clipsearch.training.world import world_of_environment\n"
        "other = os.fork()\n"
        "os.environ['RANK'] = os.environ['LOCAL_RANK'] = '0' if other else '1'\n"
        "with joined(world_of_environment(), torch.device('cpu')) as world:\n"
        "    os.write(1, f'{gather(torch.ones(1) * world.rank).tolist()}\\n'.encode())\n"
        "assert not other or os.waitpid(other, 0)[1] == 0"
    )
    assert said == "[0.0, 1.0]\n" * 2
    session.check()


@pytest.mark.slow
def test_in_a_notebook_importing_clipsearch_is_enough(new_session: Session) -> None:
    """Also where it is imported only after huggingface-hub, which has read its variables by then."""
    session = new_session
    optional = [name for name in ("openvino", "torch", "open_clip", "gradio") if find_spec(name)]
    model = Path(__file__).parents[2] / "clipsearch/models/builtin/visual/model.onnx"
    said = session.python(
        f"import huggingface_hub\nimport clipsearch\nimport onnxruntime, {', '.join(optional)}\n"
        f"onnxruntime.InferenceSession({str(model)!r})\n"
        "print(huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)\n"
        + ("gradio.Blocks()\n" if "gradio" in optional else "")
    )
    assert said.split() == ["True"]
    session.check()
