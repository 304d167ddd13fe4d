"""Compiled subnets next to other runtimes: batch 1, one thread, float32, interleaved rounds.

Two subnets of ofa_mbv3_d234_e346_k357_w1.0 at 224 pixels: `small` (every choice the smallest,
121 M MACs) and `mid` (mixed kernel sizes and expand ratios, 247 M MACs), with random weights.
Outputs are compared before anything is timed. Each round gives every runtime one turn, so a busy
moment hits all of them; what counts is the median of the rounds' ratios.

    python benchmarks/bench_runtimes.py [--quick] [--json]
    python benchmarks/bench_runtimes.py --build FOLDER       # here: export and compile only
    python benchmarks/bench_runtimes.py --prebuilt FOLDER    # elsewhere: with peers installed
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table
from numpy.typing import NDArray
from runtimes import PEERS, Ours, Runtime

SPACE = "ofa_mbv3_d234_e346_k357_w1.0"
RESOLUTION = 224
# Ours must meet the product's own tolerance; peers may use other algorithms and are only shown.
TOLERANCE = 1e-4
TURN_MS = 60.0


def architectures() -> dict[str, Any]:
    """Return the two subnets by name."""
    from ofa_compile.space.architecture import Architecture
    from ofa_compile.space.registry import search_space

    space = search_space(SPACE)
    mid = Architecture(
        space=SPACE,
        resolution=RESOLUTION,
        depths=(2, 3, 3, 3, 3),
        kernel_sizes=((3, 5), *[(3, 5, 7)] * 4),
        expand_ratios=((3, 4), *[(3, 4, 6)] * 4),
    )
    return {"small": space.smallest(RESOLUTION), "mid": mid}


def build(folder: Path) -> None:
    """Export and compile every subnet, with PyTorch's logits beside it."""
    import torch

    from ofa_compile.compiler.build import compile_onnx
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.hardware.target_spec import load_target
    from ofa_compile.space.registry import search_space
    from ofa_compile.supernet.checkpoint import load_supernet

    target = load_target("host")
    torch.manual_seed(0)
    supernet = load_supernet(None, space=search_space(SPACE))
    x = np.random.default_rng(0).standard_normal((1, 3, RESOLUTION, RESOLUTION), dtype=np.float32)
    for name, architecture in architectures().items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        subnet = supernet.extract(architecture)
        export_onnx(subnet, place / "subnet.onnx", resolution=RESOLUTION)
        compile_onnx(place / "subnet.onnx", target, place, symbol_prefix="ofa_bench_")
        with torch.inference_mode():
            logits = subnet(torch.from_numpy(x)).numpy()
        np.savez(place / "reference.npz", x=x, logits=logits)


def compare(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Check and time one subnet in every runtime."""
    from ofa_compile.space import cost

    with np.load(folder / "reference.npz") as reference:
        x, expected = reference["x"], reference["logits"]
    runtimes: list[Runtime] = [Ours(folder, x)]
    runtimes += [peer(folder, x) for peer in PEERS if peer.is_available()]
    scale = float(np.abs(expected).max())
    errors = {
        item.name: float(np.abs(item.logits().reshape(expected.shape) - expected).max()) / scale
        for item in runtimes
    }
    if errors[Ours.name] > TOLERANCE:
        message = (
            f"{name}: ours differs from PyTorch by {errors[Ours.name]:.1e} of the largest logit"
        )
        raise SystemExit(message)
    times = interleave(runtimes, 5 if options.quick else options.rounds)
    ours = times[Ours.name]
    result = {}
    for item in runtimes:
        ratios = times[item.name] / ours
        low, high = np.quantile(ratios, [0.16, 0.84])
        result[item.name] = {
            "error": errors[item.name],
            "best_ms": float(times[item.name].min()),
            "median_ms": float(np.median(times[item.name])),
            "speedup_median": float(np.median(ratios)),
            "speedup_16_percent": float(low),
            "speedup_84_percent": float(high),
            "rounds_ms": times[item.name].round(5).tolist(),
        }
    macs = cost.macs(architectures()[name])
    return {"macs": macs, "runtimes": result}


def interleave(runtimes: list[Runtime], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Give every runtime one turn per round; return the median of each turn, of shape (rounds,)."""
    repeats = {}
    for item in runtimes:
        item.time(5)
        repeats[item.name] = max(3, int(TURN_MS / np.median(item.time(5))))
    times: dict[str, list[float]] = {item.name: [] for item in runtimes}
    for number in range(rounds):
        # Every second round runs backwards: nobody always follows the same neighbour.
        for item in runtimes if number % 2 == 0 else reversed(runtimes):
            item.time(1)
            times[item.name].append(float(np.median(item.time(repeats[item.name]))))
    return {name: np.array(values) for name, values in times.items()}


def report(name: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print one subnet's table."""
    say(options, f"\n## {name}: {figures['macs'] / 1e6:.0f} M MACs, {RESOLUTION} px\n")
    rows = [
        (
            runtime, f"{r['best_ms']:.3f}", f"{r['median_ms']:.3f}", f"{r['speedup_median']:.2f}x",
            f"{r['speedup_16_percent']:.2f} - {r['speedup_84_percent']:.2f}", f"{r['error']:.1e}",
        )
        for runtime, r in figures["runtimes"].items()
    ]  # fmt: skip
    header = ("runtime", "best ms", "median ms", "ours is faster by", "16 - 84 %", "error")
    say(options, table(header, rows))


def main() -> None:
    """Build, compare, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--build", type=Path, metavar="FOLDER", help="export and compile only")
    arguments.add_argument("--prebuilt", type=Path, metavar="FOLDER", help="use such a folder")
    arguments.add_argument("--rounds", type=int, default=40)
    options = arguments.parse_args()
    if options.build:
        build(options.build)
        say(options, f"built in {options.build}")
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="ofa-compile-bench-") as scratch:
        folder = options.prebuilt or Path(scratch)
        if not options.prebuilt:
            build(folder)
        results = {}
        for name in architectures():
            results[name] = compare(name, folder / name, options)
            report(name, results[name], options)
    finish({"benchmark": "runtimes", "threads": 1, "batch": 1, "subnets": results}, options)


if __name__ == "__main__":
    main()
