"""Hardware targets: the frozen `TargetSpec`, and loading it from a TOML file or a name.

A shipped target is a file `targets/<name>.toml`; any path to such a file works as well. `host` is
the one whose core and TVM target are detected on the machine at load time (`detect = true`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any, Literal

from ofa_compile.errors import TargetNotFoundError, TargetSpecError, closest_match
from ofa_compile.hardware import host
from ofa_compile.hardware.board_address import parse_endpoint
from ofa_compile.hardware.platform import LINUX, Platform, platform_of
from ofa_compile.hardware.toml_tables import (
    check_keys,
    limited,
    one_of,
    read_table,
    read_toml,
)

SCHEMA_VERSION = 1
GPU_KINDS = ("vulkan", "cuda")
Family = Literal["cpu", "gpu"]
"""Whose kernels serve a target."""
_TARGETS_PACKAGE = "ofa_compile.targets"
_TOP_LEVEL_KEYS = (
    "schema_version",
    "description",
    "detect",
    "tvm_target",
    "core",
    "runner",
    "evaluator",
    "tuning",
    "kernels",
    "toolchain",
    "emulator",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreSpec:
    """Facts about one core, for choosing tiles and for estimates.

    Attributes
    ----------
    vector_bits
        Width of a vector register.
    vector_registers
        Architectural vector registers.
    frequency_hz
        Clock under sustained load.
    fma_per_cycle
        Full-width vector fused multiply-adds started per cycle.
    memory_bandwidth_gb_per_s
        Streaming read bandwidth of one core from main memory.
    l1_bytes, l2_bytes
        Data cache and second-level cache of one core.
    cores
        Cores of this kind in the machine.
    requires
        CPU flags, as /proc/cpuinfo spells them, without which the code cannot run on a machine.
    model
        Name of the processor; part of the fingerprint, set where it was detected.
    """

    vector_bits: int = limited(32, 2048)
    vector_registers: int = limited(4, 128)
    frequency_hz: float = limited(1e6, 1e10)
    fma_per_cycle: float = limited(0.01, 64)
    memory_bandwidth_gb_per_s: float = limited(0.01, 10_000)
    l1_bytes: int = limited(1024, 2**24)
    l2_bytes: int = limited(0, 2**30)
    cores: int = limited(1, 1024)
    requires: tuple[str, ...] = ()
    model: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunnerSpec:
    """Where code for the target is timed: on this machine, on a board, or not at all.

    Attributes
    ----------
    kind
        "local", "rpc" (a board behind TVM RPC) or "estimate".
    tracker, server
        "HOST:PORT" of the RPC tracker that knows the boards, or of a single board. The environment
        (`OFA_COMPILE_TRACKER`, `OFA_COMPILE_BOARD`) has the last word.
    key
        The boards' key on the tracker; the target's name if empty.
    wait_s
        How long to wait for a free board.
    """

    kind: str = one_of("local", "rpc", "estimate")
    tracker: str = ""
    server: str = ""
    key: str = ""
    wait_s: float = limited(0, 86_400, default=60.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatorSpec:
    """How a run is timed; the words and their meaning are those of TVM's evaluator."""

    number: int = limited(1, 100_000, default=3)
    repeat: int = limited(1, 100_000, default=10)
    min_repeat_ms: int = limited(0, 600_000, default=100)
    enable_cpu_cache_flush: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningSpec:
    """Upper limits on tuning trials."""

    max_trials_global: int = limited(0, 10_000_000, default=2000)
    max_trials_per_task: int = limited(0, 1_000_000, default=64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelsSpec:
    """Hand-written kernels that may serve this target."""

    enable: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolchainSpec:
    """What builds and links code for the target.

    Attributes
    ----------
    linkers
        C compilers, best first (`ziglang` is PyPI's); "$NAME" in one stands for an environment
        variable.
    flags
        What every call of the compiler gets, for instance "--target=...".
    link_flags
        What every link gets besides.
    gpu_architectures
        Those that CUDA kernels are compiled for, such as "sm_86", oldest first.
    """

    linkers: tuple[str, ...]
    flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    gpu_architectures: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmulatorSpec:
    """Command that runs the target's executables where the machine cannot."""

    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """One hardware target, fully resolved.

    Attributes
    ----------
    name
        File stem of the TOML.
    description
        One line for `targets list`.
    tvm_target
        Dictionary handed unchanged to `tvm.target.Target`.
    detected
        Whether core and TVM target were read from this machine.
    precision
        What networks are compiled to: see `hardware.precision`, which changes it.
    """

    name: str
    description: str
    tvm_target: dict[str, Any] = dataclasses.field(hash=False)
    core: CoreSpec
    runner: RunnerSpec
    evaluator: EvaluatorSpec
    tuning: TuningSpec
    kernels: tuple[str, ...]
    toolchain: ToolchainSpec
    emulator: EmulatorSpec | None
    detected: bool = False
    precision: str = "fp32"

    @property
    def arch(self) -> str:
        """Instruction-set family from the LLVM triple: "x86_64", "aarch64", ..."""
        return self.triple.split("-", 1)[0] if self.triple else host.host_arch()

    @property
    def kind(self) -> str:
        """What kernels run on: "llvm" for a CPU, or a GPU by the name of its interface."""
        return str(self.tvm_target.get("kind"))

    @property
    def is_vulkan(self) -> bool:
        """Whether kernels run on a Vulkan device."""
        return self.kind == "vulkan"

    @property
    def is_gpu(self) -> bool:
        """Whether kernels run on a GPU; `arch` is then that of the host beside it."""
        return self.kind in GPU_KINDS

    @property
    def family(self) -> Family:
        """Whose kernels serve the target."""
        return "gpu" if self.is_gpu else "cpu"

    @property
    def is_native(self) -> bool:
        """Whether this machine can run the target's code itself, a GPU's driver granted."""
        if self.kind not in ("llvm", *GPU_KINDS) or self.platform is not LINUX:
            return False
        return self.arch == host.host_arch() and host.has_flags(self.core.requires)

    @property
    def platform(self) -> Platform:
        """What programs and libraries for the target are."""
        return platform_of(self.triple)

    @property
    def is_emulated(self) -> bool:
        """Whether code for the target runs in an emulator, neither here nor on a board."""
        return not self.is_native and self.runner.kind != "rpc" and not self.platform.is_hosted

    @property
    def triple(self) -> str:
        """LLVM triple (of a GPU's host), or an empty string for targets that have none."""
        cpu = self.tvm_target.get("host", self.tvm_target)
        return str(cpu.get("mtriple", "")) if isinstance(cpu, dict) else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved target as plain JSON-ready data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all but description and addresses: equal means measurements compare."""
        fields = self.to_dict()
        del fields["description"]
        fields["runner"] = {"kind": self.runner.kind}
        # Flags and GPU architectures came later: a target without any is the one that it was.
        fields["toolchain"] = {key: value for key, value in fields["toolchain"].items() if value}
        if self.precision == "fp32":
            del fields["precision"]  # as what was measured and tuned before there were others
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def list_targets() -> list[str]:
    """Return the names of the shipped targets, `host` first."""
    folder = importlib.resources.files(_TARGETS_PACKAGE)
    names = (Path(entry.name) for entry in folder.iterdir())
    stems = {path.stem for path in names if path.suffix == ".toml"}
    return sorted(stems, key=lambda name: (name != "host", name))


def load_target(name_or_path: str | Path) -> TargetSpec:
    """Load a target by name, or from the path of a TOML file.

    Parameters
    ----------
    name_or_path
        A name that `list_targets` knows, or a path ending in ``.toml``.

    Raises
    ------
    TargetNotFoundError
        If there is no such target or file.
    TargetSpecError
        If the file is malformed; the message names file, dotted key and what is allowed.
    """
    text = str(name_or_path)
    if text in list_targets():
        resource = importlib.resources.files(_TARGETS_PACKAGE).joinpath(f"{text}.toml")
        with importlib.resources.as_file(resource) as path:
            return parse_target(read_toml(path), name=text, file=f"targets/{text}.toml")
    path = Path(text)
    if path.suffix == ".toml" and path.is_file():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.stem):
            message = f"{path}: a target is named by its file: letters, digits, '.', '_' and '-'"
            raise TargetSpecError(message)
        return parse_target(read_toml(path), name=path.stem, file=str(path))
    raise _not_found(text)


def _not_found(text: str) -> TargetNotFoundError:
    known = list_targets()
    if text.endswith(".toml") or "/" in text:
        return TargetNotFoundError(f"no hardware-target file at '{text}'")
    near = closest_match(text, known)
    hint = f"did you mean '{near}'?" if near else "a path to a .toml file works as well"
    return TargetNotFoundError(f"unknown target '{text}'; known are {', '.join(known)}", hint=hint)


def parse_target(data: dict[str, Any], *, name: str, file: str) -> TargetSpec:
    """Check a parsed TOML document and build its `TargetSpec`; `file` is for messages."""
    check_keys(data, _TOP_LEVEL_KEYS, file=file, prefix="")
    _check_version(data, file)
    description = data.get("description")
    if not isinstance(description, str) or not description:
        message = f"{file}: 'description' must be a non-empty string, got {description!r}"
        raise TargetSpecError(message)
    detected = data.get("detect", False)
    if not isinstance(detected, bool):
        message = f"{file}: 'detect' must be true or false, got {detected!r}"
        raise TargetSpecError(message)
    emulator = data.get("emulator")
    core, tvm_target = _core_and_tvm_target(data, detected, file)
    return TargetSpec(
        name=name,
        description=f"{description}: {core.model}" if detected else description,
        tvm_target=tvm_target,
        core=core,
        runner=_checked_runner(
            read_table(RunnerSpec, data.get("runner", {}), file=file, key="runner"), file
        ),
        evaluator=read_table(EvaluatorSpec, data.get("evaluator", {}), file=file, key="evaluator"),
        tuning=read_table(TuningSpec, data.get("tuning", {}), file=file, key="tuning"),
        kernels=read_table(KernelsSpec, data.get("kernels", {}), file=file, key="kernels").enable,
        toolchain=_checked_toolchain(
            read_table(ToolchainSpec, data.get("toolchain", {}), file=file, key="toolchain"),
            str(tvm_target.get("kind")),
            file,
        ),
        emulator=None
        if emulator is None
        else _non_empty(read_table(EmulatorSpec, emulator, file=file, key="emulator"), file),
        detected=detected,
    )


def _checked_runner(runner: RunnerSpec, file: str) -> RunnerSpec:
    if runner.kind != "rpc" and (runner.tracker or runner.server or runner.key):
        message = f"{file}: 'runner.kind' is '{runner.kind}', which has no board to reach"
        raise TargetSpecError(message, hint='kind = "rpc", or drop tracker, server and key')
    if runner.tracker and runner.server:
        message = f"{file}: 'runner.tracker' and 'runner.server' exclude each other"
        raise TargetSpecError(message, hint="a tracker knows many boards, a server is one board")
    for name in ("tracker", "server"):
        value = getattr(runner, name)
        if value:
            parse_endpoint(value, f"{file}: 'runner.{name}'")
    return runner


def _checked_toolchain(toolchain: ToolchainSpec, kind: str, file: str) -> ToolchainSpec:
    architectures = toolchain.gpu_architectures
    where = f"{file}: 'toolchain.gpu_architectures'"
    if (kind == "cuda") != bool(architectures):
        message = f"{where} is {list(architectures)!r}, and 'tvm_target.kind' is '{kind}'"
        raise TargetSpecError(message, hint="CUDA needs at least one, other kinds take none")
    for name in architectures:
        if not re.fullmatch(r"sm_\d+[af]?", name):
            message = f"{where} has '{name}'; architectures look like 'sm_86'"
            raise TargetSpecError(message)
    return toolchain


def _non_empty(emulator: EmulatorSpec, file: str) -> EmulatorSpec:
    if not emulator.command:
        message = f"{file}: 'emulator.command' is empty; name a program, or drop [emulator]"
        raise TargetSpecError(message)
    return emulator


def _check_version(data: dict[str, Any], file: str) -> None:
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        message = f"{file}: 'schema_version' is {version!r}; this release reads {SCHEMA_VERSION}"
        raise TargetSpecError(message)


def _core_and_tvm_target(
    data: dict[str, Any], detected: bool, file: str
) -> tuple[CoreSpec, dict[str, Any]]:
    """Read, or detect, the core and the TVM target."""
    if detected:
        for key in ("core", "tvm_target"):
            if key in data:
                message = f"{file}: '{key}' is set together with 'detect = true'"
                raise TargetSpecError(message, hint=f"remove [{key}], or detect")
        facts = host.detect_core()
        return CoreSpec(**facts), host.detect_tvm_target()
    core = read_table(CoreSpec, data.get("core", {}), file=file, key="core")
    tvm_target = data.get("tvm_target")
    if not isinstance(tvm_target, dict) or not isinstance(tvm_target.get("kind"), str):
        message = f"{file}: 'tvm_target' must be a table with a string 'kind', got {tvm_target!r}"
        raise TargetSpecError(message, hint='for a CPU: kind = "llvm", mtriple and mcpu')
    triple = tvm_target.get("mtriple", "")
    try:
        platform_of(triple if isinstance(triple, str) else repr(triple))
    except TargetSpecError as err:
        message = f"{file}: 'tvm_target.mtriple': {err}"
        raise TargetSpecError(message, hint=err.hint) from err
    return core, tvm_target
