"""Training, evaluation, and the accuracy predictor fitted on what was evaluated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ofa_compile.errors import ConfigError, DataError, UserInputError
from ofa_compile.options import EvaluateOptions, FitAccuracyOptions, TrainOptions
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import search_space
from ofa_compile.supernet import Supernet, load_supernet
from ofa_compile.training import evaluate as evaluation
from ofa_compile.training.data import load_images, resize
from ofa_compile.training.evaluate import EvaluationImages
from ofa_compile.training.sampling import sample_families, sample_uniform
from ofa_compile.workflows.subnets import normalization, read_architecture

# Images of data sets this small are kept decoded at the space's own size.
MAX_STORED_SIZE = 64
DEFAULT_LIMIT = 2000


def train(options: TrainOptions, progress: ProgressCallback = no_progress) -> dict[str, Any]:
    """Train a supernet, or continue such a run; return where the results are."""
    from ofa_compile.training.train import TrainConfig, train_supernet

    config = TrainConfig(
        data=options.data,
        output=options.output,
        space=options.space,
        recipe=options.recipe,
        init=options.init,
        max_steps=options.max_steps,
        threads=options.threads,
        seed=options.seed,
        device=options.device,
        parts=options.parts,
        tensorboard=options.tensorboard,
    )

    def report(done: int, total: int, losses: dict[str, float]) -> None:
        loss = losses.get("largest", losses.get("random", 0.0))
        detail = f"{losses['images_per_s']:.0f} images/s, loss {loss:.3f}"
        progress("training: images", done, total, detail=detail)

    result = train_supernet(config, progress=report)
    return {
        "weights": None if result.weights is None else str(result.weights),
        "checkpoint": str(result.checkpoint),
        "step": result.step,
        "total_steps": result.total_steps,
        "loss": result.loss,
        "images_per_s": result.images_per_s,
        "skipped_images": list(result.skipped),
    }


def evaluate(options: EvaluateOptions, progress: ProgressCallback = no_progress) -> dict[str, Any]:
    """Evaluate one architecture, or sampled ones into a data set that a second run continues.

    Raises
    ------
    DataError
        If the images cannot be used, or their classes are not the supernet's.
    """
    progress("loading supernet and images")
    supernet = load_supernet(options.supernet, space=options.space)
    images = _evaluation_images(options, supernet)
    if options.architecture is not None:
        architecture = read_architecture(options.architecture, supernet, options.resolution)
        subnet = evaluation.calibrated_subnet(supernet, architecture, images.calibration)
        x = resize(images.images, architecture.resolution)
        figures: dict[str, Any] = {
            "architecture": architecture.to_dict(),
            "top1": evaluation.evaluate_subnet(subnet, x, images.labels),
        }
    else:
        figures = _evaluate_samples(options, supernet, images, progress)
    return {
        **figures,
        "data": images.data,
        "num_images": len(images.images),
        "num_calibration_images": len(images.calibration),
    }


def _evaluation_images(options: EvaluateOptions, supernet: Supernet) -> EvaluationImages:
    """Read the images, normalised as the supernet's were."""
    largest = max(supernet.space.resolutions)
    size = largest if largest <= MAX_STORED_SIZE else None
    data = load_images(options.data, size=size)
    known = supernet.metadata.get("labels")
    if known and tuple(known) != data.labels:
        message = f"{options.data} has the classes {', '.join(data.labels)}; the supernet others"
        raise DataError(message, hint=f"the supernet's classes are {', '.join(map(str, known))}")
    mean, std = normalization(supernet)
    data = dataclasses.replace(data, mean=mean, std=std)
    too_many = options.held_out >= len(data.train_images)
    if options.part == "test":
        if options.view:
            message = f"view {options.view} of the test images: they are taken as they are"
            raise UserInputError(message, hint="leave out --view, or --test")
        images = evaluation.test_set_images(data, held_out=0 if too_many else options.held_out)
        count = options.limit or len(images.images)
        return dataclasses.replace(
            images, images=images.images[:count], labels=images.labels[:count]
        )
    if too_many:
        message = f"{options.data} has {len(data.train_images)} training images, so training "
        message += f"cannot have held out {options.held_out}"
        raise DataError(message, hint="pass the recipe's number as --held-out, or --test")
    return evaluation.held_out_images(
        data,
        held_out=options.held_out,
        count=options.limit or DEFAULT_LIMIT,
        calibration=options.calibration_images,
        calibration_seed=options.calibration_seed,
        view=options.view,
    )


def _evaluate_samples(
    options: EvaluateOptions,
    supernet: Supernet,
    images: EvaluationImages,
    progress: ProgressCallback,
) -> dict[str, Any]:
    draw = sample_uniform if options.design == "uniform" else sample_families
    families = draw(supernet.space, options.count, options.seed)
    rank, ranks = options.shard
    architectures = [a for family in families[rank::ranks] for a in family]
    if options.resolution is not None:
        architectures = [
            dataclasses.replace(a, resolution=options.resolution) for a in architectures
        ]
    records = evaluation.evaluate_architectures(
        supernet,
        architectures,
        images,
        options.dataset,
        progress=lambda done, total, _record: progress("evaluating", done, total),
    )
    if not records:
        message = f"shard {rank}/{ranks} has none of the {options.count} subnets"
        raise DataError(message, hint="Use fewer shards, or a larger --count.")
    accuracies = [record.top1 for record in records]
    return {
        "dataset": str(options.dataset),
        "num_subnets": len(records),
        "lowest_top1": min(accuracies),
        "median_top1": float(np.median(accuracies)),
        "highest_top1": max(accuracies),
    }


def fit_accuracy_predictor(
    options: FitAccuracyOptions, progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """Fit an accuracy predictor, save it, and return its cross-validated errors.

    With `authors_file` the predictor is converted, not fitted.

    Raises
    ------
    ConfigError
        If both or neither of data set and file are given.
    """
    from ofa_compile.predictors.accuracy_fit import FitConfig, fit_records, read_part

    if (options.dataset is None) == (options.authors_file is None):
        message = "an accuracy predictor comes from --dataset or from --import-authors: give one"
        raise ConfigError(message, hint="write a data set with `ofa-compile evaluate`")
    if options.authors_file is not None:
        return _import_accuracy_predictor(options, options.authors_file)
    assert options.dataset is not None  # checked above
    progress("fitting")
    space = search_space(options.space)
    part = "test" if options.part == "test" else "train-held-out"
    records = read_part(options.dataset, part)
    predictor, report = fit_records(records, space, config=FitConfig(seed=options.seed))
    if options.study:
        from ofa_compile.predictors.accuracy_study import study

        report["study"] = study(records, space, progress=progress)
        predictor.report.update(report)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    predictor.save(options.output)
    return {"predictor": str(options.output), "space": options.space, **report}


def _import_accuracy_predictor(options: FitAccuracyOptions, path: Path) -> dict[str, Any]:
    """Convert the authors' predictor and save it."""
    from ofa_compile.predictors.accuracy_import import import_authors_predictor

    predictor = import_authors_predictor(path, search_space(options.space))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    predictor.save(options.output)
    return {
        "predictor": str(options.output),
        "space": options.space,
        "resolutions": list(predictor.resolutions),
        **predictor.report,
    }
