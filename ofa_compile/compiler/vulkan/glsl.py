"""PrimFunc of one device kernel -> GLSL compute shader.

The input is TIR after lowering: flat buffers, thread extents as attributes, no blocks. Every
pointer parameter becomes a storage buffer (binding = position among the pointers), every scalar
one a push constant.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from ofa_compile.compiler.vulkan.glsl_expressions import Expressions
from ofa_compile.compiler.vulkan.glsl_types import extensions_of, split_lanes, type_name
from ofa_compile.errors import BuildError

# Every Vulkan device accepts this many workgroups in a dimension; larger grids are folded.
MAX_WORKGROUPS = 65535


@dataclass(frozen=True)
class Shader:
    """A compute shader.

    Attributes
    ----------
    source
        GLSL text.
    bindings
        Element types of its storage buffers, in order of their bindings.
    scalars
        Types of its push constants, in order.
    parameters
        For every parameter in order: True for a buffer, False for a scalar.
    threads
        Size of a workgroup.
    grid
        Workgroups to launch; None where the extents are not constants.
    is_folded
        Whether workgroup counts above `MAX_WORKGROUPS` are expected to go on in z.
    base_types
        Element types that occur anywhere.
    """

    source: str
    bindings: tuple[str, ...]
    scalars: tuple[str, ...]
    parameters: tuple[bool, ...]
    threads: tuple[int, int, int]
    grid: tuple[int, int, int] | None
    is_folded: bool
    base_types: frozenset[str]


def generate_glsl(function: Any) -> Shader:
    """Generate the shader of a device function.

    Raises
    ------
    BuildError
        If the function holds something that GLSL cannot express.
    """
    return _Generator(function).generate()


@dataclass
class _Launch:
    threads: list[int] = field(default_factory=lambda: [1, 1, 1])
    grid: list[int | None] = field(default_factory=lambda: [1, 1, 1])
    is_folded: bool = False


class _Generator(Expressions):
    """Statements; expressions are the base class's."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.launch = _Launch()
        self.shared: list[str] = []
        self.bound_threads: set[str] = set()

    def generate(self) -> Shader:
        buffers: list[tuple[str, str]] = []
        scalars: list[tuple[str, str]] = []
        parameters = []
        for parameter in self.function.params:
            name = self.bind(parameter, parameter.name)
            kind = parameter.ty
            is_buffer = type(kind).__name__ == "PointerType"
            parameters.append(is_buffer)
            element = kind.element_type if is_buffer else kind
            dtype = str(getattr(element, "dtype", element))
            if is_buffer:
                buffers.append((name, dtype))
                self.buffer_types[name] = dtype
                if dtype == "bool":  # a byte each in memory; GLSL's own have no such form
                    self.byte_bools.add(name)
            else:
                scalars.append((name, dtype))
        self.statement(self.function.body)
        return Shader(
            source=self._text(buffers, scalars),
            bindings=tuple(self.buffer_types[name] for name, _ in buffers),
            scalars=tuple(dtype for _, dtype in scalars),
            parameters=tuple(parameters),
            threads=_triple(self.launch.threads),
            grid=self._grid(),
            is_folded=self.launch.is_folded,
            base_types=frozenset(self.base_types),
        )

    def _grid(self) -> tuple[int, int, int] | None:
        if any(extent is None for extent in self.launch.grid):
            return None
        x, y, z = (int(extent or 1) for extent in self.launch.grid)
        if x > MAX_WORKGROUPS:
            z = math.ceil(x / MAX_WORKGROUPS)
            x = MAX_WORKGROUPS
        return x, y, z

    def _text(self, buffers: list[tuple[str, str]], scalars: list[tuple[str, str]]) -> str:
        head = []
        for number, (name, _) in enumerate(buffers):
            dtype = self.buffer_types[name]
            element = "int8_t" if dtype == "bool" else self.type_name(dtype)
            if dtype == "bool":
                self.type_name("int8")
            access = "readonly " if name not in self.written else ""
            if name in self.written and name not in self.read:
                access = "writeonly "
            layout = f"layout(set = 0, binding = {number}, std430)"
            head.append(
                f"{layout} restrict {access}buffer Buffer{number} {{ {element} {name}[]; }};"
            )
        if scalars:
            members = " ".join(f"{self.type_name(dtype)} {name};" for name, dtype in scalars)
            head.append(f"layout(push_constant) uniform Scalars {{ {members} }};")
        extensions = sorted({e for t in self.base_types for e in extensions_of(t)})
        x, y, z = self.launch.threads
        lines = [
            "#version 450",
            *(f"#extension {name} : require" for name in extensions),
            f"layout(local_size_x = {x}, local_size_y = {y}, local_size_z = {z}) in;",
            *head,
            *self.shared,
            "void main() {",
            *self.lines,
            "}",
        ]
        return "\n".join(lines) + "\n"

    # Statements

    def statement(self, node: Any) -> None:
        method = getattr(self, f"_do_{type(node).__name__}", None)
        if method is None:
            msg = f"no GLSL for the statement {type(node).__name__}"
            raise BuildError(msg)
        method(node)

    def _do_SeqStmt(self, node: Any) -> None:
        for item in node.seq:
            self.statement(item)

    def _do_DeclBuffer(self, node: Any) -> None:
        data = node.data
        if type(data).__name__ != "Var":
            data = data.args[0]
        name = self.name_of(data)
        self.alias(node.buffer, name)
        declared = str(node.buffer.ty.dtype)
        known = self.buffer_types.get(name)
        if known is not None and known != declared and {known, declared} != {"bool", "int8"}:
            # A pointer may be typed by its elements and read as vectors of them.
            msg = f"buffer {name} of {known} is read as {declared}"
            raise BuildError(msg)

    def _do_AllocBuffer(self, node: Any) -> None:
        buffer = node.buffer
        name = self.bind(buffer, buffer.name)
        dtype = str(buffer.ty.dtype)
        self.buffer_types[name] = dtype
        element = "int" if dtype == "bool" else self.type_name(dtype)
        size = math.prod(int(extent) for extent in buffer.ty.shape)
        if str(buffer.ty.storage_scope).startswith("shared"):
            self.shared.append(f"shared {element} {name}[{size}];")
        else:
            self.line(f"{element} {name}[{size}];")

    def _do_AttrStmt(self, node: Any) -> None:
        if node.attr_key == "thread_extent":
            self._bind_thread(node.node, node.value)
        self.statement(node.body)

    def _bind_thread(self, axis: Any, extent: Any) -> None:
        tag, variable = str(axis.thread_tag), axis.var
        kind, letter = tag.split(".")
        index = "xyz".index(letter)
        if self.is_bound(variable):
            return
        size = int(extent) if type(extent).__name__ == "IntImm" else None
        builtin = "gl_LocalInvocationID" if kind == "threadIdx" else "gl_WorkGroupID"
        value = f"{builtin}.{letter}"
        if kind == "threadIdx":
            if size is None:
                msg = "the size of a workgroup must be a constant"
                raise BuildError(msg)
            self.launch.threads[index] = size
        else:
            self.launch.grid[index] = size
            if tag == "blockIdx.x" and (size is None or size > MAX_WORKGROUPS):
                self.launch.is_folded = True
                value = f"{value} + gl_WorkGroupID.z * gl_NumWorkGroups.x"
        name = self.bind(variable, re.sub(r"\W", "_", tag))
        self.line(f"int {name} = int({value});")
        if value != f"{builtin}.{letter}":
            self.line(f"if ({name} >= {self.expression(extent)}) return;")

    def _do_Bind(self, node: Any) -> None:
        value = self.expression(node.value)
        kind = self.type_name(self.dtype(node.var))
        self.line(f"{kind} {self.bind(node.var, node.var.name)} = {value};")

    def _do_BufferStore(self, node: Any) -> None:
        name = self.name_of(node.buffer)
        self.written.add(name)
        value = self.expression(node.value)
        (index,) = node.indices
        dtype = self.dtype(node.value)
        _, lanes = split_lanes(dtype)
        if lanes == split_lanes(self.buffer_types.get(name, dtype))[1]:
            stored = value
            if self.buffer_types.get(name) == "bool":
                stored = f"{'int8_t' if name in self.byte_bools else 'int'}({value})"
            self.line(f"{name}[{self.expression(index)}] = {stored};")
            return
        vector = self.temporary(type_name(dtype), value)
        for lane, place in enumerate(self.places(index, lanes)):
            self.line(f"{name}[{place}] = {vector}[{lane}];")

    def _do_For(self, node: Any) -> None:
        low, extent = self.expression(node.min), self.expression(node.extent)
        kind = self.type_name(self.dtype(node.loop_var))
        name = self.bind(node.loop_var, node.loop_var.name)
        high = extent if low == "0" else f"{low} + {extent}"
        self.line(f"for ({kind} {name} = {low}; {name} < {high}; ++{name}) {{")
        self.block(node.body)

    def _do_While(self, node: Any) -> None:
        self.line("while (true) {")
        with self.indented():
            self.line(f"if (!({self.expression(node.condition)})) break;")
            self.statement(node.body)
        self.line("}")

    def _do_IfThenElse(self, node: Any) -> None:
        self.line(f"if ({self.expression(node.condition)}) {{")
        if node.else_case is None:
            self.block(node.then_case)
            return
        with self.indented():
            self.statement(node.then_case)
        self.line("} else {")
        self.block(node.else_case)

    def _do_Evaluate(self, node: Any) -> None:
        if type(node.value).__name__ != "IntImm":
            self.line(f"{self.expression(node.value)};")

    def block(self, body: Any) -> None:
        """Emit a body and close its brace."""
        with self.indented():
            self.statement(body)
        self.line("}")


def _triple(values: list[int]) -> tuple[int, int, int]:
    x, y, z = values
    return x, y, z
