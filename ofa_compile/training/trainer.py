"""The state of a training run and one step of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.errors import CheckpointError, DataError, OfaCompileError
from ofa_compile.space import Architecture, search_space
from ofa_compile.supernet import Supernet, build_supernet, load_supernet, save_supernet
from ofa_compile.training import batch_norm, depthwise
from ofa_compile.training.augmentation import augmentation
from ofa_compile.training.batches import BatchSource
from ofa_compile.training.channels_last import use_channels_last
from ofa_compile.training.data import ImageData, resize, split_indices
from ofa_compile.training.distillation import student_loss
from ofa_compile.training.distributed import Processes
from ofa_compile.training.optimization import WeightAverage, make_optimizer, rate_of_step
from ofa_compile.training.progressive_shrinking import (
    PhasePlan,
    kept_ratios,
    plan_phases,
    subnets_for_step,
)
from ofa_compile.training.recipe import Phase, Recipe
from ofa_compile.training.train_config import TrainConfig

__all__ = ["DivergedError", "Trainer", "choose_device"]

_LOGGER = logging.getLogger(__name__)


class DivergedError(OfaCompileError):
    """The loss became infinite or not a number."""


def choose_device(name: str) -> str:
    """Return the device type that a configuration means."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


class Trainer:
    """State of a run: supernet, optimiser, step."""

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        data: ImageData,
        ranks: Processes | None = None,
    ) -> None:
        self.config, self.recipe, self.data = config, recipe, data
        self.ranks = ranks or Processes()
        self.device = choose_device(config.device)
        self.my_parts, self.parts = self.ranks.parts(config.parts)
        self.space = search_space(config.space)
        kept, _ = split_indices(len(data.train_images), recipe.held_out)
        if len(kept) < max(2, 2 * self.parts):
            message = f"only {len(kept)} training images are left of {len(data.train_images)}"
            raise DataError(message, hint=f"The recipe holds out {recipe.held_out} images.")
        augment = augmentation(
            recipe.augmentation, brightness=recipe.brightness, saturation=recipe.saturation
        )
        self.source = BatchSource(data, kept, recipe.batch_size, config.seed, augment)
        self.plans = plan_phases(recipe, len(kept))
        self.total_steps = self.plans[-1].end_step
        self.step = 0
        self.supernet = use_channels_last(self._build()).train().to(self.device)
        self.supernet.dropout_rate = recipe.dropout
        batch_norm.fuse(self.supernet)
        depthwise.enable()
        self.optimizer = make_optimizer(self.supernet, recipe)
        self.average = (
            WeightAverage(self.supernet, recipe.ema_decay) if recipe.ema_decay > 0 else None
        )
        self._teacher: Supernet | None = None

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
        state = {
            "step": self.step,
            "total_steps": self.total_steps,
            "space": self.config.space,
            "seed": self.config.seed,
            "parts": self.parts,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state
        return state

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from a checkpoint's state."""
        mine = {"space": self.config.space, "seed": self.config.seed}
        mine |= {"total_steps": self.total_steps, "parts": self.parts}
        for key, value in mine.items():
            found = state.get(key, 1)  # checkpoints of one process once had no "parts"
            if found != value:
                message = f"{path} was written with {key} {found!r}, this run has {value!r}"
                raise CheckpointError(message, hint="Choose another output folder, or use --init.")
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.reset()
            for name, value in state.get("average", {}).items():
                self.average.state[name].copy_(value)
        self.step = int(state["step"])

    def save(self, path: Path) -> None:
        """Write the supernet: the averaged weights, where the recipe averages."""
        if self.average is None:
            save_supernet(self.supernet, path)
            return
        own = {name: value.clone() for name, value in self.supernet.state_dict().items()}
        self.supernet.load_state_dict(self.average.state)
        save_supernet(self.supernet, path)
        self.supernet.load_state_dict(own)

    def _begin(self, plan: PhasePlan) -> None:
        """Prepare the first step of a phase."""
        _LOGGER.info("step %d: phase %r begins", self.step, plan.phase.name)
        teacher = self._teacher_file()
        if plan.phase.teacher == "fixed" and not teacher.exists():
            if self.ranks.is_first:
                self.save(teacher)
            self.ranks.wait()
        if plan.phase.sort_channels:
            ratios = kept_ratios(self.plans, plan, self.space)
            self.supernet.sort_channels_by_importance(ratios)
            # The momentum belongs to the old order of the channels.
            self.optimizer.state.clear()
            if self.average is not None:
                self.average.reset()

    def _teacher_file(self) -> Path:
        return self.config.output / "teacher.safetensors"

    def _fixed_teacher(self) -> Supernet:
        """Return the largest network as it was before it began to shrink."""
        if self._teacher is None:
            teacher = load_supernet(self._teacher_file())
            self._teacher = use_channels_last(teacher).eval().to(self.device)
        return self._teacher

    def run_step(self) -> dict[str, Any]:
        """Train on one batch; return its record for the log."""
        plan = next(p for p in self.plans if self.step < p.end_step)
        if self.step == plan.first_step:
            self._begin(plan)
        rate = rate_of_step(self.recipe, plan, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([self.config.seed, 3, self.step])
        chosen = subnets_for_step(plan.phase, self.space, rng)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._run_parts(plan.phase, chosen, rate)
        nn.utils.clip_grad_norm_(self.supernet.parameters(), self.recipe.max_gradient_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        self.step += 1
        return {"step": self.step, "phase": plan.phase.name, "learning_rate": rate, **losses}

    def _run_parts(
        self, phase: Phase, chosen: list[tuple[str, Architecture]], rate: float
    ) -> dict[str, float]:
        """Add up gradients and losses over the parts of this batch, on all processes."""
        sums: dict[str, float] = {}
        statistics = _Statistics(self.supernet) if self.parts > 1 else None
        for part in self.my_parts:
            if statistics is not None:
                statistics.begin_part()
            if self.recipe.dropout > 0.0:
                seed = np.random.SeedSequence([self.config.seed, 4, self.step, part])
                torch.manual_seed(int(seed.generate_state(1)[0]))
            for role, loss in self._losses(phase, chosen, part):
                value = loss.item()
                architecture = dict(chosen)[role]
                self._check(value, rate, architecture)
                (loss / self.parts).backward()  # type: ignore[no-untyped-call]
                sums[role] = sums.get(role, 0.0) + value / self.parts
        if statistics is not None:
            statistics.end(self.ranks, self.parts)
        total = torch.tensor(list(sums.values()), dtype=torch.float32, device=self.device)
        gradients = [p.grad for p in self.supernet.parameters() if p.grad is not None]
        self.ranks.add([*gradients, total])
        if self.ranks.count == 1:
            return sums
        return dict(zip(sums, total.tolist(), strict=True))

    def _losses(
        self, phase: Phase, chosen: list[tuple[str, Architecture]], part: int
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each subnet's loss on one part of the batch, before the next one runs."""
        teacher: Tensor | None = None
        images, labels = self._batch(part)
        for number, (role, architecture) in enumerate(chosen):
            if phase.own_batches and number > 0:
                images, labels = self._batch(part, stream=number)
            x = resize(images, architecture.resolution)
            if phase.teacher == "fixed":
                with torch.no_grad(), self._precision():
                    teacher = self._fixed_teacher()(x).float()
            with self._precision():
                logits = self.supernet(x, architecture).float()
            yield role, self._loss(phase, role, logits, labels, teacher)
            if role == "largest" and phase.teacher == "largest":
                teacher = logits.detach()

    def _batch(self, part: int, *, stream: int = 0) -> tuple[Tensor, Tensor]:
        images, labels = self.source.batch(self.step, part, self.parts, stream=stream)
        return images.to(self.device), labels.to(self.device)

    def _precision(self) -> AbstractContextManager[Any]:
        enabled = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=enabled)

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


class _Statistics:
    """Running statistics of batch norms when a batch has parts: the mean over the parts.

    Every part starts from the same statistics, wherever it is computed.
    """

    def __init__(self, network: nn.Module) -> None:
        self._buffers = [b for b in network.buffers() if b.is_floating_point()]
        self._before = [b.clone() for b in self._buffers]
        self._sums = [torch.zeros_like(b) for b in self._buffers]
        self._has_run = False

    def begin_part(self) -> None:
        """Take up what the last part left, and go back to the start."""
        if self._has_run:
            self._collect()
        torch._foreach_copy_(self._buffers, self._before)
        self._has_run = True

    def _collect(self) -> None:
        torch._foreach_add_(self._sums, self._buffers)

    def end(self, ranks: Processes, parts: int) -> None:
        """Set the statistics to the mean over all parts of all processes."""
        self._collect()
        ranks.add(self._sums)
        torch._foreach_div_(self._sums, float(parts))
        torch._foreach_copy_(self._buffers, self._sums)
