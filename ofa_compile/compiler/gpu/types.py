"""TIR data types, literals and operators in the words of kernels: GLSL's.

CUDA's kernels are written in the same words, which `runtime/cuda_kernel.h` defines.
"""

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


def type_name(dtype: str) -> str:
    """Spell a TIR type.

    Raises
    ------
    BuildError
        If GPUs have no such type.
    """
    base, lanes = split_lanes(dtype)
    if lanes == 1 and base in _SCALARS:
        return _SCALARS[base]
    if 2 <= lanes <= 4 and base in _VECTORS:
        return f"{_VECTORS[base]}{lanes}"
    msg = f"kernels have no type for {dtype}"
    raise BuildError(msg)


def literal(value: float, dtype: str, float_suffix: str = "") -> str:
    """Spell a constant; in C++ a float needs the suffix "f" not to be a double."""
    base, _ = split_lanes(dtype)
    if base == "bool":
        return "true" if value else "false"
    if base.startswith("float"):
        return _float_literal(float(value), base, float_suffix)
    number = int(value)
    if base == "int32":
        return str(number) if number > -(2**31) else "(-2147483647 - 1)"
    if base == "uint32":
        return f"{number}u"
    return f"{_SCALARS[base]}({number}{'l' if base == 'int64' else ''})"


def _float_literal(value: float, base: str, suffix: str) -> str:
    if math.isnan(value) or math.isinf(value):
        bits = "0x7fc00000u" if math.isnan(value) else "0x7f800000u"
        sign = "-" if value < 0 else ""
        text = f"{sign}uintBitsToFloat({bits})"
        return text if base == "float32" else f"{_SCALARS[base]}({text})"
    text = repr(value)
    if not set(text) & {".", "e"}:
        text += ".0"
    text += suffix
    if value < 0:
        text = f"({text})"
    return text if base == "float32" else f"{_SCALARS[base]}({text})"
