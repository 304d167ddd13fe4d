"""The candidates of a job as one network without sense, whose every step is timed by the device.

Inputs are constants, every buffer has a place of its own, and the output is all of the arena: one
run computes all candidates, and what each of them wrote can be looked at afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from ofa_compile.tuning.jobs import BuiltCandidate

PREFIX = "ofa_candidates_"
_OUTPUT = "output"
# Steps need a workload; nothing reads it.
_ANY = Add(1)


@dataclass(frozen=True)
class CandidateNetwork:
    """A network of candidates.

    Attributes
    ----------
    library
        The shared library; its names start with `PREFIX`.
    outputs
        For every candidate, where its output begins in the network's, in bytes.
    num_launches
        For every candidate, how many of the network's steps are its own.
    """

    library: Path
    outputs: tuple[int, ...]
    num_launches: tuple[int, ...]


class CandidateNetworkLinker:
    """Links candidates with the launcher of a GPU target.

    Parameters
    ----------
    target
        What for.

    Raises
    ------
    MissingDependencyError
        If this machine cannot link for the target.
    """

    def __init__(self, target: TargetSpec) -> None:
        self._toolkit = backend_of(target).toolkit()
        self._needs_halves = value_type(target) == "float16"
        runtime = runtime_of(target.kind, target.platform)
        self._linker = Linker(find_linker(target), Cache(), runtime)

    def link(self, candidates: Sequence[BuiltCandidate], folder: Path) -> CandidateNetwork:
        """Write the library of candidates that all were built, into an existing folder.

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
        self._linker.link(folder, network, objects, PREFIX, None)
        return CandidateNetwork(
            folder / "libsubnet.so",
            tuple(offsets[ref.index] for ref in outputs),
            tuple(len(candidate.launches) for candidate in candidates),
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
