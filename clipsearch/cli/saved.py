"""`clipsearch saved`: searches that are saved in an index, as the star in the page saves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, print_json, quoted
from clipsearch.cli.terminal import shown
from clipsearch.errors import UNREADABLE, UnknownSearch
from clipsearch.records import Sort

if TYPE_CHECKING:
    from clipsearch.records import SavedSearch

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Save, list, rename and remove searches. Run one with: clipsearch query --saved NAME",
)
NameArgument = Annotated[str, typer.Argument(help="Name of a saved search.", metavar="NAME")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name for the search.", metavar="NAME")],
    query: Annotated[list[str], typer.Argument(help="The query.", metavar="QUERY...")],
    sort: Annotated[Sort, typer.Option(help="Order of the hits. date: newest first.")] = "score",
    show_all: Annotated[bool, typer.Option("--all", help="Also show unlikely matches.")] = False,
    unique: Annotated[bool, typer.Option("--unique", help="Show near-duplicates as one hit.")] = False,
    diverse: Annotated[bool, typer.Option("--diverse", help="Prefer hits that differ from each other.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a saved search of that name.")] = False,
    index: IndexOption = None,
) -> None:
    """Save a search in the index, for the page and for `clipsearch query --saved NAME`.

    \b
    Examples:
      clipsearch saved add beach "dog on a beach -people"
      clipsearch saved add newest "camera:canon" --sort date
    """
    from clipsearch.query import parse_query
    from clipsearch.store.searches import make_search, save_search

    text = " ".join(query)
    parse_query(text)
    place = config.find_index(index)
    save_search(place, make_search(name, text, sort, unique, diverse, show_all), replace=replace)
    print(f"Saved. Run it with: clipsearch query --saved {quoted(name)}")


@app.command("list")
def list_(index: IndexOption = None, as_json: JsonOption = False) -> None:
    """List the searches that are saved in an index.

    \b
    Examples:
      clipsearch saved list
      clipsearch saved list --json
    """
    from clipsearch.store import open_snapshot
    from clipsearch.store.searches import read_searches

    place = config.find_index(index)
    with open_snapshot(place) as snapshot:
        searches = read_searches(place, snapshot.manifest)
    if as_json:
        print_json([dataclasses.asdict(search) for search in searches])
        return
    for search in searches:
        print(f"{shown(search.name)}: {shown(search.query)}")


@app.command("rename")
def rename(
    name: NameArgument,
    new_name: Annotated[str, typer.Argument(help="Its new name.", metavar="NEW_NAME")],
    index: IndexOption = None,
) -> None:
    """Rename a saved search.

    \b
    Examples:
      clipsearch saved rename beach "dogs at the sea"
    """
    from clipsearch.store.searches import rename_search

    rename_search(config.find_index(index), name, new_name)


@app.command("remove")
def remove(name: NameArgument, index: IndexOption = None) -> None:
    """Remove a saved search. The pictures stay as they are.

    \b
    Examples:
      clipsearch saved remove beach
    """
    from clipsearch.store.searches import remove_search

    gone = remove_search(config.find_index(index), name)
    print(f"Removed. It was: {shown(gone.query)}")


def saved_search(indexes: Sequence[Path | None], name: str) -> SavedSearch:
    """The search of that name, of the first index that has one. Of several, those that cannot be read are left out.

    Raises: UnknownSearch; what opening the first raises where none can be read.
    """
    from clipsearch.store import open_snapshot
    from clipsearch.store.searches import find_search

    known: list[str] = []
    failures: list[Exception] = []
    places = indexes or [None]
    for index in places:
        try:
            place = config.find_index(index)
            with open_snapshot(place) as snapshot:
                return find_search(place, snapshot.manifest, name)
        except UnknownSearch as error:
            known += error.known
        except UNREADABLE as error:
            failures.append(error)
    if len(failures) == len(places):
        raise failures[0]
    raise UnknownSearch(name, sorted(set(known)), [str(error).rstrip(".") for error in failures])
