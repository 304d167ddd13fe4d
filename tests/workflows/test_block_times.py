"""Times of kernel calls, added up block by block; the library is a stand-in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ofa_compile.compiler.workload import Pointwise, ScaleWeights
from ofa_compile.space import search_space
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.tuning.separables import separables
from ofa_compile.workflows import block_times

SPACE = search_space("ofa_mbv3_cifar")
LARGEST = SPACE.largest()


class Library:
    """A library whose steps take their numbers in milliseconds; one round in three is disturbed."""

    input_shape = (1, 3, 32, 32)

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.rounds, self.is_closed = num_steps, 0, False

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True

    def time_steps(self, x: np.ndarray, *, repeats: int, warmup: int) -> np.ndarray:
        self.rounds += 1
        factor = 5.0 if self.rounds % 3 == 0 else 1.0
        return np.tile(factor * np.arange(self.num_steps, dtype=float), (repeats, 1))


def bundle(num_steps: int, is_native: bool = True) -> Any:
    manifest = SimpleNamespace(
        target={"tvm_target": {"kind": "llvm"}},
        input_shape=(1, 3, 32, 32),
        precision="fp32",
        network={},
    )
    return SimpleNamespace(is_native=is_native, library=Library(num_steps), manifest=manifest)


def test_calls_add_up_to_blocks() -> None:
    sizes = block_times._calls_per_block(LARGEST)
    count = sum(sizes.values())
    measured = bundle(count)
    found = block_times.measure_blocks(measured, LARGEST)
    assert found is not None
    assert measured.library.is_closed
    assert [(item["stage"], item["block"]) for item in found] == list(sizes)
    first = sizes[-1, 0]
    assert found[0]["ms"] == sum(range(first))
    assert sum(item["ms"] for item in found) == pytest.approx(sum(range(count)))
    assert [item["num_calls"] for item in found] == list(sizes.values())


def test_other_networks_and_machines_have_no_blocks() -> None:
    assert block_times.measure_blocks(bundle(7), LARGEST) is None
    assert block_times.measure_blocks(bundle(7, is_native=False), LARGEST) is None


@pytest.mark.parametrize("name", ["ofa_mbv3_cifar", "ofa_resnet50"])
def test_blocks_are_cut_where_the_compilers_plan_has_them(name: str, tmp_path: Path) -> None:
    from ofa_compile.compiler.import_onnx import import_onnx
    from ofa_compile.compiler.kernel_registry import VectorMachine
    from ofa_compile.compiler.lower import lower
    from ofa_compile.compiler.pipeline import run_passes
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.hardware.target_spec import load_target
    from ofa_compile.supernet import load_supernet

    space = search_space(name)
    architecture = space.sample(np.random.default_rng(3), resolution=space.resolutions[0])
    path = tmp_path / "subnet.onnx"
    subnet = load_supernet(None, space=space).extract(architecture)
    export_onnx(subnet, path, resolution=architecture.resolution, check=False)
    graph = import_onnx(path)
    run_passes(graph)
    plan = lower(graph, VectorMachine.of(load_target("x86-64")), lambda _: None)
    steps = iter(step.workload for step in plan.steps)
    layers = space.layers(architecture)
    for (stage, block), size in block_times._calls_per_block(architecture).items():
        found = [next(steps) for _ in range(size)]
        mine = [layer for layer in layers if (layer.stage, layer.block) == (stage, block)]
        plain = Counter(step for step in found if not isinstance(step, ScaleWeights))
        assert plain == Counter(workloads_of(mine))
        dynamic = sum(isinstance(s, Pointwise) and s.has_dynamic_weights for s in plain)
        assert sum(isinstance(step, ScaleWeights) for step in found) == dynamic
    assert next(steps, None) is None


def test_kernels_for_two_layers_are_one_call() -> None:
    layers = SPACE.layers(LARGEST)
    keys = [pair.key for pair in separables(workloads_of(layers, "gpu"))]
    apart = block_times._calls_per_block(LARGEST, "gpu")
    together = block_times._calls_per_block(LARGEST, "gpu", separable=keys)
    assert sum(apart.values()) - sum(together.values()) == len(keys) > 0
