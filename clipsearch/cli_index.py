"""`clipsearch index`, `status`, `verify`, `compact` and `tune`: make an index, look after it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipsearch import config
from clipsearch.cli_options import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    AllowPickleOption,
    CheckpointOption,
    IndexOption,
    JsonOption,
    ModelOption,
    RecallOption,
    notice,
    print_json,
    quoted,
    system_words,
)
from clipsearch.errors import ClipsearchError
from clipsearch.records import SKIP_STATUSES
from clipsearch.terminal import count, duration, progress_display, safe, shown, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from clipsearch.indexer.build import IndexOptions, IndexReport

EXAMPLES_PER_REASON = 3

app = typer.Typer(rich_markup_mode=None)

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
        bool,
        typer.Option(
            "--reindex",
            help="Encode everything again, also with another model. The old vectors answer until all is done.",
        ),
    ] = False,
    reread_metadata: Annotated[
        bool,
        typer.Option(
            "--reread-metadata",
            help="Read dates, places and cameras again where an older version did. Encodes nothing.",
        ),
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
    prune: Annotated[
        bool, typer.Option("--prune", help="Forget missing pictures: those whose folder or drive cannot be seen.")
    ] = False,
    keep_missing: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Forget missing pictures after so many days.")
    ] = 30.0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            help="Leave out what matches, in this run; again for more. To keep it out: a .clipsearchignore file.",
            metavar="GLOB",
        ),
    ] = None,
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
      clipsearch index ./photos --reread-metadata               (dates that older versions could not read)
      clipsearch index ./photos --exclude Screenshots --exclude "*.gif"
      clipsearch index ./photos --watch                         (keep it current until Ctrl-C)
    """
    from contextlib import ExitStack

    from clipsearch.encoder.names import load_encoder
    from clipsearch.indexer.api import model_of, prepare_queries
    from clipsearch.indexer.build import IndexOptions, check_folder, index_folder
    from clipsearch.indexer.ignore import Ignore

    options = IndexOptions(
        batch_pictures=batch,
        workers=workers,
        timeout_s=timeout,
        retry_skipped=retry_skipped,
        reindex=reindex,
        reread_metadata=reread_metadata,
        recall=recall,
        prune=prune,
        keep_missing_days=keep_missing,
        exclude=tuple(exclude or ()),
    )
    check_folder(folder)
    try:
        Ignore(folder, options.exclude)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--exclude") from None
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
            notice=notice,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--precision") from None

    def run(options: IndexOptions) -> IndexReport:
        with ExitStack() as stack:
            report_progress = None if quiet else stack.enter_context(progress_display())
            return index_folder(folder, encoder, index=index, options=options, progress=report_progress)

    def show(report: IndexReport) -> None:
        if as_json:
            print_json(_report_json(report))
        elif not quiet:
            _print_report(report, index or folder)

    report = run(options)
    for warning in report.warnings:
        notice(warning)
    config.remember_index(report.index)
    prepare_queries(encoder)
    show(report)
    if watch and not report.asked_to_stop:
        again = dataclasses.replace(
            options, reindex=False, reread_metadata=False, retry_skipped=False, recall=None, prune=False
        )
        report = _keep_current(folder, place, options.exclude, report, lambda: run(again), show)
    if report.interrupted:
        command = _command("index", folder, index)
        command += "".join(f" --exclude {quoted(pattern)}" for pattern in options.exclude)
        if reindex and report.generation:
            command += (f" --model {quoted(model)}" if model else "") + " --reindex"
        if reread_metadata:
            command += " --reread-metadata"
        print(f"Stopped. What is done is kept; go on with: {command}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if strict and any(skip.status != "not_a_picture" for skip in report.skipped):
        raise typer.Exit(EXIT_ERROR)


def _keep_current(
    folder: Path,
    place: Path,
    exclude: tuple[str, ...],
    last: IndexReport,
    run: Callable[[], IndexReport],
    show: Callable[[IndexReport], None],
) -> IndexReport:
    """Run again whenever the folder changed, until Ctrl-C or SIGTERM. Returns the last report."""
    import signal
    import threading

    from clipsearch.indexer.watch import changes

    stop, failed, told = threading.Event(), threading.Event(), ""
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    print(f"Watching {quoted(folder)}; stop with Ctrl-C.", file=sys.stderr, flush=True)
    try:
        for _ in changes(folder, place, stop, exclude=exclude, notice=notice, failed=failed):
            try:
                report = run()
            except BrokenPipeError:
                raise
            except (ClipsearchError, OSError) as error:
                # An unplugged drive comes back, a full disk is emptied, a lock released.
                line = f"{system_words(error)}; looking again later" if isinstance(error, OSError) else str(error)
                if line != told:
                    notice(line)
                told = line
                failed.set()
                continue
            told = ""
            if report.generation != last.generation:
                show(report)
                sys.stdout.flush()
            last = report
            if report.asked_to_stop:
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
        "metadata_read": report.described,
        "renamed": report.renamed,
        "copied": report.copied,
        "removed": report.removed,
        "missing": report.missing,
        "returned": report.returned,
        "forgotten": report.forgotten,
        "other_files": report.other_files,
        "withdrawn": report.withdrawn,
        "left_out": report.left_out,
        "warnings": report.warnings,
        "pictures": report.pictures,
        "skipped": [dataclasses.asdict(skip) for skip in report.skipped],
        "skipped_by_status": report.skipped_by_status,
        "partial": report.partial,
        "seconds": round(report.seconds, 3),
        "pictures_per_s": round(report.pictures_per_s, 2),
        "interrupted": report.interrupted,
    }


def _print_report(report: IndexReport, place: Path) -> None:
    from clipsearch.indexer.retries import is_circumstance

    parts = [f"{report.encoded:,} indexed"]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (report.unchanged, "unchanged"),
            (report.touched, "with new dates only"),
            (report.described, "with metadata read again"),
            (report.renamed, "renamed"),
            (report.copied, "copies of known pictures"),
            (report.removed, "removed"),
            (report.returned, "back again"),
            (report.forgotten, "forgotten"),
            (report.withdrawn, "no longer searched (left out)"),
            (report.partial, "read in part"),
            (len(report.skipped), "skipped"),
        )
        if number
    ]
    if report.missing:
        print(
            f"{count(report.missing, 'picture')} missing: their folder or drive cannot be seen, or is left out. They "
            "are kept but not shown, and come back without being read. Forget them with: --prune",
            file=sys.stderr,
        )
    per_s = report.pictures_per_s or report.described_per_s
    rate = f" ({per_s:.1f} pictures/s)" if per_s else ""
    print(f"{', '.join(parts)} in {duration(report.seconds)}{rate}")
    for status, number in report.skipped_by_status.items():
        print(f"  skipped {number:,} {STATUS_WORDS[status]}")
        examples = [skip for skip in report.skipped if skip.status == status]
        for skip in examples[:EXAMPLES_PER_REASON]:
            print(f"    {shown(skip.path) or '.'}: {shown(skip.reason)}")
        if any(is_circumstance(skip.status, skip.reason) for skip in examples):
            print(f"    {TRIED_AGAIN[status]}")
        if number > EXAMPLES_PER_REASON:
            print(f"    ... all of them: clipsearch status --skipped --index {quoted(place)}")
    if report.left_out:
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in report.left_out.items())
        print(f"  left out: {reasons}")
    found = count(report.pictures, "picture")
    print(f'{found} can be searched: clipsearch query "a dog on a beach" --index {quoted(place)}')


TRIED_AGAIN: dict[str, str] = {
    "timeout": "The next runs try these again with more time, three times in all. More time now: --timeout SECONDS",
    "decoder_crashed": "The next runs try these again, up to three times in all. At any time: --retry-skipped",
    "too_large": "The next runs try again what needed too much memory, up to three times in all.",
}

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


# --- status, verify, compact ----------------------------------------------------------------------------


@app.command()
def status(
    index: IndexOption = None,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="List every file that was skipped or read only in part, and why.")
    ] = False,
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
        if not skipped:
            body = {k: v for k, v in body.items() if k != "skipped"} | {"partial": len(found.partial)}
        print_json(body)
        return
    if skipped:
        for skip in sorted(found.skipped, key=lambda skip: (SKIP_STATUSES.index(skip.status), skip.path)):
            print(f"{skip.status}\t{shown(skip.path)}\t{shown(skip.reason)}")
        for picture in sorted(found.partial, key=lambda picture: picture.path):
            print(f"partial\t{shown(picture.path)}\t{shown(picture.reason)}")
        return
    print(f"pictures    {found.pictures:,}")
    if found.partial:
        print(f"              {len(found.partial):,} of them read in part")
    if found.missing:
        print(f"missing     {found.missing:,} (their files cannot be seen; kept until they are back or pruned)")
    print(f"skipped     {sum(found.skipped_by_status.values()):,}")
    for name, number in found.skipped_by_status.items():
        print(f"              {number:,} {STATUS_WORDS[name]}")
    print(f"folder      {shown(str(found.root))}")
    print(f"index       {shown(str(found.index))} ({size(found.size_bytes)})")
    print(f"model       {safe(found.model)}, {found.dim} dimensions")
    print(f"generation  {found.generation}, committed {found.committed_at}")
    print(f"fragments   {found.fragments}, with {count(found.deleted_rows, 'deleted row')} in them")
    if found.rebuilt is not None:
        print(f"re-index    {found.rebuilt:,} done; go on with the same `clipsearch index --reindex` command")
    print(f"search      {'inverted file' if found.inverted_files else 'exact'}")


@app.command()
def verify(
    index: IndexOption = None,
    mend: Annotated[
        bool, typer.Option("--repair", help="Repair what is damaged from what is whole. Deletes nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of an index: checksums, counts, and that its files agree with each other.

    \b
    --repair builds search files again from Parquet and Parquet again from search files, and moves what is
    damaged to `damaged/` in the index folder. Only where both are damaged are rows lost; the next
    `clipsearch index` encodes those pictures again.

    \b
    Examples:
      clipsearch verify
      clipsearch verify --repair --index ./photos
    """
    from clipsearch.indexer.repair import repair
    from clipsearch.indexer.verify import verify as check

    place = config.find_index(index)
    mended = repair(place) if mend else None
    report = check(place)
    if as_json:
        body = dataclasses.asdict(report) | {"index": str(report.index), "ok": report.ok}
        if mended is not None:
            body["repair"] = dataclasses.asdict(mended) | {"index": str(mended.index)}
        print_json(body)
    else:
        if mended is not None:
            for action in mended.actions:
                print(f"repaired: {safe(action)}")
            if mended.put_aside:
                print(f"{count(len(mended.put_aside), 'damaged file')} kept in {safe(str(place / 'damaged'))}")
            if mended.lost_rows:
                print(
                    f"{count(mended.lost_rows, 'row')} could not be recovered; read their files again with: "
                    f"{_command('index', report_root(place), index)}"
                )
            if not mended.actions:
                print("nothing to repair")
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
            print(f"Repair it with: clipsearch verify --repair --index {quoted(place)}", file=sys.stderr)
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
        print_json(dataclasses.asdict(report))
        return
    print(
        f"{count(report.fragments_before, 'fragment')} ({size(report.bytes_before)}) -> "
        f"{report.fragments_after} ({size(report.bytes_after)}), "
        f"{count(report.deleted_rows_dropped, 'deleted row')} dropped"
    )


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.", metavar="FILE.parquet")],
    index: IndexOption = None,
) -> None:
    """Write all pictures of an index, what is known of them and their vectors, as one Parquet file.

    \b
    Any program that reads Parquet can use it: pandas, DuckDB, Arrow. Missing pictures are left out.

    \b
    Examples:
      clipsearch export photos.parquet
      clipsearch export /tmp/photos.parquet --index ./photos
    """
    from clipsearch.store.export import export_parquet

    written = export_parquet(config.find_index(index), file)
    print(f"{count(written, 'picture')} with vectors in {quoted(file)}")


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
        print_json(dataclasses.asdict(report))
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


def _command(name: str, folder: Path, index: Path | None) -> str:
    return f"clipsearch {name} {quoted(folder)}" + (f" --index {quoted(index)}" if index is not None else "")
