"""What other runtimes load, made where there is no GPU: ONNX, ncnn's format, stock TVM's libraries.

What only a GPU can make is not among it: the kernels that torch.compile picks by timing them, and
TensorRT's engines.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_prebuilt import onnx_file
from gpu_runtimes import base_of

from ofa_compile.errors import OfaCompileError
from ofa_compile.space import Architecture

if TYPE_CHECKING:
    from ofa_compile.hardware.target_spec import TargetSpec

Absent = dict[str, dict[str, str]]
"""Runtime -> subnet, with or without its batch, or `ALL` -> why there are no files."""

ALL = "all networks"
NCNN_PARAM, NCNN_BIN = "subnet.ncnn.param", "subnet.ncnn.bin"
TVM_FOLDER = "tvm"
_TIMEOUT_S = 1800
# What libtvm_runtime_cuda.so wants of a driver. No device is needed to compile: a library that has
# these names lets it load.
_DRIVER_FUNCTIONS = (
    "cuDeviceGetName", "cuFuncSetAttribute", "cuGetErrorName", "cuGetErrorString",
    "cuLaunchKernelEx", "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload",
    "cuTensorMapEncodeTiled",
)  # fmt: skip
_NO_DEVICE = 100


class NotMadeError(Exception):
    """A runtime's files cannot be made here; says why."""


def add_peer_files(
    folder: Path,
    subnets: Mapping[str, Architecture],
    batches: Sequence[int],
    targets: Sequence[TargetSpec],
    tell: Callable[[str], None],
) -> Absent:
    """Make the files of all runtimes for networks whose ONNX files are there.

    Parameters are those of `gpu_prebuilt.prebuild`.

    Returns
    -------
    What could not be made, and why.
    """
    absent: Absent = {}

    def attempt(runtime: str, what: str, make: Callable[[], None]) -> None:
        try:
            if ALL not in absent.get(runtime, ()):
                tell(f"{what}: files of {runtime}")
                make()
        except NotMadeError as error:
            absent.setdefault(runtime, {})[what] = str(error)

    kind, by_precision = targets[0].kind, {target.precision: target for target in targets}
    exact = by_precision.get("fp32")
    if exact is not None:
        attempt("tvm", ALL, lambda: add_tvm_runtime(folder / TVM_FOLDER, kind))
    if kind == "vulkan":
        attempt("ncnn-vulkan", ALL, find_pnnx)
    for name, architecture in subnets.items():
        place = folder / name
        if kind == "vulkan":
            attempt("ncnn-vulkan", name, lambda p=place, a=architecture: add_ncnn(p, a))
        for batch in batches:
            what = f"{name} batch {batch}"
            if exact is not None:
                attempt("tvm", what, lambda p=place, b=batch: add_tvm(p, b, exact))
            if "fp16" in by_precision and kind == "cuda":
                for runtime in ("onnxruntime-fp16", "tensorrt-fp16"):
                    attempt(runtime, what, lambda p=place, b=batch: add_halves(p, b))
    return absent


def why_absent(absent: Absent, runtime: str, facts: Mapping[str, Any]) -> str | None:
    """Return why a runtime has no files for a network, if it has none."""
    known = absent.get(runtime) or absent.get(base_of(runtime), {})
    names = (ALL, facts["subnet"], f"{facts['subnet']} batch {facts['batch']}")
    return next((f"has no files: {known[name]}" for name in names if name in known), None)


def add_halves(place: Path, batch: int) -> None:
    """Write the network with weights and maps of float16, its input and logits float32."""
    if onnx_file(place, batch, "fp16").is_file():
        return
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        message = f"{error}: ONNX Runtime converts networks to float16"
        raise NotMadeError(message) from error
    model = onnx.load(onnx_file(place, batch))
    onnx.save(convert_float_to_float16(model, keep_io_types=True), onnx_file(place, batch, "fp16"))


def find_pnnx() -> str:
    """Return the program that converts networks for ncnn.

    Raises
    ------
    NotMadeError
        If there is none.
    """
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("pnnx", path=scripts) or shutil.which("pnnx")
    if program is None:
        message = "no pnnx beside this Python or on PATH: pip install pnnx, here or elsewhere"
        raise NotMadeError(message)
    return program


def add_ncnn(place: Path, architecture: Architecture) -> None:
    """Convert a network for single images, which is all that ncnn takes, by pnnx.

    Raises
    ------
    NotMadeError
        If pnnx fails.
    """
    from gpu_prebuilt import coarse_subnet

    from ofa_compile.export.onnx_export import export_onnx

    if (place / NCNN_BIN).is_file():
        return
    program = find_pnnx()
    size = architecture.resolution
    with tempfile.TemporaryDirectory(prefix="ofa-pnnx-") as temporary:  # it leaves files behind
        single = Path(temporary) / "single.onnx"
        subnet = coarse_subnet(architecture, place / "weights.npz")
        export_onnx(subnet, single, resolution=size, check=False)
        command = [program, single.name, f"inputshape=[1,3,{size},{size}]", "fp16=0"]
        command += [f"ncnnparam={NCNN_PARAM}", f"ncnnbin={NCNN_BIN}"]
        _run(command, Path(temporary), dict(os.environ))
        for name in (NCNN_PARAM, NCNN_BIN):
            shutil.copyfile(Path(temporary) / name, place / name)


def add_tvm(place: Path, batch: int, target: TargetSpec) -> None:
    """Compile a network with stock TVM's own pipeline and default schedules, in a process apart.

    Raises
    ------
    NotMadeError
        If TVM is not installed, or cannot compile for the target here.
    """
    library = tvm_library(place, batch)
    if library.is_file():
        return
    environment = {**os.environ, "TVM_CUDA_NVCC_NO_FAST_MATH": "1"}
    with tempfile.TemporaryDirectory(prefix="ofa-tvm-") as temporary:
        if target.kind == "cuda":
            toolkit = _cuda_toolkit()
            _write_driver_stub(Path(temporary) / "libcuda.so.1")
            folders = [temporary, str(_cuda_runtime(toolkit).parent)]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
            environment["PATH"] = os.pathsep.join([str(toolkit / "bin"), environment["PATH"]])
        script = Path(__file__).parent / "gpu_tvm_build.py"
        architectures = target.toolchain.gpu_architectures
        unfinished = Path(temporary) / library.name
        command = [sys.executable, str(script), str(onnx_file(place, batch)), str(unfinished)]
        _run([*command, target.kind, *architectures], Path(temporary), environment)
        shutil.copyfile(unfinished, library)


def tvm_library(place: Path, batch: int) -> Path:
    """Return where stock TVM's library of a network is."""
    return place / f"batch-{batch}.tvm.so"


def add_tvm_runtime(folder: Path, kind: str) -> None:
    """Copy what runs TVM's libraries: its run time, and the library that knows the device.

    Raises
    ------
    NotMadeError
        If one of them is not installed.
    """
    try:
        import tvm
        import tvm_ffi
    except ImportError as error:
        message = f"{error}: stock TVM compiles its networks here"
        raise NotMadeError(message) from error
    own = Path(tvm.__file__).parent / "lib"
    files = [Path(tvm_ffi.__file__).parent / "lib" / "libtvm_ffi.so", own / "libtvm_runtime.so"]
    copies = {path.name: path for path in files}
    if kind == "cuda":
        runtime = _cuda_runtime(_cuda_toolkit())
        copies |= {runtime.name: runtime}
        copies |= {"libtvm_runtime_cuda.so": own / "libtvm_runtime_cuda.so"}
    else:
        copies |= {"libvulkan_tvm.so": _vulkan_plugin()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in copies.items():
        if not path.is_file():
            message = f"this TVM has no {path.name}"
            raise NotMadeError(message)
        shutil.copyfile(path, folder / name)


def _vulkan_plugin() -> Path:
    """Return the library that makes Vulkan a device of TVM."""
    from ofa_compile.compiler.vulkan.tvm_plugin import enable_vulkan, find_plugins

    try:
        enable_vulkan()
    except OfaCompileError as error:
        raise NotMadeError(str(error)) from error
    return next(find_plugins())


def _cuda_toolkit() -> Path:
    """Return the folder of the toolkit whose nvcc compiles our kernels as well."""
    from ofa_compile.compiler.cuda.nvcc import find_nvcc

    try:
        nvcc = find_nvcc().path
    except OfaCompileError as error:
        raise NotMadeError(str(error)) from error
    # The program found may be a script that calls another.
    done = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"_HERE_=(\S+)", done.stderr)
    return Path(found[1] if found else Path(nvcc).parent).parent


def _cuda_runtime(toolkit: Path) -> Path:
    """Return the library of CUDA's own run time, by the name that programs ask for."""
    places = [toolkit / "lib64", toolkit / "lib", *toolkit.glob("targets/*/lib")]
    for place in places:
        for path in sorted(place.glob("libcudart.so.*")):
            if re.fullmatch(r"libcudart\.so\.\d+", path.name):
                return path
    message = f"no libcudart.so below {toolkit}, which TVM needs beside the driver"
    raise NotMadeError(message)


def _write_driver_stub(path: Path) -> None:
    """Compile a driver that has no device."""
    source = "\n".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}" for name in _DRIVER_FUNCTIONS)
    (path.parent / "driver.c").write_text(source + "\n", encoding="utf-8")
    flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", path.name]
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        message = "no C compiler, which stands in for CUDA's driver while TVM compiles"
        raise NotMadeError(message)
    _run([compiler, *flags, "driver.c"], path.parent, dict(os.environ))


def _run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{command[0]} cannot be run: {error}"
        raise NotMadeError(message) from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        message = f"{Path(command[0]).name} fails: {' '.join(lines[-3:])[:500]}"
        raise NotMadeError(message)
