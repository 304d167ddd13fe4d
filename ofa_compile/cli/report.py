"""`ofa-compile report`: one HTML page about a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_SUPERNET, ReportOptions

EPILOG = "Example: ofa-compile report --search front --target host --output report.html"


def report_command(
    search: Annotated[Path, typer.Option("--search", help="Folder that `search --output` wrote.")],
    target: opt.Target = "host",
    output: opt.Output = Path("report.html"),
    figures: Annotated[
        Path | None,
        typer.Option("--figures", help="Folder for the same figures as CSV, PNG and SVG."),
    ] = None,
    space: opt.Space = DEFAULT_SUPERNET,
    workspace: opt.Workspace = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Write one self-contained HTML page: front, measurements, learning curves, tuning gains."""
    options = ReportOptions(
        search=search,
        target=target,
        output=output,
        figures=figures,
        space=space,
        workspace=workspace,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working() as progress:
        from ofa_compile.workflows.reporting import write_report

        summary = write_report(options, progress)
    channel.report(summary)
