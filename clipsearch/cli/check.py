"""What `clipsearch train --check` prints."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from clipsearch.cli.terminal import count, size
from clipsearch.filenames import safe

if TYPE_CHECKING:
    from clipsearch.pairs.checking import CheckReport, SetReport, Spread

EXAMPLES = 3


def print_check(report: CheckReport) -> None:
    """Print what check_pairs found: first the sets, then a sample, last what to mend."""
    _print_set("training pairs" if report.dev is not None else "pairs", report.train)
    if report.dev is not None:
        print()
        _print_set("dev pairs", report.dev)
    print("\na sample:")
    for pair in report.train.sample:
        print(f"  {safe(pair.key)} ({size(pair.source.size_bytes)})")
        for text in pair.captions:
            print(f"    {safe(text)}")
    print()
    advice = _advice(report)
    for line in advice:
        print(f"! {line}")
    if not advice:
        print("no problems found")


def check_json(report: CheckReport) -> dict[str, Any]:
    """The report as JSON-ready values."""
    body = dataclasses.asdict(report)
    body["leaks"] = report.leaks
    return body


def _print_set(title: str, found: SetReport) -> None:
    print(f"{title:15} {count(found.pairs, 'picture')}, {count(found.captions, 'caption')}, {size(found.size_bytes)}")
    if len(found.sources) <= EXAMPLES:
        print(f"  from          {', '.join(map(safe, found.sources))}")
    else:
        print(f"  from          {count(len(found.sources), 'file')}, the first {safe(found.sources[0])}")
    print(f"  pictures      {_spread(found.widths)} pixels wide, {_spread(found.heights)} high")
    print(f"  captions      {_spread(found.captions_per_picture)} per picture; words: {_spread(found.words)}")
    if found.tokens is not None and found.context_length is not None:
        cut = f"{count(found.too_long, 'caption')} cut off" if found.too_long else "none cut off"
        print(f"  tokens        {_spread(found.tokens)}; the model takes {found.context_length}: {cut}")
    reasons: dict[str, list[str]] = {}
    for entry in found.bad:
        reasons.setdefault(entry.reason, []).append(entry.entry)
    for skip in found.unreadable:
        reasons.setdefault("unreadable picture", []).append(f"{skip.path}: {skip.reason}")
    for reason, examples in reasons.items():
        print(f"  skipped       {len(examples):,} {reason.replace('_', ' ')}")
        _print_examples(examples)
    if found.repeated_within:
        print(f"  repeated      {count(found.repeated_within, 'caption')} repeated on the same picture")
    if found.same_caption:
        print(f"  shared        {count(len(found.same_caption), 'caption')} shared by several pictures")
        _print_examples([f"{number:,} times: {text}" for text, number in found.same_caption])
    if found.same_picture:
        extra = sum(len(keys) - 1 for keys in found.same_picture)
        print(f"  duplicates    {count(extra, 'picture')} identical to another, byte for byte")
        _print_examples([" = ".join(keys) for keys in found.same_picture])


def _print_examples(examples: list[str]) -> None:
    for example in examples[:EXAMPLES]:
        print(f"                  {safe(example)}")
    if len(examples) > EXAMPLES:
        print(f"                  ... and {len(examples) - EXAMPLES:,} more (list all with: --json)")


def _spread(spread: Spread) -> str:
    if spread.least == spread.greatest:
        return f"{spread.least:,}"
    return f"{spread.least:,} to {spread.greatest:,} (median {spread.median:,.0f})"


def _advice(report: CheckReport) -> list[str]:
    """What to mend, the gravest first."""
    lines = []
    if report.leaked_pictures:
        examples = ", ".join(f"{first} = {second}" for first, second in report.leaked_pictures[:EXAMPLES])
        lines.append(
            f"{count(len(report.leaked_pictures), 'dev picture')} also in the training pairs ({safe(examples)}): "
            "remove them from one set, or the dev figures will be too high"
        )
    if report.leaked_captions:
        examples = "; ".join(report.leaked_captions[:EXAMPLES])
        lines.append(
            f"{count(len(report.leaked_captions), 'dev caption')} also in the training pairs ({safe(examples)})"
        )
    for name, found in (("training", report.train), ("dev", report.dev)):
        if found is None:
            continue
        skipped = len(found.bad) + len(found.unreadable)
        if skipped:
            lines.append(f"{count(skipped, f'{name} entry', f'{name} entries')} will be skipped")
        again = sum(len(keys) - 1 for keys in found.same_picture)
        if again:
            pictures = count(again, f"{name} picture is", f"{name} pictures are")
            lines.append(
                f"{pictures} identical to another, and a caption counts as found by its own alone: name each picture "
                "once, with all its captions"
            )
        if found.captions and found.too_long > found.captions // 20:
            lines.append(
                f"{100 * found.too_long / found.captions:.0f} % of the {name} captions are longer than the "
                f"{found.context_length} tokens that the model reads: put what matters first, or split them"
            )
    if report.train.pairs and len(report.train.same_caption) and report.train.same_caption[0][1] > 2:
        most, number = report.train.same_caption[0]
        lines.append(f'"{safe(most)}" describes {number:,} pictures: captions this common teach little')
    return lines
