"""`clipsearch similar`, `dedupe`, `illustrate` and `concept`: what pictures have to do with each other."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch import config
from clipsearch.cli.options import EXIT_NOTHING_FOUND, IndexOption, JsonOption, print_json
from clipsearch.cli.terminal import count, shown, size
from clipsearch.errors import InvalidQuery, StorageError
from clipsearch.filenames import safe, to_bytes

if TYPE_CHECKING:
    from clipsearch.search.dedupe import Copy

app = typer.Typer(rich_markup_mode=None)
concepts = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Concepts: what some pictures have in common, under a name."
)
app.add_typer(concepts, name="concept")


@app.command()
def similar(
    picture: Annotated[
        str, typer.Argument(help="The path of a picture, or the row_id of a hit.", metavar="PICTURE|ID")
    ],
    k: Annotated[int, typer.Option("-k", "--hits", min=1, help="How many hits.", metavar="N")] = 20,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find pictures like one, which is not among the hits.

    \b
    Examples:
      clipsearch similar holiday.jpg
      clipsearch similar 4711 -k 5 --json
    """
    from clipsearch.search.collection import open_collection

    with open_collection(index) as photos:
        is_row = picture.isdecimal() and not Path(picture).exists()
        hits = photos.similar(int(picture) if is_row else picture, k)
        config.remember_index(photos.index)
    if as_json:
        print_json([hit.to_dict() for hit in hits])
    else:
        for hit in hits:
            print(f"{hit.rank:3d}  {hit.score:.3f}  {hit.band:8}  {shown(hit.path)}")
    if not hits:
        print("nothing found: there is no other picture", file=sys.stderr)
        raise typer.Exit(EXIT_NOTHING_FOUND)


@app.command()
def dedupe(
    index: IndexOption = None,
    script: Annotated[
        Path | None,
        typer.Option("--script", help="Write a shell script that would delete all but the best.", metavar="FILE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List near-duplicates, the best of each group first. Deletes nothing.

    \b
    The best has the most pixels, then the sharpest ones. Every other was compared with it, pixel by pixel.

    \b
    Examples:
      clipsearch dedupe
      clipsearch dedupe --script remove.sh && less remove.sh && sh remove.sh
      clipsearch dedupe --json | jq -r '.[].others[].path'
    """
    from clipsearch.search.collection import open_collection
    from clipsearch.search.dedupe import find_duplicates, shell_script

    with open_collection(index) as photos:
        groups = find_duplicates(photos)
        config.remember_index(photos.index)
    if as_json:
        print_json([{"keep": _copy(g.keep), "others": [_copy(other) for other in g.others]} for g in groups])
    else:
        for group in groups:
            print(f"keep  {shown(group.keep.path)}  {_measures(group.keep)}")
            for other in group.others:
                print(f"   =  {shown(other.path)}  {_measures(other)}")
    if script is not None:
        script.write_bytes(shell_script(groups, safe))
    spare = [other for group in groups for other in group.others]
    freed = size(sum(other.record.size_bytes for other in spare))
    where = f"; read and run: {safe(str(script))}" if script is not None else ""
    print(f"{count(len(groups), 'group')}, {count(len(spare), 'spare picture')} ({freed}){where}", file=sys.stderr)


def _copy(copy: Copy) -> dict[str, Any]:
    record = copy.record
    return {
        "path": copy.path,
        "row_id": record.row_id,
        "width": record.width,
        "height": record.height,
        "size_bytes": record.size_bytes,
        "sharpness": round(copy.sharpness, 2),
    }


def _measures(copy: Copy) -> str:
    return f"{copy.record.width}x{copy.record.height}, {size(copy.record.size_bytes)}, sharpness {copy.sharpness:.0f}"


@app.command()
def illustrate(
    text: Annotated[Path, typer.Argument(help="A Markdown or plain text, UTF-8.", metavar="TEXT")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .html or .md file; without it, Markdown is printed.", metavar="FILE"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="No gaps: take the nearest, however unlikely.")] = False,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose a picture for each paragraph of a text, none twice; leave a gap where none fits.

    \b
    Examples:
      clipsearch illustrate story.md -o story.html
      clipsearch illustrate story.md > illustrated.md
    """
    from clipsearch.search import illustrate as making
    from clipsearch.search.collection import open_collection

    try:
        story = text.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise StorageError(text, error.strerror or str(error), "Name a text file.") from None
    except UnicodeDecodeError:
        raise InvalidQuery(f"{text} is no UTF-8 text") from None
    with open_collection(index) as photos:
        blocks = making.illustrate(photos, story, everything=everything)
        config.remember_index(photos.index)
    if as_json:
        told = [block for block in blocks if block.text is not None]
        print_json([{"text": b.text, "hit": None if b.hit is None else b.hit.to_dict()} for b in told])
    elif output is None:
        print(making.to_markdown(blocks, config.working_folder() or Path("/")), end="")
    else:
        page = output.suffix.lower() in (".html", ".htm")
        made = making.to_html(blocks, text.stem, output.parent) if page else making.to_markdown(blocks, output.parent)
        output.write_bytes(to_bytes(made))
    gaps = sum(block.text is not None and block.hit is None for block in blocks)
    chosen = sum(block.hit is not None for block in blocks)
    print(f"{count(chosen, 'picture')}, {count(gaps, 'gap')}", file=sys.stderr)


@concepts.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call it.", metavar="NAME")],
    pictures: Annotated[list[str], typer.Argument(help="Paths or row_ids of examples.", metavar="PICTURE|ID...")],
    unlike: Annotated[
        list[str] | None, typer.Option("--not", help="What it is not; again for more.", metavar="PICTURE|ID")
    ] = None,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep what some pictures have in common under a name, for tag:NAME and like:NAME in queries.

    \b
    Examples:
      clipsearch concept add my-dog rex1.jpg rex2.jpg rex3.jpg --not other-dog.jpg
      clipsearch query "tag:my-dog"                (pictures of it, the surest first)
      clipsearch query "beach tag:my-dog"          (on the beach)
    """
    from clipsearch.query.nodes import Tagged
    from clipsearch.search.collection import open_collection
    from clipsearch.search.concepts import add_concept

    with open_collection(index) as photos:
        concept = add_concept(photos, name, [_example(p) for p in pictures], [_example(p) for p in unlike or ()])
        place = photos.index
    with open_collection(place) as photos:
        found = len(photos.select(Tagged(concept.name)))
        config.remember_index(photos.index)
    if as_json:
        print_json({"name": concept.name, "pictures": found})
    else:
        asked = shlex.quote(safe(_filter(concept.name)))
        print(f"{safe(concept.name)}: finds {count(found, 'picture')}. Ask for it: clipsearch query {asked}")


def _example(word: str) -> int | str:
    return int(word) if word.isdecimal() and not Path(word).exists() else word


def _filter(name: str) -> str:
    return f'tag:"{name}"' if any(c.isspace() or c in "()" for c in name) else f"tag:{name}"


@concepts.command("list")
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


@concepts.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="A tag or concept.", metavar="NAME")], index: IndexOption = None
) -> None:
    """Forget a tag or concept. Pictures stay as they are.

    \b
    Examples:
      clipsearch concept remove my-dog
    """
    from clipsearch.store.tags import remove_tag

    remove_tag(config.find_index(index), name)
