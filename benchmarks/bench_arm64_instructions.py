r"""Instructions per inference of arm64 binaries, counted in QEMU: ours next to other runtimes'.

Six subnets of ofa_mbv3_d234_e346_k357_w1.0 with random weights, batch 1, one thread: `small` (all
3x3), `mid` and four random ones with kernel sizes 3, 5 and 7 mixed. A count is half the difference
between runs of one and of three inferences, so loading and printing cancel; it repeats exactly.
Where llvm-mca is installed (Debian: llvm-19), cycles on some cores are *estimated* from its models.

ncnn, MNN, ONNX Runtime and ExecuTorch (XNNPACK) take part where their arm64 wheels are unpacked
next to an arm64 Python that QEMU can run, and their converters are at hand. On Debian, in an empty
folder (as root, or with a state folder of your own):

    apt-get -o APT::Architecture=arm64 ... download python3.11-minimal libpython3.11-minimal \
        libpython3.11-stdlib libc6 libexpat1 zlib1g libgomp1 libstdc++6 libgcc-s1 libffi8 \
        libbz2-1.0 liblzma5 libssl3
    for file in *.deb; do dpkg-deb -x $file root; done
    pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
        --platform manylinux2014_aarch64 --python-version 3.11 --implementation cp --abi cp311 \
        numpy ncnn MNN executorch onnxruntime
    for file in *.whl; do python -m zipfile -e $file root/site; done
    python -m venv peers && peers/bin/pip install -r benchmarks/requirements-peers.txt

    python benchmarks/bench_arm64_instructions.py --root root --peers-python peers/bin/python \
        --pnnx peers/bin/pnnx

Others choose their kernels by what the emulated processor offers and is called, which the script
writes into root/proc/cpuinfo and root/sys; ours are compiled for the target. ExecuTorch's Python
package needs an arm64 PyTorch; its C++ libraries do not, and aarch64-linux-gnu-g++ links a program
to them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from arm64_peers import PARTS, PEERS, describe_core
from common import finish, parser, say, table
from subnets import W10, fixed

from ofa_compile.measurement.cycle_model import Disassembly, estimate_cycles, find_mca
from ofa_compile.measurement.network_cycles import count_inference, counted
from ofa_compile.space import Architecture, macs, search_space

CORES = ("cortex-a55", "cortex-a76", "neoverse-n1")
RESOLUTIONS = (224, 192, 160, 208)
TOP = 12


def architectures(options: argparse.Namespace) -> dict[str, Architecture]:
    """Return the six subnets: at most one has 3x3 windows only."""
    found = fixed()
    if options.quick:
        return {"smallest": search_space(W10).smallest(128)}
    rng = np.random.default_rng(options.seed)
    space = search_space(W10)
    for number, resolution in enumerate(RESOLUTIONS):
        drawn = space.sample(rng).to_dict()
        drawn["resolution"] = resolution
        found[f"random-{number}"] = Architecture.from_dict(drawn)
    return found


def build(architecture: Architecture, folder: Path, options: argparse.Namespace) -> Any:
    """Export and compile one subnet with its symbols; return what the compiler tells of it."""
    import torch

    from ofa_compile.bundle.network_meta import render_network_meta
    from ofa_compile.bundle.preprocess import Preprocessing
    from ofa_compile.compiler.build import compile_onnx
    from ofa_compile.compiler.int8.prepare import calibration_for_timing
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.hardware.precision import target_in
    from ofa_compile.hardware.target_spec import load_target
    from ofa_compile.supernet.checkpoint import load_supernet

    size = architecture.resolution
    subnet = load_supernet(None, space=architecture.space).extract(architecture)
    export_onnx(subnet, folder / "subnet.onnx", resolution=size)
    if "executorch" in options.peers:
        image = torch.full((1, 3, size, size), 0.5)
        torch.export.save(torch.export.export(subnet, (image,)), folder / "subnet.pt2")
    looks = Preprocessing(height=size, width=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    meta = render_network_meta(looks, [str(n) for n in range(1000)])
    target = target_in(load_target(options.target), options.precision)
    compiled = compile_onnx(
        folder / "subnet.onnx",
        target,
        folder,
        network_meta=meta,
        keep_symbols=True,
        calibration=calibration_for_timing(target, size),
    )
    np.full((3, size, size), 0.5, "<f4").tofile(folder / "x.f32")
    return compiled


def measure(architecture: Architecture, options: argparse.Namespace) -> dict[str, Any]:
    """Count ours and other runtimes'; estimate cycles where llvm-mca is."""
    with tempfile.TemporaryDirectory(prefix="ofa-arm64-") as scratch:
        folder = Path(scratch)
        compiled = build(architecture, folder, options)
        program = str(compiled.executable)
        emulator = ["qemu-aarch64", "-cpu", options.cpu]
        counts = count_inference(emulator, [program, *counted(folder / "x.f32")])
        code = Disassembly(compiled.executable)
        sums = {name: sum(c.values()) for name, c in code.by_function(counts.by_address).items()}
        num_macs = sum(step["macs"] for step in compiled.steps)
        result: dict[str, Any] = {
            "architecture": architecture.to_dict(),
            "macs": macs(architecture),
            "instructions": counts.total,
            "per_four_macs": round(4 * counts.total / num_macs, 4),
            "kernels": kernels(compiled, sums),
        }
        if (mca := find_mca()) is not None:
            work = code.blocks(counts.by_address)
            result["estimated"] = {c: asdict(*estimate_cycles(mca, c, [work])) for c in CORES}
            result["estimated_with"] = mca
        for name in options.peers:
            result[name] = PEERS[name](folder, architecture.resolution, options)
        return result


def kernels(compiled: Any, sums: dict[str, int]) -> list[dict[str, Any]]:
    """Return instructions by kernel, heaviest first: where the instructions go."""
    by_name: dict[str, dict[str, Any]] = {}
    for step in compiled.steps:
        entry = by_name.setdefault(step["symbol"], {"calls": 0, "macs": 0})
        entry["calls"] += 1
        entry["macs"] += step["macs"]
        entry["workload"] = {k: v for k, v in step["workload"].items() if k != "tir"}
        entry["config"] = step["config"]
    rows = [
        {"symbol": name, "instructions": count, **by_name.get(name, {"macs": 0})}
        for name, count in sums.items()
        if count > 0
    ]
    return sorted(rows, key=lambda row: -row["instructions"])[: 4 * TOP]


def report(name: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print one subnet's figures and its heaviest kernels."""
    millions = figures["instructions"] / 1e6
    line = f"\n## {name}: {figures['macs'] / 1e6:.0f} M MACs, {millions:.1f} M instructions"
    line += f" ({figures['per_four_macs']:.3f} per four multiply-adds)"
    for peer in options.peers:
        ratio = figures["instructions"] / figures[peer]
        line += f"; {peer} {figures[peer] / 1e6:.1f} M, ratio {ratio:.3f}"
    say(options, line)
    for core, value in figures.get("estimated", {}).items():
        text = f"{core}: estimated {value['cycles'] / 1e6:.1f} M cycles"
        say(options, f"{text}, {value['instructions_per_cycle']:.2f} instructions per cycle")
    rows = [
        (
            f"{row['instructions'] / 1e6:.2f} M",
            f"{4 * row['instructions'] / row['macs']:.2f}" if row["macs"] else "",
            row.get("calls", ""),
            " ".join(str(v) for v in row.get("workload", {"": row["symbol"]}).values()),
        )
        for row in figures["kernels"][:TOP]
    ]
    say(options, table(("instructions", "per 4 MACs", "calls", "kernel"), rows))


def main() -> None:
    """Build, count, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--target", default="arm64", help="an arm64 target")
    arguments.add_argument("--precision", default="fp32", help="fp32, fp16 or int8")
    arguments.add_argument("--root", type=Path, help="folder with an arm64 Python and runtimes")
    arguments.add_argument("--peers", nargs="*", choices=PEERS, help="which (default: all)")
    arguments.add_argument("--cpu", default="cortex-a76", choices=PARTS, help="emulated processor")
    arguments.add_argument("--peers-python", default="python", help="a Python with MNN, executorch")
    arguments.add_argument("--pnnx", type=Path, default=Path("pnnx"), help="ncnn's converter")
    arguments.add_argument("--only", nargs="*", help="names of the subnets to count")
    options = arguments.parse_args()
    options.peers = options.peers or list(PEERS)
    if not options.root:
        options.peers = []
        say(options, "no other runtimes: pass --root FOLDER (the script's docstring says how)")
    else:
        describe_core(options.root, options.cpu)
    if find_mca() is None:
        say(options, "cycle estimates skipped: llvm-mca is not installed (Debian: llvm-19)")
    results = {}
    subnets = architectures(options)
    for name, architecture in subnets.items():
        if options.only and name not in options.only:
            continue
        results[name] = measure(architecture, options)
        report(name, results[name], options)
    summary: dict[str, Any] = {}
    for peer in options.peers:
        ratios = {name: r["instructions"] / r[peer] for name, r in results.items()}
        mean = float(np.exp(np.mean(np.log(list(ratios.values())))))
        worst = max(ratios, key=ratios.__getitem__)
        summary[peer] = {
            "geometric_mean": round(mean, 4),
            "worst": [worst, round(ratios[worst], 4)],
        }
        say(options, f"\nours / {peer}: {summary[peer]}")
    what = {
        "target": options.target,
        "precision": options.precision,
        "cpu": options.cpu,
        "summary": summary,
    }
    finish({"benchmark": "arm64_instructions", **what, "subnets": results}, options)


if __name__ == "__main__":
    main()
