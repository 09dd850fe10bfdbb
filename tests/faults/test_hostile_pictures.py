"""Damaged and malicious files: each becomes a picture or a classified skip, and nothing else suffers."""

from __future__ import annotations

import io
import os
import socket
import struct
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures.images import open_picture, read_picture
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.records import SKIP_STATUSES, Preprocessing
from tests.support.breadth import tries
from tests.support.cases import thinned

PREPROCESSING = Preprocessing(64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 90},
    "png": {},
    "webp": {"quality": 90},
    "gif": {},
    "tif": {"compression": "tiff_lzw"},
    "bmp": {},
    "avif": {"quality": 80},
    "jp2": {},
    "ppm": {},
}


def encoded(extension: str) -> bytes:
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((320, 240))
    data = io.BytesIO()
    noise.save(data, "JPEG2000" if extension == "jp2" else extension.replace("tif", "tiff").replace("jpg", "jpeg"),
               **FORMATS[extension])  # fmt: skip
    return data.getvalue()


def decode_all(paths: list[Path], **options: Any) -> dict[str, DecodeResult]:
    """Decode in worker processes; checks that each file is answered once, in time, and soundly."""
    with DecodePool(PREPROCESSING, workers=2, **options) as pool:
        results = list(pool.run(DecodeTask(index, os.fspath(path)) for index, path in enumerate(paths)))
    assert sorted(result.key for result in results) == list(range(len(paths)))
    for result in results:
        if result.skip is None:
            assert result.pixels is not None
            assert result.pixels.shape == (64, 64, 3)
        else:
            assert result.skip[0] in SKIP_STATUSES
            assert 3 < len(result.skip[1]) < 200
            assert "\n" not in result.skip[1]
    return {paths[result.key].name: result for result in results}


def status(result: DecodeResult) -> str:
    return "ok" if result.skip is None else result.skip[0]


@pytest.mark.parametrize("extension", thinned(FORMATS, 3))
def test_truncated_at_many_points(tmp_path: Path, extension: str) -> None:
    data = encoded(extension)
    paths = []
    for percent in (1, 5, 10, 25, 50, 75, 90, 99):
        paths.append(tmp_path / f"{percent}.{extension}")
        paths[-1].write_bytes(data[: len(data) * percent // 100])
    results = {name.split(".")[0]: result for name, result in decode_all(paths).items()}
    found = {name: status(result) for name, result in results.items()}
    # A cut in the header may look like damage; one behind it is recognised. What is read says that it is not whole.
    assert all(result.partial for result in results.values() if result.skip is None)
    late = [found[str(percent)] for percent in (25, 50, 75, 90, 99)]
    assert set(late) <= {"ok", "truncated"}, found
    # A TIFF whose table comes last is nothing without its end; of AVIF, the decoder gives what it likes.
    if extension == "tif":
        assert late == ["truncated"] * 5, found
    elif extension != "avif":
        assert late[1:] == ["ok"] * 4, found


@pytest.mark.parametrize("extension", thinned(FORMATS, 3))
def test_flipped_bits(tmp_path: Path, extension: str) -> None:
    data, rng = encoded(extension), np.random.default_rng(7)
    paths = []
    for index in range(tries("CLIPSEARCH_MUTATIONS", 20, 60)):
        damaged = bytearray(data)
        span = len(data) if index % 2 else 300  # half of them in the headers
        for position in rng.integers(0, min(span, len(data)), rng.integers(1, 6)):
            damaged[position] ^= 1 << int(rng.integers(8))
        paths.append(tmp_path / f"{index}.{extension}")
        paths[-1].write_bytes(damaged)
    found = Counter(status(result) for result in decode_all(paths).values())
    assert found["timeout"] == found["decoder_crashed"] == found["unreadable"] == 0, found


def test_junk_with_a_signature(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    signatures = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"BM"]
    signatures += [b"RIFF\xff\xff\0\0WEBPVP8 ", b"\0\0\0\x1cftypavif\0\0\0\0avif", b"\0\0\0\x1cftypheic\0\0\0\0heic"]
    signatures += [b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"P6\n", b"P5 ", b"FUJIFILMCCD-RAW", b"IIU\0"]
    signatures += [b"II*\0\x10\0\0\0CR\x02\0", b"\0\0\0\x18ftypcrx ", b"\x28\0\0\0"]
    paths = []
    for index, signature in enumerate(signatures * 4):
        paths.append(tmp_path / f"junk{index}")
        paths[-1].write_bytes(signature + rng.bytes(int(rng.integers(0, 3000))))
    found = Counter(status(result) for result in decode_all(paths).values())
    assert found["timeout"] == found["decoder_crashed"] == found["ok"] == 0, found


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def test_bombs(tmp_path: Path) -> None:
    zeros = zlib.compress(bytes(100 * 2**20), 9)
    huge_jpeg = bytearray(encoded("jpg"))
    frame = huge_jpeg.index(b"\xff\xc0")
    huge_jpeg[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels
    huge_gif = bytearray(encoded("gif"))
    huge_gif[6:10] = b"\xff\xff\xff\xff"
    pixel = chunk(b"IDAT", zlib.compress(bytes(4)))
    bombs = {
        "pixels.png": (png(60_000, 60_000, chunk(b"IDAT", zeros)), {"too_large"}),
        "dimensions.png": (png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b"")), {"too_large"}),
        "dimensions.ppm": (b"P6 99999999 99999999 255\n" + bytes(100), {"too_large"}),
        "dimensions.jpg": (bytes(huge_jpeg), {"too_large"}),
        "dimensions.gif": (bytes(huge_gif), {"too_large"}),
        "text.png": (png(1, 1, chunk(b"zTXt", b"x\0\0" + zeros), pixel), {"ok"}),  # pixels need no text
        "profile.png": (png(1, 1, chunk(b"iCCP", b"x\0\0" + zeros), pixel), {"corrupt", "ok"}),
        "long.png": (png(8, 8, chunk(b"IDAT", zeros)), {"ok"}),  # more data than pixels: the rest is not looked at
    }  # fmt: skip
    for name, (data, _) in bombs.items():
        (tmp_path / name).write_bytes(data)
    started = time.monotonic()
    results = decode_all([tmp_path / name for name in bombs])
    assert time.monotonic() - started < 10
    for name, (_, allowed) in bombs.items():
        assert status(results[name]) in allowed, (name, results[name].skip)


def test_a_bomb_within_the_pixel_cap_takes_no_more_memory_than_allowed(tmp_path: Path) -> None:
    """An unbounded decoder would take 3 GB for this file of 100 kB."""
    rows = zlib.compressobj(9)
    row = bytes(1 + 3 * 30_000)
    body = b"".join(rows.compress(row) for _ in range(1000)) + rows.flush()
    (tmp_path / "x.png").write_bytes(png(30_000, 30_000, chunk(b"IDAT", body)))
    found = decode_all([tmp_path / "x.png"], max_pixels=2**30, memory_limit_bytes=2**29)
    assert status(found["x.png"]) == "too_large"


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "zeros.jpg").write_bytes(bytes(10_000))
    with socket.socket(socket.AF_UNIX) as server:
        place = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        try:
            server.bind("socket.jpg")
        finally:
            os.chdir(place)
    names = sorted(path.name for path in tmp_path.iterdir())
    started = time.monotonic()
    found = {name: status(result) for name, result in decode_all([tmp_path / n for n in names]).items()}
    assert time.monotonic() - started < 5
    assert found.pop("empty.jpg") == "empty"
    assert found.pop("zeros.jpg") == "not_a_picture"
    assert set(found.values()) == {"unreadable"}
    assert len(found) == 6


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (10, 10)).save(path)
    path.chmod(0)
    with pytest.raises(UnreadablePicture, match="permission denied") as caught:
        read_picture(path, PREPROCESSING)
    assert caught.value.status == "unreadable"


def test_errors_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (10, 10)).save(path)

    def fail(*_: object, **__: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(UnreadablePicture) as caught:
        open_picture(path)
    assert (caught.value.status, caught.value.reason) == ("unreadable", "input/output error")


def test_paths_that_cannot_be() -> None:
    for path in ("a\0b.jpg", "x" * 5000 + ".jpg", ""):
        with pytest.raises(UnreadablePicture) as caught:
            read_picture(path, PREPROCESSING)
        assert caught.value.status == "unreadable"


PILLOW_IMAGES = os.environ.get("PILLOW_TEST_IMAGES")


@pytest.mark.slow
@pytest.mark.skipif(PILLOW_IMAGES is None, reason="PILLOW_TEST_IMAGES does not name Pillow's Tests/images")
def test_pillows_own_collection() -> None:
    """Some thousand files, many of them made to crash decoders. Counted with Pillow 12.3.0 and pillow-heif."""
    paths = [path for path in sorted(Path(str(PILLOW_IMAGES)).rglob("*")) if path.is_file()]
    found: dict[Path, DecodeResult] = {}
    with DecodePool(PREPROCESSING, workers=2, timeout_s=10) as pool:
        for result in pool.run(DecodeTask(index, str(path)) for index, path in enumerate(paths)):
            found[paths[result.key]] = result
    assert len(found) == len(paths) > 1000
    counts = Counter(status(result) for result in found.values())
    assert counts["timeout"] == counts["decoder_crashed"] == counts["unreadable"] == 0, counts
    assert counts["ok"] >= 700, counts
    expected = {
        "hopper.jpg": "ok",
        "hopper.webp": "ok",
        "hopper.heif": "ok",
        "hopper.psd": "unsupported_format",
        "hopper_webp.tif": "unsupported_format",  # a compression that Pillow's libtiff has not
        "hopper.tar": "not_a_picture",
        "truncated_jpeg.jpg": "truncated",
        "decompression_bomb.gif": "too_large",
        "libtiff_segfault.tif": "corrupt",
    }
    by_name = {path.name: status(result) for path, result in found.items()}
    assert {name: by_name[name] for name in expected} == expected
