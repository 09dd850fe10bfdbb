"""`clipsearch index`: make an index of a folder, and keep it current."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core

from clipsearch import config
from clipsearch.cli.options import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    AllowPickleOption,
    CheckpointOption,
    IndexOption,
    JsonOption,
    ModelOption,
    RecallOption,
    index_line,
    notice,
    print_json,
    quoted,
    system_words,
)
from clipsearch.cli.skipped import STATUS_WORDS, TRIED_AGAIN
from clipsearch.cli.terminal import count, duration, progress_display, rows_of, shown, size
from clipsearch.errors import ClipsearchError, InvalidArgument
from clipsearch.places import as_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clipsearch.indexer.build import IndexOptions, IndexReport
    from clipsearch.indexer.executors import Executor
    from clipsearch.indexer.plan import IndexPlan

EXAMPLES_PER_REASON = 3

app = typer.Typer(rich_markup_mode=None)


class IndexCommand(typer.core.TyperCommand):
    """`clipsearch index`: its help ends with the formats that it reads."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from clipsearch.pictures.formats import FORMATS

        with formatter.section("Pictures"):
            formatter.write_text(", ".join(found.label for found in FORMATS if found.extra is None))
            for found in FORMATS:
                if found.extra is not None:
                    formatter.write_text(f"{found.label}: pip install 'clipsearch[{found.extra}]'")


@app.command(name="index", cls=IndexCommand)
def index_command(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with the pictures, including its subfolders; or a tar, a Parquet or Arrow file, a list of "
            "paths, or an address such as s3://bucket/photos (docs/sources.md).",
            metavar="SOURCE",
        ),
    ],
    index: IndexOption = None,
    model: ModelOption = None,
    checkpoint: CheckpointOption = None,
    allow_pickle: AllowPickleOption = False,
    reindex: Annotated[
        bool,
        typer.Option(
            "--reindex",
            help="Encode everything again, for example with another --model. Queries use the old vectors meanwhile.",
        ),
    ] = False,
    reread_metadata: Annotated[
        bool,
        typer.Option(
            "--reread-metadata",
            help="Read dates, places, cameras, keywords and captions that older versions missed. Encodes nothing.",
        ),
    ] = False,
    retry_skipped: Annotated[
        bool, typer.Option("--retry-skipped", help="Retry pictures that were skipped before.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if a picture cannot be read.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that decode pictures.", metavar="N")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Number of pictures to encode at once.", metavar="N")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Time limit for one picture, in seconds.", metavar="S")
    ] = 10.0,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"],
        typer.Option(
            envvar="CLIPSEARCH_PRECISION",
            help="Precision of the image tower. auto: the fastest whose vectors agree with fp32.",
        ),
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="Device for open_clip: models: cuda, mps or cpu.", metavar="DEVICE")
    ] = None,
    recall: RecallOption = None,
    views: Annotated[
        int | None,
        typer.Option(
            help="Views of each picture: 1, or 5 to find more, at several times the cost (docs/views.md). Saved.",
            metavar="1|5",
        ),
    ] = None,
    regions: Annotated[
        bool | None,
        typer.Option(
            "--regions/--no-regions",
            help="Also keep the vectors of four tiles of each picture, to find parts of it (docs/views.md). Saved.",
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Forget missing pictures (unavailable folder or drive) now.")
    ] = False,
    keep_missing: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Forget missing pictures after this many days.")
    ] = 30.0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            help="Leave out matching files in this run. Can be repeated. For every run: .clipsearchignore.",
            metavar="GLOB",
        ),
    ] = None,
    follow_links: Annotated[
        bool | None,
        typer.Option(
            "--follow-links/--no-follow-links",
            help="Follow links that lead out of SOURCE. Saved. Off in a new index.",
        ),
    ] = None,
    archives: Annotated[
        bool | None,
        typer.Option(
            "--archives/--no-archives",
            help="Also index pictures in tars, Parquet and Arrow files of SOURCE. Saved.",
        ),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Make a new index where an earlier one was deleted.")] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Show what a run would do and how long it would take. Changes nothing."),
    ] = False,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where pictures are read and encoded: on this machine or a Ray cluster (docs/scaling.md)."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Head of the Ray cluster, HOST:PORT or auto. Default: RAY_ADDRESS, else a cluster on this machine.",
            metavar="ADDRESS",
        ),
    ] = None,
    worker_cpus: Annotated[
        int | None, typer.Option(min=1, help="Processor cores of each Ray worker. Default: up to 8.", metavar="N")
    ] = None,
    worker_gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GPUs of each Ray worker; 0 for none. Default: 1 if the model can use it.",
            metavar="N",
        ),
    ] = None,
    unit: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures to send to a Ray worker at once. Default: two seconds' worth.", metavar="N"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep the index up to date as files change, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no summary.")] = False,
) -> None:
    """Index a folder of pictures, or bring its index up to date.

    \b
    Only new and changed pictures are read. Renamed and moved pictures cost nothing.
    Ctrl-C is safe at any time: finished work is kept, and the next run continues from there.

    \b
    Examples:
      clipsearch index ./photos
      clipsearch index shards-0000.tar                          (its index: shards-0000.tar.clipsearch)
      clipsearch index ./shards --archives                      (a folder of tars or Parquet files)
      clipsearch index /mnt/nas/photos --index ~/photo-index    (if the folder is read-only)
      clipsearch index ./photos --model ViT-B-32-SigLIP2-256__webli --reindex
      clipsearch index ./photos --reread-metadata               (dates and keywords that older versions missed)
      clipsearch index ./photos --exclude Screenshots --exclude "*.gif"
      clipsearch index ./photos --plan                          (what would be done, how long it would take)
      clipsearch index ./photos --watch                         (keep it up to date until Ctrl-C)
      clipsearch index /mnt/photos --executor ray --address head:6379     (on all machines of a Ray cluster)
    """
    from contextlib import ExitStack

    from clipsearch.indexer.api import encoder_for
    from clipsearch.indexer.api import index as index_pictures
    from clipsearch.indexer.belonging import check_folder
    from clipsearch.indexer.build import IndexOptions
    from clipsearch.indexer.ignore import Ignore

    options = IndexOptions(
        batch_pictures=batch,
        workers=workers,
        timeout_s=timeout,
        retry_skipped=retry_skipped,
        reindex=reindex,
        reread_metadata=reread_metadata,
        recall=recall,
        views=views,
        regions=regions,
        prune=prune,
        keep_missing_days=keep_missing,
        follow_links=follow_links,
        archives=archives,
        exclude=tuple(exclude or ()),
        new=True if new else None,
    )
    folder = as_address(folder)
    if watch and not folder.is_dir():
        raise typer.BadParameter("only a folder of this machine can be watched", param_hint="--watch")
    check_folder(folder, index)
    if not new:
        config.check_not_away(config.index_dir_for(folder, index))
    try:
        Ignore(folder, options.exclude)
    except InvalidArgument as error:
        raise typer.BadParameter(str(error), param_hint="--exclude") from None
    if watch:
        from clipsearch.indexer.watch import check_watching

        check_watching()
    place = config.index_dir_for(folder, index)
    of_ray = {"--address": address, "--worker-cpus": worker_cpus, "--worker-gpus": worker_gpus, "--unit": unit}
    _check_executor(executor, of_ray)
    try:
        encoder = encoder_for(
            place,
            model,
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            allow_pickle=allow_pickle,
            notice=notice,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--precision") from None

    if plan:
        from clipsearch.indexer.plan import plan_index

        found = plan_index(folder, encoder, index=index, options=options)
        if as_json:
            print_json(found.to_dict())
        else:
            _print_plan(found)
        return

    on: Executor | None = None
    if executor == "ray":
        from clipsearch.indexer.cluster import RayExecutor, Recipe

        weights = None if checkpoint is None else str(checkpoint.absolute())  # workers are in other folders
        load = Recipe(encoder.name, weights, device, precision, allow_pickle)
        on = RayExecutor(address, load, worker_cpus, worker_gpus, unit)

    def run(options: IndexOptions, tell: Callable[[str], None] | None = None) -> IndexReport:
        with ExitStack() as stack:
            report_progress = None if quiet else stack.enter_context(progress_display())
            return index_pictures(
                folder,
                encoder=encoder,
                index=index,
                options=options,
                progress=report_progress,
                notice=tell,
                executor=on,
            )

    def show(report: IndexReport) -> None:
        if as_json:
            print_json(report.to_dict())
        elif not quiet:
            _print_report(report, index or folder)

    report = run(options, notice)
    show(report)
    if watch and not report.asked_to_stop:
        again = dataclasses.replace(
            options, reindex=False, reread_metadata=False, retry_skipped=False, recall=None, prune=False, new=False
        )
        report = _keep_current(folder, place, options.exclude, report, lambda: run(again), show)
    if report.interrupted:
        command = index_line(folder, index)
        command += "".join(f" --exclude {quoted(pattern)}" for pattern in options.exclude)
        if reindex and report.generation:
            command += (f" --model {quoted(model)}" if model else "") + " --reindex"
        if views is not None:
            command += f" --views {views}"
        if regions is not None:
            command += " --regions" if regions else " --no-regions"
        if reread_metadata:
            command += " --reread-metadata"
        if archives is not None:
            command += " --archives" if archives else " --no-archives"
        if follow_links is not None:
            command += " --follow-links" if follow_links else " --no-follow-links"
        if executor == "ray":
            command += " --executor ray"
            for option, value in of_ray.items():
                command += f" {option} {quoted(str(value))}" if value is not None else ""
        print(f"Stopped. Finished work is kept. Continue with: {command}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if strict and any(skip.status != "not_a_picture" for skip in report.skipped):
        raise typer.Exit(EXIT_ERROR)


def _check_executor(executor: str, given: Mapping[str, object]) -> None:
    """Refuse options that mean nothing without a cluster, and a cluster without Ray, before anything is loaded."""
    for option, value in given.items():
        if executor != "ray" and value is not None:
            raise typer.BadParameter("only for --executor ray", param_hint=option)
    if executor == "ray":
        from clipsearch.indexer.connection import check_ray

        check_ray("indexing on a cluster")


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
    print(f"Watching {quoted(folder)}. Stop with Ctrl-C.", file=sys.stderr, flush=True)
    try:
        for _ in changes(folder, place, stop, exclude=exclude, notice=notice, failed=failed):
            try:
                report = run()
            except BrokenPipeError:
                raise
            except (ClipsearchError, OSError) as error:
                # An unplugged drive comes back, a full disk is emptied, a lock released.
                line = f"{system_words(error)}. Retrying later" if isinstance(error, OSError) else str(error)
                if line != told:
                    notice(line)
                told = line
                failed.set()
                continue
            told = ""
            if any(skip.status == "unreadable" for skip in report.skipped):
                failed.set()
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


def _print_plan(plan: IndexPlan) -> None:
    made = "a new index" if plan.is_new else "the index"
    print(f"{made} in {shown(str(plan.index))}, model {plan.model}")
    parts = [f"{count(plan.to_read, 'picture')} to read ({size(plan.bytes_to_read)})"]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (plan.unchanged, "unchanged"),
            (plan.to_describe, "with metadata to reread"),
            (plan.retimed, "with only a new file date"),
            (plan.renamed, "renamed"),
            (plan.returned, "back again"),
            (plan.deleted, "to be removed"),
            (plan.missing, "missing, kept in the index"),
        )
        if number
    ]
    print(f"{count(plan.files, 'file')}: {', '.join(parts)}")
    if plan.left_out:
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in plan.left_out.items())
        print(f"  left out: {reasons}")
    if plan.unopened:
        print(f"{count(plan.unopened, 'archive')} in the bucket not opened: their pictures are not counted")
    if plan.pictures_per_s is not None and plan.seconds is not None:
        rate = f"{plan.pictures_per_s:.1f} pictures/s, measured here with {plan.measured} of them"
        print(f"about {duration(plan.seconds)} at {rate}; copies of indexed pictures take less")
    print("Nothing was changed.")


def _print_report(report: IndexReport, place: Path) -> None:
    from clipsearch.indexer.retries import is_circumstance

    parts = [f"{report.encoded:,} indexed"]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (report.unchanged, "unchanged"),
            (report.touched, "with only a new file date"),
            (report.described, "with metadata reread"),
            (report.renamed, "renamed"),
            (report.copied, "copies of indexed pictures"),
            (report.removed, "removed"),
            (report.returned, "back again"),
            (report.forgotten, "forgotten"),
            (report.withdrawn, "now left out"),
            (report.kept, "kept as they were"),
            (report.partial, "partly read"),
            (len(report.skipped), "skipped"),
        )
        if number
    ]
    if report.missing:
        print(
            f"{count(report.missing, 'picture')} missing: their folder or drive is unavailable or left out. They "
            "stay in the index but are not shown, and return without being read again. Forget them with: --prune",
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
            print(f"... list all with: clipsearch status --skipped --index {quoted(place)}")
    if report.left_out:
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in report.left_out.items())
        print(f"  left out: {reasons}")
    found = count(report.pictures, "picture")
    if report.rows != report.pictures:
        found += f" ({report.rows:,} rows, {rows_of(report.regions)})"
    print(f'{found} in the index. Search with: clipsearch query "a dog on a beach" --index {quoted(place)}')
