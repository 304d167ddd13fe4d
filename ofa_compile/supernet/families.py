"""The supernets of each family of search spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import Architecture, MobileNetSpace, ResNetSpace, SearchSpace
from ofa_compile.supernet import subnet as static
from ofa_compile.supernet.blocks import ElasticBottleneck, ElasticConvLayer, ElasticResidualBlock
from ofa_compile.supernet.elastic import ElasticLinear
from ofa_compile.supernet.supernet import Supernet


class MobileNetSupernet(Supernet):
    """Supernet of the MobileNetV3 and ProxylessNAS families."""

    space: MobileNetSpace

    def __init__(
        self, space: MobileNetSpace, num_classes: int, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(space, num_classes, metadata)
        self.first_conv = static.mobilenet_stem(space)
        blocks: list[nn.Module] = [static.mobilenet_first_block(space)]
        for stage, num_blocks in enumerate(space.stage_max_blocks):
            blocks += [ElasticResidualBlock(space, stage, block) for block in range(num_blocks)]
        self.blocks = nn.ModuleList(blocks)
        self.final_expand_layer = static.mobilenet_final_expand(space)
        self.feature_mix_layer = static.mobilenet_feature_mix(space)
        self.classifier = static.Classifier(space.last_width, num_classes)
        self._first_blocks = _first_blocks(space, 1)

    def _forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        x = self.blocks[0](self.first_conv(x))
        stages = zip(
            self._first_blocks, architecture.kernel_sizes, architecture.expand_ratios, strict=True
        )
        for first, kernels, ratios in stages:
            for block, (kernel, ratio) in enumerate(zip(kernels, ratios, strict=True)):
                x = self.blocks[first + block](x, kernel, ratio)
        if self.final_expand_layer is not None:
            x = F.adaptive_avg_pool2d(self.final_expand_layer(x), 1)
            x = self.feature_mix_layer(x)
        else:
            x = F.adaptive_avg_pool2d(self.feature_mix_layer(x), 1)
        y: Tensor = self.classifier(self._classifier_input(x))
        return y

    def _build_subnet(self, architecture: Architecture) -> nn.Module:
        return static.MobileNetSubnet(self.space, architecture, self.num_classes)

    def _source_name(self, architecture: Architecture, name: str) -> str:
        numbers = [0]
        for first, depth in zip(self._first_blocks, architecture.depths, strict=True):
            numbers += range(first, first + depth)
        return _renumber(name, "blocks", numbers)


class ResNetSupernet(Supernet):
    """Supernet of the ResNet50D family."""

    space: ResNetSpace

    def __init__(
        self, space: ResNetSpace, num_classes: int, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(space, num_classes, metadata)
        eps = space.bn_epsilon
        mid, stem = max(space.stem_mid_widths), max(space.stem_widths)
        residual = ElasticConvLayer(mid, mid, 3, activation="relu", bn_epsilon=eps)
        self.input_stem = nn.ModuleList(
            [
                ElasticConvLayer(3, mid, 3, stride=2, activation="relu", bn_epsilon=eps),
                nn.ModuleDict({"conv": residual}),
                ElasticConvLayer(mid, stem, 3, activation="relu", bn_epsilon=eps),
            ]
        )
        self.blocks = nn.ModuleList(
            ElasticBottleneck(space, stage, block)
            for stage, num_blocks in enumerate(space.stage_max_blocks)
            for block in range(num_blocks)
        )
        self.classifier = nn.ModuleDict(
            {"linear": ElasticLinear(max(space.stage_width_choices[-1]), num_classes)}
        )
        self._first_blocks = _first_blocks(space, 0)

    def _forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        mid, stem, stage_widths = self.space.widths(architecture)
        x = self.input_stem[0](x, mid)
        if architecture.stem_depth:
            x = x + self.input_stem[1]["conv"](x, mid)  # type: ignore[index]
        x = F.max_pool2d(self.input_stem[2](x, stem), 3, 2, 1)
        stages = zip(self._first_blocks, stage_widths, architecture.expand_ratios, strict=True)
        for first, width, ratios in stages:
            for block, ratio in enumerate(ratios):
                x = self.blocks[first + block](x, width, ratio)
        x = self._classifier_input(F.adaptive_avg_pool2d(x, 1))
        y: Tensor = self.classifier["linear"](x)
        return y

    def _build_subnet(self, architecture: Architecture) -> nn.Module:
        return static.ResNetSubnet(self.space, architecture, self.num_classes)

    def _source_name(self, architecture: Architecture, name: str) -> str:
        numbers: list[int] = []
        for first, ratios in zip(self._first_blocks, architecture.expand_ratios, strict=True):
            numbers += range(first, first + len(ratios))
        stem = [0, 1, 2] if architecture.stem_depth else [0, 2]
        return _renumber(_renumber(name, "blocks", numbers), "input_stem", stem)


def build_supernet(
    space: SearchSpace,
    *,
    num_classes: int | None = None,
    seed: int | None = 0,
    metadata: dict[str, Any] | None = None,
) -> Supernet:
    """Build the supernet of a search space with fresh weights.

    Parameters
    ----------
    space
        Search space.
    num_classes
        Length of the logits; None for the space's default.
    seed
        Seed of the weights; None leaves PyTorch's own initial values, for loading others.
    metadata
        Facts to carry along.
    """
    classes = space.num_classes_default if num_classes is None else num_classes
    supernet: Supernet
    match space:
        case MobileNetSpace():
            supernet = MobileNetSupernet(space, classes, metadata)
        case ResNetSpace():
            supernet = ResNetSupernet(space, classes, metadata)
        case _:
            message = f"no supernet is known for the family {space.family!r} of {space.name}"
            raise ArchitectureError(message, hint="Use one of the package's search spaces.")
    if seed is not None:
        supernet.initialize(seed)
    return supernet


def _first_blocks(space: SearchSpace, start: int) -> list[int]:
    """Return the number of each stage's first block."""
    numbers = []
    for num_blocks in space.stage_max_blocks:
        numbers.append(start)
        start += num_blocks
    return numbers


def _renumber(name: str, container: str, numbers: Sequence[int]) -> str:
    prefix, number, *rest = name.split(".", 2)
    if prefix != container:
        return name
    return ".".join([prefix, str(numbers[int(number)]), *rest])
