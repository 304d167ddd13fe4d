"""Other inference runtimes behind one small interface, one class each; all run one thread.

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
    module: ClassVar[str]

    @classmethod
    def is_available(cls) -> bool:
        """Tell whether the runtime is installed."""
        return find_spec(cls.module) is not None

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
    module = "ofa_compile"

    def __init__(self, folder: Path, x: Tensor) -> None:
        from ofa_compile.bundle.native import NativeLibrary

        self._library = NativeLibrary(folder / "libsubnet.so", "ofa_bench_")
        self._x = x

    def call(self) -> None:
        """Run once."""
        self._library.time(self._x, repeats=1, warmup=0)

    def logits(self) -> Tensor:
        """Return the logits."""
        return self._library.run(self._x)

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Time inside the library."""
        return self._library.time(self._x, repeats=repeats, warmup=0)


class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider, with buffers bound beforehand."""

    name = "ONNX Runtime"
    module = "onnxruntime"

    def __init__(self, folder: Path, x: Tensor) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
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
    module = "openvino"

    def __init__(self, folder: Path, x: Tensor) -> None:
        import openvino

        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": 1,
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


class Mnn(Runtime):
    """MNN in normal precision, converted from ONNX by its own converter."""

    name = "MNN"
    module = "MNN"

    def __init__(self, folder: Path, x: Tensor) -> None:
        import MNN
        from MNN.tools import mnnconvert  # noqa: F401 - registers the converter

        path = folder / "subnet.mnn"
        if not path.exists():
            import subprocess
            import sys

            command = ["-f", "ONNX", "--modelFile", str(folder / "subnet.onnx")]
            command += ["--MNNModel", str(path), "--bizCode", "MNN"]
            code = "from MNN.tools.mnnconvert import main; main()"
            subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True)
        self._net = MNN.Interpreter(str(path))
        self._session = self._net.createSession({"numThread": 1, "precision": "high"})
        tensor = self._net.getSessionInput(self._session)
        kind = MNN.Tensor_DimensionType_Caffe
        tensor.copyFrom(MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, kind))
        self._module = MNN

    def call(self) -> None:
        """Run once."""
        self._net.runSession(self._session)

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        output = self._net.getSessionOutput(self._session)
        shape = output.getShape()
        zeros = np.zeros(shape, np.float32)
        kind = self._module.Tensor_DimensionType_Caffe
        host = self._module.Tensor(shape, self._module.Halide_Type_Float, zeros, kind)
        output.copyToHostTensor(host)
        return np.array(host.getData(), dtype=np.float32).reshape(1, -1)


class Ncnn(Runtime):
    """ncnn in float32, converted from ONNX by pnnx."""

    name = "ncnn"
    module = "ncnn"

    def __init__(self, folder: Path, x: Tensor) -> None:
        import ncnn

        if not (folder / "subnet.ncnn.param").exists():
            import subprocess

            import pnnx

            shape = "[" + ",".join(map(str, x.shape)) + "]"
            command = [pnnx.EXEC_PATH, "subnet.onnx", f"inputshape={shape}", "fp16=0"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        self._net = ncnn.Net()
        self._net.opt.num_threads = 1
        self._net.opt.use_fp16_packed = False
        self._net.opt.use_fp16_storage = False
        self._net.opt.use_fp16_arithmetic = False
        self._net.opt.use_bf16_storage = False
        self._net.load_param(str(folder / "subnet.ncnn.param"))
        self._net.load_model(str(folder / "subnet.ncnn.bin"))
        self._input = ncnn.Mat(x[0])
        self._output: Any = None

    def call(self) -> None:
        """Run once."""
        with self._net.create_extractor() as extractor:
            extractor.input("in0", self._input)
            _, self._output = extractor.extract("out0")

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        return np.array(self._output, dtype=np.float32).reshape(1, -1)


PEERS: tuple[type[Runtime], ...] = (OnnxRuntime, OpenVino, Ncnn, Mnn)
