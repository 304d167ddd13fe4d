"""Run a bundle's executable, here or in an emulator."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ofa_compile.errors import DeviceError, DeviceUnavailableError
from ofa_compile.hardware.board_address import board_address, is_on_board
from ofa_compile.hardware.emulator import resolve
from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.hardware.host import has_flags, host_arch
from ofa_compile.hardware.platform import LINUX, platform_of
from ofa_compile.hardware.target_spec import GPU_KINDS
from ofa_compile.runtime.program import Program, check_end


def is_native(target: Mapping[str, Any]) -> bool:
    """Tell whether this machine runs code for a target (as `describe_target` wrote it)."""
    is_known = target["tvm_target"]["kind"] in ("llvm", *GPU_KINDS)
    is_loadable = is_known and platform_of(target["triple"]) is LINUX
    same_arch = target["arch"] == host_arch()
    return bool(is_loadable and same_arch and has_flags(tuple(target["requires"])))


def emulator_command(target: Mapping[str, Any]) -> list[str]:
    """Return the words to put before an executable for a target; none where it runs natively.

    Raises
    ------
    DeviceUnavailableError
        If this machine cannot run the code and the target names no emulator, or if it lacks the
        GPU that the target needs.
    MissingDependencyError
        If the emulator is not installed, or what it needs is not named.
    """
    if is_native(target):
        check_gpu(target["tvm_target"]["kind"])
        return []
    if not target["emulator"]:
        needs = f" with {', '.join(target['requires'])}" if target["requires"] else ""
        msg = f"the bundle is for {target['name']} ({target['arch']}{needs})"
        msg += f", which this {host_arch()} machine cannot run"
        raise DeviceUnavailableError(msg, hint="run it on the device")
    return resolve(target["emulator"], target["name"])


def check_runnable(target: Mapping[str, Any]) -> None:
    """Find out before the work whether there is anything to run code for a target on.

    Raises
    ------
    DeviceUnavailableError, MissingDependencyError
        As `emulator_command`, or if the target is for boards and nothing says where they are.
    """
    if is_on_board(target):
        board_address(target["runner"], target["name"])
    else:
        emulator_command(target)


@dataclass(frozen=True)
class Executable(Program):
    """A bundle's executable, run on this machine.

    Attributes
    ----------
    path
        The file.
    classes
        Logits per input.
    command
        Emulator and its arguments, or empty.
    """

    path: Path
    classes: int
    command: Sequence[str] = ()
    # An emulated ResNet50 takes about a minute per input; nothing real takes five.
    input_limit_s: float = 300.0

    def exchange(
        self, arguments: list[str], files: dict[str, bytes], result: str, limit_s: float
    ) -> bytes:
        """Run it in a folder of its own."""
        with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            self._call(arguments, Path(folder), limit_s)
            written = Path(folder, result)
            return written.read_bytes() if written.is_file() else b""

    def refuse(self, result: str, num_bytes: int, wanted: str) -> NoReturn:
        """Blame the program."""
        msg = f"{self.path.name} wrote {num_bytes} bytes of {result}, not {wanted} values"
        raise DeviceError(msg)

    def _call(self, arguments: list[str], folder: Path, limit_s: float) -> None:
        program = self.command[0] if self.command else self.path.name
        try:
            done = subprocess.run(
                [*self.command, str(self.path.absolute()), *arguments],
                cwd=folder,
                capture_output=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            check_end(self.path.name, None, "", limit_s)
            return
        except OSError as error:
            msg = f"cannot start {program}: {error.strerror}"
            raise DeviceError(msg) from error
        check_end(self.path.name, done.returncode, done.stderr.decode(errors="replace"), limit_s)
