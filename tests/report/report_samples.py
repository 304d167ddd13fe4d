"""Results of searches, made up but of the real form."""

from __future__ import annotations

from typing import Any

import numpy as np

from ofa_compile.predictors.cost_tables import Costs, CostTables
from ofa_compile.space import Architecture, search_space

SPACE = search_space("ofa_mbv3_cifar")


def members(count: int, kind: str = "estimate") -> list[dict[str, Any]]:
    """Return so many candidates as `search` writes them, the cheapest first."""
    rows = SPACE.sample_indices(np.random.default_rng(0), count)
    costs = CostTables(SPACE).costs(rows)
    order = np.argsort(costs.macs)
    return [_member(SPACE.from_indices(rows[i]), costs, i, kind) for i in order]


def _member(architecture: Architecture, costs: Costs, place: int, kind: str) -> dict[str, Any]:
    count = float(costs.macs[place])
    latency = {"ms": 1e-7 * count, "kind": kind, "relative_std": 0.02, "statistic": "median"}
    return {
        "architecture": architecture.to_dict(),
        "accuracy": 0.5 + 1e-9 * count,
        "accuracy_std": 0.004,
        "latency_ms": latency["ms"],
        "latency_kind": kind,
        "latencies": {"x86-64": latency},
        "macs": int(count),
        "num_parameters": int(costs.num_parameters[place]),
        "size_bytes": int(costs.size_bytes[place]),
        "activation_bytes": int(costs.activation_bytes[place]),
    }


def front(count: int) -> dict[str, Any]:
    """Return a front.json with so many members."""
    listed = members(count)
    chosen = {"best": listed[-1], "knee": listed[count // 2]} if listed else {}
    return {
        "cost": "latency_ms@x86-64",
        "num_evaluated": 1000,
        "seconds": 1.5,
        "best": None,
        "knee": None,
        **chosen,
        "front": listed,
    }


def verification(searched: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a verification.json about the best members of a front."""
    items = [
        {
            "predicted": item,
            "measured": {
                "latency_ms": 1.1 * item["latency_ms"],
                "p95_ms": 1.2 * item["latency_ms"],
                "spread": 0.01,
                "accuracy": None,
                "blocks": None,
            },
            "latency_error": -0.09,
            "meets_limit": True,
            "bundle": None,
        }
        for item in searched["front"][-count:]
    ]
    rounds = [{"num_measured": count, "latency_kind": "estimate", "median_latency_error": 0.09}]
    return {"verified": items, "rounds": rounds}


def block_times(architecture: Architecture) -> list[dict[str, Any]]:
    """Return measured times of a subnet's blocks, each longer than the one before."""
    places = dict.fromkeys((layer.stage, layer.block) for layer in SPACE.layers(architecture))
    return [
        {"stage": stage, "block": block, "ms": 0.25 * (number + 1), "num_calls": 3}
        for number, (stage, block) in enumerate(places)
    ]
