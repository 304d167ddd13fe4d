"""The candidates of a job as one static program, for boards and emulators, and what it says."""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.compiler.link import runtime_folder
from ofa_compile.errors import BuildError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.cases import EXPECTED
from ofa_compile.tuning.data_file import DataFile, padded
from ofa_compile.tuning.full_disk import check_disk, disk_checked
from ofa_compile.tuning.jobs import BuiltCandidate, TrialResult
from ofa_compile.tuning.layout import OUTPUT, lay_out
from ofa_compile.tuning.output_error import LEVELS, SHARE_BETWEEN, TOLERANCES, describe_error
from ofa_compile.tuning.race import relative_times

_SOURCES = ("candidates_main.c", "kernel_timer.c")
_HEADERS = ("candidates.h", "half.h")
_FLAGS = ("-std=c11", "-O2")
_LINK_LIMIT_S = 300
# NumPy's names of types, and those of `candidates.h`.
_TYPES = {
    "float32": "OFA_FLOAT",
    "float16": "OFA_HALF",
    "int8": "OFA_SIGNED_BYTE",
    "uint8": "OFA_BYTE",
}


@dataclass(frozen=True)
class CandidateProgram:
    """Files of a job.

    Attributes
    ----------
    executable
        Static; `runtime/candidates_main.c` says how to call it.
    data
        Its first argument.
    symbols
        The candidates' functions in it, by number.
    """

    executable: Path
    data: Path
    symbols: tuple[str, ...]


class CandidateLinker:
    """Links candidates with the C that runs them.

    Parameters
    ----------
    target
        What for; its second-level cache decides how many copies of weights there are.

    Raises
    ------
    MissingDependencyError
        If this machine cannot link for the target.
    """

    def __init__(self, target: TargetSpec) -> None:
        self._l2_bytes = target.core.l2_bytes
        self._toolchain = find_linker(target)

    def link(self, candidates: Sequence[BuiltCandidate], folder: Path) -> CandidateProgram:
        """Write the program of candidates that all were built, into an existing folder.

        Raises
        ------
        BuildError
            If it cannot be linked.
        TuningError
            If the disk is full.
        """
        with disk_checked():
            return self._link(candidates, folder)

    def _link(self, candidates: Sequence[BuiltCandidate], folder: Path) -> CandidateProgram:
        arrays = DataFile()
        table = [self._rows_of(number, c, arrays) for number, c in enumerate(candidates)]
        expected = arrays.index(candidates[0].data, EXPECTED)
        dtype = arrays.dtype(candidates[0].data, EXPECTED)
        source = _source(candidates, table, arrays, expected, dtype)
        (folder / "table.c").write_text(source, "utf-8")
        for name in (*_SOURCES, *_HEADERS):
            shutil.copyfile(runtime_folder() / name, folder / name)
        objects = dict.fromkeys(str(c.library.with_suffix(".o")) for c in candidates)
        executable = folder / "candidates"
        command = [
            *self._toolchain.static_command, *_FLAGS, "-o", str(executable), "table.c", *_SOURCES,
            *objects, "-lm",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_LINK_LIMIT_S
        )
        if done.returncode != 0:
            check_disk(done.stderr)
            msg = f"candidates cannot be linked: {done.stderr.strip()[:1000]}"
            raise BuildError(msg)
        data = folder / "data.f32"
        arrays.write(data)
        return CandidateProgram(executable, data, tuple(c.symbol for c in candidates))

    def _rows_of(
        self, number: int, candidate: BuiltCandidate, arrays: DataFile
    ) -> tuple[str, list[str]]:
        """Return a candidate's entry in the table, and the definitions that it refers to."""
        names = (*candidate.pointers, EXPECTED)
        sizes = {name: arrays.num_bytes(candidate.data, name) for name in names}
        layout = lay_out(
            candidate.pointers,
            sizes,
            l2_bytes=self._l2_bytes,
            fetch_steps=candidate.fetch_steps,
            fetch_bytes=candidate.fetch_bytes,
        )
        places = []
        for place in layout.places:
            name = EXPECTED if place.array == OUTPUT else place.array
            places.append(f"{{{arrays.index(candidate.data, name)}, {place.phase}}}")
        rows = ", ".join(str(index) for row in layout.rows for index in row)
        definitions = [
            f"extern void {candidate.symbol}(void);",
            f"static const struct ofa_place places_{number}[] = {{{', '.join(places)}}};",
            f"static const int rows_{number}[] = {{{rows}}};",
        ]
        entry = (
            f"{{{candidate.symbol}, places_{number}, rows_{number}, {len(places)}, "
            f"{len(candidate.pointers) + 1}, {len(layout.rows)}, {candidate.num_tiles}, "
            f"{layout.stride}}}"
        )
        return entry, definitions


def _source(
    candidates: Sequence[BuiltCandidate],
    table: Sequence[tuple[str, list[str]]],
    arrays: DataFile,
    expected: int,
    dtype: str,
) -> str:
    entries = arrays.entries()
    listed = ", ".join(f"{{{offset}, {size}}}" for offset, size in entries)
    lines = ['#include "candidates.h"', f"const struct ofa_array ofa_arrays[] = {{{listed}}};"]
    lines += [definition for _, definitions in table for definition in definitions]
    lines += [
        "const struct ofa_candidate ofa_candidates[] = {",
        *(f"    {entry}," for entry, _ in table),
        "};",
        f"const int ofa_num_candidates = {len(candidates)};",
        f"const int ofa_expected = {expected};",
        f"const enum ofa_type ofa_type = {_TYPES[dtype]};",
        f"const long ofa_num_bytes = {sum(padded(size) for _, size in entries)};",
        f"const double ofa_tolerance = {TOLERANCES[dtype]!r};",
        f"const double ofa_share_between = {SHARE_BETWEEN!r};",
        f"const int ofa_levels = {LEVELS};",
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class ProgramReport:
    """What a program said before it ended.

    Attributes
    ----------
    current
        The candidate it was at; None if it said nothing.
    wrong
        Candidate -> how its output differs.
    turns
        Candidate -> microseconds in every round.
    """

    current: int | None
    wrong: dict[int, str]
    turns: dict[int, list[float]]

    @classmethod
    def parse(cls, output: str) -> ProgramReport:
        """Read what it printed; a torn last line, or anything else it prints, is passed over."""
        current, wrong, turns = None, dict[int, str](), defaultdict[int, list[float]](list)
        for line in output.splitlines():
            with contextlib.suppress(ValueError):  # no number where one should be
                match line.split():
                    case ["start", number]:
                        current = int(number)
                    case ["wrong", number, error, allowed]:
                        wrong[int(number)] = _difference(float(error), float(allowed))
                    case ["time", number, us] if 0 < float(us) < math.inf:
                        turns[int(number)].append(float(us))
        return cls(current, wrong, dict(turns))

    def is_complete(self, numbers: Sequence[int], rounds: int) -> bool:
        """Whether it says of each of these candidates that it is wrong, or its time per round."""
        said = set(self.wrong) | {n for n, turns in self.turns.items() if len(turns) == rounds}
        return said == set(numbers)

    def failures(self) -> dict[int, TrialResult]:
        """Return the results of the candidates whose output is wrong."""
        return {number: TrialResult("wrong", error) for number, error in self.wrong.items()}

    def times(self) -> dict[int, TrialResult]:
        """Return the results of those that were timed."""
        found = relative_times(self.turns) if self.turns else {}
        return {number: TrialResult("ok", None, *figures) for number, figures in found.items()}


def _difference(error: float, allowed: float) -> str:
    if error < 0:
        return "wrote behind the end of its output"
    return describe_error(error, allowed)
