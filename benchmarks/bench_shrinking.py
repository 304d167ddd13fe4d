"""What sharing weights costs: subnets of a shrunk supernet beside the same networks trained alone.

The supernet is trained by a recipe whose phases are all shortened by `--scale`; the smallest, the
middle and the largest architecture are then trained alone, each from fresh weights, for as many
optimiser steps of the same batches, learning rates and label smoothing (where a recipe gives every
subnet of a step a batch of its own, a step of the supernet sees several). With --rival a second
recipe, shortened to as many images forward and backward, is compared too. Accuracies are top-1 on
the test images, every network BN-calibrated on the same 2,000 training images. Runs keep
checkpoints in --work and are continued there.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table

SPACE = "ofa_mbv3_cifar"


def main() -> None:
    """Train, evaluate and report."""
    options = _arguments()
    if options.work is not None:
        _compare(options, options.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        _compare(options, Path(folder))


def _arguments() -> argparse.Namespace:
    result = parser(__doc__ or "")
    result.add_argument("--data", type=Path, help="images, one folder per class (CIFAR-10)")
    result.add_argument("--work", type=Path, help="folder for checkpoints; none: a temporary one")
    result.add_argument("--recipe", default="cifar")
    result.add_argument("--rival", help="another recipe, for instance cifar-sandwich")
    result.add_argument("--scale", type=float, default=0.1, help="share of the recipe's epochs")
    result.add_argument("--threads", type=int, default=1)
    options = result.parse_args()
    if options.data is None and not options.quick:
        message = "skipped, no data: pass --data FOLDER with one folder of images per class"
        raise SystemExit(message)
    return options


def _compare(options: argparse.Namespace, work: Path) -> None:
    import torch

    from ofa_compile.training.allocator import keep_memory
    from ofa_compile.training.evaluate import test_set_images

    torch.set_num_threads(options.threads)
    keep_memory()
    data = _images(options, work)
    held_out = 16 if options.quick else 5000
    recipes = {
        name: _shortened(name, options, held_out)
        for name in (options.recipe, options.rival)
        if name
    }
    calibration = 32 if options.quick else 2000
    images = test_set_images(data, held_out=held_out, calibration=calibration)
    rows = {
        name: {"macs": size, "resolution": a.resolution} for name, (a, size) in _subnets().items()
    }
    runs: dict[str, Any] = {}
    for name, recipe in recipes.items():
        supernet, runs[name] = _train_supernet(recipe, data, work / name, options)
        for subnet, (architecture, _) in _subnets().items():
            rows[subnet][name] = _accuracy(supernet, architecture, images)
            say(options, f"{name}: {subnet} {rows[subnet][name]:.2%}")
    steps = runs[options.recipe]["steps"]
    for subnet, (architecture, _) in _subnets().items():
        started = time.monotonic()
        alone = _train_alone(recipes[options.recipe], data, architecture, steps, options)
        rows[subnet]["alone"] = _top1(alone, images, architecture.resolution)
        runs[f"{subnet} alone"] = {"steps": steps, "seconds": time.monotonic() - started}
        say(options, f"alone: {subnet} {rows[subnet]['alone']:.2%}")
    columns = [*recipes, "alone"]
    lines = [[n, *(f"{100 * row[c]:.2f}" for c in columns)] for n, row in rows.items()]
    say(options, table(["subnet", *columns], lines))
    finish({"space": SPACE, "scale": options.scale, "runs": runs, "subnets": rows}, options)


def _subnets() -> dict[str, tuple[Any, int]]:
    """Return the architectures compared, with their multiply-accumulates."""
    from ofa_compile.space import macs, search_space

    space = search_space(SPACE)
    middle = space.from_indices(np.array([(len(g.choices) - 1) // 2 for g in space.genes]))
    chosen = {"smallest": space.smallest(24), "middle": middle, "largest": space.largest(32)}
    return {name: (a, macs(a, space=space)) for name, a in chosen.items()}


def _images(options: argparse.Namespace, work: Path) -> Any:
    from ofa_compile.training.data import ImageData, load_images

    if options.data is not None:
        return load_images(options.data, size=32, cache=work)
    rng = np.random.default_rng(options.seed)
    images = rng.integers(0, 255, (96, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 96)
    return ImageData(
        train_images=images, train_labels=labels, test_images=images[:32], test_labels=labels[:32],
        labels=tuple("abcdefghij"), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    )  # fmt: skip


def _shortened(name: str, options: argparse.Namespace, held_out: int) -> Any:
    """Return a recipe with all its phases and its warm-up shortened."""
    from ofa_compile.training.recipe import load_recipe

    recipe = load_recipe(name)
    scale = 0.001 if options.quick else options.scale
    phases = tuple(dataclasses.replace(p, epochs=p.epochs * scale) for p in recipe.phases)
    return dataclasses.replace(
        recipe,
        phases=phases,
        warmup_steps=round(recipe.warmup_steps * scale),
        held_out=held_out,
        batch_size=8 if options.quick else recipe.batch_size,
    )


def _train_supernet(
    recipe: Any, data: Any, folder: Path, options: argparse.Namespace
) -> tuple[Any, dict[str, Any]]:
    from ofa_compile.training.checkpoint import load_checkpoint, save_checkpoint
    from ofa_compile.training.train_config import TrainConfig
    from ofa_compile.training.trainer import Trainer

    folder.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(data=Path(), output=folder, space=SPACE, seed=options.seed, device="cpu")
    trainer, file = Trainer(config, recipe, data), folder / "checkpoint.pt"
    if file.exists():
        trainer.restore(load_checkpoint(file), file)
    started, first = time.monotonic(), trainer.step
    while trainer.step < trainer.total_steps:
        trainer.run_step()
        if trainer.step % 100 == 0 or trainer.step == trainer.total_steps:
            save_checkpoint(file, trainer.state())
    seconds = time.monotonic() - started
    record = {"steps": trainer.total_steps, "seconds": seconds, "steps_timed": trainer.step - first}
    return trainer.supernet.eval(), record


def _train_alone(
    recipe: Any, data: Any, architecture: Any, steps: int, options: argparse.Namespace
) -> Any:
    """Train one architecture from fresh weights; return it as a plain network."""
    from torch import nn
    from torch.nn import functional

    from ofa_compile.space import search_space
    from ofa_compile.supernet import build_supernet
    from ofa_compile.training import batch_norm, depthwise
    from ofa_compile.training.batches import BatchSource
    from ofa_compile.training.channels_last import use_channels_last
    from ofa_compile.training.data import resize, split_indices
    from ofa_compile.training.optimization import learning_rate, make_optimizer

    fresh = build_supernet(search_space(SPACE), num_classes=len(data.labels), seed=options.seed)
    subnet = use_channels_last(fresh.extract(architecture)).train()
    batch_norm.fuse(subnet)
    depthwise.accelerate(subnet)
    optimizer = make_optimizer(subnet, recipe)
    kept, _ = split_indices(len(data.train_images), recipe.held_out)
    source = BatchSource(data, kept, recipe.batch_size, options.seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, steps)
        images, labels = source.batch(step)
        logits = subnet(resize(images, architecture.resolution))
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(subnet.parameters(), recipe.max_gradient_norm)
        optimizer.step()
    plain = use_channels_last(fresh.extract(architecture))
    plain.load_state_dict(subnet.state_dict())
    return plain


def _accuracy(supernet: Any, architecture: Any, images: Any) -> float:
    return _top1(supernet.extract(architecture), images, architecture.resolution)


def _top1(subnet: Any, images: Any, resolution: int) -> float:
    from ofa_compile.training.bn_calibration import calibrate_bn
    from ofa_compile.training.data import resize
    from ofa_compile.training.evaluate import evaluate_subnet

    subnet.eval()
    calibrate_bn(subnet, resize(images.calibration, resolution))
    return evaluate_subnet(subnet, resize(images.images, resolution), images.labels)


if __name__ == "__main__":
    main()
