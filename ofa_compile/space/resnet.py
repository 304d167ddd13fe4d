"""Search space of ResNet50D with elastic depth, expand ratio and width."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from ofa_compile.errors import ArchitectureError
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import LayerSpec, halved, make_divisible
from ofa_compile.space.search_space import Gene, SearchSpace

_STAGE_WIDTHS = (256, 512, 1024, 2048)
_STEM_WIDTH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetSpace(SearchSpace):
    """ResNet50D: a deep stem, max pooling, four stages of elastic bottleneck blocks.

    `Architecture.width_indices` choose, in this order, the width of the stem's middle, of the
    stem's output and of the four stages.

    Attributes
    ----------
    name, resolutions
        Name of the space; input sizes for sampling, search and predictors.
    width_multipliers
        Elastic widths, ascending.
    stage_base_depths, depth_choices
        Blocks every architecture has per stage; how many may be added.
    stage_strides
        Stride of each stage's first block.
    expand_ratio_choices
        Bottleneck width as a share of the block's output.
    stem_depth_choices
        0 or 2: without or with the residual convolution of the stem.
    bn_epsilon, num_classes_default
        Batch-norm epsilon; classes of a fresh supernet.
    """

    family: ClassVar[str] = "resnet50"

    name: str
    resolutions: tuple[int, ...]
    width_multipliers: tuple[float, ...] = (0.65, 0.8, 1.0)
    stage_base_depths: tuple[int, ...] = (2, 2, 4, 2)
    depth_choices: tuple[int, ...] = (0, 1, 2)
    stage_strides: tuple[int, ...] = (1, 2, 2, 2)
    base_stage_widths: tuple[int, ...] = _STAGE_WIDTHS
    base_stem_width: int = _STEM_WIDTH
    expand_ratio_choices: tuple[float, ...] = (0.2, 0.25, 0.35)
    stem_depth_choices: tuple[int, ...] = (0, 2)
    bn_epsilon: float = 1e-5
    num_classes_default: int = 1000
    _cache: dict[Any, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Choices for the stem's output channels."""
        return self._widths(self.base_stem_width)

    @property
    def stem_mid_widths(self) -> tuple[int, ...]:
        """Choices for the channels inside the stem."""
        return tuple(make_divisible(width // 2) for width in self.stem_widths)

    @property
    def stage_width_choices(self) -> tuple[tuple[int, ...], ...]:
        """Choices for the output channels of each stage."""
        return tuple(self._widths(base) for base in self.base_stage_widths)

    def _widths(self, base: int) -> tuple[int, ...]:
        return tuple(make_divisible(base * mult) for mult in self.width_multipliers)

    def mid_channels(self, out_channels: int, expand_ratio: float) -> int:
        """Return the channels of a bottleneck block's 3x3 convolution."""
        return make_divisible(round(out_channels * expand_ratio))

    @property
    def stage_depths(self) -> tuple[tuple[int, ...], ...]:
        """Choices of `Architecture.depths`, per stage."""
        return (self.depth_choices,) * len(self.stage_base_depths)

    @property
    def base_depths(self) -> tuple[int, ...]:
        """Blocks of each stage that come on top of `Architecture.depths`."""
        return self.stage_base_depths

    @property
    def extra_genes(self) -> tuple[Gene, ...]:
        """Stem depth and the width indices."""
        indices = tuple(range(len(self.width_multipliers)))
        widths = (Gene(f"width.{i}", indices) for i in range(self._num_widths))
        return (Gene("stem_depth", self.stem_depth_choices), *widths)

    @property
    def _num_widths(self) -> int:
        return 2 + len(self.stage_base_depths)

    @property
    def block_choices(self) -> tuple[tuple[str, tuple[float | int, ...]], ...]:
        """Expand ratio only."""
        return (("expand_ratio", self.expand_ratio_choices),)

    def widths(self, architecture: Architecture) -> tuple[int, int, tuple[int, ...]]:
        """Return the channels of stem middle, stem output and each stage of an architecture."""
        mid, stem, *stages = architecture.width_indices
        chosen = zip(self.stage_width_choices, stages, strict=True)
        return (
            self.stem_mid_widths[mid],
            self.stem_widths[stem],
            tuple(choices[index] for choices, index in chosen),
        )

    def layers(self, architecture: Architecture, num_classes: int | None = None) -> list[LayerSpec]:
        """List the layers of a subnet in execution order; shortcuts come first in their block.

        Raises
        ------
        ArchitectureError
            If the architecture lies outside the space.
        """
        self.validate(architecture)
        _, channels, stage_widths = self.widths(architecture)
        layers = self._stem(architecture)
        size = layers[-1].out_size
        number = 0
        for stage, (ratios, width) in enumerate(
            zip(architecture.expand_ratios, stage_widths, strict=True)
        ):
            for block, ratio in enumerate(ratios):
                key = (number, stage, block, channels, width, ratio, size)
                specs = self._cache.get(key)
                if specs is None:
                    specs = self._cache[key] = self._block(*key)
                layers.extend(specs)
                size, channels = specs[-1].out_size, width
                number += 1
        classes = num_classes or self.num_classes_default
        at: dict[str, Any] = {"stage": self.num_stages}
        return [
            *layers,
            LayerSpec("global_pool", "global_pool", channels, channels, size, 1, size, 1, **at),
            LayerSpec(
                "classifier", "linear", channels, classes, 1, 1, 1, 1, normalization="bias", **at
            ),
        ]

    def _stem(self, architecture: Architecture) -> list[LayerSpec]:
        mid, out, _ = self.widths(architecture)
        resolution = architecture.resolution
        size = halved(resolution, 2)
        pooled = halved(size, 2)
        bn: dict[str, Any] = {"normalization": "batch_norm"}
        layers = [LayerSpec("input_stem.0", "conv", 3, mid, 3, 2, resolution, size, "relu", **bn)]
        if architecture.stem_depth:
            layers.append(
                LayerSpec(
                    "input_stem.1", "conv", mid, mid, 3, 1, size, size, "relu",
                    has_residual=True, keeps_input=True, **bn,
                )
            )  # fmt: skip
        last = len(layers)
        return [
            *layers,
            LayerSpec(f"input_stem.{last}", "conv", mid, out, 3, 1, size, size, "relu", **bn),
            LayerSpec("max_pooling", "max_pool", out, out, 3, 2, size, pooled),
        ]

    def block_stride(self, stage: int, block: int) -> int:
        """Return the stride of one block."""
        return self.stage_strides[stage] if block == 0 else 1

    def _block(
        self,
        number: int,
        stage: int,
        block: int,
        in_channels: int,
        out_channels: int,
        ratio: float,
        size: int,
    ) -> tuple[LayerSpec, ...]:
        mid = self.mid_channels(out_channels, ratio)
        stride = self.block_stride(stage, block)
        out_size = halved(size, stride)
        name = f"blocks.{number}"
        at: dict[str, Any] = {"stage": stage, "block": block}
        bn: dict[str, Any] = {"normalization": "batch_norm", **at}
        shortcut: list[LayerSpec] = []
        if block == 0:
            if stride > 1:
                shortcut.append(
                    LayerSpec(
                        f"{name}.downsample.avg_pool", "avg_pool", in_channels, in_channels,
                        stride, stride, size, out_size, is_shortcut=True, **at,
                    )
                )  # fmt: skip
            shortcut.append(
                LayerSpec(
                    f"{name}.downsample.conv", "pointwise", in_channels, out_channels, 1, 1,
                    out_size, out_size, is_shortcut=True, **bn,
                )
            )  # fmt: skip
        return (
            *shortcut,
            LayerSpec(
                f"{name}.conv1", "pointwise", in_channels, mid, 1, 1, size, size, "relu",
                keeps_input=block > 0, **bn,
            ),
            LayerSpec(f"{name}.conv2", "conv", mid, mid, 3, stride, size, out_size, "relu", **bn),
            LayerSpec(
                f"{name}.conv3", "pointwise", mid, out_channels, 1, 1, out_size, out_size,
                "relu", has_residual=True, **bn,
            ),
        )  # fmt: skip

    def _values(self, architecture: Architecture) -> dict[str, Any]:
        return {
            "extra": (architecture.stem_depth, *architecture.width_indices),
            "expand_ratio": architecture.expand_ratios,
        }

    def _architecture(
        self,
        resolution: int,
        depths: tuple[int, ...],
        extra: list[Any],
        blocks: dict[str, tuple[tuple[Any, ...], ...]],
    ) -> Architecture:
        return Architecture(
            space=self.name,
            resolution=resolution,
            depths=depths,
            expand_ratios=blocks["expand_ratio"],
            stem_depth=extra[0],
            width_indices=tuple(extra[1:]),
        )

    def _check_fields(self, architecture: Architecture) -> None:
        if architecture.kernel_sizes:
            message = f"kernel_sizes do not exist in {self.name}: all its kernels are 3x3"
            raise ArchitectureError(message, hint="Leave the field out.")
        if architecture.stem_depth is None:
            message = f"stem_depth is missing; {self.name} allows 0 and 2"
            raise ArchitectureError(message, hint="Set stem_depth to 0 or 2.")
        self._check_choice("stem_depth", architecture.stem_depth, self.stem_depth_choices)
        self._check_length(
            "width_indices", architecture.width_indices, self._num_widths, "stem, stem, stages"
        )
        indices = range(len(self.width_multipliers))
        for position, index in enumerate(architecture.width_indices):
            self._check_choice(f"width_indices[{position}]", index, indices)
        self._check_blocks(
            "expand_ratios",
            architecture.expand_ratios,
            architecture.depths,
            self.expand_ratio_choices,
        )


def resnet50_space(name: str) -> ResNetSpace:
    """Return the authors' ResNet50D space."""
    return ResNetSpace(name=name, resolutions=tuple(range(128, 257, 4)))
