"""`ofa-compile tune`: tune all workloads of a search space for a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, percent, table
from ofa_compile.options import DEFAULT_SUPERNET, TuneOptions

EPILOG = "Example: ofa-compile tune --target host --precision int8 --budget-minutes 10"
_MAX_ROWS = 15


def tune_command(
    target: opt.Target = "host",
    precision: opt.Precision = "fp32",
    space: opt.Space = DEFAULT_SUPERNET,
    resolution: Annotated[
        list[int] | None,
        typer.Option("--resolution", help="Input size; may be repeated  [default: all]."),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option("--architecture", help="JSON file: tune only what this subnet needs."),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", help="ONNX file: tune what this network needs, not a space."),
    ] = None,
    batch: opt.Batch = 1,
    budget_minutes: Annotated[
        float | None, typer.Option("--budget-minutes", min=0, help="Stop after this time.")
    ] = None,
    max_trials: Annotated[
        int | None,
        typer.Option("--max-trials", min=1, help="Stop after so many  [default: the target's]."),
    ] = None,
    roofline_share: Annotated[
        float,
        typer.Option(
            "--roofline-share", min=0, help="A workload this close to the core's peak is tuned."
        ),
    ] = 0.95,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the best configurations as a small file."),
    ] = None,
    workspace: opt.Workspace = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and how long it takes, and stop.")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Tune every workload that any subnet of a space has; compile and measure then use it.

    Interrupt it as you like: a second run continues where the first stopped.
    """
    options = TuneOptions(
        target=target,
        precision=precision,
        space=space,
        resolutions=tuple(resolution or ()),
        architecture=architecture,
        onnx=onnx,
        batch=batch,
        budget_minutes=budget_minutes,
        max_trials=max_trials,
        roofline_share=roofline_share,
        output=output,
        workspace=workspace,
        dry_run=dry_run,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working() as progress:
        from ofa_compile.workflows.tuning import tune_target

        report = tune_target(options, progress)
    channel.result(report, _render(report))


def _render(report: dict[str, Any]) -> str:
    """Say what is covered, what the trials brought, and where the largest gains are."""
    now = report["coverage"]
    lines = [
        f"database   {report['database']}",
        f"tuned      {now['num_tuned']} of {now['num_workloads']} workloads, "
        f"{percent(now['time_share'])} of a random subnet's expected time",
        f"fixed      {now['num_fixed']} of them have one configuration in {report['precision']}, "
        "and nothing to choose from",
        f"trials     {_trials(report)}",
        *_boards(report["boards"]),
        f"remaining  {now['num_trials']} trials, forecast {now['forecast_s']:.0f} s at most",
        f"speedup    {report['speedup']:.3f} over the kernels' defaults ({report['kind']})",
    ]
    if report["left_out"]:
        lines.append(f"left out   {report['left_out']}")
    rows = [
        (
            _name(gain["workload"]),
            _config(gain["default"]),
            _config(gain["best"]),
            gain["default_us"],
            gain["best_us"],
            gain["speedup"],
        )
        for gain in report["gains"][:_MAX_ROWS]
    ]
    if rows:
        lines += ["", table(("workload", "default", "best", "us", "us", "speedup"), rows)]
    return "\n".join(lines)


def _name(workload: dict[str, Any]) -> str:
    """Write a workload briefly: its kind and its numbers, or its operator."""
    if workload["kind"] == "generic":
        return f"generic {workload['operator']}"
    numbers = (v for k, v in workload.items() if k not in ("kind", "batch", "padding"))
    shown = ("x".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in numbers)
    return " ".join([workload["kind"], *(text for text in shown if text not in ("False", "none"))])


def _config(config: dict[str, Any]) -> str:
    if "trace" in config:
        return "MetaSchedule trace"
    return " ".join(f"{name} {value}" for name, value in config.items()) or "-"


def _boards(boards: list[dict[str, Any]]) -> list[str]:
    """Return a line for each board, with what is wrong with it; none without boards."""
    lines = []
    for entry in boards:
        line = f"board      {entry['board']}: {entry['num_trials']} trials"
        if entry["reference_us"] is not None:
            line += f", {entry['reference_us']:.4g} us for the reference"
        if entry["num_drifts"]:
            line += f", {entry['num_drifts']} times measured again since its speed changed"
        lines.append(line + (f"; {entry['problem']}" if entry["problem"] else ""))
    return lines


def _trials(report: dict[str, Any]) -> str:
    """Say how many trials there were, and what became of them."""
    ends = ", ".join(f"{count} {status}" for status, count in report["trials"].items() if count)
    return f"{report['num_trials']} in {report['seconds']:.0f} s: {ends}" if ends else "none"
