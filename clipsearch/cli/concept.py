"""`clipsearch concept`: what some pictures have in common, under a name."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Annotated

import typer

from clipsearch import config
from clipsearch.cli.options import IndexOption, JsonOption, picture_or_id, print_json
from clipsearch.cli.terminal import count, shown
from clipsearch.filenames import safe

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Add, list and remove concepts: what example pictures have in common.",
)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the concept.", metavar="NAME")],
    pictures: Annotated[
        list[str], typer.Argument(help="Paths or row_ids of example pictures.", metavar="PICTURE|ID...")
    ],
    unlike: Annotated[
        list[str] | None, typer.Option("--not", help="Counter-example. Can be repeated.", metavar="PICTURE|ID")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the tag or concept of that name.")] = False,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save what example pictures have in common, for tag:NAME and like:NAME in queries.

    \b
    Examples:
      clipsearch concept add my-dog rex1.jpg rex2.jpg rex3.jpg --not other-dog.jpg
      clipsearch query "tag:my-dog"                (pictures of it, the most certain first)
      clipsearch query "beach tag:my-dog"          (on the beach)
    """
    from clipsearch.query.fields import as_filter
    from clipsearch.query.nodes import Tagged
    from clipsearch.search.collection import open_collection
    from clipsearch.search.concepts import add_concept

    with open_collection(index) as photos:
        concept = add_concept(
            photos,
            name,
            [picture_or_id(p) for p in pictures],
            [picture_or_id(p) for p in unlike or ()],
            replace=replace,
        )
        place = photos.index
    with open_collection(place) as photos:
        found = len(photos.select(Tagged(concept.name)))
        config.remember_index(photos.index)
    if as_json:
        print_json({"name": concept.name, "pictures": found})
    else:
        asked = shlex.quote(safe(as_filter("tag", concept.name)))
        print(f"{safe(concept.name)}: matches {count(found, 'picture')}. Search for it with: clipsearch query {asked}")


@app.command("list")
def list_(index: IndexOption = None, as_json: JsonOption = False) -> None:
    """List the tags and concepts of an index.

    \b
    Examples:
      clipsearch concept list
      clipsearch concept list --json
    """
    from clipsearch.search.collection import open_collection

    with open_collection(index) as photos:
        tags = photos.tags
    if as_json:
        print_json([{k: v for k, v in dataclasses.asdict(tag).items() if k != "file"} for tag in tags])
        return
    for tag in tags:
        what = "example" if tag.kind == "concept" else "picture"
        print(f"{tag.kind:7}  {shown(tag.name)}  ({count(tag.pictures, what)})")


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of a tag or concept.", metavar="NAME")], index: IndexOption = None
) -> None:
    """Remove a tag or concept. The pictures stay as they are.

    \b
    Examples:
      clipsearch concept remove my-dog
    """
    from clipsearch.store.tags import remove_tag

    remove_tag(config.find_index(index), name)
