"""`clipsearch query`: find pictures."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core

from clipsearch import config
from clipsearch.cli.options import (
    EXIT_NOTHING_FOUND,
    AllowPickleOption,
    CheckpointOption,
    IndexesOption,
    JsonOption,
    ModelOption,
    notice,
    print_bytes,
    print_json,
    print_names,
    remember,
    searched,
)
from clipsearch.cli.output import hits_csv, print_hit
from clipsearch.cli.terminal import shown
from clipsearch.errors import InvalidQuery, UnreadablePicture
from clipsearch.filenames import as_typed, is_utf8, safe, to_bytes
from clipsearch.records import DEFAULT_HITS, NOTHING_CERTAIN, NOTHING_FOUND, Hit, Hits, Sort
from clipsearch.timing import lap, print_laps

if TYPE_CHECKING:
    from clipsearch.cli.preview import Preview
    from clipsearch.search.collection import Collection
    from clipsearch.search.order import Order

app = typer.Typer(rich_markup_mode=None)


class QueryCommand(typer.core.TyperCommand):
    """`clipsearch query dog -people`: takes a word with a minus for part of the query, not for options."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """List the filters at the end of the help."""
        from clipsearch.query.fields import FILTERS

        with formatter.section("Filters"):
            formatter.write_text(", ".join(field.examples[0] for field in FILTERS.values()))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name for parameter in self.params for name in parameter.opts}
        words = [
            f"\N{MINUS SIGN}{word[1:]}" if word not in known and is_negative_word(word) else word
            for word in itertools.takewhile(lambda word: word != "--", args)
        ]
        return super().parse_args(ctx, words + args[len(words) :])


def is_negative_word(word: str) -> bool:
    """Whether an argument is a term that is taken away (`-people`), not an option (`-k5`)."""
    return len(word) > 2 and word[0] == "-" and (word[1].isalpha() or word[1] in '("') and not word[2:].isdecimal()


@app.command(cls=QueryCommand)
def query(
    context: typer.Context,
    query: Annotated[
        list[str] | None,
        typer.Argument(
            help="Words, pictures and filters to search for (see docs/query.md). Default: the newest pictures."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--hits", help="Number of hits.", metavar="N")] = DEFAULT_HITS,
    offset: Annotated[int, typer.Option(help="Number of hits to skip.", metavar="N")] = 0,
    sort: Annotated[Sort, typer.Option(help="Order of the hits. date: newest first.")] = "score",
    show_all: Annotated[bool, typer.Option("--all", help="Also show unlikely matches.")] = False,
    min_confidence: Annotated[
        float | None,
        typer.Option(help="Leave out matches below this confidence (0 to 1), and no others.", metavar="P"),
    ] = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Show near-duplicates as one hit, the best, with the others below it.")
    ] = False,
    each: Annotated[
        bool, typer.Option("--each", help="Show each matching moment of a video or page of a document as its own hit.")
    ] = False,
    diverse: Annotated[bool, typer.Option("--diverse", help="Prefer hits that differ from each other.")] = False,
    diversity: Annotated[
        float | None, typer.Option(help="How much hits should differ: 0 to 1. --diverse is 0.5.", metavar="X")
    ] = None,
    like: Annotated[
        list[int] | None, typer.Option(help="row_id of a relevant hit (see --json). Can be repeated.", metavar="ID")
    ] = None,
    unlike: Annotated[
        list[int] | None, typer.Option(help="row_id of an irrelevant hit (see --json). Can be repeated.", metavar="ID")
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            "--rerank",
            help="Rerank the first 50 hits with a captioning model, such as open_clip:coca_ViT-B-32/laion2b_s13b_b90k.",
            metavar="MODEL",
        ),
    ] = None,
    saved: Annotated[
        str | None,
        typer.Option(
            "--saved", help="Saved search to run (see: clipsearch saved list), with QUERY added to it.", metavar="NAME"
        ),
    ] = None,
    index: IndexesOption = None,
    model: ModelOption = None,
    checkpoint: CheckpointOption = None,
    allow_pickle: AllowPickleOption = False,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print only the paths, one per line.")] = False,
    zero: Annotated[bool, typer.Option("-0", help="Print exact paths, each followed by NUL, for xargs -0.")] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the pictures in the terminal (kitty, sixel or half blocks).")
    ] = False,
    copy: Annotated[
        Path | None,
        typer.Option(
            "--copy", help="Also copy the hits into this folder, including those in archives.", metavar="FOLDER"
        ),
    ] = None,
    open_first: Annotated[bool, typer.Option("--open", help="Also open the first hit.")] = False,
    daemon: Annotated[
        Literal["auto", "off"],
        typer.Option(
            envvar="CLIPSEARCH_DAEMON",
            help="auto: start a process that speeds up later queries. It ends after 15 idle minutes.",
        ),
    ] = "off",
) -> None:
    """Find pictures by a sentence, an example picture, or metadata.

    \b
    The index is --index, $CLIPSEARCH_INDEX, `.clipsearch` here or in a folder above, or the one used last.
    Exit status: 0 found, 1 error, 2 wrong usage, 3 nothing found, or nothing certain.

    \b
    Examples:
      clipsearch query "a dog on a beach"
      clipsearch query holiday.jpg -k 5                         (pictures like this one; or the URL of one)
      clipsearch query "holiday.jpg#xywh=10,20,300,200"         (like this part of it: left, top, width, height)
      clipsearch query horse + stripes                          (a sum; also: cat - dog, 2:dog + ./pool.jpg)
      clipsearch query "dog beach -people after:2023-05 folder:trips"
      clipsearch query "(camera:canon or ext:png) not tag:seen" --sort date
      clipsearch query "red car" -0 | xargs -0 cp -t ./red-cars
      clipsearch query "sunset" --json --unique --index ./photos
      clipsearch query "a dog" --index ./photos --index /media/old-photos        (both together)
      clipsearch query "sunset" --copy ./sunsets                (including those in tars and tables)
    """
    if as_json + as_csv + paths + zero + preview > 1:
        raise InvalidQuery("use only one of --json, --csv, --paths, -0 and --preview")
    words = joined([word if is_utf8(word) or Path(word).exists() else as_typed(word) for word in query or ()])
    if saved is not None:
        from clipsearch.cli.saved import saved_search

        kept = saved_search(index or [], saved)
        words = f"{kept.query} {words}".strip()
        sort = kept.sort if sort == "score" else sort
        show_all, unique, diverse = (
            show_all or (kept.all and min_confidence is None),
            unique or kept.unique,
            diverse or kept.diverse,
        )
    if k < 1 or offset < 0 or diversity is not None:  # else a server's answer need not wait for this import
        from clipsearch.query.arguments import read_diversity, read_window

        read_window(k, offset)
        read_diversity(diversity or 0.0)
    if words[:4].lower() == "http":
        from clipsearch.cli.fetch import fetched, is_address

        if is_address(words):
            from clipsearch.query import MARK

            address, mark, part = words.partition(MARK)
            words = f"{context.with_resource(fetched(address))}{mark}{part}"
    drawing = None
    if preview:
        from clipsearch.cli.preview import Preview

        drawing = Preview(sys.stdout)
    encoder = None
    if checkpoint is not None or allow_pickle:
        from clipsearch.indexer.api import encoder_for

        place = config.find_index(index[0] if index else None)
        encoder = encoder_for(place, model, checkpoint=checkpoint, allow_pickle=allow_pickle, notice=notice)
    options: dict[str, Any] = {
        "sort": sort,
        "unique": unique,
        "diverse": diverse if diversity is None else diversity,
        "like": like or (),
        "unlike": unlike or (),
        "all": show_all,
        "min_confidence": min_confidence,
        "each": each,
    }
    lap("start and imports")
    asked = {**options, "offset": offset}
    named = searched(index)
    hits = None
    if not isinstance(named, list) and model is None and encoder is None and rerank is None:
        hits = _hits_of_server(named, words, k, asked)
    if hits is None:
        from clipsearch.search.collection import open_collection

        with open_collection(named, model=model, encoder=encoder) as photos:

            def ask() -> tuple[Order, Hits]:
                order = photos.order(words, **options)
                if rerank is not None:
                    return order, _reranked(photos, order, rerank, k, offset)
                return order, Hits(order.window(photos, offset, k), are_certain=not order.is_uncertain)

            order, hits = photos.answered(ask)
            if daemon == "auto" and not isinstance(named, list) and model is None and encoder is None:
                from clipsearch.daemon.client import start_daemon

                start_daemon(photos.index)
            for line in photos.notices(order.wish.query, uncertain=order.is_uncertain):
                notice(line)
            remember(photos)
            if not hits:
                nothing = "" if order.count(photos)[0] else NOTHING_FOUND  # where hits end before the offset
                empty = f"{nothing}{safe(str(photos.root))}: {safe(order.why_empty(photos))}"
    is_uncertain = bool(hits) and not hits.are_certain
    if is_uncertain and (paths or zero):  # for other programs, which see no heading
        print("nothing certain (--all prints the nearest)", file=sys.stderr)
        raise typer.Exit(EXIT_NOTHING_FOUND)
    if is_uncertain:
        print(NOTHING_CERTAIN, file=sys.stderr)
    if as_json:
        print_json([hit.to_dict() for hit in hits])
    elif as_csv:
        print_bytes(hits_csv(hits))
    elif zero:
        print_bytes(b"".join(to_bytes(_path_of(hit)) + b"\0" for hit in hits))
    elif paths:
        print_names(map(_path_of, hits))
    else:
        for hit in hits:
            print_hit(hit)
            if drawing is not None:
                _draw(drawing, hit)
    lap("remember the index and print")
    print_laps()
    if copy is not None or open_first:
        from clipsearch.cli.taking import copy_hits, open_hit

        if copy is not None and is_uncertain:
            notice("nothing copied: nothing is certain (--all copies the nearest)")
        elif copy is not None and hits:
            copy_hits(hits, copy)
        if open_first and hits:
            open_hit(hits[0])
    if not hits:
        print(empty, file=sys.stderr)
    if not hits.are_certain:
        raise typer.Exit(EXIT_NOTHING_FOUND)


def _reranked(photos: Collection, order: Order, model: str, k: int, offset: int) -> Hits:
    from clipsearch.encoder import captioner_of
    from clipsearch.encoder.names import load_encoder
    from clipsearch.search.rerank import reranked, text_to_rank_by

    text_to_rank_by(order.wish.query)
    encoder = load_encoder(model, notice=notice)
    found = reranked(photos, order, encoder, captioner_of(encoder), k, offset)
    notice(
        f"the first {found.reranked} hits were reranked by {encoder.name}; scores and confidence are still those of "
        "the search" + (f". {found.unread} could not be read and kept their places" if found.unread else "")
    )
    return found.hits


def _hits_of_server(index: Path | None, query: str, k: int, options: dict[str, Any]) -> Hits | None:
    """The hits from a running server of this user; None where none can say, and where nothing is found."""
    from clipsearch.daemon import client

    place = config.find_index(index)
    hits = client.ask(place, query, k, options, notice)
    if hits is not None:
        config.remember_index(place)
        lap("ask the server")
    return hits


def _path_of(hit: Hit) -> str:
    """The path of a hit; of one in an archive, what stands for it there."""
    if hit.record.is_region:  # which is no picture
        hit = dataclasses.replace(hit, record=dataclasses.replace(hit.record, view=""))
    return hit.where if hit.record.member else hit.path


def _draw(drawing: Preview, hit: Hit) -> None:
    from clipsearch.cli.taking import file_of_hit

    sys.stdout.flush()
    try:
        drawing.show(file_of_hit(hit))
    except UnreadablePicture as error:
        print(f"     ({shown(error.reason)})")


def joined(words: list[str]) -> str:
    """The query that the words of a command line are. What the shell took for one word stays one filter."""
    if len(words) == 1:
        return words[0]
    return " ".join(_requoted(word) for word in words)


def _requoted(word: str) -> str:
    name, colon, value = word.partition(":")
    if colon and " " in value and '"' not in value and name.lstrip("-\N{MINUS SIGN}").isalpha():
        from clipsearch.query.fields import FILTERS, SAME_FIELDS, as_filter

        field = name.lstrip("-\N{MINUS SIGN}").lower()
        if field in FILTERS or field in SAME_FIELDS:
            return as_filter(name, value)
    return word
