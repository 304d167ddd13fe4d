"""Training speed: our loop beside a plain one of the same semantics, same network, batch and step.

The plain loop is what one writes from the Once-for-All paper: PyTorch modules in their default
layout, weights sliced per subnet, PyTorch's own batch norm and convolutions, one optimiser step
per batch for the largest network, the smallest and a random one, distilled from the largest. Both
start from the same weights and see the same images and subnets, which their first losses prove.
Each contender runs in a process of its own, since ours changes how memory is allocated; rounds
alternate.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import finish, parser, say

SPACE = "ofa_mbv3_cifar"
CONTENDERS = ("ours", "plain")
# Ours with one part of it left out: says where the speed comes from.
ABLATIONS = ("no-depthwise", "no-batch-norm", "no-memory")
# Losses of the first step, near ln 10 for every subnet: other subnets or images differ by 1e-4.
TOLERANCE = 1e-5


def main() -> None:
    """Run the comparison and report it."""
    options = _arguments()
    if options.contender:
        document = run(options.contender, options)
        sys.stdout.write(json.dumps(document) + "\n")
        return
    names = (*CONTENDERS, *ABLATIONS) if options.ablate else CONTENDERS
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            rounds[name].append(_in_a_process(name, options))
            speed = rounds[name][-1]["images_per_s"]
            say(options, f"round {number + 1}: {name:13} {speed:7.1f} images/s")
    ratios = [
        ours["images_per_s"] / plain["images_per_s"]
        for ours, plain in zip(rounds["ours"], rounds["plain"], strict=True)
    ]
    losses = [rounds[name][0]["first_losses"] for name in CONTENDERS]
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    if difference > TOLERANCE:
        msg = f"the loops do not compute the same: first losses {losses}"
        raise SystemExit(msg)
    say(options, f"ours is faster by {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    result = {
        "space": SPACE,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "threads": options.threads,
        "rounds": rounds,
        "ratios": ratios,
        "median_ratio": median(ratios),
        "first_loss_difference": difference,
    }
    finish(result, options)


def _arguments() -> argparse.Namespace:
    result = parser(__doc__ or "")
    result.add_argument("--contender", choices=(*CONTENDERS, *ABLATIONS), help=argparse.SUPPRESS)
    result.add_argument("--ablate", action="store_true", help="also leave out parts of ours")
    result.add_argument("--batch-size", type=int, default=64)
    result.add_argument("--steps", type=int, default=6, help="timed steps per round, after one")
    result.add_argument("--rounds", type=int, default=4)
    result.add_argument("--threads", type=int, default=1)
    options = result.parse_args()
    if options.quick:
        options.batch_size, options.steps, options.rounds = 4, 1, 1
    return options


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--contender", name]
    for option in ("batch_size", "steps", "threads", "seed"):
        command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        msg = f"{name} failed:\n{done.stderr[-2000:]}"
        raise SystemExit(msg)
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def run(contender: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of one contender, augmentation included."""
    import torch

    torch.set_num_threads(options.threads)
    step = _plain(options) if contender == "plain" else _ours(options, contender)
    losses = step(0)
    started = time.perf_counter()
    for number in range(1, options.steps + 1):
        step(number)
    seconds = time.perf_counter() - started
    speed = options.steps * options.batch_size / seconds
    return {"images_per_s": speed, "seconds": seconds, "first_losses": losses}


def _data(options: argparse.Namespace) -> Any:
    """Return random images: what is in them does not change the time."""
    from ofa_compile.training.data import ImageData

    rng = np.random.default_rng(options.seed)
    count = 16 * options.batch_size
    images = rng.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, count)
    return ImageData(
        train_images=images,
        train_labels=labels,
        test_images=images[:0],
        test_labels=labels[:0],
        labels=tuple("abcdefghij"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def _recipe(options: argparse.Namespace) -> Any:
    from ofa_compile.training.recipe import Phase, Recipe

    phase = Phase(
        name="all",
        epochs=1000.0,
        resolutions=(32,),
        elastic=("kernel_size", "depth", "expand_ratio"),
        random_subnets=1,
        distillation_ratio=1.0,
    )
    return Recipe(
        phases=(phase,),
        batch_size=options.batch_size,
        held_out=0,
        learning_rate=0.01,
        weight_decay=3e-5,
        label_smoothing=0.1,
        max_gradient_norm=1e9,
    )


def _ours(options: argparse.Namespace, contender: str) -> Any:
    from ofa_compile.supernet import functional
    from ofa_compile.training import batch_norm
    from ofa_compile.training.allocator import keep_memory
    from ofa_compile.training.train_config import TrainConfig
    from ofa_compile.training.trainer import Trainer

    if contender != "no-memory":
        keep_memory()
    if contender == "no-batch-norm":
        batch_norm.fuse = lambda _: 0
    config = TrainConfig(data=Path(), output=Path(), space=SPACE, seed=options.seed, device="cpu")
    trainer = Trainer(config, _recipe(options), _data(options))
    if contender == "no-depthwise":
        functional.set_depthwise_backend(None)

    def step(number: int) -> list[float]:
        assert trainer.step == number
        record = trainer.run_step()
        return [record[role] for role in ("largest", "smallest", "random")]

    return step


def _plain(options: argparse.Namespace) -> Any:
    """Return a step of the plain loop."""
    import torch
    from torch.nn import functional

    from ofa_compile.space import search_space
    from ofa_compile.supernet import build_supernet
    from ofa_compile.training.batches import BatchSource
    from ofa_compile.training.progressive_shrinking import subnets_for_step

    recipe, data, space = _recipe(options), _data(options), search_space(SPACE)
    network = build_supernet(space, num_classes=10, seed=options.seed).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=3e-5
    )
    kept = np.arange(len(data.train_images))
    source = BatchSource(data, kept, options.batch_size, options.seed)

    def step(number: int) -> list[float]:
        images, labels = source.batch(number)
        images = images.contiguous(memory_format=torch.contiguous_format)
        rng = np.random.default_rng([options.seed, 3, number])
        optimizer.zero_grad()
        losses, teacher = [], None
        for _, architecture in subnets_for_step(recipe.phases[0], space, rng):
            logits = network(images, architecture)
            if teacher is None:
                loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
                teacher = torch.softmax(logits.detach(), dim=1)
            else:
                loss = -(teacher * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()
            losses.append(loss.item())
            loss.backward()
        optimizer.step()
        return losses

    return step


if __name__ == "__main__":
    main()
