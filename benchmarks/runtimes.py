"""Other inference runtimes behind one small interface, one class each, on any number of threads.

A runtime is offered when its package can be imported. Peers fight over dependencies, so install
them into an environment of their own (see README.md, `--build` and `--prebuilt`).
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


class Runtime:
    """A network loaded by one runtime.

    Subclasses load it in `__init__`, and `call` runs it once on the input given there.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]

    @classmethod
    def is_available(cls) -> bool:
        """Tell whether the runtime, and what converts for it, are installed."""
        return all(find_spec(module) is not None for module in cls.modules)

    def call(self) -> None:
        """Run once; the result stays inside."""
        raise NotImplementedError

    def logits(self) -> Tensor:
        """Return the result of the last run, of shape (1, classes)."""
        raise NotImplementedError

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Return the milliseconds of each run; one Python call lies within each."""
        times = np.empty(repeats)
        for number in range(repeats):
            start = time.perf_counter_ns()
            self.call()
            times[number] = (time.perf_counter_ns() - start) / 1e6
        return times


class Ours(Runtime):
    """The library that ofa-compile built, through ctypes."""

    name = "ofa-compile"
    modules = ("ofa_compile",)

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        from ofa_compile.bundle.native import NativeLibrary

        self._library = NativeLibrary(folder / "libsubnet.so", "ofa_bench_")
        self._x = x
        self._threads = threads

    def call(self) -> None:
        """Run once."""
        self._library.time(self._x, repeats=1, warmup=0, threads=self._threads)

    def logits(self) -> Tensor:
        """Return the logits."""
        return self._library.run(self._x)

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Time inside the library."""
        return self._library.time(self._x, repeats=repeats, warmup=0, threads=self._threads)


class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider, with buffers bound beforehand."""

    name = "ONNX Runtime"
    modules = ("onnxruntime",)

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            folder / "subnet.onnx", options, providers=["CPUExecutionProvider"]
        )
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input(self._session.get_inputs()[0].name, x)
        self._binding.bind_output(self._session.get_outputs()[0].name, "cpu")

    def call(self) -> None:
        """Run once."""
        self._session.run_with_iobinding(self._binding)

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        return np.asarray(self._binding.copy_outputs_to_cpu()[0])


class OpenVino(Runtime):
    """OpenVINO's CPU plugin in float32."""

    name = "OpenVINO"
    modules = ("openvino",)

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        import openvino

        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = openvino.Core().compile_model(str(folder / "subnet.onnx"), "CPU", settings)
        self._request = model.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def call(self) -> None:
        """Run once."""
        self._request.infer()

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        return self._request.get_output_tensor().data.copy()


PEERS: tuple[type[Runtime], ...] = (OnnxRuntime, OpenVino)
