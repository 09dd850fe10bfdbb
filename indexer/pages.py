"""The pages of a document, or the angles of a 3-D model: each is a row. They are read in parts, as videos are
(`shots`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipsearch.indexer.scan import FoundFile
from clipsearch.indexer.shots import MOST_FAILURES, Shot, Video
from clipsearch.pictures.pool import DecodeResult
from clipsearch.records import FloatArray, angle_view, page_view


@dataclass(slots=True)
class Document(Video):
    """A document while it is read. For times it has the numbers of its pages, from 1.

    A part that hangs or kills its decoder is read again page by page, until the page that is to blame is known.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)

    def take(self, result: DecodeResult, vectors: FloatArray) -> float | None:
        """Take a part, whose pages have these vectors, shape (F, D). Returns after which page to read on, if any."""
        part = result.video
        assert part is not None
        for page, size, look, vector in zip(part.times_s, part.sizes or (), part.looks, vectors, strict=True):
            if not self.times_s or page > self.times_s[-1]:
                self.times_s.append(page)
                self.sizes.append(size)
                self.looks.append(look)
                self.vectors.append(vector)
        self.partial = self.partial or result.partial
        if part.next_s is None or part.next_s <= self.at_s:
            return None
        self.at_s = part.next_s
        return self.at_s

    def pass_over(self) -> float | None:
        """The part cannot be read: read the first of its pages alone, or, if it was that, on after it. Returns after
        which page, if any."""
        if self.most is None:
            self.most = 1
            return self.at_s
        self.most = None
        self.partial = "some of its pages are damaged"
        self.failures += 1
        self.at_s += 1
        pages = self.first.video.duration_s if self.first.video is not None else None
        is_past = pages is not None and self.at_s >= pages
        return None if self.failures > MOST_FAILURES or is_past else self.at_s

    def shots(self) -> list[Shot]:
        """Its pages in their order."""
        pages = zip(self.times_s, self.vectors, self.looks, self.sizes, strict=True)
        locate = angle_view if self.first.metadata.format == "MESH" else page_view
        return [Shot(locate(int(page)), vector, look, size) for page, vector, look, size in pages]


def watched(file: FoundFile, first: DecodeResult) -> Video:
    """A file that is read in parts, by what its first part is of."""
    is_document = first.video is not None and first.video.sizes is not None
    return Document(file, first) if is_document else Video(file, first)
