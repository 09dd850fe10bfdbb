"""A process that indexes with the fake encoder, to be killed.

python -m tests.faults.index_process SOURCE [COMMIT_ROWS [reindex|regions|INDEX [archives]]]
"""

from __future__ import annotations

import sys
from pathlib import Path

from clipsearch.errors import ClipsearchError
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.places import as_address
from tests.support.fake_encoder import FakeEncoder


def main() -> None:
    folder = as_address(sys.argv[1])
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    again = sys.argv[3:] == ["reindex"]
    regions = True if sys.argv[3:] == ["regions"] else None
    index = Path(sys.argv[3]) if len(sys.argv) > 3 and not again and not regions else None
    archives = True if sys.argv[4:] == ["archives"] else None
    encoder = FakeEncoder(dim=48, seed=1) if again else FakeEncoder(dim=256)
    try:
        options = IndexOptions(
            workers=1,
            batch_pictures=4,
            commit_rows=rows,
            commit_s=1e9,
            reindex=again,
            regions=regions,
            archives=archives,
        )
        report = index_folder(folder, encoder, index=index, options=options)
    except ClipsearchError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(report.encoded, report.pictures)


if __name__ == "__main__":
    main()
