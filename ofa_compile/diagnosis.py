"""Find out what this machine has for compiling and running, and what it lacks."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ofa_compile.errors import DeviceUnavailableError, OfaCompileError, TargetSpecError
from ofa_compile.hardware import host
from ofa_compile.hardware.device_facts import DeviceFacts, differences
from ofa_compile.hardware.emulator import find_emulator, unset_variables
from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.hardware.toolchain import ZIG, find_linker, install_hint, variable_hint

_PROGRAM = (
    "#include <math.h>\nint main(int n, char **v) { (void)v; return sqrt(n * 9.0) != 3.0; }\n"
)
_NO_EMULATOR = "builds and links; cannot run here (no emulator)"
_TIMEOUT_S = 900  # ziglang builds its C library on first use: minutes on a busy machine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One finding.

    Attributes
    ----------
    name
        What was looked for.
    is_ok
        Whether it was found and works.
    detail
        What was found, or what is wrong.
    hint
        The line that installs or mends it.
    needed_for
        What cannot be done without it.
    is_warning
        Whether it works, and yet something is not as it should be.
    is_skipped
        Whether it could not be tried on this machine, which says nothing against the target.
    """

    name: str
    is_ok: bool
    detail: str
    hint: str | None = None
    needed_for: str = ""
    is_warning: bool = False
    is_skipped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-ready data."""
        return dataclasses.asdict(self)


def check_target(name_or_path: str | Path) -> list[Check]:
    """Check a target from its TOML down to a small program built and run for it.

    Raises
    ------
    TargetNotFoundError, TargetSpecError
        If there is no such target, or its file is malformed.
    """
    target = load_target(name_or_path)
    checks = [
        Check(name="target file", is_ok=True, detail=target.description),
        _attempt("TVM target", lambda: _construct_tvm_target(target)),
    ]
    if checks[-1].is_ok:
        checks.append(_attempt("kernel", lambda: _compile_kernel(target)))
    checks.append(_attempt("compiler", lambda: _describe_linker(target)))
    lacking = ", ".join(check.name for check in checks if not check.is_ok)
    if lacking:
        checks.append(_skipped("test program", f"not built for want of: {lacking}"))
    else:
        checks += _probe(target)
    if target.is_gpu:
        checks.append(_find_gpu(target))
    return checks


def _attempt(name: str, action: Callable[[], str]) -> Check:
    """Turn an action's result, or its error, into a finding."""
    try:
        return Check(name=name, is_ok=True, detail=action())
    except OfaCompileError as err:
        return Check(name=name, is_ok=False, detail=str(err), hint=err.hint)


def _skipped(name: str, detail: str, hint: str | None = None) -> Check:
    return Check(name=name, is_ok=True, is_skipped=True, detail=detail, hint=hint)


def _construct_tvm_target(target: TargetSpec) -> str:
    from ofa_compile.compiler import tvm_api

    try:
        tvm_target = tvm_api.Target(target.tvm_target)
    except (TypeError, ValueError) as err:
        message = f"'tvm_target' of '{target.name}' is refused by TVM: {err}"
        raise TargetSpecError(message) from err
    return f"{tvm_target.kind.name} {target.tvm_target.get('mcpu', '')}".strip()


def _describe_linker(target: TargetSpec) -> str:
    linker = find_linker(target)
    return f"{linker.name}: {linker.version()}"


def _compile_kernel(target: TargetSpec) -> str:
    """Compile one kernel as those of a network are, up to the link."""
    if not target.is_gpu:
        from ofa_compile.measurement.probe import compile_kernel

        return f"compiles for {target.arch}: an object of {len(compile_kernel(target)):,} bytes"
    from ofa_compile.compiler.gpu.backend import backend_of
    from ofa_compile.compiler.gpu.kernels import compile_workload
    from ofa_compile.compiler.kernel_registry import GpuMachine
    from ofa_compile.compiler.workload import Pointwise

    backend = backend_of(target)
    toolkit = backend.toolkit()
    compile_workload(Pointwise(196, 96, 64, "hswish"), backend, GpuMachine.of(target))
    architectures = f" for {toolkit.architectures}" if toolkit.architectures else ""
    return f"compiles{architectures}: {toolkit.version}"


def _find_gpu(target: TargetSpec) -> Check:
    """Look for a GPU here; one elsewhere cannot be judged."""
    if not target.is_native:
        return _skipped("GPU", "it is the board's; this machine's are not asked")
    try:
        return Check(name="GPU", is_ok=True, detail=_describe_gpus(target.kind))
    except DeviceUnavailableError as err:
        return _skipped("GPU", str(err), err.hint)


def _describe_gpus(kind: str) -> str:
    return "; ".join(map(str, check_gpu(kind)))


def _probe(target: TargetSpec) -> list[Check]:
    """Build a program for the target, run it where that is possible, and compare what it says."""
    from ofa_compile.measurement.probe import build_probe, can_run, probe

    if target.is_gpu:
        check = _attempt("test program", lambda: _build_and_run(target))
        return [dataclasses.replace(check, is_skipped=check.detail == _NO_EMULATOR)]
    if not can_run(target):
        with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
            check = _attempt("test program", lambda: str(build_probe(target, Path(folder))))
        unset = unset_variables(target.emulator.command) if target.emulator else []
        without = _skipped("test program", _NO_EMULATOR, variable_hint(unset))
        return [without if check.is_ok else check]
    try:
        result = probe(target)
    except OfaCompileError as err:
        return [Check(name="test program", is_ok=False, detail=str(err), hint=err.hint)]
    ran = Check(name="test program", is_ok=True, detail=f"builds and runs {result.where}")
    return [ran] if result.facts is None else [ran, _compare(target, result.facts)]


def _compare(target: TargetSpec, facts: DeviceFacts) -> Check:
    """Hold what a device says against the target's file."""
    missing = facts.missing(target.core)
    if missing:
        detail = f"the device lacks {', '.join(missing)}, which 'core.requires' names"
        return Check(name="device", is_ok=False, detail=detail, hint="is it the right target?")
    found = differences(target.core, facts)
    if not found or target.detected:
        return Check(name="device", is_ok=True, detail=f"{facts.model}: as the file says")
    hint = "ofa-compile targets probe FILE --write puts what was found into your file"
    return Check(name="device", is_ok=True, is_warning=True, detail="; ".join(found), hint=hint)


def _build_and_run(target: TargetSpec) -> str:
    """Build a static program for a GPU's host, and run it where that is possible."""
    linker = find_linker(target)
    with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
        source, program = Path(folder, "check.c"), Path(folder, "check")
        source.write_text(_PROGRAM, encoding="utf-8")
        _call([*linker.static_command, str(source), "-o", str(program), "-lm"], linker.name)
        emulator = find_emulator(target)
        if emulator is None and not target.is_native:
            return _NO_EMULATOR
        _call([*(emulator or []), str(program)], (emulator or [target.name])[0])
        return f"builds and runs {'in ' + Path(emulator[0]).name if emulator else 'here'}"


def _call(command: list[str], name: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as err:
        lines = (err.stderr or "").strip().splitlines()
        message = (
            f"{name} fails with status {err.returncode}: {lines[-1] if lines else 'no message'}"
        )
        raise OfaCompileError(message, hint=install_hint(name)) from err
    except (OSError, subprocess.TimeoutExpired) as err:
        message = f"{name} cannot be run: {err}"
        raise OfaCompileError(message, hint=install_hint(name)) from err


def examine_machine() -> list[Check]:
    """List what this machine has and lacks, with the line that installs what is lacking."""
    return [
        Check(name="processor", is_ok=True, detail=_processor()),
        Check(name="Python", is_ok=True, detail=platform.python_version()),
        *(_package(name, why) for name, why in _PACKAGES.items()),
        *(_program(name, why) for name, why in _PROGRAMS.items()),
        *(
            dataclasses.replace(
                _attempt(name, functools.partial(_describe_gpus, name.lower())),
                needed_for=f"running bundles of the {name.lower()} target here",
            )
            for name in ("Vulkan", "CUDA")
        ),
        _tvm_plugin(),
    ]


_PACKAGES = {
    "apache-tvm": "compiling",
    "apache-tvm-ffi": "compiling",
    "torch": "supernets, training, verification",
    "onnx": "export",
    "xgboost-cpu": "latency predictors",
    "onnxruntime": "comparisons with ONNX Runtime",
    ZIG: "cross compiling without system packages",
}
_PROGRAMS = {
    "gcc": "x86-64 and host targets",
    "aarch64-linux-gnu-gcc": "arm64 targets",
    "qemu-aarch64": "running arm64 bundles here",
    "arm-linux-gnueabihf-gcc": "the armv7 target",
    "riscv64-linux-gnu-gcc": "the riscv64 target",
    "wasm-ld": "the wasm32 target",
    "node": "running wasm32 bundles here",
    "glslangValidator": "compiling for the vulkan target",
    "nvcc": "compiling for the cuda target",
}


def _processor() -> str:
    target = host.detect_tvm_target()
    return f"{host.model_name()}, {host.num_cores()} cores, {target['mcpu']}"


def _package(name: str, needed_for: str) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        hint = install_hint(ZIG).replace(ZIG, name)
        return Check(
            name=name, is_ok=False, detail="not installed", hint=hint, needed_for=needed_for
        )
    return Check(name=name, is_ok=True, detail=version, needed_for=needed_for)


def _program(name: str, needed_for: str) -> Check:
    path = shutil.which(name)
    return Check(
        name=name,
        is_ok=path is not None,
        detail=path or "not found",
        hint=None if path else install_hint(name),
        needed_for=needed_for,
    )


def _tvm_plugin() -> Check:
    """Look for the library that makes Vulkan a device of TVM; it is not loaded."""
    from ofa_compile.compiler.vulkan.tvm_plugin import build_line, find_plugins

    path = next(find_plugins(), None)
    return Check(
        name="Vulkan in TVM",
        is_ok=path is not None,
        detail=str(path or "not built, or not for this TVM"),
        hint=None if path else build_line(),
        needed_for="Vulkan as a device of TVM itself",
    )
