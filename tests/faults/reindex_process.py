"""A process that encodes everything again with the other fake encoder, in many small commits, to be killed.

python -m tests.faults.reindex_process FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import clipsearch
from clipsearch.indexer.build import IndexOptions
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM, SEEDS


def main() -> None:
    encoder = FakeEncoder(dim=DIM, seed=SEEDS["fake2"])
    options = IndexOptions(workers=1, batch_pictures=4, commit_rows=8, commit_s=1e9, reindex=True)
    report = clipsearch.index(Path(sys.argv[1]), encoder=encoder, options=options)
    print(encoder.images_encoded, report.pictures)


if __name__ == "__main__":
    main()
