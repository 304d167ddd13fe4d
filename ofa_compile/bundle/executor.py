"""Run a bundle's executable, here or in an emulator."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import DeviceError, DeviceUnavailableError, MissingDependencyError
from ofa_compile.hardware.board_address import board_address, is_on_board
from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.hardware.host import has_flags, host_arch
from ofa_compile.hardware.platform import LINUX, platform_of
from ofa_compile.hardware.target_spec import GPU_KINDS
from ofa_compile.hardware.toolchain import install_hint

# Exit code of the executable when a logit is not finite; the logits are written all the same.
_EXIT_NOT_FINITE = 3
# An emulated ResNet50 takes about a minute per input; nothing real takes five.
_TIMEOUT_PER_INPUT_S = 300.0


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
        If the emulator is not installed.
    """
    if is_native(target):
        check_gpu(target["tvm_target"]["kind"])
        return []
    if not target["emulator"]:
        needs = f" with {', '.join(target['requires'])}" if target["requires"] else ""
        msg = f"the bundle is for {target['name']} ({target['arch']}{needs})"
        msg += f", which this {host_arch()} machine cannot run"
        raise DeviceUnavailableError(msg, hint="run it on the device")
    program, *arguments = target["emulator"]
    path = shutil.which(program)
    if path is None:
        msg = f"{program} is not installed; it runs bundles for {target['name']} here"
        raise MissingDependencyError(msg, hint=install_hint(program))
    return [path, *arguments]


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
class Executable:
    """A bundle's executable.

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

    def run(self, x: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.float32]:
        """Compute the logits of inputs of shape (N, 3, H, W) in one process.

        Returns
        -------
        float32 array of shape (N, classes).

        Raises
        ------
        DeviceError
            If the program fails, crashes or hangs; the message holds what it printed.
        """
        if len(x) == 0:
            return np.empty((0, self.classes), dtype=np.float32)
        with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
            tensors, logits = Path(folder, "input.f32"), Path(folder, "logits.f32")
            tensors.write_bytes(np.ascontiguousarray(x, dtype="<f4").tobytes())
            arguments = ["--raw", str(tensors), "--logits", str(logits), "--threads", str(threads)]
            self._call(arguments, _TIMEOUT_PER_INPUT_S * len(x))
            values = np.fromfile(logits, dtype="<f4")
        if values.size != len(x) * self.classes:
            msg = f"{self.path.name} wrote {values.size} logits, not {len(x)} x {self.classes}"
            raise DeviceError(msg)
        return values.reshape(len(x), self.classes).astype(np.float32)

    def time(self, *, repeats: int, warmup: int = 3, threads: int = 1) -> NDArray[np.float64]:
        """Time runs on an input of noise, inside one process.

        Returns
        -------
        Milliseconds of each run, of shape (repeats,).

        Raises
        ------
        DeviceError
            As for `run`.
        """
        with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
            path = Path(folder, "times.f64")
            arguments = ["--benchmark", str(repeats), "--warmup", str(warmup), "--times", str(path)]
            self._call([*arguments, "--threads", str(threads)], _TIMEOUT_PER_INPUT_S)
            times = np.fromfile(path, dtype="<f8")
        if times.size != repeats:
            msg = f"{self.path.name} wrote {times.size} times, not {repeats}"
            raise DeviceError(msg)
        return times.astype(np.float64)

    def _call(self, arguments: Sequence[str], timeout_s: float) -> None:
        program = self.command[0] if self.command else self.path.name
        try:
            done = subprocess.run(
                [*self.command, str(self.path.absolute()), *arguments],
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            msg = f"{self.path.name} did not finish within {timeout_s:.0f} s"
            raise DeviceError(msg) from error
        except OSError as error:
            msg = f"cannot start {program}: {error.strerror}"
            raise DeviceError(msg) from error
        if done.returncode not in (0, _EXIT_NOT_FINITE):
            printed = done.stderr.decode(errors="replace").strip()[-2000:]
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"{done.returncode}"
            msg = f"{self.path.name} failed ({how}): {printed or 'it printed nothing'}"
            raise DeviceError(msg)
