"""What an index holds, for people and programs. Reads, changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from clipsearch.records import SkippedImage, SkipStatus
from clipsearch.store import open_snapshot, read_partial, read_records


@dataclass(frozen=True, slots=True)
class PartialPicture:
    """A picture that can be found although its file is damaged, and what is missing of it, in words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """The current generation in numbers."""

    index: Path
    root: Path
    generation: int
    committed_at: str  # ISO 8601, UTC
    model: str
    fingerprint: str
    dim: int
    views_per_picture: int  # in how many each was encoded: 1 or 5
    regions_per_picture: int  # tiles whose vectors are kept, too: 0 or 4
    pictures: int
    rows: int  # what these are seen as: more than they are where there are videos
    skipped_by_status: dict[SkipStatus, int]
    fragments: int
    inverted_files: int
    deleted_rows: int  # still in the files, until compaction
    missing: int  # pictures that cannot be seen at present
    rebuilt: int | None  # pictures that an unfinished --reindex has encoded, None where there is none
    words_read: int  # pictures whose words `clipsearch read` has looked for
    captioned: int  # pictures that a model has been asked to caption
    size_bytes: int
    skipped: list[SkippedImage]
    partial: list[PartialPicture]


def read_status(index_dir: Path) -> IndexStatus:
    """Read the state of an index. Raises: IndexNotFound, CorruptIndex, UnsupportedIndex."""
    with open_snapshot(index_dir) as snapshot:
        manifest = snapshot.manifest
        skipped = [
            SkippedImage(record.place, record.status, record.reason or "")
            for record in (read_records(index_dir, manifest) if manifest.skipped else ())
            if record.status != "ok"
        ]
        return IndexStatus(
            index=index_dir,
            root=snapshot.root,
            generation=manifest.generation,
            committed_at=manifest.created_at,
            model=manifest.model.name,
            fingerprint=manifest.model.fingerprint,
            dim=manifest.model.dim,
            views_per_picture=manifest.model.views,
            regions_per_picture=manifest.model.regions,
            pictures=manifest.pictures,
            rows=manifest.answered,
            skipped_by_status=dict(Counter(skip.status for skip in skipped).most_common()),
            fragments=len(manifest.fragments),
            inverted_files=sum(segment.faiss is not None for segment in manifest.segments),
            deleted_rows=sum(fragment.dead_count for fragment in manifest.fragments),
            missing=manifest.missing,
            rebuilt=None if manifest.rebuild is None else sum(f.pictures for f in manifest.rebuild.fragments),
            words_read=sum(words.pictures for words in manifest.words),
            captioned=sum(captions.pictures for captions in manifest.captions),
            size_bytes=sum(ref.size_bytes for ref in manifest.files()),
            skipped=skipped,
            partial=[
                PartialPicture(path, reason)
                for path, reason in {r.path: r.partial or "" for r in read_partial(index_dir, manifest)}.items()
            ],
        )
