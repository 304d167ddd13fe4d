"""`ofa-compile measure`: compile and time sampled subnets on a target."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_SUPERNET, MeasureOptions

EPILOG = "Example: ofa-compile measure --target host --count 100"


def measure_command(
    target: opt.Target = "host",
    precision: opt.Precision = "fp32",
    space: opt.Space = DEFAULT_SUPERNET,
    count: opt.Count = 100,
    resolution: opt.Resolution = None,
    repeats: Annotated[
        int,
        typer.Option("--repeats", min=0, help="Measure so many again: how well does it repeat?"),
    ] = 0,
    design: Annotated[
        Literal["informative", "uniform"],
        typer.Option("--design", help="Subnets to fit a predictor on, or to test one on."),
    ] = "informative",
    threads: opt.Threads = 1,
    batch: opt.Batch = 1,
    cache_state: opt.CacheState = "warm",
    build_only: Annotated[
        bool,
        typer.Option("--build-only", help="Build and stop; a second run does nothing but measure."),
    ] = False,
    budget_minutes: Annotated[
        float | None, typer.Option("--budget-minutes", min=0, help="Stop after this time.")
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="No device: instructions counted in the emulator, by LLVM's model of the core. "
            "Knows no caches, memory or branches.",
        ),
    ] = False,
    workspace: opt.Workspace = None,
    seed: opt.Seed = 0,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Compile and time sampled subnets on the target, into a latency data set.

    Interrupt it as you like: a second run continues where the first stopped.
    """
    options = MeasureOptions(
        target=target,
        precision=precision,
        space=space,
        count=count,
        resolution=resolution,
        repeats=repeats,
        design=design,
        threads=threads,
        batch=batch,
        cache_state=cache_state,
        build_only=build_only,
        budget_minutes=budget_minutes,
        estimate=estimate,
        workspace=workspace,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    if channel.shows_dry_run(options, dry_run):
        return
    with channel.working() as progress:
        from ofa_compile.workflows.measuring import measure_target

        report = measure_target(options, progress)
    channel.report(report)
