"""3-D models: how they are drawn, what becomes of them in an index, and files that are damaged or hostile."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from clipsearch.errors import UnreadablePicture
from clipsearch.indexer import look
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.verify import verify
from clipsearch.indexer.words import ReadOptions, read_words
from clipsearch.pictures import formats, meshes
from clipsearch.pictures.formats import identify
from clipsearch.pictures.images import open_picture
from clipsearch.search.collection import Collection
from clipsearch.server.thumbnails import Thumbnails
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill
from tests.support.word_reader import COMMAND as READER

trimesh = pytest.importorskip("trimesh")

BOX = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)


def box(
    colour: str = "red", size: tuple[float, float, float] = (1, 1, 1), at: tuple[float, float, float] = (0, 0, 0)
) -> Any:
    made = trimesh.creation.box(size)
    made.apply_translation(at)
    made.visual.face_colors = [*COLOURS[colour], 255]
    return made


def written(*parts: Any, kind: str = "glb") -> bytes:
    made = parts[0] if len(parts) == 1 else trimesh.Scene(list(parts))
    content = made.export(file_type=kind)
    return content.encode() if isinstance(content, str) else bytes(content)


def gltf(uri: str = "x.bin", **more: Any) -> dict[str, Any]:
    """A glTF of one triangle, whose numbers are in a file beside it."""
    made = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": 36}],
        "buffers": [{"uri": uri, "byteLength": 36}],
    }  # fmt: skip
    return {**made, **more}


TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()


def angle(content: bytes, number: int, side: int = 128, name: str = "x.glb") -> np.ndarray[Any, Any]:
    fit = lambda _: (side, side)  # noqa: E731
    return np.asarray(meshes.angle_at(io.BytesIO(content), name, number, beside=False, fit=fit)[0]).astype(int)


def hue(pixel: Any) -> str:
    """The colour of a face, however it is shaded."""
    if min(pixel) > 240:
        return "white"
    ratios = {name: np.array(COLOURS[name]) / max(COLOURS[name]) for name in ("red", "blue", "green", "yellow")}
    return min(ratios, key=lambda name: float(np.abs(np.asarray(pixel) / max(pixel) - ratios[name]).sum()))


def run(folder: Path, encoder: FakeEncoder, **options: Any) -> IndexReport:
    report = index_folder(folder, encoder, options=IndexOptions(**{"workers": 2, **options}))
    checked = verify(report.index)
    assert checked.ok, checked.problems
    return report


# -- how they look


def test_what_is_in_front_hides_what_is_behind() -> None:
    content = written(box("red", (2, 2, 0.2), (0, 0, 1)), box("blue", (2, 2, 0.2), (0, 0, -1)))  # a front and a back
    assert hue(angle(content, 1)[64, 64]) == hue(angle(content, 6)[64, 64]) == "red"
    assert hue(angle(content, 3)[64, 64]) == hue(angle(content, 4)[64, 64]) == "blue"
    for number in range(1, len(meshes.ANGLES) + 1):
        seen = angle(content, number)
        assert (seen[0] == 255).all()
        assert (seen[:, 0] == 255).all()
        assert 0.1 < (seen.min(axis=2) < 250).mean() < 0.95  # it fills the picture, with a margin


def test_faces_are_shaded_and_a_model_stands_upright() -> None:
    tall = {
        "glb": box(size=(1, 4, 1)),
        "obj": box(size=(1, 4, 1)),
        "stl": box(size=(1, 1, 4)),
        "ply": box(size=(1, 1, 4)),
    }
    for kind, one in tall.items():
        seen = angle(written(one, kind=kind), 1, name=f"x.{kind}")
        across, down = ((seen.min(axis=2) < 250).any(axis=axis).sum() for axis in (0, 1))
        assert down > 2 * across, kind
        shades = {tuple(pixel) for pixel in seen[20:108:4, 30:98:4].reshape(-1, 3) if max(pixel) < 250}
        assert len(shades) >= 2, kind  # of its sides


def test_colours_of_corners_faces_and_textures() -> None:
    corners = trimesh.Trimesh(
        BOX, trimesh.creation.box().faces, vertex_colors=[[*COLOURS["blue"], 255]] * 8, process=False
    )
    uv = np.tile([0.5, 0.5], (8, 1))
    texture = trimesh.visual.TextureVisuals(uv, image=Image.new("RGB", (8, 8), COLOURS["green"]))
    painted = trimesh.Trimesh(BOX, corners.faces, visual=texture, process=False)
    assert hue(angle(written(corners), 1)[64, 64]) == "blue"
    assert hue(angle(written(painted), 1)[64, 64]) == "green"
    bare = trimesh.visual.TextureVisuals(
        uv, material=trimesh.visual.material.SimpleMaterial(image=Image.new("RGB", (8, 8)))
    )
    assert meshes._has_colours(trimesh.Trimesh(BOX, corners.faces, visual=bare, process=False))
    assert hue(angle(written(box("yellow"), kind="ply"), 1, name="x.ply")[64, 64]) == "yellow"
    plain = angle(written(box("red"), kind="stl"), 1, name="x.stl")[64, 64]
    assert plain.max() - plain.min() < 3  # STL knows no colours
    assert plain.max() < 240


@pytest.mark.slow
def test_a_fine_model_is_simplified_without_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    ball = trimesh.creation.icosphere(subdivisions=5)
    content = written(ball, kind="stl")
    whole = angle(content, 1, name="x.stl")
    monkeypatch.setattr(meshes, "MOST_FACES", len(ball.faces) // 3)
    monkeypatch.setattr(meshes, "_CELLS", 64)
    model = meshes._read(io.BytesIO(content), "x.stl", beside=False)
    assert 500 < len(model.corners) <= meshes.MOST_FACES
    simple = angle(content, 1, name="x.stl")
    middle = np.hypot(*np.mgrid[-64:64, -64:64]) < 50
    assert (simple.min(axis=2) < 250)[middle].all()
    assert np.abs(simple - whole)[middle].mean() < 12
    far = stl(len(ball.faces) + 1, [*ball.triangles, [[1e7, 0, 0], [1e7, 1, 0], [1e7, 0, 1]]])
    assert 500 < len(meshes._read(io.BytesIO(far), "x.stl", beside=False).corners) <= meshes.MOST_FACES
    monkeypatch.setattr(meshes, "_MOST_PIXELS", 20_000)  # so many large faces: drawn smaller
    assert (angle(content, 1, name="x.stl").min(axis=2) < 250)[middle].all()


# -- in an index


def test_a_model_is_found_by_an_angle(tmp_path: Path) -> None:
    folder, encoder = tmp_path / "photos", FakeEncoder()
    fill(folder, 2)
    two = written(box("red", (2, 2, 0.2), (0, 0, 1)), box("blue", (2, 2, 0.2), (0, 0, -1)))
    (folder / "two.glb").write_bytes(two)
    (folder / "green.ply").write_bytes(written(box("green"), kind="ply"))
    report = run(folder, encoder)
    assert (report.pictures, report.rows, report.skipped) == (4, 2 + 8 + 8, [])
    with Collection(report.index, encoder=encoder) as photos:
        for query, name in (("green", "green.ply"), ("blue", "two.glb")):
            hit = photos.search(f"{query} ext:{name[-3:]}", 1, all=True)[0]
            assert hit.where == f"{folder}/{name}#{hit.record.view}"
            assert hit.record.view == f"angle={hit.record.angle}"
            assert (hit.record.page, hit.record.width, hit.record.height) == (None, 1024, 1024)
            shown = np.asarray(Image.open(io.BytesIO(photos.thumbnail(hit.record.row_id))).convert("RGB"))
            assert hue(shown[shown.shape[0] // 2, shown.shape[1] // 2].astype(int)) == query
        assert len(photos.search("ext:glb", 20, each=True)) == 8
        assert [hit.record.path for hit in photos.search("ext:glb", 20)] == ["two.glb"]
        assert len(photos.views(photos.search("ext:glb", 1)[0].record.row_id)) == 8
        (tmp_path / "mine.stl").write_bytes(written(box("red"), kind="stl"))
        assert len(photos.similar(tmp_path / "mine.stl", 9)) == 4
    encoded = encoder.images_encoded
    (folder / "two.glb").rename(folder / "moved.glb")
    shutil.copy(folder / "green.ply", folder / "copy.ply")
    report = run(folder, encoder)
    assert (report.renamed, report.copied, report.rows) == (1, 1, 2 + 24)
    assert encoder.images_encoded == encoded
    (folder / "copy.ply").unlink()
    assert run(folder, encoder).removed == 1
    read = read_words(report.index, ReadOptions(workers=1, command=READER))
    assert (read.read + read.passed_over, read.skipped) == (2, [])  # the pictures: a drawn model has no words


def test_colours_are_those_of_the_model_and_not_of_how_it_is_drawn(tmp_path: Path) -> None:
    kinds = {"red.glb": box("red"), "grey.ply": box("grey"), "blue.obj": box("blue"), "plain.stl": box("red")}
    for name, one in kinds.items():
        (tmp_path / name).write_bytes(written(one, kind=name[-3:]))
    uncoloured = trimesh.creation.box()
    (tmp_path / "plain.glb").write_bytes(written(uncoloured))
    shape = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n"
    (tmp_path / "lost.obj").write_text(f"mtllib lost.mtl\n{shape}")  # whose colours are not here
    (tmp_path / "m.mtl").write_text("newmtl a\nKd 0.9 0.1 0.1\n")
    (tmp_path / "red.obj").write_text(f"mtllib m.mtl\n{shape}")
    fill(tmp_path / "photos", 1)
    report = run(tmp_path, FakeEncoder())
    assert report.skipped == []
    with Collection(report.index, encoder=FakeEncoder()) as photos:

        def found(query: str) -> set[str]:
            return {hit.record.path for hit in photos.search(f"{query} (ext:glb or ext:ply or ext:obj or ext:stl)", 99)}

        every = {*kinds, "plain.glb", "lost.obj", "red.obj"}
        assert found("color:red") == {"red.glb", "red.obj"}
        assert found("color:blue") == {"blue.obj"}
        assert found("color:gray") == found("is:monochrome") == {"grey.ply"}
        assert found("color:white") == found("is:photo or is:bright or is:document") == set()
        assert found("is:drawing") == found("-is:photo") == every
        assert photos.notices("color:red") == photos.notices("is:photo") == []  # nobody is told to index them anew


def test_a_thumbnail_of_an_angle_is_drawn_once(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.glb").write_bytes(written(box("red", (2, 2, 0.2), (0, 0, 1)), box("blue", (2, 2, 0.2))))
    told: list[str] = []
    thumbnails = Thumbnails(tmp_path / "thumbnails", observe=told.append)
    with Collection(run(tmp_path / "photos", FakeEncoder()).index, encoder=FakeEncoder()) as photos:
        hits = photos.search("", 9, each=True)
        first = [thumbnails.get(hit.record, hit.path, 256, as_now=True) for hit in hits]
        again = [thumbnails.get(hit.record, hit.path, 256, as_now=True) for hit in hits]
    thumbnails.close()
    assert told == ["made"] * 8 + ["kept"] * 8
    assert again == first
    assert len({jpeg for jpeg, _ in first}) > 4  # each its own


@pytest.mark.slow
def test_a_strip_of_angles_is_made_by_one_process(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.glb").write_bytes(written(trimesh.creation.icosphere(subdivisions=6)))
    thumbnails = Thumbnails(tmp_path / "thumbnails", workers=4)
    with Collection(run(tmp_path / "photos", FakeEncoder()).index, encoder=FakeEncoder()) as photos:
        hits = photos.search("", 9, each=True)
        with ThreadPoolExecutor(8) as asking:
            made = list(asking.map(lambda hit: thumbnails.get(hit.record, hit.path, 256), hits))
    processes = len(thumbnails._decoders[256, 256]._pools)
    thumbnails.close()
    assert (len(made), processes) == (8, 1)


def test_a_model_is_read_once_for_all_its_angles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.glb"
    loaded: list[str] = []
    load = trimesh.load_scene

    def counted(*given: Any, **named: Any) -> Any:
        loaded.append(named["file_type"])
        return load(*given, **named)

    monkeypatch.setattr(trimesh, "load_scene", counted)

    def angles() -> list[bytes]:
        seen = []
        for number in range(1, 9):
            with file.open("rb") as stream:
                image, _ = meshes.angle_at(stream, str(file), number, beside=True, fit=lambda _: (64, 64))
            seen.append(image.tobytes())
        return seen

    file.write_bytes(written(box("red", (2, 2, 0.2))))
    red = angles()
    assert len(loaded) == 1
    file.write_bytes(written(box("blue", (2, 2, 0.2))))
    assert not set(angles()) & set(red)
    assert len(loaded) == 2
    monkeypatch.setattr(meshes, "KEPT_S", -1.0)
    angles()
    assert len(loaded) > 2 + 6  # what lies beside it may be another


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_gltf_without_a_scene_is_drawn_with_all_its_nodes(is_binary: bool) -> None:
    # a blue box on a red one, which is moved with it
    whole = written(box("red", (2, 2, 0.2), (0, 0, 1)), box("blue", (2, 2, 0.2)))
    size = int.from_bytes(whole[12:16], "little")
    told, rest = json.loads(whole[20 : 20 + size]), whole[20 + size :]
    del told["scene"], told["scenes"]
    if is_binary:
        text = json.dumps(told).encode()
        head = b"glTF" + struct.pack("<III4s", 2, 20 + len(text) + len(rest), len(text), b"JSON")
        bare, name = head + text + rest, "x.glb"
    else:
        numbers = base64.b64encode(rest[8:]).decode()
        told["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{numbers}"
        bare, name = json.dumps(told).encode(), "x.gltf"
    for number in (1, 7):
        assert (angle(bare, number, name=name) == angle(whole, number)).all()
    told["nodes"] = []
    assert status_of(json.dumps(told).encode(), "x.gltf").startswith("corrupt")


def test_stl_in_utf_16_gets_a_reason() -> None:
    text = written(box(), kind="stl_ascii").decode()
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        said = status_of(text.encode(encoding), "x.stl")
        assert said == "unsupported_format: it is text in UTF-16, which is not supported. Save it as ASCII or UTF-8"
    binary = b"\xff\xfe" + stl(1, [GOOD])[2:]  # which may begin with anything
    assert (angle(binary, 7, name="x.stl") < 240).any()


def test_models_without_the_extra_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    fill(folder, 1)
    (folder / "x.glb").write_bytes(written(box()))
    missing = lambda found: found.kind != "MESH" and formats.is_installed(found)  # noqa: E731
    monkeypatch.setattr(look, "is_installed", missing)
    report = run(folder, FakeEncoder())
    assert (report.pictures, report.other_files) == (1, {".glb files": 1})
    assert report.warnings == ["one 3-D model was left out. To search 3-D models, too: pip install 'clipsearch[3d]'"]
    monkeypatch.setattr("clipsearch.pictures.images.is_installed", missing)
    with pytest.raises(UnreadablePicture, match=r"pip install 'clipsearch\[3d\]'"):
        open_picture(folder / "x.glb")


# -- files of strangers


def test_formats_are_told_by_first_bytes_and_names() -> None:
    ascii_stl = b"solid x\nfacet normal 0 0 1\nouter loop\n"
    known = [
        (b"glTF\2\0\0\0", "x", "MESH"), (b"ply\nformat ascii 1.0\n", "x.dat", "MESH"), (ascii_stl, "x.stl", "MESH"),
        (bytes(80) + b"\1\0\0\0", "x.STL", "MESH"), (b"# a\nv 0 0 0\n", "x.obj", "MESH"),
        (b' {"asset"', "x.gltf", "MESH"),
        (b"850STL25.01" + bytes(90), "x.stl", None), (b"L\1\3\0\0\0", "x.obj", None), (b'{"a": 1}', "x.json", None),
        (b"solid ground", "x.txt", None), (bytes(40), "x.stl", None), (b"<html>", "x.gltf", None),
    ]  # fmt: skip
    for head, name, kind in known:
        assert identify(head, name) == kind, name


def stl(count: int, corners: Any) -> bytes:
    faces = b"".join(bytes(12) + np.asarray(face, "<f4").tobytes() + bytes(2) for face in corners)
    return bytes(80) + struct.pack("<I", count) + faces


NAN, FLAT = float("nan"), [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
GOOD = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
HEAD = "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n"
FACES = "element face {}\nproperty list uchar int vertex_indices\nend_header\n"
CORNERS = "0 0 0\n1 0 0\n0 1 0\n"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "huge.stl": (stl(2**32 - 1, [GOOD]), "truncated"),
    "none.stl": (b"solid x\nendsolid x\n", "corrupt"),
    "cut.stl": (b"solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0", "truncated"),
    "nan.stl": (stl(1, [[[NAN, 0, 0], [1, 0, 0], [0, float("inf"), 0]]]), "corrupt"),
    "flat.stl": (stl(1, [FLAT]), "corrupt"),
    "huge.ply": ((HEAD.format(10**15) + FACES.format(10**15) + CORNERS).encode(), "corrupt"),
    "cut.ply": (b"ply\nformat binary_little_endian 1.0\nelement vertex 5", "corrupt"),
    "points.ply": ((HEAD.format(3) + "end_header\n" + CORNERS).encode(), "unsupported_format"),
    "beyond.ply": ((HEAD.format(3) + FACES.format(1) + CORNERS + "3 0 1 99\n").encode(), "corrupt"),
    "cut.glb": (written(box())[:400], "corrupt"),
    "lies.glb": (b"glTF\2\0\0\0\xff\xff\xff\x7f\xff\xff\xff\x7fJSON{}", "corrupt"),
    "text.obj": (b"v 0 0 0\nv a b c\nf 1 2 3\n", "corrupt"),
    "none.obj": (b"# nothing\n", "corrupt"),
    "not.gltf": (b"{]", "corrupt"),
    "outside.gltf": (json.dumps(gltf("../x.bin")).encode(), "unreadable"),
    "link.gltf": (json.dumps(gltf("link.bin")).encode(), "unreadable"),
    "far.gltf": (json.dumps(gltf("http://127.0.0.1:PORT/x.bin")).encode(), "unreadable"),
    "count.gltf": (
        json.dumps(gltf(accessors=[{"componentType": 5126, "count": 10**12, "type": "VEC3"}])).encode(),
        "unsupported_format",
    ),
}  # fmt: skip


def status_of(content: bytes, name: str) -> str:
    with pytest.raises(meshes.MeshError) as caught:
        meshes.read_angles(io.BytesIO(content), name, beside=False, shortest=64)
    return f"{caught.value.status}: {caught.value.reason}"


def test_corners_that_are_not_read_are_not_taken_for_zeros() -> None:
    """As trimesh takes them, which draws white pictures."""
    for name, said in (("KHR_draco_mesh_compression", "Draco"), ("EXT_meshopt_compression", "meshopt")):
        compressed = gltf(extensionsUsed=[name], extensionsRequired=[name])
        assert status_of(json.dumps(compressed).encode(), "x.gltf") == (
            f"unsupported_format: it is compressed with {said}, which is not supported"
        )
        text = json.dumps(compressed).encode()
        head = b"glTF" + struct.pack("<III4s", 2, 20 + len(text), len(text), b"JSON")
        assert status_of(head + text, "x.glb").startswith("unsupported_format")
    apart = [{"mesh": 0}, {"mesh": 0, "translation": [3, 0, 0]}]
    for accessor in ({}, {"bufferView": 0, "sparse": {"count": 1}}):
        lost = gltf(nodes=apart, accessors=[{**accessor, "componentType": 5126, "count": 3, "type": "VEC3"}])
        lost["scenes"] = [{"nodes": [0, 1]}]
        assert status_of(json.dumps(lost).encode(), "x.gltf").startswith("unsupported_format")


def test_files_beside_a_gltf_have_their_names_in_addresses(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mein k\xf6rper.bin").write_bytes(TRIANGLE)
    (tmp_path / "100%25.bin").write_bytes(TRIANGLE)
    made = tmp_path / "in" / "x.gltf"
    made.write_text(json.dumps(gltf("mein%20k%C3%B6rper.bin")))
    assert open_picture(made, longest=32).size == (32, 32)
    for outside in ("%2e%2e/100%25.bin", "%2e%2e%2f100%2525.bin", f"{tmp_path}/100%2525.bin", "a%00b"):
        made.write_text(json.dumps(gltf(outside)))
        with pytest.raises(UnreadablePicture, match="not in its folder"):
            open_picture(made, longest=32)


def test_models_far_away_keep_their_shape() -> None:
    near = trimesh.creation.icosphere(subdivisions=2)
    far = near.copy()
    far.apply_translation((691_607_000, 5_334_760_000, 0))
    seen, wanted = (angle(written(one, kind="obj"), 1, name="x.obj") for one in (far, near))
    assert np.abs(seen - wanted).mean() < 1


def test_what_lies_far_from_the_rest_does_not_hide_it() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3)
    stray = stl(len(ball.faces) + 1, [*ball.triangles, [[1e6, 0, 0], [1e6, 1, 0], [1e6, 0, 1]]])
    read = meshes.read_angles(io.BytesIO(stray), "x.stl", beside=False, shortest=64).read
    assert read.partial == "parts of the model lie far from the rest of it, and are not shown"
    for page in read.pages:
        assert (np.asarray(page.image).min(axis=2) < 250).mean() > 0.4
    ground = trimesh.creation.box((40, 40, 0.1))  # no reason to leave a garden out
    read = meshes.read_angles(io.BytesIO(written(ground, ball)), "x.glb", beside=False, shortest=64).read
    assert read.partial is None


def test_what_shows_nothing_is_damaged() -> None:
    line = stl(2, [[[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 0, 0], [0, 0, 1], [0, 0, 2]]])
    assert status_of(line, "x.stl") == "corrupt: there is nothing to draw: its faces have no area"


def test_texts_are_read_as_programs_write_them() -> None:
    text = written(box(), kind="stl_ascii")
    for one in (b"\xef\xbb\xbf" + text, text + b"\n" * 5000, text.replace(b"\n", b"\r\n")):
        assert (angle(one, 1, name="x.stl") == angle(text, 1, name="x.stl")).all()
    assert status_of(text[: len(text) // 2], "x.stl").startswith("truncated")
    shape = written(box(), kind="obj")
    assert (angle(shape.replace(b"\n", b"\r"), 1, name="x.obj") == angle(shape, 1, name="x.obj")).all()


@pytest.mark.slow
def test_damaged_and_hostile_models_get_a_reason_and_stop_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "x.bin").write_bytes(TRIANGLE)
    (folder / "link.bin").symlink_to(tmp_path / "x.bin")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        for name, (content, _) in HOSTILE.items():
            (folder / name).write_bytes(content.replace(b"PORT", str(server.getsockname()[1]).encode()))
        (folder / "x.bin").write_bytes(TRIANGLE)
        (folder / "good.gltf").write_text(json.dumps(gltf()))  # what is in its folder is read
        (folder / "part.stl").write_bytes(stl(2, [GOOD, [[NAN, 0, 0], [1, 0, 0], [0, 1, 0]]]) + b"more behind it")
        report = run(folder, FakeEncoder())
        with pytest.raises(TimeoutError):
            server.accept()  # nobody came
    found = {one.path: (one.status, one.reason) for one in report.skipped}
    told = {name: found[name][0] for name in HOSTILE if name in found}
    assert told == {name: status for name, (_, status) in HOSTILE.items()}
    for name in ("outside.gltf", "link.gltf", "far.gltf"):
        assert "which is not in its folder" in found[name][1]
    assert (report.pictures, report.rows) == (2, 2 * 8)
    with Collection(report.index, encoder=FakeEncoder()) as photos:
        partial = {hit.record.path: hit.record.partial for hit in photos.search("ext:stl or ext:gltf", 9)}
    assert partial == {"good.gltf": None, "part.stl": "parts of the model are damaged"}


def test_materials_outside_the_folder_are_not_read_and_the_shape_is_seen(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for place, colour in ((tmp_path, "1 0 0"), (tmp_path / "in", "0 0 1")):
        (place / "m.mtl").write_text(f"newmtl a\nKd {colour}\n")
    shape = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n"
    seen = {}
    for name in ("../m.mtl", "m.mtl", str(tmp_path / "m.mtl"), "nowhere.mtl"):
        (tmp_path / "in" / "x.obj").write_text(f"mtllib {name}\n{shape}")
        image = np.asarray(open_picture(tmp_path / "in" / "x.obj", longest=64)).astype(int)
        ink = image[image.min(axis=2) < 240]
        assert len(ink) > 50
        assert ink.max() > 160  # the grey of models without colours, not a darker one
        seen[name] = hue(ink.mean(axis=0)) if np.ptp(ink.mean(axis=0)) > 30 else "grey"
    assert seen == {"../m.mtl": "grey", "m.mtl": "blue", str(tmp_path / "m.mtl"): "grey", "nowhere.mtl": "grey"}


def test_a_texture_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    fake = tmp_path / "gs"
    fake.write_text(f"#!/bin/sh\ntouch '{ran}'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(fake))
    (tmp_path / "m.mtl").write_text("newmtl a\nmap_Kd t.eps\n")
    eps = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(eps, "EPS")
    (tmp_path / "t.eps").write_bytes(eps.getvalue())
    (tmp_path / "x.obj").write_text(
        "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\n"
    )
    assert open_picture(tmp_path / "x.obj", longest=64).size == (64, 64)
    assert not ran.exists()
    assert EpsImagePlugin.gs_binary == str(fake)
    with pytest.raises(subprocess.CalledProcessError):
        Image.open(tmp_path / "t.eps").load()  # which would have run it
    assert ran.exists()


@pytest.mark.parametrize("limit", ["MOST_BYTES", "MOST_FACES"])
def test_models_beyond_the_limits_are_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(*(box(at=(n, 0, 0)) for n in range(4)))
    monkeypatch.setattr(meshes, limit, {"MOST_BYTES": len(content) - 1, "MOST_FACES": 2}[limit])
    with pytest.raises(meshes.MeshError) as caught:
        angle(content, 1)
    assert caught.value.status == "too_large"
