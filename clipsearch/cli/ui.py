"""`clipsearch ui`: the page in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from clipsearch.cli.listening import (
    HostNameOption,
    HostOption,
    IndexesOption,
    OriginalsOption,
    PortOption,
    RootPathOption,
    TokenOption,
    listen,
)

app = typer.Typer(rich_markup_mode=None)


@app.command()
def ui(
    index: IndexesOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = None,
    token: TokenOption = None,
    host_name: HostNameOption = None,
    root_path: RootPathOption = "",
    originals: OriginalsOption = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in a browser.")] = False,
) -> None:
    """Search in the browser. Also serves the API of `clipsearch serve`.

    \b
    Examples:
      clipsearch ui
      clipsearch ui --index ./photos --no-browser
    """
    from clipsearch.ui.page import add_page
    from clipsearch.ui.programs import check_gradio

    check_gradio()
    listen(index, host, port, token, host_name, root_path, originals, interface=add_page, browser=not no_browser)
