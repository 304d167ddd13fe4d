"""Train a supernet: one loop for all phases, resumable at any step.

Everything random is drawn from (seed, step) or (seed, epoch), so a run that was killed repeats the
steps after its last checkpoint exactly.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.errors import CheckpointError, DataError, OfaCompileError
from ofa_compile.space import Architecture, search_space
from ofa_compile.supernet import Supernet, build_supernet, load_supernet, save_supernet
from ofa_compile.training import batch_norm, depthwise
from ofa_compile.training.allocator import keep_memory
from ofa_compile.training.checkpoint import load_checkpoint, save_checkpoint
from ofa_compile.training.data import (
    ImageData,
    augment,
    load_images,
    normalize,
    resize,
    split_indices,
)
from ofa_compile.training.distillation import student_loss
from ofa_compile.training.native import use_channels_last
from ofa_compile.training.progressive_shrinking import (
    PhasePlan,
    plan_phases,
    subnets_for_step,
)
from ofa_compile.training.recipe import Phase, Recipe, load_recipe

__all__ = ["DivergedError", "TrainConfig", "TrainResult", "train_supernet"]

_LOGGER = logging.getLogger(__name__)


class DivergedError(OfaCompileError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes
    ----------
    data
        Folder or archive of images, one folder per class.
    output
        Folder for ``checkpoint.pt``, ``log.jsonl`` and, at the end, ``supernet.safetensors``. A
        checkpoint there is continued.
    space
        Name of the search space.
    recipe
        Name of a shipped recipe or path of a TOML file.
    init
        Supernet to start from (name or path); None for fresh weights.
    seed
        Seed of weights, order, augmentation and sampling.
    max_steps
        Stop after this many steps of the schedule; None for all.
    image_size
        Size that images are scaled to; None for the space's largest resolution up to 64, else
        the size of the first image.
    cache
        Folder for the decoded images; None for `output`.
    checkpoint_every_s
        Seconds between checkpoints.
    threads
        Threads of PyTorch; None leaves them.
    """

    data: Path
    output: Path
    space: str = "ofa_mbv3_cifar"
    recipe: str = "cifar"
    init: str | None = None
    seed: int = 0
    max_steps: int | None = None
    image_size: int | None = None
    cache: Path | None = None
    checkpoint_every_s: float = 120.0
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Outcome of a run.

    Attributes
    ----------
    weights
        The supernet's safetensors file; None when `max_steps` stopped the run early.
    checkpoint
        The last checkpoint.
    step, total_steps
        Steps done, and steps of the whole schedule.
    loss
        Mean loss of the largest network over the last steps.
    skipped
        Images that could not be decoded.
    """

    weights: Path | None
    checkpoint: Path
    step: int
    total_steps: int
    loss: float
    skipped: tuple[str, ...]


Progress = Callable[[int, int, dict[str, float]], None]


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then one cosine."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    length = max(1, total_steps - recipe.warmup_steps)
    done = min(1.0, (step - recipe.warmup_steps) / length)
    low, high = recipe.final_learning_rate, recipe.learning_rate
    return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(supernet: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD that decays convolution and linear weights only."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in supernet.named_parameters():
        is_weight = parameter.ndim > 1 and not name.endswith("_matrix")
        (decayed if is_weight else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


class BatchSource:
    """Batches of the training images by step number: shuffled per epoch, augmented per step."""

    def __init__(self, data: ImageData, kept: NDArray[np.int64], batch_size: int, seed: int):
        self._data, self._kept = data, kept
        self._size, self._seed = min(batch_size, len(kept)), seed
        self._order: tuple[int, NDArray[np.int64]] = (-1, kept)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, 1, epoch])
            self._order = (epoch, rng.permutation(self._kept))
        return self._order[1]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the normalised images, channels-last, and labels of a step."""
        start = step * self._size
        positions = np.arange(start, start + self._size)
        epochs = positions // len(self._kept)
        index = np.concatenate(
            [
                self._permutation(int(epoch))[positions[epochs == epoch] % len(self._kept)]
                for epoch in np.unique(epochs)
            ]
        )
        rng = np.random.default_rng([self._seed, 2, step])
        images = augment(self._data.train_images[index], rng)
        labels = torch.from_numpy(self._data.train_labels[index])
        return normalize(images, self._data.mean, self._data.std), labels


class Trainer:
    """State of a run: supernet, optimiser, step."""

    def __init__(self, config: TrainConfig, recipe: Recipe, data: ImageData) -> None:
        self.config, self.recipe, self.data = config, recipe, data
        self.space = search_space(config.space)
        kept, _ = split_indices(len(data.train_images), recipe.held_out)
        if len(kept) < 2:
            message = f"only {len(kept)} training images are left of {len(data.train_images)}"
            raise DataError(message, hint=f"The recipe holds out {recipe.held_out} images.")
        self.source = BatchSource(data, kept, recipe.batch_size, config.seed)
        self.plans = plan_phases(recipe, len(kept))
        self.total_steps = self.plans[-1].end_step
        self.step = 0
        self.supernet = use_channels_last(self._build()).train()
        batch_norm.fuse(self.supernet)
        depthwise.enable()
        self.optimizer = make_optimizer(self.supernet, recipe)

    def _build(self) -> Supernet:
        classes = len(self.data.labels)
        if self.config.init is None:
            supernet = build_supernet(self.space, num_classes=classes, seed=self.config.seed)
        else:
            supernet = load_supernet(self.config.init, space=self.space.name, num_classes=classes)
        data = self.data
        supernet.metadata.update(mean=list(data.mean), std=list(data.std), labels=list(data.labels))
        return supernet

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "space": self.config.space,
            "seed": self.config.seed,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from a checkpoint's state."""
        mine = {"space": self.config.space, "seed": self.config.seed}
        mine["total_steps"] = self.total_steps
        for key, value in mine.items():
            if state[key] != value:
                message = f"{path} was written with {key} {state[key]!r}, this run has {value!r}"
                raise CheckpointError(message, hint="Choose another output folder, or use --init.")
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])

    def _begin(self, plan: PhasePlan) -> None:
        """Prepare the first step of a phase."""
        _LOGGER.info("step %d: phase %r begins", self.step, plan.phase.name)
        if plan.phase.sort_channels:
            self.supernet.sort_channels_by_importance()
            # The momentum belongs to the old order of the channels.
            self.optimizer.state.clear()

    def run_step(self) -> dict[str, Any]:
        """Train on one batch; return its record for the log."""
        plan = next(p for p in self.plans if self.step < p.end_step)
        if self.step == plan.first_step:
            self._begin(plan)
        rate = learning_rate(self.recipe, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, labels = self.source.batch(self.step)
        rng = np.random.default_rng([self.config.seed, 3, self.step])
        self.optimizer.zero_grad(set_to_none=True)
        losses, teacher = {}, None
        for role, architecture in subnets_for_step(plan.phase, self.space, rng):
            x = resize(images, architecture.resolution)
            logits = self.supernet(x, architecture)
            loss = self._loss(plan.phase, role, logits, labels, teacher)
            losses[role] = loss.item()
            self._check(losses[role], rate, architecture)
            loss.backward()  # type: ignore[no-untyped-call]
            if role == "largest":
                teacher = logits.detach()
        nn.utils.clip_grad_norm_(self.supernet.parameters(), self.recipe.max_gradient_norm)
        self.optimizer.step()
        self.step += 1
        return {"step": self.step, "phase": plan.phase.name, "learning_rate": rate, **losses}

    def _loss(
        self, phase: Phase, role: str, logits: Tensor, labels: Tensor, teacher: Tensor | None
    ) -> Tensor:
        smoothing = self.recipe.label_smoothing
        if role == "largest":
            return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        ratio = phase.distillation_ratio
        loss = student_loss(logits, labels, teacher, ratio=ratio, label_smoothing=smoothing)
        return loss * phase.student_weight

    def _check(self, loss: float, rate: float, architecture: Architecture) -> None:
        if not math.isfinite(loss):
            message = (
                f"the loss is {loss} at step {self.step}, learning rate {rate:.5g}, "
                f"architecture {architecture.to_json()}"
            )
            hint = (
                "Lower learning_rate or max_gradient_norm in the recipe; the checkpoint is intact."
            )
            raise DivergedError(message, hint=hint)


def _trim_log(path: Path, step: int) -> None:
    """Drop log records after `step`, and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def train_supernet(config: TrainConfig, *, progress: Progress | None = None) -> TrainResult:
    """Train a supernet by progressive shrinking, or continue such a run.

    Parameters
    ----------
    config
        The run.
    progress
        Called after every step with the step, the total and the step's losses.

    Returns
    -------
    Where the results are.

    Raises
    ------
    ConfigError
        If the recipe is malformed or does not suit the space.
    DataError
        If the images cannot be used.
    CheckpointError
        If the output folder holds another run's checkpoint, or `init` does not fit.
    DivergedError
        If the loss is not finite; the message names step, learning rate and architecture.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    keep_memory()
    recipe = load_recipe(config.recipe)
    largest = max(search_space(config.space).resolutions)
    size = config.image_size or (largest if largest <= 64 else None)
    config.output.mkdir(parents=True, exist_ok=True)
    data = load_images(config.data, size=size, cache=config.cache or config.output)
    trainer = Trainer(config, recipe, data)
    checkpoint, log = config.output / "checkpoint.pt", config.output / "log.jsonl"
    if checkpoint.exists():
        trainer.restore(load_checkpoint(checkpoint), checkpoint)
        _LOGGER.info("continuing %s at step %d", checkpoint, trainer.step)
    _trim_log(log, trainer.step)
    last = _run(trainer, checkpoint, log, progress)
    weights = None
    if trainer.step == trainer.total_steps:
        weights = config.output / "supernet.safetensors"
        save_supernet(trainer.supernet, weights)
    return TrainResult(
        weights=weights,
        checkpoint=checkpoint,
        step=trainer.step,
        total_steps=trainer.total_steps,
        loss=last,
        skipped=data.skipped,
    )


def _run(trainer: Trainer, checkpoint: Path, log: Path, progress: Progress | None) -> float:
    """Run the steps that are left; return the mean loss of the largest network at the end."""
    config = trainer.config
    end = min(trainer.total_steps, config.max_steps or trainer.total_steps)
    recent: list[float] = []
    written = time.monotonic()
    with log.open("a", encoding="utf-8") as stream:
        while trainer.step < end:
            started = time.monotonic()
            record = trainer.run_step()
            now = time.monotonic()
            record["seconds"] = round(now - started, 4)
            stream.write(json.dumps(record) + "\n")
            recent = [*recent[-99:], record["largest"]]
            if progress is not None:
                losses = {k: v for k, v in record.items() if isinstance(v, float)}
                progress(trainer.step, trainer.total_steps, losses)
            if now - written >= config.checkpoint_every_s or trainer.step == end:
                stream.flush()
                save_checkpoint(checkpoint, trainer.state())
                written = now
    return float(np.mean(recent)) if recent else math.nan
