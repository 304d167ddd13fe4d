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
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.space import Architecture, search_space


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
) -> None:
    """Assert that `count` random subnets of a space compute what PyTorch computes.

    `look` is called while the device of each is open.
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
        compiled = compile_onnx(
            path,
            target,
            folder / str(number),
            symbol_prefix="ofa_g_",
            cache=cache,
        )
        with NativeLibrary(compiled.library, "ofa_g_") as library:
            verify(library.run, x, expected, tolerance_of(target.precision))
            look()
