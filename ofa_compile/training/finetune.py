"""Specialise one subnet on other images and classes.

The subnet keeps its weights as a start; its classifier is drawn anew unless the classes are the
same. Layers near the input, whose features serve any images, learn slower than those near the end.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ofa_compile.errors import CheckpointError, DataError
from ofa_compile.space import Architecture
from ofa_compile.supernet import Supernet
from ofa_compile.training import batch_norm, depthwise
from ofa_compile.training.allocator import keep_memory
from ofa_compile.training.augmentation import augmentation
from ofa_compile.training.batches import BatchSource
from ofa_compile.training.channels_last import use_channels_last
from ofa_compile.training.checkpoint import load_checkpoint, save_checkpoint
from ofa_compile.training.data import ImageData, normalize, split_indices
from ofa_compile.training.evaluate import evaluate_subnet
from ofa_compile.training.optimization import cosine
from ofa_compile.training.trainer import DivergedError

__all__ = ["FinetuneConfig", "FinetuneResult", "finetune_subnet", "layer_groups"]

_LOGGER = logging.getLogger(__name__)
_MAX_EVALUATION_IMAGES = 5000


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of a run.

    Attributes
    ----------
    output
        Folder of ``checkpoint.pt`` (which a second run continues) and ``log.jsonl``.
    epochs
        Passes over the training images.
    batch_size
        Images per step.
    learning_rate
        Of the classifier, at its peak: a warm-up over a twentieth of the steps, then a cosine.
    layer_decay
        Factor between the rates of one layer and of the next one towards the input.
    momentum, weight_decay, label_smoothing, max_gradient_norm
        Of SGD with Nesterov momentum and its loss.
    held_out
        Share of the training images to state the accuracy on, where there are no test images.
    augmentation
        As in a recipe.
    seed
        Seed of the classifier, the order and the augmentation.
    checkpoint_every_s
        Seconds between checkpoints.
    """

    output: Path
    epochs: float = 10.0
    batch_size: int = 32
    learning_rate: float = 0.02
    layer_decay: float = 0.85
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    max_gradient_norm: float = 4.0
    held_out: float = 0.1
    augmentation: str = "pad-crop"
    seed: int = 0
    checkpoint_every_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """Outcome of a run.

    Attributes
    ----------
    subnet
        The specialised network, in evaluation mode.
    top1
        Fraction of `num_images` whose class is right.
    num_images
        Images of `part` that it was evaluated on.
    part
        "test" or "held-out".
    steps
        Steps trained.
    """

    subnet: nn.Module
    top1: float
    num_images: int
    part: str
    steps: int


Progress = Callable[[int, int, float], None]


def finetune_subnet(
    supernet: Supernet,
    architecture: Architecture,
    data: ImageData,
    config: FinetuneConfig,
    *,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Specialise a subnet, or continue such a run.

    Parameters
    ----------
    supernet
        Source of the weights.
    architecture
        Which subnet.
    data
        The user's images at the architecture's resolution, with the mean and standard deviation
        that the supernet was trained with.
    config
        Settings.
    progress
        Called after every step with the step, the total and the loss.

    Raises
    ------
    DataError
        If there are too few images or classes.
    CheckpointError
        If the output folder holds another run's checkpoint.
    DivergedError
        If the loss is not finite.
    """
    if len(data.labels) < 2:
        message = f"the images are of {len(data.labels)} class; two or more are needed"
        raise DataError(message, hint="Put the images of each class into a folder of its own.")
    keep_memory()
    held_out = 0 if len(data.test_images) else round(config.held_out * len(data.train_images))
    kept, held = split_indices(len(data.train_images), held_out)
    if len(kept) < 2:
        message = f"{len(kept)} training images are too few to specialise on"
        raise DataError(message)
    run = _Run(_with_classes(supernet, architecture, data, config.seed), architecture, data, config)
    augment = augmentation(config.augmentation)
    run.train(BatchSource(data, kept, config.batch_size, config.seed, augment), progress)
    part = "test" if len(data.test_images) else "held-out"
    images, labels = (
        (data.test_images, data.test_labels)
        if part == "test"
        else (data.train_images[held], data.train_labels[held])
    )
    chosen = np.random.default_rng(0).permutation(len(images))[:_MAX_EVALUATION_IMAGES]
    x = normalize(images[chosen], data.mean, data.std)
    top1 = evaluate_subnet(run.subnet, x, torch.from_numpy(labels[chosen])) if len(x) else math.nan
    return FinetuneResult(
        subnet=run.subnet, top1=top1, num_images=len(x), part=part, steps=run.step
    )


def _with_classes(
    supernet: Supernet, architecture: Architecture, data: ImageData, seed: int
) -> nn.Module:
    """Extract a subnet; give it a new classifier unless the classes are the supernet's."""
    subnet = supernet.extract(architecture)
    if tuple(supernet.metadata.get("labels") or ()) == data.labels:
        return subnet
    head = subnet.classifier
    assert isinstance(head, nn.Module)
    old = head.linear
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, len(data.labels))
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(new.weight, 0.0, 0.01, generator=generator)
    nn.init.zeros_(new.bias)
    head.linear = new
    return subnet


def layer_groups(subnet: nn.Module) -> list[list[tuple[str, nn.Parameter]]]:
    """Return the named parameters of each layer, from the input to the classifier.

    A layer is a block, or a child of the network outside the blocks.
    """
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in subnet.named_parameters():
        parts = name.split(".")
        key = ".".join(parts[:2]) if parts[0] in ("blocks", "input_stem") else parts[0]
        groups.setdefault(key, []).append((name, parameter))
    return list(groups.values())


class _Run:
    """A specialisation on its way."""

    def __init__(
        self, subnet: nn.Module, architecture: Architecture, data: ImageData, config: FinetuneConfig
    ) -> None:
        self.config, self.step = config, 0
        self.subnet = use_channels_last(subnet)
        # Trains through our kernels and shares its weights with `subnet`, which stays plain.
        self.trained = copy.deepcopy(subnet)
        for name, module in self.trained.named_modules():
            plain = subnet.get_submodule(name)
            module._parameters, module._buffers = plain._parameters, plain._buffers
        batch_norm.fuse(self.trained)
        depthwise.accelerate(self.trained)
        settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "output"}
        settings.pop("checkpoint_every_s")
        self.identity = json.dumps(
            {"architecture": architecture.hash, "labels": data.labels, **settings}, sort_keys=True
        )
        groups = layer_groups(self.trained)
        self.optimizer = torch.optim.SGD(
            [
                {
                    "params": [p for _, p in layer if (p.ndim > 1) is decays],
                    "weight_decay": config.weight_decay if decays else 0.0,
                    "share": config.layer_decay ** (len(groups) - 1 - number),
                }
                for number, layer in enumerate(groups)
                for decays in (True, False)
            ],
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=True,
        )

    def train(self, source: BatchSource, progress: Progress | None) -> None:
        """Do the steps that are left."""
        config = self.config
        config.output.mkdir(parents=True, exist_ok=True)
        checkpoint = config.output / "checkpoint.pt"
        total = max(1, round(config.epochs * source.num_images / config.batch_size))
        if checkpoint.exists():
            self._restore(load_checkpoint(checkpoint), checkpoint)
        self.trained.train()
        written = time.monotonic()
        while self.step < total:
            loss = self._run_step(source, total)
            if progress is not None:
                progress(self.step, total, loss)
            if time.monotonic() - written >= config.checkpoint_every_s or self.step == total:
                save_checkpoint(checkpoint, self._state())
                written = time.monotonic()
        self.subnet.eval()

    def _run_step(self, source: BatchSource, total: int) -> float:
        rate = cosine(self.step, total, (self.config.learning_rate, 0.0), total // 20)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        images, labels = source.batch(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(
            self.trained(images), labels, label_smoothing=self.config.label_smoothing
        )
        value = loss.item()
        if not math.isfinite(value):
            message = f"the loss is {value} at step {self.step}, learning rate {rate:.5g}"
            raise DivergedError(message, hint="Use a lower --learning-rate.")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.max_gradient_norm)
        self.optimizer.step()
        self.step += 1
        return value

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "finetune": self.identity,
            "subnet": self.subnet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        if state.get("finetune") != self.identity:
            message = f"{path} is of another run: other images, architecture or settings"
            raise CheckpointError(message, hint="Choose another output folder, or delete it.")
        self.subnet.load_state_dict(state["subnet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        _LOGGER.info("continuing %s at step %d", path, self.step)
