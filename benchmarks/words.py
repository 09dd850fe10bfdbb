"""How many words of receipts, screenshots, letters and signs `clipsearch read` finds, and how fast it and `text:` are.

    python -m benchmarks.words [--count 20] [--rows 10000] [--photos FOLDER] [--json FILE]

Pictures are drawn here, in the fonts of this machine, with known words: flat and photographed (turned by up to 8
degrees, some by a quarter or a half, blurred, with noise and little contrast). A word counts as found if `text:` finds
its picture. The gate is measured on the same, and on photos: those of scikit-image, or of --photos. Queries run over
made-up pictures with 60 words each.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import clipsearch
from clipsearch.encoder.names import load_encoder
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.segments import with_pictures
from clipsearch.indexer.words import ReadOptions, read_words
from clipsearch.pictures.words import LOOKED_AT, READER
from clipsearch.records import EmbeddingBatch, ImageRecord, Line, Manifest, ModelRef
from clipsearch.search.collection import Collection
from clipsearch.store import Writer, open_snapshot, read_records
from clipsearch.store.hashes import hash_texts
from clipsearch.store.words import ReadPicture, WordFiles, add_words

_SAID = (
    "account address amount annual archive balance bakery battery breakfast budget cancel cashier center "
    "change chicken client coffee company contact customer date delivery deposit discount document "
    "download email energy entry espresso event export fabric factory filter folder garden gallery "
    "grocery harbour hotel house import insurance invoice island journal kitchen laptop ledger letter "
    "library machine market medium meeting member message minute mobile monitor morning museum network "
    "notebook number office onion orange order orchard package parking password payment pepper phone "
    "picture platform potato price printer product profile project purchase quality quantity query "
    "receipt record refund report request return river salmon sample screen search season section server "
    "service session settings shipping signal silver socket station storage street student subtotal sugar "
    "summer support system table ticket tomato total training transfer travel update upload user vanilla "
    "vegetable version village visitor voucher wallet warehouse water website weekly window winter yellow "
    "zone Straße Grüße Café déjà señor København Łódź naïve "
)
VOCABULARY = _SAID.split()
_SYLLABLES = "an ber co del er fa gro hi in ka lo mer no or pa ri sta tu ve wo"
FONT_FOLDERS = ("/usr/share/fonts", "/Library/Fonts", "/System/Library/Fonts/Supplemental")
FONT_NAMES = (
    "DejaVuSans.",
    "DejaVuSerif.",
    "DejaVuSansMono.",
    "LiberationSans-R",
    "LiberationSerif-R",
    "LiberationMono-R",
)
FONT_NAMES += (
    "LiberationMono-R",
    "LiberationSansNarrow-R",
    "LiberationSerif-I",
    "LiberationSans-B",
    "Arial.",
    "Georgia.",
    "Verdana.",
)
Drawn = tuple[Image.Image, list[str]]
Color = tuple[int, int, int]


def fonts() -> list[Path]:
    found = [
        path
        for folder in FONT_FOLDERS
        for path in sorted(Path(folder).rglob("*.ttf"))
        if path.name.startswith(FONT_NAMES)
    ]
    if not found:  # matplotlib brings some
        from matplotlib import get_data_path

        found = sorted(path for path in Path(get_data_path()).rglob("*.ttf") if path.name.startswith(FONT_NAMES))
    return found


def word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.7:
        plain = rng.choice(VOCABULARY)
        return rng.choice([plain, plain.capitalize(), plain.upper()])
    if kind < 0.8:
        return f"{rng.randint(0, 999)}.{rng.randint(0, 99):02d}"
    if kind < 0.88:
        return f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d}/{rng.randint(2001, 2026)}"
    if kind < 0.94:
        return "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXY") for _ in range(2)) + str(rng.randint(10, 99))
    return str(rng.randint(1000, 9_999_999))


class Drawing:
    """Draws pictures with known words."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.paths = fonts()

    def font(self, sizes: list[int]) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self.rng.choice(self.paths)), self.rng.choice(sizes))

    def _line(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], right: float, font: Any, ink: Any) -> list[str]:
        words, (x, y) = [], at
        while True:
            said = word(self.rng)
            width = draw.textlength(said, font=font)
            if x + width > right:
                return words
            draw.text((x, y), said, font=font, fill=ink)
            words.append(said)
            x += width + self.rng.choice([font.size // 2, font.size, font.size * 3])

    def receipt(self) -> Drawn:
        width, font = self.rng.choice([400, 600, 800]), self.font([14, 16, 18, 22, 26])
        height, lines = int(font.size * 1.4), self.rng.randint(12, 30)
        image = Image.new("RGB", (width, height * (lines + 2)), (self.rng.randint(235, 255),) * 3)
        draw, words, ink = ImageDraw.Draw(image), [], (self.rng.choice([0, 20, 60, 110]),) * 3
        for n in range(lines):
            words += self._line(draw, (20, height * (n + 1) - height // 2), width - 20, font, ink)
        return image, words

    def photographed(self, drawn: Drawn, *, margin: int = 100) -> Drawn:
        image, words = drawn
        rng, table = self.rng, (90, 80, 70)
        image = image.rotate(rng.uniform(-8, 8), expand=True, fillcolor=table, resample=Image.Resampling.BICUBIC)
        whole = Image.new("RGB", (image.width + 2 * margin, image.height + 2 * margin), table)
        whole.paste(image, (margin, margin))
        if rng.random() < 0.5:
            whole = whole.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
        noise = np.random.default_rng(rng.randint(0, 10**6)).normal(
            0, rng.uniform(3, 14), (whole.height, whole.width, 1)
        )
        whole = Image.fromarray((np.asarray(whole, np.float32) + noise).clip(0, 255).astype(np.uint8))
        return (whole.rotate(rng.choice([90, 180, 270]), expand=True) if rng.random() < 0.3 else whole), words

    def receipt_photo(self) -> Drawn:
        return self.photographed(self.receipt())

    def screenshot(self) -> Drawn:
        size, is_dark = self.rng.choice([(1280, 800), (1080, 1920), (1366, 768), (750, 1334)]), self.rng.random() < 0.4
        image = Image.new("RGB", size, (30, 32, 36) if is_dark else (250, 250, 252))
        draw, words, y = ImageDraw.Draw(image), [], 60
        draw.rectangle((0, 0, size[0], 48), fill=(60, 90, 160))
        inks: list[Color] = [(230, 230, 230), (150, 190, 250), (140, 140, 140)]
        if not is_dark:
            inks = [(20, 20, 20), (30, 80, 200), (130, 130, 130)]
        while y < size[1] - 60:
            font, left = self.font([13, 14, 16, 18, 24, 32]), self.rng.choice([20, 60, 120])
            right = min(size[0] - 20, left + self.rng.choice([200, 400, 800]))
            words += self._line(draw, (left, y), right, font, self.rng.choice(inks))
            y += int(font.size * self.rng.choice([1.5, 2, 3]))
        return image, words

    def letter(self) -> Drawn:
        """A page of a letter, as a scanner or a phone of 12 megapixels sees it."""
        image = Image.new("RGB", (2480, 3508), "white")
        draw, words, font = ImageDraw.Draw(image), [], self.font([42, 46, 50])
        for n in range(self.rng.randint(20, 45)):
            words += self._line(draw, (250, 250 + n * font.size * 1.5), 2230, font, (25, 25, 25))
        return self.photographed((image, words), margin=300) if self.rng.random() < 0.5 else (image, words)

    def sign(self, photo: Image.Image) -> Drawn:
        """Two words on a plate in a photo of 2,000 pixels, of 1 to 4 % of its width in height."""
        scale = 2000 / max(photo.size)
        image = photo.convert("RGB").resize((round(photo.width * scale), round(photo.height * scale)))
        font, rng = self.font([20, 28, 40, 60, 80]), self.rng
        words = [rng.choice(VOCABULARY), rng.choice(VOCABULARY)]
        draw, size = ImageDraw.Draw(image), int(font.size)
        width = int(draw.textlength(" ".join(words), font=font))
        x, y = rng.randint(size, max(size, image.width - width - size)), rng.randint(50, image.height - 3 * size)
        plate: Color = rng.choice([(250, 250, 250), (20, 60, 140), (200, 30, 30), (30, 30, 30)])
        draw.rectangle((x - size, y - size // 2, x + width + size, y + 2 * size), fill=plate)
        draw.text((x, y), " ".join(words), font=font, fill="black" if plate[1] > 200 else "white")
        return image, words


def photos_in(folder: Path | None) -> list[Image.Image]:
    if folder is not None:
        return [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.jp*g"))]
    from skimage import data

    names = (
        "astronaut",
        "camera",
        "cat",
        "coffee",
        "coins",
        "hubble_deep_field",
        "immunohistochemistry",
        "moon",
        "rocket",
    )
    found = []
    for name in names:
        try:
            found.append(Image.fromarray(getattr(data, name)()).convert("RGB"))
        except (OSError, ImportError, ValueError):
            continue  # not in the wheel
    return found


def reading(count: int, folder: Path | None, workers: int | None) -> dict[str, Any]:
    """Shares of words found, and rates."""
    drawing, photos = Drawing(1), photos_in(folder)
    kinds: dict[str, Callable[[], Drawn]] = {
        "receipts": drawing.receipt,
        "photographed receipts": drawing.receipt_photo,
        "screenshots": drawing.screenshot,
        "letters": drawing.letter,
        "signs in photos": lambda: drawing.sign(drawing.rng.choice(photos)),
    }
    with tempfile.TemporaryDirectory() as place:
        root, truth = Path(place), dict[str, list[str]]()
        for kind, draw in kinds.items():
            for n in range(count):
                image, words = draw()
                name = f"{kind}/{n:03d}.{'png' if kind == 'screenshots' else 'jpg'}"
                (root / kind).mkdir(exist_ok=True)
                image.save(root / name, quality=88)
                truth[name] = sorted(set(words))
        for n, photo in enumerate(photos):
            (root / "photos").mkdir(exist_ok=True)
            photo.save(root / "photos" / f"{n:03d}.jpg", quality=90)
        began = time.perf_counter()
        index = index_folder(root, load_encoder("builtin"), options=IndexOptions(workers=workers)).index
        report: dict[str, Any] = {"reader": READER, "index_s": round(time.perf_counter() - began, 1)}
        told = read_words(index, ReadOptions(workers=workers))
        report |= {
            "pictures": told.read + told.passed_over,
            "read_s": round(told.seconds, 1),
            "pictures_per_s": round(told.pictures_per_s, 2),
        }
        with open_snapshot(index) as snapshot:
            hashes = {r.path: r.content_hash or "" for r in read_records(index, snapshot.manifest)}
            traits = {r.path: r.traits for r in read_records(index, snapshot.manifest)}
            files = WordFiles(index, snapshot.manifest.words)
            seen = {found.hex() for found, status, _, _, thorough in files.states() if thorough and status == "ok"}
            held = {said: set(hash_texts(files.holding([said]))) for words in truth.values() for said in words}
            for kind in kinds:
                names = [name for name in truth if name.startswith(kind + "/")]
                asked = sum(len(truth[name]) for name in names)
                found = sum(hashes[name] in held[said] for name in names for said in truth[name])
                report[kind] = {
                    "words": asked,
                    "found": round(found / asked, 4),
                    "let through by the gate": sum(hashes[name] in seen for name in names) / len(names),
                    "known by their pixels": sum(bool(traits[name] & 0b1100000) for name in names) / len(names),
                }
            names = [name for name in hashes if name.startswith("photos/")]
            passed = sum(hashes[name] in seen for name in names)
            report["photos without words drawn"] = {
                "pictures": len(names),
                "let through by the gate": passed / len(names),
            }
            files.close()
    return report


def costs(photos: list[Image.Image]) -> dict[str, Any]:
    """Processor time of a look and of reading, in one thread, for photos of 2,000 pixels."""
    from clipsearch.pictures.words import Reader

    reader, looks, reads = Reader(), [], []
    large = [photo.resize((2000, round(2000 * photo.height / photo.width))) for photo in photos[:6]]
    for image in [large[0], *large]:
        began = time.process_time()
        reader.has_words(image)
        looks.append(time.process_time() - began)
        began = time.process_time()
        reader.read(image)
        reads.append(time.process_time() - began)
    return {
        f"look at {LOOKED_AT} px, s": round(statistics.median(looks[1:]), 3),
        "read a photo without words, s": round(statistics.median(reads[1:]), 3),
    }


def made_up(rows: int, per_picture: int = 60) -> list[ReadPicture]:
    """Pictures with words of a vocabulary of 20,000, some of which are in many pictures."""
    rng = np.random.default_rng(0)
    syllables = _SYLLABLES.split()
    words = ["".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(19_000)]
    words += [f"{rng.integers(10**7)}" for _ in range(1_000)]
    made = []
    for n in range(rows):
        chosen = np.minimum(rng.zipf(1.3, per_picture) - 1, len(words) - 1)
        lines = [
            Line(" ".join(words[i] for i in chosen[at : at + 6]), (10, 20 * at, 300, 15), 0.9)
            for at in range(0, per_picture, 6)
        ]
        made.append(ReadPicture(f"{n:032x}", (*lines, Line(f"RE{n:05d} TGK", (10, 900, 90, 15), 0.9))))
    return made


def querying(rows: int) -> dict[str, Any]:
    """Milliseconds of processor time of warm queries over `rows` pictures, with words and without."""
    encoder = load_encoder("builtin")
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as place:
        index = Path(place) / ".clipsearch"
        vectors = rng.standard_normal((rows, encoder.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        records = [ImageRecord(n, f"{n:06d}.jpg", 1, n, n, f"{n:032x}", 640, 480) for n in range(rows)]
        with Writer(index) as writer:
            model = ModelRef(encoder.name, encoder.fingerprint, encoder.dim, float(encoder.score_scale))
            manifest = with_pictures(
                writer, Manifest(0, "", "..", model, 0), lambda: [EmbeddingBatch(records, vectors)]
            )
            plain = writer.commit(manifest)
        report: dict[str, Any] = {"pictures": rows}
        plain_queries = ("a dog on a beach", "water", "re00077 tgk")
        with Collection(index, encoder=encoder) as photos:
            report["without words, ms"] = {query: _ms(photos, query) for query in plain_queries}
        pictures, began = made_up(rows), time.perf_counter()
        with Writer(index) as writer:
            manifest = writer.current() or plain
            for at in range(0, rows, 512):
                manifest = writer.commit(add_words(writer, manifest, pictures[at : at + 512]))
        report["write_s"] = round(time.perf_counter() - began, 1)
        report["files"] = len(manifest.words)
        report["bytes_per_picture"] = round(sum(ref.file.size_bytes for ref in manifest.words) / rows)
        queries = ('text:"re00042 tgk"', "text:anber", 'text:"ber co del"', "text:re0", "text:ab", "text:x", "text:tgk")
        with Collection(index, encoder=encoder) as photos:
            began = time.perf_counter()
            photos.search(queries[0])
            report["first query, ms"] = round(1000 * (time.perf_counter() - began), 1)
            report["warm, ms"] = {query: _ms(photos, query) for query in queries}
            report["with words, ms"] = {query: _ms(photos, query) for query in plain_queries}
    return report


def _ms(photos: Collection, query: str) -> float:
    """Of processor time: other programs do not count."""
    photos.search(query)
    times = []
    for _ in range(15):
        began = time.process_time()
        photos.search(query)
        times.append(time.process_time() - began)
    return round(1000 * statistics.median(times), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="pictures of each kind")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--photos", type=Path, help="folder of photos without words")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report = {"version": clipsearch.__version__, "queries": querying(asked.rows)}
    if asked.count:
        report |= {
            "reading": reading(asked.count, asked.photos, asked.workers),
            "costs": costs(photos_in(asked.photos)),
        }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
