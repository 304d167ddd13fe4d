"""Other runtimes' arm64 builds in the emulator, for bench_arm64_instructions.

Each function converts the network of a folder (``subnet.onnx`` or ``subnet.pt2``) with tools of
this machine and returns the instructions of one inference.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from pathlib import Path

from ofa_compile.measurement.network_cycles import count_inference

HERE = Path(__file__).resolve().parent
_CONVERT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import peers
getattr(peers, sys.argv[2])(Path(sys.argv[3]), Path(sys.argv[4]))
"""


# What a Linux kernel would say of one core: runtimes choose kernels by it, and ONNX Runtime crashes
# on the description of a machine that is no ARM (QEMU shows programs that of the host).
PARTS = {
    "cortex-a53": "0xd03",
    "cortex-a72": "0xd08",
    "cortex-a76": "0xd0b",
    "neoverse-n1": "0xd0c",
}
_CPUINFO = """processor\t: 0
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: {part}
CPU revision\t: 0
"""


def describe_core(root: Path, cpu: str) -> None:
    """Write the files that describe one core of a kind, where QEMU finds them first."""
    files = {"proc/cpuinfo": _CPUINFO.format(part=PARTS[cpu])}
    for name in ("possible", "present", "cpu0/topology/physical_package_id"):
        files[f"sys/devices/system/cpu/{name}"] = "0\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")


def emulator(options: argparse.Namespace, **environment: Path) -> list[str]:
    """Return the command that runs an arm64 program within the folder of an arm64 system."""
    command = ["qemu-aarch64", "-cpu", options.cpu, "-L", str(options.root)]
    for name, value in environment.items():
        command += ["-E", f"{name}={value}"]
    return command


def count_ncnn(folder: Path, size: int, options: argparse.Namespace) -> int:
    """Convert with pnnx and count ncnn's."""
    files = [f"ncnnparam={folder / 'n.param'}", f"ncnnbin={folder / 'n.bin'}"]
    shape = f"inputshape=[1,3,{size},{size}]"
    command = [options.pnnx, folder / "subnet.onnx", shape, "fp16=0", *files]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    arguments = [str(folder / "n.param"), str(folder / "n.bin"), str(size)]
    return _count_script("arm64_ncnn.py", arguments, options)


def count_mnn(folder: Path, size: int, options: argparse.Namespace) -> int:
    """Convert with MNN's own converter and count MNN's."""
    model = folder / "subnet.mnn"
    _convert("_convert_to_mnn", folder / "subnet.onnx", model, options)
    return _count_script("arm64_mnn.py", [str(model), str(size)], options)


def count_onnxruntime(folder: Path, size: int, options: argparse.Namespace) -> int:
    """Count ONNX Runtime's."""
    arguments = [str(folder / "subnet.onnx"), str(size)]
    return _count_script("arm64_onnxruntime.py", arguments, options)


def _count_script(name: str, arguments: list[str], options: argparse.Namespace) -> int:
    """Count one inference of a script in the emulated Python."""
    within = emulator(options, PYTHONPATH=options.root / "site")
    python = str(options.root / "usr/bin/python3.11")
    return count_inference(within, [python, str(HERE / name), *arguments]).total


def count_executorch(folder: Path, size: int, options: argparse.Namespace) -> int:
    """Lower to XNNPACK and count ExecuTorch's, through a program linked here to its libraries."""
    program, runner = folder / "subnet.pte", folder / "executorch"
    _convert("_lower_to_xnnpack", folder / "subnet.pt2", program, options)
    package = options.root / "site" / "executorch"
    include, libraries = package / "include", package / "lib"
    compiler = ["aarch64-linux-gnu-g++", "-std=c++17", "-O2", "-w"]
    defined = ["-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{include}"]
    defined += [f"-I{include / 'executorch/runtime/core/portable_type/c10'}"]
    parts = ("", "_backend_xnnpack", "_kernels_optimized", "_threadpool")
    linked = [f"-L{libraries}", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
    linked += [f"-lexecutorch{part}" for part in parts]
    source = str(HERE / "arm64_executorch.cpp")
    command = [*compiler, *defined, source, "-o", str(runner), *linked]
    subprocess.run(command, check=True, capture_output=True)
    within = emulator(options, LD_LIBRARY_PATH=libraries)
    return count_inference(within, [str(runner), str(program), str(size)]).total


def _convert(how: str, source: Path, target: Path, options: argparse.Namespace) -> None:
    """Convert in the environment that has the other runtimes for this machine."""
    command = [options.peers_python, "-c", _CONVERT, HERE, how, source, target]
    subprocess.run(command, check=True, capture_output=True, cwd=source.parent)


PEERS: dict[str, Callable[[Path, int, argparse.Namespace], int]] = {
    "ncnn": count_ncnn,
    "mnn": count_mnn,
    "onnxruntime": count_onnxruntime,
    "executorch": count_executorch,
}
