"""Write the TOML of a target: a new one with notes, or single values of an existing one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ofa_compile.errors import TargetSpecError

_HEAD = """\
# A hardware target of ofa-compile, made from '{base}': all that it knows of the hardware is here.
#   ofa-compile targets check {file}           tries everything out and says what is wrong
#   ofa-compile targets probe {file} --write   fills in what the device says and is measured to do
# What is marked "as {base}" was taken over unseen.
"""
_NOTES = {
    "tvm_target.mtriple": "processor, system and ABI, as LLVM calls them",
    "tvm_target.mcpu": "processor, as LLVM calls it: `clang --target=... -mcpu=help`",
    "tvm_target.mattr": "what it can besides, in LLVM's words",
    "tvm_target.mabi": "calling convention, where LLVM's default is another",
    "tvm_target.vector-width": "the same as core.vector_bits",
    "tvm_target.num-cores": "the same as core.cores",
    "core.vector_bits": "width of a vector register; 32 where there are no vectors",
    "core.vector_registers": "of the instruction set",
    "core.frequency_hz": "clock under load",
    "core.fma_per_cycle": "vector multiply-adds that start in a cycle",
    "core.memory_bandwidth_gb_per_s": "one core reading",
    "core.l1_bytes": "data cache of one core",
    "core.l2_bytes": "second-level cache that one core uses",
    "core.requires": "CPU flags of /proc/cpuinfo without which the code cannot run",
    "runner.kind": '"rpc": on boards; "local": here; "estimate": nowhere, times are estimated',
    "runner.tracker": "HOST:PORT of the RPC tracker that knows the boards",
    "runner.server": "HOST:PORT of the only board",
    "runner.key": "what the boards are registered as",
    "evaluator.number": "runs in one timing, and timings",
    "toolchain.linkers": "C compilers, the first one that is installed",
    "toolchain.flags": "what every call of the compiler gets",
    "toolchain.link_flags": "what every link gets besides",
    "emulator.command": "runs the target's programs on this machine",
}
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\.[A-Za-z0-9_-]+|description")


def render_target(
    values: Mapping[str, Any], *, base: str, file: str, inherited: frozenset[str]
) -> str:
    """Return the text of a target's file.

    Parameters
    ----------
    values
        Top-level entries and tables, in the order to write them.
    base
        The target it was made from.
    file
        What the file will be called, for the text at its head.
    inherited
        Dotted keys whose values come from the base.
    """
    lines = [_HEAD.format(base=base, file=file)]
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lines += [f"{key} = {toml_value(value)}" for key, value in plain.items()]
    for name, table in values.items():
        if not isinstance(table, Mapping):
            continue
        lines += ["", f"[{name}]"]
        for key, value in table.items():
            dotted = f"{name}.{key}"
            notes = [_NOTES[dotted]] if dotted in _NOTES else []
            notes += [f"as {base}"] if dotted in inherited else []
            comment = f"  # {'; '.join(notes)}" if notes else ""
            lines.append(f"{key} = {toml_value(value)}{comment}")
    return "\n".join(lines) + "\n"


def set_values(text: str, values: Mapping[str, Any], origin: str) -> str:
    """Return the text with values replaced, or added to the end of their table.

    Parameters
    ----------
    text
        A target's TOML. Comments stay; a line that is replaced gets a new one.
    values
        "table.key" -> value.
    origin
        Where the values come from, for the comments.
    """
    lines = text.splitlines()
    for dotted, value in values.items():
        table, key = dotted.split(".", 1)
        new = f"{key} = {toml_value(value)}  # {_NOTES.get(dotted, key)}; {origin}"
        start = _line_of(lines, re.compile(rf"\s*\[{re.escape(table)}\]\s*(#.*)?"), 0, len(lines))
        if start is None:
            lines += ["", f"[{table}]", new]
            continue
        end = _line_of(lines, re.compile(r"\s*\[.*"), start + 1, len(lines)) or len(lines)
        place = _line_of(lines, re.compile(rf'\s*"?{re.escape(key)}"?\s*=.*'), start + 1, end)
        if place is not None:
            lines[place] = new
            continue
        # What is written above the next table belongs to that one.
        while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
            end -= 1
        lines.insert(end, new)
    return "\n".join(lines) + "\n"


def _line_of(lines: list[str], pattern: re.Pattern[str], start: int, end: int) -> int | None:
    return next((i for i in range(start, end) if pattern.fullmatch(lines[i])), None)


def check_key(key: str) -> None:
    """Refuse what is no "table.key", nor "description".

    Raises
    ------
    TargetSpecError
        With an example.
    """
    if not _KEY.fullmatch(key):
        message = f"'{key}' is no key of a target's file; keys are written TABLE.KEY"
        raise TargetSpecError(message, hint="for example core.vector_bits=128")


def toml_value(value: Any) -> str:
    """Spell a string, number, truth value or list of them in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.6g}".partition("e")
        if abs(value) >= 1e6 and not exponent:
            mantissa, _, exponent = f"{value:e}".partition("e")
            mantissa = mantissa.rstrip("0")
        digits = mantissa if "." in mantissa else f"{mantissa}.0"
        digits = f"{digits}0" if digits.endswith(".") else digits
        return f"{digits}e{int(exponent)}" if exponent else digits
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return str(value)
