"""Motion photos: a clip behind a picture, as phones write it, never harms the picture and is recognised."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

pytest.importorskip("av")

import clipsearch
from clipsearch.pictures.images import PictureFile
from clipsearch.pictures.motion import clip_span, clip_start
from clipsearch.pictures.video import read_part
from clipsearch.records import TRAITS
from clipsearch.server.app import ServerOptions, create_app
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture
from tests.support.videos import colours, write_video

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 {about}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta>"""
_ITEM = '<rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="{}" Item:Semantic="{}" Item:Length="{}"/></rdf:li>'


def directory(gain: int, clip: int) -> str:
    items = [("image/jpeg", "Primary", 0), ("image/jpeg", "GainMap", gain), ("video/mp4", "MotionPhoto", clip)]
    listed = "".join(_ITEM.format(*item) for item in items)
    return f"<Container:Directory><rdf:Seq>{listed}</rdf:Seq></Container:Directory>"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, colours(("red", "blue")), seconds=1)
    return path.read_bytes()


def still(kind: str = "JPEG", xmp: str = "") -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file = io.BytesIO()
    picture(3, size=(320, 240)).save(file, kind, quality=90, **({"xmp": xmp.encode()} if xmp else {}))
    return file.getvalue()


def with_directory(clip: bytes, gain: bytes = b"") -> bytes:
    inner = directory(len(gain), len(clip))
    about = 'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"'
    return still(xmp=XMP.format(about=about, inner=inner)) + gain + clip


def motion_photos(clip: bytes) -> dict[str, bytes]:
    micro = f'GCamera:MicroVideo="1" GCamera:MicroVideoOffset="{len(clip)}"'
    elements = (
        f"<GCamera:MicroVideo>1</GCamera:MicroVideo><GCamera:MicroVideoOffset>{len(clip)}</GCamera:MicroVideoOffset>"
    )
    samsung = b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + clip + b"SEFH" + bytes(24) + b"SEFT"
    boxed = (8 + len(clip)).to_bytes(4, "big") + b"mpvd" + clip
    return {
        "MVIMG.jpg": still(xmp=XMP.format(about=micro, inner="")) + clip,
        "elements.jpg": still(xmp=XMP.format(about="", inner=elements)) + clip,
        "PXL.MP.jpg": with_directory(clip),
        "gain.jpg": with_directory(clip, still()),
        "stale.jpg": with_directory(clip) + b"more" * 9,  # an editor has put something behind it
        "samsung.jpg": still() + samsung,
        "boxed.heic": still("HEIF") + boxed,
        "samsung.heic": still("HEIF") + samsung,
    }


def is_motion(path: Path) -> bool:
    with PictureFile(path) as file:
        seen = file.decode(FakeEncoder().preprocessing, look=True)
    assert seen.partial is None
    return bool(seen.appearance.traits >> TRAITS.index("motion") & 1)


@pytest.mark.many
@pytest.mark.parametrize("name", motion_photos(b""))
def test_the_clip_is_found_and_the_picture_is_whole(name: str, clip: bytes, tmp_path: Path) -> None:
    content = motion_photos(clip)[name]
    start = clip_start(content)
    assert start is not None
    assert content[start : start + len(clip)] == clip
    assert clip_span(content) == range(start, start + len(clip))
    assert read_part(io.BytesIO(content[start:])).frames
    plain = still("HEIF" if name.endswith("heic") else "JPEG")
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"plain-{name}").write_bytes(plain)
    assert is_motion(tmp_path / name)
    assert not is_motion(tmp_path / f"plain-{name}")
    pixels = []
    for path in (tmp_path / name, tmp_path / f"plain-{name}"):
        with PictureFile(path) as file:
            pixels.append(np.asarray(file.open()))
    assert np.array_equal(pixels[0], pixels[1])


def test_what_lost_its_clip_is_a_picture_like_any_other(clip: bytes, tmp_path: Path) -> None:
    for name, content in motion_photos(clip).items():
        start = clip_start(content)
        assert start is not None
        (tmp_path / name).write_bytes(content[:start])
        assert (clip_start(content[:start]), clip_span(content[:start])) == (None, None)
        if not name.endswith("heic"):  # whose box then lacks its end
            assert not is_motion(tmp_path / name)
    for other in (still() + clip, clip, b"", b"\xff\xd8" + b"MotionPhoto_Data" * 9, still("HEIF")):
        assert clip_start(other) is None


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="no exiftool")
def test_exiftool_finds_the_same_clip(clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "MVIMG.jpg"
    path.write_bytes(still() + clip)
    offset = f"-XMP-GCamera:MicroVideoOffset={len(clip)}"
    subprocess.run(["exiftool", "-q", "-XMP-GCamera:MicroVideo=1", offset, str(path)], check=True)
    content = path.read_bytes()
    start = clip_start(content)
    assert start is not None
    told = subprocess.run(["exiftool", "-b", "-EmbeddedVideoFile", str(path)], check=True, capture_output=True).stdout
    assert told in (b"", content[start:])
    assert content[start:] == clip


def test_is_motion_is_a_filter(clip: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "plain.jpg").write_bytes(still())
    (folder / "PXL.MP.jpg").write_bytes(with_directory(clip))
    clipsearch.index(folder, encoder=FakeEncoder())
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        assert [Path(hit.path).name for hit in photos.search("is:motion")] == ["PXL.MP.jpg"]
        assert [Path(hit.path).name for hit in photos.search("not is:motion")] == ["plain.jpg"]


def test_a_clip_that_was_cut_short_ends_with_its_last_whole_box(clip: bytes) -> None:
    content = still() + b"MotionPhoto_Data" + clip
    start = clip_start(content)
    span = clip_span(content[:-9])
    assert start is not None
    assert span is not None
    assert span.start == start
    assert len(span) < len(clip) - 9
    end = len(span)
    assert clip.startswith(content[start : start + end])
    assert int.from_bytes(clip[end : end + 4], "big") + end == len(clip)


HERE = ("127.0.0.1", 50000)


def asking(index: Path, client: tuple[str, int] = HERE, originals: bool | None = None) -> TestClient:
    options = ServerOptions(warm_pictures_after_s=None, originals=originals)
    app = create_app([index], encoder=FakeEncoder(), options=options)
    return TestClient(app, base_url="http://127.0.0.1:7860", client=client)


def test_a_server_sends_the_clip_in_parts_and_nothing_else(clip: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "plain.jpg").write_bytes(still())
    (folder / "samsung.jpg").write_bytes(motion_photos(clip)["samsung.jpg"])
    index = clipsearch.index(folder, encoder=FakeEncoder()).index
    with asking(index) as client:
        hits = {hit["name"]: hit for hit in client.post("/v1/search", json={}).json()["hits"]}
        assert "moment" not in hits["plain.jpg"]
        address = hits["samsung.jpg"]["moment"]
        whole = client.get(address)
        assert (whole.status_code, whole.content) == (200, clip)
        assert whole.headers["content-type"] == "video/mp4"
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["x-content-type-options"] == "nosniff"
        assert whole.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert whole.headers["cache-control"] == "private, no-store"
        for asked, part in (("0-99", clip[:100]), ("100-", clip[100:]), ("-50", clip[-50:]), ("9-1000000", clip[9:])):
            answer = client.get(address, headers={"range": f"bytes={asked}"})
            assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"] == f"bytes 9-{len(clip) - 1}/{len(clip)}"
        beyond = client.get(address, headers={"range": f"bytes={len(clip)}-"})  # of the file, but not of the clip
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(clip)}")
        plain = hits["plain.jpg"]
        other = f"/v1/images/{plain['row_id']}/clip?content={plain['content_hash'][:16]}"
        assert client.get(other).status_code == 404
        assert client.get(address.partition("?")[0]).status_code == 422  # without a content
        known = client.get(f"/v1/images/{hits['samsung.jpg']['row_id']}").json()
        assert known["moment"] == address


@pytest.mark.parametrize(
    ("originals", "client", "expected"),
    [
        (None, ("203.0.113.7", 1), 403),
        (False, HERE, 403),
        (True, ("203.0.113.7", 1), 200),
    ],
)
def test_who_gets_originals_gets_clips(
    clip: bytes, tmp_path: Path, originals: bool | None, client: tuple[str, int], expected: int
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "PXL.MP.jpg").write_bytes(with_directory(clip))
    index = clipsearch.index(folder, encoder=FakeEncoder()).index
    with asking(index, client, originals) as asked:
        (hit,) = asked.post("/v1/search", json={}).json()["hits"]
        answer = asked.get(hit["moment"])
        assert answer.status_code == expected
        assert (answer.content == clip) is (expected == 200)


def test_a_file_that_changed_is_not_sent(clip: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = folder / "samsung.jpg"
    content = motion_photos(clip)["samsung.jpg"]
    photo.write_bytes(content)
    times = photo.stat()
    with asking(clipsearch.index(folder, encoder=FakeEncoder()).index) as client:
        (hit,) = client.post("/v1/search", json={}).json()["hits"]
        secret = b"s" * len(clip)
        photo.write_bytes(content[: -len(clip)] + secret)
        os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time
        answer = client.get(hit["moment"])
        assert answer.status_code == 404
        assert secret not in answer.content
        photo.unlink()
        assert client.get(hit["moment"]).status_code == 404
