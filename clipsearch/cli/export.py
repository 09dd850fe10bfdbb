"""`clipsearch export`: rows and vectors for other programs."""

from __future__ import annotations

from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, notice, quoted
from clipsearch.cli.terminal import count, stages_display

app = typer.Typer(rich_markup_mode=None)


@app.command()
def export(
    target: Annotated[str, typer.Argument(help="File or database to write to.", metavar="TARGET")],
    where: Annotated[
        str, typer.Option("--where", help="Export only pictures that pass these filters.", metavar="FILTERS")
    ] = "",
    table: Annotated[
        str | None,
        typer.Option("--table", help="Table or collection in the database. Default: clipsearch.", metavar="NAME"),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Also export pictures whose files are currently missing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that an earlier export wrote.")
    ] = False,
    index: IndexOption = None,
) -> None:
    """Export the pictures of an index, their metadata and their vectors to a file or a vector database.

    \b
    TARGET is one of:
      FILE.parquet, FILE.arrow
      lancedb:FOLDER
      postgresql://USER@HOST/DATABASE   (pgvector; the password from PGPASSWORD)
      qdrant:FOLDER, qdrant:URL         (the API key from QDRANT_API_KEY)
      milvus:FOLDER.db, milvus:URL      (the token from MILVUS_TOKEN)
    Exporting to a database again updates what changed. Nothing that clipsearch did not write is touched.

    \b
    Examples:
      clipsearch export photos.parquet
      clipsearch export photos.parquet --overwrite --where "folder:trips after:2023"
      clipsearch export qdrant:http://localhost:6333 --table photos --index ./photos
    """
    from clipsearch.exports.run import export_index

    try:
        with stages_display() as report:
            done = export_index(
                config.find_index(index),
                target,
                table=table,
                where=where,
                missing=missing,
                overwrite=overwrite,
                progress=lambda n, total: report("exporting", n, total),
            )
    except KeyboardInterrupt:
        notice("the export is not complete. Run the same command again to finish it.")
        raise
    if not done.table:
        print(f"{count(done.rows, 'row')} with vectors in {quoted(done.target)}")
        return
    changes = f"{done.added:,} new, {done.changed:,} changed, {done.removed:,} removed"
    print(f"{count(done.rows, 'row')} with vectors in {done.table} of {quoted(done.target)}: {changes}")
