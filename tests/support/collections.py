"""A collection with something of everything, and every door to it: for tests that they all give one answer."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
import xxhash
from fastapi import FastAPI
from PIL import Image

import clipsearch
from clipsearch.encoder import Encoder
from clipsearch.indexer.segments import with_pictures
from clipsearch.records import EmbeddingBatch, ImageRecord, Manifest, ModelRef, PictureMetadata, PixelArray
from clipsearch.remote import RemoteCollection
from clipsearch.search.collection import Collection
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.routes import Service
from clipsearch.store import Writer
from clipsearch.store.tags import write_tags
from clipsearch.ui.page_routes import add_page_routes
from tests.support.fake_encoder import COLOURS, FakeEncoder

SCENES = 60
VERSIONS = 5
DAY_NS = 86_400 * 10**9


def varied_index(folder: Path, encoder: FakeEncoder) -> Path:
    """An index of `varied_pictures`, in two fragments and segments, with a tag."""
    pictures = varied_pictures(folder, encoder)
    return write_index(folder / ".clipsearch", "..", encoder, pictures, (slice(0, 200), slice(200, None)))


def write_index(
    index: Path, root: str, encoder: FakeEncoder, pictures: EmbeddingBatch, parts: Sequence[slice] = (slice(None),)
) -> Path:
    """An index of some pictures, each part in a fragment and a segment of its own. Every third picture is tagged."""
    model = ModelRef(encoder.name, encoder.fingerprint, encoder.dim, float(encoder.score_scale))
    with Writer(index) as writer:
        manifest = Manifest(0, "", root, model, 0)
        for part in parts:
            batch = EmbeddingBatch(pictures.records[part], pictures.vectors[part])
            manifest = writer.commit(with_pictures(writer, manifest, lambda batch=batch: [batch]))  # type: ignore[misc]
    write_tags(
        index, {"seen": {record.content_hash or "": 1.0 for record in pictures.records if record.inode % 3 == 1}}
    )
    return index


def varied_pictures(folder: Path, encoder: FakeEncoder) -> EmbeddingBatch:
    """300 pictures: 60 scenes in five versions each, two of them the same bytes; dates, places.

    Some dates are equal. The first picture of each colour is a file that is there; that of the first colour has changed
    since. `inode` is the row id and one.
    """
    rng = np.random.default_rng(5)
    colours = list(COLOURS)
    records, pixels = [], []
    for scene in range(SCENES):
        colour = np.array(COLOURS[colours[scene % len(colours)]], np.float32)
        base = colour + rng.normal(0, 25, (2, 2, 3)).repeat(16, axis=0).repeat(16, axis=1)
        for version in range(VERSIONS):
            number = scene * VERSIONS + version
            noise = 0 if version < 2 else rng.normal(0, 4, (32, 32, 3))
            pixels.append(np.clip(base + noise, 0, 255).astype(np.uint8))
            taken_at = f"2023-{scene % 12 + 1:02d}-{number % 3 + 10}T12:00:00" if scene % 3 else None
            place = (48.0 + scene / 100, 2.0 + scene / 50) if scene % 4 == 0 else (None, None)
            metadata = PictureMetadata("PNG", taken_at, "Maker X100" if scene % 5 == 0 else None, *place)
            name = f"{'Été' if scene % 7 == 0 else 'trips'}/{colours[scene % len(colours)]}/IMG_{299 - number:04d}.png"
            content, size_bytes = f"{scene * VERSIONS + max(1, version):032x}", 1000 + 10 * version
            mtime_ns = 1_700_000_000 * 10**9 + number // 4 * DAY_NS
            if scene < len(colours) and version < 2:
                file = io.BytesIO()
                Image.fromarray(pixels[-1]).save(file, "PNG")
                data = file.getvalue().ljust(1000, b"\0")
                content = xxhash.xxh3_128_hexdigest(data) if scene else content
                if version == 0:
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                    os.utime(path, ns=(mtime_ns, mtime_ns + (scene == 0)))
            records.append(
                ImageRecord(
                    number, name, size_bytes, mtime_ns, number + 1, content, 32 * (1 + version % 3), 32, metadata
                )
            )
    return EmbeddingBatch(records, encoder.encode_images(_stacked(pixels)))


def _stacked(pixels: list[PixelArray]) -> PixelArray:
    return np.stack(pixels)


def _routes_of_the_page(app: FastAPI, service: Service) -> Callable[[], None]:
    add_page_routes(app, service)
    return lambda: None


@contextmanager
def through_both_doors(folder: Path, encoder: FakeEncoder) -> Iterator[tuple[Collection, RemoteCollection]]:
    """The collection of a folder, opened here, and the same from a server."""
    with (
        clipsearch.open(folder, encoder=encoder) as local,
        serving(folder / ".clipsearch", encoder) as (url, _),
        clipsearch.connect(url) as remote,
    ):
        yield local, remote


@contextmanager
def serving(
    index: Path | Sequence[Path],
    encoder: Encoder,
    *,
    interface: Callable[[FastAPI, Service], Callable[[], None]] = _routes_of_the_page,
) -> Iterator[tuple[str, FastAPI]]:
    """The address of a server on loopback that serves an index, or several, with the page's routes, and its program."""
    options = ServerOptions(warm_pictures_after_s=None)
    indexes = [index] if isinstance(index, Path) else index
    app = create_app(indexes, encoder=encoder, options=options, interface=interface)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 120
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive(), "the server does not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", app
    finally:
        server.should_exit = True
        thread.join(120)
