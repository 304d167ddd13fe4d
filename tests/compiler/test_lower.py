from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_nets import Net, mobile_net

from ofa_compile.compiler.import_onnx import import_onnx
from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.compiler.lower import lower
from ofa_compile.compiler.pipeline import run_passes
from ofa_compile.compiler.plan import Plan, place_buffers
from ofa_compile.compiler.workload import Convolution, Pointwise, Workload
from ofa_compile.errors import CompilationError
from ofa_compile.export import export_onnx
from ofa_compile.space.registry import search_space, search_spaces
from ofa_compile.supernet.checkpoint import load_supernet

CORES = (VectorMachine(16, 32, False), VectorMachine(8, 16, False), VectorMachine(4, 32, True))


def lowered(path: Path, core: VectorMachine = CORES[0], choose: Any = lambda _: None) -> Plan:
    graph = import_onnx(path)
    run_passes(graph)
    return lower(graph, core, choose)


def kind_counts(plan: Plan) -> Counter[str]:
    return Counter(step.workload.kind for step in plan.steps)


@pytest.mark.parametrize("name", search_spaces())
@pytest.mark.parametrize("pick", ["smallest", "sample"])
def test_subnets_need_no_change_of_layout(
    tmp_path: Path, rng: np.random.Generator, name: str, pick: str
) -> None:
    space = search_space(name)
    architecture = space.sample(rng) if pick == "sample" else space.smallest()
    subnet = load_supernet(None, space=name).eval().extract(architecture)
    # An odd size, and one at which the last maps have a single position.
    for resolution in (52, 32):
        path = export_onnx(subnet, tmp_path / "net.onnx", resolution=resolution, check=False)
        counts = kind_counts(lowered(path))
        assert counts["change_layout"] == 0
        assert counts["generic"] == 0
        assert counts["activate"] == 0


def test_every_resolution_of_a_space_lowers(tmp_path: Path) -> None:
    name = "ofa_mbv3_d234_e346_k357_w1.0"
    space = search_space(name)
    assert len(space.resolutions) == 25
    subnet = load_supernet(None, space=name).eval().extract(space.smallest())
    arenas = []
    for resolution in space.resolutions:
        path = export_onnx(subnet, tmp_path / "net.onnx", resolution=resolution, check=False)
        plan = lowered(path)
        assert plan.input_shape == (1, 3, resolution, resolution)
        assert kind_counts(plan)["change_layout"] == 0
        arenas.append(place_buffers(plan)[1])
    assert arenas == sorted(arenas)


@pytest.mark.parametrize("core", CORES, ids=["avx512", "avx2", "neon"])
def test_plan_of_a_mobile_network(tmp_path: Path, core: VectorMachine) -> None:
    plan = lowered(mobile_net().save(tmp_path / "net.onnx"), core)
    assert [step.workload.kind for step in plan.steps] == [
        "convolution",
        "pointwise",
        "depthwise",
        "global_pool",
        "pointwise",
        "pointwise",
        "scale_weights",
        "pointwise",
        "pointwise",
        "depthwise",
        "pointwise",
        "global_pool",
        "pointwise",
    ]
    stem = plan.steps[0].workload
    assert isinstance(stem, Convolution)
    assert stem.input_layout == "nchw"
    projection = plan.steps[7].workload
    assert isinstance(projection, Pointwise)
    assert projection.has_dynamic_weights
    assert projection.has_residual
    for step in plan.steps:
        kernel = find_kernel(step.workload)
        assert kernel is not None
        assert step.num_tiles == kernel.num_tiles(step.workload, step.config, core)
        assert step.num_values * 4 <= plan.buffer_bytes[step.output.index]


def last_config(workload: Workload) -> dict[str, int]:
    kernel = find_kernel(workload)
    assert kernel is not None
    return dict(kernel.configs(workload, CORES[0])[-1])


def test_a_chosen_configuration_is_used(tmp_path: Path) -> None:
    asked: list[Workload] = []

    def choose(workload: Workload) -> dict[str, int] | None:
        asked.append(workload)
        return last_config(workload) if isinstance(workload, Pointwise) else None

    plan = lowered(mobile_net().save(tmp_path / "net.onnx"), choose=choose)
    products = [s for s in plan.steps if isinstance(s.workload, Pointwise)]
    assert [s.config for s in products] == [last_config(s.workload) for s in products]
    assert {type(w) for w in asked} == {type(s.workload) for s in plan.steps}


def test_a_network_that_computes_nothing_is_refused(tmp_path: Path) -> None:
    net = Net((1, 3, 4, 4))
    net.op("Flatten")
    with pytest.raises(CompilationError, match="computes nothing"):
        lowered(net.save(tmp_path / "net.onnx"))


def test_a_workload_that_no_kernel_takes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ofa_compile.kernels  # noqa: F401  (registers what is then taken away)
    from ofa_compile.compiler import kernel_registry

    kernels = {k: v for k, v in kernel_registry._KERNELS.items() if k != ("cpu", "depthwise")}
    monkeypatch.setattr(kernel_registry, "_KERNELS", kernels)
    with pytest.raises(CompilationError, match=r"no kernel serves .*depthwise"):
        lowered(mobile_net().save(tmp_path / "net.onnx"))


def test_flattening_a_map_restores_the_order_of_onnx(tmp_path: Path) -> None:
    net = Net((1, 3, 4, 6))
    net.conv((3, 5))
    net.op("Flatten")
    net.op("Gemm", net.last, net.draw(120, 7))
    plan = lowered(net.save(tmp_path / "net.onnx"))
    assert list(kind_counts(plan)) == ["convolution", "change_layout", "pointwise"]
