"""`OnnxEncoder`: a model directory (see `layout`) run by onnxruntime. Never imports torch.

Each tower, and the tokenizer, is loaded when it is first used: a text query never reads the image tower.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from clipsearch.cores import available_cores
from clipsearch.encoder import BaseEncoder
from clipsearch.encoder.arrays import check_pixels, unit_rows
from clipsearch.encoder.bulk import (
    LEAST_GUARDED,
    PICTURES_PER_RUN,
    PICTURES_TO_COMPARE,
    Bulk,
    lanes_for,
)
from clipsearch.encoder.fingerprints import image_fingerprint, text_fingerprint
from clipsearch.encoder.kinds import LoadOptions, ModelInfo, ResolvedModel
from clipsearch.encoder.languages import LanguageGate, has_letters_read
from clipsearch.encoder.layout import TEXTUAL_MODEL, VISUAL_MODEL, ModelDirectory, read_model_directory
from clipsearch.encoder.prepared import prepare_text_tower, prepared_text_tower
from clipsearch.encoder.sessions import OnnxTower, filled
from clipsearch.encoder.texts import TextTokenizer, Tokens
from clipsearch.errors import ClipsearchError, InvalidModel, ModelNotFound, UnsupportedPrecision
from clipsearch.records import FloatArray, PixelArray, Preprocessing

if TYPE_CHECKING:
    from clipsearch.encoder.choices import Choice, Precision
    from clipsearch.encoder.dense import DenseTower
    from clipsearch.encoder.guard import Guard

BULK_PICTURES = 16  # so many at once are worth a tower that is made for many
TEXTS_PER_RUN = 32
MOST_TEXT_THREADS = 4  # one short text does not fill more
HASTY_CALLS = 2  # after so many, a text tower that was loaded in haste is loaded thoroughly
HASTY_TEXTS = 4  # at once, as two words have: encoding two took 12 ms, and 56 ms with loading the tower again before


def load(model: ResolvedModel, options: LoadOptions) -> OnnxEncoder:
    """See `kinds.EncoderModule`."""
    if model.directory is None:
        raise ModelNotFound(model.name, "it has no model directory")
    return OnnxEncoder(
        model.directory, threads=options.threads, name=model.name, precision=cast("Precision", options.precision)
    )


def describe(model: ResolvedModel, *, hashed: bool) -> ModelInfo:
    """See `kinds.EncoderModule`."""
    if model.directory is None:
        raise ModelNotFound(model.name, "it has no model directory")
    found = read_model_directory(model.directory)
    return ModelInfo(
        model.name,
        model.kind,
        available=True,
        dim=found.dim,
        picture_side=found.preprocessing.width if found.preprocessing else None,
        size_bytes=sum(file.stat().st_size for file in model.directory.rglob("*") if file.is_file()),
        directory=model.directory,
        preprocessing=found.preprocessing,
        fingerprint=image_fingerprint(found) if hashed else None,
        score_scale=found.score_scale,
        context_length=found.text.context_length,
        licence=found.licence,
        source=found.source,
    )


def list_models() -> list[ModelInfo]:
    """See `kinds.EncoderModule`: these models are known by their directories."""
    return []


class OnnxEncoder(BaseEncoder):
    """Encoder for a model directory.

    `threads` is the number of CPU threads a tower may use (None: what this process may use); `name` is what
    `--model` takes to load it again (default: the directory). `precision` is the arithmetic of the image tower:
    "fp32", "bf16" (the extra openvino), "int8" (the extra int8), or "auto": the fastest that agrees with fp32 on
    this machine (see `precision`). It is one arithmetic for all pictures, however many come at once, except with
    fixed scales: fewer than `LEAST_GUARDED`, and what `guard` finds unfit, are encoded in fp32 then.
    `in_precision` makes an encoder that shares this one's towers and has the arithmetic of an index.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        threads: int | None = None,
        name: str | None = None,
        precision: Precision = "auto",
        as_new: bool = False,
    ) -> None:
        """Read the small files. Raises: InvalidModel, UnsupportedPrecision.

        `as_new` encodes texts, however many at once, as a new process encodes its first, to the last bit.
        """
        if precision not in ("auto", "fp32", "bf16", "int8"):
            raise UnsupportedPrecision(name or str(directory), precision, ("auto", "fp32", "bf16", "int8"))
        self._model: ModelDirectory = read_model_directory(Path(directory))
        self._name = name if name is not None else str(self._model.path.absolute())
        self._threads = threads
        self._precision: Precision = precision
        self._as_new = as_new
        self._wanted: str | None = None  # for "auto": the precision that there are vectors of
        self._expected: int | None = None  # see `for_new_index`
        self._choice_key: object = None  # who else has the same choice
        self._texts = _TextParts()
        self._images = _ImageParts()

    @property
    def name(self) -> str:
        """The model name that loads this encoder again."""
        return self._name

    @property
    def directory(self) -> Path:
        """The model directory."""
        return self._model.path

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._model.dim

    @property
    def score_scale(self) -> float:
        """What a cosine is multiplied with before a softmax."""
        return self._model.score_scale

    @property
    def preprocessing(self) -> Preprocessing:
        """What a picture must go through before `encode_images`. Raises: InvalidModel without an image tower."""
        if self._model.preprocessing is None:
            raise self._no_image_tower()
        return self._model.preprocessing

    @property
    def fingerprint(self) -> str:
        """Hash of the image tower's weights and preprocessing. Raises: InvalidModel."""
        if self._images.fingerprint is None:
            self._images.fingerprint = image_fingerprint(self._model)
        return self._images.fingerprint

    @property
    def text_fingerprint(self) -> str:
        """Hash of the text tower and its tokenizer: equal means equal vectors of texts. Raises: InvalidModel."""
        return text_fingerprint(self._model)

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        """Return one vector per picture.

        Shapes: pixels (B, H, W, 3) uint8 RGB; result (B, D) float32, unit L2.
        Raises: ValueError for pixels of another kind; InvalidModel if the tower is missing, damaged, or
        returns what is no vector.
        """
        if not self._model.has_visual:
            raise self._no_image_tower()
        check_pixels(pixels, self.preprocessing)
        if len(pixels) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        return self._encode_images(self._chosen(pixels), pixels)

    @property
    def image_choice(self) -> Choice | None:
        """In which arithmetic, and by what, pictures are encoded; None before there were any."""
        choice = self._images.choices.get(self._choice_key)
        guard = None if choice is None else self._images.guards.get(choice.precision)
        if guard is None or not guard.has_given_up:
            return choice
        from clipsearch.encoder.choices import PLAIN

        return PLAIN

    @property
    def image_precision(self) -> str | None:
        """The arithmetic of the image tower, once it was chosen."""
        return self.image_choice.precision if self.image_choice is not None else None

    def in_precision(self, precision: str | None) -> OnnxEncoder:
        """This encoder, or one with the same towers that encodes pictures in `precision` where "auto" leaves it open.

        None is whatever is fastest here. What works neither here becomes fp32.
        """
        if self._precision != "auto" or precision == self._wanted:
            return self
        other = copy.copy(self)
        other._wanted = other._choice_key = precision
        other._expected = None
        return other

    def for_new_index(self, pictures: int) -> OnnxEncoder:
        """This encoder, or one with the same towers, whose "auto" is what suits so many, whatever others chose."""
        if self._precision != "auto":
            return self
        other = copy.copy(self)
        other._wanted, other._expected, other._choice_key = None, pictures, object()
        if pictures >= BULK_PICTURES and self._model.has_visual:
            Thread(target=other._load_ahead, args=(pictures,)).start()
        return other

    def _load_ahead(self, pictures: int) -> None:
        """Load what will most likely be chosen, while the first pictures are read."""
        from clipsearch.encoder.choices import is_static
        from clipsearch.encoder.precision import kept_choice

        with contextlib.suppress(ClipsearchError, OSError), self._images.lock:  # said when it is needed
            choice = kept_choice(self._model, _bulk_threads(self._threads), pictures)
            if choice is not None and (pictures >= LEAST_GUARDED or not is_static(choice.precision)):
                self._loaded(choice, pictures)

    @property
    def pictures_per_call(self) -> int:
        """How many pictures `encode_images` should be given at once, so that no core waits for another."""
        expected = (self._expected or 0) if self.image_choice is None else 0
        if expected >= PICTURES_TO_COMPARE:
            return PICTURES_TO_COMPARE
        if expected >= LEAST_GUARDED or self._is_to_be_guarded():
            return LEAST_GUARDED
        per_run = self.image_choice.per_run if self.image_choice is not None else PICTURES_PER_RUN
        return max(BULK_PICTURES, per_run * lanes_for(_bulk_threads(self._threads)))

    @property
    def image_tower_bytes(self) -> int:
        """Size of the files of the image tower."""
        folder = self._model.path / "visual"
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if self._model.has_visual else 0

    def as_new(self) -> OnnxEncoder:
        """An encoder of the same model that encodes every text as a new process encodes its first."""
        new = OnnxEncoder(self.directory, name=self._name, precision=self._precision, as_new=True)
        return new.in_precision(self._wanted)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text.

        Shape: (B, D) float32, unit L2. Texts too long are truncated, keeping their closing token.
        Raises: InvalidModel if the tower or tokenizer is missing, damaged, or returns what is no vector.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, not one string")
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        foreign = self._not_english(texts)
        if not foreign:
            return self._encode_english(texts)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        vectors[foreign] = self._other_languages().encode_texts([texts[index] for index in foreign])
        english = sorted(set(range(len(texts))) - set(foreign))
        if english:
            vectors[english] = self._encode_english([texts[index] for index in english])
        return vectors

    def _not_english(self, texts: Sequence[str]) -> list[int]:
        """Which texts the tower for other languages is to encode: none where there is no such tower."""
        gate = self._language_gate()
        return [] if gate is None else [index for index, text in enumerate(texts) if not gate.is_english(text)]

    def _language_gate(self) -> LanguageGate | None:
        """What tells English from other languages; None where there is no tower for these. Raises: InvalidModel."""
        with self._texts.lock:
            if self._texts.gate is None and (folder := self._model.multilingual) is not None:
                self._texts.gate = LanguageGate.read(folder)
            return self._texts.gate

    def _other_languages(self) -> OnnxEncoder:
        """The text tower for other languages, loaded when first needed. Raises: InvalidModel."""
        folder = self._model.multilingual
        with self._texts.lock:
            if self._texts.multilingual is None and folder is not None:
                other = OnnxEncoder(folder, threads=self._threads, name=self._name, as_new=self._as_new)
                if other.dim != self.dim or other.fingerprint != self.fingerprint:
                    raise InvalidModel(self._model.path, f"{folder.name} belongs to another image tower")
                self._texts.multilingual = other
        if self._texts.multilingual is None:
            raise InvalidModel(self._model.path, "it has no text tower for other languages")
        return self._texts.multilingual

    def _encode_english(self, texts: Sequence[str]) -> FloatArray:
        tower = self._text_tower()
        # Neighbours in length share a run: with a dynamic context, short texts are not padded to long ones.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        step = tower.fixed_batch or TEXTS_PER_RUN
        session = tower.session_for(len(texts))
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            raw = tower.run_texts(session, [texts[index] for index in chosen])
            vectors[chosen] = unit_rows(raw, len(chosen), self.dim, self._model.path, "text")
        return vectors

    def parts_read(self, texts: Sequence[str]) -> list[str | None]:
        """Of each text that is too long the part that is read, else None. Raises: InvalidModel."""
        foreign = set(self._not_english(texts))
        parts: list[str | None] = []
        for index, text in enumerate(texts):
            if text.isascii() and len(text) + 2 <= self._model.text.context_length and index not in foreign:
                parts.append(None)  # a token has a letter, at the least
            elif index in foreign:
                parts += self._other_languages()._parts_of_tower([text])
            else:
                parts += self._parts_of_tower([text])
        return parts

    def _parts_of_tower(self, texts: Sequence[str]) -> list[str | None]:
        return self._text_tower().parts_read(texts)

    def reads(self, text: str) -> bool:
        """Whether the model has tokens for anything in a text. Raises: InvalidModel."""
        if text.isascii():
            return any(map(str.isalnum, text))
        if self._not_english([text]):
            return self._other_languages()._text_tower().tokenizer.reads(text)
        if self._model.multilingual is not None and not has_letters_read(text):
            return False
        return self._text_tower().tokenizer.reads(text)

    def unread_words(self, text: str) -> list[str]:
        """The words and emoji of a text that the tower that reads it has no token for. Raises: InvalidModel."""
        if text.isascii():
            return []
        from clipsearch.encoder.languages import said_words

        words = said_words(text)
        if self._not_english([text]):
            tokenizer = self._other_languages()._text_tower().tokenizer
            return [word for word in words if not tokenizer.reads(word)]
        return [word for word in words if not self.reads(word)]

    def unknown_words(self, text: str) -> list[str]:
        """The words of an English text that are probably misspelt. Raises: InvalidModel."""
        if not text.isascii():
            return []
        from clipsearch.query.spelling import suspicious

        foreign = self._not_english([text])
        gate, tokenizer = self._texts.gate, self._text_tower().tokenizer
        if gate is not None and ((len(foreign) and len(text.split()) > 1) or gate.has_other_words(text)):
            return []
        return suspicious(text, tokenizer.knows, self.is_english_word if gate is not None else lambda _: True)

    def is_english_word(self, word: str) -> bool:
        """Whether a word, in lower case, is in the list of English words that came with the model, if one did."""
        gate = self._language_gate()
        return gate is not None and gate.is_english_word(word)

    def words(self) -> Sequence[str]:
        """The words that are one token each, the most frequent first. Raises: InvalidModel."""
        if self._texts.words is None:
            words = self._text_tower().tokenizer.words()
            if (gate := self._language_gate()) is not None:
                words = gate.english_among(words)  # without names
            self._texts.words = words
        return self._texts.words

    def text_lengths(self, texts: Sequence[str]) -> tuple[list[int], int]:
        """Return each text's number of tokens, uncut, and how many the text tower takes. Raises: InvalidModel."""
        return TextTokenizer(self._model).lengths(texts), self._model.text.context_length

    def prepare_texts(self) -> None:
        """Make later processes answer their first text sooner; see `prepared.prepare_text_tower`.

        Raises: InvalidModel, StorageError, OutOfSpace.
        """
        prepare_text_tower(self._model.path)
        if self._model.multilingual is not None:
            prepare_text_tower(self._model.multilingual)

    def dense_tower(self) -> DenseTower:
        """The image tower cut before its pooling, in fp32. Raises: NotDense if it cannot be; InvalidModel."""
        from clipsearch.encoder.dense import DenseTower

        if not self._model.has_visual:
            raise self._no_image_tower()
        with self._images.lock:
            if self._images.dense is None:
                self._images.dense = DenseTower(self._model, self.preprocessing, _bulk_threads(self._threads))
            return self._images.dense

    def _is_to_be_guarded(self) -> bool:
        """Whether the next pictures are the first that a tower with fixed scales may encode, if they are enough."""
        precision = self._wanted if self.image_choice is None else self.image_choice.precision
        if precision is None or precision in ("fp32", "bf16", "int8"):
            return False
        guard = self._images.guards.get(precision)
        return guard is None or not guard.has_begun

    def _encode_images(self, choice: Choice, pixels: PixelArray) -> FloatArray:
        """In what was chosen; with fixed scales, only what is watched by a guard (see `guard`), else in fp32."""
        from clipsearch.encoder.choices import FIXED, PLAIN, is_static

        def exact(pictures: PixelArray) -> FloatArray:
            return self._run(PLAIN, pictures)

        if not is_static(choice.precision):
            return self._run(choice, pixels)
        guard = self._guard(choice)
        if not guard.has_begun and len(pixels) < LEAST_GUARDED:
            return exact(pixels)
        is_first = not guard.has_begun
        compared = FIXED["bf16"] if "bf16" in choice.worked.split() else PLAIN
        vectors = guard.encode(
            pixels, lambda pictures: self._run(choice, pictures), exact, lambda pictures: self._run(compared, pictures)
        )
        if is_first and guard.has_given_up and self._expected is not None:
            with self._images.lock:  # a tower that was made of pictures of another kind: a large index makes its own
                self._images.choices[self._choice_key] = self._choose(pixels, reuse=False)
        return vectors

    def _guard(self, choice: Choice) -> Guard:
        from clipsearch.encoder.guard import Guard

        with self._images.lock:
            cosines = choice.mean_cosine or 1.0, choice.least_cosine or 1.0
            return self._images.guards.setdefault(choice.precision, Guard(*cosines))

    def _run(self, choice: Choice, pixels: PixelArray) -> FloatArray:
        with self._images.lock:
            bulk = self._loaded(choice, len(pixels))
        return bulk.encode(pixels, choice.per_run)

    def _chosen(self, pixels: PixelArray) -> Choice:
        """What encodes these pictures: chosen, and loaded, when first needed."""
        from clipsearch.encoder.choices import PLAIN, is_static

        images = self._images
        with images.lock:
            choice = images.choices.get(self._choice_key) or self._choose(pixels)
            if is_static(choice.precision) and len(pixels) < LEAST_GUARDED:
                images.choices[self._choice_key] = choice  # loaded when there are enough
                return choice
            try:
                self._loaded(choice, len(pixels))
            except ClipsearchError:
                if self._precision != "auto" or choice == PLAIN:
                    raise
                choice = PLAIN
                self._loaded(choice, len(pixels))
            images.choices[self._choice_key] = choice
            return choice

    def _choose(self, pixels: PixelArray, *, reuse: bool = True) -> Choice:
        from clipsearch.encoder import precision as precisions
        from clipsearch.encoder.choices import FIXED

        if self._precision != "auto":
            return FIXED[self._precision]
        threads = _bulk_threads(self._threads)
        return precisions.choose(self._model, pixels, threads, self._wanted, self._expected, reuse)

    def _loaded(self, choice: Choice, pictures: int) -> Bulk:
        """A tower for so many pictures at once. Raises: InvalidModel, MissingExtra, StorageError."""
        from clipsearch.encoder.precision import load_tower

        towers = self._images.towers.setdefault((choice.engine, choice.precision), _Towers())
        if towers.many is None and pictures >= BULK_PICTURES:
            towers.few = None  # rather than two copies of the weights
            threads = _bulk_threads(self._threads)
            tower = load_tower(self._model, choice, threads, lanes_for(threads), keep=True)
            towers.many = Bulk(self._model, tower, self.preprocessing, lanes_for(threads))
        if towers.many is not None:
            return towers.many
        if towers.few is None:
            tower = load_tower(self._model, choice, _bulk_threads(self._threads), 1, keep=True, few=True)
            towers.few = Bulk(self._model, tower, self.preprocessing, lanes=1)
        return towers.few

    def _text_tower(self) -> _TextTower:
        with self._texts.lock:
            if self._texts.tower is None:
                threads = _text_threads(self._threads)
                tokenizer = _TokenizerLoading(self._model)
                prepared = prepared_text_tower(self._model) if self._model.has_textual else None
                if prepared is not None:
                    try:
                        self._texts.tower = _TextTower(
                            self._model, tokenizer, threads, optimised=prepared, as_new=self._as_new
                        )
                    except InvalidModel:  # made by an onnxruntime that differs more than its version says
                        self._texts.tower = None
                if self._texts.tower is None:
                    self._texts.tower = _TextTower(self._model, tokenizer, threads, as_new=self._as_new)
            return self._texts.tower

    def _no_image_tower(self) -> InvalidModel:
        return InvalidModel(self._model.path, f"it has no image tower ({VISUAL_MODEL}) and can only encode texts")


@dataclass
class _TextParts:
    """What is loaded of the text tower, once for all encoders that share it."""

    lock: Lock = field(default_factory=Lock)
    tower: _TextTower | None = None
    gate: LanguageGate | None = None
    words: list[str] | None = None  # see `OnnxEncoder.words`
    multilingual: OnnxEncoder | None = None


@dataclass
class _Towers:
    """An image tower in one arithmetic: for a picture now and then, in one run with all threads, or for many, in runs
    side by side."""

    few: Bulk | None = None
    many: Bulk | None = None


@dataclass
class _ImageParts:
    """What is loaded of the image tower, once for all encoders that share it."""

    lock: Lock = field(default_factory=Lock)
    choices: dict[object, Choice] = field(default_factory=dict)  # by the precision that was wanted, or for one index
    towers: dict[tuple[str, str], _Towers] = field(default_factory=dict)  # by engine and precision
    guards: dict[str, Guard] = field(default_factory=dict)  # by the names of towers with fixed scales
    fingerprint: str | None = None
    dense: DenseTower | None = None


class _TokenizerLoading:
    """A tokenizer that another thread loads meanwhile.

    CLIP's takes 50 ms, onnxruntime and its session as long, and neither holds Python's lock.
    """

    def __init__(self, model: ModelDirectory) -> None:
        self._model = model
        self._loaded: TextTokenizer | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loaded = TextTokenizer(self._model)
        except BaseException as error:  # raised again where it is asked for
            self._error = error

    def get(self) -> TextTokenizer:
        """Wait for it. Raises: InvalidModel."""
        self._thread.join()
        if self._loaded is None:
            raise self._error or RuntimeError("no tokenizer was loaded")
        return self._loaded


class _TextTower(OnnxTower):
    """The text tower and its tokenizer."""

    def __init__(
        self,
        model: ModelDirectory,
        tokenizer: _TokenizerLoading,
        threads: int,
        *,
        optimised: Path | None = None,
        as_new: bool = False,
    ) -> None:
        super().__init__(model, TEXTUAL_MODEL, threads, hasty=True, optimised=optimised)
        self._tokenizer = tokenizer.get()
        self._as_new = as_new
        self._calls = 0
        self._hasty, self._thorough = self.session, None
        self._session_lock = Lock()
        self._length: int | None = None if model.text.dynamic_context else model.text.context_length
        length = self.inputs[0].shape[1] if len(self.inputs[0].shape) == 2 else None
        if isinstance(length, int) and length != model.text.context_length:
            self._length = length
            self._tokenizer.limit(length)

    def session_for(self, texts: int) -> Any:
        """What is to encode so many texts that come at once: loaded in haste, or thoroughly. Raises: InvalidModel."""
        with self._session_lock:
            self._calls += 1
            is_first = self._as_new or (self._thorough is None and self._calls <= HASTY_CALLS)
            if is_first and texts <= HASTY_TEXTS:
                return self._hasty
            if self._thorough is None:
                self._thorough = self.load(hasty=False)
                if not self._as_new:
                    self._hasty = self.session = self._thorough  # rather than two copies of the weights
            return self._thorough

    def run_texts(self, session: Any, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Shape of the result: (B, D), not normalised."""
        tokens = self._tokenizer.encode(texts, self._length)
        arrays = [filled(self._for_input(given.name, tokens), self.fixed_batch) for given in self.inputs]
        return self.run(*arrays, session=session)[: len(texts)]

    @property
    def tokenizer(self) -> TextTokenizer:
        """What cuts texts into tokens."""
        return self._tokenizer

    def parts_read(self, texts: Sequence[str]) -> list[str | None]:
        """See `OnnxEncoder.parts_read`."""
        return [self._tokenizer.part_read(text) for text in texts]

    def _for_input(self, name: str, tokens: Tokens) -> npt.NDArray[Any]:
        if len(self.inputs) > 1 and "mask" in name:
            return tokens.mask
        if len(self.inputs) > 1 and "type" in name:
            return np.zeros_like(tokens.ids)
        return tokens.ids


def _bulk_threads(asked: int | None) -> int:
    return max(1, asked) if asked is not None else available_cores()


def _text_threads(asked: int | None) -> int:
    return max(1, asked) if asked is not None else min(MOST_TEXT_THREADS, available_cores())
