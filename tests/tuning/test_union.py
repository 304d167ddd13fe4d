"""The union of workloads against what the compiler really makes of subnets."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ofa_compile.compiler.workload import Pointwise, ScaleWeights, Workload, workload_from_dict
from ofa_compile.errors import ArchitectureError, ArtifactError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.space import search_space
from ofa_compile.space.architecture import Architecture
from ofa_compile.supernet import load_supernet
from ofa_compile.supernet.supernet import Supernet
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.tuning.union import workload_union

if TYPE_CHECKING:
    from ofa_compile.compiler.graph import Graph
    from ofa_compile.compiler.kernel_registry import VectorMachine

SPACES = {
    "ofa_mbv3_d234_e346_k357_w1.0": 224,
    "ofa_proxyless_d234_e346_k357_w1.3": 160,
    "ofa_resnet50": 132,  # odd sizes on the way: average pools with incomplete windows
    "ofa_mbv3_cifar": 28,
}
# The last block writes floats, for the pool behind it, and which block that is depends.
INT8_RESNET = ("ofa_resnet50", "int8")


def export(supernet: Supernet, architecture: Architecture, path: Path) -> None:
    from ofa_compile.export.onnx_export import export_onnx

    export_onnx(
        supernet.extract(architecture), path, resolution=architecture.resolution, check=False
    )


def twin(graph: Graph) -> Graph:
    """Return a copy that passes may change; weights and what came from Relax are shared."""
    values = [graph.input, *(value for node in graph.nodes for value in node.inputs)]
    shared = [value.data for value in values if value.data is not None]
    shared += [part for node in graph.nodes for part in node.attrs.values()]
    return copy.deepcopy(graph, {id(part): part for part in shared})


def compiled_workloads(graph: Graph, precision: str) -> list[Workload]:
    """Return the workloads of a real plan, in order; changes the graph."""
    from ofa_compile.compiler.fp16 import lower_fp16
    from ofa_compile.compiler.kernel_registry import VectorMachine
    from ofa_compile.compiler.lower import lower
    from ofa_compile.compiler.pipeline import run_passes

    target = target_in(load_target("cortex-a76" if precision == "fp16" else "x86-64"), precision)
    machine = VectorMachine.of(target)
    if precision == "int8":
        return int8_workloads(graph, machine)
    run_passes(graph)
    lower_floats = lower_fp16 if precision == "fp16" else lower
    return [step.workload for step in lower_floats(graph, machine, lambda _: None).steps]


def int8_workloads(graph: Graph, machine: VectorMachine) -> list[Workload]:
    """Lower to bytes; ranges decide about scales only, so that any will do."""
    from ofa_compile.compiler.int8.lower import lower_int8
    from ofa_compile.compiler.int8.quantise import quantise
    from ofa_compile.compiler.int8.ranges import Range
    from ofa_compile.compiler.pipeline import INT8_PASSES, run_passes

    run_passes(graph, INT8_PASSES)
    values = [graph.input, *(node.output for node in graph.nodes)]
    ones = {value.id: np.ones(value.shape[1]) for value in values}
    ranges = {key: Range(-one, one, one) for key, one in ones.items()}
    return [step.workload for step in lower_int8(quantise(graph, ranges), machine, _none).steps]


def _none(workload: Workload) -> None:
    """Choose the default."""


def check(space_name: str, resolution: int, count: int, path: Path) -> None:
    from ofa_compile.compiler.import_onnx import import_onnx

    space = search_space(space_name)
    supernet = load_supernet(None, space=space)
    rng = np.random.default_rng(7)
    precisions = ("fp32", "int8", "fp16")
    unions = {p: set(workload_union(space, [resolution], precision=p)) for p in precisions}
    for _ in range(count):
        architecture = space.sample(rng, resolution=resolution)
        export(supernet, architecture, path)
        graph = import_onnx(path)
        for precision, union in unions.items():
            real = compiled_workloads(twin(graph), precision)
            scaled = [w for w in real if isinstance(w, Pointwise) and w.has_dynamic_weights]
            assert sum(isinstance(w, ScaleWeights) for w in real) == len(scaled)
            plain = [w for w in real if not isinstance(w, ScaleWeights)]
            layers = space.layers(architecture)
            assert Counter(plain) == Counter(workloads_of(layers, precision=precision))
            assert set(plain) <= union


@pytest.mark.parametrize(("space", "resolution"), SPACES.items())
def test_a_subnets_workloads_are_in_the_union(space: str, resolution: int, tmp_path: Path) -> None:
    check(space, resolution, 1, tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["ofa_mbv3_cifar", "ofa_resnet50"])
def test_a_gpu_has_workloads_of_its_own_for_a_batch(name: str, tmp_path: Path) -> None:
    from ofa_compile.compiler.gpu.lower import GpuLowering
    from ofa_compile.compiler.import_onnx import import_onnx
    from ofa_compile.compiler.kernel_registry import GpuMachine
    from ofa_compile.compiler.pipeline import GPU_PASSES, run_passes
    from ofa_compile.export.onnx_export import export_onnx

    space = search_space(name)
    subnet = space.sample(np.random.default_rng(5), resolution=SPACES[name])
    module = load_supernet(None, space=space).extract(subnet)
    path = tmp_path / "net.onnx"
    export_onnx(module, path, resolution=subnet.resolution, batch=2, check=False)
    graph = import_onnx(path)
    run_passes(graph, GPU_PASSES)
    steps = GpuLowering(graph, GpuMachine(8192), lambda _: None, {}).run().steps
    real = [step.workload for step in steps]
    assert Counter(real) == Counter(workloads_of(space.layers(subnet), "gpu", batch=2))
    assert set(real) <= set(workload_union(space, [subnet.resolution], family="gpu", batch=2))
    assert all(workload_from_dict(w.to_dict()) == w for w in real)


@pytest.mark.slow
@pytest.mark.parametrize(("space", "resolution"), SPACES.items())
def test_many_subnets_workloads_are_in_the_union(
    space: str, resolution: int, tmp_path: Path
) -> None:
    # Enough that a value of one of six is missing from one place with a probability of 0.4 %.
    check(space, resolution, 30, tmp_path / "net.onnx")


@pytest.mark.parametrize(("name", "precision"), [*((n, "fp32") for n in SPACES), INT8_RESNET])
def test_expected_numbers_are_those_of_a_large_sample(name: str, precision: str) -> None:
    space = search_space(name)
    resolution = SPACES[name]
    union = workload_union(space, [resolution], precision=precision)
    rng = np.random.default_rng(3)
    sample = 2000
    counts: Counter[Workload] = Counter()
    for row in space.sample_indices(rng, sample):
        architecture = dataclasses.replace(space.from_indices(row), resolution=resolution)
        counts.update(workloads_of(space.layers(architecture), precision=precision))
    assert set(counts) <= set(union)
    for workload, expected in union.items():
        # Five standard deviations of a Poisson count, which is wider than the true spread.
        assert abs(counts[workload] - sample * expected) < 5 * (sample * expected) ** 0.5 + 1


def test_the_union_over_resolutions_shares_what_does_not_depend_on_it() -> None:
    space = search_space("ofa_mbv3_cifar")
    single = workload_union(space, [32])
    both = workload_union(space, [28, 32])
    assert set(single) < set(both)
    classifier = Pointwise(1, 640, 10)
    assert both[classifier] == pytest.approx(1.0)
    assert sum(both.values()) == pytest.approx(sum(single.values()))


def test_a_resolution_outside_the_space_is_named() -> None:
    with pytest.raises(ArchitectureError, match="resolution 33 is outside ofa_mbv3_cifar"):
        workload_union(search_space("ofa_mbv3_cifar"), [33])


def test_workloads_survive_their_dictionary() -> None:
    for workload in workload_union(search_space("ofa_resnet50"), [128]):
        assert workload_from_dict(workload.to_dict()) == workload
    with pytest.raises(ArtifactError, match="unknown kind of workload 'pointless'"):
        workload_from_dict({"kind": "pointless"})
    with pytest.raises(ArtifactError, match="fields of a pointwise workload"):
        workload_from_dict({"kind": "pointwise", "rows": 3, "columns": 4})
