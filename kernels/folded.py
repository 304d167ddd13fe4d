"""Activations whose constants are folded into weights and bias when they are packed.

h-swish is `x clamp(x + 3, 0, 6) / 6`. A sum `z = x / sqrt(6)`, which weights and bias divided by
sqrt(6) produce for nothing, needs four instructions instead of six:
`z clamp(z + sqrt(6)/2, 0, sqrt(6))`. h-sigmoid becomes a plain clamp. Whatever is added to the sum
besides (a residual) would have to be scaled as well: such workloads are not folded.
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import Workload
from ofa_compile.kernels import emit

_ROOT = math.sqrt(6.0)


def fold_weight(workload: Workload, weight):
    """Scale weights for `finish`."""
    activation = _folded(workload)
    if activation == "hswish":
        return weight * np.float32(1 / _ROOT)
    return weight * np.float32(1 / 6) if activation == "hsigmoid" else weight


def fold_bias(workload: Workload, bias):
    """Scale and shift the bias for `finish`."""
    activation = _folded(workload)
    if activation == "hswish":
        return bias * np.float32(1 / _ROOT)
    return bias * np.float32(1 / 6) + np.float32(0.5) if activation == "hsigmoid" else bias


def finish(workload: Workload, value, lanes: int):
    """Apply the workload's activation to a sum of folded weights and bias."""
    activation = _folded(workload)
    dtype = emit.type_of(value)
    zero = emit.splat(0.0, lanes, dtype)
    if activation == "hsigmoid":
        return tvm.tirx.min(tvm.tirx.max(value, zero), emit.splat(1.0, lanes, dtype))
    if activation == "hswish":
        gate = tvm.tirx.max(value + emit.splat(_ROOT / 2, lanes, dtype), zero)
        return value * tvm.tirx.min(gate, emit.splat(_ROOT, lanes, dtype))
    return emit.activate(value, workload.activation, lanes)


def _folded(workload: Workload) -> str | None:
    """Return the activation if it is one that is folded."""
    is_foldable = not getattr(workload, "has_residual", False)
    return workload.activation if is_foldable else None
