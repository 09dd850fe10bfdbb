"""Makes the text tower for other languages: a head on the multilingual encoder.

The encoder gives a sentence and its translation nearly the same vector. The head takes that to the vector that the
English text tower makes of the sentence, so languages of which it saw no sentence are understood as well; translations
teach it where the encoder's vectors of two languages differ. It is learned on what the shipped graph computes, so what
the compression of the tokens takes away, it is used to.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto
from tokenizers import Tokenizer
from torch import Tensor, nn

from .graph import Array, Graph
from .heads import Ensemble
from .multilingual_backbone import BEGIN, END, UNKNOWN, WIDTH, MultilingualBackbone, TokenTable
from .quantisation import quantise
from .sentencepiece import Token, build_tokenizer, is_supported, read_tokens, write_tokenizer
from .training import contrastive_loss

FREQUENT, RARE = 11_000, 12_500  # tokens kept
BY_SCORE = 7_000  # of the frequent ones: the likeliest at all; the others are the commonest of the word lists
FREQUENT_PIECES, RARE_PIECES = 256, 128  # bytes a token
CONTEXT_LENGTH = 64
TEXTS_AT_ONCE = 64
PICTURES_AT_ONCE = 500
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that can be turned."""

    steps: int = 3000
    batch: int = 768
    hidden: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    drop_input: float = 0.1
    drop_hidden: float = 0.3
    imitation: float = 20.0  # weight of the cosine to the English tower's vector, beside the contrastive loss
    scale: float = 30.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the head learns from.

    Shapes: texts T, targets (T, D) what the head is to make of them, pictures (views, N, D), all unit L2, owners (T,)
    the picture that a text describes or -1, chances (T,) how likely a text is drawn.
    """

    texts: list[str]
    targets: Tensor
    pictures: Tensor
    owners: Tensor
    chances: Tensor


class MultilingualHead(nn.Module):
    """A linear map beside a perceptron, on standardised input."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, dim: int, recipe: Recipe) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.skip = nn.Linear(WIDTH, dim, bias=False)
        self.enter = nn.Linear(WIDTH, recipe.hidden)
        self.leave = nn.Linear(recipe.hidden, dim)
        self._recipe = recipe

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors. Shapes: x (B, 512), result (B, D)."""
        x = F.dropout((x - self.mean) / self.scale, self._recipe.drop_input, self.training)
        hidden = F.dropout(F.gelu(self.enter(x)), self._recipe.drop_hidden, self.training)
        return F.normalize((self.skip(x) + self.leave(hidden)).float(), dim=1)

    @torch.no_grad()
    def add_to(self, graph: Graph, x: str) -> str:
        """Add the head to a graph, the standardisation folded into its weights."""
        enter, skip = self.enter.weight / self.scale, self.skip.weight / self.scale
        hidden = graph.linear(x, _array(enter), _array(self.enter.bias - enter @ self.mean), "head_enter")
        leave = graph.linear(
            graph.gelu(hidden, "head_gelu"), _array(self.leave.weight), _array(self.leave.bias), "head_leave"
        )
        total = graph.node("Add", [leave, graph.linear(x, _array(skip), _array(-skip @ self.mean), "head_skip")])
        return graph.unit(total, "embedding")


def choose_tokens(tokens: Sequence[Token], tokenizer: Tokenizer, words: Sequence[str]) -> list[int]:
    """Return the ids of the tokens to keep, the frequent ones first.

    `tokenizer` of all tokens, `words`: everyday words of the languages, whose tokens are kept before others.
    """
    wanted = Counter(number for text in words for number in tokenizer.encode(text, add_special_tokens=False).ids)
    special = [UNKNOWN, BEGIN, END]
    usable = [
        number
        for number, token in enumerate(tokens)
        if number not in special and token.score < 0 and is_supported(token.text)
    ]
    allowed = set(usable)
    by_score = sorted(usable, key=lambda number: -tokens[number].score)
    by_words = [number for number, _ in wanted.most_common() if number in allowed]
    frequent = list(dict.fromkeys([*special, *by_score[:BY_SCORE], *by_words, *by_score]))[:FREQUENT]
    return list(dict.fromkeys([*frequent, *by_words, *by_score]))[: FREQUENT + RARE]


def compress(backbone: MultilingualBackbone, kept: Sequence[int]) -> TokenTable:
    """Return the vectors of the kept tokens in codes."""
    vectors = backbone.vectors(np.asarray(kept, np.int64)).astype(np.float32)
    mean = vectors.mean(axis=0)
    frequent = quantise(vectors[:FREQUENT] - mean, FREQUENT_PIECES)
    rare = quantise(vectors[FREQUENT:] - mean, RARE_PIECES)
    table = TokenTable(frequent, rare, mean)
    error = ((table.decode() - vectors) ** 2).mean() / ((vectors - mean) ** 2).mean()
    log.info("%d tokens, error of their vectors %.1f dB", len(kept), 10 * math.log10(error))
    return table


def make_multilingual(
    folder: Path,
    weights: Path,
    sentencepiece: Path,
    words: Sequence[str],
    lessons: Lessons,
    recipe: Recipe,
    workspace: Path,
) -> None:
    """Write the tower's graph and tokenizer into `folder`/textual."""
    backbone = MultilingualBackbone(weights)
    tokens = read_tokens(sentencepiece)
    whole = build_tokenizer(tokens, CONTEXT_LENGTH, BEGIN, END)
    kept = choose_tokens(tokens, whole, words)
    tokenizer = build_tokenizer([tokens[number] for number in kept], CONTEXT_LENGTH, BEGIN, END)
    table = compress(backbone, kept)

    graph = Graph("multilingual_features")
    features_file = workspace / "multilingual_backbone.onnx"
    _save(graph, backbone.add_to(graph, table, "text"), features_file)
    features = encode(features_file, tokenizer, lessons.texts, table.pad_id)
    log.info("features of %d texts", len(features))
    head = learn_head(torch.from_numpy(features), lessons, recipe)
    graph = Graph("multilingual")
    _save(graph, head.add_to(graph, backbone.add_to(graph, table, "text")), folder / "textual" / "model.onnx")
    write_tokenizer(tokenizer, folder / "textual", CONTEXT_LENGTH)


def write_config(folder: Path, dim: int, image_fingerprint: str, score_scale: float) -> None:
    """Write the configuration of a text-only model directory that belongs to an image tower."""
    config = {
        "embed_dim": dim,
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "tokenizer_kwargs": {"clean": "whitespace"},
            "backbone": "universal-sentence-encoder-multilingual",
        },
        "clipsearch": {
            "image_fingerprint": image_fingerprint,
            "score_scale": score_scale,
            "dynamic_context": True,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def encode(model: Path, tokenizer: Tokenizer, texts: Sequence[str], pad_id: int) -> Array:
    """Return what a graph makes of texts, (N, D)."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    found: npt.NDArray[np.float32] | None = None
    for start in range(0, len(order), TEXTS_AT_ONCE):
        chosen = order[start : start + TEXTS_AT_ONCE]
        ids = np.full((len(chosen), len(rows[chosen[-1]])), pad_id, np.int32)
        for place, row in enumerate(chosen):
            ids[place, : len(rows[row])] = rows[row]
        [vectors] = session.run(None, {"text": ids})
        if found is None:
            found = np.empty((len(rows), vectors.shape[1]), np.float32)
        found[chosen] = vectors
    return np.empty((0, 0), np.float32) if found is None else found


def learn_head(features: Tensor, lessons: Lessons, recipe: Recipe) -> MultilingualHead:
    """Return a head that imitates the English tower and tells the pictures apart."""
    torch.manual_seed(recipe.seed)
    mean = features.mean(dim=0)
    scale = (features - mean).pow(2).mean().sqrt()
    head = MultilingualHead(mean, scale, lessons.targets.shape[1], recipe)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1, cycle_momentum=False
    )
    log_scale = torch.tensor(recipe.scale)
    for step in range(recipe.steps):
        rows = torch.multinomial(lessons.chances, recipe.batch, replacement=True)
        with torch.autocast("cpu", torch.bfloat16):
            vectors = head(features[rows])
        imitation = 1 - (vectors * lessons.targets[rows]).sum(dim=1).mean()
        describing = (lessons.owners[rows] >= 0).nonzero().squeeze(1)
        pictures = lessons.owners[rows[describing]]
        views = torch.randint(lessons.pictures.shape[0], (len(pictures),))
        contrast = contrastive_loss(lessons.pictures[views, pictures].float(), vectors[describing], pictures, log_scale)
        loss = recipe.imitation * imitation + contrast
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            log.info("step %d of %d, %.3f away, contrast %.3f", step, recipe.steps, imitation.item(), contrast.item())
    return head.eval()


def encode_pictures(heads: Ensemble, features: Tensor, workspace: Path) -> Tensor:
    """Return the pictures' vectors as the shipped heads make them.

    Shapes: features (views, N, 1280), result (views, N, D).
    """
    graph = Graph("image_heads")
    path = workspace / "image_heads.onnx"
    embedding = heads.add_image_to(graph, "features")
    graph.save(path, {"features": (TensorProto.FLOAT, ["batch", features.shape[2]])}, {embedding: ["batch", WIDTH]})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    views = [
        np.concatenate(
            [session.run(None, {"features": part.float().numpy()})[0] for part in view.split(PICTURES_AT_ONCE)]
        )
        for view in features
    ]
    return torch.from_numpy(np.stack(views))


def _save(graph: Graph, output: str, path: Path) -> None:
    graph.save(path, {"text": (TensorProto.INT32, ["batch", "context"])}, {output: ["batch", WIDTH]})


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().contiguous().numpy()
    return array
