"""From supernet options to a calibrated subnet, and what a supernet is."""

from __future__ import annotations

import dataclasses
import importlib.resources
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import CheckpointError, UserInputError
from ofa_compile.options import ExportOptions, SupernetOptions
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import Architecture, macs, num_parameters, search_space, search_spaces

if TYPE_CHECKING:
    from torch import nn

    from ofa_compile.supernet import Supernet

_LOGGER = logging.getLogger(__name__)

# The authors' checkpoints are trained on images normalised like this (their ImageNet provider).
Channels = tuple[float, float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Their BN calibration uses 2,000 training images as well. Statistics are of pixels, of which fewer
# large images have as many.
_MOST_IMAGES, _FEWEST_IMAGES = 2000, 500
_MOST_IMAGES_UP_TO = 112  # pixels in height and width
# Activations of so many pixels fit into memory at a time; images of a batch share their statistics
# on the way, so it should be no less.
_PIXELS_AT_ONCE = 100 * 224**2
_IMAGES_AT_ONCE = 500


def load_options_supernet(options: SupernetOptions) -> Supernet:
    """Load the supernet that the options name."""
    from ofa_compile.supernet import load_supernet

    return load_supernet(options.supernet, space=options.space)


def normalization(supernet: Supernet) -> tuple[Channels, Channels]:
    """Return per-channel mean and standard deviation that the supernet was trained with."""
    mean = supernet.metadata.get("mean", IMAGENET_MEAN)
    std = supernet.metadata.get("std", IMAGENET_STD)
    return (
        (float(mean[0]), float(mean[1]), float(mean[2])),
        (float(std[0]), float(std[1]), float(std[2])),
    )


def class_labels(supernet: Supernet) -> tuple[str, ...]:
    """Return the names of the classes, numbered ones where the supernet has none."""
    labels = supernet.metadata.get("labels")
    if labels:
        return tuple(map(str, labels))
    return tuple(f"class {number}" for number in range(supernet.num_classes))


def is_embedded(supernet: str) -> bool:
    """Whether the name is one of a supernet that ships with this package."""
    return supernet in search_spaces() and not Path(supernet).is_file()


def num_calibration_images(resolution: int) -> int:
    """Return how many images of a data set subnets of a resolution are calibrated on."""
    wanted = _MOST_IMAGES * (_MOST_IMAGES_UP_TO / resolution) ** 2
    return int(np.clip(wanted, _FEWEST_IMAGES, _MOST_IMAGES))


def calibration_images(
    options: SupernetOptions, architecture: Architecture
) -> NDArray[np.uint8] | None:
    """Return the images for BN calibration, of shape (n, h, w, 3); None for no calibration.

    Those of a data set have the largest resolution of the space, like those for evaluation.

    Raises
    ------
    UserInputError
        If the supernet is not an embedded one and no images are given.
    DataError
        If the images cannot be read.
    """
    if options.no_calibration:
        return None
    if options.calibration_data is not None:
        from ofa_compile.training.image_sample import sample_images

        return sample_images(
            options.calibration_data,
            num_calibration_images(architecture.resolution),
            size=max(search_space(architecture.space).resolutions),
            seed=options.seed,
        )
    if is_embedded(options.supernet):
        return _embedded_images(options.supernet)
    message = f"BN calibration of subnets of '{options.supernet}' needs images, and none are given"
    hint = "pass --calibration-data FOLDER, or --no-calibration to keep the checkpoint's statistics"
    raise UserInputError(message, hint=hint)


def _embedded_images(supernet: str) -> NDArray[np.uint8]:
    resource = importlib.resources.files("ofa_compile.weights") / f"{supernet}.calibration.npz"
    if not resource.is_file():
        message = f"no calibration images ship with '{supernet}'"
        raise UserInputError(message, hint="pass --calibration-data or --no-calibration")
    with resource.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        images: NDArray[np.uint8] = stored["images"]
    return images


def extract_calibrated(
    supernet: Supernet, architecture: Architecture, images: NDArray[np.uint8] | None
) -> nn.Module:
    """Extract a subnet and re-estimate its batch-norm statistics on `images`.

    Parameters
    ----------
    supernet
        Source of the weights.
    architecture
        Member of its space.
    images
        uint8 array of shape (n, h, w, 3); None leaves the supernet's statistics.
    """
    from ofa_compile.training.allocator import keep_memory
    from ofa_compile.training.bn_calibration import calibrate_bn_in_parts
    from ofa_compile.training.data import normalize, resize

    subnet = supernet.extract(architecture)
    if images is not None:
        keep_memory()
        mean, std = normalization(supernet)
        size = architecture.resolution
        at_once = min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // size**2)
        parts = np.array_split(images, max(1, round(len(images) / at_once)))
        calibrate_bn_in_parts(subnet, (resize(normalize(part, mean, std), size) for part in parts))
    return subnet


def measured_accuracy(
    options: SupernetOptions, architecture: Architecture, data: Path, progress: ProgressCallback
) -> tuple[float, int]:
    """Evaluate a calibrated subnet on the test images of `data`; return top-1 and their number."""
    from ofa_compile.training.data import load_images, resize
    from ofa_compile.training.evaluate import evaluate_subnet, test_set_images

    progress("measuring accuracy")
    supernet = load_options_supernet(options)
    found = load_images(data, size=max(supernet.space.resolutions))
    mean, std = normalization(supernet)
    images = test_set_images(dataclasses.replace(found, mean=mean, std=std), held_out=0)
    subnet = extract_calibrated(supernet, architecture, calibration_images(options, architecture))
    scaled = resize(images.images, architecture.resolution)
    return evaluate_subnet(subnet, scaled, images.labels), len(images.labels)


def read_architecture(
    path: Path | None, supernet: Supernet, resolution: int | None = None
) -> Architecture:
    """Read an architecture file (None: the largest of the space), with another resolution."""
    space = supernet.space
    architecture = space.largest() if path is None else Architecture.from_file(path)
    if resolution is not None:
        architecture = dataclasses.replace(architecture, resolution=resolution)
    space.validate(architecture)
    return architecture


def export_architecture(
    options: ExportOptions, progress: ProgressCallback = no_progress
) -> Architecture:
    """Extract, calibrate and export one architecture as ONNX; return it."""
    from ofa_compile.export import export_onnx

    progress("loading the supernet")
    supernet = load_options_supernet(options)
    architecture = read_architecture(options.architecture, supernet, options.resolution)
    progress("extracting and calibrating the subnet")
    subnet = extract_calibrated(supernet, architecture, calibration_images(options, architecture))
    progress("exporting")
    export_onnx(subnet, options.output, resolution=architecture.resolution)
    return architecture


def describe_spaces() -> list[dict[str, Any]]:
    """Describe every search space, without building a supernet."""
    weights = importlib.resources.files("ofa_compile.weights")
    spaces = []
    for name in search_spaces():
        space = search_space(name)
        spaces.append(
            {
                "name": name,
                "family": space.family,
                "has_weights": (weights / f"{name}.safetensors").is_file(),
                "resolutions": list(space.resolutions),
                "num_classes": space.num_classes_default,
                "num_architectures": space.size(),
                "smallest_macs": macs(space.smallest()),
                "largest_macs": macs(space.largest()),
            }
        )
    return spaces


def describe_supernet(source: str, space: str | None = None) -> dict[str, Any]:
    """Load a supernet and say what it is."""
    supernet = load_options_supernet(SupernetOptions(supernet=source, space=space))
    largest = supernet.space.largest()
    metadata = {k: v for k, v in supernet.metadata.items() if k not in ("space", "num_classes")}
    return {
        "supernet": source,
        "space": supernet.space.name,
        "num_classes": supernet.num_classes,
        "num_parameters": sum(p.numel() for p in supernet.parameters()),
        "largest_subnet_parameters": num_parameters(largest, num_classes=supernet.num_classes),
        "largest_subnet_macs": macs(largest, num_classes=supernet.num_classes),
        "weights_hash": supernet.weights_hash,
        **metadata,
    }


def import_supernet(checkpoint: Path, space: str, output: Path) -> dict[str, Any]:
    """Turn an authors' checkpoint into a safetensors file of ours.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read as plain tensors or does not fit the space, or the output
        is not a ``.safetensors`` path.
    """
    from ofa_compile.supernet import load_supernet, save_supernet

    if output.suffix != ".safetensors":
        message = f"a supernet is written as .safetensors, got '{output}'"
        raise CheckpointError(message, hint=f"--output {output.with_suffix('.safetensors')}")
    supernet = load_supernet(checkpoint, space=space)
    supernet.metadata.setdefault("mean", list(IMAGENET_MEAN))
    supernet.metadata.setdefault("std", list(IMAGENET_STD))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_supernet(supernet, output)
    return {"supernet": str(output), "space": space, "weights_hash": supernet.weights_hash}
