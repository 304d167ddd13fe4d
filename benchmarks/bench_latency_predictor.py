"""Latency predictor on published measurements: HELP's GPU data sets and the authors' phone table.

HELP (MIT licence): 5,000 OFA MobileNetV3 subnets, three batch sizes on two GPUs, one measurement
each. There are no repeats in it, so how much of the error is noise has to be found out otherwise:
`latency_noise.py` says how. The phone table is additive per block and has five resolutions; it
tells whether the predictor can learn a table from whole-network sums.

    python benchmarks/bench_latency_predictor.py --data FOLDER [--parts help noise adapting phone]
        [--quick] [--json]
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
from latency_noise import NoiseModel, signs_of_signal
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
PARTS = ("help", "noise", "adapting", "phone")
# Made-up worlds, and draws of the real one to compare with.
NUM_WORLDS = 6


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
    options.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="all if not given"
    )
    args = options.parse_args()
    folder = data_folder(args.data)
    repeats = 1 if args.quick else 3
    sizes = [100] if args.quick else [10, 20, 50, 100, 200, 500]
    document: dict[str, object] = {"benchmark": "latency_predictor"}

    space, architectures, latencies = load_help(folder / "help" / "ofa_mbv3_gpu_latency.npz")
    task = Task(space)
    if args.quick:
        latencies = {name: latencies[name] for name in ("titan_xp_64",)}
    if "help" in args.parts:
        document["help"] = _section(
            args,
            "HELP",
            task,
            architectures,
            latencies,
            sizes,
            repeats,
            with_floor=not args.quick,
        )
    if "noise" in args.parts:
        worlds = 1 if args.quick else NUM_WORLDS
        document["noise"] = _noise(args, task, architectures, latencies, worlds)
    if "adapting" in args.parts:
        document["adapting"] = _adapting(args, task, architectures, latencies, repeats)
    if "phone" in args.parts:
        document["phone"] = _phone(args, folder, sizes, repeats)
    finish(document, args)


def _phone(
    args: argparse.Namespace, folder: Path, sizes: list[int], repeats: int
) -> dict[str, object]:
    """Learn the authors' phone table from sums over whole networks."""
    space = search_space(PHONE_SPACE)
    phone = PhoneTable(folder / "ofa")
    rng = np.random.default_rng(args.seed)
    count = 1200 if args.quick else 2000
    drawn = [space.sample(rng, resolution=int(rng.choice(phone.resolutions))) for _ in range(count)]
    latencies = {"note10": phone.predict(drawn)}
    return _section(args, "Phone table", Task(space), drawn, latencies, sizes, repeats)


def _noise(
    args: argparse.Namespace,
    task: Task,
    architectures: list[Architecture],
    latencies: dict[str, Array],
    worlds: int,
) -> dict[str, object]:
    """Compare what ours reaches with what the noise of the measurements allows."""
    models = {
        name: NoiseModel.fit(task, architectures, ms, args.seed) for name, ms in latencies.items()
    }
    results: dict[str, object] = {}
    rows = []
    for name, ms in latencies.items():
        noise = models[name]
        shares: dict[str, list[float]] = {"made_up": [], "measured": []}
        for seed in range(args.seed, args.seed + worlds):
            made_up = noise.made_up_ms(np.random.default_rng(seed))
            for kind, values in (("made_up", made_up), ("measured", ms)):
                found = evaluate(task, architectures, values, ours, 100, 1, seed)
                shares[kind].append(found["within_10_percent"])
        reached = {
            "truth": noise.share_of_truth(),
            "truth_scaled": noise.share_of_best_scale(),
            **{kind: float(np.mean(values)) for kind, values in shares.items()},
        }
        spread = {f"{kind}_spread": float(np.std(values)) for kind, values in shares.items()}
        signs = signs_of_signal(task, architectures, models, name, args.seed)
        results[name] = {"within_10_percent": {**reached, **spread}, "rank_correlation": signs}
        percents = (f"{100 * share:.1f} %" for share in reached.values())
        ranks = ("-" if value is None else f"{value:.2f}" for value in signs.values())
        rows.append((name, *percents, *ranks))
    say(args, "\n## HELP: share within 10 % from 100 subnets, and what noise allows\n")
    say(args, table(_NOISE_HEADER, rows))
    return results


_NOISE_HEADER = (
    "set", "truth", "truth, scaled", "ours, made-up noise", "ours, measured",
    "residuals and trees", "same subnet elsewhere", "subnet before",
)  # fmt: skip


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
