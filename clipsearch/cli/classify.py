"""`clipsearch classify`: name what pictures show, of labels that you give."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.cli.options import notice, print_json
from clipsearch.cli.terminal import cell, count, progress_display, shown
from clipsearch.errors import InvalidLabels, InvalidQuery, TagExists
from clipsearch.filenames import safe, to_bytes

if TYPE_CHECKING:
    from clipsearch.classify.zero_shot import Accuracy, Classifier, Label
    from clipsearch.encoder import Encoder
    from clipsearch.records import FloatArray, IntArray, SkippedImage

app = typer.Typer(rich_markup_mode=None)

LABELS_SHOWN = 3
CONFUSIONS_SHOWN = 5
NONE = "none of these"


@dataclass(slots=True)
class _Answers:
    """What was said of each picture. Shape: probabilities (N, C)."""

    labels: tuple[str, ...]
    paths: list[str]
    hashes: list[str | None]
    probabilities: FloatArray
    skipped: list[SkippedImage]
    truth: IntArray | None = None
    accuracy: Accuracy | None = None
    confidences: FloatArray | None = None  # that a picture shows its likeliest label, (N,); None: the labels are all
    cut: float = 0.0  # a picture with less shows none of the labels

    def is_none(self, row: int) -> bool:
        """Whether a picture shows none of the labels."""
        return self.confidences is not None and float(self.confidences[row]) < self.cut


@app.command(name="classify")
def classify_command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of pictures. With one subfolder per class, accuracy is measured.", metavar="FOLDER"
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option("--index", help="Classify the pictures of this index instead of a folder.", metavar="DIR"),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help='Labels: "cat, dog|puppy, car"; | separates synonyms.', metavar="LABELS"),
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option("--labels-file", help="File with one label per line.", metavar="FILE")
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            help='plain, photo, photos, art, textures, imagenet, or a sentence: "a {} on a table". '
            "Several are averaged. Can be repeated.",
            metavar="T",
        ),
    ] = None,
    probe: Annotated[
        Path | None, typer.Option("--probe", help="Use a probe written by `clipsearch train probe`.", metavar="DIR")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model to use. See: clipsearch models list", metavar="MODEL")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Save the labels in the index as tags, to filter with tag:NAME.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --write: first remove tags and concepts with these names.")
    ] = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="Label all pictures, even those that probably show none of the labels.")
    ] = False,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Lowest probability that --write tags.", metavar="P")
    ] = 0.5,
    confusion: Annotated[
        Path | None, typer.Option("--confusion", help="Draw the confusion matrix as a PNG.", metavar="FILE")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per picture.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that decode pictures.", metavar="N")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
) -> None:
    """Label pictures of a folder or an index with the most likely of your labels.

    \b
    Without labels, the subfolders are the classes, and clipsearch prints how often the model is right.

    \b
    Examples:
      clipsearch classify ./holidays --labels "beach, mountains, city" --csv
      clipsearch classify ./animals                             (a folder for each class: accuracy)
      clipsearch classify --index ./photos --labels-file labels.txt --write
      clipsearch classify ./new --probe runs/animals
    """
    from clipsearch.evaluation.plots import check_plots, draw_confusion

    if (folder is None) == (index is None):
        raise InvalidQuery("name a folder or an index, not both: clipsearch classify FOLDER, or --index DIR")
    if as_csv and as_json:
        raise InvalidQuery("use --csv or --json, not both")
    if replace and not write:
        raise InvalidQuery("--replace needs --write")
    if write and index is None:
        raise InvalidQuery("--write saves tags in an index. Name it with --index")
    if probe is not None and (labels or labels_file or templates):
        raise InvalidQuery("a probe has its own labels. Leave out --labels, --labels-file and --template")
    if confusion is not None:
        check_plots("--confusion", confusion)
    asked = _labels(labels or [], labels_file)
    sentences = templates or ["photos"]
    if index is not None:
        answers = _of_index(index, asked, sentences, probe, model)
    else:
        assert folder is not None
        answers = _of_folder(folder, asked, sentences, probe, model, workers, quiet)
    if show_all:
        answers.confidences = None
    if confusion is not None:
        if answers.accuracy is None:
            raise InvalidLabels("--confusion needs the true labels: a folder with one subfolder per label")
        found = answers.accuracy
        title = f"{count(found.pictures, 'picture')}, {100 * found.top1:.1f} % right"
        draw_confusion(confusion, answers.labels, found.confusion, title)
    if write and index is not None:
        _write(index, answers, threshold, replace)
    if as_json:
        print_json(_json(answers))
    elif as_csv:
        sys.stdout.flush()
        sys.stdout.buffer.write(_csv(answers))
    elif answers.accuracy is not None:
        _print_accuracy(answers, answers.accuracy)
    else:
        _print_answers(answers)
    for skip in answers.skipped[:10]:
        print(f"skipped {safe(skip.path)}: {safe(skip.reason)}", file=sys.stderr)
    if len(answers.skipped) > 10:
        print(f"skipped {len(answers.skipped) - 10:,} more", file=sys.stderr)


def _labels(given: Sequence[str], file: Path | None) -> list[Label]:
    from clipsearch.classify.zero_shot import read_labels, split_labels

    found = [label for text in given for label in split_labels(text)]
    if file is not None:
        listed = read_labels(file)
        if not listed:
            raise InvalidLabels(f"{file} has no labels. Write one a line")
        found += listed
    return found


def _classifier(encoder: Encoder, labels: Sequence[Label], templates: Sequence[str], probe: Path | None) -> Classifier:
    from clipsearch.classify.probe import load_probe
    from clipsearch.classify.zero_shot import zero_shot

    if probe is None:
        return zero_shot(encoder, labels, templates)
    learned = load_probe(probe)
    learned.check(encoder.fingerprint, encoder.name, probe)
    return learned


def _of_folder(
    folder: Path,
    labels: Sequence[Label],
    templates: Sequence[str],
    probe: Path | None,
    model: str | None,
    workers: int | None,
    quiet: bool,
) -> _Answers:
    from contextlib import ExitStack

    import numpy as np

    from clipsearch.classify.probe import load_probe
    from clipsearch.classify.zero_shot import Likeliest, ZeroShot, measure, open_class_folder, parse_label, truth_in
    from clipsearch.encoder.names import load_encoder, model_at_hand
    from clipsearch.errors import NoPictures
    from clipsearch.pairs.encoding import encode_pictures
    from clipsearch.search.confidence import (
        Background,
        bank_vectors,
        drawing_vectors,
        sample_positions,
        shipped_calibration,
    )

    found = open_class_folder(folder)
    if model is None and probe is not None:
        model = load_probe(probe).model
    encoder = load_encoder(model or model_at_hand(notice), notice=notice)
    if not labels and probe is None:
        if not found.classes:
            raise InvalidLabels(f"{folder} has no subfolders to use as labels. Name labels with --labels")
        labels = [parse_label(name) for name in found.classes]
    classifier = _classifier(encoder, labels, templates, probe)
    with ExitStack() as stack:
        report = None if quiet else stack.enter_context(progress_display())
        encoded = encode_pictures(encoder, found.sources, workers=workers, progress=report)
    if not len(encoded.kept):
        raise NoPictures(folder, len(found.sources))
    probabilities = classifier.probabilities(encoded.vectors)
    answers = _Answers(
        tuple(classifier.labels),
        [found.sources[int(number)].path for number in encoded.kept],
        list(encoded.hashes),
        probabilities,
        encoded.skipped,
    )
    truth = truth_in(classifier.labels, found)
    if truth is not None:
        answers.truth = np.asarray(truth[encoded.kept], np.int64)
        answers.accuracy = measure(probabilities, answers.truth)
    elif isinstance(classifier, ZeroShot):
        likeliest = Likeliest(classifier)
        likeliest.add(encoded.vectors)
        (sampled,) = sample_positions([len(encoded.vectors)])
        background = Background(bank_vectors(encoder), encoded.vectors[sampled], drawing_vectors(encoder))
        calibration = shipped_calibration()
        answers.cut = calibration.text_bands.certain
        answers.confidences = likeliest.confidences(
            lambda cosines, vector, best: calibration.confidences(background, vector, cosines, "text", best)
        )
    return answers


def _of_index(
    index: Path, labels: Sequence[Label], templates: Sequence[str], probe: Path | None, model: str | None
) -> _Answers:
    import os

    import numpy as np

    from clipsearch.classify.zero_shot import Likeliest, ZeroShot, indexed_pictures
    from clipsearch.search.collection import open_collection
    from clipsearch.search.confidence import shipped_calibration

    if not labels and probe is None:
        raise InvalidLabels("no labels given. Name them with --labels or --labels-file")
    paths: list[str] = []
    hashes: list[str | None] = []
    with open_collection(index, model=model) as collection:
        classifier = _classifier(collection.encoder, labels, templates, probe)
        likeliest = Likeliest(classifier) if isinstance(classifier, ZeroShot) else None
        parts = [np.empty((0, len(classifier.labels)), np.float32)]
        for records, vectors in indexed_pictures(collection.index):
            paths += [os.path.join(collection.root, record.place) for record in records]  # noqa: PTH118  as it is stored
            hashes += [record.content_hash for record in records]
            parts.append(classifier.probabilities(vectors))
            if likeliest is not None:
                likeliest.add(vectors)
        answers = _Answers(tuple(classifier.labels), paths, hashes, np.concatenate(parts), [])
        if likeliest is not None:
            answers.cut = shipped_calibration().text_bands.certain
            answers.confidences = likeliest.confidences(
                lambda cosines, vector, best: collection.confidences(cosines, vector, "text", best)[0]
            )
    return answers


def _write(index: Path, answers: _Answers, threshold: float, replace: bool) -> None:
    """Tag each picture that shows one of the labels with the likeliest, if that is likely enough among them.

    `replace` forgets what had these tags before.
    """
    from clipsearch.config import find_index
    from clipsearch.store.tags import write_tags

    tags: dict[str, dict[str, float]] = {label: {} for label in answers.labels}
    unsure = 0
    for at, (row, content) in enumerate(zip(answers.probabilities, answers.hashes, strict=True)):
        number = int(row.argmax())
        if content is None or row[number] < threshold or answers.is_none(at):
            unsure += 1
        else:
            tags[answers.labels[number]][content] = float(row[number])
    try:
        write_tags(find_index(index), tags, replace=replace, extend=not replace)
    except TagExists:
        raise
    except ValueError as error:
        raise InvalidLabels(str(error)) from error
    print(
        f"wrote {count(len(tags), 'tag')} on {count(len(answers.paths) - unsure, 'picture')}; {unsure:,} left untagged "
        f"({NONE}, or a probability below {threshold:g})",
        file=sys.stderr,
    )


def _rows(answers: _Answers) -> Iterator[tuple[str, list[tuple[str, float]], str | None]]:
    """Each picture's path, its likeliest labels with their probabilities, and the true one if known."""
    import numpy as np

    order = np.argsort(-answers.probabilities, axis=1, kind="stable")[:, :LABELS_SHOWN]
    for row, path in enumerate(answers.paths):
        best = [(answers.labels[int(n)], float(answers.probabilities[row, int(n)])) for n in order[row]]
        truth = answers.labels[int(answers.truth[row])] if answers.truth is not None else None
        yield path, best, truth


def _print_answers(answers: _Answers) -> None:
    for row, (path, best, _) in enumerate(_rows(answers)):
        label, probability = best[0]
        said = f"    -  {NONE}" if answers.is_none(row) else f"{100 * probability:3.0f} %  {shown(label)}"
        print(f"{said}  {shown(path)}")


def _print_accuracy(answers: _Answers, found: Accuracy) -> None:
    import numpy as np

    top5 = f", top 5 {100 * found.top5:.1f} %" if found.top5 is not None else ""
    print(
        f"{count(found.pictures, 'picture')}, {count(len(answers.labels), 'label')}: {100 * found.top1:.1f} % right "
        f"[{100 * found.low:.1f}, {100 * found.high:.1f}]{top5}; mean over classes {100 * found.balanced:.1f} %"
    )
    totals = found.confusion.sum(axis=1)
    width = max(len(safe(label)) for label in answers.labels)
    for number, label in enumerate(answers.labels):
        if totals[number]:
            right = int(found.confusion[number, number])
            print(
                f"  {safe(label):{width}}  {100 * right / totals[number]:5.1f} %  {right:,} of {int(totals[number]):,}"
            )
    wrong = found.confusion - np.diag(np.diag(found.confusion))
    worst = [divmod(int(at), len(answers.labels)) for at in np.argsort(-wrong, axis=None)[:CONFUSIONS_SHOWN]]
    if wrong.any():
        print("most common mistakes:")
    for is_, said in worst:
        if wrong[is_, said]:
            print(f"  {int(wrong[is_, said]):,} {safe(answers.labels[is_])} for {safe(answers.labels[said])}")


def _json(answers: _Answers) -> dict[str, Any]:
    body: dict[str, Any] = {"labels": list(answers.labels)}
    if answers.accuracy is not None:
        found = answers.accuracy
        body["accuracy"] = {
            "pictures": found.pictures,
            "top1": found.top1,
            "low": found.low,
            "high": found.high,
            "top5": found.top5,
            "balanced": found.balanced,
            "confusion": found.confusion.tolist(),
        }
    body["pictures"] = [
        {"path": path, "labels": [{"label": label, "probability": round(p, 6)} for label, p in best]}
        | ({} if truth is None else {"truth": truth})
        | _certainty(answers, row)
        for row, (path, best, truth) in enumerate(_rows(answers))
    ]
    body["skipped"] = [{"path": skip.path, "status": skip.status, "reason": skip.reason} for skip in answers.skipped]
    return body


def _certainty(answers: _Answers, row: int) -> dict[str, Any]:
    if answers.confidences is None:
        return {}
    return {"confidence": round(float(answers.confidences[row]), 4), "none_of_these": answers.is_none(row)}


def _csv(answers: _Answers) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    known = answers.truth is not None
    judged = answers.confidences is not None
    writer.writerow(
        ["path", "label", "probability", *(["truth"] if known else []), *(["none_of_these"] if judged else [])]
    )
    for row, (path, best, truth) in enumerate(_rows(answers)):
        label, probability = best[0]
        more = [cell(truth or "")] if known else []
        more += [str(answers.is_none(row)).lower()] if judged else []
        said = "" if answers.is_none(row) else cell(label)
        writer.writerow([cell(path), said, f"{probability:.6f}", *more])
    return to_bytes(buffer.getvalue())
