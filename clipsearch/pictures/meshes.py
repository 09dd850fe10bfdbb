"""3-D models, seen from several angles. The one module that knows trimesh (extra `3d`), which reads them.

They are drawn here, in numpy, with a depth buffer and shaded faces: that needs no display and no GPU. Files that a
model names are read from its own folder only, and nothing is asked of the network.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.pictures.formats import HEAD_BYTES, mesh_container
from clipsearch.pictures.pdf import Fit, Page, PagesRead, Size
from clipsearch.records import OUT_OF_MEMORY, PixelArray, SkipStatus

Floats = npt.NDArray[np.float32]

ANGLES = (*((30 + 60 * number, 20) for number in range(6)), (30, 75), (30, -60))
"""From where a model is seen, in degrees: the turn from its front, and the height. The last two also show the front of
models whose format does not say which way is up."""
SIDE = 1024  # pixels of the square that an angle is said to be
MOST_BYTES = 256 << 20  # of a model, and of all files beside it that it names
MOST_FACES = 400_000  # that are drawn: a finer model is simplified first
_CELLS = 256  # along the longest side of a model that is simplified
_MOST_PARTS = 20_000
_MOST_PIXELS = 40_000_000  # that are looked at for one angle; beyond that, it is drawn smaller
_AT_ONCE = 400_000
_MOST_APART = 200  # times as large as most of it a model may be, and still be shown whole
_COLOURS_SEEN = 4096  # pixels whose colours are told
_MARGIN = 0.06
_PLAIN = (184, 184, 184)  # a model without colours
_LIGHT = np.array([-0.35, 0.5, 0.79], np.float32)  # from the left and above, behind the viewer
_SHADOW = 0.3  # how bright a face is that the light passes along
UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"s\0o\0", b"\0s\0o")  # how STL in it begins
_UPRIGHT = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # from y upward to z upward

KEPT_S = 30.0  # a model that was drawn from one angle: others are asked for next, for the page's strip of all

_alone = threading.RLock()  # what keeps Pillow from running programs is one for all threads


class MeshError(Exception):
    """A model that cannot be read, with the status that its row gets."""

    def __init__(self, status: SkipStatus, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class _Model:
    """Faces, z upward: their corners, shape (F, 3, 3), and their colours, shape (F, 3), 0..255."""

    corners: Floats
    colours: Floats
    partial: str | None = None
    is_plain: bool = False
    """It has no colours of its own."""


class AnglesRead(NamedTuple):
    """Some angles of a model, and of each the colours of the model's own that are seen, unlit; shape (P, 3) uint8."""

    read: PagesRead
    colours: list[PixelArray]


def read_angles(
    stream: IO[bytes], path: str, *, beside: bool, after: int = 0, most: int = 32, shortest: int | None = None
) -> AnglesRead:
    """The angles after one, `most` at most, as `pdf.read_pages` gives pages. `beside`: files in the folder of `path`
    that the model names may be read. Raises: MeshError."""
    model = _read(stream, path, beside=beside)
    last = min(len(ANGLES), after + most)
    side = SIDE if shortest is None else min(SIDE, shortest)
    read = PagesRead(len(ANGLES), next_page=last if last < len(ANGLES) else None, partial=model.partial)
    seen = [_drawn(model, number, side) for number in range(after + 1, last + 1)]
    if len(seen) == len(ANGLES) and not any(len(colours) for _, colours in seen):
        raise MeshError("corrupt", "there is nothing to draw: its faces have no area")
    read.pages = [Page(number, image, (SIDE, SIDE), False) for number, (image, _) in enumerate(seen, after + 1)]
    return AnglesRead(read, [colours[:0] if model.is_plain else colours for _, colours in seen])


def angle_at(
    stream: IO[bytes], path: str, number: int, *, beside: bool, fit: Fit | None = None
) -> tuple[Image.Image, Size]:
    """How a model looks from an angle, and the size that this is said to have. Raises: MeshError."""
    side = max((fit or (lambda size: size))((SIDE, SIDE)))
    model = _read_once(stream, path, beside=beside)
    image, _ = _drawn(model, max(1, min(number, len(ANGLES))), min(SIDE, 2 * side))  # twice as large: for smooth edges
    return image.resize((side, side), Image.Resampling.BOX if side <= SIDE // 2 else Image.Resampling.LANCZOS), (
        SIDE,
        SIDE,
    )


# -- reading


@dataclass(frozen=True, slots=True)
class _Kept:
    """A model that was read, of which file, and until when it is used."""

    file: tuple[object, ...]
    model: _Model
    until: float


_kept: list[_Kept] = []  # the last one


def _read_once(stream: IO[bytes], path: str, *, beside: bool) -> _Model:
    """As `_read`, but the model of the same file is kept for KEPT_S."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # in memory
        return _read(stream, path, beside=beside)
    file = (path, beside, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    now = time.monotonic()
    found = next((kept.model for kept in tuple(_kept) if kept.file == file and now < kept.until), None)
    if found is None:
        _kept.clear()
        found = _read(stream, path, beside=beside)
    _kept[:] = [_Kept(file, found, now + KEPT_S)]
    return found


def _read(stream: IO[bytes], path: str, *, beside: bool) -> _Model:
    """Raises: MeshError; OSError where the file cannot be read; MemoryError."""
    import trimesh

    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size > MOST_BYTES:
        raise MeshError("too_large", f"the model has {size:,} bytes; the limit is {MOST_BYTES:,}")
    kind = mesh_container(stream.read(HEAD_BYTES), path)
    stream.seek(0)
    content = stream.read()
    if kind == "stl":
        content = _whole_stl(content.removeprefix(b"\xef\xbb\xbf"))
    elif kind == "obj" and b"\n" not in content:  # as old Macs end lines
        content = content.replace(b"\r", b"\n")
    elif kind in ("glb", "gltf"):
        content = _with_scene(content, is_binary=kind == "glb")
    source = io.BytesIO(content)
    del content
    folder = os.path.dirname(os.path.abspath(path)) if beside else None  # noqa: PTH100, PTH120
    resolver = _resolver(folder, in_addresses=kind in ("glb", "gltf"))
    try:
        with _without_programs(), np.errstate(all="ignore"):
            if kind in ("glb", "gltf"):
                _check_gltf(source.getbuffer(), is_binary=kind == "glb")
            scene = trimesh.load_scene(source, file_type=kind, resolver=resolver, process=False)
            model = _model_of(trimesh, scene, is_upright=kind in ("stl", "ply"))
    except (MeshError, MemoryError):
        raise
    except _Beside as error:
        raise MeshError("unreadable", str(error)) from error
    except Exception as error:  # whatever a reader of people's files meets
        if "out of memory" in str(error).lower() or "allocate" in str(error).lower():
            raise MeshError("too_large", OUT_OF_MEMORY) from error
        raise MeshError("corrupt", "the model is damaged: it cannot be read") from error
    return _simplified(_together(model))


_COMPRESSED = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}


def _with_scene(content: bytes, *, is_binary: bool) -> bytes:
    """A glTF that has no scene, which trimesh would draw nothing of, with one of all its nodes."""
    start, stop = (20, 20 + int.from_bytes(content[12:16], "little")) if is_binary else (0, len(content))
    try:
        told = json.loads(content[start:stop])
        nodes = [] if told.get("scenes") else told["nodes"]
        below = {child for node in nodes for child in node.get("children", ())}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # the reader says what is wrong
        return content
    if not nodes:
        return content
    told |= {"scene": 0, "scenes": [{"nodes": [number for number in range(len(nodes)) if number not in below]}]}
    text = json.dumps(told).encode()
    if not is_binary:
        return text
    text += b" " * (-len(text) % 4)
    size = len(content) - stop + start + len(text)
    head = content[:8] + size.to_bytes(4, "little") + len(text).to_bytes(4, "little") + content[16:20]
    return head + text + content[stop:]


def _check_gltf(content: memoryview, *, is_binary: bool) -> None:
    """Refuse a glTF whose corners trimesh does not read: for those it would take zeros. Raises: MeshError, ValueError,
    whatever else a file that is none leads to."""
    about = content[20 : 20 + int.from_bytes(content[12:16], "little")] if is_binary else content
    told = json.loads(about.tobytes())  # a glTF that is no JSON would have trimesh look for another file
    for name in told.get("extensionsRequired", ()):
        if name in _COMPRESSED:
            raise MeshError("unsupported_format", f"it is compressed with {_COMPRESSED[name]}, which is not supported")
    accessors = told.get("accessors", [])
    for mesh in told.get("meshes", ()):
        for primitive in mesh.get("primitives", ()):
            for number in (primitive.get("attributes", {}).get("POSITION"), primitive.get("indices")):
                if number is not None and ("sparse" in accessors[number] or "bufferView" not in accessors[number]):
                    raise MeshError("unsupported_format", "it stores its vertices in a way that is not supported")


def _together(model: _Model) -> _Model:
    """A model without what lies so far from the rest of it that nothing else would be seen."""
    flat = model.corners.reshape(-1, 3)
    extent = float((flat.max(axis=0).astype(np.float64) - flat.min(axis=0)).max())
    low, high = np.percentile(flat[:: 1 + len(flat) // 200_000].astype(np.float64), (10, 90), axis=0)
    size = float((high - low).max())
    if not 0 < size * _MOST_APART < extent:
        return model
    near = ((model.corners >= low - size) & (model.corners <= high + size)).all(axis=(1, 2))
    if not near.any():
        return model
    partial = model.partial or "parts of the model lie far from the rest of it, and are not shown"
    return _Model(model.corners[near], model.colours[near], partial, model.is_plain)


def _whole_stl(content: bytes) -> bytes:
    """The bytes of an STL file that are its model. Raises: MeshError."""
    if content.startswith(UTF_16) and len(content) != 84 + 50 * int.from_bytes(content[80:84], "little"):
        raise MeshError("unsupported_format", "it is text in UTF-16, which is not supported. Save it as ASCII or UTF-8")
    if content[:5].lower() == b"solid" and b"\0" not in content[:512]:
        if b"endsolid" not in content[-65_536:].rstrip()[-1024:].lower():
            raise MeshError("truncated", "the file ends before the model does")
        return content
    end = 84 + 50 * int.from_bytes(content[80:84], "little")
    if len(content) < end:
        raise MeshError("truncated", "the file ends before the model does")
    return content[:end]


class _Beside(Exception):
    """A file beside a model that is needed and cannot be read."""


def _resolver(folder: str | None, *, in_addresses: bool) -> Any:
    """What opens the files that a model names: those in its folder and below, none elsewhere, and no address.
    `in_addresses`: names are written as in addresses, "my%20file.bin"."""
    from trimesh.resolvers import Resolver

    class Folder(Resolver):  # type: ignore[misc]
        """Of one folder."""

        def __init__(self) -> None:
            self.left = MOST_BYTES

        def get(self, name: str) -> bytes:
            """The content of a file. Raises: _Beside."""
            refused = f"it needs the file {str(name)[:100]!r}, which is not in its folder"
            if folder is None or not isinstance(name, str) or "\0" in unquote(name):
                raise _Beside(refused)
            root = os.path.realpath(folder)
            path = os.path.realpath(os.path.join(root, name.strip().replace("\\", "/")))  # noqa: PTH118
            if in_addresses and "%" in name and not os.path.isfile(path):  # noqa: PTH113
                path = os.path.realpath(os.path.join(root, unquote(name.strip())))  # noqa: PTH118
            if os.path.commonpath([root, path]) != root or not os.path.isfile(path):  # noqa: PTH113
                raise _Beside(refused)
            if os.path.getsize(path) > self.left:  # noqa: PTH202
                raise MeshError("too_large", f"it needs more than {MOST_BYTES:,} bytes, the limit for a model")
            with open(path, "rb") as file:
                content = file.read(self.left)
            self.left -= len(content)
            return content

        def keys(self) -> list[str]:
            """None: names are not guessed."""
            return []

        def write(self, name: str, data: Any) -> None:
            """Nothing is written. Raises: NotImplementedError."""
            raise NotImplementedError

        def namespaced(self, namespace: str) -> Any:
            """The same folder."""
            return self

    return Folder()


@contextlib.contextmanager
def _without_programs() -> Iterator[None]:
    """Keep Pillow, with which trimesh opens textures, from running Ghostscript, its only program."""
    from PIL import EpsImagePlugin

    with _alone:
        kept = EpsImagePlugin.gs_binary
        EpsImagePlugin.gs_binary = False
        try:
            yield
        finally:
            EpsImagePlugin.gs_binary = kept


def _model_of(trimesh: Any, scene: Any, *, is_upright: bool) -> _Model:
    """The faces of a scene that can be drawn. Raises: MeshError."""
    corners, colours, count, whole, points, is_plain = [], [], 0, True, 0, True
    origin = None  # near the model: single precision has no room for metres in the numbers of a map
    for part, node in enumerate(scene.graph.nodes_geometry):
        transform, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not isinstance(mesh, trimesh.Trimesh):
            points += 1
            continue
        if part >= _MOST_PARTS or count + len(mesh.faces) > 20 * MOST_FACES:
            raise MeshError("too_large", f"the model has more than {20 * MOST_FACES:,} faces")
        faces, vertices = np.asarray(mesh.faces), np.asarray(mesh.vertices, np.float64)
        exact = vertices @ transform[:3, :3].T + transform[:3, 3]
        if origin is None and len(there := np.flatnonzero(np.isfinite(exact).all(axis=1))):
            origin = exact[there[0]]
        placed = (exact if origin is None else exact - origin).astype(np.float32)
        inside = np.all((faces >= 0) & (faces < len(placed)), axis=1)
        good = inside.copy()
        good[inside] = np.isfinite(placed[faces[inside]]).all(axis=(1, 2))
        whole &= bool(good.all())
        count += int(good.sum())
        corners.append(placed[faces[good]])
        colours.append(_colours(mesh, faces, good))
        is_plain &= not _has_colours(mesh)
    if not count:
        what = "there are only points or lines in it" if points else "it has no face that can be drawn"
        raise MeshError("unsupported_format" if points else "corrupt", f"{what}: only surfaces are seen")
    together = np.concatenate(corners)
    together = together if is_upright else together @ _UPRIGHT.T
    return _Model(together, np.concatenate(colours), None if whole else "parts of the model are damaged", is_plain)


def _has_colours(mesh: Any) -> bool:
    """Whether a part of a model says which colours it has, and they can be read."""
    with contextlib.suppress(MemoryError, Exception):
        if mesh.visual.kind != "texture":
            return bool(mesh.visual.defined)
        material = mesh.visual.material
        if hasattr(material, "baseColorFactor"):
            return material.baseColorFactor is not None or material.baseColorTexture is not None
        # of a material that is not there, trimesh makes a grey one with four pixels of it as texture
        is_made_up = material.image is None or material.image.size == (2, 2)
        return bool(material.kwargs) or not is_made_up or not np.array_equal(material.diffuse, type(material)().diffuse)
    return False


def _colours(mesh: Any, faces: npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> Floats:
    """The colours of faces, shape (F, 3): their own, the mean of their corners', or a texture's in their middle."""
    plain = np.full((int(good.sum()), 3), _PLAIN, np.float32)
    visual = mesh.visual
    if not _has_colours(mesh):
        return plain
    with contextlib.suppress(MemoryError, Exception):  # without its colours a model is found by its shape
        if visual.kind == "vertex":
            plain[:] = np.asarray(visual.vertex_colors)[:, :3][faces[good]].mean(axis=1)
        elif visual.kind == "face":
            plain[:] = np.asarray(visual.face_colors)[good, :3]
        elif visual.kind == "texture":
            material, uv = visual.material, visual.uv
            image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
            plain[:] = np.asarray(material.main_color)[:3]
            if image is not None and uv is not None:
                plain[:] = np.asarray(material.to_color(np.asarray(uv)[faces[good]].mean(axis=1)))[:, :3]
    return plain


def _simplified(model: _Model) -> _Model:
    """A model of MOST_FACES at most, or about as many as are seen: corners that lie close together become one."""
    count = len(model.corners)
    if count <= MOST_FACES:
        return model
    flat = model.corners.reshape(-1, 3)
    low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
    for cells in (_CELLS, _CELLS // 2, _CELLS // 4):
        step = max(float((high - low).max()) / cells, 1e-30)
        key = ((flat - low) / step).astype(np.int64) @ np.array([1, 2048, 2048 * 2048])
        _, first, of = np.unique(key, return_index=True, return_inverse=True)
        faces = of.reshape(-1, 3)
        ordered = np.sort(faces, axis=1)
        distinct = (ordered[:, 0] != ordered[:, 1]) & (ordered[:, 1] != ordered[:, 2])
        _, kept = np.unique(ordered[distinct], axis=0, return_index=True)
        chosen = np.flatnonzero(distinct)[kept]
        if len(chosen) <= MOST_FACES:
            break
    if not len(chosen):  # something far away makes all the rest small
        some = slice(None, None, math.ceil(count / MOST_FACES))
        return _Model(model.corners[some], model.colours[some], model.partial, model.is_plain)
    return _Model(flat[first[faces[chosen]]], model.colours[chosen], model.partial, model.is_plain)


# -- drawing


def _drawn(model: _Model, number: int, side: int) -> tuple[Image.Image, PixelArray]:
    """A model from an angle on white, in a square, and the colours of what is seen, unlit, shape (P, 3). Raises:
    MeshError."""
    turn, height = (math.radians(degrees) for degrees in ANGLES[number - 1])
    turn -= math.pi / 2  # whose front looks along -y
    to_viewer = (math.cos(height) * math.cos(turn), math.cos(height) * math.sin(turn), math.sin(height))
    upward = (-math.sin(height) * math.cos(turn), -math.sin(height) * math.sin(turn), math.cos(height))
    axes = np.array([(-math.sin(turn), math.cos(turn), 0.0), upward, to_viewer])
    seen = (model.corners.astype(np.float64) @ axes.T).reshape(-1, 3)
    low, high = seen.min(axis=0), seen.max(axis=0)
    extent = float((high - low).max())
    if not 0 < extent < math.inf:
        raise MeshError("corrupt", "it has no face that can be drawn: its size is zero")
    scale = (1 - 2 * _MARGIN) * side / max(float((high - low)[:2].max()), 1e-6 * extent)
    placed = ((seen - (low + high) / 2) * (scale, -scale, scale) + (side / 2, side / 2, 0)).reshape(-1, 3, 3)
    placed = placed.astype(np.float32)
    one, other = placed[:, 1] - placed[:, 0], placed[:, 2] - placed[:, 0]
    normals = np.cross(one, other)
    lengths = np.linalg.norm(normals, axis=1)
    light = np.abs(normals @ (_LIGHT * (1, -1, 1)).astype(np.float32)) / np.maximum(lengths, 1e-12)
    shade = _SHADOW + (1 - _SHADOW) * np.minimum(light, 1)
    owner = _nearest(placed, side)
    if owner is None:
        image, colours = _drawn(model, number, side // 2)
        return image.resize((side, side), Image.Resampling.BICUBIC), colours
    pixels = np.full((side * side, 3), 255, np.uint8)
    hit = owner >= 0
    pixels[hit] = np.clip(model.colours * shade[:, None], 0, 255).astype(np.uint8)[owner[hit]]
    some = owner[hit]
    some = some[:: 1 + len(some) // _COLOURS_SEEN]
    return Image.fromarray(pixels.reshape(side, side, 3)), np.clip(model.colours[some], 0, 255).astype(np.uint8)


def _nearest(faces: Floats, side: int) -> npt.NDArray[np.int64] | None:
    """Which face is seen at each pixel of a square, -1 for none; shape (side * side,). `faces`: corners in pixels, the
    third coordinate toward the viewer, shape (F, 3, 3). None: that would take too long."""
    (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = (faces[:, corner].T for corner in range(3))
    area = (y1 - y2) * (x0 - x2) + (x2 - x1) * (y0 - y2)
    low = np.clip(np.ceil(faces[:, :, :2].min(axis=1) - 0.5), 0, side).astype(np.int64)
    high = np.clip(np.floor(faces[:, :, :2].max(axis=1) - 0.5), -1, side - 1).astype(np.int64)
    wide = np.maximum(high - low + 1, 0)
    counts = np.where(area != 0, wide[:, 0] * wide[:, 1], 0)  # what is seen from its edge is not seen
    ends = np.cumsum(counts)
    if ends[-1] > _MOST_PIXELS and side > 64:
        return None
    depth = np.full(side * side, -np.inf, np.float32)
    owner = np.full(side * side, -1, np.int64)
    start = 0
    while start < len(faces):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE)))
        of = np.repeat(np.arange(start, stop), counts[start:stop])
        step = np.arange(len(of)) - np.repeat(ends[start:stop] - counts[start:stop] - done, counts[start:stop])
        across, down = low[of, 0] + step % wide[of, 0], low[of, 1] + step // wide[of, 0]
        x, y = across + np.float32(0.5) - x2[of], down + np.float32(0.5) - y2[of]
        first = ((y1 - y2)[of] * x + (x2 - x1)[of] * y) / area[of]
        second = ((y2 - y0)[of] * x + (x0 - x2)[of] * y) / area[of]
        third = 1 - first - second
        inside = (first >= -1e-4) & (second >= -1e-4) & (third >= -1e-4)
        of, at = of[inside], (down * side + across)[inside]
        z = (first[inside] * z0[of] + second[inside] * z1[of] + third[inside] * z2[of]).astype(np.float32)
        np.maximum.at(depth, at, z)
        nearest = z >= depth[at]
        owner[at[nearest]] = of[nearest]
        start = stop
    return owner
