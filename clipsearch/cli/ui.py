"""`clipsearch ui`: the page in the browser."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
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
from clipsearch.cli.options import notice, quoted
from clipsearch.errors import IndexAway, IndexNotFound

app = typer.Typer(rich_markup_mode=None)


@app.command()
def ui(
    folder: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Photo folders or indexes to show. The page offers to index a folder that has no index.",
            metavar="[FOLDER]...",
            show_default=False,
        ),
    ] = None,
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
      clipsearch ui ./photos ./scans                            (switch between them in the page)
      clipsearch ui --index ./photos --no-browser
    """
    from clipsearch.server.security import is_loopback
    from clipsearch.ui.first_use import is_unfinished
    from clipsearch.ui.page import add_page
    from clipsearch.ui.programs import check_gradio

    check_gradio()
    places, new = _places([*(folder or ()), *(index or ())])
    if places and not (folder or index or os.environ.get(config.INDEX_ENV)):
        _say_which(places[0])
    unfinished = (place for place in places if place.name == config.INDEX_DIR_NAME and is_unfinished(place))
    new = new or next((place.parent for place in unfinished), None)
    local = is_loopback(host) and not host_name and not root_path
    open_known = local and not (folder or index or os.environ.get(config.INDEX_ENV))
    page = partial(add_page, folder=new, open_known=open_known, other_folders=local)
    listen(places, host, port, token, host_name, root_path, originals, interface=page, browser=not no_browser)


def _say_which(place: Path) -> None:
    """Say that what is shown is not of the folder that one is in."""
    here = config.working_folder()
    if here is not None and place.parent not in (here, *here.parents):
        notice(f"{quoted(here)} has no index; showing the one used last. To index this folder: clipsearch ui .")


def _has_none_yet(place: Path) -> bool:
    """Whether a folder has no index, nor one on a drive that is away. Raises: IndexAway."""
    try:
        config.find_index(place)
    except IndexAway:
        return False
    except IndexNotFound:
        if place.is_dir():
            config.check_not_away(config.index_dir_for(place))
            return True
    return False


def _places(named: list[Path]) -> tuple[list[Path], Path | None]:
    """The indexes to show, and a folder that has none yet. Raises: IndexNotFound, IndexAway, BadParameter."""
    if not named:
        try:
            return [config.find_index()], None
        except IndexAway:
            raise
        except IndexNotFound:
            here = config.working_folder()
            if here is None or os.environ.get(config.INDEX_ENV):
                raise
            return [], here
    there = [place for place in named if not _has_none_yet(place)]
    new = [place for place in named if place not in there]
    found = found_indexes(there)
    if len(new) > 1:
        raise typer.BadParameter(
            f"{quoted(new[0])} and {quoted(new[1])} have no index yet: name one such folder at a time",
            param_hint="FOLDER",
        )
    return found, new[0] if new else None
