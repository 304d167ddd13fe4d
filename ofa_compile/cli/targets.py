"""`ofa-compile targets`: list, show and check hardware targets, and list boards."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, table
from ofa_compile.hardware.target_spec import list_targets, load_target

app = typer.Typer(no_args_is_help=True, help="Hardware targets, one TOML file each.")

TargetArgument = Annotated[str, typer.Argument(help="A target's name, or the path of its TOML.")]


@app.command("list", epilog="Example: ofa-compile targets list --json")
def list_command(as_json: opt.Json = False, quiet: opt.Quiet = False) -> None:
    """List the targets that ship with this package."""
    specs = [load_target(name) for name in list_targets()]
    rows = [(s.name, s.arch, "yes" if s.is_native else "no", s.description) for s in specs]
    Output(as_json=as_json, quiet=quiet).result(
        {"targets": [{"is_native": s.is_native, **s.to_dict()} for s in specs]},
        table(("target", "arch", "runs here", "description"), rows),
    )


@app.command("show", epilog="Example: ofa-compile targets show arm64")
def show_command(
    target: TargetArgument, as_json: opt.Json = False, quiet: opt.Quiet = False
) -> None:
    """Show one target, resolved."""
    spec = load_target(target)
    document = {**spec.to_dict(), "fingerprint": spec.fingerprint, "is_native": spec.is_native}
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
    """Check a target: its TOML, the TVM target, the compiler and the emulator."""
    output = Output(as_json=as_json, quiet=quiet)
    with output.working():
        from ofa_compile.diagnosis import check_target

        checks = check_target(target)
    rows = [("ok" if c.is_ok else "lacking", c.name, c.detail) for c in checks]
    output.result(
        {"target": target, "checks": [c.to_dict() for c in checks]},
        table(("", "check", "found"), rows),
    )
    if not all(c.is_ok for c in checks):
        raise typer.Exit(3)


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


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "(none)"
    return "(none)" if value is None else str(value)
