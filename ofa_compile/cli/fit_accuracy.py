"""`ofa-compile fit-accuracy`: an accuracy predictor from an accuracy data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_SUPERNET, FitAccuracyOptions

EPILOG = "Example: ofa-compile fit-accuracy --dataset accuracy.jsonl --output accuracy.safetensors"


def fit_accuracy_command(
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="JSON Lines file that `evaluate` wrote.")
    ] = None,
    import_authors: Annotated[
        Path | None,
        typer.Option(
            "--import-authors",
            help="Convert the Once-for-All authors' acc_predictor.pth (width-1.2 space) instead.",
        ),
    ] = None,
    output: opt.Output = Path("accuracy.safetensors"),
    space: opt.Space = DEFAULT_SUPERNET,
    test: Annotated[
        bool, typer.Option("--test", help="Fit on accuracies on the test images.")
    ] = False,
    study: Annotated[
        bool,
        typer.Option("--study", help="Compare with other models, and over the number of subnets."),
    ] = False,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Fit an accuracy predictor on the subnets that `evaluate` scored, and state its error."""
    options = FitAccuracyOptions(
        dataset=dataset,
        authors_file=import_authors,
        output=output,
        space=space,
        part="test" if test else "held-out",
        study=study,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working() as progress:
        from ofa_compile.workflows.learning import fit_accuracy_predictor

        report = fit_accuracy_predictor(options, progress)
    channel.report(report)
