"""Search quality and speed, on the authors' own predictors where they are at hand.

Every accuracy here is a *prediction* of the authors' predictor for the w1.2 space: the hold-out
top-1 of their supernet, not comparable with the accuracy published for the fine-tuned subnets. On
the phone, latency is a sum of entries of their table.

    python benchmarks/bench_search.py --data FOLDER [--parts NAME ...] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from authors import RESOLUTIONS, SPACE, PhoneTable, authors_accuracy, published_subnets
from common import data_folder, finish, parser, say, table
from search_rivals import (
    Rival,
    installed_rivals,
    paper_evolution,
    random_search,
    regularised_evolution,
)

from ofa_compile.hardware.target_spec import load_target
from ofa_compile.predictors import metrics
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.search.best import walk_to_best
from ofa_compile.search.config import BEST_CONFIG, scaled_walks
from ofa_compile.search.constraints import Limits
from ofa_compile.search.pareto import hypervolume, non_dominated_mask
from ofa_compile.search.problem import SearchProblem
from ofa_compile.search.search import SearchResult, search
from ofa_compile.space import cost
from ofa_compile.space.registry import search_space

# 50 % accuracy and 80 ms: worse than anything on the front.
CORNER = np.array([-0.5, 80.0])
LIMITS_MS = (15.0, 20.0, 30.0, 40.0)
NAMED = ("note10_lat-30ms", "flops-389M", "flops-482M")
PHONE_LIMITS_MS = (15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
HOST_LIMITS_MS = (6.0, 7.5, 9.0, 10.5)
METHOD_LIMITS_MS = (20.0, 30.0, 40.0)
MANY, FEW = 120_000, 1_200
# The others spread by far more than three seeds blur.
NUM_RIVAL_SEEDS = 3


def published(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare our pick with the authors' subnets at the latency of each, under two models."""
    accuracy, phone = authors_accuracy(folder / "ofa"), PhoneTable(folder / "ofa")
    host = host_latency(options)
    known = [
        item
        for item in published_subnets(folder / "ofa" / "specialized_subnets.json")
        if item["architecture"].resolution in RESOLUTIONS
    ]
    named = [item for item in known if item["name"].startswith(NAMED)]
    document: dict[str, Any] = {"rank_agreement": ranks(options, accuracy, known)}
    models = {"phone table": (phone, known), f"host ({host.kind})": (host, named)}
    for model, (latency, items) in models.items():
        rows = [pick(options, item, accuracy, latency) for item in items]
        say(options, f"\n## At the latency of the authors' published subnets: {model}\n")
        header = ("subnet", "ms", "their prediction", "our pick's", "difference", "M MACs")
        cells = [
            (
                row["name"], f"{row['latency_ms']:.2f}", f"{100 * row['predicted_accuracy']:.2f}",
                f"{100 * row['our_predicted_accuracy']:.2f}",
                f"{100 * (row['our_predicted_accuracy'] - row['predicted_accuracy']):+.2f}",
                f"{row['macs'] / 1e6:.0f} -> {row['our_macs'] / 1e6:.0f}",
            )
            for row in rows
        ]  # fmt: skip
        say(options, table(header, cells))
        document[model] = rows
    return document


def pick(
    options: argparse.Namespace, item: dict[str, Any], accuracy: Any, latency: Any
) -> dict[str, Any]:
    """Search at one published subnet's own latency."""
    architecture = item["architecture"]
    latency_ms = float(latency.predict([architecture])[0])
    found = best_under(accuracy, latency, latency_ms, options.seed)
    return {
        "name": item["name"].split("_top1")[0],
        "latency_ms": latency_ms,
        "latency_kind": getattr(latency, "kind", None),
        "predicted_accuracy": float(accuracy.predict([architecture])[0]),
        "our_predicted_accuracy": found.best.accuracy,
        "our_latency_ms": found.best.latency_ms,
        "our_architecture": found.best.architecture.to_dict(),
        "macs": cost.macs(architecture),
        "our_macs": found.best.macs,
    }


def ranks(options: argparse.Namespace, accuracy: Any, known: list[dict]) -> dict[str, Any]:
    """Compare the order of predictions with that of the published, fine-tuned accuracies."""
    result = {}
    say(options, "\n## Order of predicted hold-out and published fine-tuned accuracies\n")
    for name, items in (
        ("224 px", [item for item in known if item["architecture"].resolution == 224]),
        ("all that the predictor covers", known),
    ):
        predicted = accuracy.predict([item["architecture"] for item in items])
        top1 = [float(item["name"].split("top1-")[1].split("_")[0]) for item in items]
        tau, rho = metrics.kendall_tau(top1, predicted), metrics.spearman(top1, predicted)
        result[name] = {"subnets": len(items), "kendall_tau": tau, "spearman": rho}
        say(options, f"{name}: {len(items)} subnets, Kendall tau {tau:.2f}, Spearman {rho:.2f}")
    return result


def host_latency(options: argparse.Namespace) -> LatencyPredictor | LatencyEstimator:
    """Return the predictor fitted on this host's measurements, else the estimate."""
    if options.host_predictor is not None:
        return LatencyPredictor.load(options.host_predictor)
    return LatencyEstimator(load_target("host"))


def fronts(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure speed and spread over seeds of the whole front, under both latency models."""
    accuracy, host = authors_accuracy(folder / "ofa"), host_latency(options)
    return {
        "phone table": front(options, accuracy, PhoneTable(folder / "ofa"), "phone table"),
        f"host ({host.kind})": front(options, accuracy, host, f"host ({host.kind})"),
    }


def command(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time the whole command, start-up included, for the front of the full space."""
    latency = host_latency(options)
    given = ["--latency-predictor", str(options.host_predictor)] if options.host_predictor else []
    runs = []
    with tempfile.TemporaryDirectory(prefix="ofa-compile-search-") as scratch:
        predictor = Path(scratch) / "accuracy.safetensors"
        authors_accuracy(folder / "ofa").save(predictor)
        words = [
            sys.executable, "-m", "ofa_compile", "search", "--target", "host", "--space", SPACE,
            "--accuracy-predictor", str(predictor), "--workspace", scratch, "--json", "--quiet",
            *given,
        ]  # fmt: skip
        for seed in range(1 if options.quick else 5):
            started = time.monotonic()
            done = subprocess.run(
                [*words, "--seed", str(seed)], capture_output=True, text=True, check=True
            )
            seconds = time.monotonic() - started
            found = json.loads(done.stdout)
            runs.append(
                {
                    "seconds": seconds,
                    "points": len(found["front"]),
                    "num_evaluated": found["num_evaluated"],
                    "search_seconds": found["seconds"],
                }
            )
    rates = [run["num_evaluated"] / run["search_seconds"] for run in runs]
    say(options, f"\n## The whole command, start-up included (latency: {latency.kind})\n")
    header = ("seconds (median)", "slowest", "points", "candidates", "candidates/s")
    cells = (
        f"{np.median([run['seconds'] for run in runs]):.2f}",
        f"{max(run['seconds'] for run in runs):.2f}",
        min(run["points"] for run in runs),
        int(np.median([run["num_evaluated"] for run in runs])),
        f"{np.median(rates):.0f}",
    )
    say(options, table(header, [cells]))
    return {f"host ({latency.kind})": {"runs": runs}}


def front(options: argparse.Namespace, accuracy: Any, latency: Any, name: str) -> dict[str, Any]:
    """Search the whole front with several seeds."""
    space = search_space(SPACE)
    is_phone = isinstance(latency, PhoneTable)
    runs, all_points = [], []
    for seed in seeds(options):
        result = search(space, accuracy=accuracy, latency=latency, seed=seed)
        points = np.array([[-item.accuracy, item.latency_ms] for item in result.front])
        all_points.append(points)
        runs.append(
            {
                "points": len(points),
                "seconds": result.seconds,
                "num_evaluated": result.num_evaluated,
                # The first seed's is enough to draw.
                **({} if runs else {"front": [[-a, ms] for a, ms in points.tolist()]}),
            }
        )
    merged = np.concatenate(all_points)
    corner = CORNER if is_phone else np.array([-0.5, 1.1 * merged[:, 1].max()])
    limits = LIMITS_MS if is_phone else tuple(np.quantile(merged[:, 1], (0.2, 0.4, 0.6, 0.8)))
    for run, points in zip(runs, all_points, strict=True):
        run["hypervolume"] = hypervolume(points, corner)
        run["best_at_limits"] = [-points[points[:, 1] <= limit, 0].min() for limit in limits]
    rates = [run["num_evaluated"] / run["seconds"] for run in runs]
    spread = np.ptp([run["best_at_limits"] for run in runs], axis=0)
    say(options, f"\n## The whole front, {len(runs)} seeds: {name}\n")
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
        f"{limit:.3g} ms: {100 * value:.2f}" for limit, value in zip(limits, spread, strict=True)
    )
    say(options, f"\nBest minus worst seed on the front, in points of accuracy: {spreads}.")
    return {"runs": runs, "limits_ms": limits}


def seed_spread(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Search under many limits with several seeds, as the command does."""
    accuracy, phone = authors_accuracy(folder / "ofa"), PhoneTable(folder / "ofa")
    host = host_latency(options)
    models = {
        "phone table": (phone, options.limits or PHONE_LIMITS_MS),
        f"host ({host.kind})": (host, options.limits or HOST_LIMITS_MS),
    }
    document: dict[str, Any] = {}
    for model, (latency, limits) in models.items():
        if options.model not in model:
            continue
        rows = {}
        for limit in limits:
            rows[f"{limit:g} ms"] = [
                100 * best_under(accuracy, latency, limit, seed).best.accuracy
                for seed in seeds(options)
            ]
        say(options, f"\n## Best under one limit, {len(seeds(options))} seeds: {model}\n")
        header = ("limit", "best", "worst", "spread")
        cells = [
            (limit, f"{max(row):.3f}", f"{min(row):.3f}", f"{np.ptp(row):.3f}")
            for limit, row in rows.items()
        ]
        say(options, table(header, cells))
        document[model] = rows
    return document


def best_under(accuracy: Any, latency: Any, limit_ms: float, seed: int) -> SearchResult:
    """Search under one limit, as the command does."""
    space = search_space(SPACE)
    return search(space, accuracy=accuracy, latency=latency, max_latency_ms=limit_ms, seed=seed)


def limited_problem(accuracy: Any, latency: Any, limit_ms: float) -> SearchProblem:
    """Return the problem of the best under one limit."""
    limits = Limits(max_latency_ms=limit_ms)
    return SearchProblem(search_space(SPACE), accuracy=accuracy, latency=latency, limits=limits)


def methods(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare ways to the best under one limit, at as many evaluations as ours takes."""
    return compare(options, folder, MANY, many_ways())


def few_methods(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do the same at a hundredth of that, with other libraries, which take long to ask."""
    return compare(options, folder, FEW, few_ways())


def compare(
    options: argparse.Namespace, folder: Path, count: int, ways: dict[str, Rival]
) -> dict[str, Any]:
    """Search in every way under each limit, at equal evaluations."""
    accuracy, phone = authors_accuracy(folder / "ofa"), PhoneTable(folder / "ofa")
    results: dict[str, Any] = {}
    for limit in options.limits or METHOD_LIMITS_MS:
        say(options, f"\n## Best under {limit:g} ms, {count} evaluations (predicted accuracy, %)\n")
        rows = results[f"{limit:g} ms"] = {}
        for name, way in ways.items():
            problem = partial(limited_problem, accuracy, phone, limit)
            rows[name] = rival_row(options, way, problem)
            say(options, " | ".join(map(str, rival_cells(name, rows[name]))))
    return results


def many_ways() -> dict[str, Rival]:
    """Return the ways that take many evaluations in seconds."""
    return {
        "random search": lambda task, rng: random_search(task, rng, MANY),
        "regularised evolution": lambda task, rng: regularised_evolution(task, rng, MANY),
        "the paper's evolution, 100 x 1200": lambda task, rng: paper_evolution(task, rng, MANY),
        "ours": ours(MANY),
    }


def few_ways() -> dict[str, Rival]:
    """Return all ways with few evaluations, those of other libraries that are installed too."""
    ways: dict[str, Rival] = {
        "random search": lambda task, rng: random_search(task, rng, FEW),
        "regularised evolution": lambda task, rng: regularised_evolution(task, rng, FEW),
        "the paper's evolution, 100 x 12": lambda task, rng: paper_evolution(task, rng, FEW),
    }
    for name, search_with in installed_rivals().items():
        ways[name] = partial(search_with, count=FEW)
    return ways | {"ours": ours(FEW)}


def ours(count: int) -> Rival:
    """Return our search as one of the ways."""
    config = scaled_walks(BEST_CONFIG, count / BEST_CONFIG.max_evaluations)
    return lambda task, rng: -float(walk_to_best(task, rng, config).values[0, 0])


def rival_row(
    options: argparse.Namespace, way: Rival, problem: Callable[[], SearchProblem]
) -> dict[str, Any]:
    """Search in one way with several seeds."""
    values, evaluations = [], []
    started = time.process_time()
    for seed in list(seeds(options))[:NUM_RIVAL_SEEDS]:
        task = problem()
        values.append(100 * way(task, np.random.default_rng(seed)))
        evaluations.append(task.num_evaluated)
    return {
        "accuracy_percent": values,
        "evaluations": evaluations,
        "processor_seconds": (time.process_time() - started) / len(values),
    }


def rival_cells(name: str, row: dict[str, Any]) -> tuple[object, ...]:
    """Return the cells of one way's line."""
    values = row["accuracy_percent"]
    return (
        name, f"{len(values)} seeds", f"mean {np.mean(values):.3f}", f"worst {min(values):.3f}",
        f"best {max(values):.3f}", f"{int(np.median(row['evaluations']))} evaluations",
        f"{row['processor_seconds']:.2f} s",
    )  # fmt: skip


def enumerated(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare the front with the true one of a space of which every member can be scored."""
    accuracy, phone = authors_accuracy(folder / "ofa"), PhoneTable(folder / "ofa")
    part = PartOfSpace(accuracy, phone)
    problem = SearchProblem(part.space, accuracy=part, latency=part.latency)
    rows = part.rows()
    rows = rows[problem.distinct(rows)]
    values, _ = problem.score(rows)
    truth = values[non_dominated_mask(values)]
    corner = values.max(axis=0)
    ratios, counts = [], []
    for seed in seeds(options):
        found = search(part.space, accuracy=part, latency=part.latency, seed=seed, front_size=10**6)
        points = np.array([[-item.accuracy, item.latency_ms] for item in found.front])
        ratios.append(hypervolume(points, corner) / hypervolume(truth, corner))
        counts.append((len(points), found.num_evaluated))
    say(options, f"\n## A space of {len(rows)} architectures, every one scored\n")
    say(options, f"hypervolume found / true: worst {min(ratios):.6f}, best {max(ratios):.6f}; ")
    say(options, f"true front {len(truth)} points, found {counts[0][0]}")
    return {"architectures": len(rows), "ratios": ratios, "found_and_evaluated": counts}


class PartOfSpace:
    """Part of the w1.2 space with the authors' accuracy, as a space of its own."""

    def __init__(self, accuracy: Any, phone: PhoneTable) -> None:
        self._full = search_space(SPACE)
        self._accuracy, self._phone = accuracy, phone
        self.space = dataclasses.replace(
            self._full,
            name="part",
            resolutions=(176, 208),
            depth_choices=((2,), (2,), (2, 3), (2,), (2,)),
            expand_ratio_choices=(4,),
        )
        self.latency = _OfPart(self, phone)

    def rows(self) -> np.ndarray:
        """Return the choice indices of every member, some of them more than once."""
        grids = np.meshgrid(*(np.arange(len(g.choices)) for g in self.space.genes), indexing="ij")
        return self.space.mark_absent(np.stack([grid.ravel() for grid in grids], axis=1))

    def in_full(self, rows: np.ndarray) -> np.ndarray:
        """Return the same architectures as choice indices of the whole space."""
        full = np.full((len(rows), len(self._full.genes)), -1, dtype=np.int64)
        numbers = {gene.name: number for number, gene in enumerate(self._full.genes)}
        for column, gene in enumerate(self.space.genes):
            number = numbers[gene.name]
            choices = [self._full.genes[number].choices.index(value) for value in gene.choices]
            present = rows[:, column] >= 0
            full[present, number] = np.array(choices)[rows[present, column]]
        return full

    def predict_indices(self, space: Any, rows: np.ndarray) -> np.ndarray:
        """Predict the accuracy."""
        codes = self._full.encode_indices(self.in_full(rows))
        return self._accuracy.predict_encoded(codes)

    def predict(self, architectures: Any) -> np.ndarray:
        """Not needed: the search asks by index."""
        raise AssertionError


class _OfPart:
    """The phone table on part of its space."""

    def __init__(self, part: PartOfSpace, phone: PhoneTable) -> None:
        self._part, self._phone = part, phone

    def predict_indices(self, space: Any, rows: np.ndarray) -> np.ndarray:
        """Look up the latency."""
        return self._phone.predict_indices(search_space(SPACE), self._part.in_full(rows))

    predict = PartOfSpace.predict


def seeds(options: argparse.Namespace) -> range:
    """Return the seeds to repeat with, from --seed on."""
    return range(options.seed, options.seed + (2 if options.quick else 10))


PARTS = {
    "published": published,
    "command": command,
    "fronts": fronts,
    "seeds": seed_spread,
    "methods": methods,
    "few_methods": few_methods,
    "enumerated": enumerated,
}


def main() -> None:
    """Run the comparisons asked for."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--data", type=Path, help="folder that holds ofa/")
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments.add_argument("--limits", nargs="+", type=float, metavar="MS", help="only these")
    arguments.add_argument("--model", default="", help="part of a latency model's name: only it")
    arguments.add_argument(
        "--host-predictor", type=Path, help="from fit-latency --space w1.2; else the estimate"
    )
    options = arguments.parse_args()
    folder = data_folder(options.data)
    document: dict[str, Any] = {"benchmark": "search"}
    for part in options.parts:
        document[part] = PARTS[part](options, folder)
    # Parts and limits may be run one by one into one file.
    if options.output and options.output.is_file():
        document = merged(json.loads(options.output.read_text(encoding="utf-8")), document)
    finish(document, options)


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return what either has; where both do, what is new."""
    both = {
        key: merged(old[key], value) if isinstance(value, dict) else value
        for key, value in new.items()
        if isinstance(old.get(key), dict)
    }
    return {**old, **new, **both}


if __name__ == "__main__":
    main()
