"""Does tuned latency change the answer? Searching by MACs, by untuned and by tuned latency.

Measures uniformly drawn subnets of the embedded space twice: compiled by us with tuned kernels, and
by stock TVM with its default schedules. Then

* the rank correlation of MACs, untuned and tuned latency;
* the accuracy (predicted top-1) lost at equal tuned latency where a search minimises MACs or the
  untuned latency instead. Latencies of what the searches find are predicted by predictors fitted on
  the measured subnets; their cross-validated errors are stated.

Everything built or measured is kept in the workspace, so the steps may run apart: builds when the
machine is busy, measuring when it is quiet.

    python benchmarks/bench_latency_proxies.py [--quick] [--json] [--workspace FOLDER]
        [--step build|measure|evaluate] [--minutes N]
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from common import finish, parser, say, table
from numpy.typing import NDArray
from stock_tvm import build_stock_tvm

from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
from ofa_compile.measurement.sampling import draw_architectures, reference_architecture
from ofa_compile.options import MeasureOptions, default_workspace
from ofa_compile.predictors import metrics
from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.predictors.cost_tables import CostTables
from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.search.config import EvolutionConfig
from ofa_compile.search.search import search
from ofa_compile.space import Architecture, SearchSpace, search_space
from ofa_compile.workflows.measuring import latency_dataset_path, measure_target

SPACE = "ofa_mbv3_cifar"
UNTUNED = "stock-tvm"
Array = NDArray[np.float64]


class StockBuilder:
    """Builds subnets as TVM does out of the box; libraries stay in a folder."""

    def __init__(self, space: SearchSpace, folder: Path) -> None:
        self._space, self._folder = space, folder
        self._supernet: Any = None

    def path(self, architecture: Architecture) -> Path:
        """Return where a subnet's library is, or will be."""
        return self._folder / f"{architecture.hash}.so"

    def build_ahead(self, architecture: Architecture) -> None:
        """Build, unless that was done."""
        from ofa_compile.export.onnx_export import export_onnx
        from ofa_compile.supernet import load_supernet

        path = self.path(architecture)
        if path.is_file():
            return
        if self._supernet is None:
            self._supernet = load_supernet(None, space=self._space)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            onnx, library = Path(folder) / "subnet.onnx", Path(folder) / "subnet.so"
            subnet = self._supernet.extract(architecture)
            export_onnx(subnet, onnx, resolution=architecture.resolution, check=False)
            build_stock_tvm(onnx, library)
            shutil.move(library, path)

    def __call__(self, architecture: Architecture, folder: Path) -> StockRunner:
        """Return a runner, as `measure_subnets` wants it."""
        self.build_ahead(architecture)
        return StockRunner(self.path(architecture), architecture.resolution)


class StockRunner:
    """A subnet on Relax's virtual machine."""

    def __init__(self, library: Path, size: int) -> None:
        import tvm
        from tvm import relax

        self._machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
        rng = np.random.default_rng(0)
        self._x = tvm.runtime.tensor(rng.standard_normal((1, 3, size, size), dtype=np.float32))

    def time(self, repeats: int) -> Array:
        """Run `repeats` times and return the milliseconds of each run."""
        times = np.empty(repeats)
        for number in range(repeats):
            start = time.perf_counter()
            self._machine["main"](self._x)
            times[number] = 1e3 * (time.perf_counter() - start)
        return times


class Macs:
    """Multiply-accumulates, in the place of a latency predictor."""

    kind: Literal["estimate"] = "estimate"

    def __init__(self, space: SearchSpace) -> None:
        self._tables = CostTables(space)

    def predict_indices(self, space: SearchSpace, indices: NDArray[np.int64]) -> Array:
        """Return millions of MACs."""
        return self._tables.figure("macs", indices) / 1e6


def build(options: argparse.Namespace, wanted: list[Architecture]) -> None:
    """Build all that is to be measured."""
    space, deadline = search_space(SPACE), _deadline(options)
    stock = StockBuilder(space, options.workspace / UNTUNED)
    measure_target(_measure_options(options, build_only=True))
    for number, architecture in enumerate([reference_architecture(space), *wanted]):
        if time.monotonic() > deadline:
            say(options, f"{number} of {len(wanted) + 1} untuned subnets are built")
            return
        stock.build_ahead(architecture)


def measure(options: argparse.Namespace, wanted: list[Architecture]) -> None:
    """Measure what was built; a second run continues."""
    start = time.monotonic()
    measure_target(_measure_options(options))
    left = None if options.minutes is None else 60 * options.minutes - (time.monotonic() - start)
    space = search_space(SPACE)
    stock = StockBuilder(space, options.workspace / UNTUNED)
    built = [architecture for architecture in wanted if stock.path(architecture).is_file()]
    report = measure_subnets(
        space,
        load_target("host"),
        built,
        build=stock,
        dataset=LatencyDataset(options.workspace / f"{UNTUNED}.jsonl"),
        max_seconds=left,
        config=MeasureConfig(timing=options.timing, code=UNTUNED),
    )
    say(options, f"{report.num_total} untuned subnets are measured")


def evaluate(options: argparse.Namespace, wanted: list[Architecture]) -> dict[str, Any]:
    """Correlate, fit, search, compare."""
    space = search_space(SPACE)
    hashes = {architecture.hash: architecture for architecture in wanted}
    columns = {}
    for name, path in (
        ("tuned", latency_dataset_path(options.workspace)),
        ("untuned", options.workspace / f"{UNTUNED}.jsonl"),
    ):
        records = LatencyDataset(path).records()
        columns[name] = {r.architecture.hash: r.median_ms for r in records}
    common = [a for key, a in hashes.items() if all(key in known for known in columns.values())]
    figures = {name: np.array([known[a.hash] for a in common]) for name, known in columns.items()}
    figures["macs"] = Macs(space).predict_indices(space, space.indices(common))
    pairs = [("macs", "tuned"), ("untuned", "tuned"), ("macs", "untuned")]
    correlations = {
        f"{one} and {two}": {
            "spearman": metrics.spearman(figures[one], figures[two]),
            "kendall_tau": metrics.kendall_tau(figures[one], figures[two]),
        }
        for one, two in pairs
    }
    predictors, errors = {}, {}
    for name in ("tuned", "untuned"):
        predictor = LatencyPredictor(space)
        errors[name] = predictor.fit(common, figures[name]).cross_validated
        predictors[name] = predictor
    losses = _losses(space, predictors, options)
    slowdown = figures["untuned"] / figures["tuned"]
    return {
        "space": SPACE,
        "num_subnets": len(common),
        "untuned_over_tuned": np.quantile(slowdown, [0, 0.5, 1]).round(2).tolist(),
        "rank_correlation": correlations,
        "cross_validated": errors,
        "accuracy_lost_points": losses,
    }


def _losses(
    space: SearchSpace, predictors: dict[str, LatencyPredictor], options: argparse.Namespace
) -> dict[str, Any]:
    """Search by each figure; compare the best accuracies within the same tuned latencies."""
    accuracy = AccuracyPredictor.load_embedded(SPACE)
    curves = {}
    for name, figure in {**predictors, "macs": Macs(space)}.items():
        front = search(
            space, accuracy=accuracy, latency=figure, seed=options.seed, config=options.search
        ).front
        indices = space.indices([candidate.architecture for candidate in front])
        tuned_ms = predictors["tuned"].predict_indices(space, indices)
        curves[name] = (tuned_ms, np.array([candidate.accuracy for candidate in front]))
    first, last = (np.quantile(curves["tuned"][0], q) for q in (0.05, 0.95))
    limits = np.geomspace(first, last, 50)
    best = {name: _best_within(*curve, limits) for name, curve in curves.items()}
    found = {}
    for name in ("macs", "untuned"):
        lost = 100 * (best["tuned"] - best[name])
        known = lost[np.isfinite(lost)]
        found[name] = {
            "mean": float(known.mean()),
            "median": float(np.median(known)),
            "max": float(known.max()),
            "limits_without_any": int((~np.isfinite(lost)).sum()),
        }
    return {"latency_ms": [float(first), float(last)], **found}


def _best_within(ms: Array, accuracy: Array, limits: Array) -> Array:
    """Return the best accuracy within each limit; minus infinity where nothing meets it."""
    return np.array([max(accuracy[ms <= limit], default=-math.inf) for limit in limits])


def _measure_options(options: argparse.Namespace, *, build_only: bool = False) -> MeasureOptions:
    return MeasureOptions(
        space=SPACE,
        count=options.count,
        resolution=options.resolution,
        design="uniform",
        workspace=options.workspace,
        seed=options.seed,
        build_only=build_only,
        budget_minutes=None if build_only else options.minutes,
    )


def _deadline(options: argparse.Namespace) -> float:
    return math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the figures."""
    rows = [
        (pair, f"{f['spearman']:.3f}", f"{f['kendall_tau']:.3f}")
        for pair, f in result["rank_correlation"].items()
    ]
    say(options, table((f"{result['num_subnets']} subnets", "Spearman", "Kendall"), rows))
    say(options)
    rows = [
        (name, f"{lost['mean']:.2f}", f"{lost['median']:.2f}", f"{lost['max']:.2f}")
        for name, lost in result["accuracy_lost_points"].items()
        if name != "latency_ms"
    ]
    say(options, table(("searched by", "points lost, mean", "median", "most"), rows))


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path)
    arguments.add_argument("--count", type=int, default=100, help="subnets to measure")
    arguments.add_argument("--step", choices=("build", "measure", "evaluate"), help="only this")
    arguments.add_argument("--minutes", type=float, help="stop a step after this time")
    options = arguments.parse_args()
    options.workspace = options.workspace or default_workspace("host")
    options.resolution, options.search = None, EvolutionConfig()
    options.timing = TimingConfig(max_seconds=2.0)
    if options.quick:
        options.count, options.resolution = 10, 24  # as many as a predictor needs
        options.search = EvolutionConfig(population=256, generations=4, max_evaluations=5000)
        options.timing = TimingConfig(max_seconds=0.3, warmup_ms=10.0)
    space = search_space(SPACE)
    wanted = draw_architectures(
        space, options.count, seed=options.seed, resolution=options.resolution
    )
    if options.step in (None, "build"):
        build(options, wanted)
    if options.step in (None, "measure"):
        measure(options, wanted)
    if options.step in (None, "evaluate"):
        result = evaluate(options, wanted)
        show(result, options)
        finish({"benchmark": "latency_proxies", **result}, options)


if __name__ == "__main__":
    main()
