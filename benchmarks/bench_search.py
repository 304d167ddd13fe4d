"""Search quality on the authors' own predictors: w1.2 space, accuracy predictor x phone table.

Every accuracy here is the authors' *predicted hold-out top-1*, which is not comparable with the
accuracy published for the fine-tuned subnets; every latency is a sum of their table's entries.

    python benchmarks/bench_search.py --data FOLDER [--quick] [--json]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from authors import RESOLUTIONS, SPACE, AuthorsAccuracy, PhoneTable, published_subnets
from common import data_folder, finish, parser, say, table

from ofa_compile.search.constraints import Limits
from ofa_compile.search.evolution import PAPER_CONFIG, EvolutionConfig, evolve_best
from ofa_compile.search.pareto import hypervolume
from ofa_compile.search.problem import SearchProblem
from ofa_compile.search.search import search
from ofa_compile.space import cost
from ofa_compile.space.registry import search_space

# 50 % accuracy and 80 ms: worse than anything on the front.
CORNER = np.array([-0.5, 80.0])
LIMITS_MS = (15.0, 20.0, 30.0, 40.0)


def published(options: argparse.Namespace, accuracy: Any, phone: Any, folder: Path) -> list[dict]:
    """Compare our pick with the authors' subnets at the table latency of each."""
    space = search_space(SPACE)
    rows = []
    for item in published_subnets(folder / "ofa" / "specialized_subnets.json"):
        architecture = item["architecture"]
        if architecture.resolution not in RESOLUTIONS:
            continue
        latency_ms = float(phone.predict([architecture])[0])
        theirs = float(accuracy.predict([architecture])[0])
        found = search(
            space, accuracy=accuracy, latency=phone, max_latency_ms=latency_ms, seed=options.seed
        )
        rows.append(
            {
                "name": item["name"].split("_top1")[0],
                "table_latency_ms": latency_ms,
                "predicted_accuracy": theirs,
                "our_predicted_accuracy": found.best.accuracy,
                "our_table_latency_ms": found.best.latency_ms,
                "macs": cost.macs(architecture),
                "our_macs": found.best.macs,
            }
        )
    say(options, "\n## At the table latency of the authors' published subnets\n")
    header = ("subnet", "table ms", "their prediction", "our pick's", "difference", "M MACs")
    cells = [
        (
            row["name"], f"{row['table_latency_ms']:.2f}", f"{100 * row['predicted_accuracy']:.2f}",
            f"{100 * row['our_predicted_accuracy']:.2f}",
            f"{100 * (row['our_predicted_accuracy'] - row['predicted_accuracy']):+.2f}",
            f"{row['macs'] / 1e6:.0f} -> {row['our_macs'] / 1e6:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    say(options, table(header, cells))
    return rows


def fronts(options: argparse.Namespace, accuracy: Any, phone: Any, seeds: range) -> dict[str, Any]:
    """Measure speed and spread over seeds of the whole front."""
    space = search_space(SPACE)
    runs = []
    for seed in seeds:
        result = search(space, accuracy=accuracy, latency=phone, seed=seed)
        points = np.array([[-item.accuracy, item.latency_ms] for item in result.front])
        best = [-points[points[:, 1] <= limit, 0].min() for limit in LIMITS_MS]
        runs.append(
            {
                "points": len(points),
                "hypervolume": hypervolume(points, CORNER),
                "seconds": result.seconds,
                "num_evaluated": result.num_evaluated,
                "best_at_limits": best,
            }
        )
    rates = [run["num_evaluated"] / run["seconds"] for run in runs]
    spread = np.ptp([run["best_at_limits"] for run in runs], axis=0)
    say(options, f"\n## The whole front, {len(runs)} seeds\n")
    say(options, table(
        ("points", "seconds", "evaluations", "evaluations/s", "hypervolume worst/best"),
        [(
            f"{np.median([run['points'] for run in runs]):.0f}",
            f"{np.median([run['seconds'] for run in runs]):.2f}",
            f"{np.median([run['num_evaluated'] for run in runs]):.0f}",
            f"{np.median(rates):.0f}",
            f"{min(r['hypervolume'] for r in runs) / max(r['hypervolume'] for r in runs):.5f}",
        )],
    ))  # fmt: skip
    spreads = ", ".join(
        f"{limit:g} ms: {100 * value:.2f}" for limit, value in zip(LIMITS_MS, spread, strict=True)
    )
    say(options, f"\nBest minus worst seed on the front, in points of accuracy: {spreads}.")
    return {"runs": runs, "limits_ms": LIMITS_MS}


def methods(options: argparse.Namespace, accuracy: Any, phone: Any, seeds: range) -> dict[str, Any]:
    """Compare ways to the best under one limit, at about as many evaluations."""
    space, limit = search_space(SPACE), 30.0

    def problem() -> SearchProblem:
        limits = Limits(max_latency_ms=limit)
        return SearchProblem(space, accuracy=accuracy, latency=phone, limits=limits)

    def evolved(seed: int, config: EvolutionConfig) -> tuple[float, int]:
        task = problem()
        best = evolve_best(task, np.random.default_rng(seed), config)
        return -float(best.objectives[0, 0]), task.num_evaluated

    def random_search(seed: int, count: int) -> tuple[float, int]:
        task = problem()
        rows = space.mark_absent(task.sample(np.random.default_rng(seed), count))
        objectives, violations = task.score(rows)
        return -float(objectives[violations == 0, 0].min()), count

    def ours(seed: int) -> tuple[float, int]:
        found = search(space, accuracy=accuracy, latency=phone, max_latency_ms=limit, seed=seed)
        return found.best.accuracy, found.num_evaluated

    large = EvolutionConfig(population=512, generations=70, parent_share=0.5, max_sweeps=8)
    ways = {
        "random search": lambda seed: random_search(seed, 50_000),
        "the paper's evolution (100 x 500)": lambda seed: evolved(seed, PAPER_CONFIG),
        "constrained evolution, 512 x 70, local search": lambda seed: evolved(seed, large),
        "search(): that and the front (ours)": ours,
    }
    results, rows = {}, []
    for name, way in ways.items():
        started = time.monotonic()
        runs = [way(seed) for seed in seeds]
        seconds = (time.monotonic() - started) / len(runs)
        values = [100 * value for value, _ in runs]
        evaluations = int(np.median([count for _, count in runs]))
        results[name] = {"accuracy_percent": values, "evaluations": evaluations, "seconds": seconds}
        rows.append(
            (
                name, f"{np.mean(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}",
                evaluations, f"{seconds:.2f}",
            )
        )  # fmt: skip
    say(options, f"\n## Best under {limit:g} ms, {len(seeds)} seeds (predicted accuracy, %)\n")
    say(options, table(("method", "mean", "worst", "best", "evaluations", "seconds"), rows))
    return results


def main() -> None:
    """Run all three comparisons."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--data", type=Path, help="folder that holds ofa/")
    options = arguments.parse_args()
    folder = data_folder(options.data)
    accuracy = AuthorsAccuracy(folder / "ofa" / "acc_predictor.pth")
    phone = PhoneTable(folder / "ofa")
    seeds = range(2 if options.quick else 10)
    document = {
        "benchmark": "search",
        "published": published(options, accuracy, phone, folder),
        "fronts": fronts(options, accuracy, phone, seeds),
        "methods": methods(options, accuracy, phone, seeds),
    }
    finish(document, options)


if __name__ == "__main__":
    main()
