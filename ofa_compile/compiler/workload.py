"""Workloads: the fused operations that kernels implement.

A workload is pure data (no TVM, no weights): equal workloads share one compiled object, one
tuning record and one place in the cache. Feature maps are channels-last unless a field says else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ofa_compile.errors import ArtifactError

Activation = Literal["none", "relu", "relu6", "hswish", "hsigmoid"]


@dataclass(frozen=True)
class Workload:
    """Base of all workloads; `kind` names the operation."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the kind as a JSON-able dictionary."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @property
    def key(self) -> str:
        """Stable identity: the first 16 hex digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run (zero for data movement)."""
        return 0


@dataclass(frozen=True)
class Pointwise(Workload):
    """`y[m, n] = activation(bias[n] + sum_k x[m, k] w[k, n] (+ residual[m, n]))`.

    Serves 1x1 convolutions over channels-last maps (rows = batch x height x width) and dense
    layers (rows = batch). With `has_dynamic_weights` the packed weights are an input, not a
    constant: squeeze-excite scales them at run time.
    """

    kind: ClassVar[str] = "pointwise"
    rows: int
    in_channels: int
    out_channels: int
    activation: Activation = "none"
    has_residual: bool = False
    has_dynamic_weights: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.rows * self.in_channels * self.out_channels


@dataclass(frozen=True)
class GatedPointwise(Pointwise):
    """A pointwise convolution of `x[m, k] * gate[image of m, k]`: squeeze-excite on the way in."""

    kind: ClassVar[str] = "gated_pointwise"
    batch: int = 1


@dataclass(frozen=True)
class _Windowed(Workload):
    """Fields shared by operations that slide a window over a map."""

    batch: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right

    @property
    def out_height(self) -> int:
        """Rows of the output map."""
        span = self.height + self.padding[0] + self.padding[2] - self.kernel[0]
        return span // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Columns of the output map."""
        span = self.width + self.padding[1] + self.padding[3] - self.kernel[1]
        return span // self.stride[1] + 1


@dataclass(frozen=True)
class Depthwise(_Windowed):
    """Depthwise convolution with zero padding, bias and activation."""

    kind: ClassVar[str] = "depthwise"
    channels: int
    activation: Activation = "none"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, padding included."""
        outputs = self.batch * self.out_height * self.out_width * self.channels
        return outputs * self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Separable(_Windowed):
    """Depthwise convolution with activation, and the pointwise one that alone reads its map.

    One kernel for both, where it is faster than two (`parts`).
    """

    kind: ClassVar[str] = "separable"
    channels: int
    out_channels: int
    activation: Activation = "none"
    """Between the two."""
    out_activation: Activation = "none"
    has_residual: bool = False

    @classmethod
    def of(cls, first: Workload, second: Workload) -> Separable | None:
        """Join two workloads of which the second alone reads what the first writes.

        Returns
        -------
        None where they are others than these, or their sizes say that it cannot read it.
        """
        if type(first) is not Depthwise or type(second) is not Pointwise:
            return None
        rows = first.batch * first.out_height * first.out_width
        if (second.rows, second.in_channels) != (rows, first.channels):
            return None
        if second.has_dynamic_weights:
            return None
        return cls(
            **dataclasses.asdict(first),
            out_channels=second.out_channels,
            out_activation=second.activation,
            has_residual=second.has_residual,
        )

    @property
    def parts(self) -> tuple[Depthwise, Pointwise]:
        """The two workloads that it replaces."""
        window = {f.name: getattr(self, f.name) for f in dataclasses.fields(Depthwise)}
        rows = self.batch * self.out_height * self.out_width
        what = (self.out_channels, self.out_activation, self.has_residual)
        return Depthwise(**window), Pointwise(rows, self.channels, *what)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, padding included."""
        return sum(part.macs for part in self.parts)


@dataclass(frozen=True)
class Convolution(_Windowed):
    """Dense convolution with zero padding, bias, residual and activation.

    `input_layout` is "nchw" for the network's own input, so that no layout change is needed.
    """

    kind: ClassVar[str] = "convolution"
    in_channels: int
    out_channels: int
    activation: Activation = "none"
    has_residual: bool = False
    input_layout: Literal["nhwc", "nchw"] = "nhwc"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, padding included."""
        outputs = self.batch * self.out_height * self.out_width * self.out_channels
        return outputs * self.kernel[0] * self.kernel[1] * self.in_channels


@dataclass(frozen=True)
class Pool(_Windowed):
    """Window maximum or average; `count_padding` is ONNX's count_include_pad."""

    kind: ClassVar[str] = "pool"
    channels: int
    reduction: Literal["max", "mean"] = "max"
    count_padding: bool = False


@dataclass(frozen=True)
class GlobalPool(Workload):
    """Mean over all positions of a map: (batch, positions, channels) -> (batch, channels)."""

    kind: ClassVar[str] = "global_pool"
    batch: int
    positions: int
    channels: int


@dataclass(frozen=True)
class ScaleChannels(Workload):
    """`y[b, p, c] = x[b, p, c] * scale[b, c]`: squeeze-excite applied to the map."""

    kind: ClassVar[str] = "scale_channels"
    batch: int
    positions: int
    channels: int


@dataclass(frozen=True)
class ScaleWeights(Workload):
    """Squeeze-excite applied to the packed weights of the pointwise convolution that follows.

    Cheaper than scaling the map when it has more positions than the convolution has outputs.
    `block_widths` is the packing of `Pointwise`: one (in_channels, width) panel per block.
    """

    kind: ClassVar[str] = "scale_weights"
    in_channels: int
    block_widths: tuple[int, ...]


@dataclass(frozen=True)
class Add(Workload):
    """Elementwise sum of two tensors of equal layout, then an activation."""

    kind: ClassVar[str] = "add"
    size: int
    activation: Activation = "none"


@dataclass(frozen=True)
class Activate(Workload):
    """An activation that no kernel could absorb."""

    kind: ClassVar[str] = "activate"
    size: int
    activation: Activation


@dataclass(frozen=True)
class Cast(Workload):
    """Float32 to float16 or back, where a network in halves meets what is not."""

    kind: ClassVar[str] = "cast"
    size: int
    destination: Literal["float16", "float32"]


@dataclass(frozen=True)
class ChangeLayout(Workload):
    """Transpose of a map between channels-first and channels-last."""

    kind: ClassVar[str] = "change_layout"
    batch: int
    channels: int
    positions: int
    destination: Literal["nhwc", "nchw"]


@dataclass(frozen=True)
class Generic(Workload):
    """An operator without a kernel of ours, as TVM legalises it; `tir` is its text."""

    kind: ClassVar[str] = "generic"
    operator: str
    tir: str


@dataclass(frozen=True)
class PointwiseInt8(Workload):
    """`Pointwise` on bytes: int8 weights, sums in int32, then in float32 as `Epilogue` says.

    The weights' products with the input's zero point are part of the epilogue's offset.
    """

    kind: ClassVar[str] = "pointwise_int8"
    rows: int
    in_channels: int
    out_channels: int
    activation: Activation = "none"
    has_residual: bool = False
    writes: Literal["bytes", "floats"] = "bytes"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.rows * self.in_channels * self.out_channels


@dataclass(frozen=True)
class DepthwiseInt8(Depthwise):
    """`Depthwise` from bytes to bytes; padding has the value of the input's zero point."""

    kind: ClassVar[str] = "depthwise_int8"


@dataclass(frozen=True)
class GlobalPoolInt8(GlobalPool):
    """Mean over all positions of a map of bytes, as floats."""

    kind: ClassVar[str] = "global_pool_int8"


@dataclass(frozen=True)
class ScaleChannelsInt8(ScaleChannels):
    """Squeeze-excite applied to a map of bytes; the gates are floats."""

    kind: ClassVar[str] = "scale_channels_int8"


@dataclass(frozen=True)
class Quantise(Workload):
    """Floats to bytes, with a scale and a zero point per channel."""

    kind: ClassVar[str] = "quantise"
    positions: int
    channels: int


@dataclass(frozen=True)
class Dequantise(Workload):
    """Bytes to floats, with a scale and a zero point per channel."""

    kind: ClassVar[str] = "dequantise"
    positions: int
    channels: int


_CLASSES: dict[str, type[Workload]] = {
    cls.kind: cls
    for cls in (
        Pointwise,
        GatedPointwise,
        Depthwise,
        Separable,
        Convolution,
        Pool,
        GlobalPool,
        ScaleChannels,
        ScaleWeights,
        Add,
        Activate,
        Cast,
        ChangeLayout,
        Generic,
        PointwiseInt8,
        DepthwiseInt8,
        GlobalPoolInt8,
        ScaleChannelsInt8,
        Quantise,
        Dequantise,
    )
}


def workload_from_dict(document: dict[str, Any]) -> Workload:
    """Build the workload that `Workload.to_dict` described.

    Raises
    ------
    ArtifactError
        If the kind is unknown or the fields are not those of the kind.
    """
    fields = dict(document)
    cls = _CLASSES.get(str(fields.pop("kind", None)))
    if cls is None:
        msg = f"unknown kind of workload {document.get('kind')!r}; known are {', '.join(_CLASSES)}"
        raise ArtifactError(msg)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    try:
        return cls(**values)
    except TypeError as err:
        msg = f"the fields of a {cls.kind} workload do not fit: {err}"
        raise ArtifactError(msg) from err
