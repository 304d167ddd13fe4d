"""`ofa-compile fit-latency`: a latency predictor from a latency data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_SUPERNET, FitLatencyOptions

EPILOG = "Example: ofa-compile fit-latency --target host"


def fit_latency_command(
    target: opt.Target = "host",
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
    channel.report(report)
