"""The command line: reads arguments, calls the library, formats what comes back. Nothing else prints or exits."""

from __future__ import annotations

import csv
import dataclasses
import gc
import io
import itertools
import json
import math
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
import typer.core

from clipsearch import __version__, cli_models, config
from clipsearch.errors import ClipsearchError, EmptyQuery, InvalidQuery, UnreadablePicture
from clipsearch.records import SKIP_STATUSES, Hit
from clipsearch.terminal import count, duration, progress_display, safe, size
from clipsearch.timing import lap, print_laps

if TYPE_CHECKING:
    from collections.abc import Callable

    from clipsearch.indexer.build import IndexOptions, IndexReport
    from clipsearch.preview import Preview

EXIT_ERROR, EXIT_USAGE, EXIT_NOTHING_FOUND, EXIT_INTERRUPTED = 1, 2, 3, 130
EXAMPLES_PER_REASON = 3

LATER = {
    "eval": "clipsearch.cli_eval",
    "classify": "clipsearch.cli_classify",
    "similar": "clipsearch.cli_collection",
    "dedupe": "clipsearch.cli_collection",
    "illustrate": "clipsearch.cli_collection",
    "concept": "clipsearch.cli_collection",
    "serve": "clipsearch.cli_serve",
    "train": "clipsearch.cli_train",
    "ui": "clipsearch.cli_serve",
}
"""Commands whose module is imported when they are asked for, so that a query does not wait for it: NAME -> module."""


class _Commands(typer.core.TyperGroup):
    """The commands of this module, and those of LATER."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; a module with an `app` of that name is a group of commands itself."""
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        commands = typer.main.get_group(import_module(LATER[cmd_name]).app)
        return commands.commands.get(cmd_name, commands)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Type a sentence, see your photos. Everything runs on this machine.

    \b
      clipsearch index ./photos
      clipsearch query "a dog on a beach"
    """,
)
app.add_typer(cli_models.app, name="models")

IndexOption = Annotated[
    Path | None,
    typer.Option("--index", help="Folder of the index, if it is not `.clipsearch` in the photo folder.", metavar="DIR"),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="builtin, a model directory, NAME__TAG (a published ONNX export) or open_clip:NAME/TAG. "
        "See: clipsearch models list",
        metavar="MODEL",
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Weights (safetensors) for --model open_clip:NAME.", metavar="FILE"),
]
AllowPickleOption = Annotated[
    bool, typer.Option("--allow-pickle", help="Load a .pt checkpoint that you trust: it can run code.")
]
RecallOption = Annotated[
    float | None,
    typer.Option(
        "--recall",
        min=0.5,
        max=0.999,
        help="Share of the true ten nearest that searching 200,000 pictures and more must find; kept for later.",
        metavar="R",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"clipsearch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "query":  # a query is over before there is garbage to collect
        gc.enable()


# --- index ---------------------------------------------------------------------------------------------


@app.command(name="index")
def index_command(
    folder: Annotated[
        Path, typer.Argument(help="The folder with the pictures; folders in it are searched too.", metavar="FOLDER")
    ],
    index: IndexOption = None,
    model: ModelOption = None,
    checkpoint: CheckpointOption = None,
    allow_pickle: AllowPickleOption = False,
    reindex: Annotated[
        bool, typer.Option("--reindex", help="Encode everything again, also with another model.")
    ] = False,
    retry_skipped: Annotated[bool, typer.Option("--retry-skipped", help="Read again what was skipped before.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a picture could not be read.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that decode pictures.", metavar="N")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=4096, help="Pictures encoded at once.", metavar="N")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one picture may take.", metavar="S")] = 10.0,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"],
        typer.Option(
            envvar="CLIPSEARCH_PRECISION",
            help="Arithmetic of the image tower. auto: the fastest here whose vectors agree with fp32.",
        ),
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cuda, mps or cpu, for open_clip: models.", metavar="DEVICE")
    ] = None,
    recall: RecallOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: keep the index current while files come and go, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
) -> None:
    """Index a folder of pictures, or bring its index up to date.

    \b
    Only what is new or changed is read; renamed and moved pictures cost nothing.
    Ctrl-C is safe at any time: what is done is kept, and the next run goes on from there.

    \b
    Examples:
      clipsearch index ./photos
      clipsearch index /mnt/nas/photos --index ~/photo-index    (a folder you may not write to)
      clipsearch index ./photos --model ViT-B-32-SigLIP2-256__webli --reindex
      clipsearch index ./photos --watch                         (keep it current until Ctrl-C)
    """
    from contextlib import ExitStack

    from clipsearch.encoder.names import load_encoder
    from clipsearch.indexer.api import model_of, prepare_queries
    from clipsearch.indexer.build import IndexOptions, check_folder, index_folder

    options = IndexOptions(
        batch_pictures=batch,
        workers=workers,
        timeout_s=timeout,
        retry_skipped=retry_skipped,
        reindex=reindex,
        recall=recall,
    )
    check_folder(folder)
    if watch:
        from clipsearch.indexer.watch import check_watching

        check_watching()
    place = config.index_dir_for(folder, index)
    try:
        encoder = load_encoder(
            model or model_of(place) or "auto",
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            allow_pickle=allow_pickle,
            notice=cli_models.notice,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--precision") from None

    def run(options: IndexOptions) -> IndexReport:
        with ExitStack() as stack:
            report_progress = None if quiet else stack.enter_context(progress_display())
            return index_folder(folder, encoder, index=index, options=options, progress=report_progress)

    def show(report: IndexReport) -> None:
        if as_json:
            _print_json(_report_json(report))
        elif not quiet:
            _print_report(report, index or folder)

    report = run(options)
    config.remember_index(report.index)
    prepare_queries(encoder)
    show(report)
    if watch and not report.interrupted:
        again = dataclasses.replace(options, reindex=False, retry_skipped=False, recall=None)
        report = _keep_current(folder, place, report, lambda: run(again), show)
    if report.interrupted:
        print(f"Stopped. What is done is kept; go on with: {_command('index', folder, index)}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if strict and any(skip.status != "not_a_picture" for skip in report.skipped):
        raise typer.Exit(EXIT_ERROR)


def _keep_current(
    folder: Path,
    place: Path,
    last: IndexReport,
    run: Callable[[], IndexReport],
    show: Callable[[IndexReport], None],
) -> IndexReport:
    """Run again whenever the folder changed, until Ctrl-C or SIGTERM. Returns the last report."""
    import signal
    import threading

    from clipsearch.indexer.watch import changes

    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    print(f"Watching {_quoted(folder)}; stop with Ctrl-C.", file=sys.stderr, flush=True)
    try:
        for _ in changes(folder, place, stop):
            try:
                report = run()
            except ClipsearchError as error:  # an unplugged drive comes back, a full disk is emptied, a lock released
                cli_models.notice(str(error))
                continue
            if report.generation != last.generation:
                show(report)
                sys.stdout.flush()
            last = report
            if report.interrupted:
                break
    except KeyboardInterrupt:  # while nothing was being done
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    return last


def _report_json(report: IndexReport) -> dict[str, Any]:
    return {
        "index": str(report.index),
        "root": str(report.root),
        "generation": report.generation,
        "found": report.found,
        "indexed": report.encoded,
        "unchanged": report.unchanged,
        "updated": report.touched,
        "renamed": report.renamed,
        "copied": report.copied,
        "removed": report.removed,
        "pictures": report.pictures,
        "skipped": [dataclasses.asdict(skip) for skip in report.skipped],
        "skipped_by_status": report.skipped_by_status,
        "seconds": round(report.seconds, 3),
        "pictures_per_s": round(report.pictures_per_s, 2),
        "interrupted": report.interrupted,
    }


def _print_report(report: IndexReport, place: Path) -> None:
    parts = [f"{report.encoded:,} indexed"]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (report.unchanged, "unchanged"),
            (report.touched, "with new dates only"),
            (report.renamed, "renamed"),
            (report.copied, "copies of known pictures"),
            (report.removed, "removed"),
            (len(report.skipped), "skipped"),
        )
        if number
    ]
    rate = f" ({report.pictures_per_s:.1f} pictures/s)" if report.encoded else ""
    print(f"{', '.join(parts)} in {duration(report.seconds)}{rate}")
    for status, number in report.skipped_by_status.items():
        print(f"  skipped {number:,} {STATUS_WORDS[status]}")
        examples = [skip for skip in report.skipped if skip.status == status]
        for skip in examples[:EXAMPLES_PER_REASON]:
            print(f"    {safe(skip.path) or '.'}: {safe(skip.reason)}")
        if number > EXAMPLES_PER_REASON:
            print(f"    ... all of them: clipsearch status --skipped --index {_quoted(place)}")
    found = count(report.pictures, "picture")
    print(f'{found} can be searched: clipsearch query "a dog on a beach" --index {_quoted(place)}')


STATUS_WORDS = {
    "not_a_picture": "that are not pictures",
    "unsupported_format": "in formats that clipsearch does not read",
    "missing_extra": "that need an optional part",
    "empty": "that are empty",
    "corrupt": "that are damaged",
    "truncated": "that end too early",
    "too_large": "that are too large",
    "timeout": "that took too long to read",
    "decoder_crashed": "whose decoder crashed",
    "unreadable": "that could not be opened",
}


# --- query ---------------------------------------------------------------------------------------------


class QueryCommand(typer.core.TyperCommand):
    """`clipsearch query dog -people`: takes a word with a minus for part of the query, not for options."""

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
    query: Annotated[list[str], typer.Argument(help="What to look for: words, pictures, filters. See docs/query.md.")],
    k: Annotated[int, typer.Option("-k", "--hits", min=1, help="How many hits.", metavar="N")] = 20,
    sort: Annotated[
        Literal["score", "date", "path"], typer.Option(help="The order of the hits; date is newest first.")
    ] = "score",
    show_all: Annotated[
        bool, typer.Option("--all", help="Show also what is unlikely to be what you look for.")
    ] = False,
    unique: Annotated[
        bool, typer.Option("--unique", help="Fold near-duplicates into the best of them, and list the others.")
    ] = False,
    diverse: Annotated[bool, typer.Option("--diverse", help="Prefer hits that differ from those before.")] = False,
    like: Annotated[
        list[int] | None, typer.Option(help="row_id of a hit that was right; again for more.", metavar="ID")
    ] = None,
    unlike: Annotated[
        list[int] | None, typer.Option(help="row_id of a hit that was wrong; again for more.", metavar="ID")
    ] = None,
    index: IndexOption = None,
    model: ModelOption = None,
    checkpoint: CheckpointOption = None,
    allow_pickle: AllowPickleOption = False,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print the paths only, one a line.")] = False,
    zero: Annotated[bool, typer.Option("-0", help="Print the exact paths, each ended by NUL, for xargs -0.")] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the pictures in the terminal (kitty, sixel, else half blocks).")
    ] = False,
    daemon: Annotated[
        Literal["auto", "off"],
        typer.Option(
            envvar="CLIPSEARCH_DAEMON",
            help="auto: start a process that answers later queries sooner, and ends when idle for 15 minutes.",
        ),
    ] = "off",
) -> None:
    """Find pictures by a sentence, by pictures, by what the files say of themselves.

    \b
    Looks in --index, $CLIPSEARCH_INDEX, `.clipsearch` here and in the folders above, then the index used last.
    Exit status: 0 found, 1 error, 2 wrong usage, 3 nothing found.

    \b
    Examples:
      clipsearch query "a dog on a beach"
      clipsearch query holiday.jpg -k 5                         (pictures like this one)
      clipsearch query horse + stripes                          (sums; also: cat - dog, 2:dog + ./pool.jpg)
      clipsearch query "dog beach -people after:2023-05 folder:trips"
      clipsearch query "(camera:canon or ext:png) not tag:seen" --sort date
      clipsearch query "red car" -0 | xargs -0 cp -t ./red-cars
      clipsearch query "sunset" --json --unique --index ./photos
    """
    if as_json + as_csv + paths + zero + preview > 1:
        raise InvalidQuery("--json, --csv, --paths, -0 and --preview exclude each other")
    words = joined(query)
    if not words.strip():
        raise EmptyQuery
    drawing = None
    if preview:
        from clipsearch.preview import Preview

        drawing = Preview(sys.stdout)
    encoder = None
    if checkpoint is not None or allow_pickle:
        from clipsearch.encoder.names import load_encoder
        from clipsearch.indexer.api import model_of

        name = model or model_of(config.find_index(index)) or "auto"
        encoder = load_encoder(name, checkpoint=checkpoint, allow_pickle=allow_pickle, notice=cli_models.notice)
    options: dict[str, Any] = {
        "sort": sort,
        "unique": unique,
        "diverse": diverse,
        "like": like or (),
        "unlike": unlike or (),
        "all": show_all,
    }
    lap("start and imports")
    hits = _hits_of_server(index, words, k, options) if model is None and encoder is None else None
    if hits is None:
        from clipsearch.search import open_collection

        with open_collection(index, model=model, encoder=encoder) as photos:
            lap("open and verify the index")
            parsed = photos.parse(words)
            vector = photos.query_vector(parsed)
            lap("load the model and encode the query")
            hits = photos.search(parsed, k, **options, vector=vector)
            if daemon == "auto" and model is None and encoder is None:
                from clipsearch.warm import start_daemon

                start_daemon(photos.index)
            lap("search and look up the rows")
            config.remember_index(photos.index)
            root, pictures = photos.root, len(photos)
            filtered = parsed.filter is not None and pictures > 0
    if as_json:
        _print_json([_hit_json(hit) for hit in hits])
    elif as_csv:
        _print_bytes(_hits_csv(hits))
    elif zero:
        _print_bytes(b"".join(os.fsencode(hit.path) + b"\0" for hit in hits))
    elif paths:
        for hit in hits:
            print(safe(hit.path))
    else:
        for hit in hits:
            score = "    -" if math.isnan(hit.score) else f"{hit.score:.3f}"
            band = "" if hit.band is None else f"{hit.band:8}  "
            print(f"{hit.rank:3d}  {score}  {band}{safe(_shortest(hit.path))}")
            for other in hit.others:
                print(f"                      = {safe(_shortest(other.path))}")
            if drawing is not None:
                _draw(drawing, hit.path)
    lap("remember the index and print")
    print_laps()
    if not hits:
        if pictures and vector is not None and not show_all:
            why = ": no picture is likely to show this (--all shows the nearest ones anyway)"
        elif filtered:
            why = ": no picture passes the filters"
        else:
            why = " has no searchable pictures"
        print(f"nothing found: {safe(str(root))}{why}", file=sys.stderr)
        raise typer.Exit(EXIT_NOTHING_FOUND)


def _hits_of_server(index: Path | None, query: str, k: int, options: dict[str, Any]) -> list[Hit] | None:
    """The hits from a running server of this user; None where none can say, and where nothing is found."""
    from clipsearch import warm

    place = config.find_index(index)
    hits = warm.ask(place, query, k, options)
    if hits is not None:
        config.remember_index(place)
        lap("ask the server")
    return hits


def _draw(drawing: Preview, path: str) -> None:
    sys.stdout.flush()
    try:
        drawing.show(path)
    except UnreadablePicture as error:
        print(f"     ({safe(error.reason)})")


def joined(words: list[str]) -> str:
    """The query that the words of a command line are. What the shell took for one word stays one filter."""
    if len(words) == 1:
        return words[0]
    return " ".join(_requoted(word) for word in words)


def _requoted(word: str) -> str:
    name, colon, value = word.partition(":")
    if colon and " " in value and '"' not in value and name.lstrip("-\N{MINUS SIGN}").isalpha():
        from clipsearch.query import FIELDS

        if name.lstrip("-\N{MINUS SIGN}").lower() in FIELDS:
            return f'{name}:"{value}"'
    return word


def _hit_json(hit: Hit) -> dict[str, Any]:
    record = hit.record
    return {
        "rank": hit.rank,
        "score": None if math.isnan(hit.score) else round(hit.score, 6),
        "confidence": None if hit.confidence is None else round(hit.confidence, 4),
        "band": hit.band,
        "path": hit.path,
        "row_id": record.row_id,
        "width": record.width,
        "height": record.height,
        "size_bytes": record.size_bytes,
        "mtime_ns": record.mtime_ns,
        "content_hash": record.content_hash,
        **dataclasses.asdict(record.metadata),
        **({"others": [_hit_json(other) for other in hit.others]} if hit.others else {}),
    }


def _hits_csv(hits: list[Hit]) -> bytes:
    buffer = io.StringIO(newline="")
    columns = [
        "rank",
        "score",
        "confidence",
        "band",
        "path",
        "row_id",
        "width",
        "height",
        "size_bytes",
        "taken_at",
        "camera",
    ]
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore")
    writer.writeheader()
    for hit in hits:
        writer.writerow({**_hit_json(hit), "path": safe(hit.path)})
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _shortest(path: str) -> str:
    """`path` as it is shortest to type from here."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path


# --- status, verify, compact ----------------------------------------------------------------------------


@app.command()
def status(
    index: IndexOption = None,
    skipped: Annotated[bool, typer.Option("--skipped", help="List every file that was skipped, and why.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what an index holds.

    \b
    Examples:
      clipsearch status
      clipsearch status --skipped --index ./photos
    """
    from clipsearch.indexer.status import read_status

    found = read_status(config.find_index(index))
    if as_json:
        body = dataclasses.asdict(found)
        body["index"], body["root"] = str(found.index), str(found.root)
        _print_json(body if skipped else {k: v for k, v in body.items() if k != "skipped"})
        return
    if skipped:
        for skip in sorted(found.skipped, key=lambda skip: (SKIP_STATUSES.index(skip.status), skip.path)):
            print(f"{skip.status}\t{safe(skip.path)}\t{safe(skip.reason)}")
        return
    print(f"pictures    {found.pictures:,}")
    print(f"skipped     {sum(found.skipped_by_status.values()):,}")
    for name, number in found.skipped_by_status.items():
        print(f"              {number:,} {STATUS_WORDS[name]}")
    print(f"folder      {safe(str(found.root))}")
    print(f"index       {safe(str(found.index))} ({size(found.size_bytes)})")
    print(f"model       {safe(found.model)}, {found.dim} dimensions")
    print(f"generation  {found.generation}, committed {found.committed_at}")
    print(f"fragments   {found.fragments}, with {count(found.deleted_rows, 'deleted row')} in them")
    print(f"search      {'inverted file' if found.inverted_files else 'exact'}")


@app.command()
def verify(
    index: IndexOption = None,
    mend: Annotated[bool, typer.Option("--repair", help="Mend what is damaged, from what is whole.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of an index: checksums, counts, and that its files agree with each other.

    \b
    --repair builds search files again from Parquet and Parquet again from search files. Only where both
    are damaged are rows lost; the next `clipsearch index` encodes those pictures again.

    \b
    Examples:
      clipsearch verify
      clipsearch verify --repair --index ./photos
    """
    from clipsearch.indexer.verify import repair
    from clipsearch.indexer.verify import verify as check

    place = config.find_index(index)
    mended = repair(place) if mend else None
    report = check(place)
    if as_json:
        body = dataclasses.asdict(report) | {"index": str(report.index), "ok": report.ok}
        if mended is not None:
            body["repair"] = dataclasses.asdict(mended) | {"index": str(mended.index)}
        _print_json(body)
    else:
        if mended is not None:
            for action in mended.actions:
                print(f"mended: {safe(action)}")
            if mended.lost_rows:
                print(
                    f"{count(mended.lost_rows, 'row')} could not be recovered; read their files again with: "
                    f"{_command('index', report_root(place), index)}"
                )
            if not mended.actions:
                print("nothing to mend")
        for problem in report.problems:
            print(f"{safe(problem.file)}: {safe(problem.message)}")
        if report.ok:
            print(
                f"generation {report.generation} is whole: {count(report.pictures, 'picture')}, "
                f"{count(report.files, 'file')}, {size(report.bytes_read)}"
            )
        if report.orphans:
            left = f"{count(len(report.orphans), 'file')} ({size(report.orphan_bytes)})"
            print(f"{left} left over from a run that was cut short; the next run deletes them")
    if not report.ok:
        if not mend:
            print(f"mend it with: clipsearch verify --repair --index {_quoted(place)}", file=sys.stderr)
        raise typer.Exit(EXIT_ERROR)


def report_root(index: Path) -> Path:
    """The folder that an index is of."""
    from clipsearch.store import open_snapshot

    with open_snapshot(index) as snapshot:
        return snapshot.root


@app.command()
def compact(index: IndexOption = None, recall: RecallOption = None, as_json: JsonOption = False) -> None:
    """Join the files of an index into few, and free the space of deleted rows.

    \b
    Runs by itself, in steps, while an index grows; worth calling after large deletions.

    \b
    Examples:
      clipsearch compact
      clipsearch compact --index ./photos
      clipsearch compact --recall 0.99                          (find more of a large collection, more slowly)
    """
    from clipsearch.indexer.compact import compact as run

    report = run(config.find_index(index), recall=recall)
    if as_json:
        _print_json(dataclasses.asdict(report))
        return
    print(
        f"{count(report.fragments_before, 'fragment')} ({size(report.bytes_before)}) -> "
        f"{report.fragments_after} ({size(report.bytes_after)}), "
        f"{count(report.deleted_rows_dropped, 'deleted row')} dropped"
    )


@app.command()
def tune(
    index: IndexOption = None,
    recall: RecallOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how much a large index finds of what exact search finds, and how fast; choose with --recall.

    \b
    Collections of up to 200,000 pictures are searched exactly, and there is nothing to tune.

    \b
    Examples:
      clipsearch tune
      clipsearch tune --recall 0.95
    """
    from clipsearch.indexer.tune import show_tuning
    from clipsearch.indexer.tune import tune as choose

    place = config.find_index(index)
    report = show_tuning(place) if recall is None else choose(place, recall)
    if as_json:
        _print_json(dataclasses.asdict(report))
        return
    for segment in report.segments:
        ivf = segment.parameters
        print(f"{segment.rows:,} rows in {ivf.nlist:,} lists of {ivf.code}; {ivf.rerank} candidates a hit scored again")
        print("  lists   recall@10 of pictures   of sentences   ms (one thread)")
        for point in segment.curve:
            print(
                f"  {point.nprobe:5d}   {point.recall_pictures:21.3f}   {point.recall_sentences:12.3f}"
                f"   {point.query_ms:15.2f}"
            )
        print(f"  a query visits {ivf.nprobe}, chosen for a recall of {report.recall_target:g}")
    print(f"{count(report.exact_rows, 'row')} searched exactly (recall 1)")


# --- printing ------------------------------------------------------------------------------------------


def _print_json(body: Any) -> None:
    print(json.dumps(body, indent=2))


def _print_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _quoted(path: Path | str) -> str:
    import shlex

    return shlex.quote(safe(str(path)))


def _command(name: str, folder: Path, index: Path | None) -> str:
    return f"clipsearch {name} {_quoted(folder)}" + (f" --index {_quoted(index)}" if index is not None else "")


def main() -> None:
    """The program. Exits with 0, or: 1 error, 2 wrong usage, 3 nothing found, 130 interrupted."""
    try:
        code = app(standalone_mode=False)
    except InvalidQuery as error:
        _fail(str(error), EXIT_USAGE)
    except ClipsearchError as error:
        _fail(str(error), EXIT_ERROR)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        show, status = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or status is None:  # not typer's word for wrong usage: a bug of ours
            raise
        show()
        sys.exit(status)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    for n, line in enumerate(message.split("\n")):
        print(safe(line) if n else f"clipsearch: {safe(line)}", file=sys.stderr)
    sys.exit(code)
