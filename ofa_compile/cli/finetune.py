"""`ofa-compile finetune`: one subnet on your classes, then its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_OUTPUT, DEFAULT_SUPERNET, FinetuneOptions

EPILOG = (
    "Example: ofa-compile finetune --data flowers --architecture front/1f2e.json --target arm64"
)


def finetune_command(
    data: opt.Data,
    architecture: Annotated[
        Path, typer.Option("--architecture", help="JSON file of the subnet to specialise.")
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Compile for this target; none: export ONNX only."),
    ] = None,
    output: opt.Output = DEFAULT_OUTPUT,
    resolution: opt.Resolution = None,
    epochs: Annotated[
        float, typer.Option("--epochs", min=0.0, help="Passes over the training images.")
    ] = 10.0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=2, help="Images per training step.")
    ] = 32,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=0.0, help="Of the classifier, at its peak.")
    ] = 0.02,
    layer_decay: Annotated[
        float,
        typer.Option(
            "--layer-decay", min=0.0, max=1.0, help="Rate of a layer, as a share of the next one's."
        ),
    ] = 0.85,
    workspace: Annotated[
        Path, typer.Option("--workspace", help="Folder of the checkpoint that a second run uses.")
    ] = Path("ofa-finetuning"),
    supernet: opt.Supernet = DEFAULT_SUPERNET,
    space: opt.SupernetSpace = None,
    seed: opt.Seed = 0,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Specialise a chosen subnet on your images and classes, then compile it.

    Interrupt it as you like: a second run with the same --workspace continues.
    """
    options = FinetuneOptions(
        data=data,
        architecture=architecture,
        target=target,
        output=output,
        resolution=resolution,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        layer_decay=layer_decay,
        workspace=workspace,
        supernet=supernet,
        space=space,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    if channel.shows_dry_run(options, dry_run):
        return
    with channel.working() as progress:
        from ofa_compile.workflows.finetuning import finetune

        report = finetune(options, progress)
    channel.report(report)
