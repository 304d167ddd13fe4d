"""The multiply-add rate that one core can reach, measured: the yardstick of every share of peak."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker

SOURCE = Path(__file__).parent / "fma_peak.c"
PEAK = "peak.so"
# About 0.3 ms a call: long enough for the clock, short enough to repeat in every round.
STEPS = 100_000
# Threads need about so many repeats more, to overlap for most of the time.
THREADED = 5


def build_peak(target: TargetSpec, library: Path) -> None:
    """Compile the peak kernel for a target's vector width."""
    flags = ["-std=c11", "-O2", "-ffp-contract=fast", "-shared", "-fPIC"]
    flags.append(f"-DVECTOR_BYTES={target.core.vector_bits // 8}")
    if target.arch == "x86_64":
        flags.append(f"-march={target.tvm_target['mcpu']}")
    command = [*find_linker(target).command, *flags, "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)


class FmaPeak:
    """The peak kernel, loaded into this process."""

    def __init__(self, library: Path) -> None:
        self._function = ctypes.CDLL(str(library)).ofa_fma_peak
        self._function.restype = ctypes.c_double
        self._function.argtypes = (ctypes.c_int64, ctypes.c_float, ctypes.POINTER(ctypes.c_float))

    @classmethod
    def of_target(cls, target: TargetSpec) -> FmaPeak:
        """Compile it for one of this machine's targets and load it."""
        with tempfile.TemporaryDirectory(prefix="ofa-compile-peak-") as folder:
            library = Path(folder) / PEAK
            build_peak(target, library)
            return cls(library)

    def gflops(self, repeats: int = 3, threads: int = 1) -> float:
        """Measure; the best of a few repeats of each thread, since nothing can make it too fast.

        Threads start together, so that what they share shows.
        """
        if threads == 1:
            return max(self._once() for _ in range(repeats))
        start = Barrier(threads)

        def rate() -> float:
            start.wait()
            return max(self._once() for _ in range(THREADED * repeats))

        with ThreadPoolExecutor(threads) as pool:
            return sum(done.result() for done in [pool.submit(rate) for _ in range(threads)])

    def _once(self) -> float:
        sink = ctypes.c_float()
        return float(self._function(STEPS, 0.5, ctypes.byref(sink)))
