from __future__ import annotations

import dataclasses

import pytest

from ofa_compile.hardware.target_spec import TargetSpec, load_target


@pytest.fixture
def board() -> TargetSpec:
    """Return a target of an architecture that this machine is not."""
    target = load_target("arm64")
    if not target.is_native:
        return target
    tvm_target = {"kind": "llvm", "mtriple": "riscv64-linux-gnu"}
    return dataclasses.replace(target, tvm_target=tvm_target)
