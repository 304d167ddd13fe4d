"""Depthwise and pointwise convolution in one kernel: where it may be, and where it is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from onnx_nets import Net

from ofa_compile.compiler.gpu.lower import GpuHalfLowering, GpuLowering
from ofa_compile.compiler.import_onnx import import_onnx
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.pipeline import GPU_PASSES, run_passes
from ofa_compile.compiler.plan import Plan
from ofa_compile.compiler.workload import (
    Depthwise,
    GlobalPool,
    Pointwise,
    Separable,
    Workload,
    workload_from_dict,
)
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.space import search_space
from ofa_compile.tuning.database import TuningRecord, TuningResults
from ofa_compile.tuning.kernel_times import tuned_kernel_times
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.tuning.plan import Plan as TuningPlan
from ofa_compile.tuning.plan import Task
from ofa_compile.tuning.report import gains, speedup
from ofa_compile.tuning.roofline import Roofline, num_values, real_macs
from ofa_compile.tuning.separables import joined, separables
from ofa_compile.tuning.union import workload_union

MACHINE = GpuMachine(wanted_threads=64)
WINDOW = Depthwise(2, 8, 7, (3, 3), (2, 2), (1, 1, 1, 1), 24, "relu")
PRODUCT = Pointwise(2 * 4 * 4, 24, 16, "none", True)
BOTH = Separable.of(WINDOW, PRODUCT)


def first_config(workload: Workload) -> Mapping[str, Any] | None:
    """Choose a kernel's first configuration, as if it had been tuned."""
    kernel = find_kernel(workload, "gpu")
    assert kernel is not None
    return kernel.configs(workload, MACHINE)[0]


def plan_of(net: Net, folder: Path, choose: Any = first_config, halves: bool = False) -> Plan:
    graph = import_onnx(net.save(folder / "net.onnx"))
    run_passes(graph, GPU_PASSES)
    machine = GpuMachine(64, "float16") if halves else MACHINE
    return (GpuHalfLowering if halves else GpuLowering)(graph, machine, choose, {}).run()


def kinds_of(net: Net, folder: Path, **how: Any) -> list[str]:
    return [step.workload.kind for step in plan_of(net, folder, **how).steps]


def block(net: Net) -> str:
    """Append an inverted bottleneck without squeeze-excite; return its depthwise output."""
    net.conv((3, 8))
    start = net.last
    net.conv((8, 24), 1)
    net.op("Relu")
    net.conv((24, 24), group=24)
    window = net.op("Relu")
    net.conv((24, 8), 1)
    net.op("Add", start, net.last)
    return window


def test_parts_are_what_it_was_made_of() -> None:
    assert BOTH is not None
    assert BOTH.parts == (WINDOW, PRODUCT)
    assert BOTH.macs == WINDOW.macs + PRODUCT.macs
    assert workload_from_dict(BOTH.to_dict()) == BOTH
    assert real_macs(BOTH) == real_macs(WINDOW) + real_macs(PRODUCT) < BOTH.macs
    between = PRODUCT.rows * WINDOW.channels
    assert num_values(BOTH) == num_values(WINDOW) + num_values(PRODUCT) - 2 * between


def test_only_what_fits_is_joined() -> None:
    assert Separable.of(PRODUCT, WINDOW) is None
    assert Separable.of(WINDOW, Pointwise(32, 23, 16)) is None
    assert Separable.of(WINDOW, Pointwise(31, 24, 16)) is None
    assert Separable.of(WINDOW, Pointwise(32, 24, 16, has_dynamic_weights=True)) is None


def test_a_block_has_it_where_it_was_chosen(tmp_path: Path) -> None:
    net = Net((1, 3, 12, 12))
    block(net)
    net.classifier(8)
    expected = ["convolution", "pointwise", "separable", "global_pool", "pointwise"]
    assert kinds_of(net, tmp_path) == expected
    assert kinds_of(net, tmp_path, halves=True) == ["cast", *expected, "cast"]
    (found,) = (s.workload for s in plan_of(net, tmp_path).steps if s.workload.kind == "separable")
    assert found == Separable(
        1, 12, 12, (3, 3), (1, 1), (1, 1, 1, 1), 24, 8, "relu", "none", has_residual=True
    )


def test_without_measurements_there_are_two_kernels(tmp_path: Path) -> None:
    net = Net((1, 3, 12, 12))
    block(net)
    net.classifier(8)
    kinds = kinds_of(net, tmp_path, choose=lambda _: None)
    assert kinds[2:4] == ["depthwise", "pointwise"]


def test_what_another_operator_reads_is_written(tmp_path: Path) -> None:
    net = Net((1, 3, 12, 12))
    window = block(net)
    net.conv((8, 24), 1)
    net.op("Add", window, net.last)
    net.classifier(24)
    assert "separable" not in kinds_of(net, tmp_path)
    gated = Net((1, 3, 12, 12))
    gated.conv((3, 24))
    gated.conv((24, 24), group=24)
    gated.squeeze_excite(24, 8)
    gated.conv((24, 8), 1)
    gated.classifier(8)
    assert "gated_pointwise" in (kinds := kinds_of(gated, tmp_path))
    assert "separable" not in kinds


def record(workload: Workload | None, time_us: float, **changes: Any) -> TuningRecord:
    assert workload is not None
    values = {"config": {"width": 1}, "fingerprint": "gpu", "code": "c", "status": "ok"}
    return TuningRecord(workload=workload, time_us=time_us, **{**values, **changes})


@pytest.mark.parametrize(("time_us", "is_used"), [(2.0, True), (2.8, True), (2.9, False)])
def test_it_is_used_where_it_beats_both(time_us: float, is_used: bool) -> None:
    results = TuningResults(
        [record(WINDOW, 1.0), record(PRODUCT, 2.0), record(BOTH, time_us, is_default=True)]
    )
    assert BOTH is not None
    assert (BOTH.key in results.configs()) is is_used
    assert {WINDOW.key, PRODUCT.key} <= set(results.configs())


def test_it_is_not_used_where_parts_were_not_timed() -> None:
    for records in ([], [record(WINDOW, 9.0)], [record(WINDOW, 9.0), record(PRODUCT, 9.0)]):
        results = TuningResults([*records, record(BOTH, 1.0)])
        assert len(results.configs()) == (3 if len(records) == 2 else len(records))


def test_the_tuner_takes_it_last_and_counts_it_once() -> None:
    assert BOTH is not None
    works = (WINDOW, PRODUCT, BOTH)
    tasks = [Task(w, ({"width": 1}, {"width": 2}), 1.0) for w in reversed(works)]
    results = TuningResults(
        record(w, time_us, is_default=True)
        for w, time_us in zip(works, (2.0, 4.0, 3.0), strict=True)
    )
    plan = TuningPlan(tasks, results, Roofline(load_target("vulkan")))
    assert plan.tasks[-1].workload == BOTH
    assert speedup(plan) == 1.0
    (gain,) = gains(plan)
    assert (gain["default_us"], gain["best_us"], gain["speedup"]) == (6.0, 3.0, 2.0)


def test_pairs_of_a_network_are_replaced() -> None:
    assert BOTH is not None
    pool = GlobalPool(2, 16, 24)
    works = [PRODUCT, WINDOW, PRODUCT, WINDOW, pool, PRODUCT]
    assert separables(works) == [BOTH]
    assert joined(works, {BOTH.key}) == [PRODUCT, BOTH, WINDOW, pool, PRODUCT]
    assert joined(works, ()) == works


def test_a_space_has_them_on_gpus_only_and_times_count_what_is_used() -> None:
    space = search_space("ofa_mbv3_cifar")
    size = space.resolutions[0]
    union = workload_union(space, [size], family="gpu")
    found = [w for w in union if isinstance(w, Separable)]
    assert found
    assert not any(isinstance(w, Separable) for w in workload_union(space, [size]))
    apart = TuningResults(record(w, 10.0) for w in union if not isinstance(w, Separable))
    together = TuningResults(record(w, 10.0) for w in union)
    architecture = space.smallest(size)
    layers = space.layers(architecture)
    pairs = separables(workloads_of(layers, "gpu"))
    assert 0 < len(pairs) < len(layers)
    indices = space.indices([architecture])
    times = [
        tuned_kernel_times(space, [size], results, "gpu").per_slot(indices).sum()
        for results in (apart, together)
    ]
    assert times[0] - times[1] == pytest.approx(0.01 * len(pairs))
