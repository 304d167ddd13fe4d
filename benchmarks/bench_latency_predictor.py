"""Latency predictor on published measurements: HELP's GPU data sets and the authors' phone table.

HELP (MIT licence): 5,000 OFA MobileNetV3 subnets, three batch sizes on two GPUs, one measurement
each. There are no repeats in it, so the noise floor is not known; the error of a model fitted on
4,000 subnets stands in for it, with the caveat that no model can pass the noise of its test data.
The phone table is additive per block and has five resolutions; it tells whether the predictor can
learn a table from whole-network sums.

    python benchmarks/bench_latency_predictor.py --data FOLDER [--quick] [--json]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from authors import SPACE as PHONE_SPACE
from authors import PhoneTable
from common import data_folder, finish, parser, say, table
from numpy.typing import NDArray

from ofa_compile.predictors import metrics
from ofa_compile.predictors.features import LatencyFeatures
from ofa_compile.predictors.latency import LatencyPredictor, LatencyPredictorConfig
from ofa_compile.predictors.latency_base import VARIANTS, LatencyBase
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace

HELP_SPACE = "ofa_mbv3_d234_e346_k357_w1.0"
Array = NDArray[np.float64]
Model = Callable[[SearchSpace, list[Architecture], Array, list[Architecture], int], Array]


def ours(
    space: SearchSpace, train: list[Architecture], ms: Array, test: list[Architecture], seed: int
) -> Array:
    """Robust ridge on analytic features, XGBoost residual as far as cross-validation wants it."""
    predictor = LatencyPredictor(space, config=LatencyPredictorConfig(seed=seed))
    predictor.fit(train, ms)
    return predictor.predict_indices(space, space.indices(test))


def base_only(
    space: SearchSpace, train: list[Architecture], ms: Array, test: list[Architecture], seed: int
) -> Array:
    """Leave the residual out: the robust ridge alone."""
    config = LatencyPredictorConfig(seed=seed, use_residual=False)
    predictor = LatencyPredictor(space, config=config)
    predictor.fit(train, ms)
    return predictor.predict_indices(space, space.indices(test))


def xgboost_features(
    space: SearchSpace, train: list[Architecture], ms: Array, test: list[Architecture], seed: int
) -> Array:
    """XGBoost alone on the same analytic features."""
    features = LatencyFeatures(space)

    def columns(architectures: list[Architecture]) -> Array:
        batch = features.batch(space.indices(architectures))
        return np.concatenate([batch.summary, batch.per_slot], axis=1)

    return _xgboost(columns(train), ms, columns(test), seed)


def xgboost_one_hot(
    space: SearchSpace, train: list[Architecture], ms: Array, test: list[Architecture], seed: int
) -> Array:
    """XGBoost alone on the one-hot architecture encoding."""
    return _xgboost(space.encode(train), ms, space.encode(test), seed)


def floor(
    space: SearchSpace, train: list[Architecture], ms: Array, test: list[Architecture], seed: int
) -> Array:
    """Fit the ridge's freest variant, for thousands of samples; no other one is tried."""
    del seed
    features = LatencyFeatures(space)
    base, _ = LatencyBase.fit(features.batch(space.indices(train)), ms, VARIANTS[-1])
    return base.predict(features.batch(space.indices(test)))


MODELS: dict[str, Model] = {
    "ridge + XGBoost residual (ours)": ours,
    "ridge alone": base_only,
    "XGBoost, analytic features": xgboost_features,
    "XGBoost, one-hot": xgboost_one_hot,
}


def _xgboost(train: NDArray, ms: Array, test: NDArray, seed: int) -> Array:
    """Fit and predict with settings that suit a few hundred samples."""
    import xgboost

    settings = {
        "max_depth": 4, "eta": 0.05, "subsample": 0.8, "colsample_bytree": 0.5, "nthread": 1,
        "seed": seed,
    }  # fmt: skip
    booster = xgboost.train(settings, xgboost.DMatrix(train, ms), num_boost_round=300)
    return booster.predict(xgboost.DMatrix(test)).astype(np.float64)


def load_help(path: Path) -> tuple[SearchSpace, list[Architecture], dict[str, Array]]:
    """Return the space, the architectures, and the latencies by data set."""
    space = search_space(HELP_SPACE)
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    architectures = []
    for row in range(len(arrays["resolution"])):
        depths = arrays["depth"][row].tolist()
        architectures.append(
            Architecture(
                space=HELP_SPACE,
                resolution=int(arrays["resolution"][row]),
                depths=depths,
                kernel_sizes=_stages(arrays["kernel_size"][row], depths),
                expand_ratios=_stages(arrays["expand_ratio"][row], depths),
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
    space: SearchSpace,
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
            space,
            [architectures[i] for i in train],
            ms[train],
            [architectures[i] for i in test],
            seed + repeat,
        )
        errors = np.abs(metrics.relative_errors(ms[test], predicted))
        results.append(
            {**metrics.summary(ms[test], predicted), "median_error": float(np.median(errors))}
        )
    return {key: float(np.mean([item[key] for item in results])) for key in results[0]}


def main() -> None:
    """Run the comparison and the learning curve."""
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--data", type=Path, help="folder that holds help/ and ofa/")
    args = options.parse_args()
    folder = data_folder(args.data)
    repeats = 1 if args.quick else 3
    sizes = [100] if args.quick else [10, 20, 50, 100, 300]
    document: dict[str, object] = {"benchmark": "latency_predictor", "help": {}, "phone": {}}

    space, architectures, latencies = load_help(folder / "help" / "ofa_mbv3_gpu_latency.npz")
    if args.quick:
        latencies = {name: latencies[name] for name in ("titan_xp_64",)}
    document["help"] = _section(
        args, "HELP", space, architectures, latencies, sizes, repeats, with_floor=not args.quick
    )

    space = search_space(PHONE_SPACE)
    phone = PhoneTable(folder / "ofa")
    rng = np.random.default_rng(args.seed)
    count = 1200 if args.quick else 2000
    drawn = [space.sample(rng, resolution=int(rng.choice(phone.resolutions))) for _ in range(count)]
    document["phone"] = _section(
        args, "Phone table", space, drawn, {"note10": phone.predict(drawn)}, sizes, repeats
    )
    finish(document, args)


def _section(
    args: object,
    title: str,
    space: SearchSpace,
    architectures: list[Architecture],
    latencies: dict[str, Array],
    sizes: list[int],
    repeats: int,
    with_floor: bool = False,
) -> dict[str, object]:
    """Run all models on some data sets at one size, and ours at all sizes."""
    results: dict[str, object] = {}
    for name, ms in latencies.items():
        say(args, f"\n## {title}: {name}\n")
        runs = {
            (model, 100): evaluate(
                space,
                architectures,
                ms,
                function,
                100,
                repeats,
                args.seed,  # type: ignore[attr-defined]
            )
            for model, function in MODELS.items()
        }
        first = next(iter(MODELS))
        for size in sizes:
            if size != 100:
                runs[first, size] = evaluate(
                    space,
                    architectures,
                    ms,
                    ours,
                    size,
                    repeats,
                    args.seed,  # type: ignore[attr-defined]
                )
        if with_floor:
            most = "ridge alone, 4,000 subnets"
            runs[most, 4000] = evaluate(
                space,
                architectures,
                ms,
                base_only,
                4000,
                1,
                args.seed,  # type: ignore[attr-defined]
            )
        rows = [
            (
                model, size, f"{100 * r['mape']:.2f} %", f"{100 * r['median_error']:.2f} %",
                f"{100 * r['within_5_percent']:.1f} %", f"{100 * r['within_10_percent']:.1f} %",
                f"{r['spearman']:.4f}", f"{r['kendall_tau']:.4f}",
            )
            for (model, size), r in runs.items()
        ]  # fmt: skip
        header = ("model", "training subnets", "MAPE", "median error", "within 5 %", "within 10 %")
        say(args, table((*header, "Spearman", "Kendall"), rows))
        results[name] = [
            {"model": model, "num_train": size, **figures}
            for (model, size), figures in runs.items()
        ]
    return results


if __name__ == "__main__":
    main()
