"""`ofa-compile train`: a supernet by progressive shrinking."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_SUPERNET, TrainOptions

EPILOG = "Example: ofa-compile train --data cifar10 --output run"


class Device(enum.Enum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def train_command(
    data: opt.Data,
    output: opt.Output = Path("ofa-training"),
    space: opt.Space = DEFAULT_SUPERNET,
    recipe: Annotated[
        str, typer.Option("--recipe", help="A shipped recipe, or a TOML file.")
    ] = "cifar",
    init: Annotated[
        str | None, typer.Option("--init", help="Supernet to start from (name or path).")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after this many steps.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of PyTorch.")
    ] = None,
    device: Annotated[
        Device, typer.Option("--device", help="Where to train; auto takes a GPU if there is one.")
    ] = Device.AUTO,
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, help="Parts of each batch; default: one per process."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the log for TensorBoard.")
    ] = False,
    seed: opt.Seed = 0,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Train a supernet on your images by progressive shrinking.

    Interrupt it as you like: a second run continues from the last checkpoint. On several GPUs or
    hosts: torchrun --nproc-per-node 2 -m ofa_compile train ...
    """
    options = TrainOptions(
        data=data,
        output=output,
        space=space,
        recipe=recipe,
        init=init,
        max_steps=max_steps,
        threads=threads,
        device=device.value,
        parts=parts,
        tensorboard=tensorboard,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    if channel.shows_dry_run(options, dry_run):
        return
    with channel.working() as progress:
        from ofa_compile.workflows.learning import train

        report = train(options, progress)
    channel.report(report)
