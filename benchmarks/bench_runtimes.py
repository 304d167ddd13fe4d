"""Compiled subnets next to other runtimes: batch 1, float32, interleaved rounds.

By default two subnets of ofa_mbv3_d234_e346_k357_w1.0 at 224 pixels: `small` (every choice the
smallest, 121 M MACs) and `mid` (mixed kernel sizes and expand ratios, 247 M MACs); with --all also
the authors' 22 published subnets (from --data), 12 random ones, and MobileNetV3-Large as it was
published. Weights are random. Outputs are
compared before anything is timed. Each round gives every runtime one turn, so a busy moment hits
all of them; what counts is the median of the rounds' ratios. The multiply-add peak is measured
between the turns: disturbed turns are taken again, and ours is shown as a share of it.

    python benchmarks/bench_runtimes.py [--quick] [--json] [--threads N] [--all --data FOLDER]
    python benchmarks/bench_runtimes.py --build FOLDER [--tvm] [--tvm-trials N]     # here
    python benchmarks/bench_runtimes.py --prebuilt FOLDER --prepare    # elsewhere, with peers
    python benchmarks/bench_runtimes.py --prebuilt FOLDER [--output FILE --resume --at-most N]

--prepare makes every conversion that peers keep, so that a later run only loads and times. With
--resume, subnets that FILE holds are not run again: the whole can be taken in quiet moments.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import mobilenet_v3_large
import numpy as np
from common import data_folder, finish, parser, say, summary_of, table
from fma_peak import PEAK, FmaPeak, build_peak
from interleaved import interleave
from peers import PEERS
from runtimes import Ours, Runtime, Tensor
from subnets import fixed, published, sampled

from ofa_compile.space import Architecture, macs

# Ours must meet the product's own tolerance; peers may use other algorithms and are only shown.
TOLERANCE = 1e-4
NUM_RANDOM = 12


# None for MobileNetV3-Large, which is no subnet.
Networks = dict[str, Architecture | None]


def networks(options: argparse.Namespace) -> Networks:
    """Return the networks to compare, by name."""
    found: Networks = {**fixed()}
    if options.all:
        found |= published(data_folder(options.data) / "ofa" / "specialized_subnets.json")
        found |= sampled(NUM_RANDOM, options.seed)
        found[mobilenet_v3_large.NAME] = None
    return found


def facts(architecture: Architecture | None) -> tuple[int, int]:
    """Return a network's multiply-accumulates and resolution."""
    if architecture is None:
        return mobilenet_v3_large.num_macs(), mobilenet_v3_large.RESOLUTION
    return macs(architecture), architecture.resolution


def build(folder: Path, subnets: Networks, *, for_torch: bool = False) -> None:
    """Export and compile every network not there yet, with PyTorch's logits beside it.

    `for_torch` also writes the exported program that torch.compile and ExecuTorch start from
    (seconds a subnet).
    """
    from ofa_compile.compiler.build import compile_onnx
    from ofa_compile.hardware.target_spec import load_target
    from ofa_compile.options import default_workspace
    from ofa_compile.tuning.choose import tuned_configs

    target = load_target("host")
    tuned = tuned_configs(target, default_workspace(target.name))
    folder.mkdir(parents=True, exist_ok=True)
    build_peak(target, folder / PEAK)
    for name, architecture in subnets.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "reference.npz").is_file():
            export(network_of(architecture), facts(architecture)[1], place, for_torch=for_torch)
        if not (place / "libsubnet.so").is_file():
            onnx = place / "subnet.onnx"
            compile_onnx(onnx, target, place, symbol_prefix="ofa_bench_", tuned=tuned)


@functools.lru_cache(maxsize=1)  # networks of a space follow each other, more or less
def supernet_of(space: str) -> Any:
    """Return a supernet with random weights."""
    from ofa_compile.supernet.checkpoint import load_supernet

    return load_supernet(None, space=space)


def network_of(architecture: Architecture | None) -> Any:
    """Return a network to export."""
    if architecture is None:
        return mobilenet_v3_large.build()
    return supernet_of(architecture.space).extract(architecture)


def export(subnet: Any, size: int, place: Path, *, for_torch: bool) -> None:
    """Write what the runtimes load, and PyTorch's logits for one input."""
    import torch

    from ofa_compile.export.onnx_export import export_onnx

    export_onnx(subnet, place / "subnet.onnx", resolution=size)
    x = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    with torch.inference_mode():
        logits = subnet(torch.from_numpy(x)).numpy()
    if for_torch:
        program = torch.export.export(subnet, (torch.from_numpy(x),))
        torch.export.save(program, place / "subnet.pt2")
    np.savez(place / "reference.npz", x=x, logits=logits)


def build_tvm(folder: Path, subnets: Networks, options: argparse.Namespace) -> None:
    """Compile every subnet with TVM's defaults and, given trials, tuned by MetaSchedule."""
    from stock_tvm import build_stock_tvm

    wanted: dict[str, Path | None] = {"subnet.tvm.so": None}
    if options.tvm_trials:
        wanted["subnet.tvm-tuned.so"] = folder / "metaschedule"
    for name in subnets:
        for file, database in wanted.items():
            library = folder / name / file
            if not library.is_file():
                source = folder / name / "subnet.onnx"
                build_stock_tvm(
                    source,
                    library,
                    threads=options.threads,
                    database=database,
                    trials=options.tvm_trials,
                )


def load_peers(folder: Path, x: Tensor, options: argparse.Namespace) -> list[Runtime]:
    """Load one subnet into every other runtime, converting what is not converted yet."""
    return [
        peer(folder, x, options.threads)
        for peer in PEERS
        if peer.name not in options.without and peer.is_available(folder)
    ]


def reference(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the input and PyTorch's logits."""
    with np.load(folder / "reference.npz") as stored:
        return stored["x"], stored["logits"]


def compare(
    folder: Path, architecture: Architecture | None, peak: FmaPeak, options: argparse.Namespace
) -> dict[str, Any]:
    """Check and time one network in every runtime."""
    x, expected = reference(folder)
    runtimes = [Ours(folder, x, options.threads), *load_peers(folder, x, options)]
    scale = float(np.abs(expected).max())
    errors = {
        item.name: float(np.abs(item.logits().reshape(expected.shape) - expected).max()) / scale
        for item in runtimes
    }
    if errors[Ours.name] > TOLERANCE:
        message = f"{folder.name}: error {errors[Ours.name]:.1e} of the largest logit"
        raise SystemExit(message)
    turns = interleave(runtimes, peak, 5 if options.quick else options.rounds, options.threads)
    (count, size), peaks = facts(architecture), turns.peaks[Ours.name]
    return {
        "macs": count,
        "resolution": size,
        "peak_gflops": round(float(np.median(peaks)), 1),
        "share_of_peak": round(float(np.median(2 * count / turns.ms[Ours.name] / 1e6 / peaks)), 3),
        "runtimes": {n: turns.against(n, Ours.name) | {"error": errors[n]} for n in turns.ms},
        "turns_retaken": turns.retaken,
        "load_average": round(os.getloadavg()[0], 2),
    }


def report(name: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print one subnet's table."""
    millions, size = figures["macs"] / 1e6, figures["resolution"]
    share = f"ours at {figures['share_of_peak']:.0%} of {figures['peak_gflops']:.0f} GFLOP/s"
    say(options, f"\n## {name}: {millions:.0f} M MACs, {size} px, {share}\n")
    rows = [
        (
            runtime, f"{r['best_ms']:.3f}", f"{r['median_ms']:.3f}", f"{r['speedup_median']:.2f}x",
            f"{r['speedup_16_percent']:.2f} - {r['speedup_84_percent']:.2f}", f"{r['error']:.1e}",
        )
        for runtime, r in figures["runtimes"].items()
    ]  # fmt: skip
    header = ("runtime", "best ms", "median ms", "ours is faster by", "16 - 84 %", "error")
    say(options, table(header, rows))


def prepare(folder: Path, subnets: Networks, options: argparse.Namespace) -> None:
    """Load every subnet into every peer once: what they convert or compile stays in the folder."""
    for name in list(subnets)[: options.at_most]:
        load_peers(folder / name, reference(folder / name)[0], options)
        say(options, f"prepared {name}")


def earlier(options: argparse.Namespace) -> dict[str, Any]:
    """Return the subnets that an earlier part of this run has timed."""
    if not options.resume or not options.output or not options.output.is_file():
        return {}
    document = json.loads(options.output.read_text(encoding="utf-8"))
    if document["threads"] != options.threads:
        message = f"{options.output} is of {document['threads']} threads; choose another --output"
        raise SystemExit(message)
    subnets: dict[str, Any] = document["subnets"]
    return subnets


def main() -> None:
    """Build, compare, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--build", type=Path, metavar="FOLDER", help="export and compile only")
    arguments.add_argument("--prebuilt", type=Path, metavar="FOLDER", help="use such a folder")
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--all", action="store_true", help="published and random subnets too")
    arguments.add_argument("--data", type=Path, help="folder of the published data, for --all")
    arguments.add_argument("--tvm", action="store_true", help="with --build: stock TVM as well")
    arguments.add_argument(
        "--tvm-trials", type=int, default=0, help="with --build: MetaSchedule's trials a kernel"
    )
    arguments.add_argument("--without", action="append", default=[], metavar="PEER")
    arguments.add_argument("--prepare", action="store_true", help="convert for the peers only")
    arguments.add_argument("--resume", action="store_true", help="keep what --output holds")
    arguments.add_argument("--at-most", type=int, default=1000, help="subnets to do in this run")
    options = arguments.parse_args()
    subnets = networks(options)
    if options.build:
        build(options.build, subnets, for_torch=True)
        if options.tvm or options.tvm_trials:
            build_tvm(options.build, subnets, options)
        say(options, f"built in {options.build}")
        return
    if hasattr(os, "sched_setaffinity") and options.threads == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="ofa-compile-bench-") as scratch:
        folder = options.prebuilt or Path(scratch)
        if not options.prebuilt:
            build(folder, subnets)
        if options.prepare:
            prepare(folder, subnets, options)
            return
        peak = FmaPeak(folder / PEAK)
        results = earlier(options)
        left = [name for name in subnets if name not in results][: options.at_most]
        for name in left:
            results[name] = compare(folder / name, subnets[name], peak, options)
            report(name, results[name], options)
    summary = summarize(results)
    say(options, f"\nagainst the best other runtime: {summary}")
    finish(
        {
            "benchmark": "runtimes",
            "threads": options.threads,
            "batch": 1,
            "summary": summary,
            "subnets": results,
        },
        options,
    )


def summarize(results: dict[str, Any]) -> dict[str, Any]:
    """Compare ours with whichever other runtime is fastest on each subnet."""
    ratios = {}
    for name, figures in results.items():
        others = [r for n, r in figures["runtimes"].items() if n != Ours.name]
        if others:
            ratios[name] = min(r["speedup_median"] for r in others)
    return summary_of(ratios) if ratios else {}


if __name__ == "__main__":
    main()
