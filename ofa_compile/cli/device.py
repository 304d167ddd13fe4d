"""`ofa-compile device`: what a board needs."""

from __future__ import annotations

from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output

app = typer.Typer(no_args_is_help=True, help="The daemon for boards.")


@app.callback()
def _group() -> None:
    """Keep `build` a word of its own, whatever else joins it."""


@app.command("build", epilog="Example: ofa-compile device build --target arm64")
def build_command(
    target: Annotated[str, typer.Option("--target", "-t", help="What kind of board.")],
    output: opt.OptionalOutput = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Build the daemon for a board: one static file to copy there, nothing to install.

    It serves TVM RPC, registers with a tracker, and runs the programs that `compile`, `run` and
    `measure` send.
    """
    channel = Output(as_json=as_json, quiet=quiet)
    with channel.working():
        from ofa_compile.workflows.devices import build_device_daemon

        report = build_device_daemon(target, output)
    channel.report(report)
