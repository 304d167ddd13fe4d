"""Train a supernet: one loop for all phases, resumable at any step.

Everything random is drawn from (seed, step) or (seed, epoch), so a run that was killed repeats the
steps after its last checkpoint exactly.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ofa_compile.space import search_space
from ofa_compile.training.allocator import keep_memory
from ofa_compile.training.checkpoint import load_checkpoint, save_checkpoint
from ofa_compile.training.data import check_exists, load_images
from ofa_compile.training.distributed import Processes, processes
from ofa_compile.training.optimization import learning_rate, make_optimizer
from ofa_compile.training.recipe import load_recipe
from ofa_compile.training.run_log import RunLog
from ofa_compile.training.train_config import TrainConfig
from ofa_compile.training.trainer import DivergedError, Trainer, choose_device

__all__ = [
    "DivergedError",
    "TrainConfig",
    "TrainResult",
    "learning_rate",
    "make_optimizer",
    "train_supernet",
]

_LOGGER = logging.getLogger(__name__)


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
    images_per_s
        Images a second over the steps of this call; a step counts its batch once, however many
        subnets it trains.
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
    images_per_s: float
    skipped: tuple[str, ...]


Progress = Callable[[int, int, dict[str, float]], None]


def train_supernet(config: TrainConfig, *, progress: Progress | None = None) -> TrainResult:
    """Train a supernet by progressive shrinking, or continue such a run.

    Under `torchrun` all processes call this; each takes its parts of every batch.

    Parameters
    ----------
    config
        The run.
    progress
        Called after every step with images seen, images of the whole schedule, and the losses.

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
    LostProcessError
        If another process of the run ends.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    keep_memory()
    with processes(choose_device(config.device)) as ranks:
        return _train(config, ranks, progress)


def _train(config: TrainConfig, ranks: Processes, progress: Progress | None) -> TrainResult:
    recipe = load_recipe(config.recipe)
    largest = max(search_space(config.space).resolutions)
    size = config.image_size or (largest if largest <= 64 else None)
    check_exists(str(config.data))  # before anything is written
    config.output.mkdir(parents=True, exist_ok=True)
    if not ranks.is_first:
        ranks.wait()  # until the first process has decoded the images
    data = load_images(config.data, size=size, cache=config.cache or config.output)
    if ranks.is_first:
        ranks.wait()
    trainer = Trainer(config, recipe, data, ranks)
    checkpoint = config.output / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(load_checkpoint(checkpoint), checkpoint)
        _LOGGER.info("continuing %s at step %d", checkpoint, trainer.step)
    ranks.wait()  # nobody writes before everybody has read
    loss, speed = _run(trainer, checkpoint, progress)
    weights = None
    if trainer.step == trainer.total_steps:
        weights = config.output / "supernet.safetensors"
        if ranks.is_first:
            trainer.save(weights)
    return TrainResult(
        weights=weights,
        checkpoint=checkpoint,
        step=trainer.step,
        total_steps=trainer.total_steps,
        loss=loss,
        images_per_s=speed,
        skipped=data.skipped,
    )


def _run(trainer: Trainer, checkpoint: Path, progress: Progress | None) -> tuple[float, float]:
    """Run the steps left; return the teacher's mean loss at the end, and images a second."""
    config, size = trainer.config, trainer.recipe.batch_size
    end = min(trainer.total_steps, config.max_steps or trainer.total_steps)
    recent: list[float] = []
    begun, first = time.monotonic(), trainer.step
    written = begun
    is_first = trainer.ranks.is_first
    with RunLog(config.output, trainer.step, tensorboard=config.tensorboard, on=is_first) as log:
        while trainer.step < end:
            started = time.monotonic()
            record = trainer.run_step()
            now = time.monotonic()
            record["seconds"] = round(now - started, 4)
            record["images_per_s"] = round(size / (now - started), 1)
            log.write(record)
            recent = [*recent[-99:], record.get("largest", record.get("random", math.nan))]
            if progress is not None:
                losses = {k: v for k, v in record.items() if isinstance(v, float)}
                progress(trainer.step * size, trainer.total_steps * size, losses)
            is_due = now - written >= config.checkpoint_every_s or trainer.step == end
            if is_first and is_due:
                log.flush()
                save_checkpoint(checkpoint, trainer.state())
                written = now
    speed = (trainer.step - first) * size / max(1e-9, time.monotonic() - begun)
    return float(np.mean(recent)) if recent else math.nan, speed
