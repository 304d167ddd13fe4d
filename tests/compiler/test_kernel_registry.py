from __future__ import annotations

import pytest

from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel, register
from ofa_compile.compiler.workload import Generic, Workload
from ofa_compile.hardware.target_spec import load_target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("x86-64-avx512", VectorMachine(16, 32, False, "pmadd")),
        ("x86-64", VectorMachine(8, 16, False, "pmadd")),
        ("cortex-a72", VectorMachine(4, 32, True, "smull")),
    ],
)
def test_machine_of_a_target(target: str, expected: VectorMachine) -> None:
    assert VectorMachine.of(load_target(target)) == expected


def concrete(base: type[Workload]) -> list[type[Workload]]:
    found = [base] if "kind" in vars(base) else []
    return found + [kind for child in base.__subclasses__() for kind in concrete(child)]


def test_every_workload_has_a_kernel_of_ours_but_generic() -> None:
    for kind in concrete(Workload):
        stub = object.__new__(kind)
        found = [find_kernel(stub, family) for family in ("cpu", "gpu")]
        assert (found == [None, None]) == (kind is Generic), kind


def test_register_serves_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from ofa_compile.compiler import kernel_registry

    monkeypatch.setattr(kernel_registry, "_KERNELS", dict(kernel_registry._KERNELS))

    class Kernel:
        kind = "generic"

    assert register(Kernel) is Kernel  # type: ignore[type-var]
    assert isinstance(find_kernel(Generic("x", "y")), Kernel)
