"""What tuning brought over the kernels' defaults."""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.workload import Separable
from ofa_compile.tuning.database import preferred
from ofa_compile.tuning.plan import Plan


def speedup(plan: Plan) -> float:
    """Return the default time of the tuned workloads over their best time, weighted by use."""
    default_us = best_us = 0.0
    for task in plan.tasks:
        if isinstance(task.workload, Separable):
            continue  # counted by its parts
        best = preferred(plan.results.of(task.workload))
        default = _default_us(plan, task.workload)
        if best is not None and best.time_us is not None and default is not None:
            best_us += task.expected_count * best.time_us
            default_us += task.expected_count * default
    return default_us / best_us if best_us else 1.0


def gains(plan: Plan) -> list[dict[str, Any]]:
    """List the tuned workloads whose default is not the best, the most valuable gain first."""
    rows = []
    used = plan.results.used()
    for task in plan.tasks:
        best = used.get(task.workload.key)
        default = _default_us(plan, task.workload)
        is_joined = isinstance(task.workload, Separable)
        if best is None or best.time_us is None or default is None:
            continue
        if best.is_default and not is_joined:
            continue
        rows.append(
            {
                "workload": task.workload.to_dict(),
                "default": {} if is_joined else dict(task.configs[0]),
                "best": best.config,
                "default_us": default,
                "best_us": best.time_us,
                "speedup": round(default / best.time_us, 3),
                "roofline_share": best.roofline_share,
                "saved_us_per_subnet": round(task.expected_count * (default - best.time_us), 3),
            }
        )
    return sorted(rows, key=lambda row: -row["saved_us_per_subnet"])


def _default_us(plan: Plan, workload: Any) -> float | None:
    """Return the time of the kernel's own choice; of two workloads at once, that of both apart."""
    if isinstance(workload, Separable):
        parts = [preferred(plan.results.of(part)) for part in workload.parts]
        times = [part.time_us for part in parts if part is not None and part.time_us is not None]
        return sum(times) if len(times) == len(parts) else None
    for record in plan.results.of(workload):
        if record.is_default and record.status == "ok":
            return record.time_us
    return None
