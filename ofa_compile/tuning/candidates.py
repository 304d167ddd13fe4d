"""The candidates of one workload: their functions, and the data that they run on."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.codegen import flat_function
from ofa_compile.compiler.fetch_schedule import fetch_capacity
from ofa_compile.compiler.generic_schedules import apply_trace, parse_function
from ofa_compile.compiler.kernel_registry import VectorMachine, count_fetch_steps, find_kernel
from ofa_compile.compiler.workload import Generic, Workload
from ofa_compile.tuning.cases import case_arrays, make_stored_case, stored
from ofa_compile.tuning.database import Config

Arrays = dict[str, NDArray[Any]]
Described = list[dict[str, Any]]

_ALIGNMENT = 64
_REFERENCE = "reference"


class KernelCandidates:
    """Configurations of a hand-written kernel; the right output comes from numpy.

    Attributes
    ----------
    functions
        C symbol -> PrimFunc.
    reference
        The one among them that `data` calls, if any, to learn what is right.
    """

    def __init__(
        self, workload: Workload, configs: Sequence[Config], machine: VectorMachine, prefix: str
    ) -> None:
        self.reference: dict[str, Any] = {}
        kernel = find_kernel(workload)
        assert kernel is not None
        self._kernel, self._workload = kernel, workload
        self._configs, self._machine = configs, machine
        self._symbols = [f"{prefix}_{number}" for number in range(len(configs))]
        # As in a network, products over maps fetch the weights of what comes next.
        self._fetch_steps = [
            count_fetch_steps(kernel, workload, config, machine) for config in configs
        ]
        self.functions = {
            symbol: kernel.build(workload, config, machine, **({"fetches": True} if steps else {}))
            for symbol, config, steps in zip(self._symbols, configs, self._fetch_steps, strict=True)
        }

    def data(self, library: Path) -> tuple[Arrays, Described]:
        """Return the arrays, and for every candidate what to call with which of them."""
        case = make_stored_case(self._workload, self._machine)
        arrays: Arrays = case_arrays(case)
        inputs = [name for name in arrays if name.startswith("input_")]
        described = []
        for number, config in enumerate(self._configs):
            packed = {
                f"packed_{number}_{place}": stored(array, self._machine).ravel()
                for place, array in enumerate(self._packed(config, case.constants))
            }
            arrays.update(packed)
            tiles = self._kernel.num_tiles(self._workload, config, self._machine)
            pointers = [*inputs, *packed]
            described.append(
                {
                    "symbol": self._symbols[number],
                    "num_tiles": tiles,
                    "pointers": pointers,
                    "fetch_steps": self._fetch_steps[number],
                    "fetch_bytes": fetch_capacity(self._fetch_steps[number], self._workload.macs),
                }
            )
        return arrays, described

    def _packed(self, config: Config, constants: dict[str, Any]) -> list[Any]:
        """Pack constants, and in front of them the weights that another kernel would compute."""
        packed = list(self._kernel.pack(self._workload, config, self._machine, constants))
        if getattr(self._workload, "has_dynamic_weights", False):
            from ofa_compile.kernels.pointwise import pack_weights

            weight = constants["weight"]
            packed.insert(0, pack_weights(self._workload, config, self._machine, weight))
        return packed


class GenericCandidates:
    """Schedules of an operator without a kernel; TVM's plain loops say what is right.

    Attributes
    ----------
    functions
        C symbol -> PrimFunc.
    reference
        The one among them that `data` calls, if any, to learn what is right.
    """

    def __init__(self, workload: Generic, configs: Sequence[Config], prefix: str) -> None:
        plain = parse_function(workload.tir)
        *self._inputs, self._output = [_size(buffer) for buffer in plain.params]
        self._seed = int(workload.key, 16)
        self.functions: dict[str, Any] = {}
        self._scratch: dict[str, list[int]] = {}
        for number, config in enumerate([{}, *configs]):
            scheduled = apply_trace(plain, config["trace"]) if "trace" in config else plain
            symbol = f"{prefix}_{number - 1}" if number else f"{prefix}_{_REFERENCE}"
            self.functions[symbol], num_bytes = flat_function(scheduled)
            self._scratch[symbol] = [-(-size // 4) for size in num_bytes]
        self._reference_symbol = f"{prefix}_{_REFERENCE}"
        self.reference = {self._reference_symbol: self.functions[self._reference_symbol]}

    def data(self, library: Path) -> tuple[Arrays, Described]:
        """Return the arrays, and for every candidate what to call with which of them."""
        rng = np.random.default_rng(self._seed)
        # Positive and at most one: inside the domain of logarithms, roots and arc functions.
        inputs = {
            f"input_{n}": rng.uniform(0.1, 1.0, size).astype(np.float32)
            for n, size in enumerate(self._inputs)
        }
        arrays: Arrays = dict(inputs)
        described = []
        for symbol, sizes in self._scratch.items():
            scratch = {f"{symbol}_{n}": np.zeros(size, np.float32) for n, size in enumerate(sizes)}
            if symbol == self._reference_symbol:
                arguments = [*inputs.values(), *scratch.values()]
                arrays["expected"] = _call(library, symbol, arguments, self._output)
                continue
            arrays.update(scratch)
            pointers = [*inputs, *scratch]
            described.append({"symbol": symbol, "num_tiles": 1, "pointers": pointers})
        return arrays, described


def _size(buffer: Any) -> int:
    return int(np.prod([int(d) for d in buffer.shape], dtype=np.int64))


def _call(
    library: Path, symbol: str, inputs: Sequence[NDArray[np.float32]], size: int
) -> NDArray[np.float32]:
    """Run a function of the library here: it is TVM's own lowering."""
    memory = [_aligned(array) for array in (*inputs, np.zeros(size, np.float32))]
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in memory]
    ctypes.CDLL(str(library))[symbol](*pointers, 0, 1)
    return memory[-1]


def _aligned(values: NDArray[np.float32]) -> NDArray[np.float32]:
    memory = np.empty(values.size + _ALIGNMENT // 4, np.float32)
    start = (-memory.ctypes.data % _ALIGNMENT) // 4
    place = memory[start : start + values.size]
    place[:] = values
    return place
