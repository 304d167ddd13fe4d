from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for kernel_harness and what it imports

from kernel_harness import MACHINES, Machine, why_not

from ofa_compile.hardware.target_spec import load_target

_MARKS = {"neon": (pytest.mark.arm64,)}


@pytest.fixture(
    scope="session", params=[pytest.param(m, marks=_MARKS.get(m, ())) for m in MACHINES]
)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Each kind of core that code is generated for; skipped where such code cannot run."""
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(reason)
    target = load_target(MACHINES[request.param])
    return Machine(target, tmp_path_factory.mktemp(request.param))
