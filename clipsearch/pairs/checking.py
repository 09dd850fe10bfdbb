"""Look at pairs before time is spent on them: what is missing, broken, said twice, or known to both sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipsearch.encoder import Encoder
from clipsearch.folding import fold
from clipsearch.indexer.build import Progress
from clipsearch.pairs.encoding import decode_tasks
from clipsearch.pairs.reading import BadEntry, Pair, PairSet
from clipsearch.pictures.pool import DecodePool
from clipsearch.records import Preprocessing, SkippedImage

SAMPLE_PAIRS = 5
# Small, so that JPEGs are decoded at an eighth: all their data is still read and checked.
_THUMBNAIL = Preprocessing(height=32, width=32, mean=(0, 0, 0), std=(1, 1, 1), resize_mode="squash")


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, middle and greatest of some numbers, and what 95 % of them do not exceed."""

    least: int
    median: float
    most_of_them: float
    greatest: int


@dataclass(slots=True)
class SetReport:
    """What one set of pairs is like."""

    sources: tuple[str, ...]
    pairs: int  # that can be used
    captions: int  # of these
    bad: tuple[BadEntry, ...]  # entries that were left out when the sources were read
    unreadable: list[SkippedImage]  # pictures that cannot be decoded: these pairs are skipped, too
    same_picture: list[tuple[str, ...]]  # keys of pairs with the same file content
    same_caption: list[tuple[str, int]]  # captions of several pictures, and of how many; most frequent first
    repeated_within: int  # captions that their own picture has already
    captions_per_picture: Spread
    words: Spread
    tokens: Spread | None  # None: the model does not say
    context_length: int | None
    too_long: int  # captions that the model cuts off
    widths: Spread
    heights: Spread
    size_bytes: int
    sample: list[Pair] = field(default_factory=list)


@dataclass(slots=True)
class CheckReport:
    """What there is to know before training."""

    train: SetReport
    dev: SetReport | None = None
    leaked_pictures: list[tuple[str, str]] = field(default_factory=list)  # keys in train and dev
    leaked_captions: list[str] = field(default_factory=list)

    @property
    def leaks(self) -> bool:
        """Whether what is measured on the dev set would be too good."""
        return bool(self.leaked_pictures or self.leaked_captions)


def check_pairs(
    train: PairSet,
    dev: PairSet | None = None,
    *,
    encoder: Encoder | None = None,
    workers: int | None = None,
    timeout_s: float = 10.0,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> CheckReport:
    """Decode every picture and read every caption of both sets.

    `encoder` says how long captions are in tokens, if it can. Captions are compared without regard to
    case and spacing; pictures by their content.
    """
    total = len(train) + (len(dev) if dev is not None else 0)
    train_report, train_hashes = _check_set(train, encoder, workers, timeout_s, seed, progress, 0, total)
    if dev is None:
        return CheckReport(train_report)
    dev_report, dev_hashes = _check_set(dev, encoder, workers, timeout_s, seed, progress, len(train), total)
    first_with = {content: key for key, content in reversed(train_hashes)}
    known = {_folded(text) for pair in train for text in pair.captions}
    leaked = dict.fromkeys(text for pair in dev for text in pair.captions if _folded(text) in known)
    return CheckReport(
        train_report,
        dev_report,
        [(first_with[content], key) for key, content in dev_hashes if content in first_with],
        list(leaked),
    )


def _folded(text: str) -> str:
    return " ".join(fold(text).split())


def _check_set(
    pairs: PairSet,
    encoder: Encoder | None,
    workers: int | None,
    timeout_s: float,
    seed: int,
    progress: Callable[[Progress], None] | None,
    done_before: int,
    total: int,
) -> tuple[SetReport, list[tuple[str, str]]]:
    """The report, and the key and content hash of every readable picture, in the order of the pairs."""
    hashes: dict[int, str] = {}
    sizes: dict[int, tuple[int, int]] = {}
    skipped: dict[int, SkippedImage] = {}
    tasks = decode_tasks([pair.source for pair in pairs])
    with DecodePool(_THUMBNAIL, workers=workers, timeout_s=timeout_s) as pool:
        for result in pool.run(tasks):
            if result.pixels is None or result.width is None or result.height is None or result.content_hash is None:
                status, reason = result.skip or ("unreadable", "it could not be read")
                skipped[result.key] = SkippedImage(pairs[result.key].source.name, status, reason)
            else:
                hashes[result.key] = result.content_hash
                sizes[result.key] = (result.width, result.height)
            if progress is not None:
                progress(Progress("check", done_before + len(hashes) + len(skipped), total, len(hashes)))
    readable = [pairs[number] for number in sorted(hashes)]
    captions = [text for pair in readable for text in pair.captions]
    lengths = encoder.text_lengths(captions) if encoder is not None and captions else None
    tokens, context_length = (None, None) if lengths is None else lengths
    pictures_of: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    repeated_within = 0
    for pair in readable:
        folded = [_folded(text) for text in pair.captions]
        repeated_within += len(folded) - len(set(folded))
        pictures_of.update(set(folded))
        for text, plain in zip(pair.captions, folded, strict=True):
            spelled.setdefault(plain, text)
    with_content: dict[str, list[str]] = {}
    for number in sorted(hashes):
        with_content.setdefault(hashes[number], []).append(pairs[number].key)
    chosen = np.random.default_rng(seed).permutation(len(readable))[:SAMPLE_PAIRS]
    report = SetReport(
        sources=pairs.sources,
        pairs=len(readable),
        captions=len(captions),
        bad=pairs.bad,
        unreadable=[skipped[number] for number in sorted(skipped)],
        same_picture=[tuple(keys) for keys in with_content.values() if len(keys) > 1],
        same_caption=[(spelled[plain], number) for plain, number in pictures_of.most_common() if number > 1],
        repeated_within=repeated_within,
        captions_per_picture=_spread([len(pair.captions) for pair in readable]),
        words=_spread([len(text.split()) for text in captions]),
        tokens=None if tokens is None else _spread(tokens),
        context_length=context_length,
        too_long=0 if tokens is None or context_length is None else sum(n > context_length for n in tokens),
        widths=_spread([width for width, _ in sizes.values()]),
        heights=_spread([height for _, height in sizes.values()]),
        size_bytes=sum(pair.source.size_bytes for pair in readable),
        sample=[readable[int(number)] for number in np.sort(chosen)],
    )
    return report, [(pairs[number].key, hashes[number]) for number in sorted(hashes)]


def _spread(numbers: Sequence[int]) -> Spread:
    if not numbers:
        return Spread(0, 0.0, 0.0, 0)
    median, most_of_them = np.quantile(numbers, [0.5, 0.95]).tolist()
    return Spread(min(numbers), median, most_of_them, max(numbers))
