"""A new hardware target: its file made from another one's, filled in by the device itself."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa_compile.errors import DeviceUnavailableError, TargetSpecError, UserInputError
from ofa_compile.hardware.device_facts import DeviceFacts, differences
from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.platform import emulator_of, platform_of
from ofa_compile.hardware.target_file import check_key, render_target, set_values
from ofa_compile.hardware.target_spec import TargetSpec, load_target, parse_target

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SCALAR_BITS = 32
# What says something about a processor, and nothing about another one.
_OF_ONE_PROCESSOR = ("mtriple", "mcpu", "mattr", "mabi", "mfloat-abi", "vector-width")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewTargetOptions:
    """What is known of a new target; what is empty comes from the base or follows from the rest.

    Attributes
    ----------
    name
        Of the target, and of its file.
    base
        The target to begin with.
    output
        The file; NAME.toml in the current folder if None.
    description, triple, cpu, features, compilers, compiler_flags, emulator
        Entries of the file.
    tracker, server, key
        Where its boards are; its runner is "rpc" then.
    settings
        Further "TABLE.KEY=VALUE" entries, with the last word.
    """

    name: str
    base: str = "arm64"
    output: Path | None = None
    description: str = ""
    triple: str = ""
    cpu: str = ""
    features: Sequence[str] = ()
    compilers: Sequence[str] = ()
    compiler_flags: Sequence[str] = ()
    emulator: Sequence[str] = ()
    tracker: str = ""
    server: str = ""
    key: str = ""
    settings: Sequence[str] = ()

    @property
    def path(self) -> Path:
        """The file to write."""
        return self.output or Path(f"{self.name}.toml")


def new_target(options: NewTargetOptions) -> Path:
    """Write the file of a new target; return its path.

    Raises
    ------
    UserInputError
        If the file is there already, or cannot be written.
    TargetSpecError, TargetNotFoundError
        If the base is unknown, or what comes out is no valid target.
    """
    path = options.path
    if not _NAME.fullmatch(options.name) or path.stem != options.name or path.suffix != ".toml":
        message = f"a target is named by its file, NAME.toml; got '{options.name}' and {path}"
        raise TargetSpecError(message, hint="letters, digits, '.', '_' and '-'")
    if path.exists():
        message = f"{path} is there already"
        raise UserInputError(message, hint="edit it, or choose another name")
    base = load_target(options.base)
    if base.is_gpu:
        message = f"'{base.name}' is a GPU; `targets new` makes targets for processors"
        raise TargetSpecError(message, hint=f"copy targets/{base.name}.toml and edit it")
    values = _values_of(base)
    stated = _apply(values, base, options)
    every = {f"{t}.{k}" for t, table in values.items() if isinstance(table, dict) for k in table}
    text = render_target(
        values, base=base.name, file=str(path), inherited=frozenset(every - stated)
    )
    parse_target(tomllib.loads(text), name=options.name, file=str(path))
    _write(path, text)
    return path


def fill_in(path: Path, facts: DeviceFacts, origin: str) -> dict[str, int | float]:
    """Put what a device said into its target's file; return what was written.

    Raises
    ------
    UserInputError
        If the file cannot be written.
    TargetSpecError
        If the values do not make a valid target.
    """
    target = load_target(path)
    found = facts.core_values(target.core)
    values: dict[str, int | float] = {f"core.{name}": value for name, value in found.items()}
    if "cores" in found and "num-cores" in target.tvm_target:
        values["tvm_target.num-cores"] = found["cores"]
    text = set_values(path.read_text(encoding="utf-8"), values, origin)
    parse_target(tomllib.loads(text), name=target.name, file=str(path))
    _write(path, text)
    return values


def probe_target(name_or_path: str, *, write: bool) -> dict[str, Any]:
    """Ask the device of a target what it is; with `write`, put that into the target's file.

    Raises
    ------
    DeviceUnavailableError
        If there is no device: an emulator's facts are not the device's.
    TargetSpecError
        If there is no file to write to.
    """
    from ofa_compile.measurement.probe import probe

    target = load_target(name_or_path)
    path = Path(name_or_path)
    if write and (path.suffix != ".toml" or not path.is_file() or target.detected):
        message = f"'{name_or_path}' has no file of yours that facts could be written to"
        raise TargetSpecError(message, hint=f"ofa-compile targets new NAME --from {target.name}")
    result = probe(target)
    if result.facts is None:
        message = f"'{target.name}' runs {result.where}, and an emulator knows nothing of a device"
        hint = 'reach a board: runner.kind = "rpc" with a tracker or server (see docs/new-board.md)'
        raise DeviceUnavailableError(message, hint=hint)
    found = result.facts
    return {
        "target": target.name,
        "where": result.where,
        "device": found.model,
        "facts": found.core_values(target.core),
        "differences": differences(target.core, found),
        "missing_features": list(found.missing(target.core)),
        "written": fill_in(path, found, f"read {result.where}") if write else {},
    }


def _values_of(base: TargetSpec) -> dict[str, Any]:
    """Return the base as the entries of a file, without what is empty."""
    fields = base.to_dict()
    core = {key: value for key, value in fields["core"].items() if key != "model" and value}
    tables = {
        "tvm_target": fields["tvm_target"],
        "core": core,
        "runner": {"kind": "estimate"},
        "evaluator": fields["evaluator"],
        "tuning": fields["tuning"],
        "toolchain": {key: value for key, value in fields["toolchain"].items() if value},
    }
    if base.emulator is not None:
        tables["emulator"] = {"command": list(base.emulator.command)}
    return {"schema_version": 1, "description": "", **tables}


def _apply(values: dict[str, Any], base: TargetSpec, options: NewTargetOptions) -> set[str]:
    """Change the entries as the options say; return the keys that do not come from the base."""
    stated: set[str] = set()

    def put(dotted: str, value: Any) -> None:
        table, key = dotted.split(".", 1)
        values.setdefault(table, {})[key] = value
        stated.add(dotted)

    values["description"] = options.description or f"{options.name}, made from {base.name}"
    if options.triple:
        _change_triple(values, base, options, put)
    stated.add("tvm_target.kind")
    for dotted, value in (
        ("tvm_target.mcpu", options.cpu),
        ("tvm_target.mattr", list(options.features)),
        ("toolchain.linkers", list(options.compilers)),
        ("toolchain.flags", list(options.compiler_flags)),
        ("emulator.command", list(options.emulator)),
        ("runner.tracker", options.tracker),
        ("runner.server", options.server),
        ("runner.key", options.key),
    ):
        if value:
            put(dotted, value)
    put("runner.kind", "rpc" if options.tracker or options.server else "estimate")
    arch = str(values["tvm_target"].get("mtriple", base.triple)).split("-", 1)[0]
    if base.arch != arch:
        # TVM knows the width on x86 and ARM only, and guesses aloud elsewhere.
        bits = dict(map(_setting, options.settings)).get("core.vector_bits", base.core.vector_bits)
        if bits != _SCALAR_BITS:
            put("tvm_target.vector-width", bits)
    for setting in options.settings:
        key, value = _setting(setting)
        if key == "description":
            values[key] = value
        else:
            put(key, value)
    return stated


def _change_triple(
    values: dict[str, Any], base: TargetSpec, options: NewTargetOptions, put: Any
) -> None:
    """Set a triple, and what follows from it; drop what only the base's processor has."""
    triple = options.triple
    platform = platform_of(triple)
    arch = triple.split("-", 1)[0]
    if arch != base.arch:
        if not options.cpu:
            message = f"--triple {triple} is another processor than '{base.name}': --cpu is needed"
            raise TargetSpecError(message, hint="what LLVM calls it, for example --cpu generic")
        for key in _OF_ONE_PROCESSOR:
            values["tvm_target"].pop(key, None)
        values["core"].pop("requires", None)
    tvm_target = values["tvm_target"]
    values["tvm_target"] = {"kind": tvm_target.pop("kind"), "mtriple": triple, **tvm_target}
    put("tvm_target.mtriple", triple)
    if platform is not base.platform or arch != base.arch:
        values["toolchain"], compiler = {}, platform.compiler_of(triple)
        put("toolchain.linkers", [*compiler.names])
        if compiler.flags:
            put("toolchain.flags", [*compiler.flags])
        values.pop("emulator", None)
        emulator = emulator_of(triple)
        if emulator and arch != host_arch():
            put("emulator.command", [*emulator])
    if not platform.has_threads:
        put("core.cores", 1)
        put("tvm_target.num-cores", 1)


def _setting(text: str) -> tuple[str, Any]:
    """Parse "TABLE.KEY=VALUE"; a value that is no TOML is a string."""
    key, equals, value = text.partition("=")
    if not equals:
        message = f"--set wants TABLE.KEY=VALUE, got '{text}'"
        raise TargetSpecError(message, hint="for example --set core.vector_bits=128")
    check_key(key)
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - atomic: the file is never half there
    except OSError as err:
        with contextlib.suppress(OSError):
            temporary.unlink()
        message = f"cannot write {path}: {err.strerror}"
        raise UserInputError(message) from err
