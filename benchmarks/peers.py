"""Other inference runtimes, one class each: batch 1, float32, on any number of threads.

A runtime is offered when its packages can be imported. What it needs of its own (a converted model)
is made at first use and kept beside subnet.onnx. Peers fight over dependencies with each other and
with TVM, so install them into an environment of their own: requirements-peers.txt.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from runtimes import Runtime, Tensor


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


class Ncnn(Runtime):
    """ncnn without its half-precision storage, the model converted by pnnx."""

    name = "ncnn"
    modules = ("ncnn", "pnnx")

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        import ncnn

        param, weights = folder / "subnet.ncnn.param", folder / "subnet.ncnn.bin"
        if not weights.is_file():
            shape = ",".join(map(str, x.shape))
            program = Path(sysconfig.get_path("scripts")) / "pnnx"
            files = [f"ncnnparam={param}", f"ncnnbin={weights}"]
            command = [program, folder / "subnet.onnx", f"inputshape=[{shape}]", "fp16=0", *files]
            subprocess.run(command, check=True, capture_output=True, cwd=folder)
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{name}", False)
        self._net.load_param(str(param))
        self._net.load_model(str(weights))
        self._names = self._net.input_names()[0], self._net.output_names()[0]
        self._values = x[0].copy()  # the Mat only refers to them
        self._input = ncnn.Mat(self._values)

    def call(self) -> None:
        """Run once."""
        extractor = self._net.create_extractor()
        extractor.input(self._names[0], self._input)
        _, self._output = extractor.extract(self._names[1])

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        return np.array(self._output)


class Mnn(Runtime):
    """MNN at high precision.

    Its converter is called through the extension module behind it: importing `MNN.tools` installs a
    logging package with pip on its own.
    """

    name = "MNN"
    modules = ("MNN", "_tools")

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        import MNN

        model = folder / "subnet.mnn"
        if not model.is_file():
            _convert_to_mnn(folder / "subnet.onnx", model)
        self._interpreter = MNN.Interpreter(str(model))
        settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
        self._session = self._interpreter.createSession(settings)
        tensor = self._interpreter.getSessionInput(self._session)
        kind, layout = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
        tensor.copyFrom(MNN.Tensor(x.shape, kind, x, layout))

    def call(self) -> None:
        """Run once."""
        self._interpreter.runSession(self._session)

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        output = self._interpreter.getSessionOutput(self._session)
        return np.array(output.getData(), dtype=np.float32)


class ExecuTorch(Runtime):
    """ExecuTorch with everything XNNPACK takes delegated to it."""

    name = "ExecuTorch (XNNPACK)"
    modules = ("executorch",)
    source = "subnet.pt2"

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime as Loader

        program = folder / "subnet.pte"
        if not program.is_file():
            _lower_to_xnnpack(folder / self.source, program)
        portable_lib._unsafe_reset_threadpool(threads)  # the only way to set it from Python
        self._method = Loader.get().load_program(program).load_method("forward")
        self._inputs = [torch.from_numpy(x)]

    def call(self) -> None:
        """Run once."""
        self._outputs = self._method.execute(self._inputs)

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        return self._outputs[0].numpy().copy()


class TorchCompile(Runtime):
    """PyTorch's Inductor with frozen weights and tuned kernels, channels last.

    Compiled ahead of time, which measured faster than `torch.compile`: a call does not pass
    through Python's guards.
    """

    name = "torch.compile"
    modules = ("torch",)
    source = "subnet.pt2"

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        import torch

        torch.set_num_threads(threads)
        self._x = torch.from_numpy(x).to(memory_format=torch.channels_last)
        package = folder / f"subnet.inductor-{threads}.pt2"
        if not package.is_file():
            _compile_with_inductor(folder / self.source, self._x, package)
        self._module = torch._inductor.aoti_load_package(str(package))

    def call(self) -> None:
        """Run once."""
        self._output = self._module(self._x)

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        return self._output.numpy()


class StockTvm(Runtime):
    """TVM's own pipeline and default schedules, on Relax's virtual machine."""

    name = "TVM (default)"
    modules = ("tvm",)
    source = "subnet.tvm.so"

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        os.environ["TVM_NUM_THREADS"] = str(threads)
        import tvm
        from tvm import relax

        self._machine = relax.VirtualMachine(
            tvm.runtime.load_module(str(folder / self.source)), tvm.cpu()
        )
        self._x = tvm.runtime.tensor(x)

    def call(self) -> None:
        """Run once."""
        self._output = self._machine["main"](self._x)

    def logits(self) -> Tensor:
        """Return the logits."""
        self.call()
        output = self._output
        return (output if hasattr(output, "numpy") else output[0]).numpy()


class TunedTvm(StockTvm):
    """The same, tuned by MetaSchedule (`--tvm-trials` of bench_runtimes.py)."""

    name = "TVM (MetaSchedule)"
    source = "subnet.tvm-tuned.so"


def _convert_to_mnn(source: Path, destination: Path) -> None:
    import _tools

    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", destination]
    with _quiet_stdout():
        _tools.mnnconvert([str(argument) for argument in arguments])


def _lower_to_xnnpack(source: Path, destination: Path) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = to_edge_transform_and_lower(
        torch.export.load(source), partitioner=[XnnpackPartitioner()]
    ).to_executorch()
    destination.write_bytes(program.buffer)


def _compile_with_inductor(source: Path, x: Any, destination: Path) -> None:
    import torch

    module = torch.export.load(source).module().to(memory_format=torch.channels_last)
    with torch.no_grad(), _quiet_stdout():
        torch._inductor.aoti_compile_and_package(
            torch.export.export(module, (x,)),
            package_path=str(destination),
            inductor_configs={"freezing": True, "max_autotune": True},
        )


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what native code prints to stderr: stdout may carry a JSON document."""
    saved = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


PEERS: tuple[type[Runtime], ...] = (
    OnnxRuntime,
    OpenVino,
    Ncnn,
    Mnn,
    ExecuTorch,
    TorchCompile,
    StockTvm,
    TunedTvm,
)
