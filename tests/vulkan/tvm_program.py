"""What a user of TVM runs on a Vulkan device, each case in a process with its own environment.

    tvm_program.py MODULES CASES      CASES: JSON, a list of [module, dtype, {variable: value}]

Its last line is a JSON list: for each case the first value of `y = f(1)`, or the text of the error.
TVM takes a second to be imported, so the cases are children of one process.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

# tvm_ffi imports torch where it can, and this process has no use for it.
sys.modules["torch"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tvm  # noqa: E402

SIZE = 128


def main(modules: str, cases: str) -> None:
    print(json.dumps([apart(Path(modules), *case) for case in json.loads(cases)]))


def apart(modules: Path, module: str, dtype: str, environment: dict[str, str]) -> float | str:
    """Run in a child, in which Vulkan is not loaded yet."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        try:
            result: float | str = call(modules / module, dtype)
        except RuntimeError as err:
            result = str(err)
        os.write(sink, json.dumps(result).encode())
        ctypes.CDLL(None).fflush(None)  # what the validation layer says
        os._exit(0)
    os.close(sink)
    with open(source, encoding="utf-8") as stream:  # noqa: PTH123 - a pipe
        text = stream.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(text) if text else f"ended with {status}"


def call(module: Path, dtype: str) -> float:
    library = tvm.runtime.load_module(str(module))
    device = tvm.device("vulkan", 0)
    check_memory(device)
    x = tvm.runtime.tensor(np.ones(SIZE, dtype), device)
    y = tvm.runtime.tensor(np.zeros(SIZE, dtype), device)
    library["main"](x, y)
    return float(y.numpy()[0])


def check_memory(device: object) -> None:
    """Fill many tensors; take some away and put others in their place."""
    held = {}
    for step in range(300):
        slot = step if step < 200 else 7 * step % 200
        held.pop(slot, None)  # which leaves a hole
        values = np.full(1 + 37 * (step % 50), step, np.int32)
        held[slot] = values, tvm.runtime.tensor(values, device)
    for values, tensor in held.values():
        np.testing.assert_array_equal(tensor.numpy(), values)


main(*sys.argv[1:])
