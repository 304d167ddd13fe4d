"""Precisions a target can compute in: what its core needs for them, and how TVM is told."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from ofa_compile.errors import TargetSpecError, UserInputError
from ofa_compile.hardware import host
from ofa_compile.hardware.target_spec import TargetSpec

Precision = Literal["fp32", "tf32", "fp16", "int8"]
ValueType = Literal["float32", "float16"]
ByteProducts = Literal["none", "vnni", "pmadd", "sdot", "smull"]

# LLVM's feature of vector arithmetic on halves, and /proc/cpuinfo's flag for it.
_HALF_ARITHMETIC, _HALF_FLAG = "+fullfp16", "asimdhp"
# /proc/cpuinfo's flag for dot products of bytes, and LLVM's feature; the widest first.
_VNNI = {"avx512_vnni": "+avx512vnni", "avx_vnni": "+avxvnni"}
# Tensor cores that multiply float32 rounded to ten bits came with Ampere.
_TF32_FROM = 80
# What products of int16 take on x86: AVX2.
_PMADD_BITS = 256


def value_type(target: TargetSpec) -> ValueType:
    """Return the type of maps and weights that are not bytes."""
    return "float16" if target.precision == "fp16" else "float32"


def precisions_of(target: TargetSpec) -> tuple[str, ...]:
    """Return the precisions that networks can be compiled to for a target."""
    found = []
    for name in get_args(Precision):
        try:
            found.append(target_in(target, name).precision)
        except TargetSpecError:
            continue
    return tuple(found)


def recorded_precision(target: TargetSpec) -> str:
    """Return the word for a target's precision in data sets, which is older for float32."""
    return "float32" if target.precision == "fp32" else target.precision


def as_options(target: TargetSpec) -> str:
    """Return the options of a command that mean a target in its precision."""
    if target.precision == "fp32":
        return f"--target {target.name}"
    name = target.name.removesuffix(f"-{target.precision}")
    return f"--target {name} --precision {target.precision}"


def byte_products(target: TargetSpec) -> ByteProducts:
    """Return the instructions by which code for a target adds products of bytes."""
    features = target.tvm_target.get("mattr", ())
    if target.tvm_target.get("kind") != "llvm":
        return "none"
    if target.arch == "x86_64":
        if any(feature in features for feature in _VNNI.values()):
            return "vnni"
        return "pmadd" if target.core.vector_bits >= _PMADD_BITS else "none"
    if target.arch == "aarch64":
        return "sdot" if "+dotprod" in features else "smull"
    return "none"


def byte_type(products: ByteProducts) -> Literal["uint8", "int8"]:
    """Return the type of maps stored as bytes: what the instructions multiply by int8."""
    return "uint8" if products in ("vnni", "pmadd") else "int8"


def target_in(target: TargetSpec, precision: str) -> TargetSpec:
    """Return the target with what a precision needs switched on.

    An x86-64 core gets the dot products of bytes that it is known to have: a detected one from its
    flags, another from `[core] requires`; one without multiplies int16 instead. The result has a
    fingerprint of its own, so that measurements and tuning in different precisions never meet, and
    a name that says which it is.

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
    if precision == "fp16":
        return _in_fp16(target)
    if precision == "tf32":
        return _in_tf32(target)
    if target.arch == "x86_64" and target.tvm_target.get("kind") == "llvm":
        target = _with_vnni(target)
    if byte_products(target) == "none":
        what = f"a {target.kind} GPU" if target.is_gpu else target.arch
        msg = f"there are no int8 kernels for {target.name} ({what}), only for AVX2 and aarch64"
        raise TargetSpecError(msg, hint="compile with --precision fp32")
    return _changed(target, "int8")


def _changed(target: TargetSpec, precision: Precision) -> TargetSpec:
    # The boards are those of the target, whatever runs on them.
    runner = dataclasses.replace(target.runner, key=target.runner.key or target.name)
    name = f"{target.name}-{precision}"
    return dataclasses.replace(target, name=name, runner=runner, precision=precision)


def _in_fp16(target: TargetSpec) -> TargetSpec:
    if target.is_gpu:
        return _changed(target, "fp16")  # a device without halves says so when it is opened
    is_arm = target.arch == "aarch64" and target.tvm_target.get("kind") == "llvm"
    if is_arm and _HALF_ARITHMETIC in target.tvm_target.get("mattr", ()):
        flags = dict.fromkeys((*target.core.requires, _HALF_FLAG))
        core = dataclasses.replace(target.core, requires=tuple(flags))
        return _changed(dataclasses.replace(target, core=core), "fp16")
    if is_arm:
        why = f"its tvm_target.mattr lacks {_HALF_ARITHMETIC!r}, which cores have from ARMv8.2 on"
    else:
        why = "there are fp16 kernels for aarch64 and GPUs only"
    msg = f"{target.name} cannot compute in fp16: {why}"
    raise TargetSpecError(msg, hint="compile with --precision fp32")


def _in_tf32(target: TargetSpec) -> TargetSpec:
    known = target.toolchain.gpu_architectures
    # The newest come with a letter, such as sm_90a.
    found = tuple(name for name in known if int(name.strip("sm_af")) >= _TF32_FROM)
    if not found:
        why = f"of its architectures ({', '.join(known) or 'none'}) none is sm_80 or later"
        if target.kind != "cuda":
            why = "only NVIDIA's GPUs can, from Ampere on"
        msg = f"{target.name} cannot compute in tf32: {why}"
        raise TargetSpecError(msg, hint="compile with --precision fp32")
    toolchain = dataclasses.replace(target.toolchain, gpu_architectures=found)
    return _changed(dataclasses.replace(target, toolchain=toolchain), "tf32")


def _with_vnni(target: TargetSpec) -> TargetSpec:
    if byte_products(target) == "vnni":
        return target
    flags = host.cpu_flags() if target.detected else frozenset(target.core.requires)
    flag = next((name for name in _VNNI if name in flags), None)
    if flag is None:
        return target
    features = (*target.tvm_target.get("mattr", ()), _VNNI[flag])
    return dataclasses.replace(
        target,
        tvm_target={**target.tvm_target, "mattr": list(features)},
        core=dataclasses.replace(target.core, requires=(*target.core.requires, flag)),
    )
