"""The data that candidates of a workload run on, in the types of their machine."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.int8.scheme import SIGNED_SHIFT
from ofa_compile.compiler.workload import Cast, Workload
from ofa_compile.tuning.references import Case, make_case
from ofa_compile.tuning.references_int8 import INT8_MAKERS, make_int8_case

EXPECTED = "expected"


class ValueTypes(Protocol):
    """What a machine says of its types (`VectorMachine`, `GpuMachine`)."""

    @property
    def value_type(self) -> str:
        """Type of maps and weights that are not bytes."""


def make_stored_case(workload: Workload, machine: ValueTypes) -> Case:
    """Draw data, equal for every batch of candidates, so that results compare.

    What is expected is computed from the inputs before they are rounded to the machine's type.
    """
    rng = np.random.default_rng(int(workload.key, 16))
    if isinstance(workload, Cast):
        return make_case(workload, rng)  # it has two types, and knows them
    case = (make_int8_case if workload.kind in INT8_MAKERS else make_case)(workload, rng)
    return dataclasses.replace(
        case,
        inputs=[stored(array, machine) for array in case.inputs],
        expected=stored(case.expected, machine),
    )


def case_arrays(case: Case) -> dict[str, NDArray[Any]]:
    """Name a case's inputs, in order, and the output that is right."""
    inputs = {f"input_{number}": array.ravel() for number, array in enumerate(case.inputs)}
    return {**inputs, EXPECTED: case.expected.ravel()}


def stored(array: NDArray[Any], machine: ValueTypes) -> NDArray[Any]:
    """Return an array as it lies in a machine's memory.

    Maps of bytes are uint8 before, and moved where the machine stores int8; weights of int8 stay;
    every other number gets the type of the machine's values.
    """
    if array.dtype == np.uint8 and getattr(machine, "byte_type", "uint8") == "int8":
        return (array.astype(np.int16) - SIGNED_SHIFT).astype(np.int8)
    if array.dtype.itemsize == 1:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array, machine.value_type)
