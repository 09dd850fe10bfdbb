"""Pictures of one motif in every combination of container, depth, planes, photometric interpretation, byte order,
alpha and profile, written by tifffile, imagecodecs, Pillow and by hand.

Each `Case` says what a reader must see, computed from the samples that an independent reader finds in the file.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

Array = np.ndarray[Any, Any]
WIDTH, HEIGHT = 48, 32


@dataclass(frozen=True)
class Case:
    """A file, and what it shows: `expected` (H, W, 3) in 0..255 on white, within `tolerance` on average and ten times
    that anywhere. With `refused`, a word of the reason why it cannot be read instead."""

    name: str
    content: bytes
    expected: Array | None
    tolerance: float = 1.0
    refused: str | None = None


def motif() -> Array:
    """Four smooth colour fields, no two corners alike. Shape: (H, W, 3) float in 0..1."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    red = 0.5 + 0.45 * np.sin(x / 9.0 + 0.3)
    green = 0.5 + 0.45 * np.cos(y / 7.0 + x / 31.0)
    blue = x / WIDTH * 0.8 + y / HEIGHT * 0.15
    return np.asarray(np.stack([red, green, blue], axis=-1))


def coverage() -> Array:
    """Alpha: opaque on the left, less and less to the right. Shape: (H, W) float in 0..1."""
    return np.asarray(np.clip(1.6 - 1.5 * np.mgrid[0:HEIGHT, 0:WIDTH][1] / WIDTH, 0, 1))


def grey() -> Array:
    """The motif in grey. Shape: (H, W) float in 0..1."""
    return np.asarray(motif().mean(axis=-1))


def on_white(colours: Array, alpha: Array) -> Array:
    """Straight colours over white, in 0..255."""
    return (colours * alpha[..., None] + 1 - alpha[..., None]) * 255


def as_rgb(values: Array) -> Array:
    """Grey of 0..1 as colours of 0..255."""
    return np.repeat(values[..., None], 3, axis=-1) * 255


def quantise(values: Array, code: str) -> Array:
    """Values of 0..1 as samples of a type: all of what it holds; floats as they are, signed numbers around zero."""
    kind, bits = code[0], int(code[1:])
    if kind == "f":
        return values.astype(f"f{bits // 8}")
    top = 2.0**bits - 1
    samples = np.round(values * top)
    if kind == "i":
        samples -= 2.0 ** (bits - 1)
    return (
        samples.astype(np.float64).clip(-(2.0 ** (bits - 1)) if kind == "i" else 0, None).astype(f"{kind}{bits // 8}")
    )


def tiff(samples: Array, **options: Any) -> bytes:
    """A TIFF of these samples, and a check that tifffile finds them in it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, software=False, **options)
    found = tifffile.imread(io.BytesIO(buffer.getvalue()))
    if options.get("compression") not in ("jpeg", "jpeg2000", "webp"):
        assert np.array_equal(np.squeeze(found), np.squeeze(samples)), "tifffile reads something else than it wrote"
    return buffer.getvalue()


TYPES = ("u8", "u16", "u32", "i8", "i16", "i32", "f16", "f32", "f64")


def tiff_types() -> Iterator[Case]:
    """Types x interpretations x planes x byte orders."""
    layouts = (
        "minisblack",
        "miniswhite",
        "rgb",
        "rgb+unassalpha",
        "rgb+assocalpha",
        "rgb+unspecified",
        "grey+unassalpha",
    )
    for code, layout, planes, order in itertools.product(TYPES, layouts, ("contig", "separate"), "<>"):
        photometric, _, extra = layout.partition("+")
        if photometric == "grey":
            photometric = "minisblack"
        if planes == "separate" and layout in ("minisblack", "miniswhite"):
            continue
        alpha = coverage()
        colours = motif() if photometric == "rgb" else grey()[..., None]
        expected = colours if photometric == "rgb" else np.repeat(colours, 3, axis=-1)
        if photometric == "miniswhite":
            colours = 1 - colours
        expected = on_white(expected, alpha) if extra in ("unassalpha", "assocalpha") else expected * 255
        if code[0] == "i" and "alpha" in extra:
            continue  # what a negative alpha is, nobody says
        if extra == "assocalpha":
            colours = colours * alpha[..., None]
        if extra:
            colours = np.concatenate([colours, alpha[..., None]], axis=-1)
        samples = quantise(colours, code)
        if planes == "separate":
            samples = np.ascontiguousarray(np.moveaxis(samples, -1, 0))
        options: dict[str, Any] = {"photometric": photometric, "byteorder": order}
        if samples.ndim == 3 and samples.shape[-1] == 1:
            samples = samples[..., 0]
        else:
            options["planarconfig"] = planes
        if extra:
            options["extrasamples"] = [extra]
        yield Case(f"tiff {code} {layout} {planes} {order}", tiff(samples, **options), expected, 1.5)


def tiff_bits() -> Iterator[Case]:
    """Odd numbers of bits."""
    for bits, layout, order in itertools.product(
        (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15), ("grey", "rgb"), "<>"
    ):
        colours = grey()[..., None] if layout == "grey" else motif()
        samples = np.round(colours * (2**bits - 1)).astype(int)
        channels = samples.shape[-1]
        tags = {258: ("H", (bits,) * channels), 262: ("H", (1 if layout == "grey" else 2,)), 277: ("H", (channels,))}
        content = small_tiff(tags, pack(samples.reshape(HEIGHT, -1), bits), order)
        if bits in (1, 2, 4, 12):
            assert np.array_equal(tifffile.imread(io.BytesIO(content)), samples.squeeze())
        shown = samples / (2**bits - 1) * 255
        yield Case(f"tiff {bits} bits {layout} {order}", content, np.repeat(shown, 3 // channels, -1))


def tiff_compressions() -> Iterator[Case]:
    """Compressions x predictors x types x strips and tiles."""
    for compression, predictor, code, tiled, order in itertools.product(
        ("lzw", "zlib", "adobe_deflate", "packbits", "lzma", "zstd"),
        (1, 2, 3),
        ("u8", "u16", "u32", "f16", "f32"),
        (False, True),
        "<>",
    ):
        if (predictor == 3) != (code[0] == "f") and predictor != 1:
            continue
        if compression == "packbits" and predictor != 1:
            continue
        options: dict[str, Any] = {"tile": (16, 32)} if tiled else {"rowsperstrip": 7}
        samples = quantise(motif(), code)
        try:
            content = tiff(
                samples, photometric="rgb", compression=compression, predictor=predictor, byteorder=order, **options
            )
        except Exception as error:  # a combination that the writer does not write
            if "predictor" not in str(error):
                raise
            continue
        yield Case(
            f"tiff {compression} predictor {predictor} {code} tiled={tiled} {order}", content, motif() * 255, 1.5
        )
    for name, compression in (("LERC", "lerc"), ("JPEG XL", "jpegxl"), ("JPEG XR", "jpegxr")):
        content = tiff(quantise(motif(), "u8"), photometric="rgb", compression=compression)
        yield Case(f"tiff {name}", content, None, refused=name)
    for planes, subsampling in (("contig", (1, 1)), ("contig", (2, 2)), ("contig", (2, 1)), ("contig", (4, 1))):
        content = tiff(
            quantise(motif(), "u8"), photometric="rgb", compression="jpeg", subsampling=subsampling,
            planarconfig=planes, compressionargs={"level": 95},
        )  # fmt: skip
        yield Case(f"tiff jpeg ycbcr {subsampling}", content, motif() * 255, 8)
    for tiled in (False, True):
        options = {"tile": (16, 16)} if tiled else {"rowsperstrip": 8}
        content = tiff(
            quantise(motif(), "u8"), photometric="rgb", compression="jpeg", compressionargs={"level": 95}, **options
        )
        yield Case(f"tiff jpeg rgb tiled={tiled}", content, motif() * 255, 4)
        content = tiff(
            quantise(grey(), "u8"),
            photometric="minisblack",
            compression="jpeg",
            compressionargs={"level": 95},
            **options,
        )
        yield Case(f"tiff jpeg grey tiled={tiled}", content, as_rgb(grey()), 4)
        content = tiff(
            quantise(1 - grey(), "u8"),
            photometric="miniswhite",
            compression="jpeg",
            compressionargs={"level": 95},
            **options,
        )
        yield Case(f"tiff jpeg white is zero tiled={tiled}", content, as_rgb(grey()), 4)
        for compression in ("jpeg2000", "webp", "png"):
            content = tiff(quantise(motif(), "u8"), photometric="rgb", compression=compression, **options)
            yield Case(f"tiff {compression} tiled={tiled}", content, motif() * 255, 6)
    planes_first = np.ascontiguousarray(np.moveaxis(quantise(motif(), "u8"), -1, 0))
    content = tiff(
        planes_first, photometric="rgb", planarconfig="separate", compression="jpeg", compressionargs={"level": 95}
    )
    yield Case("tiff jpeg rgb separate", content, motif() * 255, 4)


def small_tiff(tags: dict[int, tuple[str, tuple[int, ...]]], pixels: bytes, order: str = "<") -> bytes:
    """A TIFF of one strip by hand; `tags`: number -> (struct code, values)."""
    entries = dict(tags)
    entries.setdefault(256, ("I", (WIDTH,)))
    entries.setdefault(257, ("I", (HEIGHT,)))
    entries |= {273: ("I", (8,)), 279: ("I", (len(pixels),)), 278: ("I", (HEIGHT,))}
    kinds = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8}
    table_at = 8 + len(pixels) + len(pixels) % 2
    extra_at = table_at + 2 + 12 * len(entries) + 4
    table, extra = struct.pack(order + "H", len(entries)), b""
    for tag in sorted(entries):
        code, values = entries[tag]
        body = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(body) > 4:
            field = struct.pack(order + "I", extra_at + len(extra))
            extra += body + b"\0" * (len(body) % 2)
        else:
            field = body.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kinds[code], len(values)) + field
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", table_at)
    return head + pixels + b"\0" * (len(pixels) % 2) + table + bytes(4) + extra


def srgb_to_lab(colours: Array) -> Array:
    """CIE L*a*b* (D50) of sRGB colours of 0..1."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    x, y, z = np.moveaxis(linear @ to_xyz.T / np.array([0.96422, 1.0, 0.82521]), -1, 0)
    f = [np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116) for v in (x, y, z)]
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], axis=-1)


def tiff_photometrics() -> Iterator[Case]:
    """Interpretations beside grey and RGB."""
    colours = motif()
    cmyk = np.concatenate([1 - colours, np.zeros((HEIGHT, WIDTH, 1))], axis=-1)
    black = 1 - colours.max(axis=-1, keepdims=True)
    separated = np.concatenate([(1 - colours - black) / np.maximum(1 - black, 1e-9), black], axis=-1)
    for code, ink, planes, order in itertools.product(("u8", "u16"), ("cmy", "cmyk"), ("contig", "separate"), "<>"):
        samples = quantise(cmyk if ink == "cmy" else separated, code)
        if planes == "separate":
            samples = np.ascontiguousarray(np.moveaxis(samples, -1, 0))
        content = tiff(samples, photometric="separated", planarconfig=planes, byteorder=order)
        yield Case(f"tiff {ink} {code} {planes} {order}", content, colours * 255, 2)
    with_alpha = np.concatenate([separated, coverage()[..., None]], axis=-1)
    content = tiff(
        quantise(with_alpha, "u8"), photometric="separated", planarconfig="contig", extrasamples=["unassalpha"]
    )
    yield Case("tiff cmyk with alpha", content, on_white(colours, coverage()), 2)
    inks = small_tiff(
        {258: ("H", (8,) * 4), 262: ("H", (5,)), 277: ("H", (4,)), 332: ("H", (2,))},
        quantise(separated, "u8").tobytes(),
    )
    yield Case("tiff of other inks", inks, None, refused="inks")
    for order, bits in itertools.product("<>", (2, 4, 8, 16)):
        entries = 2**bits
        indices = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) * 7) % entries
        palette = np.round(np.random.default_rng(bits).random((entries, 3)) * 65535).astype(np.uint16)
        expected = palette[indices] / 65535 * 255
        for alpha in (None, 1, 2):
            if alpha is not None and bits != 8:
                continue
            planes_ = [indices] if alpha is None else [indices, np.round(coverage() * 255).astype(int)]
            if bits < 8:
                pixels = pack(indices, bits)
            else:
                pixels = np.stack(planes_, axis=-1).astype(f"{order}u{bits // 8}").tobytes()
            tags = {258: ("H", (bits,) * len(planes_)), 262: ("H", (3,)), 277: ("H", (len(planes_),))}
            tags[320] = ("H", tuple(int(v) for v in palette.T.reshape(-1)))
            shown = expected
            if alpha is not None:
                tags[338] = ("H", (alpha,))
                if alpha == 1:
                    continue
                shown = on_white(expected / 255, np.round(coverage() * 255) / 255)
            yield Case(f"tiff palette {bits} bits alpha={alpha} {order}", small_tiff(tags, pixels, order), shown, 1.5)
    lab = srgb_to_lab(colours)
    for photometric, bits, order in itertools.product(("cielab", "icclab"), (8, 16), "<>"):
        if bits == 8:
            light = np.round(lab[..., 0] / 100 * 255)
            chroma = np.round(lab[..., 1:])
            chroma = chroma % 256 if photometric == "cielab" else chroma + 128
            code = "u1"
        else:
            light = np.round(lab[..., 0] / 100 * (65535 if photometric == "cielab" else 65280))
            chroma = np.round(lab[..., 1:] * 256)
            chroma = chroma % 65536 if photometric == "cielab" else chroma + 32768
            code = order + "u2"
        pixels = np.concatenate([light[..., None], chroma], axis=-1).astype(code).tobytes()
        tags = {258: ("H", (bits,) * 3), 262: ("H", (8 if photometric == "cielab" else 9,)), 277: ("H", (3,))}
        yield Case(f"tiff {photometric} {bits} bits {order}", small_tiff(tags, pixels, order), colours * 255, 4)
    for order in "<>":  # libvips' LABS: L* of 0..32767
        values = np.concatenate([lab[..., :1] / 100 * 32767, lab[..., 1:] * 256], axis=-1)
        tags = {258: ("H", (16,) * 3), 262: ("H", (8,)), 277: ("H", (3,)), 339: ("H", (2,) * 3)}
        content = small_tiff(tags, np.round(values).clip(-32768, 32767).astype(order + "i2").tobytes(), order)
        yield Case(f"tiff cielab of signed numbers {order}", content, colours * 255, 4)
    rgb = colours * 255
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    cb, cr = 128 + (rgb[..., 2] - luma) * 0.564, 128 + (rgb[..., 0] - luma) * 0.713
    for across, down in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (4, 4)):
        blocks = []
        for y in range(0, HEIGHT, down):
            for x in range(0, WIDTH, across):
                block = (slice(y, y + down), slice(x, x + across))
                blocks += [*np.round(luma[block]).reshape(-1), round(cb[block].mean()), round(cr[block].mean())]
        pixels = bytes(int(np.clip(v, 0, 255)) for v in blocks)
        tags = {258: ("H", (8,) * 3), 262: ("H", (6,)), 277: ("H", (3,)), 530: ("H", (across, down))}
        yield Case(f"tiff ycbcr {across}x{down}", small_tiff(tags, pixels), rgb, 1.5 + across * down)
        squeezed = small_tiff({**tags, 259: ("H", (8,))}, zlib.compress(pixels))
        yield Case(f"tiff ycbcr {across}x{down} deflate", squeezed, rgb, 1.5 + across * down)
    for number in (32844, 32845):
        tags = {258: ("H", (16,) * 3), 262: ("H", (number,)), 277: ("H", (3,))}
        content = small_tiff(tags, quantise(colours, "u16").tobytes())
        yield Case(f"tiff photometric {number}", content, None, refused="Log")
    complex_ = small_tiff(
        {258: ("H", (64,)), 262: ("H", (1,)), 277: ("H", (1,)), 339: ("H", (6,))}, bytes(WIDTH * HEIGHT * 8)
    )
    yield Case("tiff of complex numbers", complex_, None, refused="complex")
    for order, fill in itertools.product("<>", (1, 2)):
        pixels = quantise(colours, "u8").tobytes()
        if fill == 2:
            pixels = bytes(int(f"{v:08b}"[::-1], 2) for v in pixels)
        tags = {258: ("H", (8,) * 3), 262: ("H", (2,)), 277: ("H", (3,)), 266: ("H", (fill,))}
        yield Case(f"tiff fill order {fill} {order}", small_tiff(tags, pixels, order), colours * 255)
    tags = {258: ("H", (5, 6, 5)), 262: ("H", (2,)), 277: ("H", (3,))}
    fields = [np.round(colours[..., n] * (2**b - 1)).astype(int) for n, b in enumerate((5, 6, 5))]
    packed = (fields[0] << 11 | fields[1] << 5 | fields[2]).astype(">u2").tobytes()
    yield Case("tiff 5, 6 and 5 bits", small_tiff(tags, packed), colours * 255, 4)
    for compression in ("group3", "group4", "tiff_ccitt"):
        page = Image.fromarray(as_rgb(grey()).astype(np.uint8)).convert("1", dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        page.save(buffer, "TIFF", compression=compression)
        yield Case(f"tiff {compression}", buffer.getvalue(), np.asarray(page.convert("RGB")).astype(float), 0.1)


def pack(indices: Array, bits: int) -> bytes:
    """Rows of numbers of a few bits each."""
    shifts = np.arange(bits - 1, -1, -1)
    fields = (indices.astype(np.int64)[..., None] >> shifts & 1).astype(np.uint8).reshape(len(indices), -1)
    return np.packbits(fields, axis=1).tobytes()


def png(
    samples: Array, colour: int, depth: int, extra: dict[bytes, bytes] | None = None, interlaced: bool = False
) -> bytes:
    """A PNG by hand. Shape: samples (H, W, C) of whole numbers."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x, y, step_x, step_y in passes:
        for row in samples[y::step_y, x::step_x]:
            if row.size:
                raw += b"\0" + (row.astype(f">u{depth // 8}").tobytes() if depth >= 8 else pack(row[None, :, 0], depth))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)),
        *(extra or {}).items(),
    ]
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def pngs() -> Iterator[Case]:
    """Depths x colour types x transparency x interlacing."""
    for interlaced in (False, True):
        name = "interlaced " if interlaced else ""
        for depth in (1, 2, 4, 8, 16):
            top = 2**depth - 1
            levels = np.round(grey() * top)[..., None]
            yield Case(f"png {name}grey {depth}", png(levels, 0, depth, None, interlaced), as_rgb(levels[..., 0] / top))
            marked = int(levels[5, 5, 0])
            shown = as_rgb(levels[..., 0] / top)
            shown[levels[..., 0] == marked] = 255
            content = png(levels, 0, depth, {b"tRNS": struct.pack(">H", marked)}, interlaced)
            yield Case(f"png {name}grey {depth} transparent", content, shown)
            if depth <= 8:
                entries = min(2**depth, 200)
                palette = np.random.default_rng(depth).integers(0, 256, (entries, 3))
                alphas = np.random.default_rng(9).integers(0, 256, entries)
                indices = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH, 1) * 3) % entries
                table = {b"PLTE": palette.astype(np.uint8).tobytes()}
                yield Case(
                    f"png {name}palette {depth}",
                    png(indices, 3, depth, table, interlaced),
                    palette[indices[..., 0]].astype(float),
                )
                table[b"tRNS"] = alphas.astype(np.uint8).tobytes()
                shown = on_white(palette[indices[..., 0]] / 255, alphas[indices[..., 0]] / 255)
                yield Case(f"png {name}palette {depth} alpha", png(indices, 3, depth, table, interlaced), shown)
            if depth >= 8:
                colours, alpha = np.round(motif() * top), np.round(coverage() * top)[..., None]
                yield Case(f"png {name}rgb {depth}", png(colours, 2, depth, None, interlaced), colours / top * 255)
                marked_colour = colours[4, 4].astype(int)
                shown = colours / top * 255
                shown[(colours == marked_colour).all(axis=-1)] = 255
                content = png(colours, 2, depth, {b"tRNS": struct.pack(">HHH", *marked_colour)}, interlaced)
                yield Case(f"png {name}rgb {depth} transparent", content, shown)
                if depth == 16:  # a colour that eight bits would not tell from the one that is see-through
                    beside = marked_colour ^ 1
                    content = png(colours, 2, depth, {b"tRNS": struct.pack(">HHH", *beside)}, interlaced)
                    yield Case(f"png {name}rgb {depth}, no such colour", content, colours / top * 255)
                content = png(np.concatenate([colours, alpha], axis=-1), 6, depth, None, interlaced)
                yield Case(f"png {name}rgba {depth}", content, on_white(colours / top, alpha[..., 0] / top))
                content = png(np.concatenate([levels, alpha], axis=-1), 4, depth, None, interlaced)
                yield Case(
                    f"png {name}grey alpha {depth}",
                    content,
                    on_white(np.repeat(levels / top, 3, -1), alpha[..., 0] / top),
                )


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    """The image as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def jpegs() -> Iterator[Case]:
    """Colour spaces, samplings and codings of JPEG."""
    colours = quantise(motif(), "u8")
    image, level = Image.fromarray(colours), Image.fromarray(quantise(grey(), "u8"))
    for subsampling, progressive in itertools.product(("4:4:4", "4:2:2", "4:2:0", "4:1:1"), (False, True)):
        content = saved(image, "JPEG", quality=97, subsampling=subsampling, progressive=progressive)
        yield Case(f"jpeg {subsampling} progressive={progressive}", content, motif() * 255, 6)
    for progressive in (False, True):
        yield Case(
            f"jpeg grey {progressive}", saved(level, "JPEG", quality=97, progressive=progressive), as_rgb(grey()), 3
        )
    yield Case("jpeg rgb", saved(image, "JPEG", quality=97, keep_rgb=True), motif() * 255, 4)
    yield Case("jpeg restart", saved(image, "JPEG", quality=97, restart_marker_blocks=2), motif() * 255, 6)
    cmyk = 255 - np.concatenate([colours, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=-1)
    adobe = saved(Image.frombytes("CMYK", (WIDTH, HEIGHT), cmyk.tobytes()), "JPEG", quality=97)
    yield Case("jpeg cmyk of Adobe", adobe, motif() * 255, 4)
    at = adobe.index(b"\xff\xee")
    bare = adobe[:at] + adobe[at + 2 + int.from_bytes(adobe[at + 2 : at + 4], "big") :]
    yield Case("jpeg cmyk, inverted without saying so", bare, 255 - motif() * 255, 255)
    plain = saved(Image.frombytes("CMYK", (WIDTH, HEIGHT), (255 - cmyk).tobytes()), "JPEG", quality=97)
    at = plain.index(b"\xff\xee")
    plain = plain[:at] + plain[at + 2 + int.from_bytes(plain[at + 2 : at + 4], "big") :]
    yield Case("jpeg cmyk, not inverted", plain, motif() * 255, 4)
    ycck = adobe[: adobe.index(b"\xff\xee") + 15] + b"\x02" + adobe[adobe.index(b"\xff\xee") + 16 :]
    assert len(ycck) == len(adobe)
    for lossless, bits in ((True, 8), (True, 16), (True, 12), (False, 12)):
        samples = np.round(motif() * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        content = bytes(imagecodecs.jpeg_encode(samples, lossless=lossless, bitspersample=bits, level=97))
        shown = motif() * 255 if bits == 8 else None
        yield Case(
            f"jpeg lossless={lossless} {bits} bits", content, shown, 6, None if bits == 8 else f"JPEG of {bits} bits"
        )


def jpeg2000s() -> Iterator[Case]:
    """Depths, signs, channels and containers of JPEG 2000."""
    for codec, bits, channels in itertools.product(("jp2", "j2k"), (1, 2, 4, 7, *range(8, 13), 16), (1, 2, 3, 4)):
        top = 2**bits - 1
        parts = [motif() if channels >= 3 else grey()[..., None]]
        if channels in (2, 4):
            parts.append(coverage()[..., None])
        samples = np.round(np.concatenate(parts, axis=-1) * top).astype(np.uint8 if bits <= 8 else np.uint16)
        options: dict[str, Any] = {"codecformat": codec, "bitspersample": bits}
        content = bytes(imagecodecs.jpeg2k_encode(samples.squeeze(), level=0, reversible=True, **options))
        found = imagecodecs.jpeg2k_decode(content)
        assert np.array_equal(found, samples.squeeze())
        shown = samples / top
        base = shown[..., :3] if channels >= 3 else np.repeat(shown[..., :1], 3, -1)
        expected = on_white(base, shown[..., -1]) if channels in (2, 4) else base * 255
        yield Case(f"{codec} {bits} bits {channels} channels", content, expected, 1.5)
        if bits >= 8:
            content = bytes(imagecodecs.jpeg2k_encode(samples.squeeze(), level=60, **options))
            yield Case(f"{codec} {bits} bits {channels} channels, lossy", content, expected, 3)


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of a JP2."""
    return struct.pack(">I", 8 + sum(map(len, parts))) + name + b"".join(parts)


def jp2(components: list[Array], space: int, *boxes: bytes, bits: int = 8) -> bytes:
    """A JP2 of 2-D integer components, with more boxes in its header."""
    samples = np.dstack(components).squeeze()
    stream = imagecodecs.jpeg2k_encode(
        np.ascontiguousarray(samples), level=0, reversible=True, codecformat="j2k", mct=False, bitspersample=bits
    )
    header = box(b"ihdr", struct.pack(">IIHBBBB", HEIGHT, WIDTH, len(components), bits - 1, 7, 0, 0))
    return b"".join(
        (
            box(b"jP  ", b"\r\n\x87\n"),
            box(b"ftyp", b"jp2 \0\0\0\0jp2 "),
            box(b"jp2h", header, box(b"colr", b"\1\0\0", struct.pack(">I", space)), *boxes),
            box(b"jp2c", bytes(stream)),
        )
    )


def definitions(*channels: tuple[int, int]) -> bytes:
    """The box that says of each channel its kind (0 colour, 1 opacity, 2 premultiplied) and its colour."""
    listed = b"".join(struct.pack(">3H", place, *channel) for place, channel in enumerate(channels))
    return box(b"cdef", struct.pack(">H", len(channels)), listed)


def jpeg2000_layouts() -> Iterator[Case]:
    """Orders, opacities, palettes and colour spaces that the header of a JP2 names."""
    samples, opacity = quantise(motif(), "u8"), quantise(coverage(), "u8")
    seen = on_white(samples / 255, opacity / 255)
    plane = {number + 1: samples[..., number] for number in range(3)}
    for order in itertools.permutations((1, 2, 3)):
        content = jp2([plane[colour] for colour in order], 16, definitions(*((0, colour) for colour in order)))
        yield Case(f"jp2 order {order}", content, samples * 1.0)
        for at in range(4):
            parts, named = [plane[colour] for colour in order], [(0, colour) for colour in order]
            parts.insert(at, opacity)
            named.insert(at, (1, 0))
            yield Case(f"jp2 order {order}, opacity at {at}", jp2(parts, 16, definitions(*named)), seen)
    named = [(2, 0), (0, 1), (0, 2), (0, 3)]
    dimmed = quantise(motif() * coverage()[..., None], "u8")
    content = jp2([opacity, *np.moveaxis(dimmed, -1, 0)], 16, definitions(*named))
    yield Case("jp2 premultiplied", content, seen, 2)
    named = [(0, 1), (0, 2), (0, 3), (65535, 65535)]
    yield Case("jp2 of what is no opacity", jp2([*plane.values(), opacity], 16, definitions(*named)), samples * 1.0)
    light = quantise(grey(), "u8")
    for kinds in (((1, 0), (0, 1)), ((1, 1), (0, 1))):
        content = jp2([opacity, light], 17, definitions(*kinds))
        yield Case(f"jp2 grey behind its opacity {kinds}", content, on_white(as_rgb(light / 255) / 255, opacity / 255))
    content = jp2([255 - light, opacity, light], 17, definitions((65535, 65535), (1, 0), (0, 1)))
    yield Case("jp2 grey of three", content, on_white(as_rgb(light / 255) / 255, opacity / 255))
    ycc = np.asarray(Image.fromarray(samples).convert("YCbCr"))
    for order in itertools.permutations((1, 2, 3)):
        parts = [ycc[..., colour - 1] for colour in order]
        yield Case(f"jp2 sYCC {order}", jp2(parts, 18, definitions(*((0, one) for one in order))), samples * 1.0, 2)
    ink = np.asarray(Image.fromarray(samples).convert("CMYK"))
    for order in ((1, 2, 3, 4), (4, 3, 2, 1)):
        parts = [ink[..., colour - 1] for colour in order]
        yield Case(f"jp2 CMYK {order}", jp2(parts, 12, definitions(*((0, one) for one in order))), samples * 1.0, 2)
    index = np.round(motif()[..., 0] * 15).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (16, 3)).astype(np.uint8)
    colours[5] = colours[2]  # a palette may have a colour twice
    shown = colours[index] * 1.0
    for bits, order in itertools.product((4, 8), itertools.permutations(range(3))):
        palette = box(b"pclr", struct.pack(">HB3B", 16, 3, 7, 7, 7), colours.tobytes())
        mapping = box(b"cmap", *(struct.pack(">HBB", 0, 1, column) for column in order))
        content = jp2([index], 16, palette, mapping, bits=bits)
        yield Case(f"jp2 palette {bits} bits, columns {order}", content, shown[..., list(order)])
        in_order = definitions(*((0, column + 1) for column in order))
        content = jp2([index], 16, palette, mapping, in_order, bits=bits)
        yield Case(f"jp2 palette {bits} bits, columns {order} named", content, shown)
    one_column = box(b"pclr", struct.pack(">HBB", 16, 1, 7), colours[:, 0].tobytes())
    content = jp2([index], 17, one_column, box(b"cmap", struct.pack(">HBB", 0, 1, 0)))
    yield Case("jp2 palette of grey", content, as_rgb(colours[index][..., 0] / 255.0))
    holes = np.column_stack([colours[:, ::-1], np.arange(16) * 17]).astype(np.uint8)
    content = jp2(
        *([index], 16),
        box(b"pclr", struct.pack(">HB4B", 16, 4, 7, 7, 7, 7), holes.tobytes()),
        box(b"cmap", *(struct.pack(">HBB", 0, 1, column) for column in range(4))),
        definitions((0, 3), (0, 2), (0, 1), (1, 0)),
    )
    yield Case("jp2 palette with opacity", content, on_white(colours[index] / 255, index / 15.0))
    deep = (colours.astype(">u2") * 257).tobytes()
    wide = box(b"pclr", struct.pack(">HB3B", 16, 3, 15, 15, 15), deep)
    mapping = box(b"cmap", *(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    yield Case("jp2 palette of 16 bits", jp2([index], 16, wide, mapping), shown)


def webps() -> Iterator[Case]:
    """WebP with and without loss and alpha."""
    for lossless, alpha in itertools.product((False, True), (False, True)):
        samples = np.dstack([motif(), coverage()]) if alpha else motif()
        image = Image.fromarray(quantise(samples, "u8"))
        expected = on_white(motif(), coverage()) if alpha else motif() * 255
        content = saved(image, "WEBP", lossless=lossless, quality=97, exact=True)
        yield Case(f"webp lossless={lossless} alpha={alpha}", content, expected, 1 if lossless else 8)


def bmps() -> Iterator[Case]:
    """Depths, masks, directions and run lengths of BMP."""
    colours = quantise(motif(), "u8")
    for upside_down, bits in itertools.product((False, True), (24, 32)):
        rows = colours[..., ::-1]
        if bits == 32:
            rows = np.dstack([rows, np.zeros((HEIGHT, WIDTH), np.uint8)])
        rows = rows if upside_down else rows[::-1]
        yield Case(
            f"bmp {bits} top down={upside_down}",
            bmp(rows.tobytes(), bits, height=-HEIGHT if upside_down else HEIGHT),
            motif() * 255,
        )
    for name, masks in {"565": (0xF800, 0x7E0, 0x1F), "555": (0x7C00, 0x3E0, 0x1F), "444": (0xF00, 0xF0, 0xF)}.items():
        value, shown = masked(motif(), masks)
        content = bmp(value[::-1].astype("<u2").tobytes(), 16, masks)
        yield Case(f"bmp {name}", content, shown * 255, 1.5)
    value, shown = masked(motif(), (0x7C00, 0x3E0, 0x1F))
    yield Case("bmp 16 without masks", bmp(value[::-1].astype("<u2").tobytes(), 16), shown * 255, 1.5)
    for masks in (
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF, 0xFF00, 0xFF0000),
        (0x3FF00000, 0xFFC00, 0x3FF),
    ):
        value, shown = masked(motif(), masks)
        yield Case(f"bmp 32 masks {masks[0]:x}", bmp(value[::-1].astype("<u4").tobytes(), 32, masks), shown * 255, 1.5)
    masks4 = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    value, _ = masked(np.dstack([motif(), coverage()]), masks4)
    content = bmp(value[::-1].astype("<u4").tobytes(), 32, masks4)
    yield Case("bmp 32 with alpha", content, on_white(motif(), coverage()), 1.5)
    for mode, colours_in in (("1", 2), ("P", 200), ("P", 16), ("L", 256)):
        image = Image.fromarray(colours)
        image = image.convert(mode) if mode != "P" else image.quantize(colours_in)
        yield Case(f"bmp {mode} {colours_in}", saved(image, "BMP"), np.asarray(image.convert("RGB")).astype(float))


def masked(colours: Array, masks: tuple[int, ...]) -> tuple[Array, Array]:
    """Colours of 0..1 in the bit fields of a BMP, and what they are after that."""
    value, shown = np.zeros(colours.shape[:2], np.int64), []
    for n, mask in enumerate(masks):
        low = (mask & -mask).bit_length() - 1
        top = mask >> low
        field = np.round(colours[..., n] * top).astype(np.int64)
        value |= field << low
        shown.append(field / top)
    return value, np.stack(shown, axis=-1)


def bmp(pixels: bytes, bits: int, masks: tuple[int, ...] = (), height: int = HEIGHT) -> bytes:
    """A BMP by hand; `pixels` are rows as they are stored, already a multiple of four bytes."""
    compression = 3 if masks else 0
    long = len(masks) == 4
    size = 124 if long else 40
    header = struct.pack("<IiiHHIIiiII", size, WIDTH, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    body = b"".join(struct.pack("<I", mask) for mask in masks)
    if long:
        body = (body + b"BGRs").ljust(84, b"\0")
    offset = 14 + len(header) + len(body)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + body + pixels


def ppms() -> Iterator[Case]:
    """Plain and raw maps of every kind and depth."""
    for top, plain in itertools.product((1, 15, 100, 255, 1000, 4095, 65535), (False, True)):
        for channels in (1, 3):
            colours = motif() if channels == 3 else grey()[..., None]
            samples = np.round(colours * top).astype(int)
            number = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[channels, plain]
            head = f"P{number}\n# made by hand\n{WIDTH} {HEIGHT}\n{top}\n".encode()
            body = (
                " ".join(map(str, samples.reshape(-1))).encode()
                if plain
                else samples.astype(">u2" if top > 255 else "u1").tobytes()
            )
            shown = samples / top * 255
            yield Case(f"ppm P{number} {top}", head + body, shown if channels == 3 else np.repeat(shown, 3, -1), 1.5)
    for plain in (False, True):
        bits = (grey() < 0.5).astype(int)
        head = f"P{1 if plain else 4}\n{WIDTH} {HEIGHT}\n".encode()
        body = " ".join(map(str, bits.reshape(-1))).encode() if plain else pack(bits, 1)
        yield Case(f"ppm bits plain={plain}", head + body, as_rgb(1.0 - bits))
    for scale, order in ((-1.0, "<"), (1.0, ">")):
        for channels in (1, 3):
            colours = motif() if channels == 3 else grey()[..., None]
            head = f"{'PF' if channels == 3 else 'Pf'}\n{WIDTH} {HEIGHT}\n{scale}\n".encode()
            body = colours[::-1].astype(order + "f4").tobytes()
            shown = colours * 255
            yield Case(f"pfm {channels} {order}", head + body, shown if channels == 3 else np.repeat(shown, 3, -1), 1)
    dark = np.round(grey() * 250).astype(int)
    head = f"P5\n{WIDTH} {HEIGHT}\n65535\n".encode()
    yield Case("ppm dark", head + dark.astype(">u2").tobytes(), as_rgb(dark / 65535), 1)


def wide_rgb_profile() -> bytes:
    """A profile whose colours are more saturated than sRGB's, of what LittleCMS makes: Lab is not RGB, so by hand."""

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    columns = [(0.6097559, 0.3111242, 0.0194811), (0.2052401, 0.6256560, 0.0608902), (0.1492240, 0.0632197, 0.7448387)]
    tags = {b"wtpt": b"XYZ " + bytes(4) + s15(0.9642) + s15(1) + s15(0.82491)}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True):
        tags[name] = b"XYZ " + bytes(4) + b"".join(map(s15, column))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256))
    return icc_profile(b"RGB ", tags)


def icc_profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of a display, of the tags that are given and those that it must have."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02200000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.82491)))
    return head.ljust(128, b"\0") + table + body


def profiles() -> Iterator[Case]:
    """The same colours with a profile, in every container that can carry one."""
    profile = wide_rgb_profile()
    colours = quantise(0.25 + motif() / 2, "u8")
    image = Image.fromarray(colours)
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    expected = np.asarray(ImageCms.applyTransform(image, transform)).astype(float)
    assert np.abs(expected - colours).mean() > 5
    deep = colours.astype(np.uint16) * 257
    chunk = {b"iCCP": b"x\0\0" + zlib.compress(profile)}
    yield Case("profile jpeg", saved(image, "JPEG", quality=97, icc_profile=profile), expected, 5)
    yield Case("profile webp", saved(image, "WEBP", lossless=True, icc_profile=profile), expected, 1.5)
    yield Case("profile png", png(colours, 2, 8, chunk), expected, 1.5)
    yield Case("profile png 16", png(deep, 2, 16, chunk), expected, 1.5)
    for planes, code in itertools.product(("contig", "separate"), ("u8", "u16")):
        samples = colours if code == "u8" else deep
        samples = samples if planes == "contig" else np.ascontiguousarray(np.moveaxis(samples, -1, 0))
        content = tiff(samples, photometric="rgb", planarconfig=planes, iccprofile=profile)
        yield Case(f"profile tiff {planes} {code}", content, expected, 1.5)
    with_alpha = np.dstack([deep, np.round(coverage() * 65535).astype(np.uint16)])
    content = tiff(with_alpha, photometric="rgb", extrasamples=["unassalpha"], iccprofile=profile)
    yield Case("profile tiff alpha", content, on_white(expected / 255, coverage()), 4)
    linear = b"curv" + bytes(4) + struct.pack(">I", 0)  # grey as light is, without a gamma
    white = b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    chunk_of_grey = {b"iCCP": b"x\0\0" + zlib.compress(icc_profile(b"GRAY", {b"kTRC": linear, b"wtpt": white}))}
    for depth in (8, 16):
        top = 2**depth - 1
        levels = np.round((0.1 + grey() * 0.8) * top)
        light = levels / top
        shown = as_rgb(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))
        assert np.abs(shown - as_rgb(light)).mean() > 20
        yield Case(f"profile png grey {depth}", png(levels[..., None], 0, depth, chunk_of_grey), shown, 2)
        marked = levels[5, 5]
        hole = chunk_of_grey | {b"tRNS": struct.pack(">H", int(marked))}
        shown = np.where((levels == marked)[..., None], 255, shown)
        yield Case(f"profile png grey {depth} transparent", png(levels[..., None], 0, depth, hole), shown, 2)
    plain = bytes(imagecodecs.jpeg2k_encode(colours, codecformat="jp2", level=0, reversible=True))
    yield Case("profile jp2", with_jp2_profile(plain, profile), expected, 1.5)


def with_jp2_profile(content: bytes, profile: bytes) -> bytes:
    """A JP2 whose colour box names a profile instead of an enumerated space."""
    at = content.index(b"colr") - 4
    length = int.from_bytes(content[at : at + 4], "big")
    box = struct.pack(">I", 11 + len(profile)) + b"colr\x02\0\0" + profile
    header_at = content.index(b"jp2h") - 4
    header_length = int.from_bytes(content[header_at : header_at + 4], "big") + len(box) - length
    joined = content[:at] + box + content[at + length :]
    return joined[:header_at] + struct.pack(">I", header_length) + joined[header_at + 4 :]


GROUPS: tuple[Callable[[], Iterator[Case]], ...] = (
    tiff_types, tiff_bits, tiff_compressions, tiff_photometrics, pngs, jpegs, jpeg2000s, jpeg2000_layouts, webps, bmps,
    ppms, profiles,
)  # fmt: skip
