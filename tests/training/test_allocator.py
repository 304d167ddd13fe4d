from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from ofa_compile.training.allocator import keep_memory
print(keep_memory())
torch.set_num_threads(1)
block = torch.ones(8 << 20)
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = torch.ones(8 << 20)  # 32 MiB: 8192 pages
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_are_reused() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    _, faults = run.stdout.split()
    assert int(faults) < 1000
