"""What one kernel for a depthwise convolution and the pointwise one behind it brings on a GPU.

A subnet's kernels are tuned on the device, those for two convolutions among them. It is compiled as
tuning advises, with every pair apart, and with every pair that can be one kernel; the device's own
clock times the three in turns, each opened anew, since what was opened first may be faster. Needs a
GPU, or Mesa's software device, which says nothing of GPUs.

    python benchmarks/bench_separable.py --target vulkan [--space NAME ...] [--batch N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.verify import noise_inputs, tolerance_of, verify
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.workload import Separable
from ofa_compile.export.onnx_export import export_onnx
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.options import TuneOptions
from ofa_compile.space import Architecture, search_space
from ofa_compile.supernet import load_supernet
from ofa_compile.tuning.choose import database_path
from ofa_compile.tuning.database import TuningDatabase, TuningResults, preferred
from ofa_compile.workflows.tuning import tune_target

PREFIX = "ofa_bench_"
RUNS = 5


def architecture_of(name: str, options: argparse.Namespace) -> Architecture:
    """Return a random subnet in the middle of a space's resolutions, or its smallest."""
    space = search_space(name)
    if options.quick:
        return space.smallest(min(space.resolutions))
    middle = sorted(space.resolutions)[len(space.resolutions) // 2]
    return space.sample(np.random.default_rng(options.seed), resolution=middle)


def tune(architecture: Architecture, target: TargetSpec, folder: Path, options: Any) -> Any:
    """Tune what the subnet needs; return the results."""
    path = folder / "architecture.json"
    path.write_text(architecture.to_json(), encoding="utf-8")
    asked = TuneOptions(
        target=options.target,
        precision=options.precision,
        architecture=path,
        batch=options.batch,
        max_trials=10 if options.quick else options.max_trials,
        workspace=folder,
    )
    tune_target(asked)
    return TuningResults(list(TuningDatabase(database_path(folder, target))))


def choices(results: TuningResults) -> dict[str, dict[str, Any]]:
    """Return what the three networks are compiled with."""
    chosen = {r.workload.key: r for found in results if (r := preferred(found)) is not None}
    pairs = {key for key, record in chosen.items() if isinstance(record.workload, Separable)}
    every = {key: record.config for key, record in chosen.items()}
    apart = {key: config for key, config in every.items() if key not in pairs}
    return {"tuned": results.configs(), "apart": apart, "joined": every}


def measure(name: str, target: TargetSpec, folder: Path, options: Any) -> dict[str, Any]:
    """Tune, compile and time one subnet."""
    import torch

    architecture = architecture_of(name, options)
    subnet = load_supernet(None, space=name).extract(architecture)
    size, onnx = architecture.resolution, folder / "subnet.onnx"
    export_onnx(subnet, onnx, resolution=size, batch=options.batch, check=False)
    x = noise_inputs((options.batch, 3, size, size), options.batch, seed=0)
    with torch.inference_mode():
        expected = subnet(torch.from_numpy(x)).numpy()
    results = tune(architecture, target, folder, options)
    libraries, pairs = {}, {}
    for kind, tuned in choices(results).items():
        built = compile_onnx(onnx, target, folder / kind, symbol_prefix=PREFIX, tuned=tuned)
        pairs[kind] = sum(s["workload"]["kind"] == Separable.kind for s in built.steps)
        libraries[kind] = built.library
        with NativeLibrary(built.library, PREFIX) as library:
            verify(library.run, x, expected, tolerance_of(target.precision))
    rounds: dict[str, list[float]] = {kind: [] for kind in libraries}
    for number in range(2 if options.quick else options.rounds):
        order = list(libraries.items())
        for kind, path in order[:: -1 if number % 2 else 1]:
            with NativeLibrary(path, PREFIX) as library:
                times = library.time_device(x, repeats=RUNS, warmup=2)
            rounds[kind].append(float(np.median(times)))
    return {
        "architecture": architecture.to_dict(),
        "pairs": pairs,
        "ms": {kind: float(np.median(turns)) for kind, turns in rounds.items()},
        "ratio": {kind: ratio(rounds["apart"], rounds[kind]) for kind in ("tuned", "joined")},
        "rounds_ms": rounds,
    }


def ratio(apart: list[float], other: list[float]) -> list[float]:
    """Return by how much a network is faster than with all pairs apart: 16, 50, 84 %."""
    found = np.percentile(np.array(apart) / np.array(other), (16, 50, 84))
    return [float(value) for value in found]


def main() -> None:
    """Measure, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--target", default="vulkan")
    arguments.add_argument("--precision", default="fp32")
    arguments.add_argument("--batch", type=int, default=1)
    arguments.add_argument("--space", nargs="+", default=["ofa_mbv3_cifar"])
    arguments.add_argument("--max-trials", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=20)
    options = arguments.parse_args()
    target = target_in(load_target(options.target), options.precision)
    found = {}
    for name in options.space:
        with tempfile.TemporaryDirectory(prefix="ofa-compile-bench-") as folder:
            found[name] = measure(name, target, Path(folder), options)
    rows = [
        (
            name,
            f"{f['pairs']['tuned']} of {f['pairs']['joined']}",
            *(f"{f['ms'][kind]:.3f}" for kind in ("apart", "tuned", "joined")),
            *("{1:.2f}x ({0:.2f}-{2:.2f})".format(*f["ratio"][k]) for k in ("tuned", "joined")),
        )
        for name, f in found.items()
    ]
    header = ("space", "pairs joined", "apart, ms", "as tuned", "all joined", "gain, as tuned")
    say(options, table((*header, "all joined"), rows))
    what = {k: getattr(options, k) for k in ("target", "precision", "batch", "max_trials")}
    finish({"benchmark": "separable", **what, "spaces": found}, options)


if __name__ == "__main__":
    main()
