"""A process that indexes on a Ray cluster with the fake encoder, to be killed.

python -m tests.faults.cluster_process FOLDER ADDRESS
"""

from __future__ import annotations

import sys
from pathlib import Path

from clipsearch.indexer.build import IndexOptions, index_folder
from tests.support.clusters import ClusterEncoder, ray_executor


def main() -> None:
    folder, address = Path(sys.argv[1]), sys.argv[2]
    report = index_folder(
        folder,
        ClusterEncoder(),
        options=IndexOptions(workers=1, commit_rows=16, commit_s=1e9),
        executor=ray_executor(address, unit_pictures=8, per_picture_s=0.01),
    )
    print(report.encoded, report.pictures)


if __name__ == "__main__":
    main()
