from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_compile.errors import ArchitectureError, CheckpointError, UserInputError
from ofa_compile.options import ExportOptions, SupernetOptions
from ofa_compile.space import macs, search_space, search_spaces
from ofa_compile.supernet import load_supernet
from ofa_compile.workflows import subnets


def test_export_writes_the_largest_by_default(weights: Path, tmp_path: Path) -> None:
    import onnx

    options = ExportOptions(
        output=tmp_path / "net.onnx", supernet=str(weights), no_calibration=True, resolution=64
    )
    architecture = subnets.export_architecture(options)
    assert architecture.resolution == 64
    assert architecture.depths == search_space("ofa_mbv3_cifar").largest().depths
    shape = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [1, 3, 64, 64]


def test_export_of_an_architecture_file_with_calibration(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    smallest = search_space("ofa_mbv3_cifar").smallest()
    path = tmp_path / "arch.json"
    path.write_text(smallest.to_json(), encoding="utf-8")
    options = ExportOptions(
        output=tmp_path / "net.onnx",
        supernet=str(weights),
        architecture=path,
        calibration_data=photos,
    )
    assert subnets.export_architecture(options) == smallest
    assert (tmp_path / "net.onnx").stat().st_size > 0


def test_a_foreign_supernet_needs_calibration_images(weights: Path) -> None:
    options, smallest = (
        SupernetOptions(supernet=str(weights)),
        load_supernet(str(weights)).space.smallest(),
    )
    with pytest.raises(UserInputError, match="needs images, and none are given") as caught:
        subnets.calibration_images(options, smallest)
    assert "--calibration-data" in str(caught.value.hint)
    assert subnets.calibration_images(SupernetOptions(no_calibration=True), smallest) is None


@pytest.mark.parametrize(("resolution", "count"), [(32, 2000), (112, 2000), (160, 979), (224, 500)])
def test_large_images_calibrate_in_smaller_numbers(resolution: int, count: int) -> None:
    assert subnets.num_calibration_images(resolution) == count


def test_calibration_changes_the_statistics_to_those_of_the_images(weights: Path) -> None:
    supernet = load_supernet(str(weights))
    architecture = supernet.space.smallest()
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    before = subnets.extract_calibrated(supernet, architecture, None)
    after = subnets.extract_calibrated(supernet, architecture, images)
    assert not torch.allclose(_first_mean(before), _first_mean(after))


def _first_mean(subnet: torch.nn.Module) -> torch.Tensor:
    norm = next(m for m in subnet.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.running_mean is not None
    return norm.running_mean


def test_an_architecture_outside_the_space_is_refused(weights: Path, tmp_path: Path) -> None:
    supernet = load_supernet(str(weights))
    other = search_space("ofa_resnet50").largest()
    path = tmp_path / "arch.json"
    path.write_text(other.to_json(), encoding="utf-8")
    with pytest.raises(ArchitectureError):
        subnets.read_architecture(path, supernet)
    with pytest.raises(ArchitectureError, match="33"):
        subnets.read_architecture(None, supernet, 33)


def test_labels_and_normalization(weights: Path) -> None:
    supernet = load_supernet(str(weights))
    assert subnets.class_labels(supernet) == tuple("abcdefghij")
    assert subnets.normalization(supernet) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    fresh = load_supernet(None, space="ofa_mbv3_cifar")
    assert subnets.class_labels(fresh)[3] == "class 3"
    assert subnets.normalization(fresh)[0] == subnets.IMAGENET_MEAN


def test_spaces_are_described_without_weights() -> None:
    described = {item["name"]: item for item in subnets.describe_spaces()}
    assert list(described) == search_spaces()
    space = search_space("ofa_resnet50")
    assert described["ofa_resnet50"]["smallest_macs"] == macs(space.smallest())
    assert described["ofa_resnet50"]["num_architectures"] == space.size()


def test_import_gives_a_file_that_loads_alone(tmp_path: Path) -> None:
    supernet = load_supernet(None, space="ofa_mbv3_cifar", seed=3)
    checkpoint, output = tmp_path / "authors.pth", tmp_path / "out" / "ours.safetensors"
    torch.save({"state_dict": supernet.state_dict()}, checkpoint)
    report = subnets.import_supernet(checkpoint, "ofa_mbv3_cifar", output)
    again = load_supernet(str(output))
    assert report["weights_hash"] == again.weights_hash == supernet.weights_hash
    assert again.metadata["mean"] == list(subnets.IMAGENET_MEAN)
    with pytest.raises(CheckpointError, match=r"written as \.safetensors"):
        subnets.import_supernet(checkpoint, "ofa_mbv3_cifar", tmp_path / "x.bin")
