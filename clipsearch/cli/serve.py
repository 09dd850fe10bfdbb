"""`clipsearch serve`: the HTTP API."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Annotated

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
    context: typer.Context,
    index: IndexesOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = None,
    token: TokenOption = None,
    host_name: HostNameOption = None,
    root_path: RootPathOption = "",
    originals: OriginalsOption = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Search the vectors in processes of a Ray cluster (see docs/scaling.md).")
    ] = False,
    shards: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Shards of each index (with --ray; default: 1).", metavar="N")
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Processes for each shard (with --ray; default: 1).", metavar="N"),
    ] = None,
    most_replicas: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Maximum number of processes for each shard under load (with --ray).", metavar="N"
        ),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--shard-timeout",
            min=0.05,
            help="How long to wait for a shard (with --ray; default: 1.5).",
            metavar="SECONDS",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster (with --ray): HOST:PORT or auto. Default: $RAY_ADDRESS, else one on this machine.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Serve indexes over HTTP: search, thumbnails and metrics, with OpenAPI documentation at /docs.

    \b
    Examples:
      clipsearch serve
      clipsearch serve --index ./photos --index ./scans --port 8000
      CLIPSEARCH_TOKEN=... clipsearch serve --host 0.0.0.0
      clipsearch serve --index ./photos --ray --shards 4               (needs clipsearch[ray])
      clipsearch serve --root-path /photos --host-name example.org     (behind a proxy; see docs/api.md)
    """
    places = found_indexes(index) if index else [config.find_index()]
    listening = partial(
        listen, places, host, port, token, host_name, root_path, originals, interface=None, browser=False
    )
    from clipsearch.server.ray_serve import RayServe, Sharding  # its fields are options of this command

    told = {field.name: context.params[field.name] for field in fields(Sharding)}
    given = {name: value for name, value in told.items() if value is not None}
    if not ray:
        if given:
            (option,) = (own.opts[0] for own in context.command.params if own.name == next(iter(given)))
            raise typer.BadParameter("needs --ray", param_hint=option)
        listening()
        return
    with RayServe(Sharding(**given), len(places)) as fleet:
        listening(make=fleet.open)
