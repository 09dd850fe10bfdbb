"""Encoders: pictures and texts to unit vectors in one space.

`Encoder` is the contract, and `BaseEncoder` its optional parts for encoders that have nothing to say of them.
`onnx.OnnxEncoder` is the default, `openclip.OpenClipEncoder` the one for GPUs and for training; `kinds` lists them.
None knows files, folders or indexes: pixels come in, vectors go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clipsearch.errors import InvalidArgument, MissingFeature
from clipsearch.query.arguments import shown
from clipsearch.records import FloatArray, PixelArray, Preprocessing

PICTURES_PER_CALL = 32
KNOWN_TO_CAPTION = "open_clip:coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k"
"""A published model that can: named where one cannot, and never fetched unless the user names it."""


class Encoder(Protocol):
    """Two towers into one space. The only place that normalises vectors."""

    @property
    def name(self) -> str:
        """The model name that loads this encoder again (what `--model` takes)."""
        ...

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the image tower's weights and preprocessing: equal means stored vectors are comparable."""
        ...

    @property
    def score_scale(self) -> float:
        """What a cosine is multiplied with before a softmax (the trained exp(logit_scale))."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What `images.prepare` must do to a picture before `encode_images`."""
        ...

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        """Return one vector per picture.

        Shapes: pixels (B, H, W, 3) uint8 RGB, prepared by `preprocessing`, not yet scaled or
        mean-subtracted; result (B, D) float32, unit L2.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text. Shape: (B, D) float32, unit L2. Texts too long are truncated."""
        ...

    # What follows is optional: `BaseEncoder` has it.

    @property
    def text_fingerprint(self) -> str | None:
        """Hash of the text tower: equal means equal vectors of texts, so that they can be kept. None: not known."""
        ...

    @property
    def pictures_per_call(self) -> int:
        """How many pictures `encode_images` should be given at once. It may learn that from its first call."""
        ...

    @property
    def is_on_gpu(self) -> bool:
        """Whether pictures are encoded on a GPU, so that all cores can read pictures."""
        ...

    @property
    def image_precision(self) -> str | None:
        """In which arithmetic pictures are encoded. None: not known (yet)."""
        ...

    def in_precision(self, precision: str | None) -> Encoder:
        """This encoder, or one that shares its towers and encodes pictures in the arithmetic of vectors that there are.

        That is `precision`, if the user left it open and it can be had. None: it is not known.
        """
        ...

    def for_new_index(self, pictures: int) -> Encoder:
        """This encoder, or one that shares its towers and chooses the arithmetic of an index of so many pictures."""
        ...

    @property
    def image_tower_bytes(self) -> int:
        """Size of what the first picture loads; 0 where that is in memory already."""
        ...

    def text_lengths(self, texts: Sequence[str]) -> tuple[list[int], int] | None:
        """Return each text's number of tokens, uncut, and how many the text tower takes. None: not known."""
        ...

    def parts_read(self, texts: Sequence[str]) -> list[str | None]:
        """Of each text that is too long for the model the part that is read, else None."""
        ...

    def reads(self, text: str) -> bool:
        """Whether the model has tokens for anything in a text. Where that is not known, it has."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """The words of an English text that are probably misspelt: the model does not know them."""
        ...

    def unread_words(self, text: str) -> list[str]:
        """The words and emoji of a text that the model has no token for, which it skips or takes for any others."""
        ...

    def is_english_word(self, word: str) -> bool:
        """Whether a word, in lower case, is known to be English. False where that is not known."""
        ...

    def words(self) -> Sequence[str]:
        """The words that the model knows whole, the most frequent first, as far as its tokenizer says that."""
        ...

    def prepare_texts(self) -> None:
        """Make later processes answer their first text sooner, if that is possible."""
        ...

    def as_new(self) -> Encoder:
        """An encoder that gives the vectors of texts that a new process gives, to the last bit."""
        ...

    def dense_tower(self) -> PlacesTower | None:
        """The image tower in two parts, where it can tell places of a picture apart. None: it cannot.

        Raises: NotDense, which means the same.
        """
        ...

    def captioner(self) -> CaptionWriter | None:
        """What writes captions with this model. None: it cannot."""
        ...


class PlacesTower(Protocol):
    """An image tower that tells what is where in a picture; see `dense.DenseTower`."""

    def features(self, pixels: PixelArray) -> FloatArray:
        """What it sees at each place. Shapes: pixels (H, W, 3) uint8, of any size; result (h, w, C)."""
        ...

    def vectors(self, features: FloatArray) -> FloatArray:
        """Features as vectors of pictures. Shapes: (N, C); result (N, D), unit L2."""
        ...


class CaptionWriter(Protocol):
    """A model that describes pictures; see `captions.Captioner`, which says what the methods do."""

    pictures_per_call: int

    def captions(self, pixels: PixelArray) -> list[tuple[str, float]]: ...
    def likelihoods(self, pixels: PixelArray, text: str) -> FloatArray: ...


def captioner_of(encoder: Encoder) -> CaptionWriter:
    """What writes captions with a model. Raises: MissingFeature for one that cannot."""
    found = encoder.captioner()
    if found is None:
        raise MissingFeature(
            f"the model {encoder.name} cannot write captions",
            f"Name one that can, such as: --model {KNOWN_TO_CAPTION}",
        )
    return found


def check_encoder(value: object) -> None:
    """Raise for what has not the methods of an encoder. Raises: InvalidArgument."""
    if not {"encode_images", "encode_texts", "fingerprint", "in_precision"} <= set(dir(value)):
        raise InvalidArgument("encoder", shown(value), "an encoder, as clipsearch.load_encoder returns it")


class BaseEncoder:
    """The optional parts of an `Encoder`, for one that has nothing to say of them."""

    @property
    def text_fingerprint(self) -> str | None:
        return None

    @property
    def pictures_per_call(self) -> int:
        return PICTURES_PER_CALL

    @property
    def is_on_gpu(self) -> bool:
        return False

    @property
    def image_precision(self) -> str | None:
        return None

    def in_precision(self: Encoder, precision: str | None) -> Encoder:
        return self

    def for_new_index(self: Encoder, pictures: int) -> Encoder:
        return self

    @property
    def image_tower_bytes(self) -> int:
        return 0

    def text_lengths(self, texts: Sequence[str]) -> tuple[list[int], int] | None:
        return None

    def parts_read(self, texts: Sequence[str]) -> list[str | None]:
        return [None] * len(texts)

    def reads(self, text: str) -> bool:
        return True

    def unknown_words(self, text: str) -> list[str]:
        return []

    def unread_words(self, text: str) -> list[str]:
        return []

    def is_english_word(self, word: str) -> bool:
        return False

    def words(self) -> Sequence[str]:
        return []

    def prepare_texts(self) -> None:
        pass

    def as_new(self: Encoder) -> Encoder:
        return self

    def dense_tower(self) -> PlacesTower | None:
        return None

    def captioner(self) -> CaptionWriter | None:
        return None
