"""`clipsearch export`: rows and vectors for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, quoted
from clipsearch.cli.terminal import count

app = typer.Typer(rich_markup_mode=None)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.", metavar="FILE.parquet")],
    index: IndexOption = None,
) -> None:
    """Write all pictures of an index, what is known of them and their vectors, as one Parquet file.

    \b
    Any program that reads Parquet can use it: pandas, DuckDB, Arrow. Missing pictures are left out.

    \b
    Examples:
      clipsearch export photos.parquet
      clipsearch export /tmp/photos.parquet --index ./photos
    """
    from clipsearch.store.export import export_parquet

    written = export_parquet(config.find_index(index), file)
    print(f"{count(written, 'picture')} with vectors in {quoted(file)}")
