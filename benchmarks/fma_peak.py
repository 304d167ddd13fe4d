"""The multiply-add rate that one core can reach, measured: the yardstick of every share of peak."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker

SOURCE = Path(__file__).parent / "fma_peak.c"
# About 0.3 ms a call: long enough for the clock, short enough to repeat in every round.
STEPS = 100_000


class FmaPeak:
    """The peak kernel, compiled for a target's vector width and loaded into this process."""

    def __init__(self, target: TargetSpec) -> None:
        flags = ["-std=c11", "-O2", "-ffp-contract=fast", "-shared", "-fPIC"]
        flags.append(f"-DVECTOR_BYTES={target.core.vector_bits // 8}")
        if target.arch == "x86_64":
            flags.append(f"-march={target.tvm_target['mcpu']}")
        with tempfile.TemporaryDirectory(prefix="ofa-compile-peak-") as folder:
            library = Path(folder) / "peak.so"
            command = [*find_linker(target).command, *flags, "-o", str(library), str(SOURCE)]
            subprocess.run(command, check=True)
            self._function = ctypes.CDLL(str(library)).ofa_fma_peak
        self._function.restype = ctypes.c_double
        self._function.argtypes = (ctypes.c_int64, ctypes.c_float, ctypes.POINTER(ctypes.c_float))

    def gflops(self, repeats: int = 3) -> float:
        """Measure; the best of a few repeats, since nothing can make it too fast."""
        sink = ctypes.c_float()
        return max(float(self._function(STEPS, 0.5, ctypes.byref(sink))) for _ in range(repeats))
