"""Compile an ONNX file with stock TVM for a GPU: its default pipeline and schedules.

    python gpu_tvm_build.py FILE.onnx LIBRARY.so cuda|vulkan [ARCHITECTURE ...]

TVM's compiler for CUDA loads CUDA's driver. Where there is none, a stand-in on LD_LIBRARY_PATH will
do (gpu_peer_files.py makes one), since nothing is run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir.dlight.gpu import Matmul


def build(path: str, library: str, kind: str, architectures: Sequence[str]) -> None:
    """Compile a file into a library."""
    _pass_over_a_failing_rule()
    target = _cuda(architectures) if kind == "cuda" else _vulkan()
    module = from_onnx(onnx.load(path), keep_params_in_input=False)
    graphs = {"relax.backend.use_cuda_graph": kind == "cuda"}
    with target, tvm.transform.PassContext(opt_level=3, config=graphs):
        built = relax.build(module, target, relax_pipeline=relax.get_default_pipeline(target))
    built.export_library(library)


def _pass_over_a_failing_rule() -> None:
    """Let the next of TVM's schedule rules serve where the one for products fails.

    It does on the second convolution of squeeze-excite, which is a product where there are several
    images, and which TVM fuses with the scaling of a larger map. Nothing would be compiled.
    """
    schedule = Matmul.apply

    def apply(self: Any, *arguments: Any) -> Any:
        try:
            return schedule(self, *arguments)
        except AssertionError:
            return None

    Matmul.apply = apply


def _vulkan() -> Any:
    from ofa_compile.compiler.vulkan.tvm_backend import vulkan_target

    return vulkan_target()


def _cuda(architectures: Sequence[str]) -> Any:
    """Return the target, and have machine code of all architectures put into the library.

    TVM itself compiles for the one of the device at hand, or leaves the source for a compiler of
    the machine that loads it.
    """
    if tvm.get_global_func("device_api.cuda", allow_missing=True) is None:
        message = "TVM's library for CUDA cannot be loaded"
        raise SystemExit(message)
    from tvm.support import nvcc

    numbers = [name.removeprefix("sm_") for name in architectures]
    codes = [f"arch=compute_{number},code=sm_{number}" for number in numbers]
    codes.append(f"arch=compute_{numbers[-1]},code=compute_{numbers[-1]}")  # for later GPUs
    flags = [word for code in codes for word in ("-gencode", code)]

    def compile_all(code: str, *_: Any) -> bytearray:
        return nvcc.compile_cuda(code, target_format="fatbin", arch=flags, compiler="nvcc")

    tvm.register_global_func("tvm_callback_cuda_compile", compile_all, override=True)
    spec = {
        "kind": "cuda",
        "arch": architectures[0],
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 32,
    }
    return tvm.target.Target(spec, host={"kind": "llvm"})


if __name__ == "__main__":
    build(*sys.argv[1:4], sys.argv[4:])
