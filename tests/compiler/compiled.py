"""What a compiled network consists of."""

from __future__ import annotations

from ofa_compile.compiler.build import CompiledNetwork


def kinds(compiled: CompiledNetwork) -> list[str]:
    """Return what each step computes; generic ones with their operator."""
    names = []
    for step in compiled.steps:
        workload = step["workload"]
        operator = workload.get("operator")
        names.append(f"generic:{operator}" if operator else workload["kind"])
    return names
