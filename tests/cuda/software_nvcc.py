"""Stands for nvcc: compiles a kernel's text for the CPU, so that the driver beside it can run it.

Its first argument is the folder of the precompiled header. The "fat binary" is a shared library
with the kernel of one thread.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# In one piece, as a GPU would: no vectors across threads. Shared memory is static. Symbols that are
# unique in a process would keep a library in it for good.
FLAGS = ("-std=c++17", "-O2", "-w", "-fPIC", "-fno-threadsafe-statics", "-fno-gnu-unique")
MODERN = "Cuda compilation tools, release 13.0, V13.0.0 (for the CPU)"


def main(precompiled: str, arguments: list[str]) -> int:
    if "--version" in arguments:
        print(os.environ.get("OFA_SOFTWARE_NVCC", MODERN))
        return 0
    source = Path(next(a for a in arguments if a.endswith(".cu")))
    output = arguments[arguments.index("-o") + 1]
    includes = [a for a in arguments if a.startswith("-I")]
    text = source.read_text(encoding="utf-8")
    found = re.search(r"__launch_bounds__\((\d+)\)\s*(\w+)\(", text)
    assert found is not None, "no kernel"
    # Threads of a warp wait for each other in a product of matrices.
    waits = "barrier()" in text or "ofa_product" in text
    flags = [f"-DOFA_KERNEL={found[2]}", f"-DOFA_MOST_THREADS={found[1]}"]
    flags.append(f"-DOFA_WAITS={int(waits)}")
    wrapped = source.with_suffix(".cc")
    wrapped.write_text(f'{text}\n#include "software_kernel.h"\n', encoding="utf-8")
    # Beyond that, nothing: to link the libraries of C++ takes as long as to compile the kernel.
    command = ["g++", *FLAGS, "-shared", "-nostdlib", *flags, *includes]
    command += [f"-I{precompiled}", f"-I{HERE}"]
    command += ["-include", "software_cuda.h", str(wrapped), "-lm", "-lgcc", "-o", output]
    return subprocess.run(command, check=False).returncode


def precompile(folder: Path) -> None:
    """Parse the header once, which takes longer than most kernels."""
    command = ["g++", *FLAGS, "-x", "c++-header", str(HERE / "software_cuda.h")]
    subprocess.run([*command, "-o", str(folder / "software_cuda.h.gch")], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
