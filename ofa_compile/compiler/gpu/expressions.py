"""TIR expressions as text, and the names of everything they refer to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ofa_compile.compiler.gpu.types import (
    BITWISE,
    FUNCTIONS,
    OPERATORS,
    REINTERPRET,
    VECTOR_COMPARISONS,
    literal,
    split_lanes,
    type_name,
)
from ofa_compile.errors import BuildError

_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


class Expressions:
    """Turns expressions into text.

    Most become one expression. What must stay conditional (`if_then_else` guards reads that
    would be out of bounds) becomes a branch before the statement that uses it.

    Attributes
    ----------
    float_suffix
        What the language puts behind a float's digits.
    """

    float_suffix = ""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.names: dict[int, str] = {}
        self.taken: set[str] = set()
        self.buffer_types: dict[str, str] = {}
        self.byte_bools: set[str] = set()
        self.base_types: set[str] = set()
        self.read: set[str] = set()
        self.written: set[str] = set()
        self.temporaries = 0

    # Text

    def line(self, text: str) -> None:
        """Append one line."""
        self.lines.append("  " * self.depth + text)

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Indent what is emitted inside."""
        self.depth += 1
        yield
        self.depth -= 1

    def temporary(self, kind: str, value: str | None = None) -> str:
        """Declare a variable of a type."""
        self.temporaries += 1
        name = f"t{self.temporaries}"
        self.line(f"{kind} {name}{'' if value is None else f' = {value}'};")
        return name

    # Names

    def bind(self, node: Any, hint: str) -> str:
        """Give a variable or buffer a name of its own (never a keyword: they start v_)."""
        stem = "v_" + re.sub(r"_+", "_", re.sub(r"\W", "_", hint)).strip("_")
        name, number = stem, 0
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        self.names[node.__chandle__()] = name
        return name

    def alias(self, node: Any, name: str) -> None:
        """Let another node stand for something named before."""
        self.names[node.__chandle__()] = name

    def is_bound(self, node: Any) -> bool:
        """Whether the node has a name."""
        return node.__chandle__() in self.names

    def name_of(self, node: Any) -> str:
        """Return the name of a variable or buffer."""
        try:
            return self.names[node.__chandle__()]
        except KeyError:
            msg = f"TIR uses {node} before its definition"
            raise BuildError(msg) from None

    # Types

    @staticmethod
    def dtype(node: Any) -> str:
        """Return an expression's TIR type."""
        return str(getattr(node.ty, "dtype", node.ty))

    def type_name(self, dtype: str) -> str:
        """Spell a type, and note that it occurs."""
        self.base_types.add(split_lanes(dtype)[0])
        return type_name(dtype)

    # Expressions

    def expression(self, node: Any) -> str:
        """Return the text of an expression."""
        kind = type(node).__name__
        method = getattr(self, f"_as_{kind}", None)
        if method is not None:
            return str(method(node))
        if kind in OPERATORS:
            return self._binary(node, kind)
        msg = f"no GPU code for the expression {kind}"
        raise BuildError(msg)

    def _binary(self, node: Any, kind: str) -> str:
        left, right = self.expression(node.a), self.expression(node.b)
        base, lanes = split_lanes(self.dtype(node.a))
        if lanes > 1 and kind in VECTOR_COMPARISONS:
            return f"{VECTOR_COMPARISONS[kind]}({left}, {right})"
        if kind == "Mod" and base.startswith("float"):
            return f"({left} - {right} * trunc({left} / {right}))"
        return f"({left} {OPERATORS[kind]} {right})"

    def _as_IntImm(self, node: Any) -> str:
        self.type_name(self.dtype(node))
        return literal(node.value, self.dtype(node), self.float_suffix)

    _as_FloatImm = _as_IntImm

    def _as_Var(self, node: Any) -> str:
        return self.name_of(node)

    def _as_Min(self, node: Any) -> str:
        return f"min({self.expression(node.a)}, {self.expression(node.b)})"

    def _as_Max(self, node: Any) -> str:
        return f"max({self.expression(node.a)}, {self.expression(node.b)})"

    def _as_Not(self, node: Any) -> str:
        return f"(!{self.expression(node.a)})"

    def _as_Cast(self, node: Any) -> str:
        return f"{self.type_name(self.dtype(node))}({self.expression(node.value)})"

    def _as_Broadcast(self, node: Any) -> str:
        return f"{self.type_name(self.dtype(node))}({self.expression(node.value)})"

    def _as_Select(self, node: Any) -> str:
        condition = self.expression(node.condition)
        yes, no = self.expression(node.true_value), self.expression(node.false_value)
        if split_lanes(self.dtype(node.condition))[1] > 1:
            return f"mix({no}, {yes}, {condition})"
        return f"({condition} ? {yes} : {no})"

    def _as_Ramp(self, node: Any) -> str:
        dtype = self.dtype(node)
        return f"{self.type_name(dtype)}({', '.join(self.places(node, split_lanes(dtype)[1]))})"

    def _as_Let(self, node: Any) -> str:
        value = self.expression(node.value)
        kind = self.type_name(self.dtype(node.var))
        self.line(f"{kind} {self.bind(node.var, node.var.name)} = {value};")
        return self.expression(node.body)

    def _as_Shuffle(self, node: Any) -> str:
        lanes = []
        for vector in node.vectors:
            text, dtype = self.expression(vector), self.dtype(vector)
            count = split_lanes(dtype)[1]
            lanes += [text] if count == 1 else [self.lane(text, i, dtype) for i in range(count)]
        chosen = [lanes[int(index)] for index in node.indices]
        if len(chosen) == 1:
            return chosen[0]
        return f"{self.type_name(self.dtype(node))}({', '.join(chosen)})"

    def lane(self, text: str, index: int, dtype: str) -> str:
        """Spell one lane of a vector."""
        return f"{text}.{'xyzw'[index]}"

    def _as_TensorLoad(self, node: Any) -> str:
        name = self.name_of(node.source)
        self.read.add(name)
        (index,) = node.indices
        dtype = self.dtype(node)
        _, lanes = split_lanes(dtype)
        if lanes == split_lanes(self.buffer_types.get(name, dtype))[1]:
            text = f"{name}[{self.expression(index)}]"
            return f"({text} != 0)" if self.buffer_types.get(name) == "bool" else text
        parts = ", ".join(f"{name}[{place}]" for place in self.places(index, lanes))
        return f"{self.type_name(dtype)}({parts})"

    def places(self, index: Any, lanes: int) -> list[str]:
        """Return the scalar index of every lane of a vector index."""
        if type(index).__name__ == "Ramp":
            base, stride = self.expression(index.base), self.expression(index.stride)
            return [f"{base} + {lane} * {stride}" for lane in range(lanes)]
        if type(index).__name__ == "Broadcast":
            return [self.expression(index.value)] * lanes
        text = self.expression(index)
        return [f"{text}[{lane}]" for lane in range(lanes)]

    # Calls

    def _as_Call(self, node: Any) -> str:
        name = str(getattr(node.op, "name", node.op)).rsplit(".", 1)[-1]
        arguments = list(node.args)
        special = getattr(self, f"_call_{name}", None)
        if special is not None:
            return str(special(node, arguments))
        if name in ("call_pure_extern", "call_extern"):
            name = str(arguments.pop(0).value)
            name = name.removesuffix("f") if name not in FUNCTIONS else name
        return self._function(name, arguments)

    def _function(self, name: str, arguments: list[Any]) -> str:
        texts = [self.expression(argument) for argument in arguments]
        if name == "erf":
            return self._erf(texts[0], self.dtype(arguments[0]))
        if name in BITWISE:
            return f"({texts[0]} {BITWISE[name]} {texts[1]})"
        if name not in FUNCTIONS:
            msg = f"no GPU code for the function {name}"
            raise BuildError(msg)
        return f"{FUNCTIONS[name]}({', '.join(texts)})"

    def _call_if_then_else(self, node: Any, arguments: list[Any]) -> str:
        condition, yes, no = arguments
        text = self.expression(condition)
        result = self.temporary(self.type_name(self.dtype(node)))
        self.line(f"if ({text}) {{")
        with self.indented():
            self.line(f"{result} = {self.expression(yes)};")
        self.line("} else {")
        with self.indented():
            self.line(f"{result} = {self.expression(no)};")
        self.line("}")
        return result

    def _call_tvm_storage_sync(self, node: Any, arguments: list[Any]) -> str:
        return "barrier()"

    def _call_likely(self, node: Any, arguments: list[Any]) -> str:
        return self.expression(arguments[0])

    def _call_sigmoid(self, node: Any, arguments: list[Any]) -> str:
        one = literal(1.0, self.dtype(node), self.float_suffix)
        return f"({one} / ({one} + exp(-{self.expression(arguments[0])})))"

    def _call_erf(self, node: Any, arguments: list[Any]) -> str:
        return self._erf(self.expression(arguments[0]), self.dtype(node))

    def _erf(self, argument: str, dtype: str) -> str:
        """Approximate the error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26), in float32."""
        if dtype not in ("float32", "float16"):
            msg = f"GPU kernels have no error function of {dtype}"
            raise BuildError(msg)

        def number(value: float) -> str:
            return literal(value, "float32", self.float_suffix)

        x = self.temporary("float", f"float({argument})")
        t = self.temporary("float", f"{number(1)} / ({number(1)} + {number(0.3275911)} * abs({x}))")
        text = number(_ERF[0])
        for factor in _ERF[1:]:
            text = f"({text} * {t} + {number(factor)})"
        y = self.temporary("float", f"{number(1)} - {text} * {t} * exp(-{x} * {x})")
        return f"{self.type_name(dtype)}({x} < {number(0)} ? -{y} : {y})"

    def _call_bitwise_not(self, node: Any, arguments: list[Any]) -> str:
        return f"(~{self.expression(arguments[0])})"

    def _call_reinterpret(self, node: Any, arguments: list[Any]) -> str:
        pair = split_lanes(self.dtype(arguments[0]))[0], split_lanes(self.dtype(node))[0]
        if pair not in REINTERPRET:
            msg = f"GPU kernels cannot read {pair[0]} as {pair[1]}"
            raise BuildError(msg)
        return f"{REINTERPRET[pair]}({self.expression(arguments[0])})"
