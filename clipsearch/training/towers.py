"""The methods that train an open_clip model's own towers: `lora`, `full` and `locked-image`."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.cores import available_cores
from clipsearch.encoder.export import export
from clipsearch.encoder.layout import OPEN_CLIP_CONFIG, preprocess_cfg
from clipsearch.encoder.openclip import PREPROCESS_KEY, OpenClipEncoder, set_batch_first
from clipsearch.errors import UnreadablePicture
from clipsearch.evaluation.recall import Metrics, evaluate
from clipsearch.pairs.reading import PairSet
from clipsearch.records import FloatArray, IntArray, PixelArray
from clipsearch.training import distributed
from clipsearch.training.captions import TEXTS_AT_ONCE, Captions
from clipsearch.training.checkpoints import write_atomically
from clipsearch.training.compiling import Towers, compiled
from clipsearch.training.freezing import LAYER, STEM, frozen_by, plain_name
from clipsearch.training.grad_cache import Loaded, Part, Vectors
from clipsearch.training.heads import SIGLIP_BIAS
from clipsearch.training.lora import LoraReport, add_lora, merge_lora, set_strength
from clipsearch.training.methods import Counts, Work
from clipsearch.training.mining import Neighbourhood
from clipsearch.training.mirroring import may_be_mirrored, mirroring_notice
from clipsearch.training.mixing import make_order
from clipsearch.training.order import Draw
from clipsearch.training.run_folder import WEIGHTS
from clipsearch.training.sameness import check_variety, same_pictures
from clipsearch.training.settings import (
    DEFAULTS,
    SEE_WHY,
    InvalidSettings,
    LoraTarget,
    NothingToLearn,
    Objective,
    Settings,
)
from clipsearch.training.swapping import choice_of, swapped, usable
from clipsearch.training.views import WHOLE, view_of
from clipsearch.training.world import World

PICTURES_AT_ONCE = 64
LARGEST_KEPT_BYTES = 512 << 20  # of the pixels of a set that is measured
MICRO_BATCHES = {"cuda": 128, "mps": 32, "cpu": 32}  # pairs in memory at once, if nobody says otherwise
LEARNING_RATES = {"lora": 5e-4, "locked-image": 1e-5, "full": 1e-5}


class TowersTrainee:
    """An open_clip model, parts of which are trained."""

    def __init__(
        self,
        encoder: OpenClipEncoder,
        settings: Settings,
        train: PairSet,
        sets: dict[str, PairSet],
        world: World | None = None,
        weights: FloatArray | None = None,
        before: TowersTrainee | None = None,
    ) -> None:
        """`weights`: how often an epoch shows each pair of `train` (see `Order`).

        `before`: a trainee of the same encoder and settings, which is not used any more: its towers are taken over with
        the weights that it began with, and what it has read of the sets that are the same.
        """
        self._encoder = encoder
        self._settings = settings
        self._world = world or World()
        self.device = torch.device(encoder.device)
        self.micro_batch: int | None = MICRO_BATCHES.get(self.device.type, 32)
        self.usual_rate = LEARNING_RATES[settings.method]
        self.learning_rate = self.usual_rate if settings.learning_rate is None else settings.learning_rate
        self.lora: LoraReport | None = None
        self._compiled: Towers | None = None
        if before is None:
            self._copy_towers()
        else:
            self._take_towers(before)
        self._end: dict[str, Tensor] | None = None
        self.log_scale = nn.Parameter(self.model.logit_scale.detach().float().reshape(()).clone())
        self.bias: nn.Parameter | None = None
        own = getattr(self.model, "logit_bias", None)
        self.objective: Objective = settings.objective or ("clip" if own is None else "siglip")
        if self.objective == "siglip":
            start = SIGLIP_BIAS if own is None else float(own.detach().reshape(-1)[0])
            self.bias = nn.Parameter(torch.tensor(start, device=self.device))
        self._train, self._sets = train, sets
        self.mirror = may_be_mirrored(train, settings.mirror)
        self._captions = Captions(train, encoder.tokenizer)
        self._same_pictures = same_pictures(train)
        check_variety(train, self._same_pictures, self._captions.same.numpy())
        self._set_captions = {name: Captions(pairs, encoder.tokenizer) for name, pairs in sets.items()}
        self._pixels: dict[tuple[str, int], list[tuple[list[int], PixelArray]]] = {}
        self._readable: dict[str, IntArray] = {}
        self._locked_images: dict[str, FloatArray] = {}
        self._same_in_sets: dict[str, IntArray] = {}
        self._ahead: dict[bytes, list[Future[PixelArray | None]]] = {}
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
        if before is not None:
            self._take_sets(before)
        size = self._world.size
        self.order = make_order(self._captions.first, weights, settings, size)
        self.unreadable: set[int] = set()

    def _copy_towers(self) -> None:
        self.model: Any = copy.deepcopy(self._encoder.model).float()
        set_batch_first(self.model, True)
        if self._settings.checkpoint_layers:
            self.model.set_grad_checkpointing(True)
        torch.manual_seed(self._settings.seed)
        self._choose_trained(self._settings)
        for name in ("logit_scale", "logit_bias"):
            if isinstance(parameter := getattr(self.model, name, None), nn.Parameter):
                parameter.requires_grad_(False)  # the loop has its own
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self._start = {name: value.detach().clone() for name, value in self.trained.items()}

    def _take_towers(self, before: TowersTrainee) -> None:
        self.model, self.lora, self._compiled = before.model, before.lora, before._compiled
        self.trained, self._start = before.trained, before._start
        self.model.zero_grad(set_to_none=True)
        if self.lora is not None:
            set_strength(self.model, 1.0)
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(self._start[name])

    def _take_sets(self, before: TowersTrainee) -> None:
        same = {name for name, pairs in self._sets.items() if before._sets.get(name) is pairs}
        self._pixels |= {key: found for key, found in before._pixels.items() if key[0] in same}
        self._readable |= {name: found for name, found in before._readable.items() if name in same}
        self._locked_images |= {name: found for name, found in before._locked_images.items() if name in same}
        self._same_in_sets |= {name: found for name, found in before._same_in_sets.items() if name in same}

    def _choose_trained(self, settings: Settings) -> None:
        frozen = frozen_by([name for name, _ in self.model.named_parameters()], settings.freeze, settings.freeze_layers)
        if settings.method == "lora":
            alpha = 2.0 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha
            targets = cast(tuple[LoraTarget, ...], settings.lora_targets)
            self.lora = add_lora(self.model, settings.lora_rank, alpha, targets, frozen)
        else:
            for name, value in self.model.named_parameters():
                value.requires_grad_(not frozen(name))
            if settings.method == "locked-image":
                self.model.visual.requires_grad_(False)
        if not any(value.requires_grad for value in self.model.parameters()):
            raise InvalidSettings("everything is frozen, so nothing can be trained", "Freeze less")

    def groups(self, settings: Settings) -> list[tuple[float, dict[str, nn.Parameter]]]:
        """Parameters by how far their layer is from the output, for layer-wise decay of the learning rate."""
        distances = layer_distances(list(self.trained))
        groups: dict[int, dict[str, nn.Parameter]] = {}
        for name, value in self.trained.items():
            groups.setdefault(distances[name], {})[name] = value
        return [(settings.layer_decay**distance, groups[distance]) for distance in sorted(groups)]

    def buffers(self) -> dict[str, Tensor]:
        """None: statistics of batch normalisation stay as they were trained (see `set_training`)."""
        return {}

    def load(self, draw: Draw) -> Loaded:
        """Pixels (B, H, W, 3) uint8, and tokens (B, L). A picture that cannot be read is replaced by the next one."""
        futures = self._ahead.pop(_key(draw), None) or self._decode(draw)
        pixels, known = [], len(self.unreadable)
        for place, future in enumerate(futures):
            found, number = future.result(), int(draw.pictures[place])
            while found is None:
                self.unreadable.add(number)
                number = (number + 1) % len(self._train)
                if len(self.unreadable) >= len(self._train):
                    raise NothingToLearn("no picture can be read", SEE_WHY)
                found = self._view(number, int(draw.seeds[place]))
                draw.pictures[place] = number
                draw.captions[place] = self._captions.first[number]
            pixels.append(found)
        if len(self.unreadable) > known:
            self._check_readable()
        rows = self._captions.rows[draw.captions]
        host = torch.from_numpy(np.stack(pixels))
        if self.device.type == "cuda":
            host = host.pin_memory()
        loaded = Loaded(
            host.to(self.device, non_blocking=True),
            self._captions.tokens(rows).to(self.device, non_blocking=True),
            torch.from_numpy(self._same_pictures[draw.pictures]).to(self.device),
            self._captions.same[torch.from_numpy(rows)].to(self.device),
        )
        if not self._settings.swaps_captions:
            return loaded
        wrong, counts = self._wrong_captions(draw)
        return loaded._replace(wrong=wrong.to(self.device), counts=counts.to(self.device))

    def _check_readable(self) -> None:
        """Raise NothingToLearn if the pictures that can be read, as far as is known, teach nothing.

        Of several processes each knows of its own share only, and one alone must not end.
        """
        if self._world.size > 1:
            return
        left = np.ones(len(self._train), dtype=bool)
        left[list(self.unreadable)] = False
        pictures = self._same_pictures[left]
        captions = self._captions.same.numpy()[self._captions.rows[left[self._captions.owners]]]
        if (pictures != pictures[0]).any() and (captions != captions[0]).any():
            return
        try:
            check_variety(self._train.subset(np.flatnonzero(left).tolist()), pictures, captions)
        except NothingToLearn as error:
            unread = f"{len(self.unreadable):,} of {len(self._train):,} training pictures cannot be read"
            raise NothingToLearn(f"{unread}, and without them {error.problem}", SEE_WHY) from None

    def _wrong_captions(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Tokens of a wrong caption for each that is drawn, and 1 where there is one. Shapes: (B, L), (B,)."""
        places = (draw.captions - self._captions.first[draw.pictures]).tolist()
        own = [
            self._train[number].captions[place] for number, place in zip(draw.pictures.tolist(), places, strict=True)
        ]
        variants = usable([swapped(caption) for caption in own], self._captions.reading_of, self._captions)
        chosen = choice_of(draw.seeds, np.array([max(1, len(texts)) for texts in variants]))
        texts = [
            found[one] if found else own[row] for row, (found, one) in enumerate(zip(variants, chosen, strict=True))
        ]
        counts = torch.tensor([float(bool(found)) for found in variants])
        return self._captions.tokenize(texts), counts

    def look_ahead(self, draws: list[Draw]) -> None:
        """Begin to decode the pictures of steps to come."""
        wanted = {_key(draw): draw for draw in draws}
        for key in [key for key in self._ahead if key not in wanted]:
            del self._ahead[key]
        for key, draw in wanted.items():
            if key not in self._ahead:
                self._ahead[key] = self._decode(draw)

    def _decode(self, draw: Draw) -> list[Future[PixelArray | None]]:
        places = zip(draw.pictures.tolist(), draw.seeds.tolist(), strict=True)
        return [self._pool.submit(self._view, number, seed) for number, seed in places]

    def _view(self, number: int, seed: int) -> PixelArray | None:
        try:
            return view_of(
                self._train[number],
                seed % self._settings.views,
                seed,
                self._encoder.preprocessing,
                mirror=bool(self.mirror[number]),
                augmentation=self._settings.augmentation,
            )
        except UnreadablePicture:
            return None

    def encode(self, part: Part) -> Vectors:
        """Unit vectors of a part, in float32."""
        if part.wrong is None:
            return self._image_vectors(part.images), self._text_vectors(part.texts)
        texts = self._text_vectors(torch.cat([part.texts, part.wrong]))
        return self._image_vectors(part.images), texts[: len(part.texts)], texts[len(part.texts) :]

    def _image_vectors(self, pixels: Tensor) -> Tensor:
        if len(pixels) == 0:
            return torch.empty((0, self._encoder.dim))
        side = self._encoder.preprocessing
        mean = torch.tensor(side.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(side.std, device=self.device).view(1, 3, 1, 1)
        scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        # A locked tower needs no graph to go back through.
        graph = torch.no_grad() if self._settings.method == "locked-image" else contextlib.nullcontext()
        with graph, self._autocast():
            features = self._towers.image(scaled)
        return F.normalize(features.float(), dim=1)

    def _text_vectors(self, tokens: Tensor) -> Tensor:
        with self._autocast():
            features = self._towers.text(tokens)
        return F.normalize(features.float(), dim=1)

    @property
    def _towers(self) -> Towers:
        """What is measured is never compiled: it is to be what will be written."""
        plain = Towers(self.model.encode_image, self.model.encode_text)
        return self._compiled if self._compiled is not None and self.model.training else plain

    def compile(self, notice: Callable[[str], None]) -> None:
        """Compile the towers, or say that it fails."""
        plain = Towers(self.model.encode_image, self.model.encode_text)
        side = self._encoder.preprocessing
        count = min(self._settings.micro_batch or self.micro_batch or self.order.batch, self.order.batch)
        pixels = torch.zeros((count, side.height, side.width, 3), dtype=torch.uint8, device=self.device)
        tokens = self._captions.tokens(np.arange(count) % self._captions.count).to(self.device)

        def attempt(made: Towers) -> None:
            self._compiled = made
            both = self._image_vectors(pixels), self._text_vectors(tokens)
            sum(vectors.sum() for vectors in both if vectors.requires_grad).backward()  # type: ignore[union-attr]

        self.set_training(True)
        try:
            self._compiled = compiled(plain, attempt, notice)
        finally:
            self.model.zero_grad(set_to_none=True)
            self.set_training(False)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if not torch.is_grad_enabled() and not self.model.training:
            return contextlib.nullcontext()  # what is measured is what will be written and searched with: fp32
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._settings.precision)
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def penalty(self, seed: int) -> Tensor | None:
        """None: what towers forget is weighed afterwards (see `interpolation`)."""
        return None

    def set_training(self, training: bool) -> None:
        """Dropout on or off. Batch normalisation keeps the statistics of the pretraining.

        Those of small batches are worse, and with them the parts of a cached batch would not be the whole.
        """
        self.model.train(training)
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        if self._settings.method == "locked-image":
            self.model.visual.eval()

    def set_strength(self, strength: float) -> None:
        """Interpolate the weights between the base model's, 0, and the trained ones, 1."""
        if self.lora is not None:
            set_strength(self.model, strength)
            return
        if self._end is None:
            self._end = {name: value.detach().clone() for name, value in self.trained.items()}
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(torch.lerp(self._start[name], self._end[name], strength))

    def readable(self, name: str) -> IntArray:
        """Which pairs of a set have a picture that can be read, once it was measured."""
        return self._readable[name]

    def measure(self, name: str) -> Metrics:
        """Retrieval on one of the sets. All processes must ask together: each encodes its share."""
        images, texts = self._vectors(name, self._world)
        captions, readable = self._set_captions[name], self._readable[name]
        if len(readable) == 0:
            raise InvalidSettings(f"none of the {name} pictures can be read", SEE_WHY)
        chosen = np.isin(captions.owners, readable)
        owners = np.searchsorted(readable, captions.owners[chosen])
        if name not in self._same_in_sets:
            self._same_in_sets[name] = same_pictures(self._sets[name])
        return evaluate(images, texts[captions.rows[chosen]], owners, self._same_in_sets[name][readable])

    @torch.no_grad()
    def neighbourhood(self) -> Neighbourhood:
        """By captions, the first of each picture: all pictures would have to be read once more."""
        self.set_training(False)
        first = self._captions.rows[self._captions.first[:-1]]
        numbers, places = np.unique(first, return_inverse=True)
        vectors = self._caption_vectors(self._captions, numbers, self._world)[places]
        return Neighbourhood(vectors, self._same_pictures, self._captions.same.numpy()[first])

    def vectors(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Vectors of all readable pictures and of all different captions of a set, from this process alone."""
        return self._vectors(name, World())

    @torch.no_grad()
    def _vectors(self, name: str, world: World) -> tuple[FloatArray, FloatArray]:
        self.set_training(False)
        captions = self._set_captions[name]
        texts = self._caption_vectors(captions, np.arange(captions.count), world)
        if name not in self._locked_images:
            images = self._set_images(name, world)
            if self._settings.method == "locked-image":
                self._locked_images[name] = images
        else:
            images = self._locked_images[name]
        return images, texts

    def _caption_vectors(self, captions: Captions, numbers: IntArray, world: World) -> FloatArray:
        """Of some texts, shared out among the processes. Shapes: (T,), (T, D)."""
        starts = range(world.rank * TEXTS_AT_ONCE, len(numbers), world.size * TEXTS_AT_ONCE)
        found = [
            self._text_vectors(captions.tokens(numbers[start : start + TEXTS_AT_ONCE]).to(self.device)).cpu().numpy()
            for start in starts
        ]
        return np.concatenate(distributed.gather_shares(found) if world.size > 1 else found)

    def _set_images(self, name: str, world: World) -> FloatArray:
        own = [
            (numbers, self._image_vectors(torch.from_numpy(pixels).to(self.device)).cpu().numpy())
            for numbers, pixels in self._set_pixels(name, world)
        ]
        groups = distributed.gather_shares(own) if world.size > 1 else own
        self._readable[name] = np.array([number for numbers, _ in groups for number in numbers], dtype=np.int64)
        return np.concatenate([np.empty((0, self._encoder.dim), np.float32), *(vectors for _, vectors in groups)])

    def _set_pixels(self, name: str, world: World) -> Iterable[tuple[list[int], PixelArray]]:
        """Numbers and pixels of this process's share of a set's readable pictures, in groups, of which some are empty.

        Small sets are decoded once and kept.
        """
        side, key = self._encoder.preprocessing, (name, world.size)
        if len(self._sets[name]) * side.height * side.width * 3 > LARGEST_KEPT_BYTES * world.size:
            return self._decoded_set(self._sets[name], world)
        if key not in self._pixels:
            self._pixels[key] = list(self._decoded_set(self._sets[name], world))
        return self._pixels[key]

    def _decoded_set(self, pairs: PairSet, world: World) -> Iterator[tuple[list[int], PixelArray]]:
        side = self._encoder.preprocessing

        def whole(number: int) -> PixelArray | None:
            try:
                return view_of(pairs[number], WHOLE, 0, side)
            except UnreadablePicture:
                return None

        for start in range(world.rank * PICTURES_AT_ONCE, len(pairs), world.size * PICTURES_AT_ONCE):
            numbers = range(start, min(start + PICTURES_AT_ONCE, len(pairs)))
            found = zip(numbers, self._pool.map(whole, numbers), strict=True)
            good = [(number, pixels) for number, pixels in found if pixels is not None]
            none = np.empty((0, side.height, side.width, 3), np.uint8)
            yield [number for number, _ in good], np.stack([pixels for _, pixels in good]) if good else none

    def counts(self) -> Counts:
        """Of what training and measuring have seen by now."""
        train = len(self._train) - len(self.unreadable)
        dev, anchor = (len(self._readable.get(name, self._sets[name])) for name in ("dev", "anchor"))
        unseen = len(self._train) - train
        if self._sets["dev"] is not self._train:
            unseen += len(self._sets["dev"]) - dev
        return Counts(train, dev, anchor, unseen)

    def trained_encoder(self, name: str) -> OpenClipEncoder:
        """The model as it is now, low ranks merged, as an encoder on the CPU."""
        model = copy.deepcopy(self.model).cpu()
        merge_lora(model)
        if self._settings.checkpoint_layers:
            model.set_grad_checkpointing(False)
        with torch.no_grad():
            model.logit_scale.copy_(self.log_scale.detach().cpu().reshape(model.logit_scale.shape))
            if self.bias is not None and isinstance(bias := getattr(model, "logit_bias", None), Tensor):
                bias.copy_(self.bias.detach().cpu().reshape(bias.shape))
        return OpenClipEncoder.from_model(
            model,
            self._encoder.config,
            name=name,
            tokenizer=self._encoder.tokenizer,
            device="cpu",
            precision="fp32",
        )

    def write_model(self, target: Path, source: str) -> None:
        """Export to a model directory, and keep the weights beside it, for later runs and for GPUs.

        Raises: ExportFailed, MissingExtra, OutOfSpace, StorageError.
        """
        encoder = self.trained_encoder(source)
        write_weights(encoder, target.parent)
        pictures = [view for number in range(min(8, len(self._train))) if (view := self._view(number, 0)) is not None]
        export(encoder, target, check_pictures=np.stack(pictures) if pictures else None, overwrite=True)


def write_weights(encoder: OpenClipEncoder, folder: Path) -> None:
    """Write an encoder's weights, and beside and within them what pictures must go through before them.

    Raises: OutOfSpace, StorageError.
    """
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in encoder.model.state_dict().items()}
    cfg = preprocess_cfg(encoder.preprocessing)
    write_atomically(folder / WEIGHTS, save(weights, {"format": "pt", PREPROCESS_KEY: json.dumps(cfg)}))
    described = {"model_cfg": encoder.config, "preprocess_cfg": cfg}
    write_atomically(folder / OPEN_CLIP_CONFIG, (json.dumps(described, indent=2) + "\n").encode())


def _key(draw: Draw) -> bytes:
    return draw.pictures.tobytes() + draw.seeds.tobytes()


def layer_distances(names: list[str]) -> dict[str, int]:
    """How many layers lie between a parameter and its tower's output, from its name.

    What comes after the last block counts 0, the last block 1, embeddings and stems one more than the first block.
    """
    depths: dict[str, tuple[str, int | None]] = {}
    deepest: dict[str, int] = {}
    for name in names:
        tower = "visual" if name.startswith("visual.") else "text"
        found = LAYER.search(plain_name(name))
        depths[name] = (tower, int(found[1]) if found else None)
        if found:
            deepest[tower] = max(deepest.get(tower, 0), int(found[1]))
    distances = {}
    for name, (tower, depth) in depths.items():
        last = deepest.get(tower, -1)
        if depth is not None:
            distances[name] = last - depth + 1
        elif STEM.search(name):
            distances[name] = last + 2
        else:
            distances[name] = 0
    return distances


def prepare_towers(
    encoder: OpenClipEncoder,
    settings: Settings,
    train: PairSet,
    dev: PairSet,
    anchor: PairSet,
    world: World,
    report: Callable[[str, int, int], None],
    notice: Callable[[str], None],
    weights: FloatArray | None = None,
    before: TowersTrainee | None = None,
) -> Work:
    """The trainee of an open_clip model. `before`: one that is not used any more, as `TowersTrainee` takes it.

    Raises: InvalidSettings, ModelNotFound (a tokenizer that cannot be had).
    """
    trainee = TowersTrainee(encoder, settings, train, {"dev": dev, "anchor": anchor}, world, weights, before)
    if trainee.order.batch % world.size:
        raise InvalidSettings(
            f"a batch of {trainee.order.batch} cannot be split across {world.size} processes", "Choose another --batch"
        )
    if settings.views > 1 and settings.mirror is None and (said := mirroring_notice(trainee.mirror)):
        notice(said)
    asked = settings.lora_rank
    if trainee.lora is not None and asked != DEFAULTS["lora_rank"] and (said := trainee.lora.rank_notice(asked)):
        notice(said)
    if settings.compile and before is None:
        report("compiling the towers", 0, 1)
        trainee.compile(notice)
    if trainee.lora is not None:
        notice(f"LoRA trains {trainee.lora.trained:,} parameters, {trainee.lora.share:.2%} of the model")
    return Work(trainee, trainee.order, encoder.fingerprint, trainee.counts)
