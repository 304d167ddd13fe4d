"""Where the time of one compiled subnet goes: per kernel call, per kind, and against the peak.

Every round measures the core's multiply-add peak and then times each kernel call of several runs
inside the library, so both see the same clock and the same neighbours. A call's share of peak is
the median over rounds of its rate over that round's peak; multiply-adds count as is customary,
padding included, so depthwise kernels that skip the padding can pass 1. "Lost" is the time beyond
what the call's multiply-adds take at the peak.

    python benchmarks/bench_layers.py [--subnet small|mid] [--architecture FILE] [--target NAME]
    python benchmarks/bench_layers.py --plot layers.svg      # needs requirements-plots.txt
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table
from fma_peak import FmaPeak
from numpy.typing import NDArray
from subnets import fixed

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.compiler.build import CompiledNetwork, compile_onnx
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.space import Architecture

PREFIX = "ofa_bench_"
RUNS_PER_ROUND = 8
LISTED = 12


def group_of(workload: dict[str, Any]) -> str:
    """Name the kind of layer that a kernel call belongs to."""
    kind = str(workload["kind"])
    if kind == "pointwise":
        if workload["rows"] == 1:
            return "dense, one row"
        widens = workload["out_channels"] > workload["in_channels"]
        return "pointwise, widening" if widens else "pointwise, narrowing"
    if kind == "depthwise":
        return f"depthwise, stride {workload['stride'][0]}"
    return kind.replace("_", " ")


def describe(workload: dict[str, Any]) -> str:
    """Return a workload's sizes in a few characters."""
    hidden = {"kind", "batch", "padding", "activation", "input_layout", "tir"}
    parts = []
    for name, value in workload.items():
        if name in hidden or value is False:
            continue
        if isinstance(value, bool):
            parts.append(name.removeprefix("has_"))
        elif isinstance(value, list):
            parts.append("x".join(map(str, value)))
        else:
            parts.append(str(value))
    return " ".join(parts)


def build(architecture: Architecture, target_name: str, folder: Path) -> CompiledNetwork:
    """Export a subnet with random weights and compile it."""
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.supernet.checkpoint import load_supernet

    subnet = load_supernet(None, space=architecture.space).extract(architecture)
    export_onnx(subnet, folder / "subnet.onnx", resolution=architecture.resolution)
    target = load_target(target_name)
    return compile_onnx(folder / "subnet.onnx", target, folder, symbol_prefix=PREFIX)


def measure(
    network: CompiledNetwork, peak: FmaPeak, options: argparse.Namespace
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return per round: milliseconds of each step (rounds, steps), and the peak in GFLOP/s."""
    rng = np.random.default_rng(options.seed)
    x = rng.standard_normal(network.input_shape, dtype=np.float32)
    times, peaks = [], []
    with NativeLibrary(network.library, PREFIX) as library:
        library.time_steps(x, repeats=1, warmup=10, threads=options.threads)
        for _ in range(options.rounds):
            peaks.append(peak.gflops())
            steps = library.time_steps(x, repeats=RUNS_PER_ROUND, warmup=1, threads=options.threads)
            times.append(np.median(steps, axis=0))
    return np.array(times), np.array(peaks) * options.threads


def figures(macs: float, ms: NDArray[np.float64], peak: NDArray[np.float64]) -> dict[str, float]:
    """Return time, rate, share of peak and time lost against it, medians over the rounds."""
    ideal = 2 * macs / peak / 1e6
    return {
        "microseconds": round(float(np.median(ms)) * 1e3, 2),
        "gflops": round(float(np.median(2 * macs / ms / 1e6)), 1),
        "share_of_peak": round(float(np.median(ideal / ms)), 3),
        "lost_microseconds": round(float(np.median(ms - ideal)) * 1e3, 2),
    }


def analyse(
    network: CompiledNetwork, times: NDArray[np.float64], peaks: NDArray[np.float64]
) -> dict[str, Any]:
    """Sum up per step, per kind and for the whole network."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    steps = []
    for number, step in enumerate(network.steps):
        members[group_of(step["workload"])].append(number)
        found = figures(step["macs"], times[:, number], peaks)
        steps.append({name: step[name] for name in ("workload", "config", "macs")} | found)
    kinds = {}
    for name, numbers in members.items():
        macs = sum(network.steps[number]["macs"] for number in numbers)
        found = figures(macs, times[:, numbers].sum(axis=1), peaks)
        kinds[name] = {"calls": len(numbers), "macs": macs, **found}
    macs = sum(step["macs"] for step in network.steps)
    total = {"macs": macs, **figures(macs, times.sum(axis=1), peaks)}
    total["peak_gflops"] = round(float(np.median(peaks)), 1)
    return {"steps": steps, "kinds": kinds, "total": total}


def report(name: str, result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print both tables."""
    total = result["total"]
    peak = f"peak {total['peak_gflops']:.0f} GFLOP/s"
    say(options, f"\n## {name}: {total['macs'] / 1e6:.0f} M MACs, {options.threads} thread(s)")
    say(options, f"\n{total['microseconds'] / 1e3:.3f} ms, {total['gflops']:.1f} GFLOP/s, {peak}, "
        f"share {total['share_of_peak']:.3f}\n")  # fmt: skip
    header = ("kind", "calls", "M MACs", "us", "of all", "GFLOP/s", "of peak", "lost us")
    kinds = sorted(result["kinds"].items(), key=lambda item: -item[1]["lost_microseconds"])
    rows = [(kind, str(f["calls"]), *_row(f, total)) for kind, f in kinds]
    say(options, table(header, [*rows, ("all", str(len(result["steps"])), *_row(total, total))]))
    ranked = sorted(result["steps"], key=lambda step: -step["lost_microseconds"])
    rows = [
        (f"{step['workload']['kind']} {describe(step['workload'])}", *_row(step, total))
        for step in (ranked if options.every else ranked[:LISTED])
    ]
    say(options, "\n" + table(("kernel call", *header[2:]), rows))


def _row(found: dict[str, Any], total: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{found['macs'] / 1e6:.1f}",
        f"{found['microseconds']:.0f}",
        f"{found['microseconds'] / total['microseconds']:.1%}",
        f"{found['gflops']:.0f}",
        f"{found['share_of_peak']:.2f}",
        f"{found['lost_microseconds']:.0f}",
    )


def plot(name: str, result: dict[str, Any], path: Path) -> None:
    """Draw each call as a bar: its time at the peak, and what it takes beyond."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "--plot needs matplotlib: pip install -r benchmarks/requirements-plots.txt"
        raise SystemExit(message) from error
    steps = result["steps"]
    spent = np.array([step["microseconds"] for step in steps])
    lost = np.clip([step["lost_microseconds"] for step in steps], 0, spent)
    places = np.arange(len(steps))
    figure = Figure(figsize=(9, 0.17 * len(steps) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, spent - lost, label="multiply-adds at the peak", color="#4878a8")
    axes.barh(places, lost, left=spent - lost, label="beyond", color="#d98a3d")
    labels = [f"{step['workload']['kind']} {describe(step['workload'])}" for step in steps]
    axes.set_yticks(places, labels, fontsize=6)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("microseconds")
    share = result["total"]["share_of_peak"]
    axes.set_title(f"{name}: {spent.sum() / 1e3:.2f} ms, {share:.0%} of the peak", fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path)


def architectures(options: argparse.Namespace) -> Iterable[tuple[str, Architecture]]:
    """Return what to look into, by name."""
    if options.architecture:
        text = options.architecture.read_text(encoding="utf-8")
        return [(options.architecture.stem, Architecture.from_json(text))]
    return [(options.subnet, fixed()[options.subnet])]


def main() -> None:
    """Build, measure, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--subnet", choices=("small", "mid"), default="mid")
    arguments.add_argument("--architecture", type=Path, metavar="FILE", help="instead of --subnet")
    arguments.add_argument("--target", default="host")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--every", action="store_true", help="list every kernel call")
    arguments.add_argument("--plot", type=Path, metavar="FILE", help="draw the calls (SVG or PNG)")
    options = arguments.parse_args()
    if options.quick:
        options.subnet, options.rounds = "small", 3
    if hasattr(os, "sched_setaffinity") and options.threads == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    peak = FmaPeak.of_target(load_target(options.target))
    for name, architecture in architectures(options):
        with tempfile.TemporaryDirectory(prefix="ofa-compile-layers-") as folder:
            network = build(architecture, options.target, Path(folder))
            result = analyse(network, *measure(network, peak, options))
        report(name, result, options)
        if options.plot:
            plot(name, result, options.plot)
        document = {"benchmark": "layers", "subnet": name, "target": options.target,
                    "threads": options.threads, "batch": 1, **result}  # fmt: skip
        finish(document, options)


if __name__ == "__main__":
    main()
