"""Sampled subnets of every shipped space on a Vulkan device against PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.verify import noise_inputs, verify
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.space import Architecture, search_space, search_spaces

pytestmark = [pytest.mark.vulkan, pytest.mark.slow]
SUBNETS = 10


@pytest.mark.parametrize("name", search_spaces())
def test_subnets_agree_with_pytorch(
    name: str, tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    import dataclasses

    import torch

    from ofa_compile.export import export_onnx
    from ofa_compile.supernet import load_supernet

    space = search_space(name)
    supernet = load_supernet(None, space=name)
    for number in range(SUBNETS):
        # Small images: a software device computes some 100 M MACs a second.
        resolution = min(space.resolutions)
        arch: Architecture = dataclasses.replace(space.sample(rng), resolution=resolution)
        subnet = supernet.extract(arch)
        path = tmp_path / f"{number}.onnx"
        export_onnx(subnet, path, resolution=resolution, check=False)
        x = noise_inputs((1, 3, resolution, resolution), 1, seed=number)
        with torch.inference_mode():
            expected = subnet(torch.from_numpy(x)).numpy()
        compiled = compile_onnx(
            path, vulkan, tmp_path / str(number), symbol_prefix="ofa_v_", cache=cache
        )
        with NativeLibrary(compiled.library, "ofa_v_") as library:
            verify(library.run, x, expected)
