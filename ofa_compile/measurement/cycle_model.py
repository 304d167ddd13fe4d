"""From executed instructions to a table by function, and to cycles by LLVM's machine models.

Cycles are an *estimate*: executions of each block of straight code times the cycles that llvm-mca
gives for it in a loop of its own. No caches, no branches, no overlap between blocks; never compared
with silicon. LLVM has no model of its own for some cores (it schedules cortex-a76 by an older
core's), so figures of different cores need not compare.
"""

from __future__ import annotations

import bisect
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.errors import MeasurementError, MissingDependencyError

# Blocks that make up this share of all instructions are analysed; the rest is scaled up.
_SHARE = 0.98
_ITERATIONS = 50
_BRANCH = re.compile(r"(b|br|bl|blr|ret|cbz|cbnz|tbz|tbnz|b\.\w+)$")
_TARGET = re.compile(r"\b[0-9a-f]{5,}\b(?= <|$)")

Block = tuple[int, list[str]]


@dataclass(frozen=True)
class Cycles:
    """What a core needs for some code, as far as a model tells."""

    cycles: float
    instructions_per_cycle: float


def find_mca() -> str | None:
    """Return the newest llvm-mca on the path."""
    names = [f"llvm-mca-{version}" for version in range(30, 13, -1)]
    return next((name for name in [*names, "llvm-mca"] if shutil.which(name)), None)


class Disassembly:
    """The functions and instructions of an arm64 executable.

    Parameters
    ----------
    executable
        With its symbols.

    Raises
    ------
    MissingDependencyError
        If the binutils for arm64 are not installed.
    """

    def __init__(self, executable: Path) -> None:
        symbols = [line.split() for line in _tool("nm", "-n", "--defined-only", str(executable))]
        text = [(int(a, 16), n) for a, kind, n in symbols if kind in "tTwW" and n[0] != "$"]
        self._starts = [start for start, _ in text]
        self._names = [name for _, name in text]
        self._code: dict[int, str] = {}
        for line in _tool("objdump", "-d", "--no-show-raw-insn", str(executable)):
            match = re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line)
            if match:
                self._code[int(match[1], 16)] = match[2].split("//")[0].strip()

    def function_at(self, address: int) -> str:
        """Return the name of the function that an address lies in; "?" before all of them."""
        place = bisect.bisect_right(self._starts, address) - 1
        return self._names[place] if place >= 0 else "?"

    def by_function(self, counts: Mapping[int, int]) -> dict[str, Counter[int]]:
        """Split executions by the function they lie in."""
        found: dict[str, Counter[int]] = {}
        for address, executions in counts.items():
            found.setdefault(self.function_at(address), Counter())[address] += executions
        return found

    def blocks(self, counts: Mapping[int, int]) -> list[Block]:
        """Cut what was executed into straight code: (executions, instructions), heaviest first."""
        found: list[Block] = []
        previous = None
        for address in sorted(a for a in counts if a in self._code):
            instruction = self._code[address]
            follows = previous is not None and address == previous + 4
            if follows and counts[address] == found[-1][0] and not _is_branch(found[-1][1][-1]):
                found[-1][1].append(instruction)
            else:
                found.append((counts[address], [instruction]))
            previous = address
        return sorted(found, key=lambda block: -block[0] * len(block[1]))


def estimate_cycles(mca: str, core: str, works: Sequence[Sequence[Block]]) -> list[Cycles]:
    """Estimate the cycles of several pieces of work on one core, in one call of llvm-mca.

    Parameters
    ----------
    mca
        Name of the tool.
    core
        LLVM's name of the core.
    works
        What `Disassembly.blocks` cut; none of them empty.

    Raises
    ------
    MeasurementError
        If llvm-mca fails.
    """
    chosen = [list(_heaviest(work)) for work in works]
    per_block = iter(_analyse(mca, core, [code for work in chosen for _, code in work]))
    found = []
    for work, heavy in zip(works, chosen, strict=True):
        busy = sum(next(per_block) / _ITERATIONS * executions for executions, _ in heavy)
        covered = _instructions(heavy)
        found.append(Cycles(busy * _instructions(work) / covered, covered / busy))
    return found


def _heaviest(work: Sequence[Block]) -> Iterable[Block]:
    """Yield the blocks that make up most of the instructions."""
    total, covered = _instructions(work), 0
    for block in work:
        yield block
        covered += block[0] * len(block[1])
        if covered >= _SHARE * total:
            return


def _instructions(work: Iterable[Block]) -> int:
    return sum(executions * len(code) for executions, code in work)


def _analyse(mca: str, core: str, codes: Sequence[Sequence[str]]) -> list[int]:
    """Return llvm-mca's cycles of each block in a loop of `_ITERATIONS`."""
    lines = []
    for number, code in enumerate(codes):
        label = f"L{number}"
        body = [_TARGET.sub(label, line) if _needs_label(line) else line for line in code]
        lines += [f"# LLVM-MCA-BEGIN b{number}", f"{label}:"]
        lines += [re.sub(r" <.*>", "", line) for line in body]
        lines.append("# LLVM-MCA-END")
    command = [
        mca, "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={_ITERATIONS}",
        "-resource-pressure=0", "-instruction-info=0",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found = [int(n) for n in re.findall(r"Total Cycles:\s+(\d+)", done.stdout)]
    if done.returncode != 0 or len(found) != len(codes):
        msg = f"{mca} failed for {core}: {done.stderr.strip()[:300]}"
        raise MeasurementError(msg, hint="a newer LLVM may know the core, or the instruction")
    return found


def _tool(name: str, *arguments: str) -> list[str]:
    """Run one of the binutils and return its lines."""
    command = [f"aarch64-linux-gnu-{name}", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        msg = f"{command[0]} is not installed"
        hint = "apt-get install binutils-aarch64-linux-gnu"
        raise MissingDependencyError(msg, hint=hint) from error
    except subprocess.CalledProcessError as error:
        msg = f"{command[0]} failed: {error.stderr.strip()[:300]}"
        raise MeasurementError(msg) from error
    return done.stdout.splitlines()


def _is_branch(instruction: str) -> bool:
    return _BRANCH.match(instruction.split()[0]) is not None


def _needs_label(instruction: str) -> bool:
    return _is_branch(instruction) or instruction.split()[0] in ("adr", "adrp")
