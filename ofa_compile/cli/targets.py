"""`ofa-compile targets`: list, show, make, probe and check hardware targets, and list boards."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, table
from ofa_compile.hardware.precision import precisions_of
from ofa_compile.hardware.target_spec import list_targets, load_target

if TYPE_CHECKING:
    from ofa_compile.diagnosis import Check

app = typer.Typer(no_args_is_help=True, help="Hardware targets, one TOML file each.")

TargetArgument = Annotated[str, typer.Argument(help="A target's name, or the path of its TOML.")]


@app.command("list", epilog="Example: ofa-compile targets list --json")
def list_command(as_json: opt.Json = False, quiet: opt.Quiet = False) -> None:
    """List the targets that ship with this package."""
    specs = [load_target(name) for name in list_targets()]
    precisions = [precisions_of(spec) for spec in specs]
    rows = [
        (s.name, s.arch, "yes" if s.is_native else "no", " ".join(has), s.description)
        for s, has in zip(specs, precisions, strict=True)
    ]
    documents = [
        {"is_native": s.is_native, "precisions": list(has), **s.to_dict()}
        for s, has in zip(specs, precisions, strict=True)
    ]
    Output(as_json=as_json, quiet=quiet).result(
        {"targets": documents},
        table(("target", "arch", "runs here", "precisions", "description"), rows),
    )


@app.command("show", epilog="Example: ofa-compile targets show arm64")
def show_command(
    target: TargetArgument, as_json: opt.Json = False, quiet: opt.Quiet = False
) -> None:
    """Show one target, resolved."""
    spec = load_target(target)
    document = {
        **spec.to_dict(),
        "fingerprint": spec.fingerprint,
        "is_native": spec.is_native,
        "precisions": list(precisions_of(spec)),
    }
    lines = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines += [f"{key}.{name} = {_text(item)}" for name, item in value.items()]
        else:
            lines.append(f"{key} = {_text(value)}")
    Output(as_json=as_json, quiet=quiet).result(document, "\n".join(lines))


@app.command("check", epilog="Example: ofa-compile targets check board.toml")
def check_command(
    target: TargetArgument, as_json: opt.Json = False, quiet: opt.Quiet = False
) -> None:
    """Check a target: TOML, TVM target, a kernel, compiler, a program built and run, the device.

    What this machine cannot try is listed as not run, and is no failure.
    """
    output = Output(as_json=as_json, quiet=quiet)
    with output.working():
        from ofa_compile.diagnosis import check_target

        checks = check_target(target)
    rows = [(_verdict(c), c.name, c.detail) for c in checks]
    for check in checks:
        if check.hint is not None and _verdict(check) != "ok":
            output.note(f"{check.name}: {check.hint}")
    lacking = [c.name for c in checks if not c.is_ok]
    not_run = [c.name for c in checks if c.is_skipped]
    output.result(
        {
            "target": target,
            "is_ok": not lacking,
            "not_run": not_run,
            "checks": [c.to_dict() for c in checks],
        },
        f"{table(('', 'check', 'found'), rows)}\n\n{_conclusion(lacking, not_run)}",
    )
    if lacking:
        raise typer.Exit(3)


@app.command("new", epilog="Example: ofa-compile targets new pi4 --from cortex-a72 --key pi4")
def new_command(
    name: Annotated[str, typer.Argument(help="Name of the target; NAME.toml is written.")],
    base: Annotated[str, typer.Option("--from", help="Target to begin with.")] = "arm64",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Another folder.")] = None,
    description: Annotated[str, typer.Option(help="One line about it.")] = "",
    triple: Annotated[str, typer.Option(help="LLVM triple, such as riscv64-linux-gnu.")] = "",
    cpu: Annotated[str, typer.Option(help="Processor, as LLVM calls it.")] = "",
    feature: Annotated[
        list[str] | None, typer.Option(help="What it can besides, such as +v; repeat.")
    ] = None,
    compiler: Annotated[
        list[str] | None, typer.Option(help="C compiler to look for; repeat.")
    ] = None,
    compiler_flag: Annotated[
        list[str] | None, typer.Option(help="What the compiler always gets; repeat.")
    ] = None,
    emulator: Annotated[str, typer.Option(help="Command that runs its programs here.")] = "",
    tracker: Annotated[str, typer.Option(help="HOST:PORT of its boards' RPC tracker.")] = "",
    board: Annotated[str, typer.Option(help="HOST:PORT of its only board.")] = "",
    key: Annotated[str, typer.Option(help="What its boards are registered as.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="TABLE.KEY=VALUE of the file; repeat.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Ask the device, and fill in what it says.")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write the file of a new target, with notes, from one that exists."""
    from ofa_compile.workflows.new_target import NewTargetOptions, new_target, probe_target

    options = NewTargetOptions(
        name=name,
        base=base,
        output=None if output is None else output / f"{name}.toml",
        description=description,
        triple=triple,
        cpu=cpu,
        features=tuple(feature or ()),
        compilers=tuple(compiler or ()),
        compiler_flags=tuple(compiler_flag or ()),
        emulator=tuple(shlex.split(emulator)),
        tracker=tracker,
        server=board,
        key=key,
        settings=tuple(settings or ()),
    )
    out = Output(as_json=as_json, quiet=quiet)
    path = new_target(options)
    document: dict[str, object] = {"target": name, "file": str(path)}
    if probe:
        with out.working():
            document |= probe_target(str(path), write=True)
    check = f"check it: ofa-compile targets check {path}"
    out.result(document, "\n".join([f"wrote {path}", *_findings(document), check]))


@app.command("probe", epilog="Example: ofa-compile targets probe pi4.toml --write")
def probe_command(
    target: TargetArgument,
    write: Annotated[
        bool, typer.Option("--write", help="Put what was found into the target's file.")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Ask a target's device what it is, and measure its clock, multiply-adds and memory."""
    from ofa_compile.workflows.new_target import probe_target

    output = Output(as_json=as_json, quiet=quiet)
    with output.working():
        document = probe_target(target, write=write)
    head = f"{document['device'] or document['target']}, {document['where']}"
    output.result(document, "\n".join([head, *_findings(document)]))


@app.command("devices", epilog="Example: ofa-compile targets devices --tracker 192.168.1.2:9190")
def devices_command(
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Boards of this target only.")
    ] = None,
    tracker: Annotated[
        str | None, typer.Option("--tracker", help="HOST:PORT  [default: the target's].")
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """List the boards that an RPC tracker knows."""
    from ofa_compile.workflows.devices import list_devices

    endpoint, keys = list_devices(target, tracker)
    rows = [
        (key, ", ".join(entry.boards) or "-", len(entry.boards), entry.num_free, entry.num_waiting)
        for key, entry in keys.items()
    ]
    Output(as_json=as_json, quiet=quiet).result(
        {
            "tracker": endpoint,
            "keys": [{"key": key, **dataclasses.asdict(entry)} for key, entry in keys.items()],
        },
        table(("key", "boards", "known", "free", "waiting for one"), rows),
    )


def _verdict(check: Check) -> str:
    if not check.is_ok:
        return "lacking"
    if check.is_skipped:
        return "not run"
    return "differs" if check.is_warning else "ok"


def _conclusion(lacking: list[str], not_run: list[str]) -> str:
    if lacking:
        return f"lacking: {', '.join(lacking)}"
    if not_run:
        return f"passed as far as this machine can tell; not run: {', '.join(not_run)}"
    return "passed"


def _findings(document: Mapping[str, Any]) -> list[str]:
    """Say what a probe found."""
    facts, written = document.get("facts", {}), document.get("written", {})
    lines = [f"core.{name} = {value:g}" for name, value in facts.items()]
    if not written:
        lines += [f"note: {text}" for text in document.get("differences", ())]
    if document.get("missing_features"):
        lines.append(f"note: the device lacks {', '.join(document['missing_features'])}")
    return [*lines, f"{len(written)} values written"] if written else lines


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "(none)"
    return "(none)" if value is None else str(value)
