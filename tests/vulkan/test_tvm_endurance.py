"""Vulkan as a device of TVM: what it leaves behind, and how its processes end."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tvm_runs import run_cases

pytestmark = [
    pytest.mark.vulkan,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
    pytest.mark.usefixtures("tvm_elsewhere"),
]


def test_nothing_leaks(tvm_modules: Path, counting_loader: dict[str, str]) -> None:
    """In a thousand runs, a hundred loads of a module, twenty virtual machines and timers."""
    (counted,), _ = run_cases(tvm_modules, [("endure", [], {})], **counting_loader)
    assert "pipelines 1\n" in counted["before"]
    assert counted["before"] == counted["after"]
    assert counted["growth"] < 2**20


def test_a_forked_child_is_told(tvm_modules: Path) -> None:
    """It ends at once, and does its parent no harm."""
    ((status, text, result),), _ = run_cases(tvm_modules, [("fork", [], {})])
    assert status == 0
    assert "Vulkan device 0 is open in the process that this one was forked from" in text
    assert result == pytest.approx(math.e + 1)


def test_the_interpreter_ends_with_everything_alive(tvm_modules: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np, tvm, tvm_ffi
device = tvm.device("vulkan", 0)
x = tvm.runtime.tensor(np.ones(128, np.float32), device)
held = tvm.runtime.load_module({str(tvm_modules / "float32.so")!r})
tvm_ffi.register_global_func("held.for.ever", held["main"])
released = tvm_ffi.load_module({str(tvm_modules / "scalar.so")!r}, keep_module_alive=False)
held["main"](x, x.copyto(device))  # not submitted yet
released["main"](x, 1.0, x.copyto(device))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
