"""Latency predictor on published measurements: HELP's GPU data sets and the authors' phone table.

HELP (MIT licence): 5,000 OFA MobileNetV3 subnets, three batch sizes on two GPUs, one measurement
each. There are no repeats in it, so the noise floor is not known; the error of a model fitted on
4,000 subnets stands in for it, with the caveat that no model can pass the noise of its test data.
The phone table is additive per block and has five resolutions; it tells whether the predictor can
learn a table from whole-network sums.

    python benchmarks/bench_latency_predictor.py --data FOLDER [--quick] [--json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from authors import SPACE as PHONE_SPACE
from authors import PhoneTable
from common import data_folder, finish, parser, say, table
from latency_models import (
    HEADER,
    Array,
    Model,
    Task,
    base_only,
    figures,
    freest_ridge,
    mean_figures,
    ours,
    row,
    scaled_prior,
    xgboost_features,
    xgboost_one_hot,
)
from numpy.typing import NDArray

from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace

HELP_SPACE = "ofa_mbv3_d234_e346_k357_w1.0"
MODELS: dict[str, Model] = {
    "ridge + XGBoost residual (ours)": ours,
    "ridge alone": base_only,
    "XGBoost, analytic features": xgboost_features,
    "XGBoost, one-hot": xgboost_one_hot,
}
# From one data set to another: other device, or other batch.
NEIGHBOURS = (
    ("titan_xp_64", "2080ti_64"), ("2080ti_64", "titan_xp_64"), ("titan_xp_32", "2080ti_32"),
    ("titan_xp_1", "2080ti_1"), ("2080ti_32", "2080ti_64"), ("2080ti_1", "2080ti_32"),
)  # fmt: skip
NUM_PRIOR = 300


def load_help(path: Path) -> tuple[SearchSpace, list[Architecture], dict[str, Array]]:
    """Return the space, the architectures, and the latencies by data set."""
    space = search_space(HELP_SPACE)
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    architectures = []
    for number in range(len(arrays["resolution"])):
        depths = arrays["depth"][number].tolist()
        architectures.append(
            Architecture(
                space=HELP_SPACE,
                resolution=int(arrays["resolution"][number]),
                depths=depths,
                kernel_sizes=_stages(arrays["kernel_size"][number], depths),
                expand_ratios=_stages(arrays["expand_ratio"][number], depths),
            )
        )
    latencies = {
        name.removeprefix("latency_ms_"): values.astype(np.float64)
        for name, values in arrays.items()
        if name.startswith("latency_ms_")
    }
    return space, architectures, latencies


def _stages(row: NDArray[np.int8], depths: list[int]) -> tuple[tuple[int, ...], ...]:
    """Cut a row of five times four slots down to the active blocks."""
    return tuple(tuple(row[4 * s : 4 * s + d].tolist()) for s, d in enumerate(depths))


def evaluate(
    task: Task,
    architectures: list[Architecture],
    ms: Array,
    model: Model,
    num_train: int,
    repeats: int,
    seed: int,
) -> dict[str, float]:
    """Return the mean figures over some draws of the training set, tested on 1,000 others."""
    results = []
    for repeat in range(repeats):
        order = np.random.default_rng(seed + repeat).permutation(len(architectures))
        train, test = order[:num_train], order[-1000:]
        predicted = model(
            task,
            [architectures[i] for i in train],
            ms[train],
            [architectures[i] for i in test],
            seed + repeat,
        )
        results.append(figures(ms[test], predicted))
    return mean_figures(results)


def main() -> None:
    """Run the comparison and the learning curve."""
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--data", type=Path, help="folder that holds help/ and ofa/")
    args = options.parse_args()
    folder = data_folder(args.data)
    repeats = 1 if args.quick else 3
    sizes = [100] if args.quick else [10, 20, 50, 100, 200, 500]
    document: dict[str, object] = {"benchmark": "latency_predictor", "help": {}, "phone": {}}

    space, architectures, latencies = load_help(folder / "help" / "ofa_mbv3_gpu_latency.npz")
    if args.quick:
        latencies = {name: latencies[name] for name in ("titan_xp_64",)}
    document["help"] = _section(
        args,
        "HELP",
        Task(space),
        architectures,
        latencies,
        sizes,
        repeats,
        with_floor=not args.quick,
    )
    document["adapting"] = _adapting(args, Task(space), architectures, latencies, repeats)

    space = search_space(PHONE_SPACE)
    phone = PhoneTable(folder / "ofa")
    rng = np.random.default_rng(args.seed)
    count = 1200 if args.quick else 2000
    drawn = [space.sample(rng, resolution=int(rng.choice(phone.resolutions))) for _ in range(count)]
    document["phone"] = _section(
        args, "Phone table", Task(space), drawn, {"note10": phone.predict(drawn)}, sizes, repeats
    )
    finish(document, args)


def _section(
    args: argparse.Namespace,
    title: str,
    task: Task,
    architectures: list[Architecture],
    latencies: dict[str, Array],
    sizes: list[int],
    repeats: int,
    with_floor: bool = False,
) -> dict[str, object]:
    """Run all models on some data sets at one size, and ours at all sizes."""
    results: dict[str, object] = {}
    first = next(iter(MODELS))
    for name, ms in latencies.items():
        say(args, f"\n## {title}: {name}\n")

        def run(model: Model, size: int, draws: int, ms: Array = ms) -> dict[str, float]:
            return evaluate(task, architectures, ms, model, size, draws, args.seed)

        runs = {(model, 100): run(function, 100, repeats) for model, function in MODELS.items()}
        runs |= {(first, size): run(ours, size, repeats) for size in sizes if size != 100}
        if with_floor:
            runs["ridge alone, 4,000 subnets", 4000] = run(freest_ridge, 4000, 1)
        say(args, table(HEADER, [row(*key, found) for key, found in runs.items()]))
        results[name] = [
            {"model": model, "num_train": size, **found} for (model, size), found in runs.items()
        ]
    return results


def _adapting(
    args: argparse.Namespace,
    task: Task,
    architectures: list[Architecture],
    latencies: dict[str, Array],
    repeats: int,
) -> list[dict[str, object]]:
    """Predict one device from another's predictor and few subnets, and from those alone."""
    results: list[dict[str, object]] = []
    for source, target in NEIGHBOURS:
        if source not in latencies or target not in latencies:
            continue
        for size in (10, 20):
            found: dict[str, list[dict[str, float]]] = {}
            for seed in range(args.seed, args.seed + repeats):
                order = np.random.default_rng(seed).permutation(len(architectures))
                old, new, test = order[:NUM_PRIOR], order[NUM_PRIOR:][:size], order[-1000:]
                prior = LatencyPredictor(task.space)
                prior.fit([architectures[i] for i in old], latencies[source][old])
                subnets = [architectures[i] for i in new], latencies[target][new]
                unseen = [architectures[i] for i in test]
                for name, model, start in (
                    ("adapted", ours, Task(task.space, prior=prior)),
                    ("scaled", scaled_prior, Task(task.space, prior=prior)),
                    ("afresh", ours, task),
                ):
                    predicted = model(start, *subnets, unseen, seed)
                    found.setdefault(name, []).append(figures(latencies[target][test], predicted))
            results += [
                {"from": source, "to": target, "num_train": size, "how": name, **mean_figures(many)}
                for name, many in found.items()
            ]
    say(args, f"\n## HELP: another device or batch, starting from {NUM_PRIOR} subnets of one\n")
    rows = [(f"{r['from']} -> {r['to']}, {r['how']}", r["num_train"], r) for r in results]
    say(args, table(HEADER, [row(*entry) for entry in rows]))  # type: ignore[arg-type]
    return results


if __name__ == "__main__":
    main()
