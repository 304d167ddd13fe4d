"""Subnets in int8 next to ONNX Runtime's int8, and next to float32: batch 1, interleaved rounds.

Six subnets: `small` and `mid` of ofa_mbv3_d234_e346_k357_w1.0 at 224 pixels and four random ones of
three spaces. Weights are random, and everything is calibrated on noise: this is about time. ONNX
Runtime's models are made by its own tools: `static` in its QDQ format (uint8 activations, int8
weights per channel, calibrated), `dynamic` with ranges found at run time. What counts is the median
over rounds of the ratio to ours, against whichever of the two is faster on a subnet.

    python benchmarks/bench_int8.py --build FOLDER              # minutes, untimed
    python benchmarks/bench_int8.py --prebuilt FOLDER [--rounds N] [--json] [--output FILE]
    python benchmarks/bench_int8.py --quick
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, summary_of, table
from fma_peak import PEAK, FmaPeak, build_peak
from interleaved import interleave
from peers import OnnxRuntime
from runtimes import Ours, Runtime
from subnets import fixed, sampled

from ofa_compile.cache import Cache
from ofa_compile.space import Architecture, macs

NUM_RANDOM = 4
NUM_IMAGES = 8
NAMES = ("ours int8", "ours float32", "ORT static int8", "ORT dynamic int8", "ORT float32")
FOLDERS = dict(zip(NAMES, ("int8", "float32", "ort-static", "ort-dynamic", "float32"), strict=True))


def architectures(options: argparse.Namespace) -> dict[str, Architecture]:
    """Return the subnets to compare, by name."""
    found = fixed() | sampled(NUM_RANDOM, options.seed)
    return {name: found[name] for name in ("small",)} if options.quick else found


def build(folder: Path, subnets: dict[str, Architecture]) -> None:
    """Export, compile and quantise every subnet that is not there yet."""
    from ofa_compile.compiler.build import compile_onnx
    from ofa_compile.compiler.int8.prepare import given_images, quantised_logits
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.hardware.precision import target_in
    from ofa_compile.hardware.target_spec import load_target
    from ofa_compile.options import default_workspace
    from ofa_compile.supernet.checkpoint import load_supernet
    from ofa_compile.tuning.choose import tuned_configs

    host = load_target("host")
    tuned = tuned_configs(host, default_workspace(host.name))
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    build_peak(host, folder / PEAK)
    for name, architecture in subnets.items():
        place = folder / name
        if (place / "reference.npz").is_file():
            continue
        for part in set(FOLDERS.values()):
            (place / part).mkdir(parents=True, exist_ok=True)
        size = architecture.resolution
        model = place / "float32" / "subnet.onnx"
        subnet = load_supernet(None, space=architecture.space).extract(architecture)
        export_onnx(subnet, model, resolution=size)
        images = rng.standard_normal((NUM_IMAGES, 3, size, size), dtype=np.float32)
        options: dict[str, Any] = {"symbol_prefix": "ofa_bench_", "tuned": tuned}
        compile_onnx(model, host, place / "float32", **options)
        calibration = given_images(images)
        target = target_in(host, "int8")
        compile_onnx(model, target, place / "int8", calibration=calibration, **options)
        quantise_by_onnx_runtime(model, place, images)
        logits = quantised_logits(model, target, calibration, images[:1], Cache())
        np.savez(place / "reference.npz", x=images[:1], logits=logits)


def quantise_by_onnx_runtime(model: Path, place: Path, images: np.ndarray) -> None:
    """Write ONNX Runtime's two quantised models of a network."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        """Gives ONNX Runtime the images one by one."""

        def __init__(self) -> None:
            self.items: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next image, or None."""
            image = next(self.items, None)
            return None if image is None else {"input": image[None]}

    prepared = place / "prepared.onnx"
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    q.quantize_static(
        prepared,
        place / "ort-static" / "subnet.onnx",
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )
    dynamic = place / "ort-dynamic" / "subnet.onnx"
    q.quantize_dynamic(prepared, dynamic, per_channel=True, weight_type=q.QuantType.QInt8)


def runtimes(folder: Path, x: np.ndarray) -> list[Runtime]:
    """Load all forms of a subnet; one that ONNX Runtime cannot run is left out and named."""
    found: list[Runtime] = []
    for name, part in FOLDERS.items():
        kind = Ours if name.startswith("ours") else OnnxRuntime
        try:
            item = kind(folder / part, x, 1)
        except Exception as err:
            if kind is Ours:
                raise
            print(f"{folder.name}: {name} cannot be run: {err}")
            continue
        item.name = name  # type: ignore[misc]
        found.append(item)
    return found


def compare(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Check and time one subnet in every form."""
    with np.load(folder / "reference.npz") as reference:
        x, expected = reference["x"], reference["logits"]
    loaded = runtimes(folder, x)
    error = float(np.abs(loaded[0].logits() - expected).max() / np.abs(expected).max())
    if error > 0.02:
        message = f"{name}: ours differs from the quantised reference by {error:.1e}"
        raise SystemExit(message)
    rounds = 5 if options.quick else options.rounds
    turns = interleave(loaded, FmaPeak(folder.parent / PEAK), rounds, 1)
    return {"error": error, "runtimes": {n: turns.against(n, NAMES[0]) for n in turns.ms}}


def report(name: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print one subnet's table."""
    millions, size = figures["macs"] / 1e6, figures["resolution"]
    say(options, f"\n## {name}: {millions:.0f} M MACs, {size} px\n")
    rows = [
        (
            runtime, f"{r['best_ms']:.3f}", f"{r['median_ms']:.3f}", f"{r['speedup_median']:.2f}x",
            f"{r['speedup_16_percent']:.2f} - {r['speedup_84_percent']:.2f}",
        )
        for runtime, r in figures["runtimes"].items()
    ]  # fmt: skip
    header = ("runtime", "best ms", "median ms", "ours int8 is faster by", "16 - 84 %")
    say(options, table(header, rows))


def summarize(results: dict[str, Any]) -> dict[str, Any]:
    """Compare ours with the better of ONNX Runtime's int8 forms, and with our float32."""
    summary = {}
    for label, names in (("against_ort_int8", NAMES[2:4]), ("against_our_float32", NAMES[1:2])):
        ratios = {
            subnet: min(
                figures["runtimes"][name]["speedup_median"]
                for name in names
                if name in figures["runtimes"]
            )
            for subnet, figures in results.items()
        }
        summary[label] = summary_of(ratios)
    return summary


def main() -> None:
    """Build, compare, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--build", type=Path, metavar="FOLDER", help="build only, untimed")
    arguments.add_argument("--prebuilt", type=Path, metavar="FOLDER", help="use such a folder")
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    subnets = architectures(options)
    if options.build:
        build(options.build, subnets)
        say(options, f"built in {options.build}")
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="ofa-compile-bench-") as scratch:
        folder = options.prebuilt or Path(scratch)
        if not options.prebuilt:
            build(folder, subnets)
        results = {}
        for name, architecture in subnets.items():
            facts = {"macs": macs(architecture), "resolution": architecture.resolution}
            results[name] = facts | compare(name, folder / name, options)
            report(name, results[name], options)
    summary = summarize(results)
    say(options, f"\n{summary}")
    finish(
        {"benchmark": "int8", "threads": 1, "batch": 1, "summary": summary, "subnets": results},
        options,
    )


if __name__ == "__main__":
    main()
