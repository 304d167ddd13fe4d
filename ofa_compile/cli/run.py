"""`ofa-compile run`: a bundle on images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, percent, table

EPILOG = "Example: ofa-compile run bundle --image photo.png --top 3"


def run_command(
    bundle: Annotated[Path, typer.Argument(help="Folder that `compile` wrote.")],
    image: Annotated[
        list[Path], typer.Option("--image", help="PNG or JPEG of any size; may be repeated.")
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes to show per image.")] = 5,
    threads: opt.Threads = 1,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Classify images with a bundle's binary, here or in the target's emulator."""
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working():
        from ofa_compile.bundle.bundle import load_bundle

        results = load_bundle(bundle).classify(image, top, threads=threads)
    document = [
        {"image": str(path), "classes": [dataclasses.asdict(found) for found in classes]}
        for path, classes in zip(image, results, strict=True)
    ]
    rows = [
        (path.name if place == 0 else "", found.label, percent(found.probability))
        for path, classes in zip(image, results, strict=True)
        for place, found in enumerate(classes)
    ]
    channel.result(
        {"bundle": str(bundle), "images": document}, table(("image", "class", "probability"), rows)
    )
