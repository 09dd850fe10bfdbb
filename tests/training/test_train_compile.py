"""Where towers cannot be compiled, the run says so and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

import torch._inductor.config as inductor  # noqa: E402

from clipsearch.pairs.reading import open_pairs  # noqa: E402
from clipsearch.training.grad_cache import whole_backward  # noqa: E402
from clipsearch.training.loop import Loop  # noqa: E402
from clipsearch.training.methods import check_method  # noqa: E402
from clipsearch.training.run import Request  # noqa: E402
from clipsearch.training.run_folder import RunFolder  # noqa: E402
from clipsearch.training.settings import InvalidSettings, Settings  # noqa: E402
from clipsearch.training.towers import prepare_towers  # noqa: E402
from clipsearch.training.world import World  # noqa: E402
from tests.support.open_clip_models import SMALL_VIT, small_encoder  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = pytest.mark.torch

NARROW = {**SMALL_VIT, "text_cfg": {**SMALL_VIT["text_cfg"], "context_length": 16, "width": 32, "layers": 1}}


@pytest.fixture(autouse=True)
def _compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Files of the compiler below the test's folder, no processes of its own, and its settings as they were."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    dynamo: Any = torch._dynamo.config
    with dynamo.patch(suppress_errors=False), inductor.patch({"fallback_random": False, "compile_threads": 1}):
        yield
    torch._dynamo.reset()


def step_of(folder: Path, out: Path, said: list[str], **options: Any) -> tuple[float, dict[str, Any]]:
    settings = Settings("lora", epochs=1, batch=6, micro_batch=4, views=1, **options)
    pairs = open_pairs([folder])
    work = prepare_towers(small_encoder(NARROW), settings, pairs, pairs, pairs, World(), lambda *_: None, said.append)
    run = RunFolder(out)
    run.create({})
    loop = Loop(work.trainee, work.order, settings, run)
    loop.trainee.set_training(True)
    value = whole_backward(loop._parts(0), loop.trainee.encode, loop._loss)
    return float(value), {name: tensor.grad for name, tensor in loop.parameters.items()}


@pytest.mark.slow
def test_without_a_compiler_it_says_so_and_goes_on(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 6)
    said: list[str] = []
    expected, _ = step_of(folder, tmp_path / "plain", [])
    with inductor.patch({"cpp.cxx": (str(tmp_path / "no-such-compiler"),)}):
        found, _ = step_of(folder, tmp_path / "fast", said, compile=True)
    assert [line for line in said if line.startswith("training without torch.compile, which fails here: ")]
    assert all("\n" not in line for line in said)
    assert found == expected


def test_heads_have_nothing_to_compile() -> None:
    request = Request([], "builtin", Settings("heads", compile=True))
    with pytest.raises(InvalidSettings, match="--compile is for towers"):
        check_method(request, None, World())
