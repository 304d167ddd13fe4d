"""Top-1 of three subnets of ofa_mbv3_cifar in every precision, by compiled binaries.

`fp32` and `int8` are the host's binaries on all test images. `fp16` exists twice. `fp16 host` is
the arm64 kernels' code generated for this machine, which has no arithmetic on halves: LLVM computes
each operation in float32 and rounds, so a multiply-add rounds twice, where an arm64 core rounds
once; it takes seconds for all images. `fp16 emulated` is the real binary in QEMU, on the first
images only, since it takes about 0.1 s each; top-1 in float32 is given for these images too.

    python benchmarks/precision_accuracy.py --images FOLDER [--emulated N] [--subnets NAME ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import finish, parser, say, table

from ofa_compile.bundle.executor import Executable
from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.quantised import logit_change
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import CompiledNetwork, compile_onnx
from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.hardware.emulator import find_emulator
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.options import CompileOptions
from ofa_compile.space import Architecture, macs, search_space
from ofa_compile.workflows.int8 import int8_calibration
from ofa_compile.workflows.prepared_subnet import PreparedSubnet, prepared_subnet

SPACE = "ofa_mbv3_cifar"
ARM = "cortex-a76"
PREFIX = "ofa_bench_"


def architectures() -> dict[str, Architecture]:
    """Return the smallest, the largest, and one of about their geometric mean's MACs."""
    space, rng = search_space(SPACE), np.random.default_rng(0)
    smallest, largest = space.smallest(), space.largest()
    wanted = np.sqrt(float(macs(smallest)) * macs(largest))
    drawn = [space.sample(rng) for _ in range(500)]
    middle = min(drawn, key=lambda architecture: abs(macs(architecture) - wanted))
    return {"smallest": smallest, "middle": middle, "largest": largest}


def load_test_images(folder: Path, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised test images at a resolution, and their labels."""
    from ofa_compile.supernet import load_supernet
    from ofa_compile.training.data import load_images, resize
    from ofa_compile.training.evaluate import test_set_images
    from ofa_compile.workflows.subnets import normalization

    mean, std = normalization(load_supernet(SPACE))
    found = load_images(folder, size=max(search_space(SPACE).resolutions))
    images = test_set_images(dataclasses.replace(found, mean=mean, std=std), held_out=0)
    x = resize(images.images, resolution).numpy()
    return np.ascontiguousarray(x, np.float32), np.asarray(images.labels)


def build(
    subnet: PreparedSubnet, architecture: Architecture, target: TargetSpec, folder: Path
) -> CompiledNetwork:
    """Compile a subnet for a target in its precision."""
    options = CompileOptions(target=target.name, supernet=SPACE)
    size = architecture.resolution
    looks = Preprocessing(height=size, width=size, mean=(0.0,) * 3, std=(1.0,) * 3)
    return compile_onnx(
        subnet.onnx,
        target,
        folder,
        symbol_prefix=PREFIX,
        network_meta=render_network_meta(looks, ()),
        calibration=int8_calibration(options, architecture),
    )


def host_logits(compiled: CompiledNetwork, x: np.ndarray) -> np.ndarray:
    """Run a library of this machine."""
    with NativeLibrary(compiled.library, PREFIX) as library:
        return library.run(x)


def compare(
    architecture: Architecture, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Compute all logits of one subnet; return what they say."""
    host, half = load_target("host"), target_in(load_target(ARM), "fp16")
    subnet = prepared_subnet(
        CompileOptions(target="host", supernet=SPACE), architecture, host, Cache()
    )
    x, labels = load_test_images(options.images, architecture.resolution)
    places = {name: folder / name for name in ("fp32", "int8", "fp16 host", "fp16 emulated")}
    for place in places.values():
        place.mkdir(parents=True)
    logits = {}
    for precision in ("fp32", "int8"):
        built = build(subnet, architecture, target_in(host, precision), places[precision])
        logits[precision] = host_logits(built, x)
    with mock.patch.object(VectorMachine, "of", return_value=VectorMachine.of(half)):
        # No other machine ever compiles that way; nor may the cache mix it up with one.
        target = dataclasses.replace(load_target("x86-64"), name="halves-on-x86", precision="fp16")
        built = build(subnet, architecture, target, places["fp16 host"])
    logits["fp16 host"] = host_logits(built, x)
    if options.emulated:
        built = build(subnet, architecture, half, places["fp16 emulated"])
        assert built.executable is not None
        program = Executable(built.executable, logits["fp32"].shape[1], find_emulator(half))
        logits["fp16 emulated"] = program.run(x[: options.emulated])
    return {name: figures(found, logits["fp32"], labels) for name, found in logits.items()}


def figures(found: np.ndarray, floats: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return top-1 and how far logits are from those in float32, of as many images as there are."""
    floats, labels = floats[: len(found)], labels[: len(found)]
    errors = np.abs(found - floats).max(axis=1) / np.abs(floats).max()
    return {
        "images": len(found),
        "top1": float((found.argmax(axis=1) == labels).mean()),
        "top1_fp32_same_images": float((floats.argmax(axis=1) == labels).mean()),
        "largest_error": float(errors.max()),
        "median_error": float(np.median(errors)),
        **logit_change(floats, found),
    }


def main() -> None:
    """Compare, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--images", type=Path, required=True, help="CIFAR-10, as for --data")
    arguments.add_argument("--emulated", type=int, default=0, help="test images to run in QEMU")
    arguments.add_argument("--subnets", nargs="*", help="smallest, middle, largest")
    options = arguments.parse_args()
    results = {}
    for name, architecture in architectures().items():
        if options.subnets and name not in options.subnets:
            continue
        with tempfile.TemporaryDirectory(prefix="ofa-compile-bench-") as folder:
            results[name] = compare(architecture, Path(folder), options)
        say(options, f"\n## {name}: {macs(architecture) / 1e6:.1f} M MACs\n")
        rows = [
            (
                precision, f["images"], f"{f['top1']:.2%}", f"{f['top1_fp32_same_images']:.2%}",
                f"{f['same_class']:.2%}", f"{f['median_error']:.1e}", f"{f['largest_error']:.1e}",
            )
            for precision, f in results[name].items()
        ]  # fmt: skip
        header = ("precision", "images", "top-1", "fp32", "same class", "median error", "largest")
        say(options, table(header, rows))
    finish({"benchmark": "precision_accuracy", "arm": ARM, "subnets": results}, options)


if __name__ == "__main__":
    main()
