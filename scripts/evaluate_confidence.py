"""Measures how true the confidences of hits are; fits them with --fit.

    python scripts/evaluate_confidence.py --data DIR [--model NAME] [--fit clipsearch/search/confidence.json]

Builds many collections from the development pictures (random, of one theme, product pictures, mixtures; 1 to 400
pictures) and asks each for labels and sentences, in one pool: what its captions name and what they do not. Judges the
ten best hits of each query: how often a confidence of 0.7 is right, what the bands promise, how often a query for what
is not there shows anything, and how often a caption shows its picture. A hit of a label is right if a caption names it,
a hit of a sentence if its captions have four of five of its words, wrong if they have less than half of them, and left
out in between. The calibration measured is fitted on other pictures and other words: both are split in two halves, and
each half is judged by the fit of the other. Then each kind of query is judged by a fit that has seen none of its kind,
and with `--large` the same fits judge collections of 900 to 5,900 pictures, filled up from the training pictures.
`--regions` judges pictures by their regions as well (`index --regions`), with the calibration fitted without them.
`--fit` at last fits on everything but those and writes it. Needs timm's lists (the extra torch).
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

import clipsearch
from clipsearch.encoder import Encoder
from clipsearch.pictures.images import prepare, view_boxes
from clipsearch.records import FloatArray
from clipsearch.search.confidence import (
    Background,
    Bands,
    Calibration,
    DoubleArray,
    Logistic,
    bank_vectors,
    drawing_vectors,
    sample_positions,
    shipped_calibration,
)
from clipsearch.search.embedding import encode_asked
from clipsearch.search.regions import joined

BoolArray = npt.NDArray[np.bool_]
Move = Callable[[FloatArray], FloatArray]
STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        """a an the of in on at is are and with to his her its their through by for from as it up down over while into
        out near another other one two some who that there be has have being next front behind man woman person
        people""",
    )
)
PLURALS = {"men": "man", "women": "woman", "children": "child", "people": "person", "puppies": "puppy", "feet": "foot"}
DETERMINERS = ("a", "an", "the", "his", "her", "their")
AFTER_NOUN = frozenset(
    re.findall("[a-z]+", "is are in on with and at by of to while through near over from as behind beside that")
)
THEMES = (
    ("dog",),
    ("snow", "ski", "skier", "snowboarder"),
    ("street", "building", "car"),
    ("water", "beach", "ocean", "pool"),
    ("girl", "baby", "child"),
    ("ball", "football", "basketball", "baseball"),
)
STYLES = ("{noun}", "{a} {noun}", "a photo of {a} {noun}")
IMAGENET_DOGS = range(151, 277)  # captions say "dog", so nobody knows which of these are absent
CAPTIONED_BY = 1.8  # captions of five that name a noun where one does: below, pictures show it and nobody says so
COVERED = 0.5  # a caption is absent if no picture's captions have this share of its words
SHOWN = 10  # hits of a query that are judged, and the nearest that are shown where nothing is certain
DEEPER = 20  # hits further down that are fitted on as well
MOST_LIKELY_RIGHT, CERTAINLY_WRONG = 0.8, 0.5  # shares of a sentence's words in a picture's captions
BANDS = Bands(maybe=0.3, strong=0.88, certain=0.3)
"""From 0.3 to 0.88, half of the hits are right, as *maybe* promises. From 0.88 on, 85 in 100 hits of words and
pictures that were not fitted are right, with each of the models (docs/confidence.md has the shares at other edges)."""
PICTURE_BANDS = Bands(maybe=0.25, strong=0.8, certain=0.25)
EDGES = (0.8, 0.84, 0.88, 0.9)  # of which the share of right hits is printed
CONE = 1.5  # the length of what is added to all vectors: any two pictures then have a cosine of 0.7
SIDES, SIDED_DIM = 0.5, 128  # as much of what vectors are long is added to pictures, and taken off texts
KNOWN_HITS = 3  # right ones among the ten best: with fewer, the model does not know the word
RISING = 2  # features
RIDGE = 0.0003
ALIKE = 0.275  # the share of pictures alike: with it, the cut-off lies where F1 of words in common is best
KINDS = ("label", "goods", "sentence", "product")
GOODS = """
shirt;t-shirt,tshirt,t shirt;shoe;watch;handbag;backpack;wallet;pair of sunglasses,sunglass,sunglasses;sandal;flip flop;
dress;kurta;trouser;pair of jeans,jean,jeans;pair of shorts,shorts;cap;bra;brief;sock;belt;tie;lipstick;nail polish;
bottle of perfume,perfume;sweater;jacket;earring;necklace;pendant;ring;bracelet;pair of high heels,heel,heels;scarf;
saree;sweatshirt;skirt;pair of tights,tights,leggings;bangle;deodorant,deo;eyeliner,kajal;stole;tunic;
duffel bag,duffle bag;cufflink;basketball shoe;football;water bottle;boxer;mascara;lip gloss;swimsuit,swimwear;
pyjamas,night suit,nightdress
"""  # what titles of products name: the label, then how titles say it
WORN = frozenset(
    re.findall(
        "[a-z]+",
        """shirt jersey cardigan jean clog sandal loafer boot sock shoe bow tie gown bra brassiere suit sweatshirt
        sarong poncho cloak apron abaya kimono stole fur coat trench lab mitten wallet purse sunglass backpack handbag
        bag bikini miniskirt hoopskirt overskirt swimming trunk pajama velvet wool lotion lipstick perfume face powder
        watch necklace chain bracelet belt buckle sombrero bonnet cap hat umbrella wig mask bib vestment academic""",
    )
)  # titles say too little to know whether pictures of products show what has these in its name
KINDS_OF = """
baby: infant toddler; bath: bathtub tub; bathtub: tub; beach: shore;
bike: bicycle bicyclist biker cyclist dirtbike motorbike motorcycle; bird: duck goose gull pigeon seagull swan;
boat: canoe ferry kayak raft rowboat sailboat ship; car: jeep racecar suv taxi; cat: kitten;
cellphone: phone; child: baby boy girl infant kid toddler; computer: laptop; couch: sofa; dock: pier; drum: drummer;
fire: bonfire campfire flame; grass: grassy lawn; guitar: guitarist; horse: pony; ice: icy; kayak: kayaker kayaking;
man: gentleman guy; motorcycle: motorbike motorcyclist; mountain: mountaintop; mud: muddy; person: baby biker boy child
cyclist girl guy kid lady man player skateboarder skier surfer swimmer toddler woman; race: racing;
raft: rafting; rock: boulder rocky; sand: dune sandy; seagull: gull; skateboard: skateboarder skateboarding;
skateboarder: skateboarding skater; skier: skiing; snow: snowboarder snowboarding snowy; snowboarder: snowboarding;
stair: staircase stairway step; statue: sculpture; stroller: pram; surfboard: surfboarder surfer surfing;
surfer: surfboarder surfing; swing: swinging; tattoo: tattooed; toy: doll; tree: forest; truck: pickup;
tub: bathtub; water: lake ocean pool pond puddle river sea stream surf waterfall wave; wave: surfing; wedding: bride;
woman: bride lady
"""  # a caption that has one of these words tells of the thing as well
OPEN = """
boy: baby child kid person player rider toddler; child: person player rider; girl: baby child kid person player rider
toddler woman; man: biker boy climber cyclist hiker person player rider skateboarder skier snowboarder surfer swimmer;
woman: biker climber cyclist girl hiker person player rider skateboarder skier snowboarder surfer swimmer
"""  # with one of these, and not the word itself, nobody knows
PEOPLE = frozenset(("baby", "boy", "child", "girl", "man", "person", "woman"))  # titles do not say who wears it
SIZES = (1, 2, 3, 4, 6, 8, 12, 20, 50, 100, 200, 400)  # of collections of photos
CATALOGUES = (20, 40, 80, 160, 300)
LARGE = (500, 2000, 5500)  # so many training pictures beside 400 development pictures


@dataclass(frozen=True)
class Pictures:
    """Pictures with their texts. Shapes: vectors (N, D); texts[i] belongs to picture owner[i]."""

    kind: str
    vectors: FloatArray
    texts: list[str]
    owner: npt.NDArray[np.int64]
    text_vectors: FloatArray
    words: list[Counter[str]]  # of each picture: how many of its texts have a word
    regions: FloatArray  # (N, R, D); R is 0 without --regions

    def subset(self, chosen: npt.NDArray[np.int64]) -> Pictures:
        at = {int(old): new for new, old in enumerate(chosen)}
        kept = [i for i, owner in enumerate(self.owner.tolist()) if owner in at]
        return Pictures(
            self.kind,
            self.vectors[chosen],
            [self.texts[i] for i in kept],
            np.array([at[int(self.owner[i])] for i in kept], np.int64),
            self.text_vectors[kept],
            [self.words[i] for i in chosen],
            self.regions[chosen],
        )


@dataclass(frozen=True)
class Asked:
    """One query to one collection, its ten best hits, and some others behind them.

    `right[i]`: whether hit i is right; `known[i]`: whether that can be told.
    """

    collection: str
    style: str
    text: str
    present: bool
    scores: DoubleArray
    right: BoolArray
    known: BoolArray
    features: DoubleArray
    said: BoolArray  # as `right`, by the very word of a label

    own: int = -1  # at which place the picture is whose caption was asked for

    @property
    def best(self) -> BoolArray:
        """Which hits are among the ten best, and can be judged."""
        return self.known & (np.arange(len(self.known)) < SHOWN)


def main() -> None:
    """Print all measurements; write a calibration where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the WebDataset tars")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--fit", type=Path, help="write the calibration fitted on all development data here")
    parser.add_argument("--seeds", type=int, default=2, help="how often collections are drawn")
    parser.add_argument("--cache", type=Path, help="folder to keep vectors in between runs")
    parser.add_argument("--regions", action="store_true", help="also compare four tiles of each picture")
    parser.add_argument("--others", nargs="*", default=[], help="also judge these models by the fit of --model")
    parser.add_argument("--large", action="store_true", help="also judge collections of 900 to 5,900 pictures")
    options = parser.parse_args()
    encoder = clipsearch.load_encoder(options.model)
    if options.regions and (options.fit or options.large or options.others):
        raise SystemExit("--regions measures what was fitted without them, on the development pictures")
    nouns, absent_names = _vocabulary(options.data)
    seen = _seen_by(encoder, nouns, absent_names, options.data, options.cache, 4 if options.regions else 0)
    halves = _ask_halves(seen, options.seeds)
    if options.regions:
        print(
            f"{options.model} with regions: {sum(map(len, halves))} queries, judged by the calibration that is shipped"
        )
        _report(halves, [shipped_calibration()] * 2)
        return
    cone = _ask_halves(in_a_cone(seen), options.seeds)
    pairs = _alike(seen.photos, seen.bank)
    fits = [fit_calibration([halves[half], cone[half]], pairs[half]) for half in (0, 1)]
    print(f"{options.model}: {sum(map(len, halves))} queries, each judged by the fit of the other half")
    _report(halves, fits)
    _report_unseen_kinds(halves)
    everything = fit_calibration([halves[0] + halves[1], cone[0] + cone[1]], _join(pairs))
    chosen = shipped_calibration() if options.fit is None else everything
    _report_shown([chosen, chosen], seen, "all that {} nouns show")
    _report_shown(fits, seen, "with each noun judged by the fit of the other half, all that {} nouns show")
    print("the same, of models that the fits have not seen but for the first:")
    _report_model(f"{options.model} in a narrow cone", in_a_cone(seen), cone, fits)
    sided = on_two_sides(seen)
    _report_model(f"{options.model} on two sides", sided, _ask_halves(sided, options.seeds), fits)
    for name in options.others:
        other = _seen_by(clipsearch.load_encoder(name), nouns, absent_names, options.data, options.cache)
        _report_model(name, other, _ask_halves(other, options.seeds), fits)
    if options.large:
        filling = _load(options.data, "flickr8k-train-*.tar", "filling", encoder, options.cache)
        print("collections larger than any that was fitted on:")
        _report([_maker(seen, options.seeds - 1, half).ask_large(filling) for half in (0, 1)], fits)
    if options.fit is not None:
        options.fit.write_text(json.dumps(asdict(everything), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.fit}")


@dataclass(frozen=True)
class Seen:
    """All that is asked and that is asked for, as one model sees it."""

    photos: Pictures
    products: Pictures
    nouns: list[str]
    absent_names: list[str]
    labels: dict[str, FloatArray]  # (styles, D) of each
    bank: FloatArray
    drawings: FloatArray | None

    def moved(self, picture: Move, text: Move) -> Seen:
        """The same by a model whose vectors lie elsewhere."""

        def of(pictures: Pictures) -> Pictures:
            vectors = picture(pictures.vectors)
            regions = np.empty((len(vectors), 0, vectors.shape[1]), np.float32)
            return replace(pictures, vectors=vectors, text_vectors=text(pictures.text_vectors), regions=regions)

        return replace(
            self,
            photos=of(self.photos),
            products=of(self.products),
            labels={noun: text(vectors) for noun, vectors in self.labels.items()},
            bank=text(self.bank),
            drawings=None if self.drawings is None else picture(self.drawings),
        )


def _seen_by(
    encoder: Encoder, nouns: list[str], absent_names: list[str], folder: Path, cache: Path | None, tiles: int = 0
) -> Seen:
    return Seen(
        _load(folder, "flickr8k-dev-*.tar", "sentence", encoder, cache, tiles),
        _load(folder, "fashion-dev-*.tar", "product", encoder, cache, tiles),
        nouns,
        absent_names,
        _encode_labels([*nouns, *absent_names, *_goods()], encoder),
        bank_vectors(encoder),
        drawing_vectors(encoder),
    )


def in_a_cone(seen: Seen) -> Seen:
    """As by a model that squeezes its vectors together, as CLIP does: texts in one narrow cone, pictures in another."""
    rng = np.random.default_rng(0)
    one, other = _unit(rng.standard_normal((2, seen.bank.shape[1])))
    near = _unit(0.6 * one + 0.8 * other)
    return seen.moved(lambda pictures: _unit(pictures + CONE * one), lambda texts: _unit(texts + CONE * near))


def on_two_sides(seen: Seen) -> Seen:
    """As by a model with a bias, as SigLIP is: texts and pictures on opposite sides, so that most cosines are below 0.
    It has fewer dimensions, and weighs them otherwise, so that it ranks otherwise, and worse."""
    rows = np.concatenate([seen.photos.vectors, seen.photos.text_vectors[::5]])
    shares, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    least = min(SIDED_DIM, len(shares))
    chosen = np.argsort(-shares)[:least]
    turn = (axes[:, chosen] * shares[chosen] ** -0.25).astype(np.float32)
    side = _unit(np.random.default_rng(1).standard_normal(least))
    side *= SIDES * float(np.linalg.norm(seen.photos.vectors @ turn, axis=1).mean())
    return seen.moved(lambda pictures: _unit(pictures @ turn + side), lambda texts: _unit(texts @ turn - side))


def _unit(vectors: npt.NDArray[np.floating]) -> FloatArray:
    """Shape: (..., D) to the same."""
    scaled: FloatArray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def _ask_halves(seen: Seen, seeds: int) -> list[list[Asked]]:
    """The queries of both halves of pictures and words."""
    return [[asked for seed in range(seeds) for asked in _maker(seen, seed, half).ask()] for half in (0, 1)]


def _maker(seen: Seen, seed: int, half: int) -> Maker:
    photos, products = (
        pictures.subset(_half(len(pictures.vectors), half)) for pictures in (seen.photos, seen.products)
    )
    return Maker(
        photos, products, seen.nouns, seen.absent_names, seen.labels, seen.bank, seen.drawings, seed=seed, half=half
    )


# --- data ------------------------------------------------------------------------------------------------


def _load(folder: Path, pattern: str, kind: str, encoder: Encoder, cache: Path | None, tiles: int = 0) -> Pictures:
    files, texts = _read(folder, pattern)
    regions = np.empty((len(files), 0, encoder.dim), np.float32)
    if tiles:
        regions = _regions(files, encoder, None if cache is None else cache / f"{kind}-{encoder.fingerprint[:12]}.npy")
    flat = [text for of_one in texts for text in of_one]
    kept = None if cache is None else cache / f"{kind}-{encoder.fingerprint[:12]}-{_tower(encoder)}.npz"
    if kept is not None and kept.exists():
        stored = np.load(kept)
        vectors, text_vectors = stored["vectors"], stored["texts"]
    else:
        vectors = np.concatenate(
            [
                encoder.encode_images(
                    np.stack([prepare(Image.open(io.BytesIO(f)), encoder.preprocessing) for f in files[i : i + 16]])
                )
                for i in range(0, len(files), 16)
            ]
        )
        flat = [] if kind == "filling" else flat  # pictures only
        text_vectors = np.concatenate(
            [np.empty((0, encoder.dim), np.float32)]
            + [encoder.encode_texts(flat[i : i + 256]) for i in range(0, len(flat), 256)]
        )
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, vectors=vectors, texts=text_vectors)
    owner = np.repeat(np.arange(len(texts)), [len(of_one) for of_one in texts])
    words = [Counter(word for text in of_one for word in set(_words(text))) for of_one in texts]
    return Pictures(kind, vectors, flat, owner, text_vectors, words, regions)


def _regions(files: list[bytes], encoder: Encoder, kept: Path | None) -> FloatArray:
    """The vectors of the four tiles of each picture. Shape: (N, 4, D)."""
    if kept is not None and kept.exists():
        stored: FloatArray = np.load(kept)
        return stored
    found = []
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            pixels = [prepare(image.crop(box), encoder.preprocessing) for box in view_boxes(image.size)[1:]]
        found.append(encoder.encode_images(np.stack(pixels)))
    regions = np.stack(found)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, regions)
    return regions


def _tower(encoder: Encoder) -> str:
    return (encoder.text_fingerprint or encoder.name)[:12]


def _read(folder: Path, pattern: str, *, pictures: bool = True) -> tuple[list[bytes], list[list[str]]]:
    files: list[bytes] = []
    texts: list[list[str]] = []
    for path in sorted(folder.glob(pattern)):
        with tarfile.open(path) as archive:
            for name in sorted(archive.getnames()):
                if name.endswith(".jpg") and not pictures:
                    continue
                content = archive.extractfile(name)
                if content is None:
                    continue
                if name.endswith(".jpg"):
                    files.append(content.read())
                elif name.endswith(".json"):
                    texts.append(json.loads(content.read())["captions"])
                elif name.endswith(".txt"):
                    texts.append([content.read().decode().strip()])
    if not texts:
        raise SystemExit(f"no {pattern} in {folder}")
    return files, texts


def _words(text: str) -> list[str]:
    return [_singular(word) for word in re.findall("[a-z]+", text.lower())]


def _singular(word: str) -> str:
    if word in PLURALS:
        return PLURALS[word]
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _vocabulary(folder: Path) -> tuple[list[str], list[str]]:
    """Nouns that captions name where a picture shows them; and ImageNet names of which no caption has a word."""
    _, captioned = _read(folder, "flickr8k-*.tar", pictures=False)
    total: Counter[str] = Counter()
    as_noun: Counter[str] = Counter()
    in_pictures: Counter[str] = Counter()
    in_captions: Counter[str] = Counter()
    for captions in captioned:
        for caption in captions:
            raw = re.findall("[a-z]+", caption.lower())
            words = [_singular(word) for word in raw]
            total.update(words)
            in_captions.update(set(words))
            as_noun.update(
                word
                for i, word in enumerate(words)
                if i and raw[i - 1] in DETERMINERS and (i + 1 == len(raw) or raw[i + 1] in AFTER_NOUN)
            )
        in_pictures.update({word for caption in captions for word in _words(caption)})
    nouns = sorted(
        word
        for word, times in as_noun.items()
        if times >= 4
        and times / total[word] >= 0.12
        and in_pictures[word] >= 5
        and in_captions[word] / in_pictures[word] >= CAPTIONED_BY
    )
    absent = []
    for number, lemmas in enumerate(_imagenet()):
        parts = {word for lemma in lemmas for word in _words(lemma) if len(word) > 2}
        if number not in IMAGENET_DOGS and not any(in_pictures[word] for word in parts):
            absent.append(lemmas[0].lower())
    return nouns, absent


def _imagenet() -> list[list[str]]:
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise SystemExit("timm is missing: pip install 'clipsearch[torch]'")
    folder = Path(spec.origin).parent / "data" / "_info"
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = {line.partition("\t")[0]: line.partition("\t")[2].split(", ") for line in lines}
    return [lemmas[synset] for synset in (folder / "imagenet_synsets.txt").read_text().split()]


def _goods() -> dict[str, list[str]]:
    """What titles of products name, with the ways they say it."""
    names = [part.strip().split(",") for part in GOODS.replace("\n", " ").split(";")]
    return {ways[0]: [_plain(way) for way in (ways if len(ways) > 1 else [ways[0], ways[0] + "s"])] for ways in names}


def _words_for(table: str) -> dict[str, list[str]]:
    """Words of captions that tell something about what another word names."""
    pairs = [part.split(":") for part in table.split(";")]
    return {noun.strip(): kinds.split() for noun, kinds in pairs}


def _plain(text: str) -> str:
    """The words of a text, each between two blanks: a text's words follow one another in another's if it is in it."""
    return f" {' '.join(re.findall('[a-z]+', text.lower()))} "


def _encode_labels(nouns: list[str], encoder: Encoder) -> dict[str, FloatArray]:
    """What is searched with for each noun in every style. Shape of each: (styles, D)."""
    texts = [style.format(noun=noun, a="an" if noun[0] in "aeiou" else "a") for noun in nouns for style in STYLES]
    vectors = np.concatenate([encode_asked(encoder, texts[i : i + 256]) for i in range(0, len(texts), 256)])
    return dict(zip(nouns, vectors.reshape(len(nouns), len(STYLES), -1), strict=True))


def _half(count: int, half: int) -> npt.NDArray[np.int64]:
    order = np.random.default_rng(7).permutation(count)
    return np.sort(order[half::2]).astype(np.int64)


# --- collections and queries -----------------------------------------------------------------------------


class Ask(Protocol):
    """Asks a collection for a text, of which some of its pictures are right, and others may be."""

    def __call__(
        self,
        style: str,
        text: str,
        query: FloatArray,
        relevant: BoolArray,
        present: bool,
        told: DoubleArray | None = None,
        said: BoolArray | None = None,
        open_: BoolArray | None = None,
    ) -> None: ...


@dataclass
class Maker:
    """Draws collections from one half of the pictures and asks them about one half of the words."""

    photos: Pictures
    products: Pictures
    nouns: list[str]
    absent_names: list[str]
    labels: dict[str, FloatArray]
    bank: FloatArray
    drawings: FloatArray | None
    seed: int
    half: int

    def ask(self) -> list[Asked]:
        rng = np.random.default_rng([self.seed, self.half])
        asked = [asked for name, parts in self._collections(rng) for asked in self._ask_one(name, parts, rng)]
        rng = np.random.default_rng([self.seed, self.half, 1])
        for size in CATALOGUES:
            part = self.products.subset(np.sort(rng.choice(len(self.products.vectors), size, replace=False)))
            asked += self._ask_goods(f"catalogue {size}", part, rng)
        return asked

    def ask_large(self, filling: Pictures) -> list[Asked]:
        """Ask 400 photos with many others beside them, of which the model saw the captions in its training."""
        rng = np.random.default_rng([self.seed, self.half, 2])
        found: list[Asked] = []
        for size in LARGE:
            own = self.photos.subset(np.sort(rng.choice(len(self.photos.vectors), 400, replace=False)))
            chosen = np.sort(rng.choice(len(filling.vectors), size, replace=False))
            words = [filling.words[i] for i in chosen]
            beside = replace(filling, vectors=filling.vectors[chosen], texts=[], owner=filling.owner[:0], words=words)
            beside = replace(beside, regions=filling.regions[chosen])
            found += self._ask_one(f"photos {400 + size}", [own, beside], rng)
        return found

    def _collections(self, rng: np.random.Generator) -> list[tuple[str, list[Pictures]]]:
        def some(pictures: Pictures, count: int) -> Pictures:
            count = min(count, len(pictures.vectors) * 4 // 5)
            return pictures.subset(np.sort(rng.choice(len(pictures.vectors), count, replace=False)))

        found = [(f"photos {n}", [some(self.photos, n)]) for n in SIZES]
        found += [("products 300", [some(self.products, 300)])]
        found += [("mixed 300", [some(self.photos, 150), some(self.products, 150)])]
        for theme in THEMES:
            words = self.photos.words
            about = [i for i, of_one in enumerate(words) if sum(of_one[word] for word in theme) >= 2]
            chosen = np.sort(rng.permutation(about)[:150]).astype(np.int64)
            found.append((f"theme {theme[0]}", [self.photos.subset(chosen)]))
        return found

    def _ask_one(self, name: str, parts: list[Pictures], rng: np.random.Generator) -> list[Asked]:
        vectors = np.concatenate([part.vectors for part in parts])
        words = [of_one for part in parts for of_one in part.words]
        asked, ask = self._asking(name, vectors, np.concatenate([part.regions for part in parts]))
        nobody = np.zeros(len(vectors), dtype=bool)
        start = 0
        for part in parts:
            for i in rng.permutation(len(part.texts))[:100]:
                own = nobody.copy()
                own[start + part.owner[i]] = True
                ask(part.kind, part.texts[i], part.text_vectors[i], own, True, _told(part.texts[i], words))
            start += len(part.vectors)
        count = len(asked)  # of small collections, no more is asked for what is not there than for what is
        for source in (self.photos, self.products):
            wanted = min(count, 50 if source.kind == "product" else 100)
            for i in rng.permutation(len(source.texts)):
                told = _told(source.texts[i], words)
                if len(set(_words(source.texts[i])) - STOP_WORDS) < 2 or told.max() >= COVERED:
                    continue
                ask(source.kind, source.texts[i], source.text_vectors[i], nobody, False, told)
                wanted -= 1
                if not wanted:
                    break
        goods = any(part.kind == "product" for part in parts)
        self._ask_labels(ask, words, nobody, rng, leave_out=WORN | PEOPLE if goods else frozenset())
        return asked

    def _asking(self, name: str, vectors: FloatArray, regions: FloatArray) -> tuple[list[Asked], Ask]:
        """A list, and what asks a collection and puts the answer there."""
        sampled = sample_positions([len(vectors)])[0]
        flat, count = regions.reshape(-1, vectors.shape[1]), regions.shape[1]
        of_sample = np.repeat(np.arange(len(sampled)), count), regions[sampled].reshape(-1, vectors.shape[1])
        background = Background(self.bank, vectors[sampled], self.drawings, of_sample if count else None)
        asked: list[Asked] = []

        rng = np.random.default_rng(zlib.crc32(name.encode()))

        def ask(
            style: str,
            text: str,
            query: FloatArray,
            relevant: BoolArray,
            present: bool,
            told: DoubleArray | None = None,
            said: BoolArray | None = None,
            open_: BoolArray | None = None,
        ) -> None:
            scores = joined(vectors @ query, np.repeat(np.arange(len(vectors)), count), flat @ query)
            order = np.argsort(-scores)
            deeper = np.concatenate(
                [rng.integers(0, min(reach, len(order)), DEEPER // 2) for reach in (6 * SHOWN, len(order))]
            )
            ranks = np.concatenate([np.arange(min(SHOWN, len(order))), np.unique(deeper[deeper >= SHOWN])])
            chosen = order[ranks]
            right, known = relevant[chosen], np.ones(len(chosen), bool)
            own = int(right.argmax()) if told is not None and right.any() else -1  # before others count as right
            if told is not None:
                known = right | (told[chosen] >= MOST_LIKELY_RIGHT) | (told[chosen] < CERTAINLY_WRONG)
                right = right | (told[chosen] >= MOST_LIKELY_RIGHT)
            if open_ is not None:
                known = known & (right | ~open_[chosen])
            as_whole, best = background.as_whole(query, scores[chosen], float(scores.max()))
            features = background.features(query, as_whole, best)
            asked.append(
                Asked(
                    name,
                    style,
                    text,
                    present,
                    scores[chosen].astype(np.float64),
                    right,
                    known,
                    features,
                    right if said is None else said[chosen],
                    own,
                )
            )

        return asked, ask

    def _mine(self, words: Iterable[str]) -> list[str]:
        return [word for word in words if zlib.crc32(word.encode()) % 2 == self.half]

    def _ask_goods(self, name: str, part: Pictures, rng: np.random.Generator) -> list[Asked]:
        """Ask pictures of products for what their titles name, or others' titles, or captions of photos."""
        asked, ask = self._asking(name, part.vectors, part.regions)
        titles = [_plain(text) for text in part.texts]
        ways = _goods()
        for noun in self._mine(ways):
            named = np.zeros(len(part.vectors), dtype=bool)
            named[part.owner] = [any(way in title for way in ways[noun]) for title in titles]
            style = int(rng.integers(len(STYLES)))
            ask("goods", noun, self.labels[noun][style], named, present=bool(named.any()))
        apart = WORN | PEOPLE
        others = [word for word in self._mine([*self.nouns, *self.absent_names]) if not apart & set(_words(word))]
        for noun in rng.permutation(others)[:12].tolist():
            style = int(rng.integers(len(STYLES)))
            ask("goods", noun, self.labels[noun][style], np.zeros(len(part.vectors), dtype=bool), present=False)
        return asked

    def _ask_labels(
        self,
        ask: Ask,
        words: list[Counter[str]],
        nobody: BoolArray,
        rng: np.random.Generator,
        leave_out: frozenset[str],
    ) -> None:
        mine = [noun for noun in self._mine([*self.nouns, *self.absent_names]) if not leave_out & set(_words(noun))]
        names = set(self.absent_names)
        kinds, open_ = _words_for(KINDS_OF), _words_for(OPEN)

        def tell(of: Iterable[str]) -> BoolArray:
            return np.array([any(of_one[word] for word in of) for of_one in words], dtype=bool)

        said = {noun: np.array([of_one[noun] for of_one in words]) for noun in mine if noun not in names}
        shows = {noun: tell([noun, *kinds.get(noun, ())]) for noun in said}
        present = [noun for noun, times in said.items() if (times >= 2).any()]
        absent = [
            noun for noun in mine if noun in names or not tell([noun, *kinds.get(noun, ()), *open_.get(noun, ())]).any()
        ]
        for noun in present:
            style = int(rng.integers(len(STYLES)))
            unknown = tell(open_.get(noun, ()))
            vector = self.labels[noun][style]
            ask("label", noun, vector, shows[noun], present=True, said=said[noun] >= 1, open_=unknown)
        for noun in rng.permutation(absent)[: min(10 + 2 * len(present), max(40, len(present)))].tolist():
            style = int(rng.integers(len(STYLES)))
            ask("label", noun, self.labels[noun][style], nobody, present=False)


def _told(text: str, words: list[Counter[str]]) -> DoubleArray:
    """The share of a text's words that each picture's texts have. Shape: (N,)."""
    content = set(_words(text)) - STOP_WORDS
    return np.array([len(content & of_one.keys()) / max(1, len(content)) for of_one in words])


def _alike(photos: Pictures, bank: FloatArray) -> list[tuple[DoubleArray, BoolArray]]:
    """Features of pairs of photos of each half, and whether their captions tell of the same things."""
    found = []
    for half in (0, 1):
        part = photos.subset(_half(len(photos.vectors), half))
        background = Background(bank, part.vectors[sample_positions([len(part.vectors)])[0]], None)
        told = [{word for word, times in of_one.items() if times >= 2} - STOP_WORDS for of_one in part.words]
        features: list[DoubleArray] = []
        truth: list[bool] = []
        for i, query in enumerate(part.vectors):
            scores = part.vectors @ query
            order = np.argsort(-scores)[1:]
            chosen = np.concatenate([order[:10], order[10::50]])
            shares = [len(told[i] & told[j]) / max(1, len(told[i] | told[j])) for j in chosen]
            rows = background.picture_features(query, scores[chosen])
            for share, row in zip(shares, rows, strict=True):
                if share >= 0.3 or share < 0.1:
                    features.append(row)
                    truth.append(share >= 0.3)
        found.append((np.array(features), np.array(truth)))
    return found


def _join(pairs: list[tuple[DoubleArray, BoolArray]]) -> tuple[DoubleArray, BoolArray]:
    return np.concatenate([features for features, _ in pairs]), np.concatenate([truth for _, truth in pairs])


# --- fitting and measuring -------------------------------------------------------------------------------


def fit_calibration(models: list[list[Asked]], pairs: tuple[DoubleArray, BoolArray]) -> Calibration:
    """Fit both logistic models, the one of texts on the same queries by several models, which weigh the same."""
    parts = [_hits(asked) for asked in models]
    features, truth, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    text = fit_logistic(features, truth, RISING, weights)
    return Calibration(text, fit_logistic(*pairs, RISING, _as_if(pairs[1], ALIKE)), BANDS, PICTURE_BANDS)


def _hits(asked: list[Asked]) -> tuple[DoubleArray, BoolArray, DoubleArray]:
    """Of all hits that can be judged the features, whether they are right, and what they weigh: those of a text that is
    asked often less, so that few words do not decide. Shapes: (H, F), (H,), (H,)."""
    hits = Counter[str]()
    for query in asked:
        hits[query.style + query.text] += int(query.known.sum())
    weights = np.concatenate(
        [
            np.full(int(query.known.sum()), hits[query.style + query.text] ** -0.5)
            for query in asked
            if query.known.any()
        ]
    )
    return (
        np.concatenate([query.features[query.known] for query in asked]),
        np.concatenate([query.right[query.known] for query in asked]),
        weights / weights.sum(),
    )


def _as_if(truth: BoolArray, prior: float) -> DoubleArray:
    """Weights with which a share `prior` is true. Shape: (H,)."""
    share = float(truth.mean())
    return np.where(truth, prior / share, (1 - prior) / (1 - share))


def fit_logistic(features: DoubleArray, truth: BoolArray, rising: int, weights: DoubleArray) -> Logistic:
    """Fit by Newton's method. Rising features that would fall are left out."""
    weights = weights / weights.mean()
    held = features[:, rising:]
    low, high = (np.quantile(held, [0.01, 0.99], axis=0) if held.shape[1] else np.empty((2, 0))).tolist()
    clipped = np.concatenate([features[:, :rising], np.clip(held, low, high)], axis=1)
    blank = Logistic(rising, tuple(clipped.mean(axis=0)), tuple(clipped.std(axis=0)), tuple(low), tuple(high), (), 0.0)
    inputs = np.concatenate([blank.expand(features), np.ones((len(features), 1))], axis=1)
    used = np.ones(inputs.shape[1], dtype=bool)
    while True:
        found = np.zeros(inputs.shape[1])
        found[used] = _newton(inputs[:, used], truth, weights)
        falling = np.flatnonzero(found[:rising] < 0)
        if not len(falling):
            break
        used[falling] = False
    return replace(blank, weights=tuple(found[:-1]), intercept=float(found[-1]))


def _newton(inputs: DoubleArray, truth: BoolArray, weights: DoubleArray) -> DoubleArray:
    found = np.zeros(inputs.shape[1])
    penalty = np.full(inputs.shape[1], RIDGE * len(inputs))
    penalty[-1] = 0
    for _ in range(100):
        chance = 1 / (1 + np.exp(-inputs @ found))
        gradient = inputs.T @ (weights * (chance - truth)) + penalty * found
        curvature = (inputs * (weights * chance * (1 - chance))[:, None]).T @ inputs + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        found -= step
        if np.abs(step).max() < 1e-8:
            break
    return found


def auroc(truth: BoolArray, scores: DoubleArray) -> float:
    """The chance that a true one scores above a false one, ties counted half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    true, false = int(truth.sum()), int((~truth).sum())
    return float((ranks[truth].sum() - true * (true + 1) / 2) / (true * false))


def f_score(truth: BoolArray, chosen: BoolArray) -> float:
    """F1 of what was chosen, (0..1)."""
    return 2 * int((truth & chosen).sum()) / max(1, int(truth.sum()) + int(chosen.sum()))


def calibration_error(sure: DoubleArray, right: BoolArray) -> float:
    """The expected calibration error, in ten bins: by how much confidences and shares of right hits differ (0..1)."""
    bins = np.clip((sure * 10).astype(int), 0, 9)
    gaps = [abs(sure[bins == b].sum() - right[bins == b].sum()) for b in range(10)]
    return float(sum(gaps)) / max(1, len(sure))


@dataclass(frozen=True)
class Judged:
    """The queries of both halves, each judged by the fit of the other: the confidence and band of each hit."""

    asked: list[Asked]
    sure: list[DoubleArray]
    bands: list[npt.NDArray[np.str_]]

    @classmethod
    def by(cls, halves: list[list[Asked]], fits: list[Calibration]) -> Judged:
        asked = halves[0] + halves[1]
        judges = [fits[1]] * len(halves[0]) + [fits[0]] * len(halves[1])
        sure = [fit.text.probabilities(query.features) for query, fit in zip(asked, judges, strict=True)]
        bands = [np.array(fit.text_bands.of(of, float(of[0]))) for of, fit in zip(sure, judges, strict=True)]
        return cls(asked, sure, bands)

    def best(self, of: Iterable[int]) -> tuple[BoolArray, BoolArray, DoubleArray, DoubleArray, npt.NDArray[np.str_]]:
        """Of the ten best hits that can be judged of some queries: whether right, whether by the very word, the cosine,
        the confidence and the band. Shapes: (H,)."""
        chosen = [(self.asked[i], self.sure[i], self.bands[i]) for i in of]
        return (
            np.concatenate([query.right[query.best] for query, *_ in chosen]),
            np.concatenate([query.said[query.best] for query, *_ in chosen]),
            np.concatenate([query.scores[query.best] for query, *_ in chosen]),
            np.concatenate([sure[query.best] for query, sure, _ in chosen]),
            np.concatenate([bands[query.best] for query, _, bands in chosen]),
        )

    def passing(self, of: Iterable[int], *, present: bool) -> tuple[int, float]:
        """How many queries are for what is there, or is not, and the share of them for which something is shown."""
        chosen = [i for i in of if self.asked[i].present == present]
        return len(chosen), float(np.mean([self.bands[i][0] != "unlikely" for i in chosen])) if chosen else 0.0

    def captions(self) -> tuple[float, int]:
        """How many captions whose picture is among the ten best show it, where the nearest ten are shown if nothing is
        certain; and of how many."""
        own = [i for i, query in enumerate(self.asked) if query.style == "sentence" and 0 <= query.own < SHOWN]
        stays = [self.bands[i][0] == "unlikely" or self.bands[i][self.asked[i].own] != "unlikely" for i in own]
        return float(np.mean(stays)), len(own)


def _said(right: BoolArray, word: BoolArray, sure: DoubleArray, bands: npt.NDArray[np.str_]) -> str:
    """What the bands promise, and keep."""
    parts = []
    for band in ("strong", "maybe", "unlikely"):
        chosen = bands == band
        if chosen.any():
            by_word = f", {word[chosen].mean():.3f} by the very word" if band == "strong" else ""
            share = f"{right[chosen].mean():.3f}" if band == "strong" else f"{right[chosen].mean():.2f}"
            parts.append(f"{band} {share} of {chosen.sum()} (said {sure[chosen].mean():.2f}{by_word})")
    return ", ".join(parts)


def _report(halves: list[list[Asked]], fits: list[Calibration]) -> None:
    judged = Judged.by(halves, fits)
    style = np.array([query.style for query in judged.asked])
    groups = [(name, np.flatnonzero(style == name).tolist()) for name in KINDS if (style == name).any()]
    groups.insert(0, ("all", list(range(len(style)))))
    print(f"{'the ten best':14} {'hits':>8} {'right':>6} | AUROC cosine  confidence | error, of all and of those shown")
    for name, of in groups:
        right, word, cosine, sure, bands = judged.best(of)
        shown = bands != "unlikely"
        print(
            f"{name:14} {len(right):8} {right.mean():6.3f} | {auroc(right, cosine):12.3f} {auroc(right, sure):11.3f} "
            f"| {calibration_error(sure, right):13.3f} {calibration_error(sure[shown], right[shown]):18.3f}"
        )
        print(f"{'':14} right: {_said(right, word, sure, bands)}")
        tenths = np.clip((sure * 10).astype(int), 0, 9)
        shares = [f"{right[tenths == b].mean():.2f}" if (tenths == b).any() else "-" for b in range(10)]
        print(f"{'':14} right by tenths of confidence: {' '.join(shares)}")
    right, _, _, sure, _ = judged.best(range(len(style)))
    print(f"right from a confidence on: {_by_edges(right, sure)}")
    for name, of in groups:
        (there, passes), (absent, passes_too) = (judged.passing(of, present=present) for present in (True, False))
        print(
            f"{name:14} something is shown: of {there} queries for what is there {passes:.3f}, of {absent} for what is "
            f"not {passes_too:.3f}"
        )
    stays, captions = judged.captions()
    print(
        f"captions whose picture is among the ten best show it, if the nearest ten are shown where nothing is certain: "
        f"{stays:.3f} of {captions}"
    )


def _by_edges(right: BoolArray, sure: DoubleArray) -> str:
    return ", ".join(
        f"{edge} {right[sure >= edge].mean():.3f} of {(sure >= edge).sum()}" for edge in EDGES if (sure >= edge).any()
    )


def _report_model(name: str, seen: Seen, halves: list[list[Asked]], fits: list[Calibration]) -> None:
    """In a few lines, what the fits of another model make of one."""
    judged = Judged.by(halves, fits)
    every = range(len(judged.asked))
    right, word, cosine, sure, bands = judged.best(every)
    shown = bands != "unlikely"
    (_, there), (_, absent) = (judged.passing(every, present=present) for present in (True, False))
    print(
        f"{name}: AUROC cosine {auroc(right, cosine):.3f}, confidence {auroc(right, sure):.3f}; error "
        f"{calibration_error(sure, right):.3f}, of those shown {calibration_error(sure[shown], right[shown]):.3f}; "
        f"shown for what is there {there:.3f}, is not {absent:.3f}; captions {judged.captions()[0]:.3f}"
    )
    print(f"{'':14} right: {_said(right, word, sure, bands)}; from {_by_edges(right, sure)}")
    _report_shown(fits, seen, f"{'':14} {{}} nouns")


def _report_unseen_kinds(halves: list[list[Asked]]) -> None:
    """How well hits of each kind of query are judged by fits that have seen none of its kind."""
    print("judged by the fit of the other half without queries of their own kind, AUROC cosine, confidence, and error:")
    for kind in KINDS:
        sure: list[DoubleArray] = []
        of_kind: list[Asked] = []
        for tested, fitted in (halves, halves[::-1]):
            features, truth, weights = _hits([query for query in fitted if query.style != kind])
            fit = fit_logistic(features, truth, RISING, weights)
            of_kind += (mine := [query for query in tested if query.style == kind])
            sure += [fit.probabilities(query.features)[query.best] for query in mine]
        right = np.concatenate([query.right[query.best] for query in of_kind])
        cosine = np.concatenate([query.scores[query.best] for query in of_kind])
        told = np.concatenate(sure)
        print(f"{kind:14} {auroc(right, cosine):.3f} {auroc(right, told):.3f} {calibration_error(told, right):.3f}")


def _report_shown(fits: list[Calibration], seen: Seen, title: str) -> None:
    """What is shown of all photos and products for nouns that the model knows, each judged by the fit of the other half
    of the words."""
    vectors = np.concatenate([seen.photos.vectors, seen.products.vectors])
    background = Background(seen.bank, vectors[sample_positions([len(vectors)])[0]], seen.drawings)
    found: list[tuple[float, float, float, float]] = []
    strong: list[bool] = []
    for noun in seen.nouns:
        fit = fits[1 - zlib.crc32(noun.encode()) % 2]
        times = np.array([of_one[noun] for of_one in [*seen.photos.words, *seen.products.words]])
        right = times >= np.r_[np.full(len(seen.photos.words), 2), np.ones(len(seen.products.words))]
        for query in seen.labels[noun]:
            scores = vectors @ query
            nearest = np.argsort(-scores)[:SHOWN]
            if right[nearest].sum() < KNOWN_HITS:
                continue
            _, words = fit.judged(background, query, scores, "text")
            bands = np.array(words)
            chosen = bands != "unlikely"
            if not chosen.any():
                chosen[nearest] = True
            strong += (times[bands == "strong"] >= 1).tolist()
            both, count = int((chosen & right).sum()), int(chosen.sum())
            found.append((f_score(right, chosen), both / max(1, count), both / int(right.sum()), count))
    f1, precision, recall, _ = np.mean(found, axis=0)
    print(
        f"{title.format(len(found))}: F1 {f1:.3f}, precision {precision:.3f}, recall {recall:.3f}, "
        f"{np.median([count for *_, count in found]):.0f} pictures (median); strong right "
        f"{np.mean(strong) if strong else 0:.3f} of {len(strong)}"
    )


if __name__ == "__main__":
    main()
