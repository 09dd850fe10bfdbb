"""Two processes with half of a batch each make the step that one process makes with all of it."""

from __future__ import annotations

import json
import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from clipsearch.training.run import Request  # noqa: E402
from clipsearch.training.run_folder import RunFolder  # noqa: E402
from clipsearch.training.settings import Settings, TrainingStopped  # noqa: E402
from clipsearch.training.world import world_of_environment  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402
from tests.training.ddp_process import carry_out, end_alone, resume_stopped  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.training.ddp_process"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_all(target: Callable[..., None], processes: int, *arguments: object) -> None:
    """Run `target` in so many processes that know of each other."""
    world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    started = [FORKS.Process(target=target, args=(rank, *arguments)) for rank in ranks]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
        assert process.exitcode == 0


def launch(
    folder: Path, out: Path, processes: int, micro: int | None = None, *, measured: bool = False, hard: bool = False
) -> list[Path]:
    out.mkdir()
    run_all(carry_out, processes, folder, out, micro, measured, hard)
    return sorted(out.glob("rank*.json" if measured else "rank*.safetensors"))


@pytest.mark.parametrize("hard", [False, True], ids=["plain", "hard negatives"])
def test_two_processes_make_the_step_of_one(hard: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = write_pairs(tmp_path / "pairs", 24)
    (folder / "p00003.txt").write_text((folder / "p00011.txt").read_text())  # a match that may be in both halves
    [alone] = launch(folder, tmp_path / "one", 1, hard=hard)
    expected = load_file(alone)
    for number, micro in enumerate((None, 2)):  # at once, and by gradient caching
        for file in launch(folder, tmp_path / f"two{number}", 2, micro, hard=hard):
            found = load_file(file)
            assert found["loss"] == pytest.approx(float(expected["loss"]), abs=1e-5)
            assert set(found) == set(expected)
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_two_processes_share_out_what_is_measured(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 150)
    (folder / "p00070.png").write_bytes(b"not a picture")
    [alone] = launch(folder, tmp_path / "one", 1, measured=True)
    expected = json.loads(alone.read_text())
    halves = [json.loads(file.read_text()) for file in launch(folder, tmp_path / "two", 2, measured=True)]
    for half in halves:
        assert half["ranks"] == expected["ranks"]
        assert half["back"] == expected["back"]
    decoded = [number for half in halves for group in half["decoded"] for number in group]
    assert sorted(decoded) == sorted(set(range(150)) - {70})  # each picture by one process only
    assert all(half["decoded"][0] for half in halves)


def test_what_ends_the_first_process_alone_ends_the_others_with_a_word(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    request = Request([str(tmp_path)], "open_clip:none", Settings("full"), device="cpu")
    run.create({"request": request.as_json(), "digests": {}})
    run.note_stop(TrainingStopped(7, "held-out recall fell", "Try less"))
    run_all(resume_stopped, 2, run.path, tmp_path)
    said = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0].startswith("TrainingStopped: training was stopped at step 7: held-out recall fell")
    assert said[1].startswith("OtherProcessEnded: another process of this torchrun has ended")
    run_all(end_alone, 2, tmp_path)
    said = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0].startswith("OtherProcessEnded")
    assert said[1].startswith("MemoryError")


def test_what_a_variable_says_without_torchrun_is_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_of_environment().is_first
