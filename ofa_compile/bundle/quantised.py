"""What a quantised bundle is verified against, and how far it is from the network in float."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.verify import Reference
from ofa_compile.cache import Cache
from ofa_compile.hardware.target_spec import TargetSpec

if TYPE_CHECKING:
    from ofa_compile.compiler.int8.prepare import Calibration


def quantised_reference(
    onnx_path: Path,
    target: TargetSpec,
    calibration: Calibration,
    reference: Reference,
    cache: Cache | None,
) -> tuple[Reference, dict[str, Any]]:
    """Compute what the quantised network should give on the inputs of a float reference.

    Returns
    -------
    The reference to verify against, and the change from float for the manifest: root mean square
    and largest difference over those of the float logits, and the share of inputs whose class
    stays the same.
    """
    from ofa_compile.compiler.int8.prepare import quantised_logits

    logits = quantised_logits(onnx_path, target, calibration, reference.inputs, cache or Cache())
    changed = dataclasses.replace(reference, logits=logits)
    return changed, logit_change(reference.logits, logits)


def logit_change(before: NDArray[np.float32], after: NDArray[np.float32]) -> dict[str, Any]:
    """Compare logits of shape (N, classes) before and after quantisation."""
    difference = after.astype(np.float64) - before
    size = float(np.sqrt(np.square(before, dtype=np.float64).mean())) or 1.0
    return {
        "logit_change_rms": float(np.sqrt(np.square(difference).mean())) / size,
        "logit_change_max": float(np.abs(difference).max() / (np.abs(before).max() or 1.0)),
        "same_class": float((before.argmax(axis=1) == after.argmax(axis=1)).mean()),
    }
