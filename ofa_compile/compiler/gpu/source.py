"""PrimFunc of one device kernel -> text of the kernel, whatever the language.

The input is TIR after lowering: flat buffers, thread extents as attributes, no blocks. Every
pointer parameter is a buffer. What differs between GLSL and CUDA is in their generators.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from ofa_compile.compiler.gpu.expressions import Expressions
from ofa_compile.compiler.gpu.types import split_lanes, type_name
from ofa_compile.errors import BuildError


@dataclass(frozen=True)
class KernelSource:
    """A kernel as text.

    Attributes
    ----------
    text
        GLSL, or C++ for CUDA.
    bindings
        Element types of its buffers, in order.
    scalars
        Types of its scalar parameters, in order.
    parameters
        For every parameter in order: True for a buffer, False for a scalar.
    threads
        Size of a workgroup.
    grid
        Workgroups to launch; None where the extents are not constants.
    is_folded
        Whether a long grid is expected to go on in z.
    base_types
        Element types that occur anywhere.
    """

    text: str
    bindings: tuple[str, ...]
    scalars: tuple[str, ...]
    parameters: tuple[bool, ...]
    threads: tuple[int, int, int]
    grid: tuple[int, int, int] | None
    is_folded: bool
    base_types: frozenset[str]


@dataclass
class _Launch:
    threads: list[int] = field(default_factory=lambda: [1, 1, 1])
    grid: list[int | None] = field(default_factory=lambda: [1, 1, 1])
    is_folded: bool = False


class SourceGenerator(Expressions, ABC):
    """Statements; expressions are the base class's.

    Attributes
    ----------
    max_grid
        Workgroups that every device accepts in x, y and z.
    """

    max_grid: tuple[int, int, int]

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.launch = _Launch()
        self.shared: list[str] = []
        self.buffers: list[str] = []
        self.scalars: list[tuple[str, str]] = []

    @abstractmethod
    def declare_thread(self, name: str, kind: str, letter: str, extent: Any) -> None:
        """Declare the variable that holds a coordinate of the workgroup or the thread."""

    @abstractmethod
    def text(self) -> str:
        """Return the whole kernel, from what has been generated."""

    def generate(self) -> KernelSource:
        """Generate the kernel.

        Raises
        ------
        BuildError
            If the function holds something that the language cannot express.
        """
        parameters = []
        for parameter in self.function.params:
            name = self.bind(parameter, parameter.name)
            kind = parameter.ty
            is_buffer = type(kind).__name__ == "PointerType"
            parameters.append(is_buffer)
            element = kind.element_type if is_buffer else kind
            dtype = str(getattr(element, "dtype", element))
            if is_buffer:
                self.buffers.append(name)
                self.buffer_types[name] = dtype
                if dtype == "bool":  # a byte each in memory; GLSL's own have no such form
                    self.byte_bools.add(name)
            else:
                self.scalars.append((name, dtype))
        self.statement(self.function.body)
        return KernelSource(
            text=self.text(),
            bindings=tuple(self.buffer_types[name] for name in self.buffers),
            scalars=tuple(dtype for _, dtype in self.scalars),
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
        if self.launch.is_folded and x > self.max_grid[0]:
            z = math.ceil(x / self.max_grid[0])
            x = self.max_grid[0]
        if any(n > most for n, most in zip((x, y, z), self.max_grid, strict=True)):
            msg = f"a kernel of {x} x {y} x {z} workgroups; {self.max_grid} is the most"
            raise BuildError(msg, hint="a smaller batch or resolution has fewer")
        return x, y, z

    def access(self, name: str) -> str:
        """Say how a buffer is used: "read", "write" or "both"."""
        if name not in self.written:
            return "read"
        return "both" if name in self.read else "write"

    # Statements

    def statement(self, node: Any) -> None:
        """Emit a statement."""
        method = getattr(self, f"_do_{type(node).__name__}", None)
        if method is None:
            msg = f"no GPU code for the statement {type(node).__name__}"
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
            self.shared.append(f"{element} {name}[{size}];")
        else:
            self.line(f"{element} {name}[{size}];")

    def _do_AttrStmt(self, node: Any) -> None:
        if node.attr_key == "thread_extent":
            self._bind_thread(node.node, node.value)
        self.statement(node.body)

    def _bind_thread(self, axis: Any, extent: Any) -> None:
        tag, variable = str(axis.thread_tag), axis.var
        kind, letter = tag.split(".")
        if self.is_bound(variable):
            return
        size = int(extent) if type(extent).__name__ == "IntImm" else None
        if kind == "threadIdx":
            if size is None:
                msg = "the size of a workgroup must be a constant"
                raise BuildError(msg)
            self.launch.threads["xyz".index(letter)] = size
        else:
            self.launch.grid["xyz".index(letter)] = size
        name = self.bind(variable, re.sub(r"\W", "_", tag))
        self.declare_thread(name, kind, letter, extent)

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
