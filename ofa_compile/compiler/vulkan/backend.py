"""Kernels for Vulkan: GLSL, compiled to SPIR-V by glslang."""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.gpu.backend import Toolkit
from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.vulkan.glsl import generate_glsl
from ofa_compile.compiler.vulkan.spirv import compile_glsl, find_glslang


class VulkanBackend:
    """Serves every Vulkan device alike."""

    def toolkit(self) -> Toolkit:
        """Return glslang's version."""
        return Toolkit(find_glslang().version)

    def generate(self, function: Any, name: str) -> KernelSource:
        """Return the shader of a lowered kernel."""
        return generate_glsl(function)

    def compile(self, source: str, name: str) -> bytes:
        """Return the SPIR-V of a shader."""
        return compile_glsl(source, name)
