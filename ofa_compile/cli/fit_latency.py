"""`ofa-compile fit-latency`: a latency predictor from a latency data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, percent, table
from ofa_compile.options import DEFAULT_SUPERNET, FitLatencyOptions

EPILOG = "Example: ofa-compile fit-latency --target host"


def fit_latency_command(
    target: opt.Target = "host",
    precision: opt.Precision = "fp32",
    space: opt.Space = DEFAULT_SUPERNET,
    dataset: opt.Dataset = None,
    output: opt.OptionalOutput = None,
    workspace: opt.Workspace = None,
    threads: opt.Threads = 1,
    batch: opt.Batch = 1,
    cache_state: opt.CacheState = "warm",
    statistic: opt.LatencyStatistic = "median",
    prior: Annotated[
        Path | None,
        typer.Option("--prior", help="Predictor of a similar target: 10-20 subnets then suffice."),
    ] = None,
    held_out: Annotated[
        int, typer.Option("--held-out", min=0, help="Test on so many of the last subnets instead.")
    ] = 0,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Fit a latency predictor on the subnets that `measure` timed, and state its error."""
    options = FitLatencyOptions(
        target=target,
        precision=precision,
        space=space,
        dataset=dataset,
        output=output,
        workspace=workspace,
        threads=threads,
        batch=batch,
        cache_state=cache_state,
        statistic=statistic,
        prior=prior,
        held_out=held_out,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working() as progress:
        from ofa_compile.workflows.latency_fitting import fit_latency_predictor

        report = fit_latency_predictor(options, progress)
    channel.result(report, _render(report))


def _render(report: dict[str, Any]) -> str:
    """Say what was fitted, how wrong it is on subnets it has not seen, and how noisy they are."""
    features = "kernel times and analytic features" if report["has_kernel_times"] else "features"
    count = report["num_samples"]
    lines = [
        f"predictor  {report['predictor']}",
        f"fitted on  {count} subnets ({report['kind']} of the {report['statistic']}), {features}",
        "",
    ]
    rows = [_row("cross-validated", count, report["cross_validated"])]
    rows += [_row("learning curve", p["num_samples"], p) for p in report["learning_curve"]]
    if report["held_out"]:
        rows.append(_row("held out", count, report["held_out"]))
    header = ("error", "subnets", "MAPE", "within 5 %", "within 10 %", "Spearman", "Kendall")
    lines.append(table(header, rows))
    again, spread = report["repeats"], report["median_round_spread"]
    if again:
        text = f"measured twice, {again['num_subnets']} subnets differ by {percent(again['mape'])}"
        lines += ["", f"{text} on average (Spearman {again['spearman']:.4f})"]
    if report["drift_exponent"]:
        lines.append(f"drift of the machine to the power of {report['drift_exponent']:.2f} removed")
    if spread is not None:
        lines.append(f"rounds of one measurement scatter by {percent(spread)} (median)")
    return "\n".join(lines)


def _row(name: str, count: int, figures: dict[str, float]) -> tuple[object, ...]:
    shares = (figures[key] for key in ("mape", "within_5_percent", "within_10_percent"))
    ranks = (f"{figures[key]:.4f}" for key in ("spearman", "kendall_tau"))
    return (name, count, *(percent(share, 2) for share in shares), *ranks)
