"""The candidates of a job as one network without sense, whose every step is timed by the device.

Inputs are constants, every buffer has a place of its own, and the output is all of the arena: one
run computes all candidates, and what each of them wrote can be looked at afterwards. It is a
library where Python runs it, and a program for boards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.cache import Cache, digest
from ofa_compile.compiler.gpu.backend import backend_of
from ofa_compile.compiler.gpu.tables import emit_tables, places_apart
from ofa_compile.compiler.link import Linker, runtime_of
from ofa_compile.compiler.plan import Plan, Ref, Step
from ofa_compile.compiler.workload import Add
from ofa_compile.hardware.precision import value_type
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.cases import EXPECTED
from ofa_compile.tuning.full_disk import disk_checked
from ofa_compile.tuning.jobs import BuiltCandidate, TrialResult
from ofa_compile.tuning.race import relative_times

PREFIX = "ofa_candidates_"
ROUNDS = 9
"""Rounds in which all launches are timed, at least."""
BUDGET_MS = 150.0
"""Of timed launches of a job; a software device takes longer for its least rounds."""
TIMEOUT_S = 120.0
_MAIN = "gpu_candidates_main.c"
# A clock of the device may tick more slowly than a kernel runs.
_LEAST_US = 1e-3
_OUTPUT = "output"
# Steps need a workload; nothing reads it.
_ANY = Add(1)


@dataclass(frozen=True)
class CandidateNetwork:
    """A network of candidates.

    Attributes
    ----------
    path
        The shared library, whose names start with `PREFIX`, or the program.
    outputs
        For every candidate, where its output begins in the network's, in bytes.
    num_launches
        For every candidate, how many of the network's steps are its own.
    data
        NumPy archive that has the output of all candidates as `expected`.
    is_tf32
        Candidates may round what they multiply.
    """

    path: Path
    outputs: tuple[int, ...]
    num_launches: tuple[int, ...]
    data: Path
    is_tf32: bool = False

    @property
    def arithmetic(self) -> str:
        """The name by which `output_error.TOLERANCES` knows how exact the candidates are."""
        return "tf32" if self.is_tf32 else self.expected().dtype.name

    def expected(self) -> NDArray[Any]:
        """Return the right output of every candidate, of the type that they compute in."""
        with np.load(self.data, allow_pickle=False) as stored:
            return np.asarray(stored[EXPECTED])


def times_of(
    milliseconds: NDArray[np.float64], num_launches: Sequence[int], chosen: Iterable[int]
) -> dict[int, TrialResult]:
    """Return the results of chosen candidates from the times of all steps in every round."""
    ends = [0, *np.cumsum(num_launches)]
    turns = [
        np.maximum(1e3 * milliseconds[:, first:last].sum(axis=1), _LEAST_US).tolist()
        for first, last in pairwise(ends)
    ]
    chosen_turns = {number: turns[number] for number in chosen}
    found = relative_times(chosen_turns) if chosen_turns else {}
    return {number: TrialResult("ok", None, *figures) for number, figures in found.items()}


class CandidateNetworkLinker:
    """Links candidates with the launcher of a GPU target.

    Parameters
    ----------
    target
        What for.
    as_program
        Make programs, not libraries.

    Raises
    ------
    MissingDependencyError
        If this machine cannot link for the target.
    """

    def __init__(self, target: TargetSpec, *, as_program: bool = False) -> None:
        self._as_program = as_program
        self._toolkit = backend_of(target).toolkit()
        self._needs_halves = value_type(target) == "float16"
        self._is_tf32 = target.precision == "tf32"
        runtime = runtime_of(target.kind, target.platform)
        self._linker = Linker(find_linker(target), Cache(), runtime)

    def link(self, candidates: Sequence[BuiltCandidate], folder: Path) -> CandidateNetwork:
        """Write the network of candidates that all were built, into an existing folder.

        Raises
        ------
        BuildError
            If it cannot be linked, or needs more than 4 GiB of the device.
        TuningError
            If the disk is full.
        """
        with disk_checked():
            return self._link(candidates, folder)

    def _link(self, candidates: Sequence[BuiltCandidate], folder: Path) -> CandidateNetwork:
        plan, outputs, paths = _plan(candidates)
        offsets, num_bytes = places_apart(plan)
        plan.output_shape, plan.output = (1, num_bytes // 4), Ref("buffer", 0)
        # The linker knows objects by the start of their names.
        named = {}
        for path in dict.fromkeys(paths):
            key = digest(str(path))
            copy = folder / key
            copy.write_bytes(path.read_bytes())
            named[key] = copy
        keys = [digest(str(path)) for path in paths]
        source = emit_tables(
            plan,
            named,
            keys,
            "candidates",
            self._toolkit,
            is_apart=True,
            needs_halves=self._needs_halves,
        )
        objects = list(named.values())
        network = self._linker.compile_network(source.c_source, source.weights, objects)
        platform = self._linker.platform
        if self._as_program:
            self._linker.link_program(folder, network, _MAIN)
        else:
            self._linker.link(folder, network, objects, PREFIX, None)
        return CandidateNetwork(
            folder / (platform.program if self._as_program else platform.library),
            tuple(offsets[ref.index] for ref in outputs),
            tuple(len(candidate.launches) for candidate in candidates),
            candidates[0].data,
            self._is_tf32,
        )


def _plan(candidates: Sequence[BuiltCandidate]) -> tuple[Plan, list[Ref], list[Path]]:
    """Return the plan, where each candidate's output is, and the object of every step."""
    plan = Plan((1, 1, 1, 4), (1, 1))
    constants: dict[tuple[Path, str], Ref] = {}
    outputs, paths = [], []
    for candidate in candidates:
        with np.load(candidate.data, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        expected = arrays[EXPECTED]
        outputs.append(plan.new_buffer(expected.size, expected.itemsize))
        own = {_OUTPUT: outputs[-1]}
        own |= {name: plan.new_buffer(size) for name, size in candidate.scratch.items()}
        for launch in candidate.launches:
            refs = []
            for name in launch.buffers:
                known = (candidate.data, name)
                if name not in own and known not in constants:
                    constants[known] = plan.new_constant(arrays[name])
                refs.append(own[name] if name in own else constants[known])
            plan.steps.append(Step(_ANY, {}, tuple(refs[:-1]), refs[-1], 1))
            paths.append(launch.kernel)
    return plan, outputs, paths
