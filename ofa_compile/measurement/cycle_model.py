"""From executed instructions to a table by function, and to cycles by LLVM's machine models.

Cycles are an *estimate*: executions of each block of straight code times the cycles that llvm-mca
gives for it in a loop of its own. No caches, no branches, no overlap between blocks; never compared
with silicon. LLVM has no model of its own for some cores (it schedules cortex-a76 by an older
core's), so figures of different cores need not compare.
"""

from __future__ import annotations

import bisect
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.errors import MeasurementError, MissingDependencyError
from ofa_compile.hardware.target_spec import TargetSpec

# Blocks that make up this share of all instructions are analysed; the rest is scaled up.
_SHARE = 0.98
_ITERATIONS = 50
# LLVM schedules generic code by no core's model.
_GENERIC = "generic"
_TARGET = re.compile(r"\b[0-9a-f]{5,}\b(?= <|$)")

Block = tuple[int, list[str]]


@dataclass(frozen=True)
class InstructionSet:
    """How the tools speak of an architecture.

    Attributes
    ----------
    name
        LLVM's, as in a triple.
    tools, package
        Start of the names of its binutils, and Debian's package of them.
    comment
        What begins a comment in a disassembly.
    branch
        Matches instructions that end a block of straight code.
    has_labels
        Matches instructions that name an address in the code.
    """

    name: str
    tools: str
    package: str
    comment: str
    branch: re.Pattern[str]
    has_labels: re.Pattern[str]


_ARM_BRANCH = r"(b|br|bl|blr|ret|cbz|cbnz|tbz|tbnz|b\.\w+)"
_X86_BRANCH = r"(j\w+|call\w*|ret\w*|loop\w*|bnd|notrack)"
INSTRUCTION_SETS = {
    "aarch64": InstructionSet(
        name="aarch64",
        tools="aarch64-linux-gnu-",
        package="binutils-aarch64-linux-gnu",
        comment="//",
        branch=re.compile(_ARM_BRANCH + "$"),
        has_labels=re.compile(rf"({_ARM_BRANCH}|adr|adrp)$"),
    ),
    "x86_64": InstructionSet(
        name="x86_64",
        tools="x86_64-linux-gnu-",
        package="binutils-x86-64-linux-gnu",
        comment="#",
        branch=re.compile(_X86_BRANCH + "$"),
        has_labels=re.compile(_X86_BRANCH + "$"),
    ),
}


@dataclass(frozen=True)
class Cycles:
    """What a core needs for some code, as far as a model tells."""

    cycles: float
    instructions_per_cycle: float


def find_mca() -> str | None:
    """Return the newest llvm-mca on the path."""
    names = [f"llvm-mca-{version}" for version in range(30, 13, -1)]
    return next((name for name in [*names, "llvm-mca"] if shutil.which(name)), None)


def core_model(target: TargetSpec, emulator: Sequence[str]) -> str:
    """Return the core to estimate for: the target's own, or the one that the emulator plays."""
    core = str(target.tvm_target.get("mcpu", _GENERIC))
    if core == _GENERIC and "-cpu" in emulator[:-1]:
        core = emulator[emulator.index("-cpu") + 1]
    return core


class Disassembly:
    """The functions and instructions of an executable.

    Parameters
    ----------
    executable
        With its symbols.
    arch
        Name of its instruction set.

    Raises
    ------
    MissingDependencyError
        If the binutils for it are not installed.
    """

    def __init__(self, executable: Path, arch: str = "aarch64") -> None:
        self._set = INSTRUCTION_SETS[arch]
        lines = _tool(self._set, "nm", "-n", "--defined-only", str(executable))
        symbols = [line.split() for line in lines]
        text = [(int(a, 16), n) for a, kind, n in symbols if kind in "tTwW" and n[0] != "$"]
        self._starts = [start for start, _ in text]
        self._names = [name for _, name in text]
        self._code: dict[int, str] = {}
        self._next: dict[int, int] = {}
        previous = None
        for line in _tool(self._set, "objdump", "-d", "--no-show-raw-insn", str(executable)):
            match = re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line)
            if match:
                address = int(match[1], 16)
                self._code[address] = match[2].split(self._set.comment)[0].strip()
                if previous is not None:
                    self._next[previous] = address
                previous = address

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
            follows = previous is not None and self._next.get(previous) == address
            if follows and counts[address] == found[-1][0] and not self._ends(found[-1][1][-1]):
                found[-1][1].append(instruction)
            else:
                found.append((counts[address], [instruction]))
            previous = address
        return sorted(found, key=lambda block: -block[0] * len(block[1]))

    def _ends(self, instruction: str) -> bool:
        return self._set.branch.match(instruction.split()[0]) is not None


def estimate_cycles(
    mca: str, core: str, works: Sequence[Sequence[Block]], arch: str = "aarch64"
) -> list[Cycles]:
    """Estimate the cycles of several pieces of work on one core, in one call of llvm-mca.

    Parameters
    ----------
    mca
        Name of the tool.
    core
        LLVM's name of the core.
    works
        What `Disassembly.blocks` cut; none of them empty.
    arch
        Name of the instruction set.

    Raises
    ------
    MeasurementError
        If llvm-mca fails.
    """
    chosen = [list(_heaviest(work)) for work in works]
    codes = [code for work in chosen for _, code in work]
    per_block = iter(_analyse(mca, core, codes, INSTRUCTION_SETS[arch]))
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


def _analyse(
    mca: str, core: str, codes: Sequence[Sequence[str]], instructions: InstructionSet
) -> list[int]:
    """Return llvm-mca's cycles of each block in a loop of `_ITERATIONS`."""
    lines = []
    for number, code in enumerate(codes):
        label = f"L{number}"
        body = [_labelled(line, label, instructions) for line in code if "nop" not in line]
        lines += [f"# LLVM-MCA-BEGIN b{number}", f"{label}:"]
        lines += [re.sub(r" <.*>", "", line) for line in body]
        lines.append("# LLVM-MCA-END")
    command = [
        mca, f"-mtriple={instructions.name}", f"-mcpu={core}", f"-iterations={_ITERATIONS}",
        "-resource-pressure=0", "-instruction-info=0",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found = [int(n) for n in re.findall(r"Total Cycles:\s+(\d+)", done.stdout)]
    if done.returncode != 0 or len(found) != len(codes):
        msg = f"{mca} failed for {core}: {done.stderr.strip()[:300]}"
        raise MeasurementError(msg, hint="a newer LLVM may know the core, or the instruction")
    return found


def _labelled(line: str, label: str, instructions: InstructionSet) -> str:
    """Let branches lead to the block's own label: mca knows no addresses."""
    names = instructions.has_labels.match(line.split()[0]) is not None
    return _TARGET.sub(label, line) if names else line


def _tool(instructions: InstructionSet, name: str, *arguments: str) -> list[str]:
    """Run one of the binutils and return its lines."""
    program = f"{instructions.tools}{name}"
    if shutil.which(program) is None and platform.machine() == instructions.name:
        program = name
    try:
        command = [program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        msg = f"{program} is not installed"
        raise MissingDependencyError(msg, hint=f"apt-get install {instructions.package}") from error
    except subprocess.CalledProcessError as error:
        msg = f"{program} failed: {error.stderr.strip()[:300]}"
        raise MeasurementError(msg) from error
    return done.stdout.splitlines()
