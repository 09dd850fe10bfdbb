"""`clipsearch serve`: the HTTP API."""

from __future__ import annotations

import typer

from clipsearch import config
from clipsearch.cli.listening import (
    HostNameOption,
    HostOption,
    IndexesOption,
    OriginalsOption,
    PortOption,
    RootPathOption,
    TokenOption,
    found_indexes,
    listen,
)

app = typer.Typer(rich_markup_mode=None)


@app.command()
def serve(
    index: IndexesOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = None,
    token: TokenOption = None,
    host_name: HostNameOption = None,
    root_path: RootPathOption = "",
    originals: OriginalsOption = None,
) -> None:
    """Serve indexes over HTTP: search, thumbnails and metrics, with OpenAPI documentation at /docs.

    \b
    Examples:
      clipsearch serve
      clipsearch serve --index ./photos --index ./scans --port 8000
      CLIPSEARCH_TOKEN=... clipsearch serve --host 0.0.0.0
      clipsearch serve --root-path /photos --host-name example.org     (behind a proxy; see docs/api.md)
    """
    places = found_indexes(index) if index else [config.find_index()]
    listen(places, host, port, token, host_name, root_path, originals, interface=None, browser=False)
