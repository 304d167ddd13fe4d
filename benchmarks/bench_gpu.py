"""Compiled subnets on a GPU next to PyTorch, ONNX Runtime, TVM and (Vulkan) ncnn, batch 1 and 64.

Everything is built where there is no GPU, and carried to where there is one; a run fits into ten
minutes there:

    python benchmarks/bench_gpu.py --prebuild FOLDER [--only NAME ...]       # here: FOLDER.tar.xz
    PYTHONPATH=. python benchmarks/bench_gpu.py --run FOLDER.tar.xz --warm --minutes 9
    PYTHONPATH=. python benchmarks/bench_gpu.py --run FOLDER.tar.xz --minutes 9 --output gpu.json

--warm lets torch.compile search its kernels, and TensorRT build its engines, several networks at
once, into caches of their own; the run proper then loads them. TensorRT rounds products (TF32)
unless NVIDIA_TF32_OVERRIDE=0 is set, which holds for PyTorch as well. Each library is verified
before it is timed; rounds are interleaved, and every network's results are written as soon as they
are there, so a run that is cut off loses one. With --resume, networks that the output holds are not
run again. No network is begun that the ones before it say will overrun --minutes.

Two shares tell how far a network is from what the device can do. `share_of_flops` is two
operations for each MAC, over `device_ms`, over the speed of a large matrix product in the same
arithmetic: float32 without TF32, TF32 or fp16. `share_of_bandwidth` is every map written and read
once, residuals once more, and every weight read once, in the precision's element size, over
`device_ms`, over the speed of a large copy. It can exceed 1: maps that stay in the device's cache
or inside a fused kernel never reach its memory. Both limits are measured by PyTorch in the same
run. Without it, on Vulkan, and for TF32 where PyTorch does not round, they are unknown: the share
is null, "-" in the table.

`device_ms` of ours is the device's own clock, from the first kernel to the last. PyTorch and TVM
are timed as queued runs, which hide a launch only where queueing is quicker than running. ONNX
Runtime, TensorRT and ncnn are timed by the host (so marked in the table), with each launch and the
wait for it, ncnn's copies too. On small networks all of that favours ours. `end_to_end_ms` is timed
by the host for all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table
from gpu_prebuilt import gpu_subnets, networks, prebuild, quick_subnets, unpack
from gpu_runtimes import TURN, available, is_timed_by_host, load
from gpu_shares import (
    Limits,
    limits,
    limits_for,
    moved_bytes,
    percent,
    precision_of,
    shares,
    work_per_second,
)

from ofa_compile.bundle.verify import tolerance_of
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.cuda_devices import check_cuda, pci_bus_id
from ofa_compile.hardware.nvml import EnergyMeter
from ofa_compile.space import Architecture

BATCHES = (1, 64)
ENERGY_SECONDS = 0.7
CHECKED = (
    "ours", "torch-graph", "torch-max-autotune", "onnxruntime", "tensorrt", "tvm", "ncnn-vulkan"
)  # fmt: skip
HEADER = (
    "subnet", "batch", "ours, ms", "GFLOP/s", "of peak", "GB/s", "of bandwidth",
    "best other", "ms", "ratio", "ratio, end to end",
)  # fmt: skip


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Build the subnets and pack them."""
    from ofa_compile.hardware.precision import target_in
    from ofa_compile.hardware.target_spec import load_target

    target = target_in(load_target(options.target), options.precision)
    subnets = quick_subnets() if options.quick else gpu_subnets()
    if options.only:
        subnets = {name: subnets[name] for name in options.only}
    batches = options.batches or ([1] if options.quick else BATCHES)
    packed = prebuild(options.prebuild, subnets, batches, target)
    say(options, f"{packed}: {packed.stat().st_size / 2**20:.1f} MiB")
    return {
        "archive_bytes": packed.stat().st_size,
        "subnets": list(subnets),
        "batches": list(batches),
    }


def check(facts: Mapping[str, Any], logits: Any) -> float:
    """Return the error relative to the largest logit of PyTorch on a processor."""
    few = np.array(facts["logits"], np.float32)
    expected = np.concatenate([few] * -(-len(logits) // len(few)))[: len(logits)]
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def measure(
    place: Path, facts: Mapping[str, Any], options: argparse.Namespace, known: Limits
) -> dict[str, Any]:
    """Verify and time one network in every runtime."""
    start = time.monotonic()
    result: dict[str, Any] = {k: v for k, v in facts.items() if k != "logits"} | {"runtimes": {}}
    runtimes = {}
    for kind in options.runtimes or available(facts["kind"]):
        try:
            runtime = load(kind, place, facts)
            error = check(facts, runtime.logits())
        except Exception as failure:
            if kind == "ours":
                raise
            result["runtimes"][kind] = {"error": f"{type(failure).__name__}: {failure}"[:300]}
            continue
        if kind == "ours" and not error <= tolerance_of(facts["precision"]):
            message = f"{place}: differs from PyTorch by {error:.2g} of the largest logit"
            raise SystemExit(message)
        runtimes[kind] = runtime
        result["runtimes"][kind] = {"largest_error": error}
    loaded = time.monotonic()
    times = rounds(runtimes, options.rounds)
    for kind, runtime in runtimes.items():
        figures = summary(times[kind], facts, kind, known)
        result["runtimes"][kind] |= figures | energy(runtime)
    result["ours_step_ms"] = runtimes["ours"].step_ms(20)  # type: ignore[attr-defined]
    for runtime in runtimes.values():
        runtime.close()  # type: ignore[attr-defined]
    return result | {"load_s": loaded - start, "timing_s": time.monotonic() - loaded}


def rounds(runtimes: Mapping[str, Any], count: int) -> dict[str, dict[str, list[float]]]:
    """Give every runtime one turn a round, in turning order; return the median of each turn."""
    times: dict[str, dict[str, list[float]]] = {
        kind: {"device_ms": [], "end_to_end_ms": []} for kind in runtimes
    }
    order = list(runtimes.items())
    for number in range(count):
        for kind, runtime in order[:: -1 if number % 2 else 1]:
            for what, turns in times[kind].items():
                turns.append(float(np.median(getattr(runtime, what)(TURN))))
    return times


def summary(
    times: Mapping[str, list[float]], facts: Mapping[str, Any], kind: str, known: Limits
) -> dict[str, Any]:
    """Return medians over rounds, their spread, what is done in a second, and of which limits."""
    figures: dict[str, Any] = {}
    for what, turns in times.items():
        low, middle, high = np.percentile(turns, (16, 50, 84))
        figures |= {what: middle, f"{what}_spread": (high - low) / 2 / middle}
    precision = precision_of(kind, facts)
    architecture = Architecture.from_dict(facts["architecture"])
    moved = moved_bytes(architecture, facts["batch"], precision)
    work = work_per_second(facts["macs"], moved, figures["device_ms"])
    return {
        **figures,
        "precision": precision,
        "bytes": moved,
        "images_per_s": 1e3 * facts["batch"] / figures["device_ms"],
        **work,
        **shares(work, precision, limits_for(facts["kind"], known)),
    }


def energy_meter() -> EnergyMeter:
    """Return the meter of the GPU that ours runs on; NVML counts them otherwise than CUDA does."""
    try:
        return EnergyMeter(pci_bus_id(check_cuda()[0]))
    except DeviceUnavailableError:
        return EnergyMeter()


def energy(runtime: Any) -> dict[str, float]:
    """Return the energy of one run, if the GPU tells."""
    meter = energy_meter()
    before = meter.joules()
    if before is None:
        return {}
    start, runs = time.monotonic(), 0
    while time.monotonic() - start < ENERGY_SECONDS:
        runtime.device_ms(TURN)
        runs += runtime.calls_per_turn
    after = meter.joules()
    return {} if after is None else {"joules_per_run": (after - before) / runs}


def vulkan_devices(folder: Path) -> dict[str, Any]:
    """Say which Vulkan devices there are, where the networks are for one; ours takes the best."""
    if not any(facts.get("kind") == "vulkan" for _, facts in networks(folder)):
        return {}
    from ofa_compile.hardware.vulkan_devices import check_vulkan

    return {"vulkan_devices": [str(device) for device in check_vulkan()]}


def warm(folder: Path, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Let torch.compile prepare all networks, several at once, each in a process of its own."""
    kinds = [kind for kind in available() if "autotune" in kind or "tensorrt" in kind]
    todo = [(kind, place) for place, _ in networks(folder) for kind in kinds]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    done, failed = [], []
    while (todo or running) and time.monotonic() < deadline:
        while todo and len(running) < options.jobs:
            kind, place = todo.pop(0)
            command = [sys.executable, __file__, "--warm-one", kind, str(place)]
            name = f"{kind} {place.parent.name}/{place.name}"
            running.append((name, subprocess.Popen(command)))
        time.sleep(0.5)
        for name, process in [item for item in running if item[1].poll() is not None]:
            (failed if process.returncode else done).append(name)
            running.remove((name, process))
    for name, process in running:
        process.kill()
        process.wait()
        failed.append(name)
    return {"prepared": done, "failed": failed, "not_begun": len(todo)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all networks that time allows."""
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="ofa-gpu-") as temporary:
        folder = unpack(options.run, Path(temporary))
        if options.warm:
            return warm(folder, options, deadline)
        return measure_all(folder, options, deadline)


def measure_all(folder: Path, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Measure network after network, writing after each."""
    results: list[dict[str, Any]] = []
    if options.resume and options.output and options.output.is_file():
        results = json.loads(options.output.read_text(encoding="utf-8"))["networks"]
    done = {(item["subnet"], item["batch"]) for item in results}
    document: dict[str, Any] = {"limits": limits(), **vulkan_devices(folder), "networks": results}
    for place, facts in networks(folder):
        if (facts["subnet"], facts["batch"]) in done:
            continue
        if time.monotonic() + expected_seconds(results, facts) > deadline:
            say(options, f"no time left for {place.parent.name}/{place.name} and what follows")
            break
        results.append(measure(place, facts, options, document["limits"]))
        keep = argparse.Namespace(output=options.output, json=False)
        finish(document, keep)
        say(options, row_text(results[-1]))
    say(options, "\n" + summary_table(results))
    return document


def expected_seconds(results: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> float:
    """Return how long a network may take: loading as the slowest, timing as the MACs have grown.

    MACs are of the whole batch, and networks come in their order, so the last one is the nearest.
    """
    timed = [item for item in results if "timing_s" in item]
    if not timed:
        return 0.0
    last = timed[-1]
    growth = max(1.0, facts["macs"] / last["macs"])
    return float(max(item["load_s"] for item in timed) + growth * last["timing_s"])


def row_text(result: Mapping[str, Any]) -> str:
    """Return one line about a network."""
    times = {
        kind: f"{figures['device_ms']:.3f}" if "device_ms" in figures else "failed"
        for kind, figures in result["runtimes"].items()
    }
    return f"{result['subnet']} batch {result['batch']}: " + ", ".join(
        f"{kind} {text} ms" for kind, text in times.items()
    )


def summary_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each network: ours, and the best of the others that round no products."""
    rows = []
    for result in results:
        known = {k: f for k, f in result["runtimes"].items() if "device_ms" in f}
        ours = known["ours"]
        others = {k: known[k]["device_ms"] for k in CHECKED if k in known and k != "ours"}
        best = min(others, key=lambda kind: others[kind]) if others else None
        copied = [known[k]["end_to_end_ms"] for k in others]
        rows.append(
            (
                result["subnet"],
                result["batch"],
                f"{ours['device_ms']:.3f}",
                f"{ours['gflop_per_s']:.0f}",
                percent(ours.get("share_of_flops")),
                f"{ours['gb_per_s']:.0f}",
                percent(ours.get("share_of_bandwidth")),
                f"{best} (by host)" if best and is_timed_by_host(best) else best or "-",
                f"{others[best]:.3f}" if best else "-",
                f"{others[best] / ours['device_ms']:.2f}" if best else "-",
                f"{min(copied) / ours['end_to_end_ms']:.2f}" if copied else "-",
            )
        )
    return table(HEADER, rows)


def main() -> None:
    """Run the script."""
    arguments = parser(__doc__ or "")
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("--prebuild", type=Path, metavar="FOLDER")
    arguments.add_argument("--run", type=Path, metavar="FOLDER")
    arguments.add_argument("--only", nargs="+", choices=list(gpu_subnets()))
    arguments.add_argument("--batches", nargs="+", type=int)
    arguments.add_argument("--target", default="cuda", help="name or file, to build for")
    arguments.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "fp16"])
    arguments.add_argument("--runtimes", nargs="+", help="some of those that are installed")
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--minutes", type=float, default=9.0)
    arguments.add_argument("--warm", action="store_true")
    arguments.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 3))
    arguments.add_argument("--resume", action="store_true")
    arguments.add_argument("--warm-one", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.warm_one:
        kind, place = options.warm_one
        facts = json.loads((Path(place) / "facts.json").read_text(encoding="utf-8"))
        load(kind, Path(place), facts)
        return
    if (options.prebuild is None) == (options.run is None):
        if options.quick:
            say(options, "skipped: --prebuild FOLDER builds, --run FOLDER needs a GPU")
            finish({"skipped": "no GPU"}, options)
            return
        arguments.error("give one of --prebuild and --run")
    finish(build(options) if options.prebuild else run(options), options)


if __name__ == "__main__":
    main()
