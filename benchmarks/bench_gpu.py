"""Compiled subnets on a GPU next to PyTorch, ONNX Runtime, TVM and (Vulkan) ncnn, batch 1 and 64.

Everything that needs no GPU is made where there is none, and carried to where there is one; each of
these fits into ten minutes there:

    python benchmarks/bench_gpu.py --prebuild FOLDER [--only NAME ...]       # here: FOLDER.tar.xz
    PYTHONPATH=. python benchmarks/bench_gpu.py --run FOLDER.tar.xz --warm --output warm.json
    PYTHONPATH=. python benchmarks/bench_gpu.py --run FOLDER.tar.xz --output gpu.json

Carry the repository and the archive; the machine with the GPU needs its driver, Python 3.11 or
later and NumPy, neither nvcc nor a network. Python, PyTorch and TVM may be others than here. A CUDA
archive needs a driver of the same major version of CUDA as the nvcc here (set CUDA_HOME to an older
toolkit for an older driver); a target file with one entry in toolchain.gpu_architectures builds
faster and packs smaller. What runtimes need there beside the archive:

    ours                           nothing
    tvm                            nothing: its libraries and its run time are in the archive
    ncnn-vulkan                    ncnn (some 10 MB); packed where pnnx is installed here
    torch-graph, -max-autotune     PyTorch with CUDA, safetensors; the second Triton, a C compiler
    onnxruntime                    onnxruntime-gpu (250 MB), CUDA's libraries and cuDNN
    tensorrt                       the same, and TensorRT 10

The last three are gigabytes, and are not carried. Wheels may be unpacked anywhere on PYTHONPATH. A
runtime that is not there is left out, and the result says why.

A run writes what it knows as soon as it knows it, into --output. First come the facts of the
device, then ours on all networks against PyTorch's logits from here (--check ends there), then the
device's limits, then the networks one after the other, in the order float32, TF32, fp16, batch 1,
batch 64. No network is begun that the ones before it say will overrun --minutes, and nothing runs
beyond that. With --resume, networks that the output holds are not run again, only what is left.

Every runtime has a process of its own. One that hangs for --peer-seconds or dies loses its network,
and is given up when it does so twice; one that runs out of memory loses its network. Ours and all
others are measured nevertheless. The exit status is 1 where ours was wrong or failed.

--warm lets torch.compile search its kernels, and TensorRT build its engines, several networks at
once, into caches of their own; the run proper then loads them. Searches that share the GPU disturb
each other's timings: --jobs 1 searches undisturbed where there is time. A network that was not
prepared is searched when it is loaded, and lost if that takes longer than --peer-seconds.

Rounds are interleaved: each gives every runtime a turn, in alternating order, of about 60 ms and
one run at least. Ours is compared with runtimes in the same arithmetic: float32 without TF32, TF32,
or fp16. `-tf32` and `-fp16` at the end of a name say so; --runtimes chooses others.

Two shares tell how far a network is from what the device can do. `share_of_flops` is two operations
for each MAC, over `device_ms`, over the peak of the same arithmetic. `share_of_bandwidth` is every
map written and read once, residuals once more, and every weight read once, in the precision's
element size, over `device_ms`, over the speed of a large copy. It can exceed 1: maps that stay in
the device's cache or inside a fused kernel never reach its memory. Both limits are measured in the
same run by kernels of ours (multiply-adds, a copy) and by PyTorch where it is there (a matrix
product, a copy); the larger of them counts. Only PyTorch measures the tensor cores of TF32 and of
CUDA's fp16; without it those shares are null, "-" in the table.

`device_ms` of ours is the device's own clock, from the first kernel to the last. PyTorch and TVM
are timed as queued runs, which hide a launch only where queueing is quicker than running. ONNX
Runtime, TensorRT and ncnn are timed by the host (so marked in the table), with each launch and the
wait for it, ncnn's copies too. On small networks all of that favours ours. `end_to_end_ms` is timed
by the host for all.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from common import finish, parser, say
from gpu_prebuilt import MAX_ARCHIVE_MIB, gpu_subnets, packed_file, prebuild, quick_subnets
from gpu_run import is_right, run_all
from gpu_warm import warm_one

BATCHES = (1, 64)


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Build the subnets and pack them."""
    from ofa_compile.hardware.precision import target_in
    from ofa_compile.hardware.target_spec import load_target

    targets = [target_in(load_target(options.target), name) for name in options.precision]
    subnets = quick_subnets() if options.quick else gpu_subnets()
    if options.only:
        subnets = {name: subnets[name] for name in options.only}
    batches = options.batches or ([1] if options.quick else BATCHES)
    folder = options.prebuild.resolve()  # compilers run in folders of their own
    archive = prebuild(folder, subnets, batches, targets, lambda text: say(options, text))
    packed = packed_file(folder)
    for runtime, reasons in archive["absent"].items():
        for what, reason in reasons.items():
            say(options, f"no files of {runtime} for {what}: {reason}")
    mebibytes = packed.stat().st_size / 2**20
    say(options, f"{packed}: {mebibytes:.1f} MiB")
    if mebibytes > MAX_ARCHIVE_MIB:
        few = "--only, --batches, fewer precisions or architectures make it smaller"
        say(options, f"more than {MAX_ARCHIVE_MIB} MiB: {few}")
    return {
        "archive_bytes": packed.stat().st_size,
        "absent": archive["absent"],
        "subnets": list(subnets),
        "batches": list(batches),
        "precisions": options.precision,
    }


def main() -> None:
    """Run the script."""
    arguments = parser(__doc__ or "")
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    add = arguments.add_argument
    add("--prebuild", type=Path, metavar="FOLDER", help="build in a folder, and pack it")
    add("--run", type=Path, metavar="ARCHIVE", help="what --prebuild packed, or its folder")
    add("--check", action="store_true", help="verify ours, and end")
    add("--warm", action="store_true", help="prepare what others search on the GPU, and end")
    add("--only", nargs="+", choices=list(gpu_subnets()), help="subnets to build")
    add("--batches", nargs="+", type=int, help="to build; 1 and 64 if not given")
    add("--target", default="cuda", help="name or file, to build for")
    add("--precision", nargs="+", default=["fp32"], choices=["fp32", "tf32", "fp16"])
    add("--runtimes", nargs="+", help="to run beside ours; also MODULE:CLASS of one of your own")
    add("--rounds", type=int, default=9)
    add("--minutes", type=float, default=9.0, help="after which a run ends")
    add("--peer-seconds", type=float, default=60.0, help="that a runtime may take for an answer")
    add("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 3), help="of --warm")
    add("--resume", action="store_true", help="leave out what the output has")
    add("--warm-one", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.warm_one:
        warm_one(*options.warm_one)
        return
    if (options.prebuild is None) == (options.run is None):
        if options.quick:
            say(options, "skipped: --prebuild FOLDER builds, --run ARCHIVE needs a GPU")
            finish({"skipped": "no GPU"}, options)
            return
        arguments.error("give one of --prebuild and --run")
    if options.prebuild:
        finish(build(options), options)
        return
    document = run_all(options)
    finish(document, argparse.Namespace(output=None, json=options.json))
    if not is_right(document):
        message = "ours failed or was not tried; the document's checks and networks say where"
        raise SystemExit(message)


if __name__ == "__main__":
    main()
