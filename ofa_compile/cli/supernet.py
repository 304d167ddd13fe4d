"""`ofa-compile supernet`: list, describe and import supernets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, table
from ofa_compile.options import DEFAULT_SUPERNET

app = typer.Typer(no_args_is_help=True, help="Supernets and search spaces.")


@app.command("list", epilog="Example: ofa-compile supernet list")
def list_command(as_json: opt.Json = False, quiet: opt.Quiet = False) -> None:
    """List the search spaces, and which of them come with trained weights."""
    channel = Output(as_json=as_json, quiet=quiet)
    with channel.working():
        from ofa_compile.workflows.subnets import describe_spaces

        spaces = describe_spaces()
    header = ("search space", "family", "weights", "resolutions", "smallest macs", "largest macs")
    rows = [
        (
            s["name"],
            s["family"],
            "embedded" if s["has_weights"] else "-",
            f"{s['resolutions'][0]}-{s['resolutions'][-1]}",
            s["smallest_macs"],
            s["largest_macs"],
        )
        for s in spaces
    ]
    channel.result({"spaces": spaces}, table(header, rows))


@app.command("info", epilog="Example: ofa-compile supernet info ofa_mbv3_cifar")
def info_command(
    supernet: Annotated[str, typer.Argument(help="Name, or path of a checkpoint.")] = (
        DEFAULT_SUPERNET
    ),
    space: opt.SupernetSpace = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Describe a supernet: its space, classes, parameters and training."""
    channel = Output(as_json=as_json, quiet=quiet)
    with channel.working():
        from ofa_compile.workflows.subnets import describe_supernet

        report = describe_supernet(supernet, space)
    channel.report(report)


@app.command("import", epilog="Example: ofa-compile supernet import ofa.pth --space ofa_resnet50")
def import_command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the Once-for-All authors.")],
    space: Annotated[str, typer.Option("--space", help="Search space that it belongs to.")],
    output: opt.Output = Path("supernet.safetensors"),
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Turn an authors' checkpoint into a safetensors file (nothing in it is executed)."""
    channel = Output(as_json=as_json, quiet=quiet)
    with channel.working():
        from ofa_compile.workflows.subnets import import_supernet

        report = import_supernet(checkpoint, space, output)
    channel.report(report)
