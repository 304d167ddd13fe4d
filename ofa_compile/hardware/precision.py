"""Precisions a target can compute in: what its core needs for them, and how TVM is told."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from ofa_compile.errors import TargetSpecError, UserInputError
from ofa_compile.hardware import host
from ofa_compile.hardware.target_spec import TargetSpec

Precision = Literal["fp32", "int8"]
ByteProducts = Literal["none", "vnni", "sdot", "smull"]

# /proc/cpuinfo's flag for dot products of bytes, and LLVM's feature; the widest first.
_VNNI = {"avx512_vnni": "+avx512vnni", "avx_vnni": "+avxvnni"}


def byte_products(target: TargetSpec) -> ByteProducts:
    """Return the instructions by which code for a target adds products of bytes."""
    features = target.tvm_target.get("mattr", ())
    if target.tvm_target.get("kind") != "llvm":
        return "none"
    if target.arch == "x86_64":
        return "vnni" if any(feature in features for feature in _VNNI.values()) else "none"
    if target.arch == "aarch64":
        return "sdot" if "+dotprod" in features else "smull"
    return "none"


def target_in(target: TargetSpec, precision: str) -> TargetSpec:
    """Return the target with what a precision needs switched on.

    An x86-64 core gets the dot products of bytes that it is known to have: a detected one from its
    flags, another from `[core] requires`. The result has a fingerprint of its own, so that
    measurements and tuning in different precisions never meet, and a name that says which it is.

    Raises
    ------
    UserInputError
        If there is no such precision.
    TargetSpecError
        If the core lacks what it needs.
    """
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        msg = f"unknown precision {precision!r}; it is one of {known}"
        raise UserInputError(msg)
    if precision in ("fp32", target.precision):
        return target
    if target.arch == "x86_64" and target.tvm_target.get("kind") == "llvm":
        return _in_int8(_with_vnni(target))
    if byte_products(target) == "none":
        what = f"a {target.kind} GPU" if target.is_gpu else target.arch
        msg = f"there are no int8 kernels for {target.name} ({what}), only for x86-64 and aarch64"
        raise TargetSpecError(msg, hint="compile with --precision fp32")
    return _in_int8(target)


def _in_int8(target: TargetSpec) -> TargetSpec:
    # The boards are those of the target, whatever runs on them.
    runner = dataclasses.replace(target.runner, key=target.runner.key or target.name)
    name = f"{target.name}-int8"
    return dataclasses.replace(target, name=name, runner=runner, precision="int8")


def _with_vnni(target: TargetSpec) -> TargetSpec:
    if byte_products(target) == "vnni":
        return target
    flags = host.cpu_flags() if target.detected else frozenset(target.core.requires)
    flag = next((name for name in _VNNI if name in flags), None)
    if flag is None:
        how = "this processor has neither" if target.detected else "its [core] requires names none"
        msg = f"int8 on {target.name} needs dot products of bytes ({', '.join(_VNNI)}), and {how}"
        raise TargetSpecError(msg, hint="compile with --precision fp32")
    features = (*target.tvm_target.get("mattr", ()), _VNNI[flag])
    return dataclasses.replace(
        target,
        tvm_target={**target.tvm_target, "mattr": list(features)},
        core=dataclasses.replace(target.core, requires=(*target.core.requires, flag)),
    )
