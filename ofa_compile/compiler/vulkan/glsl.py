"""PrimFunc of one device kernel -> GLSL compute shader.

Every buffer becomes a storage buffer (binding = position among the buffers), every scalar a push
constant.
"""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.gpu.source import KernelSource, SourceGenerator
from ofa_compile.compiler.gpu.types import split_lanes

# Every Vulkan device accepts this many workgroups in a dimension; longer grids are folded.
MAX_WORKGROUPS = 65535

_QUALIFIERS = {"read": "readonly ", "write": "writeonly ", "both": ""}
_EXTENSIONS = {
    "float16": ("explicit_arithmetic_types_float16", "16bit_storage"),
    "int64": ("explicit_arithmetic_types_int64",),
    "uint64": ("explicit_arithmetic_types_int64",),
    "int8": ("explicit_arithmetic_types_int8", "8bit_storage"),
    "uint8": ("explicit_arithmetic_types_int8", "8bit_storage"),
}


def generate_glsl(function: Any) -> KernelSource:
    """Generate the shader of a device function.

    Raises
    ------
    BuildError
        If the function holds something that GLSL cannot express.
    """
    return _Generator(function).generate()


def extensions_of(dtype: str) -> tuple[str, ...]:
    """Return the GLSL extensions that a type needs."""
    names = _EXTENSIONS.get(split_lanes(dtype)[0], ())
    return tuple(f"GL_EXT_shader_{name}" for name in names)


class _Generator(SourceGenerator):
    max_grid = (MAX_WORKGROUPS,) * 3

    def declare_thread(self, name: str, kind: str, letter: str, extent: Any) -> None:
        if kind == "threadIdx":
            self.line(f"int {name} = int(gl_LocalInvocationID.{letter});")
            return
        group = f"gl_WorkGroupID.{letter}"
        size = self.launch.grid[0]
        if letter != "x" or (size is not None and size <= MAX_WORKGROUPS):
            self.line(f"int {name} = int({group});")
            return
        self.launch.is_folded = True
        self.line(f"int {name} = int({group} + gl_WorkGroupID.z * gl_NumWorkGroups.x);")
        self.line(f"if ({name} >= {self.expression(extent)}) return;")

    def text(self) -> str:
        head = []
        for number, name in enumerate(self.buffers):
            dtype = self.buffer_types[name]
            element = self.type_name("int8" if dtype == "bool" else dtype)
            layout = f"layout(set = 0, binding = {number}, std430)"
            block = f"{_QUALIFIERS[self.access(name)]}buffer Buffer{number}"
            head.append(f"{layout} restrict {block} {{ {element} {name}[]; }};")
        if self.scalars:
            members = " ".join(f"{self.type_name(dtype)} {name};" for name, dtype in self.scalars)
            head.append(f"layout(push_constant) uniform Scalars {{ {members} }};")
        extensions = sorted({e for t in self.base_types for e in extensions_of(t)})
        x, y, z = self.launch.threads
        lines = [
            "#version 450",
            *(f"#extension {name} : require" for name in extensions),
            f"layout(local_size_x = {x}, local_size_y = {y}, local_size_z = {z}) in;",
            *head,
            *(f"shared {declaration}" for declaration in self.shared),
            "void main() {",
            *self.lines,
            "}",
        ]
        return "\n".join(lines) + "\n"
