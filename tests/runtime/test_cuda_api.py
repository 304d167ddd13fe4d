"""Our declarations of the CUDA driver against the toolkit's header, where it is installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ofa_compile.compiler.link import runtime_folder

OFFICIAL = Path("/usr/local/cuda/include/cuda.h")
API = runtime_folder() / "cuda_api.h"


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="no CUDA toolkit")
def test_functions_and_numbers_are_the_official_ones(tmp_path: Path) -> None:
    text = API.read_text()
    entries = re.findall(r'F\((\w+), +"(\w+)",\s*\\?\s*(\(.*?\))\) *(?:\\|\n)', text, re.DOTALL)
    assert len(entries) >= 36
    # A prototype that differs from the header's is an error; enumerations are ints to us.
    lines = ["#define __CUDA_API_VERSION_INTERNAL", f'#include "{OFFICIAL}"']
    for _, symbol, parameters in entries:
        kinds = parameters.replace("\\", " ")
        if symbol == "cuDeviceGetAttribute":
            kinds = kinds.replace("int,", "CUdevice_attribute,")
        if symbol == "cuStreamBeginCapture_v2":
            kinds = kinds.replace("int)", "CUstreamCaptureMode)")
        if symbol == "cuThreadExchangeStreamCaptureMode":
            kinds = kinds.replace("int", "CUstreamCaptureMode")
        lines.append(f"CUresult {symbol}{kinds};")
    for name, value in re.findall(r"\b(CU\w+_[A-Z_]+) = (\d+)", text):
        lines.append(f'_Static_assert((int){name} == {value}, "{name}");')
    source = tmp_path / "check.c"
    source.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-std=c11", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
