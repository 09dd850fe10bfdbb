"""All that can be set for a run, with its defaults. Written to run.json, so every value is JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from clipsearch.errors import ClipsearchError
from clipsearch.training.views import Augmentation

Method = Literal["heads", "locked-image", "lora", "full"]
Objective = Literal["clip", "siglip"]
Targets = Literal["soft", "hard"]
HardNegatives = Literal["captions", "mined", "both"]
METHODS: tuple[Method, ...] = get_args(Method)
LoraTarget = Literal["attention", "mlp", "projection", "convolution"]
LORA_TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)


SEE_WHY = "See why with: clipsearch train --check"
LARGEST_SEED = 2**32 - 1


class InvalidSettings(ClipsearchError):
    """A run cannot be done as it was asked for."""

    def __init__(self, problem: str, advice: str) -> None:
        self.problem = problem
        super().__init__(f"{problem}. {advice}")


class NothingToLearn(InvalidSettings):
    """The pairs of a run, or those of one turn of a cross-validation, cannot teach anything."""


class TrainingStopped(ClipsearchError):
    """A run went wrong and was stopped at `step`: `problem` says how."""

    def __init__(self, step: int, problem: str, advice: str) -> None:
        self.step = step
        self.problem = problem
        self.advice = advice
        super().__init__(f"training was stopped at step {step:,}: {problem}. {advice}")


class TrainingInterrupted(ClipsearchError):
    """The user stopped a run after `step`, of the whole or of a part of it; `run` can be gone on with."""

    def __init__(self, run: str, step: int, part: str = "") -> None:
        self.run = run
        self.step = step
        self.part = part
        of = f" of {part}" if part else ""
        super().__init__(f"stopped after step {step:,}{of}. Continue with: clipsearch train --resume {run}")


class OtherProcessEnded(ClipsearchError):
    """Another process of a torchrun has ended, with a message of its own, so process `rank` cannot go on."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        super().__init__(
            "another process of this torchrun has ended: its message says why. "
            "A run that has begun continues with --resume"
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run trains. `learning_rate` None: what suits the trainee."""

    method: Method
    epochs: int | None = None  # None: from the number of pairs, as are the others (see `plan`)
    batch: int | None = None  # pairs that a step compares, over all processes
    max_steps: int | None = None
    micro_batch: int | None = None  # pairs that go through the towers at once; None: what suits the trainee
    accumulate: bool = False  # each micro-batch with its own loss, instead of gradient caching
    learning_rate: float | None = None
    weight_decay: float = 0.2
    warmup_steps: int | None = None
    layer_decay: float = 1.0  # of the learning rate, for each layer further from the output
    gradient_norm: float = 1.0  # gradients are scaled down to it; 0: never
    ema: float = 0.0  # decay of averaged weights, which are then what is evaluated and kept; 0: none
    objective: Objective | None = None  # None: the one that the model was trained with
    targets: Targets = "soft"
    hard_negatives: HardNegatives | None = None  # wrong captions (see `swapping`), near pairs in one batch (`mining`)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_layers: bool = False  # gradient checkpointing
    compile: bool = False  # torch.compile, for towers
    lora_rank: int = 8
    lora_alpha: float | None = None  # None: twice the rank
    lora_targets: tuple[str, ...] = LORA_TARGETS
    freeze: tuple[str, ...] = ()  # see `freezing`
    freeze_layers: int = 0  # blocks of each tower, from the input
    views: int = 3  # of each picture: the whole, its mirror image, then random crops
    mirror: bool | None = None  # None: unless captions speak of sides or writing
    smallest_crop: float = 0.7  # share of a picture's area that a random crop keeps at least
    jitter: float = 0.0  # largest change of brightness, contrast and saturation of a random crop
    gate: bool = True  # heads: leave what is unlike the pairs as it was
    drop_features: float = 0.1  # heads: share of the features that a step leaves out
    drop_hidden: float = 0.3  # heads: share of the hidden units that a step leaves out
    keep_texts: float = 0.2  # heads: share of captions whose base vector is trained against
    keep_general: float = 40.0  # heads: weight of keeping general sentences where they are; 0: no such thing
    patience: int | None = None  # epochs without a better held-out recall
    seed: int = 0
    checkpoint_s: float = 60.0
    checkpoint_steps: int | None = None

    @property
    def swaps_captions(self) -> bool:
        """Whether each picture has a wrong caption in its batch."""
        return self.hard_negatives in ("captions", "both")

    @property
    def mines(self) -> bool:
        """Whether batches are made of pairs that are near each other."""
        return self.hard_negatives in ("mined", "both")

    @property
    def augmentation(self) -> Augmentation:
        """How random views differ."""
        return Augmentation(self.smallest_crop, self.jitter)

    def as_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Settings:
        """Settings as run.json has them."""
        known = {field.name for field in fields(cls)}
        found: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**{name: value for name, value in found.items() if name in known})


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Settings) if field.name != "method"}
OPTIONS = {
    "freeze": "--freeze",
    "freeze_layers": "--freeze-layers",
    "layer_decay": "--layer-decay",
    "checkpoint_layers": "--checkpoint-layers",
    "precision": "--precision",
    "lora_rank": "--rank",
    "lora_alpha": "--lora-alpha",
    "lora_targets": "--lora-target",
    "gate": "--no-gate",
    "views": "--views",
    "mirror": "--mirror",
    "smallest_crop": "--crop",
    "jitter": "--jitter",
}
"""Of settings that not every method heeds, the options."""
_OF_TOWERS = ("freeze", "freeze_layers", "layer_decay", "checkpoint_layers", "precision")
_OF_LORA = ("lora_rank", "lora_alpha", "lora_targets")
_OF_FEATURES = ("gate", "drop_features", "drop_hidden", "keep_texts", "keep_general")
_OF_VIEWS = ("mirror", "smallest_crop", "jitter")


def unheeded_settings(method: Method, on_features: bool) -> list[str]:
    """Names of the settings that have an option which changes nothing. `on_features`: towers stay as they are."""
    names = [*(_OF_TOWERS if on_features else _OF_FEATURES), *(() if method == "lora" else _OF_LORA)]
    return [name for name in names if name in OPTIONS]


def views_seen(method: Method, on_features: bool, views: int) -> int:
    """How many views of a picture a run looks at. What keeps the vectors of pictures needs no second one."""
    return 1 if method == "locked-image" and on_features else views


def unheeded_views(settings: Settings, on_features: bool) -> list[str]:
    """As `unheeded_settings`, of those that are about views, where a run looks at whole pictures alone."""
    seen = views_seen(settings.method, on_features, settings.views)
    return [*(() if seen == settings.views else ("views",)), *(_OF_VIEWS if seen == 1 else ())]


def heeded(settings: dict[str, Any], method: Method, on_features: bool) -> dict[str, Any]:
    """Of settings by name, those that a method heeds."""
    left_out = {*((*_OF_TOWERS, "compile") if on_features else _OF_FEATURES), *(() if method == "lora" else _OF_LORA)}
    left_out |= set(unheeded_views(Settings.from_json(settings), on_features))
    return {name: value for name, value in settings.items() if name not in left_out}
