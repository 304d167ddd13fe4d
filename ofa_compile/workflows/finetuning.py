"""Specialise a subnet on the user's classes, then compile it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.bundle.manifest import Figure
from ofa_compile.options import FinetuneOptions
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import Architecture
from ofa_compile.supernet import load_supernet
from ofa_compile.workflows.subnets import normalization, read_architecture

if TYPE_CHECKING:
    from torch import nn

    from ofa_compile.training.data import ImageData

__all__ = ["finetune"]


def finetune(options: FinetuneOptions, progress: ProgressCallback = no_progress) -> dict[str, Any]:
    """Do what `ofa-compile finetune` does: train, state the accuracy, export, compile.

    Returns
    -------
    Accuracy and files: the bundle, or without a target the ONNX file.
    """
    from ofa_compile.bundle.publish import resolve_output
    from ofa_compile.training.data import load_images
    from ofa_compile.training.finetune import FinetuneConfig, finetune_subnet

    if options.target is not None:
        _check_target(options.target)
        resolve_output(options.output)  # fails before minutes are spent
    progress("loading supernet and images")
    supernet = load_supernet(options.supernet, space=options.space)
    architecture = read_architecture(options.architecture, supernet, options.resolution)
    data = load_images(options.data, size=architecture.resolution, cache=options.workspace)
    mean, std = normalization(supernet)
    data = dataclasses.replace(data, mean=mean, std=std)
    config = FinetuneConfig(
        output=options.workspace,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        layer_decay=options.layer_decay,
        seed=options.seed,
    )
    begun, first = time.monotonic(), -1

    def report(step: int, total: int, loss: float) -> None:
        nonlocal first
        first = step - 1 if first < 0 else first
        speed = (step - first) * options.batch_size / max(1e-9, time.monotonic() - begun)
        detail = f"{speed:.0f} images/s, loss {loss:.3f}"
        progress("specialising", step, total, detail=detail)

    result = finetune_subnet(supernet, architecture, data, config, progress=report)
    images = f"{result.num_images} {result.part} images"
    summary = {
        "architecture": architecture.to_dict(),
        "classes": list(data.labels),
        "steps": result.steps,
        "top1": result.top1,
        "evaluated_on": images,
        "skipped_images": list(data.skipped),
    }
    top1 = Figure(value=result.top1, kind="measured", source=f"in PyTorch, {images}")
    return {**summary, **_write(options, architecture, result.subnet, data, top1)}


def _check_target(name: str) -> None:
    from ofa_compile.hardware.target_spec import load_target
    from ofa_compile.hardware.toolchain import find_linker

    find_linker(load_target(name))


def _write(
    options: FinetuneOptions,
    architecture: Architecture,
    subnet: nn.Module,
    data: ImageData,
    top1: Figure,
) -> dict[str, str]:
    """Compile the specialised subnet, or only export it."""
    if options.target is None:
        from ofa_compile.export import export_onnx

        path = Path(options.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path if path.suffix == ".onnx" else path.with_suffix(".onnx")
        export_onnx(subnet, path, resolution=architecture.resolution)
        return {"onnx": str(path)}
    from ofa_compile.pipeline import compile as compile_subnet

    bundle = compile_subnet(
        subnet,
        options.target,
        options.output,
        architecture=architecture,
        labels=data.labels,
        mean=data.mean,
        std=data.std,
        figures={"accuracy_top1": top1},
    )
    return {"bundle": str(bundle.path), "target": options.target}
