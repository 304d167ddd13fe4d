"""TIR data types, literals and operators in GLSL."""

from __future__ import annotations

import math
import re

from ofa_compile.errors import BuildError

_SCALARS = {
    "float32": "float",
    "float16": "float16_t",
    "float64": "double",
    "int32": "int",
    "uint32": "uint",
    "int64": "int64_t",
    "uint64": "uint64_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "bool": "bool",
}
_VECTORS = {
    "float32": "vec",
    "float16": "f16vec",
    "int32": "ivec",
    "uint32": "uvec",
    "bool": "bvec",
}
_EXTENSIONS = {
    "float16": ("explicit_arithmetic_types_float16", "16bit_storage"),
    "int64": ("explicit_arithmetic_types_int64",),
    "uint64": ("explicit_arithmetic_types_int64",),
    "int8": ("explicit_arithmetic_types_int8", "8bit_storage"),
    "uint8": ("explicit_arithmetic_types_int8", "8bit_storage"),
}
# Optional features of a device that code with such a type needs.
FEATURES = {
    "float16": "shaderFloat16",
    "float64": "shaderFloat64",
    "int64": "shaderInt64",
    "uint64": "shaderInt64",
    "int8": "shaderInt8",
    "uint8": "shaderInt8",
}

OPERATORS = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "Div": "/",
    "Mod": "%",
    "EQ": "==",
    "NE": "!=",
    "LT": "<",
    "LE": "<=",
    "GT": ">",
    "GE": ">=",
    "And": "&&",
    "Or": "||",
    "BitwiseAnd": "&",
    "BitwiseOr": "|",
    "BitwiseXor": "^",
    "LShift": "<<",
    "RShift": ">>",
}
VECTOR_COMPARISONS = {
    "EQ": "equal",
    "NE": "notEqual",
    "LT": "lessThan",
    "LE": "lessThanEqual",
    "GT": "greaterThan",
    "GE": "greaterThanEqual",
}
BITWISE = {
    "shift_left": "<<",
    "shift_right": ">>",
    "bitwise_and": "&",
    "bitwise_or": "|",
    "bitwise_xor": "^",
}
_SAME_NAMES = (
    *("exp", "exp2", "log", "log2", "sqrt", "pow", "fma", "min", "max", "floor", "ceil", "trunc"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "isnan", "isinf"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
)
FUNCTIONS = {name: name for name in _SAME_NAMES} | {
    "rsqrt": "inversesqrt",
    "atan2": "atan",
    "round": "roundEven",
    "nearbyint": "roundEven",
    "fabs": "abs",
    "abs": "abs",
}
REINTERPRET = {
    ("float32", "int32"): "floatBitsToInt",
    ("float32", "uint32"): "floatBitsToUint",
    ("int32", "float32"): "intBitsToFloat",
    ("uint32", "float32"): "uintBitsToFloat",
    ("int32", "uint32"): "uint",
    ("uint32", "int32"): "int",
}


def split_lanes(dtype: str) -> tuple[str, int]:
    """Split "float32x4" into ("float32", 4)."""
    match = re.fullmatch(r"(.+?)x(\d+)", dtype)
    return (match[1], int(match[2])) if match else (dtype, 1)


def extensions_of(dtype: str) -> tuple[str, ...]:
    """Return the GLSL extensions that a type needs."""
    names = _EXTENSIONS.get(split_lanes(dtype)[0], ())
    return tuple(f"GL_EXT_shader_{name}" for name in names)


def type_name(dtype: str) -> str:
    """Spell a TIR type in GLSL.

    Raises
    ------
    BuildError
        If GLSL has no such type.
    """
    base, lanes = split_lanes(dtype)
    if lanes == 1 and base in _SCALARS:
        return _SCALARS[base]
    if 2 <= lanes <= 4 and base in _VECTORS:
        return f"{_VECTORS[base]}{lanes}"
    msg = f"GLSL has no type for {dtype}"
    raise BuildError(msg)


def literal(value: float, dtype: str) -> str:
    """Spell a constant."""
    base, _ = split_lanes(dtype)
    if base == "bool":
        return "true" if value else "false"
    if base.startswith("float"):
        return _float_literal(float(value), base)
    number = int(value)
    if base == "int32":
        return str(number) if number > -(2**31) else "(-2147483647 - 1)"
    if base == "uint32":
        return f"{number}u"
    return f"{_SCALARS[base]}({number}{'l' if base == 'int64' else ''})"


def _float_literal(value: float, base: str) -> str:
    if math.isnan(value) or math.isinf(value):
        bits = "0x7fc00000u" if math.isnan(value) else "0x7f800000u"
        sign = "-" if value < 0 else ""
        text = f"{sign}uintBitsToFloat({bits})"
        return text if base == "float32" else f"{_SCALARS[base]}({text})"
    text = repr(value)
    if not set(text) & {".", "e"}:
        text += ".0"
    if value < 0:
        text = f"({text})"
    return text if base == "float32" else f"{_SCALARS[base]}({text})"
