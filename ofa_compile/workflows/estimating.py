"""Estimate subnets on a target that is not at hand, into a data set of estimates."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ofa_compile.hardware.precision import recorded_precision, target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.measurement.network_cycles import LEFT_OUT, CycleEstimator
from ofa_compile.options import MeasureOptions, default_workspace
from ofa_compile.predictors.estimate import LIMITS
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import Architecture, SearchSpace, search_space
from ofa_compile.tuning.choose import tuned_configs
from ofa_compile.tuning.database import Config
from ofa_compile.workflows.measuring import code_version, wanted_subnets


def estimates_path(workspace: Path) -> Path:
    """Return where estimates go: never into the file of measurements."""
    return workspace / "latency-estimates.jsonl"


def estimate_target(
    options: MeasureOptions, progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """Do what `measure --estimate` does; subnets estimated before are skipped.

    Raises
    ------
    DeviceUnavailableError, MissingDependencyError
        If nothing estimates the target's cycles, or a tool for it is not installed.
    MeasurementError
        If a subnet cannot be run in the emulator.
    """
    from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord
    from ofa_compile.measurement.machine import tool_versions

    target = target_in(load_target(options.target), options.precision)
    space = search_space(options.space)
    workspace = options.workspace or default_workspace(target.name)
    tuned = tuned_configs(target, workspace)
    code, wanted = code_version(tuned), wanted_subnets(options, space)
    estimator = CycleEstimator(target)
    dataset = LatencyDataset(estimates_path(workspace))
    known = dataset.records(kind="estimate", target_fingerprint=target.fingerprint, code=code)
    done = {record.architecture.hash for record in known}
    todo = [architecture for architecture in wanted if architecture.hash not in done]
    for number, architecture in enumerate(todo):
        progress("estimate", number, len(todo))
        with tempfile.TemporaryDirectory(prefix="ofa-compile-estimate-") as folder:
            executable, raw_input = build_executable(
                architecture, target, space, Path(folder), tuned
            )
            figures = estimator.estimate(executable, raw_input)
        record = LatencyRecord(
            architecture=architecture,
            target=target.name,
            target_fingerprint=target.fingerprint,
            kind="estimate",
            precision=recorded_precision(target),
            median_ms=figures.ms,
            versions={**tool_versions(), "code": code},
            machine={**estimator.method, **dataclasses.asdict(figures)},
        )
        dataset.append(record)
    progress("estimate", len(todo), len(todo))
    return {
        "dataset": str(dataset.path),
        "kind": "estimate",
        "num_estimated": len(todo),
        "num_skipped": len(wanted) - len(todo),
        "core": estimator.core,
        "left_out": LEFT_OUT,
        "limits": LIMITS,
    }


def build_executable(
    architecture: Architecture,
    target: TargetSpec,
    space: SearchSpace,
    folder: Path,
    tuned: dict[str, Config] | None = None,
) -> tuple[Path, Path]:
    """Return a subnet's executable with its symbols and fresh weights, and an input for it."""
    from ofa_compile.bundle.network_meta import render_network_meta
    from ofa_compile.bundle.preprocess import Preprocessing
    from ofa_compile.compiler.build import compile_onnx
    from ofa_compile.compiler.int8.prepare import calibration_for_timing
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.supernet import load_supernet

    path, side = folder / "subnet.onnx", architecture.resolution
    subnet = load_supernet(None, space=space).extract(architecture)
    export_onnx(subnet, path, resolution=side, check=False)
    plain = Preprocessing(height=side, width=side, mean=(0.0,) * 3, std=(1.0,) * 3)
    meta = render_network_meta(plain, ())
    compiled = compile_onnx(
        path,
        target,
        folder,
        network_meta=meta,
        tuned=tuned,
        keep_symbols=True,
        calibration=calibration_for_timing(target, side),
    )
    assert compiled.executable is not None  # asked for by network_meta
    raw_input = folder / "input.f32"
    np.full((3, side, side), 0.5, "<f4").tofile(raw_input)
    return compiled.executable, raw_input
