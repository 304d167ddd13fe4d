"""Kernels that are right, wrong, crash and hang, as candidates of a tuner."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ofa_compile.compiler.workload import Activate
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.jobs import BuiltCandidate, BuiltJob, Job, Runner, TrialResult

WORK = Activate(64, "relu")
# y = relu(x) over 64 values, in several unfortunate ways.
KERNELS = """\
#include <stdint.h>
#define KERNEL(name, ...) \\
    void name(const float *x, float *y, int32_t begin, int32_t end) { \\
        (void)begin, (void)end; \\
        for (int i = 0; i < 64; i++) y[i] = x[i] > 0 ? x[i] : 0; \\
        __VA_ARGS__ \\
    }
KERNEL(right, )
KERNEL(slow, for (volatile int i = 0; i < 100000; i++);)
KERNEL(off_by_a_little, y[17] += 0.01f;)
KERNEL(skips_one, y[63] = 0.0f / 0.0f;)
KERNEL(overruns, y[64] = 1;)
KERNEL(crashes, *(volatile int *)0 = 1;)
KERNEL(hangs, for (;;) __asm__ volatile("");)
"""
# The same copy of 2,000 bytes, in which some values are a step off, or one is not written.
TYPED_KERNELS = """\
#include <stdint.h>
#include <string.h>
#define KERNEL(name, ...) \\
    void name(const int8_t *x, int8_t *y, int32_t begin, int32_t end) { \\
        (void)begin, (void)end; \\
        int16_t *h = (int16_t *)y; \\
        (void)h; \\
        __VA_ARGS__ \\
    }
#define COPY memcpy(y, x, 2000);
KERNEL(right, COPY)
KERNEL(rounds_otherwise, COPY y[1] += 1; y[500] -= 1;)
KERNEL(is_off, COPY for (int i = 0; i < 2000; i += 20) y[i] += 1;)
KERNEL(is_two_off, COPY y[7] += 2;)
KERNEL(skips_one, memcpy(y, x, 1998);)
KERNEL(overruns, COPY y[2000] = 1;)
KERNEL(last_bit, COPY h[3] ^= 1;)
KERNEL(high_bit, COPY h[3] ^= 0x0400;)
"""
# What is said of those that are wrong; a byte may be one step off in one of a thousand places.
TYPED_FAILURES = {
    "int8": {
        "is_off": "differs by 3.9e-03 of the largest value; 1e-03 is allowed",
        "is_two_off": "differs by 7.8e-03",
        "overruns": "behind the end",
    },
    "float16": {"skips_one": "nan", "overruns": "behind the end", "high_bit": "differs by"},
}
TYPED_RIGHT = {"int8": ("right", "rounds_otherwise"), "float16": ("right", "last_bit")}


def assert_judged(runner: Runner, folder: Path, dtype: str) -> None:
    """Check that a runner tells the right ones from the wrong ones."""
    right, wrong = TYPED_RIGHT[dtype], TYPED_FAILURES[dtype]
    results = run_kernels(runner, folder, *right, *wrong)
    assert [r.status for r in results] == ["ok"] * len(right) + ["wrong"] * len(wrong), results
    for result, words in zip(results[len(right) :], wrong.values(), strict=True):
        assert words in str(result.error)


def write_kernels(folder: Path, target: TargetSpec) -> None:
    """Compile them for a target: `kernels.o`, `kernels.so` and the data that they run on."""
    _compile(KERNELS, folder, target)
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    np.savez(folder / "data.npz", input_0=x, expected=np.maximum(x, 0))


def write_typed_kernels(folder: Path, target: TargetSpec, dtype: str) -> None:
    """Compile those that copy 2,000 bytes, for data of a type: bytes or halves."""
    _compile(TYPED_KERNELS, folder, target)
    x = np.random.default_rng(1).integers(-99, 99, 2000 // np.dtype(dtype).itemsize).astype(dtype)
    np.savez(folder / "data.npz", input_0=x, expected=x)


def _compile(source: str, folder: Path, target: TargetSpec) -> None:
    compiler = find_linker(target).command
    (folder / "kernels.c").write_text(source, encoding="utf-8")
    for output, *flags in (("kernels.o", "-c"), ("kernels.so", "-shared")):
        command = [*compiler, "-O1", "-fPIC", *flags, "-o", output, "kernels.c"]
        subprocess.run(command, cwd=folder, check=True)


def built_job(folder: Path, symbols: Sequence[str]) -> BuiltJob:
    """Return a job of some of them."""
    candidates = tuple(
        BuiltCandidate({}, None, folder / "kernels.so", symbol, folder / "data.npz", ("input_0",))
        for symbol in symbols
    )
    return BuiltJob(Job(WORK, ({},) * len(symbols)), candidates, 0.0)


def run_kernels(runner: Runner, folder: Path, *symbols: str) -> list[TrialResult]:
    """Run some of them together."""
    return runner.submit(built_job(folder, symbols)).result(60)
