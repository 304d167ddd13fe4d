"""TVM's own tuner, with our builder, runner and database, on a Vulkan device."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_compile.compiler.tvm_api import s_tir, tvm
from ofa_compile.tuning.metaschedule import (
    IsolatedRunner,
    WarmBuilder,
    fingerprint_database,
    limit_intrinsics,
)

# Small, since its rules unroll up to 1,024 steps, which a software device takes minutes to compile.
PIXELS, INPUTS, OUTPUTS = 16, 8, 16
TRIALS = 8
# What it writes down as the time of a candidate that failed.
FAILED_S = 1e9
# The default, 30 s, is short where two cores do other work as well.
LIMIT_S = 60


def pointwise() -> Any:
    """Return a pointwise convolution over channels-last data with a ReLU."""
    te = tvm.te
    x = te.placeholder((PIXELS, INPUTS), "float32", name="x")
    weight = te.placeholder((INPUTS, OUTPUTS), "float32", name="weight")
    k = te.reduce_axis((0, INPUTS), name="k")
    shape = (PIXELS, OUTPUTS)
    total = te.compute(shape, lambda i, j: te.sum(x[i, k] * weight[k, j], axis=k), name="total")
    zero = tvm.tirx.const(0, "float32")
    y = te.compute(shape, lambda i, j: te.max(total[i, j], zero), name="y")
    return tvm.IRModule({"main": te.create_prim_func([x, weight, y])})


@pytest.mark.vulkan
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.usefixtures("tvm_logger")
def test_stock_metaschedule_tunes(
    tvm_elsewhere: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    tuner = s_tir.meta_schedule
    limit_intrinsics()
    once = tuner.runner.EvaluatorConfig(number=1, repeat=1, min_repeat_ms=0)
    work = pointwise()
    database = fingerprint_database(tvm_elsewhere, tmp_path)
    with (
        closing(WarmBuilder(max_workers=1, timeout_s=LIMIT_S)) as builder,
        closing(IsolatedRunner(work, timing=once, timeout_s=LIMIT_S)) as runner,
    ):
        tuner.tune_tir(
            work,
            target=tvm_elsewhere,
            work_dir=str(tmp_path),
            max_trials_global=TRIALS,
            num_trials_per_iter=TRIALS // 2,  # the second round asks the cost model
            builder=builder,
            runner=runner,
            database=database,
            # As the default, but for generations of 512 schedules.
            strategy=tuner.search_strategy.EvolutionarySearch(
                population_size=32, init_min_unmeasured=8, genetic_num_iters=1
            ),
            num_tuning_cores=1,
            seed=0,
        )
    times = [float(record.run_secs[0]) for record in database.get_all_tuning_records()]
    assert len(times) == TRIALS
    assert sum(0 < time < FAILED_S for time in times) > TRIALS // 2, times
    best = tuner.tir_integration.compile_tir(database, work, tvm_elsewhere)
    library = tvm.compile(best.mod, target=tvm_elsewhere)
    values = rng.standard_normal((PIXELS, INPUTS), dtype=np.float32)
    weight = rng.standard_normal((INPUTS, OUTPUTS), dtype=np.float32)
    device = tvm.device("vulkan", 0)
    y = tvm.runtime.tensor(np.zeros((PIXELS, OUTPUTS), np.float32), device)
    library["main"](*(tvm.runtime.tensor(array, device) for array in (values, weight)), y)
    np.testing.assert_allclose(y.numpy(), np.maximum(values @ weight, 0), rtol=1e-4, atol=1e-5)
