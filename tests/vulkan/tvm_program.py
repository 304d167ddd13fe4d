"""What a user of TVM does with Vulkan devices, each case in a process with its own environment.

    tvm_program.py MODULES CASES      CASES: JSON, a list of [action, arguments, {variable: value}]

MODULES is a folder with the programs of tvm_kernels.py. The last line is a JSON list: for each case
what its action, a function below, has returned, or the text of the error.
TVM takes a second to be imported, so the cases are children of one process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

# tvm_ffi imports torch where it can, and this process has no use for it.
sys.modules["torch"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tvm  # noqa: E402
import tvm_ffi  # noqa: E402
from tvm import relax  # noqa: E402

SIZE = 128
MODULES = Path(sys.argv[1])


def main(cases: str) -> None:
    print(json.dumps([apart(*case) for case in json.loads(cases)]))


def apart(action: str, arguments: list[Any], environment: dict[str, str]) -> Any:
    """Run in a child, in which Vulkan is not loaded yet."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        result = attempt(globals()[action], *arguments)
        os.write(sink, json.dumps(result).encode())
        ctypes.CDLL(None).fflush(None)  # what the validation layer says
        os._exit(0)
    os.close(sink)
    with open(source, encoding="utf-8") as stream:  # noqa: PTH123 - a pipe
        text = stream.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(text) if text else f"ended with {status}"


def attempt(action: Any, *arguments: Any) -> Any:
    try:
        return action(*arguments)
    except (RuntimeError, ValueError) as err:
        return str(err)


def load(name: str) -> Any:
    """Load a program, which is unloaded when nothing refers to it any more."""
    return tvm_ffi.load_module(MODULES / f"{name}.so", keep_module_alive=False)


def ones(device: Any, dtype: str = "float32", size: int = SIZE) -> Any:
    return tvm.runtime.tensor(np.ones(size, dtype), device)


def vulkan(number: int = 0) -> Any:
    return tvm.device("vulkan", number)


# Actions


def compute(dtype: str = "float32", number: int = 0) -> float:
    """Return the first value of `y = f(1)`."""
    library = load(dtype)
    check_memory(vulkan(number))
    x, y = (ones(vulkan(number), dtype) for _ in "xy")
    library["main"](x, y)
    return float(y.numpy()[0])


def compute_twice(dtype: str = "float32") -> list[Any]:
    return [attempt(compute, dtype) for _ in range(2)]


def launch(name: str, number: int = 0, count: int = 1) -> float:
    """Return the first value after so many launches."""
    library, (x, y) = load(name), (ones(vulkan(number)) for _ in "xy")
    for _ in range(count):
        library["main"](x, y)
    return float(y.numpy()[0])


def recover_then_refuse(name: str, number: int) -> str:
    """Return why a kernel is refused after something else has worked at last."""
    compute("float32", number)
    return str(attempt(launch, name, number))


def unload_then_read() -> float:
    """Return a result for which the device is asked when nobody can be told that it failed."""
    library, (x, y) = load("float32"), (ones(vulkan()) for _ in "xy")
    library["main"](x, y)
    del library
    gc.collect()
    return float(y.numpy()[0])


def measure() -> float:
    """Return the time of a launch in seconds."""
    library, (x, y) = load("float32"), (ones(vulkan()) for _ in "xy")
    return float(library.time_evaluator("main", vulkan(), number=10, repeat=3)(x, y).mean)


def fork() -> list[Any]:
    """Return how a forked child ends, what it is told, and what its parent gets then."""
    library, (x, y) = load("float32"), (ones(vulkan()) for _ in "xy")
    library["main"](x, y)  # not submitted yet
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        text = attempt(lambda: y.numpy()[0])
        del library, x, y
        gc.collect()
        os.write(sink, str(text).encode())
        os._exit(0)
    os.close(sink)
    with open(source, encoding="utf-8") as stream:  # noqa: PTH123 - a pipe
        text = stream.read()
    status = os.waitpid(child, 0)[1]
    return [status, text, float(y.numpy()[0])]


def endure() -> dict[str, Any]:
    """Return what lives before and after much work, and by how many bytes the process has grown."""
    living = ctypes.CDLL("libvulkan.so.1").ofa_living
    living.restype = ctypes.c_char_p
    library, (x, y) = load("float32"), (ones(vulkan()) for _ in "xy")

    def work(count: int) -> None:
        for _ in range(count):
            library["main"](x, y)
            x.copyfrom(y.numpy() * 0)
        for _ in range(count // 10):
            load("float16")["main"](*(ones(vulkan(), "float16") for _ in "xy"))
        for _ in range(count // 50):
            run_network(vulkan())
            library.time_evaluator("main", vulkan(), number=2, repeat=2)(x, y)
        gc.collect()

    work(200)
    before, size = living().decode(), resident_bytes()
    work(1000)
    after = living().decode()
    return {"before": before, "after": after, "growth": resident_bytes() - size}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def name_devices() -> list[str]:
    found = (vulkan(number) for number in range(8))
    return [device.device_name for device in found if device.exist]


def cross() -> list[float]:
    """Return what two devices make of each other's results, asked by two threads at a time."""
    library = load("float32")

    def there_and_back(here: int) -> float:
        (x, y), z = (ones(vulkan(here)) for _ in "xy"), ones(vulkan(1 - here))
        for _ in range(1000):
            library["main"](x, y)
            y.copyto(z)
        library["main"](z, w := ones(vulkan(1 - here)))
        return float(w.copyto(x).numpy()[0])

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(there_and_back, (0, 1)))


def mix() -> float:
    """Run a kernel on tensors of two devices."""
    y = ones(vulkan(1))
    load("float32")["main"](ones(vulkan(0)), y)
    return float(y.numpy()[0])


def do_everything(number: int = 0) -> float:
    """Return the first value of `y = f(1)`, behind all else that can be done with a device."""
    device = vulkan(number)
    check_memory(device)
    check_copies(device)
    x, y = (ones(device) for _ in "xy")
    load("scalar")["main"](x, 2.5, y)
    np.testing.assert_allclose(y.numpy(), np.e + 2.5, rtol=1e-5)
    run_network(device)
    # TVM's host code finds its kernels once: two threads cannot load and unload one file.
    library = load("float32")
    assert library.time_evaluator("main", device, number=3)(x, y).mean > 0

    def work(value: float) -> float:
        held = [tvm.runtime.tensor(np.full(SIZE, value, np.float32), device) for _ in range(10)]
        for x, y in pairwise(held):
            library["main"](x, y)
        return float(held[1].numpy()[0] - np.exp(value) - 1)

    with ThreadPoolExecutor(4) as pool:
        assert max(map(abs, pool.map(work, np.linspace(0, 1, 8)))) < 1e-5
    compute("float16", number)
    return launch("float32", number, 1100)


def run_network(device: Any) -> None:
    machine = relax.VirtualMachine(load("network"), device)
    machine["main"](tvm.runtime.tensor(np.ones((4, 32), np.float32), device)).numpy()


def check_memory(device: Any) -> None:
    """Fill many tensors; take some away and put others in their place."""
    held = {}
    for step in range(300):
        slot = step if step < 200 else 7 * step % 200
        held.pop(slot, None)  # which leaves a hole
        values = np.full(1 + 37 * (step % 50), step, np.int32)
        held[slot] = values, tvm.runtime.tensor(values, device)
    for values, tensor in held.values():
        np.testing.assert_array_equal(tensor.numpy(), values)


def check_copies(device: Any) -> None:
    """Move more than is staged at a time, up, on the device and down again."""
    values = np.arange(20_000_000, dtype=np.int32)
    first = tvm.runtime.tensor(values, device)
    first.copyto(first)
    second = first.copyto(device)
    np.testing.assert_array_equal(second.numpy(), values)


main(sys.argv[2])
