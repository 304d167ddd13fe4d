"""From executed instructions to a table by kernel, and to cycles by LLVM's machine models.

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
from pathlib import Path

CORES = ("cortex-a55", "cortex-a76", "neoverse-n1")
# Blocks that make up this share of all instructions are analysed; the rest is scaled up.
SHARE = 0.98
ITERATIONS = 50
_BRANCH = re.compile(r"(b|br|bl|blr|ret|cbz|cbnz|tbz|tbnz|b\.\w+)$")
_TARGET = re.compile(r"\b[0-9a-f]{5,}\b(?= <|$)")


def find_mca() -> str | None:
    """Return the newest llvm-mca on the path."""
    names = [f"llvm-mca-{version}" for version in range(30, 13, -1)]
    return next((name for name in [*names, "llvm-mca"] if shutil.which(name)), None)


def by_symbol(executable: Path, counts: Counter[int]) -> dict[str, int]:
    """Sum executions by the symbol they lie in."""
    command = ["aarch64-linux-gnu-nm", "-n", "--defined-only", str(executable)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = [line.split() for line in listing.splitlines()]
    text = [(int(a, 16), name) for a, kind, name in symbols if kind in "tTwW" and name[0] != "$"]
    starts = [start for start, _ in text]
    sums: Counter[str] = Counter()
    for address, executions in counts.items():
        place = bisect.bisect_right(starts, address) - 1
        sums[text[place][1] if place >= 0 else "?"] += executions
    return dict(sums)


def blocks(executable: Path, counts: Counter[int]) -> list[tuple[int, list[str]]]:
    """Cut what was executed into straight code: (executions, instructions), heaviest first."""
    code = _disassemble(executable)
    found: list[tuple[int, list[str]]] = []
    previous = None
    for address in sorted(a for a in counts if a in code):
        instruction = code[address]
        follows = previous is not None and address == previous + 4
        if follows and counts[address] == found[-1][0] and not _is_branch(found[-1][1][-1]):
            found[-1][1].append(instruction)
        else:
            found.append((counts[address], [instruction]))
        previous = address
    return sorted(found, key=lambda block: -block[0] * len(block[1]))


def cycles(
    mca: str, core: str, work: list[tuple[int, list[str]]], folder: Path
) -> dict[str, float]:
    """Estimate cycles of all blocks on one core: executions times cycles per block."""
    total = sum(executions * len(code) for executions, code in work)
    chosen, covered = [], 0
    for executions, code in work:
        chosen.append((executions, code))
        covered += executions * len(code)
        if covered >= SHARE * total:
            break
    lines = []
    for number, (_, code) in enumerate(chosen):
        label = f"L{number}"
        body = [_TARGET.sub(label, line) if _needs_label(line) else line for line in code]
        lines += [f"# LLVM-MCA-BEGIN b{number}", f"{label}:"]
        lines += [re.sub(r" <.*>", "", line) for line in body]
        lines.append("# LLVM-MCA-END")
    (folder / "blocks.s").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [
        mca, "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}",
        "-resource-pressure=0", "-instruction-info=0", "blocks.s",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = [int(n) for n in re.findall(r"Total Cycles:\s+(\d+)", done.stdout)]
    if done.returncode != 0 or len(found) != len(chosen):
        message = f"{mca} failed for {core}: {done.stderr.strip()[:300]}"
        raise SystemExit(message)
    busy = sum(
        n / ITERATIONS * executions for n, (executions, _) in zip(found, chosen, strict=True)
    )
    scale = total / covered
    return {"cycles": busy * scale, "instructions_per_cycle": covered / busy}


def _disassemble(executable: Path) -> dict[int, str]:
    command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(executable)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    code = {}
    for line in listing.splitlines():
        match = re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line)
        if match:
            code[int(match[1], 16)] = match[2].split("//")[0].strip()
    return code


def _is_branch(instruction: str) -> bool:
    return _BRANCH.match(instruction.split()[0]) is not None


def _needs_label(instruction: str) -> bool:
    return _is_branch(instruction) or instruction.split()[0] in ("adr", "adrp")
