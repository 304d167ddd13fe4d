"""`ofa-compile evaluate`: accuracy of one subnet, or of many sampled ones."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_SUPERNET, EvaluateOptions

EPILOG = "Example: ofa-compile evaluate --data cifar10 --count 500 --output accuracy.jsonl"


class Design(enum.Enum):
    """How `evaluate` samples subnets."""

    SPREAD = "spread"
    UNIFORM = "uniform"


def _shard(text: str | None) -> tuple[int, int]:
    """Return rank and number of ranks: as given, else torchrun's, else one process."""
    if text is None:
        text = f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        message = f"--shard is {text!r}; it must be I/N with 0 <= I < N, for instance 0/2"
        raise typer.BadParameter(message)
    return int(first), int(second)


def evaluate_command(
    data: opt.Data,
    architecture: opt.ArchitectureFile = None,
    count: opt.Count = 100,
    resolution: opt.Resolution = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON Lines file for sampled architectures.")
    ] = Path("accuracy.jsonl"),
    test: Annotated[
        bool,
        typer.Option("--test", help="Use the test images, not training images held out."),
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use only so many images.")
    ] = None,
    held_out: Annotated[
        int, typer.Option("--held-out", min=1, help="Training images that the recipe held out.")
    ] = 5000,
    calibration_images: Annotated[
        int, typer.Option("--calibration-images", min=2, help="Training images for batch norm.")
    ] = 500,
    calibration_seed: Annotated[
        int, typer.Option("--calibration-seed", min=0, help="Which training images those are.")
    ] = 0,
    view: Annotated[
        int,
        typer.Option(
            "--view",
            min=0,
            max=3,
            help="Held-out images as they are (0), mirrored (1), shifted by a pixel (2), both (3). "
            "Data sets may hold several; fit-accuracy averages them.",
        ),
    ] = 0,
    design: Annotated[
        Design, typer.Option("--design", help="How subnets are sampled.")
    ] = Design.SPREAD,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="I/N: the I-th of N processes; default: torchrun's rank."),
    ] = None,
    supernet: opt.Supernet = DEFAULT_SUPERNET,
    space: opt.SupernetSpace = None,
    seed: opt.Seed = 0,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Evaluate one architecture, or sampled ones into an accuracy data set.

    Interrupt it as you like: a second run with the same --output continues. Several processes may
    share one --output: give each its --shard.
    """
    options = EvaluateOptions(
        data=data,
        supernet=supernet,
        space=space,
        part="test" if test else "held-out",
        architecture=architecture,
        count=count,
        resolution=resolution,
        dataset=output,
        limit=limit,
        held_out=held_out,
        calibration_images=calibration_images,
        calibration_seed=calibration_seed,
        view=view,
        design=design.value,
        shard=_shard(shard),
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    if channel.shows_dry_run(options, dry_run):
        return
    with channel.working() as progress:
        from ofa_compile.workflows.learning import evaluate

        report = evaluate(options, progress)
    channel.report(report)
