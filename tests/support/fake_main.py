"""The real command line with the fake encoder in place of every model: python -m tests.support.fake_main ARGUMENTS."""

from __future__ import annotations

import sys
from typing import Any

from tests.support.fake_encoder import FakeEncoder

DIM = 256


def prepare() -> None:
    """From now on, this process's models are all the fake one."""
    from clipsearch.encoder import names

    def load_encoder(*name: Any, **options: Any) -> FakeEncoder:
        return FakeEncoder(dim=DIM, seed=SEEDS.get(str(name[0]) if name else "", 0))

    names.load_encoder = load_encoder


SEEDS = {"fake": 0, "fake2": 1}
"""What `--model` takes: two encoders whose vectors have nothing to do with each other."""


def main() -> None:
    prepare()
    from clipsearch.__main__ import main as run

    run()


if __name__ == "__main__":
    sys.argv[0] = "clipsearch"
    main()
