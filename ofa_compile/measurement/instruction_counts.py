"""How many instructions a program executes, counted by a plug-in in QEMU's user-mode emulator.

Counts repeat exactly, unlike times, and the time an emulator takes says nothing about a core. They
are facts about a binary, not about its speed.
"""

from __future__ import annotations

import importlib.resources
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.cache import Cache, digest
from ofa_compile.errors import BuildError, MeasurementError

# Versions of QEMU's plug-in interface, oldest first; an emulator takes a range of them.
_PLUGIN_APIS = (1, 2, 3, 4, 5)
_FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-std=c11", "-pthread")


@dataclass(frozen=True)
class InstructionCounts:
    """Executions of each instruction of one run, by address, their sum, and what it printed."""

    total: int
    by_address: Counter[int]
    output: str = ""


def count_instructions(
    emulator: Sequence[str],
    command: Sequence[str],
    *,
    cache: Cache | None = None,
    timeout_s: float | None = None,
) -> InstructionCounts:
    """Run a program in an emulator and count what it executes.

    Parameters
    ----------
    emulator
        A user-mode QEMU with plug-in support, and its arguments.
    command
        The program and its arguments.
    cache
        Where the built plug-in is kept; the default one if None.
    timeout_s
        When to give up; never if None.

    Raises
    ------
    BuildError
        If the plug-in cannot be built (it needs a C compiler for this machine).
    MeasurementError
        If the emulator takes no plug-ins, or the program fails or takes too long.
    """
    cache = cache or Cache()
    with tempfile.TemporaryDirectory(prefix="ofa-count-") as folder:
        out = Path(folder) / "counts"
        for api in _PLUGIN_APIS:
            plugin = _build_plugin(api, cache)
            arguments = [*emulator, "-plugin", f"{plugin},out={out}", *command]
            try:
                done = subprocess.run(
                    arguments, capture_output=True, text=True, check=False, timeout=timeout_s
                )
            except subprocess.TimeoutExpired as error:
                msg = f"{command[0]} took longer than {timeout_s} s in {emulator[0]}"
                raise MeasurementError(msg) from error
            if "API version" not in done.stderr:
                break
        if done.returncode != 0 or not out.is_file():
            reason = done.stderr.strip()[-500:] or "it wrote no counts"
            msg = f"cannot count instructions of {command[0]} in {emulator[0]}: {reason}"
            hint = "install a qemu-user with plug-in support (Debian: qemu-user, not -static)"
            raise MeasurementError(msg, hint=hint)
        return _parse(out.read_text(encoding="utf-8"), done.stdout)


def _parse(text: str, output: str) -> InstructionCounts:
    first, *lines = text.splitlines()
    by_address: Counter[int] = Counter()
    for line in lines:
        address, executions = line.split()
        by_address[int(address, 16)] += int(executions)
    return InstructionCounts(int(first.split()[1]), by_address, output)


def _build_plugin(api: int, cache: Cache) -> Path:
    """Build the plug-in for one version of the interface, once."""
    source = Path(str(importlib.resources.files("ofa_compile.runtime"))) / "qemu_count.c"
    key = digest(source.read_bytes(), str(api), *_FLAGS)
    cached = cache.get("qemu-plugins", key)
    if cached is not None:
        return cached
    with tempfile.TemporaryDirectory(prefix="ofa-plugin-") as folder:
        target = Path(folder) / "qemu_count.so"
        command = ["cc", *_FLAGS, f"-DPLUGIN_API={api}", "-o", str(target), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as err:
            detail = getattr(err, "stderr", None) or str(err)
            msg = f"the plug-in that counts instructions cannot be built: {detail.strip()[:500]}"
            raise BuildError(msg, hint="install a C compiler: gcc libc6-dev") from err
        return cache.put("qemu-plugins", key, target.read_bytes())
