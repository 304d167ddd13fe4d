from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for stub_build, which tests/bundle uses as well

from stub_build import Program, build_program, missing_tools


@pytest.fixture(scope="session", params=["native", pytest.param("arm64", marks=pytest.mark.arm64)])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Return the executable around the stub that copies its 8x8 input to its logits."""
    missing = missing_tools(request.param)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return build_program(tmp_path_factory.mktemp(request.param), request.param)
