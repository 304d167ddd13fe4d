"""The text of shaders; needs neither a device nor glslang."""

from __future__ import annotations

from typing import Any

import pytest

from ofa_compile.compiler.gpu import types
from ofa_compile.compiler.gpu.kernels import generate_kernel
from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.vulkan.backend import VulkanBackend
from ofa_compile.compiler.workload import Add, GlobalPool, Pointwise, Workload
from ofa_compile.errors import BuildError


def shader(work: Workload) -> KernelSource:
    kernel = find_kernel(work, "gpu")
    assert kernel is not None
    machine = GpuMachine(8192)
    function: Any = kernel.build(work, kernel.configs(work, machine)[0], machine)
    return generate_kernel(function, work.kind, VulkanBackend())


def test_multiples_of_four_are_read_as_vectors() -> None:
    assert shader(Add(64)).bindings == ("float32x4",) * 3
    assert shader(Add(66)).bindings == ("float32",) * 3


def test_buffers_say_how_they_are_used() -> None:
    source = shader(Pointwise(49, 16, 24)).text
    assert source.count("restrict readonly buffer") == 3
    assert source.count("restrict writeonly buffer") == 1


def test_threads_and_memory_stay_within_what_every_device_has() -> None:
    for rows in (1, 49, 3136):
        for channels in (8, 96, 960):
            found = shader(Pointwise(rows, channels, 96))
            x, y, z = found.threads
            assert x * y * z <= 128
            assert found.grid is not None
            assert max(found.grid) <= 65535


def test_a_barrier_is_reached_by_all_threads() -> None:
    lines = shader(GlobalPool(1, 49, 40)).text.splitlines()
    depth = 0
    for line in lines[: next(i for i, text in enumerate(lines) if "barrier" in text)]:
        depth += line.count("{") - line.count("}")
    assert depth == 1  # of main alone


def test_wide_grids_go_on_in_z() -> None:
    found = shader(Add(4 * 64 * 70_000))
    assert found.grid == (65535, 1, 2)
    assert "gl_WorkGroupID.z * gl_NumWorkGroups.x" in found.text


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (1.0, "float32", "1.0"),
        (-2.5, "float32", "(-2.5)"),
        (1e30, "float32", "1e+30"),
        (float("-inf"), "float32", "-uintBitsToFloat(0x7f800000u)"),
        (-(2**31), "int32", "(-2147483647 - 1)"),
        (7, "uint32", "7u"),
        (1, "bool", "true"),
    ],
)
def test_literals(value: float, dtype: str, text: str) -> None:
    assert types.literal(value, dtype) == text


def test_types_that_glsl_lacks() -> None:
    with pytest.raises(BuildError, match="no type for float32x8"):
        types.type_name("float32x8")
