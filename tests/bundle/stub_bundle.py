"""What tests need to build bundles around the stub network, without the real compiler."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stub_build import build_library, build_program

from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.compiler.build import CompiledNetwork
from ofa_compile.hardware.target_spec import TargetSpec

CLASSES = 4
DEFINES = (f"-DSTUB_CLASSES={CLASSES}",)
PREPROCESSING = Preprocessing(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
LABELS = ("cat", "dog", "owl", "eel")


def stub_logits(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the stub network computes: the first values of its input."""
    return x.reshape(len(x), 192)[:, :CLASSES].copy()


class StubCompiler:
    """Stands in for `compile_onnx`: real binaries around the stub network, built once each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.defines: tuple[str, ...] = DEFINES

    def __call__(
        self,
        onnx_path: Path,
        target: TargetSpec,
        output_dir: Path,
        *,
        symbol_prefix: str,
        network_meta: str,
        **options: Any,
    ) -> CompiledNetwork:
        platform = "arm64" if target.arch == "aarch64" else "native"
        build = self.folder / platform / symbol_prefix / "".join(self.defines)
        if not build.exists():
            build.mkdir(parents=True)
            build_program(build, platform, defines=self.defines, network_meta=network_meta)
            build_library(build, symbol_prefix, platform, self.defines)
        shutil.copy2(build / "subnet", output_dir / "subnet")
        shutil.copy2(build / f"lib{symbol_prefix}.so", output_dir / "libsubnet.so")
        return CompiledNetwork(
            library=output_dir / "libsubnet.so",
            executable=output_dir / "subnet",
            input_shape=(1, 3, 8, 8),
            output_shape=(1, CLASSES),
            steps=[],
            arena_bytes=768,
            weights_bytes=0,
            object_cache_hits=0,
            object_cache_misses=0,
        )
