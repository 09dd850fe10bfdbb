"""How sure a hit is: the probability that a picture shows what the query says (see docs/confidence.md).

A cosine means different things for different models, collections and queries: 0.4 is much for a label and little for
a sentence. Here a cosine is read in the model's own terms, which a fixed bank of everyday texts and a few drawings
tell, and against backgrounds that cost nothing to have: how the query scores on a sample of the collection, and how it
relates to the bank.
A small logistic model, fitted by `scripts/evaluate_confidence.py` on hits, turns these into a probability. Of the
other hits, only the best has a say, and for one query the confidence rises with the score.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.config import cache_dir
from clipsearch.encoder import Encoder
from clipsearch.errors import ClipsearchError
from clipsearch.npy import read_array
from clipsearch.records import Band, FloatArray, IntArray
from clipsearch.replacing import replacing
from clipsearch.search.regions import joined

QueryKind = Literal["text", "picture"]
DoubleArray = npt.NDArray[np.float64]

SAMPLE_ROWS = 1024
SAMPLE_BLOCK_ROWS = 16  # neighbours are read together: few places on the disk, still spread over the collection
LEAST_SPREAD = 1e-6
SAME_PICTURE = 0.99  # from here on a picture is the one that was asked with, whatever else there is
FEWEST_PICTURES = 24  # fewer say little of how alike pictures are: drawings stand beside them
SAME_PLACE = 0.98  # of the way from what unrelated pairs score to 1
BY_CHANCE = 0.5
"""How much of what regions add over a sample is taken off. Of hits of captions that are called maybe, 52 % are right
with whole pictures; with regions 49 % (0), 55 % (0.5), 59 % (1). Something passes for 16 % of the captions of what is
not there; 20, 14, 11 %; and for 56 % of those of what is; 64, 58, 51 % (360 photographs of Flickr8k's development
files)."""
SAME_KIND = 4.0
"""The squared distance of labels and scenes, in spreads of their own, at which a text's kind counts half: a model that
places both alike says nothing of what kind a text is."""
FEWEST_ROWS = 4  # fewer pictures have no mean and spread to speak of
TEXTS_KEPT = 64
CALIBRATION = Path(__file__).with_name("confidence.json")
DRAWINGS = Path(__file__).parent.parent / "training" / "anchor.tar"  # 117 drawings, in the public domain
DRAWINGS_STEP = 5  # every fifth of them is enough to place a model's cosines
PICTURES_PER_CALL = 8  # few enough that no encoder tries first what is fastest for many

THINGS = """
man;woman;child;baby;crowd of people;family;face;hand;dog;cat;bird;horse;cow;fish;insect;wild animal;flower;tree;leaf;
grass;forest;field;garden;mountain;hill;rock;desert;beach;sea;lake;river;waterfall;snow;ice;sky;cloud;sunset;night sky;
rain;fire;street;road;bridge;building;house;tower;church;castle;ruin;city skyline;village;market;shop;restaurant;
kitchen;bedroom;bathroom;living room;office;classroom;hospital;factory;workshop;museum;stage;stadium;playground;
swimming pool;park;airport;railway station;harbour;car;bus;truck;train;bicycle;motorcycle;boat;ship;airplane;helicopter;
tractor;table;chair;bed;sofa;lamp;door;window;staircase;mirror;clock;computer;telephone;television;camera;book;
newspaper;letter;map;sign;poster;painting;drawing;statue;toy;doll;ball;balloon;gift;musical instrument;piano;guitar;
tool;knife;machine;engine;wheel;weapon;box;bag;bottle;cup;plate;bowl;meal;fruit;vegetable;loaf of bread;cake;steak;
soup;coffee;drink;shirt;dress;pair of trousers;shoe;hat;coat;pair of glasses;watch;necklace;umbrella;flag;medal;coin;
screenshot;diagram;table of numbers;page of text;logo;receipt;pattern;blurred shape;empty room
"""
SCENES = """
people eating at a table;two people talking;a person smiling at the camera;a group of friends posing;
children playing outside;a man working;a woman walking along a street;a person reading;a person cooking;
someone riding a bicycle;people dancing at a party;a wedding;a birthday party;a concert;a football match;
a person running;a person swimming;a person climbing;skiing in the mountains;a person sleeping;a person on the phone;
a baby laughing;an old man with a beard;a woman in a red dress;a boy jumping;a dog running;a cat on a sofa;
a bird on a branch;animals in a zoo;cows in a meadow;a flower in close-up;a path through a forest;a view over a valley;
waves on a shore;a boat on a lake;a city at night;cars in traffic;an old building;a narrow street;
the inside of a church;a train at a station;an airplane in the sky;a plate of food;a cup of coffee on a table;
fruit at a market;a desk with a computer;a shelf of books;a room with furniture;a black and white photo;an aerial view;
a photo taken under water;something very small in close-up;a white background;a product on a plain background;
a piece of clothing;a pair of shoes;a handbag;a wristwatch;a sign with writing;a document;a screenshot of a program;
a drawing of an animal;a map of a town;a chart
"""


def bank_things() -> list[str]:
    """What the first texts of the bank are photos of, in a word or two."""
    return [thing.strip() for thing in THINGS.split(";")]


LABELS = len(bank_things())  # the first of the bank


def bank_texts() -> list[str]:
    """The fixed bank of everyday texts: what people photograph, as labels and as scenes."""
    labels = [f"a photo of {'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in bank_things()]
    return labels + [scene.strip() for scene in SCENES.split(";")]


# --- the background of a model -------------------------------------------------------------------------


def bank_vectors(encoder: Encoder) -> FloatArray:
    """The bank's vectors by a model, from the cache folder where an earlier run left them. Shape: (B, D) float32.

    Encoding them takes a second or so, once for each text tower; `clipsearch index` does it beforehand. Raises what
    the encoder raises.
    """
    texts = bank_texts()
    tower = encoder.text_fingerprint  # without one, nothing is kept
    file = None if tower is None else _cache_file("\n".join([tower, *texts]).encode())
    stored = _stored(file, encoder.dim)
    if stored is not None and len(stored) == len(texts):
        return stored
    vectors = encoder.encode_texts(texts)
    _store(file, vectors)
    return vectors


def drawing_vectors(encoder: Encoder) -> FloatArray | None:
    """The vectors of a few drawings by a model, from the cache folder as the bank's. Shape: (R, D) float32.

    With the bank, they tell where the model's cosines of unrelated pairs lie, whatever a collection holds. None if
    the model has no image tower here and none had before. Raises what the encoder raises.
    """
    archive = DRAWINGS.read_bytes()
    identity = [encoder.fingerprint, xxhash.xxh3_128_hexdigest(archive), f"every {DRAWINGS_STEP}"]
    file = _cache_file("\n".join(identity).encode())
    stored = _stored(file, encoder.dim)
    if stored is not None:
        return stored
    import tarfile  # neither is for the queries that find the vectors in the cache

    from clipsearch.pictures.images import read_picture

    try:
        preprocessing = encoder.preprocessing
    except ClipsearchError:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        names = sorted(name for name in opened.getnames() if name.endswith(".webp"))[::DRAWINGS_STEP]
        files = {name: stream.read() for name in names if (stream := opened.extractfile(name)) is not None}
    pixels = np.stack(
        [read_picture(name, preprocessing, content_hash=False, content=body).pixels for name, body in files.items()]
    )
    starts = range(0, len(pixels), PICTURES_PER_CALL)
    vectors = np.concatenate([encoder.encode_images(pixels[at : at + PICTURES_PER_CALL]) for at in starts])
    _store(file, vectors)
    return vectors


def _cache_file(identity: bytes) -> Path:
    return cache_dir() / "backgrounds" / f"{xxhash.xxh3_128_hexdigest(identity)}.npy"


def _stored(file: Path | None, dim: int) -> FloatArray | None:
    """Vectors that were stored, shape (R, D); None if there are none, or not whole ones of this length."""
    if file is not None:
        with contextlib.suppress(OSError, ValueError), file.open("rb") as stream:
            stored = read_array(stream)
            if stored.dtype == np.float32 and stored.shape[1:] == (dim,) and np.isfinite(stored).all():
                return stored
    return None


def _store(file: Path | None, vectors: FloatArray) -> None:
    """Write an array in one step; failing to is no error (it can be made again)."""
    if file is None:
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as stream:
            np.save(stream, vectors, allow_pickle=False)


# --- the background of a collection --------------------------------------------------------------------


def sample_positions(lengths: Sequence[int], rows: int = SAMPLE_ROWS) -> list[IntArray]:
    """Which rows of segments of these lengths to sample: up to `rows`, spread evenly, in blocks of neighbours."""
    total = sum(lengths)
    if total <= rows:
        return [np.arange(length, dtype=np.int64) for length in lengths]
    starts = np.linspace(0, total - SAMPLE_BLOCK_ROWS, rows // SAMPLE_BLOCK_ROWS).astype(np.int64)
    chosen = (starts[:, None] + np.arange(SAMPLE_BLOCK_ROWS)).ravel()  # in order, and blocks do not overlap
    ends = np.cumsum(lengths)
    return [
        chosen[(chosen >= end - length) & (chosen < end)] - (end - length)
        for length, end in zip(lengths, ends, strict=True)
    ]


class Background:
    """What scores look like in one collection for one model.

    Shapes: bank (B, D), of `bank_texts`; sample (M, D), drawings (R, D), float32, unit L2. Without drawings, the
    sample says where the model's cosines lie, which makes narrow collections look more alike than they are. `regions`:
    which picture of the sample each region is of, and its vector; shapes (S,) int64, (S, D).
    """

    def __init__(
        self,
        bank: FloatArray,
        sample: FloatArray,
        drawings: FloatArray | None,
        regions: tuple[IntArray, FloatArray] | None = None,
    ) -> None:
        self._bank = bank
        self._sample = sample
        self._drawings = drawings
        self._regions = regions
        self._texts: dict[bytes, tuple[float, float, DoubleArray]] = {}

    def as_whole(self, query: FloatArray, scores: FloatArray, best: float | None) -> tuple[FloatArray, float | None]:
        """Scores of pictures with their regions (`search.regions`) on the scale of whole pictures': the best of several
        is higher by chance. Shapes: query (D,), scores (K,).

        Halfway between what they are, and what has their mean and spread over the sample: see BY_CHANCE.
        """
        if self._regions is None or len(self._sample) < FEWEST_ROWS:
            return scores, best
        which, vectors = self._regions
        plain = self._sample @ query
        sampled = joined(plain, which, vectors @ query)
        middle, usual = float(sampled.mean()), float(plain.mean())
        ratio = _spread(plain) / _spread(sampled)

        def as_whole(score: FloatArray) -> FloatArray:
            alike = np.minimum(score, usual + ratio * (score - middle))
            told = (1 - BY_CHANCE) * score + BY_CHANCE * alike
            return np.where(score >= SAME_PICTURE, score, told)

        told = None if best is None else float(as_whole(np.array([best], np.float32))[0])
        return as_whole(scores), told

    @cached_property
    def _model_cosines(self) -> tuple[float, float]:
        """Where the model's cosines of unrelated pairs lie: their mean, and the middle of the texts' spreads."""
        scores = self._bank @ (self._sample if self._drawings is None else self._drawings).T
        return float(scores.mean()), max(float(np.median(scores.std(axis=1))), LEAST_SPREAD)

    @cached_property
    def _bank_on_bank(self) -> tuple[DoubleArray, DoubleArray]:
        """What `_text_relations` are held against, and what one of it is, each text of the bank against the others.

        A label is 1 and a scene -1, or both nearer to 0 where the model hardly tells them apart (see SAME_KIND).
        """
        scores = (self._bank @ self._bank.T).astype(np.float64)
        towards = _text_relations(scores)[:, 0]
        labels, scenes = towards[:LABELS], towards[LABELS:]
        inner = (float(labels.var()) * len(labels) + float(scenes.var()) * len(scenes)) / len(towards)
        gap = max(float(labels.mean() - scenes.mean()), LEAST_SPREAD)
        apart = gap**2 / max(inner, LEAST_SPREAD**2)
        np.fill_diagonal(scores, np.nan)
        nearest = [
            np.nanmax(part, axis=1) for part in (scores[:LABELS, :LABELS], scores[LABELS:, LABELS:], scores)
        ]  # of labels among labels, of scenes among scenes, of all
        middle = [float(labels.mean() + scenes.mean()) / 2, *(float(part.mean()) for part in nearest)]
        unit = [gap / 2 * (apart + SAME_KIND) / apart, *(_spread(part) for part in nearest)]
        return np.array(middle), np.array(unit)

    @property
    def _pictures(self) -> FloatArray:
        """What pictures as queries are held against. Shape: (M, D) float32."""
        if self._drawings is None or len(self._sample) >= FEWEST_PICTURES:
            return self._sample
        return np.concatenate([self._sample, self._drawings])

    @cached_property
    def _pictures_on_pictures(self) -> tuple[float, float]:
        """Mean and spread of the cosines between different pictures of the sample."""
        if len(self._pictures) < 2:
            return 0.0, 1.0
        half = self._pictures[:: max(1, len(self._pictures) // 256)]
        scores = half @ half.T
        others = scores[~np.eye(len(scores), dtype=bool)]
        return float(others.mean()), _spread(others)

    def features(self, query: FloatArray, scores: FloatArray, best: float | None = None) -> DoubleArray:
        """What the calibration reads of a text and its scores. Shapes: query (D,), scores (K,) cosines; (K, 8).

        Columns: the score above the model's unrelated pairs, in their spreads; how high it stands between the ground
        and the best, 0 to 1; the query's mean over the collection, in spreads as the score; the logarithm of its spread
        over the collection, likewise; then whether the query stands where the bank's labels do (1), or where its scenes
        do (-1); and how near the nearest label is, the nearest scene, and the nearest of all, each in spreads over the
        bank's own texts. The ground is what unrelated pairs score, or the middle of the collection, whichever is lower.
        The best is `best` (left out: the best of `scores`), or what is better in the sample.
        """
        centre, unit = self._model_cosines
        ground, highest, of_text = self._of_text(query)
        top = max(float(scores.max(initial=-1.0)) if best is None else best, highest)
        values = np.empty((len(scores), 8))
        values[:, 0] = (scores - centre) / unit
        values[:, 1] = np.clip((scores - ground) / max(top - ground, LEAST_SPREAD), 0.0, 1.0)
        values[:, 2:] = of_text
        return values

    def _of_text(self, query: FloatArray) -> tuple[float, float, DoubleArray]:
        """What does not depend on the scores: the ground, the best of the sample, and the last six features.

        Kept for the next hits of that text: of one question, several parts are judged one after the other.
        """
        key = query.tobytes()
        known = self._texts.get(key)
        if known is not None:
            return known
        centre, unit = self._model_cosines
        sampled = self._sample @ query
        on_sample = (sampled - centre) / unit
        share = min(1.0, len(on_sample) / FEWEST_ROWS)  # the rest is as of pictures that have nothing to do with it
        mean, deviation = self._bank_on_bank
        values = np.empty(6)
        values[0] = share * float(on_sample.mean())
        values[1] = np.log(share * _spread(on_sample) ** 2 + 1 - share + LEAST_SPREAD**2) / 2
        values[2:] = (_text_relations((self._bank @ query)[None])[0] - mean) / deviation
        if len(self._texts) >= TEXTS_KEPT:
            self._texts = {}  # in one step: other threads may read
        self._texts[key] = known = min(float(np.median(sampled)), centre), float(sampled.max()), values
        return known

    def are_same(self, scores: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether pictures lie where the text itself does: nearly all the way from unrelated pairs to a cosine of 1.

        No picture could show it better. A model that knows little else has unrelated pairs three spreads below, which
        by itself would not be much. Shapes: (K,).
        """
        centre, _ = self._model_cosines
        return scores >= centre + SAME_PLACE * (1 - centre)

    def picture_features(self, query: FloatArray, scores: FloatArray) -> DoubleArray:
        """What the calibration reads of a picture as a query. Shapes: query (D,), scores (K,) cosines; (K, 2).

        Columns: the score in spreads of the cosines between any two pictures of the collection, and in spreads of
        the query's own.
        """
        mean, deviation = self._pictures_on_pictures
        on_sample = self._pictures @ query
        return np.stack(
            [(scores - mean) / deviation, (scores - float(on_sample.mean())) / _spread(on_sample)], axis=1
        ).astype(np.float64)


def _spread(values: npt.NDArray[np.floating]) -> float:
    return max(float(values.std()), LEAST_SPREAD)


def _text_relations(scores: npt.NDArray[np.floating]) -> DoubleArray:
    """Of each row's scores with the bank: by how much labels are nearer than scenes, in the mean; then the greatest of
    the labels, of the scenes, and of all. Shapes: (Q, B) to (Q, 4)."""
    labels, scenes = scores[:, :LABELS], scores[:, LABELS:]
    values = np.empty((len(scores), 4))
    values[:, 0] = labels.mean(axis=1) - scenes.mean(axis=1)
    values[:, 1], values[:, 2] = labels.max(axis=1), scenes.max(axis=1)
    values[:, 3] = values[:, 1:3].max(axis=1)
    return values


# --- from features to probabilities --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Logistic:
    """A fitted logistic model: the first `rising` features as they are, the others with their squares and products.

    The others are held within `low`..`high`, the range met in fitting, so that nothing is extrapolated from squares.
    """

    rising: int
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def probabilities(self, features: DoubleArray) -> DoubleArray:
        """Shapes: (K, F) features to (K,) probabilities."""
        logits = self.expand(features) @ np.asarray(self.weights) + self.intercept
        chances: DoubleArray = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        return chances

    def expand(self, features: DoubleArray) -> DoubleArray:
        """Standardised features, then the products of the held ones. Shapes: (K, F) to (K, F + products)."""
        held = np.clip(features[:, self.rising :], self.low, self.high)
        scaled = (np.concatenate([features[:, : self.rising], held], axis=1) - self.mean) / np.asarray(self.spread)
        rest = scaled[:, self.rising :]
        first, second = _pairs(rest.shape[1])
        return np.concatenate([scaled, rest[:, first] * rest[:, second]], axis=1)


@lru_cache(maxsize=4)
def _pairs(columns: int) -> tuple[IntArray, IntArray]:
    """Which columns are multiplied: each with itself and with those behind it."""
    first, second = np.triu_indices(columns)
    return first, second


@dataclass(frozen=True, slots=True)
class Bands:
    """From which confidences on hits are called what, in one list."""

    maybe: float
    strong: float
    certain: float
    """What the best hit must have: where it has less, all are unlikely."""

    def of(self, confidences: DoubleArray, best: float) -> list[Band]:
        """The word for each confidence of a list whose best hit has `best`. Shape: (K,)."""
        if best < self.certain:
            return ["unlikely"] * len(confidences)
        words = np.array(["unlikely", "maybe", "strong"], object)
        found: list[Band] = words[(confidences >= self.maybe).astype(np.intp) + (confidences >= self.strong)].tolist()
        return found


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns features into confidences, and confidences into bands, for texts and for pictures as queries."""

    text: Logistic
    picture: Logistic
    text_bands: Bands
    picture_bands: Bands

    def judged(
        self,
        background: Background,
        query: FloatArray,
        scores: FloatArray,
        kind: QueryKind,
        best: float | None = None,
    ) -> tuple[DoubleArray, list[Band]]:
        """The confidences of some hits (see `confidences`), and the word for each. Shapes: (K,)."""
        every = scores if best is None else np.append(scores, np.float32(best))
        chances = self.confidences(background, query, every, kind, best)
        found, top = chances[: len(scores)], float(chances.max(initial=0.0))
        return found, (self.text_bands if kind == "text" else self.picture_bands).of(found, top)

    def confidences(
        self,
        background: Background,
        query: FloatArray,
        scores: FloatArray,
        kind: QueryKind,
        best: float | None = None,
    ) -> DoubleArray:
        """How likely it is that pictures with these scores show what the query says.

        Shapes: query (D,) float32, unit L2; scores (K,) cosines; (K,) in 0..1. `kind`: what the query was made of;
        `best`: the best score that it has, the best of `scores` if left out.
        """
        if kind == "picture":
            chances = self.picture.probabilities(background.picture_features(query, scores))
            return np.where(scores >= SAME_PICTURE, np.maximum(chances, self.picture_bands.strong), chances)
        chances = self.text.probabilities(background.features(query, scores, best))
        return np.where(background.are_same(scores), np.maximum(chances, self.text_bands.strong), chances)


@lru_cache(maxsize=1)
def shipped_calibration() -> Calibration:
    """The calibration that comes with clipsearch, written by `scripts/evaluate_confidence.py --fit`."""
    body = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    return Calibration(
        _logistic(body["text"]),
        _logistic(body["picture"]),
        Bands(**body["text_bands"]),
        Bands(**body["picture_bands"]),
    )


def _logistic(body: dict[str, Any]) -> Logistic:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    return Logistic(**fields)
