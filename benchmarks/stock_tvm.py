"""Compile a subnet as TVM does out of the box, for comparison with ours."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ofa_compile.hardware.target_spec import load_target

# MetaSchedule's own 30 s are spent on imports where anything else runs on the machine; a worker
# that is killed imports anew, and no candidate is ever built.
_TIMEOUT_S = 300.0


def build_stock_tvm(onnx_file: Path, library: Path, *, trials: int = 0, threads: int = 1) -> None:
    """Build a Relax library with default schedules, or tuned by MetaSchedule with `trials`.

    The trials are shared between the network's kernels by MetaSchedule's own scheduler.
    """
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    target = tvm.target.Target(_target(threads))
    module = from_onnx(onnx.load(onnx_file), keep_params_in_input=False)
    with target:
        if trials:
            module = _tuned(module, target, trials)
        built = relax.build(module, target, relax_pipeline=relax.get_default_pipeline(target))
    built.export_library(str(library))


def _target(threads: int) -> dict[str, Any]:
    return load_target("host").tvm_target | {"num-cores": threads}


def _tuned(module: Any, target: Any, trials: int) -> Any:
    from tvm import relax
    from tvm.s_tir.meta_schedule import builder, relax_integration, runner

    fused = relax.get_pipeline("zero")(module)
    with tempfile.TemporaryDirectory(prefix="ofa-compile-tvm-") as folder:
        database = relax_integration.tune_relax(
            fused, {}, target, folder, max_trials_global=trials, num_trials_per_iter=16,
            builder=builder.LocalBuilder(max_workers=1, timeout_sec=_TIMEOUT_S),
            runner=runner.LocalRunner(timeout_sec=_TIMEOUT_S),
        )  # fmt: skip
        with database:
            return relax.transform.MetaScheduleApplyDatabase()(fused)
