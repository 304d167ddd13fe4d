"""Compare a compiled network with reference logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import NumericMismatchError

# Largest error allowed, relative to the largest |logit| of the reference.
TOLERANCE = 1e-4
# In int8 the reference is quantised too: sums of integers are exact, and so is what follows but for
# the order of additions in the layers that stay in float. Where that tips a value that lies between
# two bytes, the next layers see a difference of one step in one of their inputs: far below this.
# In fp16 the reference is PyTorch in float32: 10,000 test images differed by 0.011 at most.
# In tf32 subnets of all spaces differed by 0.0022 at most, with factors rounded in PyTorch.
# Wrong code is far above all of them.
_TOLERANCES = {"fp32": TOLERANCE, "tf32": 0.01, "fp16": 0.03, "int8": 0.02}
_NUM_INPUTS = 8
# Emulated code runs at about 65 M MACs/s: eight large inputs would take minutes.
_NUM_INPUTS_EMULATED = 2
_LARGE_RESOLUTION = 160

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the network computes, to check the binary against.

    Attributes
    ----------
    inputs
        float32 array of shape (N, 3, H, W); see `num_verification_inputs`.
    logits
        float32 array of shape (N, classes), from PyTorch.
    input_kind
        "images", "noise": what the inputs are, for the manifest.
    """

    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]
    input_kind: str = "noise"


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """How near a binary is to its reference.

    Attributes
    ----------
    num_inputs
        Inputs compared.
    max_abs_error
        Largest difference between two logits.
    max_abs_logit
        Largest |logit| of the reference.
    tolerance
        Largest `max_abs_error / max_abs_logit` allowed.
    """

    num_inputs: int
    max_abs_error: float
    max_abs_logit: float
    tolerance: float

    @property
    def relative_error(self) -> float:
        """Largest error over the largest |logit|."""
        return self.max_abs_error / self.max_abs_logit if self.max_abs_error else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return {"verified": True, "relative_error": self.relative_error, **asdict(self)}


def tolerance_of(precision: str) -> float:
    """Return the largest error allowed in a precision, relative to the largest |logit|."""
    return _TOLERANCES[precision]


def num_verification_inputs(resolution: int, *, is_emulated: bool) -> int:
    """Return how many inputs a binary is checked on."""
    is_slow = is_emulated and resolution > _LARGE_RESOLUTION
    return _NUM_INPUTS_EMULATED if is_slow else _NUM_INPUTS


def noise_inputs(shape: tuple[int, ...], count: int, seed: int = 0) -> Array:
    """Return seeded standard-normal inputs, of shape (count, C, H, W) for (N, C, H, W)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *shape[1:]), dtype=np.float32)


def verify(
    run: Callable[[Array], Array],
    inputs: Array,
    reference_logits: Array,
    tolerance: float = TOLERANCE,
) -> VerificationResult:
    """Run a binary on inputs and compare its logits with the reference.

    Parameters
    ----------
    run
        Maps inputs (N, 3, H, W) to logits (N, classes).
    inputs
        float32 inputs.
    reference_logits
        What the network computes, of shape (N, classes).
    tolerance
        Largest error allowed, relative to the largest |logit|.

    Raises
    ------
    NumericMismatchError
        If the error is above the tolerance, or either side holds values that are not finite.
    """
    reference = np.asarray(reference_logits, dtype=np.float64)
    logits = np.asarray(run(inputs), dtype=np.float64)
    if logits.shape != reference.shape or len(reference) == 0:
        msg = f"the binary gives logits {logits.shape}, the reference has {reference.shape}"
        raise NumericMismatchError(msg)
    _check_finite(reference, "the reference", "check the supernet's weights and BN calibration")
    _check_finite(logits, "the binary", "report this as a bug, with the manifest's versions")
    errors = np.abs(logits - reference).max(axis=1)
    result = VerificationResult(
        num_inputs=len(reference),
        max_abs_error=float(errors.max()),
        max_abs_logit=float(np.abs(reference).max()),
        tolerance=tolerance,
    )
    if not result.max_abs_error <= tolerance * result.max_abs_logit:
        msg = (
            f"the binary differs from the reference by {result.max_abs_error:.3g} on input "
            f"{int(errors.argmax())} of {len(errors)}; the largest logit is "
            f"{result.max_abs_logit:.3g} and {tolerance:g} of it is allowed"
        )
        hint = "no bundle was written; report this as a bug, with the architecture and target"
        raise NumericMismatchError(msg, hint=hint)
    return result


def _check_finite(logits: NDArray[np.float64], side: str, hint: str) -> None:
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        msg = f"{side} gives logits that are not finite on input {int(bad.argmax())}"
        raise NumericMismatchError(msg, hint=hint)
