"""Build a program for a target, run it on the device or in its emulator, and read what it says.

The program holds a kernel that TVM compiles for the target as it compiles those of a network. So
it tries out the whole way to a binary, and on a device it measures what our code can reach there.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.bundle.executor import emulator_command
from ofa_compile.bundle.manifest import describe_target
from ofa_compile.compiler.link import copy_launcher, runtime_folder
from ofa_compile.errors import BuildError, DeviceError
from ofa_compile.hardware.device_facts import DeviceFacts
from ofa_compile.hardware.emulator import shown, unset_variables
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.remote.program import acquire_target_board

_SOURCES = ("probe.c", "board_facts.c")
_LIMIT_S = 120
_BUILD_LIMIT_S = 900  # ziglang builds its C library on first use: minutes on a busy machine
# One turn of a measurement on a device, short so that some turn has the core alone; an emulator's
# outcome is not looked at.
_MS, _EMULATED_MS = "10", "1"
_HINT = "do 'tvm_target' and 'core.vector_bits' fit the processor?"


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What came of a probe.

    Attributes
    ----------
    where
        What ran it, in words.
    facts
        What it said; None where it ran in an emulator, which knows nothing of the device.
    """

    where: str
    facts: DeviceFacts | None


def can_run(target: TargetSpec) -> bool:
    """Tell whether a target has a board, an emulator or this machine to run its programs."""
    if target.is_native or target.runner.kind == "rpc":
        return True
    return target.emulator is not None and not unset_variables(target.emulator.command)


def compile_kernel(target: TargetSpec) -> bytes:
    """Return the probe's kernel as an object for the target, which takes no compiler but TVM.

    Raises
    ------
    BuildError
        If TVM fails.
    """
    from ofa_compile.compiler.codegen import compile_object
    from ofa_compile.compiler.kernel_registry import VectorMachine
    from ofa_compile.kernels.peak import build_peak

    peak = build_peak(VectorMachine.of(target))
    return compile_object({"ofa_probe_peak": peak}, target.tvm_target)


def build_probe(target: TargetSpec, folder: Path) -> Path:
    """Compile and link the probe; return the file to start.

    Raises
    ------
    MissingDependencyError
        If there is no compiler for the target.
    BuildError
        If TVM, the compiler or the linker fails.
    """
    from ofa_compile.compiler.kernel_registry import VectorMachine
    from ofa_compile.kernels.peak import num_chains, num_values

    linker = find_linker(target)
    machine, platform = VectorMachine.of(target), target.platform
    (folder / "peak.o").write_bytes(compile_kernel(target))
    program = folder / platform.program
    defines = (
        f"-DOFA_PROBE_VALUES={num_values(machine)}",
        f"-DOFA_PROBE_FLOPS={2 * num_chains(machine) * machine.lanes}",
    )
    sources = [str(runtime_folder() / name) for name in _SOURCES]
    flags = ("-std=c11", "-O2", *platform.compile_flags, *platform.program_flags)
    links = (*platform.link_flags, *linker.link_flags, "-lm")
    command = [*linker.static_command, *flags, *defines, *sources, str(folder / "peak.o")]
    _call([*command, "-o", str(program), *links], linker.name)
    copy_launcher(platform, folder)
    return folder / platform.executable


def probe(target: TargetSpec) -> ProbeResult:
    """Build the probe and run it on a board, here, or in the emulator.

    Raises
    ------
    DeviceError
        If it cannot be run, or fails; `DeviceUnavailableError` if there is nothing to run it on.
    MissingDependencyError, BuildError
        If it cannot be built.
    """
    with tempfile.TemporaryDirectory(prefix="ofa-compile-probe-") as folder:
        path = build_probe(target, Path(folder))
        if target.runner.kind == "rpc":
            return _on_board(target, path)
        command = emulator_command(describe_target(target))
        is_real = target.is_native or target.platform.is_hosted
        try:
            done = subprocess.run(
                [*command, str(path), _MS if is_real else _EMULATED_MS],
                capture_output=True,
                timeout=_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            message = f"the test program cannot be run: {err}"
            raise DeviceError(message, hint=_HINT) from err
    where = f"in {shown(target.emulator.command)}" if command and target.emulator else "here"
    printed = done.stdout.decode(errors="replace")
    _check(where, done.returncode, printed, done.stderr.decode(errors="replace"))
    return ProbeResult(where=where, facts=DeviceFacts.parse(printed) if is_real else None)


def _on_board(target: TargetSpec, path: Path) -> ProbeResult:
    with acquire_target_board(describe_target(target)) as board:
        board.put("probe", path.read_bytes())
        result = board.run(["probe", _MS], limit_s=_LIMIT_S)
        where = f"on board {board.name}: {board.model}"
        _check(where, result.status, result.output, "")
        return ProbeResult(where=where, facts=DeviceFacts.parse(result.output))


def _check(where: str, status: int, printed: str, complaint: str) -> None:
    if status == 0 and "peak_flops=" in printed:
        return
    how = f"signal {-status}" if status < 0 else f"status {status}"
    said = (complaint or printed).strip()[-500:] or "it printed nothing"
    message = f"the test program fails {where} with {how}: {said}"
    raise DeviceError(message, hint=_HINT)


def _call(command: list[str], name: str) -> None:
    if shutil.which(command[0]) is None:
        message = f"{name} cannot be run: no such program"
        raise BuildError(message)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_LIMIT_S)
    except subprocess.CalledProcessError as err:
        said = (err.stderr or "").strip()[-1500:] or "it printed nothing"
        message = f"{name} fails with status {err.returncode}: {said}"
        raise BuildError(message) from err
    except (OSError, subprocess.TimeoutExpired) as err:
        message = f"{name} cannot be run: {err}"
        raise BuildError(message) from err
