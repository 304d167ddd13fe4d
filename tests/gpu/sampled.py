"""Sampled subnets of a shipped space as bundles for a GPU, against PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.verify import noise_inputs, tolerance_of, verify
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.kernel_registry import Config, GpuMachine, find_kernel
from ofa_compile.compiler.workload import Workload
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.space import Architecture, search_space
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.tuning.separables import separables


def check_subnets(
    name: str,
    count: int,
    target: TargetSpec,
    folder: Path,
    cache: Cache,
    rng: np.random.Generator,
    batch: int = 1,
    resolution: int | None = None,
    look: Callable[[], object] = bool,
    joins: bool = False,
) -> None:
    """Assert that `count` random subnets of a space compute what PyTorch computes.

    `look` is called while the device of each is open. With `joins`, depthwise and pointwise
    convolutions are one kernel where they can be.
    """
    import torch

    from ofa_compile.export import export_onnx
    from ofa_compile.supernet import load_supernet

    space = search_space(name)
    supernet = load_supernet(None, space=name)
    # Small images: a software device computes some 100 M MACs a second.
    resolution = resolution or min(space.resolutions)
    for number in range(count):
        arch: Architecture = dataclasses.replace(space.sample(rng), resolution=resolution)
        subnet = supernet.extract(arch)
        path = folder / f"{number}.onnx"
        export_onnx(subnet, path, resolution=resolution, batch=batch, check=False)
        x = noise_inputs((batch, 3, resolution, resolution), batch, seed=number)
        with torch.inference_mode():
            expected = subnet(torch.from_numpy(x)).numpy()
        works = workloads_of(space.layers(arch), "gpu", batch, target.precision)
        pairs = separables(works) if joins else []
        compiled = compile_onnx(
            path,
            target,
            folder / str(number),
            symbol_prefix="ofa_g_",
            cache=cache,
            tuned={pair.key: _first_config(pair, target) for pair in pairs},
        )
        assert len(compiled.steps) == len(works) - len(pairs)
        assert bool(pairs) is joins
        with NativeLibrary(compiled.library, "ofa_g_") as library:
            verify(library.run, x, expected, tolerance_of(target.precision))
            look()


def _first_config(work: Workload, target: TargetSpec) -> Config:
    kernel = find_kernel(work, "gpu")
    assert kernel is not None
    return dict(kernel.configs(work, GpuMachine.of(target))[0])
