"""Evaluate many subnets, computing what several have in common once.

Subnets are visited like the leaves of a tree whose edges are blocks: what reaches a block depends
only on the resolution and the blocks before it, batch-norm calibration included. The result is
that of calibrating and evaluating each subnet by itself, up to the rounding of float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ofa_compile.space import Architecture, MobileNetSpace
from ofa_compile.supernet import Supernet
from ofa_compile.supernet.families import MobileNetSupernet
from ofa_compile.supernet.subnet import ResidualBlock
from ofa_compile.training import block_kernels as kernels
from ofa_compile.training.block_inference import (
    CHUNK_BYTES,
    Activations,
    BlockWeights,
    block_weights,
    norm_weights,
    pointwise_moments,
    pointwise_weights,
    run_block,
    scaled,
)
from ofa_compile.training.bn_calibration import calibrated_output

__all__ = ["PrefixEvaluator", "block_path", "can_evaluate", "order_by_prefix"]

Block = tuple[int, int, int, float]  # stage, number in the stage, kernel size, expand ratio
_STEM_BATCH = 100


def block_path(architecture: Architecture) -> tuple[Block, ...]:
    """Return the blocks of a subnet in order: equal paths compute equal things."""
    return tuple(
        (stage, number, kernel, ratio)
        for stage, (kernels_, ratios) in enumerate(
            zip(architecture.kernel_sizes, architecture.expand_ratios, strict=True)
        )
        for number, (kernel, ratio) in enumerate(zip(kernels_, ratios, strict=True))
    )


def order_by_prefix(architectures: Sequence[Architecture]) -> list[Architecture]:
    """Sort subnets so that those with a common beginning follow each other."""
    return sorted(architectures, key=lambda a: (a.resolution, block_path(a)))


def can_evaluate(supernet: Supernet) -> bool:
    """Tell whether `PrefixEvaluator` serves a supernet on this machine."""
    return isinstance(supernet, MobileNetSupernet) and kernels.is_available()


def _common(first: Sequence[Block], second: Sequence[Block]) -> int:
    """Return the length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


class PrefixEvaluator:
    """Top-1 of the subnets of one supernet on one set of images.

    Parameters
    ----------
    supernet
        Source of the weights; `can_evaluate` must accept it.
    scaled
        Returns evaluation and calibration images at a resolution, both (n, 3, height, width).
    labels
        Classes of the evaluation images.
    """

    def __init__(
        self,
        supernet: Supernet,
        scaled: Callable[[int], tuple[Tensor, Tensor]],
        labels: Tensor,
    ) -> None:
        assert isinstance(supernet, MobileNetSupernet)  # `can_evaluate` said so
        self._supernet = supernet
        self._space: MobileNetSpace = supernet.space
        self._scaled, self._labels = scaled, labels
        self._weights: dict[Block, BlockWeights] = {}

    def evaluate(
        self, architectures: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, float]]:
        """Yield subnets with their top-1, in the order of `order_by_prefix`."""
        ordered = order_by_prefix(architectures)
        paths = [(a.resolution, block_path(a)) for a in ordered]
        # What of each subnet the next one can go on from; -1: not even the stem.
        shared = [
            _common(path, following) if resolution == next_resolution else -1
            for (resolution, path), (next_resolution, following) in pairwise(paths)
        ]
        kept: list[tuple[int, Activations]] = []  # depth and what reaches it, deepest last
        for i, (architecture, (resolution, path)) in enumerate(zip(ordered, paths, strict=True)):
            start = shared[i - 1] if i > 0 else -1
            kept = [(depth, x) for depth, x in kept if depth <= start]
            if start < 0:
                kept, start = [(0, self._stem(resolution))], 0
            _, x = kept[-1]
            wanted = _branches(shared, i, start)
            blocks = self._blocks(architecture)
            for depth in range(start + 1, len(path) + 1):
                x = run_block(blocks[depth - 1], x)
                if depth in wanted:
                    kept.append((depth, x))
            yield architecture, self._top1(x)

    def _blocks(self, architecture: Architecture) -> list[BlockWeights]:
        """Return the weights of a subnet's blocks, each extracted once."""
        path = block_path(architecture)
        if not self._weights.keys() >= set(path):
            _, *blocks = self._supernet.extract(architecture).get_submodule("blocks").children()
            for key, block in zip(path, blocks, strict=True):
                assert isinstance(block, ResidualBlock)
                self._weights.setdefault(key, block_weights(block))
        return [self._weights[key] for key in path]

    @torch.no_grad()
    def _stem(self, resolution: int) -> Activations:
        """Return what the fixed first layers compute."""
        evaluation, calibration = self._scaled(resolution)
        layers = [self._supernet.first_conv, self._supernet.blocks[0]]
        stem = nn.Sequential(*(copy.deepcopy(layer) for layer in layers)).eval()
        own = calibrated_output(stem, calibration)
        outputs = torch.cat([stem(part) for part in torch.split(evaluation, _STEM_BATCH)])
        return Activations(_pixels_first(own), _pixels_first(outputs))

    @torch.no_grad()
    def _top1(self, x: Activations) -> float:
        """Apply the head; return the fraction of right answers."""
        net = self._supernet
        y = x.evaluation
        has_mix = net.final_expand_layer is not None
        wide = net.final_expand_layer if has_mix else net.feature_mix_layer
        assert wide is not None
        weight = pointwise_weights(wide)
        moments = pointwise_moments(weight, x.covariance(), x.calibration[..., 0].numel())
        packed, bias = scaled(weight, norm_weights(wide.get_submodule("bn")).fold_running(moments))
        act = self._space.head_activation
        size = max(1, CHUNK_BYTES // (4 * y[0, ..., 0].numel() * len(weight)))
        pooled = [
            kernels.pool(kernels.pointwise(part, packed, bias, len(weight), act))
            for part in torch.split(y, size)
        ]
        features = torch.cat(pooled)
        if has_mix:
            weight = pointwise_weights(net.feature_mix_layer)
            none = kernels.pack_vector(torch.zeros(len(weight)))
            packed = kernels.pack_matrix(weight)
            features = kernels.pointwise(features, packed, none, len(weight), act)
        logits = net.classifier.linear(features)
        return int((logits.argmax(dim=1) == self._labels).sum()) / len(self._labels)


def _branches(shared: list[int], index: int, start: int) -> set[int]:
    """Return the depths beyond `start` that later subnets go on from, of subnet `index`."""
    wanted: set[int] = set()
    lowest = None
    for length in shared[index:]:
        lowest = length if lowest is None else min(lowest, length)
        if lowest <= start:
            break
        wanted.add(lowest)
    return wanted


def _pixels_first(x: Tensor) -> Tensor:
    """Return a dense (n, height, width, channels) tensor."""
    return x.permute(0, 2, 3, 1).contiguous()
