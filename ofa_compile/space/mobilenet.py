"""Search spaces of inverted residual blocks: MobileNetV3 and ProxylessNAS."""

from __future__ import annotations

import dataclasses
from typing import Any

from ofa_compile.errors import ArchitectureError
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import Activation, LayerSpec, halved, make_divisible
from ofa_compile.space.search_space import Gene, SearchSpace

SQUEEZE_REDUCTION = 4

# Channels of the authors' networks at width 1.0: stem, first block, stages, last layers.
_MBV3_WIDTHS = (16, 16, 24, 40, 80, 112, 160, 960, 1280)
_PROXYLESS_WIDTHS = (32, 16, 24, 40, 80, 96, 192, 320, 1280)
_MBV3_ACTIVATIONS: tuple[Activation, ...] = ("relu", "relu", "hswish", "hswish", "hswish")
_MBV3_USE_SE = (False, True, False, True, True)
_AUTHORS_RESOLUTIONS = tuple(range(128, 225, 4))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNetSpace(SearchSpace):
    """Stem, a fixed first block, stages of elastic inverted residual blocks, a fixed head.

    The fields are the network: the supernet reads its widths, strides and activations here.

    Attributes
    ----------
    name, family
        Name of the space; "mobilenet_v3" or "proxyless".
    resolutions
        Input sizes for sampling, search and predictors.
    stem_width, stem_stride, stem_activation
        First 3x3 convolution.
    first_width, first_activation
        Fixed first block: depthwise 3x3 without expansion, then pointwise.
    stage_widths, stage_strides, stage_activations, stage_use_se
        One entry per stage; the stride is that of the stage's first block.
    depth_choices
        Allowed depths per stage.
    kernel_size_choices, expand_ratio_choices
        Allowed values of every elastic block.
    final_expand_width
        Pointwise convolution before the pooling; None where there is none (ProxylessNAS).
    last_width
        Features of the classifier. MobileNetV3 computes them after the pooling, without batch
        norm or bias; ProxylessNAS before the pooling, with batch norm.
    head_activation
        Activation of those last layers.
    bn_epsilon, num_classes_default
        Batch-norm epsilon; classes of a fresh supernet.
    """

    name: str
    family: str  # type: ignore[misc]  # one class serves two families
    resolutions: tuple[int, ...]
    stem_width: int
    stem_stride: int
    stem_activation: Activation
    first_width: int
    first_activation: Activation
    stage_widths: tuple[int, ...]
    stage_strides: tuple[int, ...]
    stage_activations: tuple[Activation, ...]
    stage_use_se: tuple[bool, ...]
    depth_choices: tuple[tuple[int, ...], ...]
    kernel_size_choices: tuple[int, ...] = (3, 5, 7)
    expand_ratio_choices: tuple[int, ...] = (3, 4, 6)
    final_expand_width: int | None
    last_width: int
    head_activation: Activation
    bn_epsilon: float = 1e-5
    num_classes_default: int = 1000
    _cache: dict[Any, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def stage_depths(self) -> tuple[tuple[int, ...], ...]:
        """Choices of `Architecture.depths`, per stage."""
        return self.depth_choices

    @property
    def base_depths(self) -> tuple[int, ...]:
        """Depths are counted in full here: zero for every stage."""
        return (0,) * len(self.depth_choices)

    @property
    def extra_genes(self) -> tuple[Gene, ...]:
        """None in this family."""
        return ()

    @property
    def block_choices(self) -> tuple[tuple[str, tuple[float | int, ...]], ...]:
        """Kernel size and expand ratio."""
        return (
            ("kernel_size", self.kernel_size_choices),
            ("expand_ratio", self.expand_ratio_choices),
        )

    def mid_channels(self, in_channels: int, expand_ratio: float) -> int:
        """Return the channels of an inverted residual block's depthwise convolution."""
        return make_divisible(round(in_channels * expand_ratio))

    def squeeze_channels(self, channels: int) -> int:
        """Return the middle channels of a squeeze-excite over `channels`."""
        return make_divisible(channels // SQUEEZE_REDUCTION)

    def block_in_channels(self, stage: int, block: int) -> int:
        """Return the input channels of one elastic block."""
        if block > 0:
            return self.stage_widths[stage]
        return self.stage_widths[stage - 1] if stage > 0 else self.first_width

    def layers(self, architecture: Architecture, num_classes: int | None = None) -> list[LayerSpec]:
        """List the layers of a subnet in execution order.

        Raises
        ------
        ArchitectureError
            If the architecture lies outside the space.
        """
        self.validate(architecture)
        layers = list(self._stem(architecture.resolution))
        size = layers[-1].out_size
        number = 1
        for stage, (kernels, ratios) in enumerate(
            zip(architecture.kernel_sizes, architecture.expand_ratios, strict=True)
        ):
            for block, (kernel, ratio) in enumerate(zip(kernels, ratios, strict=True)):
                key = (number, stage, block, kernel, ratio, size)
                specs = self._cache.get(key)
                if specs is None:
                    specs = self._cache[key] = self._block(*key)
                layers.extend(specs)
                size = specs[-1].out_size
                number += 1
        layers.extend(self._head(size, num_classes or self.num_classes_default))
        return layers

    def _stem(self, resolution: int) -> list[LayerSpec]:
        size = halved(resolution, self.stem_stride)
        stem, first = self.stem_width, self.first_width
        return [
            LayerSpec(
                "first_conv", "conv", 3, stem, 3, self.stem_stride, resolution, size,
                self.stem_activation, normalization="batch_norm",
            ),
            LayerSpec(
                "blocks.0.depthwise", "depthwise", stem, stem, 3, 1, size, size,
                self.first_activation, normalization="batch_norm",
                keeps_input=self.first_has_residual,
            ),
            LayerSpec(
                "blocks.0.project", "pointwise", stem, first, 1, 1, size, size, "none",
                has_residual=self.first_has_residual, normalization="batch_norm",
            ),
        ]  # fmt: skip

    @property
    def first_has_residual(self) -> bool:
        """Whether the fixed first block adds its input."""
        return self.stem_width == self.first_width

    def block_stride(self, stage: int, block: int) -> int:
        """Return the stride of one elastic block."""
        return self.stage_strides[stage] if block == 0 else 1

    def block_has_residual(self, stage: int, block: int) -> bool:
        """Tell whether an elastic block adds its input."""
        same = self.block_in_channels(stage, block) == self.stage_widths[stage]
        return same and self.block_stride(stage, block) == 1

    def _block(
        self, number: int, stage: int, block: int, kernel: int, ratio: float, size: int
    ) -> tuple[LayerSpec, ...]:
        in_channels, out_channels = self.block_in_channels(stage, block), self.stage_widths[stage]
        mid = self.mid_channels(in_channels, ratio)
        stride = self.block_stride(stage, block)
        out_size = halved(size, stride)
        act = self.stage_activations[stage]
        has_residual = self.block_has_residual(stage, block)
        at: dict[str, Any] = {"stage": stage, "block": block}
        expand = LayerSpec(
            f"blocks.{number}.expand", "pointwise", in_channels, mid, 1, 1, size, size, act,
            normalization="batch_norm", keeps_input=has_residual, **at,
        )  # fmt: skip
        depthwise = LayerSpec(
            f"blocks.{number}.depthwise", "depthwise", mid, mid, kernel, stride, size, out_size,
            act, normalization="batch_norm", **at,
        )  # fmt: skip
        squeeze = LayerSpec(
            f"blocks.{number}.squeeze_excite", "squeeze_excite", mid, mid, 1, 1, out_size,
            out_size, hidden_channels=self.squeeze_channels(mid), normalization="bias", **at,
        )  # fmt: skip
        project = LayerSpec(
            f"blocks.{number}.project", "pointwise", mid, out_channels, 1, 1, out_size, out_size,
            "none", has_residual=has_residual, normalization="batch_norm", **at,
        )  # fmt: skip
        middle = (depthwise, squeeze) if self.stage_use_se[stage] else (depthwise,)
        return (expand, *middle, project)

    def _head(self, size: int, num_classes: int) -> list[LayerSpec]:
        at: dict[str, Any] = {"stage": self.num_stages}
        act, width, last = self.head_activation, self.stage_widths[-1], self.last_width
        layers: list[LayerSpec] = []
        if self.final_expand_width is not None:
            expand = self.final_expand_width
            layers += [
                LayerSpec(
                    "final_expand_layer", "pointwise", width, expand, 1, 1, size, size, act,
                    normalization="batch_norm", **at,
                ),
                LayerSpec("global_pool", "global_pool", expand, expand, size, 1, size, 1, **at),
                LayerSpec(
                    "feature_mix_layer", "pointwise", expand, last, 1, 1, 1, 1, act, **at
                ),
            ]  # fmt: skip
        else:
            layers += [
                LayerSpec(
                    "feature_mix_layer", "pointwise", width, last, 1, 1, size, size, act,
                    normalization="batch_norm", **at,
                ),
                LayerSpec("global_pool", "global_pool", last, last, size, 1, size, 1, **at),
            ]  # fmt: skip
        linear = LayerSpec(
            "classifier", "linear", last, num_classes, 1, 1, 1, 1, normalization="bias", **at
        )
        return [*layers, linear]

    def _values(self, architecture: Architecture) -> dict[str, Any]:
        return {
            "extra": (),
            "kernel_size": architecture.kernel_sizes,
            "expand_ratio": architecture.expand_ratios,
        }

    def _architecture(
        self,
        resolution: int,
        depths: tuple[int, ...],
        extra: list[Any],
        blocks: dict[str, tuple[tuple[Any, ...], ...]],
    ) -> Architecture:
        del extra
        return Architecture(
            space=self.name,
            resolution=resolution,
            depths=depths,
            kernel_sizes=blocks["kernel_size"],
            expand_ratios=blocks["expand_ratio"],
        )

    def _check_fields(self, architecture: Architecture) -> None:
        if architecture.stem_depth is not None or architecture.width_indices:
            message = f"stem_depth and width_indices do not exist in {self.name}"
            raise ArchitectureError(message, hint="Leave both fields out.")
        depths = architecture.depths
        self._check_blocks(
            "kernel_sizes", architecture.kernel_sizes, depths, self.kernel_size_choices
        )
        self._check_blocks(
            "expand_ratios", architecture.expand_ratios, depths, self.expand_ratio_choices
        )


def mobilenet_v3_space(name: str, width: float) -> MobileNetSpace:
    """Return the authors' MobileNetV3 space at a width multiplier."""
    widths = [make_divisible(base * width) for base in _MBV3_WIDTHS]
    return MobileNetSpace(
        name=name,
        family="mobilenet_v3",
        resolutions=_AUTHORS_RESOLUTIONS,
        stem_width=widths[0],
        stem_stride=2,
        stem_activation="hswish",
        first_width=widths[1],
        first_activation="relu",
        stage_widths=tuple(widths[2:7]),
        stage_strides=(2, 2, 2, 1, 2),
        stage_activations=_MBV3_ACTIVATIONS,
        stage_use_se=_MBV3_USE_SE,
        depth_choices=((2, 3, 4),) * 5,
        final_expand_width=widths[7],
        last_width=widths[8],
        head_activation="hswish",
    )


def proxyless_space(name: str, width: float) -> MobileNetSpace:
    """Return the authors' ProxylessNAS space at a width multiplier."""
    widths = [make_divisible(base * width) for base in _PROXYLESS_WIDTHS]
    return MobileNetSpace(
        name=name,
        family="proxyless",
        resolutions=_AUTHORS_RESOLUTIONS,
        stem_width=widths[0],
        stem_stride=2,
        stem_activation="relu6",
        first_width=widths[1],
        first_activation="relu6",
        stage_widths=tuple(widths[2:8]),
        stage_strides=(2, 2, 2, 1, 2, 1),
        stage_activations=("relu6",) * 6,
        stage_use_se=(False,) * 6,
        depth_choices=((2, 3, 4),) * 5 + ((1,),),
        final_expand_width=None,
        last_width=widths[8],
        head_activation="relu6",
        bn_epsilon=1e-3,
    )


def cifar_space(name: str) -> MobileNetSpace:
    """Return our MobileNetV3 space for 32x32 images: stem at full resolution, 32 -> 4 pixels."""
    return MobileNetSpace(
        name=name,
        family="mobilenet_v3",
        resolutions=(24, 28, 32),
        stem_width=16,
        stem_stride=1,
        stem_activation="hswish",
        first_width=16,
        first_activation="relu",
        stage_widths=(16, 24, 40, 64, 96),
        stage_strides=(2, 2, 1, 2, 1),
        stage_activations=_MBV3_ACTIVATIONS,
        stage_use_se=_MBV3_USE_SE,
        depth_choices=((2, 3, 4),) * 5,
        final_expand_width=576,
        last_width=640,
        head_activation="hswish",
        num_classes_default=10,
    )
