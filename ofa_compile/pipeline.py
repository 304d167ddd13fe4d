"""The main job, end to end: supernet → search → subnet → ONNX → binary → verified bundle."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np  # noqa: TID253 - the command line imports this module when it needs it
from numpy.typing import NDArray  # noqa: TID253

from ofa_compile.bundle.build import BundleContents, build_bundle
from ofa_compile.bundle.executor import check_runnable
from ofa_compile.bundle.manifest import Figure, FigureKind, describe_target
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.publish import resolve_output
from ofa_compile.bundle.verify import Reference, noise_inputs, num_verification_inputs
from ofa_compile.cache import Cache
from ofa_compile.errors import OfaCompileError, UserInputError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.options import CompileOptions, SupernetOptions, default_workspace
from ofa_compile.predictors.estimate import LIMITS
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import Architecture, SearchSpace, macs, num_parameters, search_space
from ofa_compile.tuning.choose import tuned_configs
from ofa_compile.workflows import selection
from ofa_compile.workflows.prepared_subnet import prepared_subnet
from ofa_compile.workflows.subnets import IMAGENET_MEAN, IMAGENET_STD, is_embedded

if TYPE_CHECKING:
    from torch import nn

    from ofa_compile.bundle.build import Run
    from ofa_compile.bundle.bundle import Bundle
    from ofa_compile.compiler.int8.prepare import Calibration

logger = logging.getLogger(__name__)

NOTHING_MEASURED: Mapping[str, Figure] = {}


def compile_bundle(
    options: CompileOptions,
    progress: ProgressCallback = no_progress,
    *,
    measured: Mapping[str, Figure] = NOTHING_MEASURED,
) -> Bundle:
    """Do what `ofa-compile compile` does.

    A subnet calibrated before comes from the cache, with the reference outputs that PyTorch gave
    then; neither torch nor TVM is imported in that case.

    Parameters
    ----------
    options, progress
        What to compile, and whom to tell how far it is.
    measured
        Figures measured before, for the manifest.

    Raises
    ------
    OfaCompileError
        By kind: input (2), missing tool (3), device (4), compilation (5), wrong numbers (6),
        limits that cannot be met (7). No bundle is written, and an older one stays.
    """
    target = target_in(load_target(options.target), options.precision)
    # Whatever can fail at once does, before minutes are spent.
    resolve_output(options.output)
    find_linker(target)
    if options.verify:
        _check_runnable(target)
    space = _space_of(options)
    progress("choosing an architecture")
    architecture, figures = _choose(options, space, target, progress)
    cache = Cache()
    progress("preparing the subnet")
    subnet = prepared_subnet(options, architecture, target, cache)
    progress("compiling")
    facts = subnet.facts
    contents = BundleContents(
        preprocessing=Preprocessing(
            height=architecture.resolution,
            width=architecture.resolution,
            mean=facts.mean,
            std=facts.std,
        ),
        labels=facts.labels,
        architecture=architecture,
        supernet={
            "name": Path(options.supernet).name,
            "weights_hash": facts.weights_hash,
            "calibration": facts.calibration,
        },
        network=_sizes(architecture, facts.num_classes),
        threads=options.threads,
        figures={**figures, **_accuracy_on_data(options, architecture, progress), **measured},
    )
    return build_bundle(
        subnet.onnx,
        target,
        options.output,
        contents,
        reference=subnet.reference if options.verify else None,
        cache=cache,
        tuned=tuned_configs(target, options.workspace or default_workspace(target.name)),
        progress=progress,
        calibration=_calibration(options, architecture),
        measure_binary=_binary_accuracy(options, architecture),
    )


def compile(
    subnet: nn.Module | str | Path,
    target: TargetSpec | str = "host",
    output: str | Path = "ofa-bundle",
    *,
    resolution: int | None = None,
    architecture: Architecture | None = None,
    labels: tuple[str, ...] = (),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    verify: bool = True,
    precision: str = "fp32",
    batch: int = 1,
    calibration: NDArray[np.float32] | None = None,
    figures: Mapping[str, Figure] = NOTHING_MEASURED,
    progress: ProgressCallback = no_progress,
) -> Bundle:
    """Compile a PyTorch module or an ONNX file; neither searches nor calibrates.

    Parameters
    ----------
    subnet
        Module in evaluation mode with input (1, 3, H, W), or path of an ONNX file.
    target
        Hardware target or its name.
    output
        Folder of the bundle; an older bundle there is replaced.
    resolution
        Side of the input in pixels; a module needs it, or an architecture that says it.
    architecture
        What the network is, for the manifest.
    labels, mean, std
        Classes and normalisation to compile into the executable.
    verify
        Compare the binary with PyTorch (for a file: with ONNX's reference evaluator).
    precision
        "fp32", "tf32", "fp16" or "int8".
    batch
        Images of one run; of a file it is the file's own.
    calibration
        For int8: real images, normalised, of shape (n, 3, H, W).
    figures
        What is known of it already, for the manifest.

    Raises
    ------
    OfaCompileError
        As `compile_bundle`.
    """
    spec = load_target(target) if isinstance(target, str) else target
    spec = target_in(spec, precision)
    if resolution is None and architecture is not None:
        resolution = architecture.resolution
    with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
        if isinstance(subnet, str | Path):
            onnx_path, run = Path(subnet), None
        else:
            if resolution is None:
                msg = "compiling a module needs resolution=..., the side of its input in pixels"
                raise UserInputError(msg)
            from ofa_compile.export import export_onnx

            onnx_path = Path(folder) / "subnet.onnx"
            export_onnx(subnet, onnx_path, resolution=resolution, batch=batch)
            run = subnet
        shape = _input_shape(onnx_path)
        reference = _reference(onnx_path if run is None else run, shape, spec) if verify else None
        preprocessing = Preprocessing(height=shape[2], width=shape[3], mean=mean, std=std)
        contents = BundleContents(
            preprocessing=preprocessing,
            labels=labels,
            architecture=architecture,
            network={} if architecture is None else _sizes(architecture, _num_classes(onnx_path)),
            figures=figures,
        )
        return build_bundle(
            onnx_path,
            spec,
            Path(output),
            contents,
            reference=reference,
            tuned=tuned_configs(spec, default_workspace(spec.name)),
            progress=progress,
            calibration=_images_for(spec, calibration),
        )


def _reference(network: nn.Module | Path, shape: tuple[int, ...], target: TargetSpec) -> Reference:
    """Make noise and compute what a module, or a file in onnx's evaluator, answers to it."""
    count = num_verification_inputs(shape[2], is_emulated=target.is_emulated)
    count = -(-max(count, shape[0]) // shape[0]) * shape[0]
    inputs = noise_inputs(shape, count)
    if isinstance(network, Path):
        return Reference(inputs=inputs, logits=_onnx_logits(network, inputs))
    from ofa_compile.supernet import compute_logits

    return Reference(inputs=inputs, logits=compute_logits(network, inputs))


def _check_runnable(target: TargetSpec) -> None:
    try:
        check_runnable(describe_target(target))
    except OfaCompileError as error:
        also = "--no-verify builds the bundle all the same"
        error.hint = f"{error.hint}; {also}" if error.hint else also
        raise


def _images_for(target: TargetSpec, images: NDArray[np.float32] | None) -> Calibration | None:
    if target.precision != "int8" or images is None:
        return None
    from ofa_compile.compiler.int8.prepare import given_images

    return given_images(images)


def _sizes(architecture: Architecture, num_classes: int) -> dict[str, int]:
    return {
        "macs": macs(architecture, num_classes=num_classes),
        "parameters": num_parameters(architecture, num_classes=num_classes),
    }


def _num_classes(path: Path) -> int:
    import onnx

    output = onnx.load(path, load_external_data=False).graph.output[0]
    return int(output.type.tensor_type.shape.dim[-1].dim_value)


def _input_shape(path: Path) -> tuple[int, ...]:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        dimensions = model.graph.input[0].type.tensor_type.shape.dim
    except Exception as err:  # protobuf and onnx share no base class for damaged files
        msg = f"{path} cannot be read as an ONNX model: {err}"
        raise UserInputError(msg) from err
    shape = tuple(d.dim_value for d in dimensions)
    if len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
        msg = f"{path}: the input must have a static shape (N, 3, H, W), got {shape}"
        raise UserInputError(msg, hint="export it with fixed sizes")
    return shape


def _onnx_logits(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run onnx's own evaluator: slow, and independent of our compiler."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    evaluator = ReferenceEvaluator(model)
    name = model.graph.input[0].name
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    rows = [
        evaluator.run(None, {name: inputs[i : i + batch]})[0] for i in range(0, len(inputs), batch)
    ]
    return np.concatenate(rows).astype(np.float32)


# Choosing an architecture


def _space_of(options: SupernetOptions) -> SearchSpace:
    """Find the search space without loading weights where that is possible."""
    if options.space is not None:
        return search_space(options.space)
    if is_embedded(options.supernet):
        return search_space(options.supernet)
    name = _recorded_space(Path(options.supernet))
    if name is None:
        from ofa_compile.supernet import load_supernet

        return load_supernet(options.supernet).space  # or its error, which says what is missing
    return search_space(name)


def _recorded_space(path: Path) -> str | None:
    """Return the space that a safetensors file says it is of; the tensors stay unread."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("space")
    except (OSError, SafetensorError):
        return None


def _choose(
    options: CompileOptions, space: SearchSpace, target: TargetSpec, progress: ProgressCallback
) -> tuple[Architecture, dict[str, Figure]]:
    """Read the architecture, or search for one; say what is predicted for it."""
    if options.architecture is not None:
        architecture = Architecture.from_file(options.architecture)
        if options.resolution is not None:
            architecture = dataclasses.replace(architecture, resolution=options.resolution)
        space.validate(architecture)
        return architecture, _predicted(options, space, target, architecture)
    result = selection.search_subnets(
        space, target, options, batch=options.batch, seed=options.seed, progress=progress
    )
    limits = (options.max_latency_ms, options.max_macs, options.max_parameters)
    sizes = (options.max_size_bytes, options.max_activation_bytes)
    has_limit = any(v is not None for v in (*limits, *sizes))
    chosen = result.best if has_limit else result.knee
    figures = {"accuracy_top1": _figure(chosen.accuracy, "predicted", "accuracy predictor")}
    if chosen.latency_ms is not None and chosen.latency_kind is not None:
        figures |= _latency_figures(chosen.latency_ms, chosen.latency_kind, options.batch)
    return chosen.architecture, figures


def _figure(value: float, kind: FigureKind, source: str) -> Figure:
    return Figure(value=value, kind=kind, source=source)


def _latency_figures(ms: float, kind: str, batch: int) -> dict[str, Figure]:
    """Return the latency of a run, and of a batch the throughput that it means."""
    word: FigureKind = "estimated" if kind == "estimate" else "predicted"
    source = "latency predictor fitted on measurements"
    if kind == "estimate":
        source = f"no measurement: {LIMITS}"
    if batch == 1:
        return {"latency_ms": _figure(ms, word, source)}
    source += f", batch {batch}"
    throughput = _figure(1e3 * batch / ms, word, source)
    return {"latency_ms": _figure(ms, word, source), "images_per_s": throughput}


def _predicted(
    options: CompileOptions, space: SearchSpace, target: TargetSpec, architecture: Architecture
) -> dict[str, Figure]:
    """Predict what can be predicted for a given architecture."""
    figures: dict[str, Figure] = {}
    if architecture.resolution not in space.resolutions:
        return figures
    try:
        accuracy = selection.load_accuracy_predictor(space, options.accuracy_predictor)
        value = float(accuracy.predict([architecture])[0])
        figures["accuracy_top1"] = _figure(value, "predicted", "accuracy predictor")
    except UserInputError:
        if options.accuracy_predictor is not None:
            raise
        logger.info("no accuracy predictor ships for %s", space.name)
    try:
        latency = selection.load_latency_predictor(
            target, space, options.latency_predictor, options.workspace, batch=options.batch
        )
    except UserInputError:
        if options.batch == 1 or options.latency_predictor is not None:
            raise
        logger.info("nothing predicts the latency of batch %d", options.batch)
        return figures
    ms = float(latency.predict([architecture])[0])
    return figures | _latency_figures(ms, latency.kind, options.batch)


def _accuracy_on_data(
    options: CompileOptions, architecture: Architecture, progress: ProgressCallback
) -> dict[str, Figure]:
    """Evaluate the subnet on the user's test images, if they gave some."""
    if options.accuracy_data is None:
        return {}
    from ofa_compile.workflows.subnets import measured_accuracy

    top1, count = measured_accuracy(options, architecture, options.accuracy_data, progress)
    source = f"{count} test images of {options.accuracy_data.name}, in PyTorch"
    name = "accuracy_top1_on_data" if options.precision == "fp32" else "accuracy_top1_on_data_fp32"
    return {name: _figure(top1, "measured", source)}


def _calibration(options: CompileOptions, architecture: Architecture) -> Calibration | None:
    """Return what a quantised subnet takes its ranges from; None in float."""
    if options.precision != "int8":
        return None
    from ofa_compile.workflows.int8 import int8_calibration

    return int8_calibration(options, architecture)


def _binary_accuracy(
    options: CompileOptions, architecture: Architecture
) -> Callable[[Run], Mapping[str, Figure]] | None:
    """Return what measures a less precise binary on the user's test images, if they gave some."""
    data = options.accuracy_data
    if options.precision == "fp32" or data is None:
        return None

    def measure(run: Run) -> Mapping[str, Figure]:
        from ofa_compile.workflows.int8 import binary_accuracy

        top1, count = binary_accuracy(run, options, architecture, data)
        source = f"{count} test images of {data.name}, by the binary"
        return {"accuracy_top1_on_data": _figure(top1, "measured", source)}

    return measure
