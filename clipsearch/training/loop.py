"""The training loop: steps, checkpoints, measurements, early stopping. Knows neither towers nor files of pairs.

Everything random in a step follows from the seed and the step's number, so a run that was killed and resumed makes
the same steps: on a CPU its weights are those of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from clipsearch.evaluation.recall import Metrics
from clipsearch.training import distributed
from clipsearch.training.checkpoints import Checkpoint, CheckpointFolder
from clipsearch.training.grad_cache import Loaded, Part, Vectors, accumulated_backward, whole_backward
from clipsearch.training.losses import Side, clamp_temperature_, contrastive_loss, largest_log_scale
from clipsearch.training.mining import Neighbourhood, mined_places
from clipsearch.training.order import Draw, Order
from clipsearch.training.plan import plan
from clipsearch.training.rates import STEPS as RATE_STEPS
from clipsearch.training.rates import RateSweep, Sweeping, rate_at
from clipsearch.training.run_folder import Row, RunFolder
from clipsearch.training.settings import Objective, Settings, TrainingInterrupted, TrainingStopped
from clipsearch.training.shortages import OutOfMemory, fitting_size, is_out_of_memory
from clipsearch.training.world import World

ADAM_BETAS = (0.9, 0.98)
COLLAPSED_RECALL = 0.5  # of the start's: no good run falls that far on held-out pairs
LEAST_START_RECALL = 0.05  # below it a fall says nothing
JUDGED_AFTER = 0.25  # of the steps, and three times the warm-up: recall often dips before it rises
LEAST_SCALE = 1.0
TIE_BREAK = 1e-4
PERFECT_SCORE = 1.0 + TIE_BREAK  # of `score_of`: every pair found first, both ways
STEPS_AHEAD = 3
REGROUPED = "regrouped."  # before an epoch's number, in the names of a checkpoint's tensors
PARTS_APART = 1_000_003  # between the seeds of a step's parts

Report = Callable[[str, int, int], None]


class Trainee(Protocol):
    """What is trained: modules, the inputs of a step, and what they are measured on."""

    device: torch.device
    log_scale: nn.Parameter
    bias: nn.Parameter | None
    objective: Objective
    learning_rate: float
    usual_rate: float  # of the method
    micro_batch: int | None

    def groups(self, settings: Settings) -> list[tuple[float, dict[str, nn.Parameter]]]:
        """Parameters by name, in groups with a factor on the learning rate; the temperature is not among them."""
        ...

    def buffers(self) -> dict[str, Tensor]:
        """What training changes besides parameters."""
        ...

    def load(self, draw: Draw) -> Loaded:
        """The rows of a step."""
        ...

    def look_ahead(self, draws: list[Draw]) -> None:
        """Begin to read what these steps need."""
        ...

    def encode(self, part: Part) -> Vectors:
        """Unit vectors of pictures and captions, float32."""
        ...

    def penalty(self, seed: int) -> Tensor | None:
        """What is added to the loss of a step, if anything."""
        ...

    def set_training(self, training: bool) -> None:
        """Dropout on or off."""
        ...

    def measure(self, name: str) -> Metrics:
        """Retrieval on one of its sets of pairs, as the weights are now."""
        ...

    def neighbourhood(self) -> Neighbourhood:
        """Where the training pairs are now. All processes must ask together."""
        ...


@dataclass(slots=True)
class Progress:
    """What a run knows besides its tensors; JSON."""

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_score: float | None = None
    best_epoch: int = 0
    best_file: str | None = None
    start_recall: float = 0.0
    stale_epochs: int = 0
    stopped_early: bool = False
    finished: bool = False
    rows: list[Row] = field(default_factory=list)
    ranks: list[list[int]] = field(default_factory=list)  # of held-out captions, by epoch, where one is chosen by them
    scaler: dict[str, Any] = field(default_factory=dict)


def percentages(metrics: Metrics) -> dict[str, float]:
    """Recall both ways in percent, by column name."""
    return {
        f"{direction}_r{k}": round(100 * getattr(metrics, direction).recall(k), 4)
        for direction in ("text_to_image", "image_to_text")
        for k in (1, 5, 10)
    }


def score_of(metrics: Metrics) -> float:
    """What epochs are compared by: the mean text-to-image recall at 1, 5 and 10; where it ties, the other way's."""
    forth, back = (
        sum(direction.recall(k) for k in (1, 5, 10)) / 3 for direction in (metrics.text_to_image, metrics.image_to_text)
    )
    return forth + TIE_BREAK * back


class Loop:
    """One run of `trainee` over `order`, into `folder`."""

    def __init__(
        self,
        trainee: Trainee,
        order: Order,
        settings: Settings,
        folder: RunFolder,
        *,
        world: World | None = None,
        report: Report = lambda *_: None,
        interrupted: Callable[[], bool] = lambda: False,
        anyway: bool = False,
        measured: Callable[[Row], None] = lambda _: None,
        held: Callable[[Metrics], Metrics] | None = None,
        measured_before: Sequence[Row] | None = None,
        stage: str = "training",
    ) -> None:
        """`anyway`: go on when held-out recall collapses. `measured` is given each row of metrics.

        With one of these two, the last epoch is kept, whatever was measured, and recall stops nothing. `held`: the part
        of what is measured that belongs to held-out pairs. `measured_before`: rows of metrics for the epochs, of which
        nothing is measured then. `stage`: what messages and reports call the run.
        """
        self._stage = stage
        self._held = held
        self._measured_before = measured_before
        self._keeps_last = held is not None or measured_before is not None
        self._anyway = anyway
        self._measured_row = measured
        self.trainee = trainee
        self.order = order
        self.settings = settings
        self.folder = folder
        self.world = world or World()
        self._report = report
        self._interrupted = interrupted
        self._checkpoints = CheckpointFolder(folder.path)
        self._groups = trainee.groups(settings)
        self.parameters = {name: value for _, group in self._groups for name, value in group.items()}
        self.parameters["log_scale"] = trainee.log_scale
        if trainee.bias is not None:
            self.parameters["bias"] = trainee.bias
        self._optimizer = self._make_optimizer()
        enabled = settings.precision == "fp16" and trainee.device.type == "cuda"
        self._scaler = torch.amp.GradScaler("cuda", enabled=enabled)
        self._average: dict[str, Tensor] = {}
        if settings.ema:
            self._average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.progress = Progress()
        self.plan = plan(order.pairs, settings, self.world.size)
        self.total_steps = self.plan.steps
        self._largest_log_scale = largest_log_scale(float(trainee.log_scale.detach()))
        self._sweeping_rate: float | None = None
        self._saved_at = time.monotonic()

    def run(self) -> Progress:
        """Train from the last checkpoint, or from the start, to the end. The best weights are then in place.

        Raises: TrainingStopped for numbers that are none and for recall that collapses, TrainingInterrupted.
        """
        checkpoint = self._checkpoints.load()
        if checkpoint is None:
            self._measure_start()
        else:
            self._restore(checkpoint)
        progress = self.progress
        while not progress.finished:
            self._step(progress.step)
            progress.step += 1
            self._report(self._stage, progress.step, self.total_steps)
            if progress.step % self.order.steps_per_epoch == 0 or progress.step == self.total_steps:
                self._end_epoch(math.ceil(progress.step / self.order.steps_per_epoch))
            elif self._is_time_to_save():
                self.save()
            if not progress.finished and distributed.any_process(self._interrupted(), self.trainee.device):
                self.save()
                raise TrainingInterrupted(str(self.folder.path), progress.step)
        if progress.best_file is not None:
            distributed.wait_for_all()
            self._put_in_place(self._checkpoints.load_tensors(progress.best_file))
        return progress

    def sweep(self) -> RateSweep:
        """Try growing learning rates, one a step, from the start. The weights are not worth keeping afterwards."""
        sweeping = Sweeping()
        for step in range(RATE_STEPS):
            rate = rate_at(step)
            self._sweeping_rate = rate
            before = self.progress.loss_sum
            try:
                self._step(step % self.total_steps)
            except TrainingStopped:
                break
            self._report("trying learning rates", step + 1, RATE_STEPS)
            if not sweeping.add(rate, self.progress.loss_sum - before):
                break
            if distributed.any_process(self._interrupted(), self.trainee.device):
                break
        return RateSweep(sweeping.rates, sweeping.losses, self.trainee.usual_rate)

    # --- one step --------------------------------------------------------------------------------------

    def _step(self, step: int) -> None:
        settings, trainee = self.settings, self.trainee
        factor = rate_factor(step, self.total_steps, self.plan.warmup_steps)
        for group in self._optimizer.param_groups:
            rate = self.trainee.learning_rate * factor if self._sweeping_rate is None else self._sweeping_rate
            group["lr"] = rate * group["factor"]
        self._optimizer.zero_grad(set_to_none=True)
        if settings.mines:
            self._mine(step // self.order.steps_per_epoch)
        trainee.set_training(True)
        parts = self._parts(step)
        value = self._backward(step, parts)
        penalty = trainee.penalty(parts[0].seed)
        if penalty is not None:
            penalty.backward()  # type: ignore[no-untyped-call]
            value += float(penalty.detach())
        value = distributed.mean_over_processes(value, trainee.device)
        if not math.isfinite(value):
            raise TrainingStopped(step, f"the loss became {value}", self._advice())
        distributed.average_gradients(self.parameters.values())
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._optimizer)
        if settings.gradient_norm:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.gradient_norm)
            if not bool(norm.isfinite()) and not self._scaler.is_enabled():
                raise TrainingStopped(step, "the gradients are not finite", self._advice())
        if self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._optimizer.step()
        clamp_temperature_(trainee.log_scale, self._largest_log_scale)
        if float(trainee.log_scale.detach().exp()) < LEAST_SCALE:
            raise TrainingStopped(step, "the temperature collapsed: all pairs look the same", self._advice())
        with torch.no_grad():
            decay = ema_decay(settings.ema, step)
            for name, average in self._average.items():
                average.lerp_(self.parameters[name].detach(), 1 - decay)
        self.progress.loss_sum += value
        self.progress.loss_steps += 1

    def _backward(self, step: int, parts: list[Part]) -> float:
        """Leave the gradients of the step's loss in the parameters. Raises: OutOfMemory, with what would fit."""
        backward = accumulated_backward if self.settings.accumulate else whole_backward
        scale_loss = self._scaler.scale if self._scaler.is_enabled() else None
        try:
            return float(backward(parts, self.trainee.encode, self._loss, scale_loss))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # The failed pass holds memory until its exception is gone.
        size = max(len(part.pictures) for part in parts)
        first = parts[0]
        rows = Loaded(first.images, first.texts, first.pictures, first.captions, first.wrong, first.counts)

        def attempt(smaller: int) -> None:
            self._optimizer.zero_grad(set_to_none=True)
            if self.trainee.device.type == "cuda":
                torch.cuda.empty_cache()
            small = [rows.part(slice(start, start + smaller), parts[0].seed) for start in (0, smaller)]
            whole_backward(small, self.trainee.encode, self._loss_of_one_process, scale_loss)

        fitting = fitting_size(size, attempt)
        self._optimizer.zero_grad(set_to_none=True)
        at_once = f"{size:,} pairs at a time are too many"
        advice = "Choose a smaller model or --method heads, or give it more memory"
        if fitting is not None:
            same = "other negatives" if self.settings.accumulate else "the same gradients"
            advice = f"{fitting:,} fit. Start again with --micro-batch {fitting}, which gives {same} for less memory"
        raise OutOfMemory(f"{self._stage}, at step {step:,}", at_once, advice, fitting)

    def _loss_of_one_process(self, *rows: Tensor) -> Tensor:
        both = Side(*rows)
        return contrastive_loss(both, both, self.trainee.log_scale.exp(), self.trainee.bias)

    def _parts(self, step: int) -> list[Part]:
        known = min(step + STEPS_AHEAD, self.total_steps)
        if self.settings.mines:  # the next epoch's order follows from what this one teaches
            known = min(known, (step // self.order.steps_per_epoch + 1) * self.order.steps_per_epoch)
        draws = [self.order.draw(number, self.world.rank, self.world.size) for number in range(step, known)]
        self.trainee.look_ahead(draws)
        loaded = self.trainee.load(draws[0])
        count = len(loaded.pictures)
        size = self.settings.micro_batch or self.trainee.micro_batch or count
        seed = (self.settings.seed * 7_919 + step) * PARTS_APART + self.world.rank * 10_007
        return [loaded.part(slice(start, start + size), (seed + start) % 2**63) for start in range(0, count, size)]

    def _mine(self, epoch: int) -> None:
        """Let an epoch show pairs together that are near each other by now, unless that is decided already."""
        if epoch in self.order.regrouped:
            return
        now = self.trainee.neighbourhood()
        shown = self.order.shown(epoch)
        random = np.random.default_rng((self.settings.seed, epoch, 1))
        places = mined_places(now.vectors[shown], now.pictures[shown], now.captions[shown], random)
        # Other processes may round differently.
        self.order.regroup(epoch, distributed.of_first(torch.from_numpy(places), self.trainee.device).numpy())

    def _loss(self, images: Tensor, *others: Tensor) -> Tensor:
        local = Side(images, *others)
        everything = Side(*(distributed.gather(rows) for rows in (images, *others)))
        return contrastive_loss(
            local,
            everything,
            self.trainee.log_scale.exp(),
            self.trainee.bias,
            first_row=self.world.rank * len(images),
            objective=self.trainee.objective,
            targets=self.settings.targets,
        )

    def _make_optimizer(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = []
        for factor, parameters in self._groups:
            for decays in (True, False):
                chosen = [value for value in parameters.values() if (value.ndim > 1) == decays]
                if chosen:
                    decay = self.settings.weight_decay if decays else 0.0
                    groups.append({"params": chosen, "weight_decay": decay, "factor": factor})
        temperature = [value for value in (self.trainee.log_scale, self.trainee.bias) if value is not None]
        groups.append({"params": temperature, "weight_decay": 0.0, "factor": 1.0})
        return torch.optim.AdamW(groups, lr=self.trainee.learning_rate, betas=ADAM_BETAS)

    def _advice(self) -> str:
        trainee, ways = self.trainee, ["a longer warm-up"]
        lower = min(trainee.learning_rate / 5, trainee.usual_rate)
        if self.settings.precision != "fp32":
            ways.append("--precision fp32")
        return f"Try a lower learning rate (--learning-rate {lower:.1g}) or {' or '.join(ways)}"

    # --- epochs ----------------------------------------------------------------------------------------

    def _measure_start(self) -> None:
        metrics = self._measured()
        self.progress.start_recall = 0.0 if metrics is None else metrics.text_to_image.recall(10)
        self.progress.rows = [{"epoch": 0, "step": 0, "loss": None, **self._percentages(metrics, 0)}]
        if self.world.is_first:
            self.folder.restart_metrics(self.progress.rows)
            self._measured_row(self.progress.rows[0])

    def _end_epoch(self, epoch: int) -> None:
        progress = self.progress
        metrics = self._measured()
        score = recall = 1.0
        if metrics is not None:
            score, recall = score_of(metrics), metrics.text_to_image.recall(10)
            if not self._keeps_last:
                progress.ranks.append(metrics.text_to_image.ranks.tolist())
        row: Row = {
            "epoch": epoch,
            "step": progress.step,
            "loss": progress.loss_sum / max(1, progress.loss_steps),
            "scale": float(self.trainee.log_scale.detach().exp()),
            **self._percentages(metrics, epoch),
        }
        progress.loss_sum, progress.loss_steps = 0.0, 0
        progress.rows.append(row)
        is_best = False
        if self._keeps_last and progress.step < self.total_steps:
            pass
        elif progress.best_score is None or score > progress.best_score:
            progress.best_score, progress.best_epoch, progress.stale_epochs = score, epoch, 0
            is_best = True
            if self.world.is_first:
                progress.best_file = self._checkpoints.save_best(progress.step, self._weights())
            else:
                progress.best_file = f"best-{progress.step:06d}.safetensors"
        else:
            progress.stale_epochs += 1
        # No later epoch than a perfect one could be kept instead.
        perfect = progress.best_score is not None and progress.best_score >= PERFECT_SCORE
        progress.stopped_early = not self._keeps_last and (perfect or progress.stale_epochs >= self.plan.patience)
        progress.finished = progress.stopped_early or progress.step >= self.total_steps
        # A run that is at its end has its verdict. A turn chooses no epoch, and its few pairs fall by chance.
        judged = progress.step >= max(JUDGED_AFTER * self.total_steps, 3 * self.plan.warmup_steps)
        judged = judged and not progress.finished and self._held is None
        fallen = recall < COLLAPSED_RECALL * progress.start_recall and progress.start_recall > LEAST_START_RECALL
        collapsed = judged and fallen and not self._anyway
        # Of few pairs an epoch is one step, and a checkpoint takes longer; weights of a best epoch need one that names
        # them.
        if is_best or progress.finished or collapsed or self._is_time_to_save():
            self.save()
        if self.world.is_first:
            self.folder.restart_metrics(progress.rows)
            self._measured_row(row)
        if collapsed:
            fall = f"held-out recall@10 fell from {progress.start_recall:.1%} to {recall:.1%} in {epoch} epochs"
            raise TrainingStopped(progress.step, fall, self._advice())

    def _percentages(self, metrics: Metrics | None, epoch: int) -> Row:
        if metrics is not None:
            return {**percentages(metrics)}
        assert self._measured_before is not None
        return dict(self._measured_before[min(epoch, len(self._measured_before) - 1)])

    def _measured(self) -> Metrics | None:
        """Measure the weights that would be kept: the averaged ones, where there are any."""
        if self._measured_before is not None:
            return None
        found = self._measured_as_kept()
        return found if self._held is None else self._held(found)

    def _measured_as_kept(self) -> Metrics:
        self.trainee.set_training(False)
        if not self._average:
            return self.trainee.measure("dev")
        own = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._put_in_place(self._average)
        try:
            return self.trainee.measure("dev")
        finally:
            self._put_in_place(own)

    def _weights(self) -> dict[str, Tensor]:
        return {**(self._average or self.parameters), **self.trainee.buffers()}

    def _put_in_place(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in {**self.parameters, **self.trainee.buffers()}.items():
                if name in weights:
                    value.copy_(weights[name])

    # --- checkpoints -----------------------------------------------------------------------------------

    def _is_time_to_save(self) -> bool:
        every = self.settings.checkpoint_steps
        if every is not None:
            return self.progress.step % every == 0
        return time.monotonic() - self._saved_at > self.settings.checkpoint_s

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        self._saved_at = time.monotonic()
        if not self.world.is_first:
            return
        tensors = {f"weights.{name}": value for name, value in {**self.parameters, **self.trainee.buffers()}.items()}
        tensors |= {f"average.{name}": value for name, value in self._average.items()}
        for name, value in self.parameters.items():
            for key, moment in self._optimizer.state.get(value, {}).items():
                tensors[f"optimizer.{name}.{key}"] = moment
        for epoch, places in self.order.regrouped.items():
            tensors[f"{REGROUPED}{epoch}"] = torch.from_numpy(places)
        progress = self.progress
        if self._scaler.is_enabled():
            progress.scaler = self._scaler.state_dict()
        facts = {name: getattr(progress, name) for name in Progress.__slots__}
        self._checkpoints.save(Checkpoint(progress.step, tensors, facts, progress.best_file))

    def forget_checkpoints(self) -> None:
        """Keep the best weights only, once the run is over."""
        self._checkpoints.keep_only(self.progress.best_file)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.progress = Progress(**checkpoint.facts)
        tensors = checkpoint.tensors
        self._put_in_place({name.removeprefix("weights."): value for name, value in tensors.items()})
        for name, value in tensors.items():
            if name.startswith(REGROUPED):
                self.order.regroup(int(name.removeprefix(REGROUPED)), value.numpy())
        with torch.no_grad():
            for name, average in self._average.items():
                average.copy_(tensors[f"average.{name}"])
        for name, value in self.parameters.items():
            prefix = f"optimizer.{name}."
            moments = {key.removeprefix(prefix): moment for key, moment in tensors.items() if key.startswith(prefix)}
            if moments:
                # AdamW keeps its step counter on the CPU.
                self._optimizer.state[value] = {
                    key: moment.clone() if key == "step" else moment.to(value.device, copy=True)
                    for key, moment in moments.items()
                }
        if self._scaler.is_enabled() and self.progress.scaler:
            self._scaler.load_state_dict(self.progress.scaler)
        if self.world.is_first:
            self.folder.restart_metrics(self.progress.rows)


def ema_decay(decay: float, step: int) -> float:
    """The decay of averaged weights at a step: small at first, or the start would stay in a short run's average."""
    return min(decay, (1 + step) / (10 + step))


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up over some steps, on a cosine down to zero."""
    return min(1.0, (step + 1) / (warmup + 1)) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
