from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from stub_build import COMPILERS, FLAGS, RUNTIME, missing_tools

from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.remote.glue import ffi_headers

# Everything that is linked into a bundle or runs on a board.
SOURCES = sorted(path.name for path in RUNTIME.glob("*.c") if not path.name.startswith("torch_"))
STRICT = ("-O2", "-fPIC", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes")


@pytest.mark.parametrize("platform", COMPILERS)
def test_sources_compile_without_warnings(tmp_path: Path, platform: str) -> None:
    if missing_tools(platform):
        pytest.skip(f"{COMPILERS[platform]} not installed")
    preprocessing = Preprocessing(height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1))
    (tmp_path / "network_meta.h").write_text(render_network_meta(preprocessing, ["a", "b"]))
    for name in SOURCES:
        command = [COMPILERS[platform], *FLAGS, *STRICT, "-DOFA_PREFIX=ofa_x_", f"-I{tmp_path}"]
        command += ["-isystem", str(ffi_headers()), "-DOFA_PROBE_VALUES=52", "-DOFA_PROBE_FLOPS=96"]
        done = subprocess.run(
            [*command, "-c", str(RUNTIME / name), "-o", str(tmp_path / "object.o")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
