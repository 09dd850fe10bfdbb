"""`Captioner`: writes captions, and says how likely a text is as the caption of a picture, by CoCa's text decoder.

open_clip's own `generate` needs another large package for every way of choosing a token. Taking the likeliest one each
time needs none: these are its `forward` passes, over what the image tower has seen once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.encoder.arrays import check_pixels
from clipsearch.records import FloatArray, PixelArray, Preprocessing

if TYPE_CHECKING:
    import torch

LONGEST = 30  # tokens of a caption, with those for its start and end: as open_clip's own
LEAST = 4  # words and parts of words
_AT_ONCE = {"cuda": 64}  # pictures in one pass
_FEWER = 8


class Captioner:
    """Writes captions with a CoCa model. `normalised` takes pixels (B, H, W, 3) uint8 on the device to what the image
    tower takes, `arithmetic` makes the context in which that runs."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        device: torch.device,
        normalised: Callable[[torch.Tensor], torch.Tensor],
        arithmetic: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._device = device
        self._normalised = normalised
        self._arithmetic = arithmetic
        self.pictures_per_call = _AT_ONCE.get(device.type, _FEWER)
        """How many pictures `captions` should be given at once."""

    def captions(self, pixels: PixelArray) -> list[tuple[str, float]]:
        """A caption of each picture, and how sure the model was of its words, 0 to 1 (their geometric mean).

        Shape: (B, H, W, 3) uint8 RGB, as for `encode_images`. The same pictures have the same captions.
        """
        return [caption for seen in self._seen(pixels) for caption in self._written(*seen)]

    def likelihoods(self, pixels: PixelArray, text: str) -> FloatArray:
        """The mean logarithm of the probability of a text's tokens as the caption of each picture. Shape: (B,) float32.

        A text that is too long for the model is cut.
        """
        import torch

        ids = self._tokenizer([text])[0]
        length = int((ids == self._tokenizer.eot_token_id).int().argmax()) + 1  # what follows only fills up
        found = [np.empty(0, np.float32)]
        for latent, features in self._seen(pixels):
            given = ids[:length].to(self._device).expand(len(features), -1)
            with torch.inference_mode(), self._arithmetic():
                logits = self._logits(latent, features, given)[:, :-1]
            sure = logits.float().log_softmax(-1).gather(-1, given[:, 1:, None])
            found.append(sure.mean(dim=(1, 2)).cpu().numpy())
        return np.concatenate(found)

    def _seen(self, pixels: PixelArray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What the image tower sees in some pictures at a time: a vector of each, and what the decoder attends to."""
        import torch

        check_pixels(pixels, self._preprocessing)
        self._model.eval()
        for start in range(0, len(pixels), self.pictures_per_call):
            part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + self.pictures_per_call]))
            with torch.inference_mode(), self._arithmetic():
                latent, features = self._model._encode_image(self._normalised(part.to(self._device)))
            yield latent, features

    def _logits(self, latent: torch.Tensor, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """What follows each token. Shapes: ids (B, L); result (B, L, V)."""
        found: torch.Tensor = self._model(None, ids, image_latent=latent, image_embs=features, output_labels=False)[
            "logits"
        ]
        return found

    def _written(self, latent: torch.Tensor, features: torch.Tensor) -> list[tuple[str, float]]:
        import torch

        start, end, pad = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, self._model.pad_id
        count = len(features)
        ids = torch.full((count, 1), start, dtype=torch.long, device=self._device)
        sure = torch.zeros(count, device=self._device)
        has_ended = torch.zeros(count, dtype=torch.bool, device=self._device)
        for length in range(1, min(LONGEST, self._tokenizer.context_length)):
            with torch.inference_mode(), self._arithmetic():
                logits = self._logits(latent, features, ids)[:, -1].float()
            logits = logits.log_softmax(-1)
            logits[:, [start, pad, *([end] if length <= LEAST else [])]] = -torch.inf
            best, chosen = logits.max(-1)
            sure = sure + best.masked_fill(has_ended, 0)
            ids = torch.cat([ids, chosen.masked_fill(has_ended, pad)[:, None]], dim=1)
            has_ended = has_ended | (chosen == end)
            if bool(has_ended.all()):
                break
        special = {start, end, pad}
        chosen_ids = [[token for token in row if token not in special] for row in ids[:, 1:].tolist()]
        lengths = (ids[:, 1:] != pad).sum(dim=1)
        mean = (sure / lengths).exp().tolist()
        return [(self._text_of(row), score) for row, score in zip(chosen_ids, mean, strict=True)]

    def _text_of(self, ids: Sequence[int]) -> str:
        """Tokens as a line of text, without what is not printed."""
        said = self._tokenizer.decode(ids).replace("\N{REPLACEMENT CHARACTER}", "")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in said).split())
