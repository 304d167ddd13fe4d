"""Networks on a GPU: ours, PyTorch's in several ways, ONNX Runtime's, TVM's and ncnn's.

Every runtime tells two times. `device_ms` is without copies of input and output: ours from the
first kernel to the last by the device's clock, PyTorch's and TVM's as the mean of many runs queued
one behind the other, ONNX Runtime's by the host's clock run by run, and ncnn's so with copies.
`end_to_end_ms` is by the host's clock, from an input in host memory to logits there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gpu_prebuilt import PREFIX, coarse_subnet, images
from numpy.typing import NDArray

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.errors import OfaCompileError
from ofa_compile.space import Architecture

_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
TURN = 10
_QUEUED = 20


class GpuRuntime(Protocol):
    """A network loaded by one runtime, with its input."""

    calls_per_turn: int
    """Runs of `device_ms(TURN)`, those included that are not timed."""

    def logits(self) -> NDArray[np.float32]:
        """Run once."""

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs without copies."""

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs with copies."""


class OursOnGpu:
    """The library that ofa-compile built."""

    calls_per_turn = TURN + 3

    def __init__(self, place: Path, facts: Mapping[str, Any]) -> None:
        architecture = Architecture.from_dict(facts["architecture"])
        self._x = images(architecture, facts["batch"])
        self._library = NativeLibrary(place / "libsubnet.so", PREFIX)

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        return self._library.run(self._x)

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs without copies, by the device's clock."""
        return self._library.time_device(self._x, repeats=repeats, warmup=2)

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs inside the library."""
        return self._library.time(self._x, repeats=repeats, warmup=1)

    def step_ms(self, repeats: int) -> list[float]:
        """Return the median time of each kernel."""
        steps = self._library.time_steps(self._x, repeats=repeats, warmup=2)
        return [float(value) for value in np.median(steps, axis=0)]

    def close(self) -> None:
        """Unload."""
        self._library.close()


class TorchOnGpu:
    """PyTorch, channels last; `how` names what makes it quick.

    "graph" captures the eager network, with cuDNN's own search, as one CUDA graph; others are
    modes of torch.compile, which use CUDA graphs themselves. TF32 rounds products to 10 bits.
    """

    calls_per_turn = TURN * _QUEUED

    def __init__(self, place: Path, facts: Mapping[str, Any], how: str, *, tf32: bool) -> None:
        import torch

        self._torch = torch
        torch.backends.cudnn.benchmark = True
        self._tf32 = tf32
        self._set_precision()
        architecture = Architecture.from_dict(facts["architecture"])
        subnet = coarse_subnet(architecture, place.parent / "weights.npz").cuda()
        subnet = subnet.to(memory_format=torch.channels_last)
        self._host = torch.from_numpy(images(architecture, facts["batch"]))
        self._host = self._host.contiguous(memory_format=torch.channels_last).pin_memory()
        self._x = self._host.cuda()
        with torch.inference_mode():
            is_captured = how == "graph"
            self._call = self._captured(subnet) if is_captured else torch.compile(subnet, mode=how)
            for _ in range(3):
                self._call(self._x)
        torch.cuda.synchronize()

    def _set_precision(self) -> None:
        self._torch.backends.cudnn.allow_tf32 = self._tf32
        self._torch.backends.cuda.matmul.allow_tf32 = self._tf32

    def _captured(self, subnet: Any) -> Callable[[Any], Any]:
        torch = self._torch
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                subnet(self._x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = subnet(self._x)

        def call(x: Any) -> Any:
            if x is not self._x:
                self._x.copy_(x, non_blocking=True)
            graph.replay()
            return output

        return call

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        with self._torch.inference_mode():
            return np.asarray(self._call(self._x).float().cpu().numpy())

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs that are queued one behind the other."""
        torch, times = self._torch, []
        with torch.inference_mode():
            for _ in range(repeats):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(_QUEUED):
                    self._call(self._x)
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) / _QUEUED)
        return np.array(times)

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs from pinned host memory and back."""
        torch, times = self._torch, np.empty(repeats)
        with torch.inference_mode():
            for number in range(repeats):
                start = time.perf_counter_ns()
                x = torch.empty_like(self._x)
                x.copy_(self._host, non_blocking=True)
                self._call(x).cpu()
                times[number] = (time.perf_counter_ns() - start) / 1e6
        return times

    def close(self) -> None:
        """Let go of the network."""
        del self._call
        self._torch.cuda.empty_cache()


class OnnxRuntimeOnGpu:
    """ONNX Runtime's CUDA or TensorRT provider as one CUDA graph, bound to memory of the device."""

    calls_per_turn = TURN

    def __init__(self, place: Path, facts: Mapping[str, Any], provider: str = _CUDA) -> None:
        import onnxruntime as ort

        architecture = Architecture.from_dict(facts["architecture"])
        model = _exported(place / "subnet.onnx", place, architecture, facts["batch"])
        settings = {"enable_cuda_graph": "1", "use_tf32": "0"}
        if provider == _TENSORRT:
            # Its engines take minutes to build; --warm leaves them here for the run.
            engines = Path(tempfile.gettempdir()) / "ofa-gpu-engines"
            engines.mkdir(exist_ok=True)
            settings = {"trt_cuda_graph_enable": "1", "trt_engine_cache_enable": "1"}
            settings["trt_engine_cache_path"] = str(engines)
        self._session = ort.InferenceSession(str(model), providers=[(provider, settings)])
        if self._session.get_providers()[0] != provider:  # as it does without an error
            message = f"ONNX Runtime has fallen back to {self._session.get_providers()[0]}"
            raise RuntimeError(message)
        self._host = images(architecture, facts["batch"])
        name = self._session.get_inputs()[0].name
        self._x = ort.OrtValue.ortvalue_from_numpy(self._host, "cuda", 0)
        shape = [facts["batch"], len(facts["logits"][0])]
        self._y = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(name, self._x)
        self._binding.bind_ortvalue_output(self._session.get_outputs()[0].name, self._y)
        for _ in range(3):
            self._call()

    def _call(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        self._call()
        return np.asarray(self._y.numpy())

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs by the host's clock: each waits for the device."""
        return _timed(self._call, repeats)

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs with copies."""

        def call() -> None:
            self._x.update_inplace(self._host)
            self._call()
            self._y.numpy()

        return _timed(call, repeats)

    def close(self) -> None:
        """Let go of the network."""
        del self._session, self._binding


class TvmOnGpu:
    """Stock TVM: its default pipeline and schedules, and the Relax virtual machine."""

    calls_per_turn = TURN * _QUEUED

    def __init__(self, place: Path, facts: Mapping[str, Any]) -> None:
        os.environ.setdefault("TVM_CUDA_NVCC_NO_FAST_MATH", "1")
        import onnx
        import tvm
        from tvm import relax
        from tvm.relax.frontend.onnx import from_onnx

        architecture = Architecture.from_dict(facts["architecture"])
        model = _exported(place / "subnet.onnx", place, architecture, facts["batch"])
        target, self._device = _tvm_target(facts["kind"])
        module = from_onnx(onnx.load(model), keep_params_in_input=False)
        graphs = {"relax.backend.use_cuda_graph": facts["kind"] == "cuda"}
        with target, tvm.transform.PassContext(opt_level=3, config=graphs):
            pipeline = relax.get_default_pipeline(target)
            built = relax.build(module, target, relax_pipeline=pipeline)
        self._machine = relax.VirtualMachine(built, self._device)
        self._tensor = tvm.runtime.tensor
        self._host = images(architecture, facts["batch"])
        self._x = self._tensor(self._host, self._device)
        self.logits()

    def _call(self, x: Any) -> Any:
        return self._machine["main"](x)

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        return np.asarray(self._call(self._x).numpy())

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs that are queued one behind the other."""

        def call() -> None:
            for _ in range(_QUEUED):
                self._call(self._x)
            self._device.sync()

        return _timed(call, repeats) / _QUEUED

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs with copies."""
        return _timed(lambda: self._call(self._tensor(self._host, self._device)).numpy(), repeats)

    def close(self) -> None:
        """Let go of the network."""
        del self._machine, self._x


def _tvm_target(kind: str) -> tuple[Any, Any]:
    """Return the target for the device that is here, and the device."""
    import tvm

    device = tvm.device(kind, 0)
    if kind == "vulkan":
        from ofa_compile.compiler.vulkan.tvm_backend import vulkan_target

        return vulkan_target(), device
    capability = str(device.compute_version).replace(".", "")
    spec = {
        "kind": "cuda",
        "arch": f"sm_{capability}",
        "max_threads_per_block": device.max_threads_per_block,
        "max_shared_memory_per_block": device.max_shared_memory_per_block,
        "thread_warp_size": device.warp_size,
    }
    return tvm.target.Target(spec, host={"kind": "llvm"}), device


class NcnnOnVulkan:
    """ncnn's Vulkan backend in float32, converted by pnnx.

    It takes single images, so a batch is as many runs one after the other; its time is the host's
    and holds copies in any case.
    """

    calls_per_turn = TURN

    def __init__(self, place: Path, facts: Mapping[str, Any]) -> None:
        import ncnn

        place = place.resolve()  # the converter runs in this folder
        architecture = Architecture.from_dict(facts["architecture"])
        param, weights = place / "subnet.ncnn.param", place / "subnet.ncnn.bin"
        if not weights.is_file():
            model = _exported(place / "single.onnx", place, architecture, 1)
            size = architecture.resolution
            scripts = sysconfig.get_path("scripts")
            program = shutil.which("pnnx", path=scripts) or shutil.which("pnnx") or "pnnx"
            files = [f"ncnnparam={param}", f"ncnnbin={weights}"]
            command = [program, model, f"inputshape=[1,3,{size},{size}]", "fp16=0", *files]
            subprocess.run(command, check=True, capture_output=True, cwd=place)
        self._net = ncnn.Net()
        options = self._net.opt
        options.use_vulkan_compute = True
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{name}", False)
        self._net.load_param(str(param))
        self._net.load_model(str(weights))
        if not self._net.opt.use_vulkan_compute:  # as it does without a word
            message = "ncnn has fallen back to the processor"
            raise RuntimeError(message)
        self._names = self._net.input_names()[0], self._net.output_names()[0]
        self._images = images(architecture, facts["batch"])  # the Mats only refer to them
        self._inputs = [ncnn.Mat(image) for image in self._images]
        self.logits()

    def _call(self) -> list[Any]:
        outputs = []
        for image in self._inputs:
            extractor = self._net.create_extractor()
            extractor.input(self._names[0], image)
            outputs.append(extractor.extract(self._names[1])[1])
        return outputs

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        return np.stack([np.array(output, np.float32).ravel() for output in self._call()])

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs by the host's clock, copies among them."""
        return _timed(self._call, repeats)

    end_to_end_ms = device_ms

    def close(self) -> None:
        """Let go of the network."""
        self._net.clear()


def _exported(model: Path, place: Path, architecture: Architecture, batch: int) -> Path:
    """Return the network as ONNX, written when first wanted."""
    if not model.is_file():
        from ofa_compile.export.onnx_export import export_onnx

        subnet = coarse_subnet(architecture, place.parent / "weights.npz")
        size = architecture.resolution
        export_onnx(subnet, model, resolution=size, batch=batch, check=False)
    return model


def _timed(call: Callable[[], Any], repeats: int) -> NDArray[np.float64]:
    times = np.empty(repeats)
    for number in range(repeats):
        start = time.perf_counter_ns()
        call()
        times[number] = (time.perf_counter_ns() - start) / 1e6
    return times


def load(kind: str, place: Path, facts: Mapping[str, Any]) -> GpuRuntime:
    """Load a network: "ours", "onnxruntime", "tensorrt", "tvm", "ncnn-vulkan", or "torch-HOW".

    "-tf32" at the end says that products are rounded.
    """
    if kind == "ours":
        return OursOnGpu(place, facts)
    if kind == "onnxruntime":
        return OnnxRuntimeOnGpu(place, facts)
    if kind.startswith("tensorrt"):
        return OnnxRuntimeOnGpu(place, facts, _TENSORRT)
    if kind == "tvm":
        return TvmOnGpu(place, facts)
    if kind == "ncnn-vulkan":
        return NcnnOnVulkan(place, facts)
    tf32 = kind.endswith("-tf32")
    how = kind.removesuffix("-tf32").removeprefix("torch-")
    return TorchOnGpu(place, facts, how, tf32=tf32)


def is_timed_by_host(kind: str) -> bool:
    """Whether a runtime's `device_ms` holds the launch of each run and the wait for its end."""
    return kind.startswith(("onnxruntime", "tensorrt", "ncnn"))


def _has_tvm(kind: str) -> bool:
    """Whether TVM is here and has the device; its plug-in for Vulkan is built if need be."""
    try:
        import tvm

        if kind == "vulkan":
            from ofa_compile.compiler.vulkan.tvm_plugin import enable_vulkan

            enable_vulkan()
    except (ImportError, OfaCompileError):
        return False
    return bool(tvm.device(kind, 0).exist)


def available(kind: str = "cuda") -> list[str]:
    """Return what can be loaded on this machine for networks of a kind of target, ours first."""
    found = ["ours"]
    try:
        import torch

        if torch.cuda.is_available():
            ways = ("graph", "max-autotune")
            found += [f"torch-{how}{tail}" for tail in ("", "-tf32") for how in ways]
    except ImportError:
        pass
    try:
        import onnxruntime as ort

        if _CUDA in ort.get_available_providers():
            found.append("onnxruntime")
        if _TENSORRT in ort.get_available_providers():
            # ONNX Runtime lets TensorRT round, unless the environment of the process forbids it.
            is_exact = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
            found.append("tensorrt" if is_exact else "tensorrt-tf32")
    except ImportError:
        pass
    if _has_tvm(kind):
        found.append("tvm")
    try:
        import ncnn

        if ncnn.get_gpu_count() > 0:
            found.append("ncnn-vulkan")
    except ImportError:
        pass
    return found
