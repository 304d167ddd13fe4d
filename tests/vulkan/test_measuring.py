"""Vulkan as a target like any other: measured, searched and refused as one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.options import MeasureOptions
from ofa_compile.workflows.measuring import latency_dataset_path, measure_target

SPACE = "ofa_mbv3_cifar"


@pytest.mark.vulkan
@pytest.mark.slow
def test_batches_are_measured_on_a_named_device(tmp_path: Path) -> None:
    options = MeasureOptions(
        target="vulkan", space=SPACE, count=2, resolution=24, batch=2, workspace=tmp_path
    )
    report = measure_target(options)
    assert report["num_measured"] == 2
    records = LatencyDataset(latency_dataset_path(tmp_path)).records(kind="measurement")
    assert [record.batch for record in records] == [2, 2]
    # Whoever reads the times must see whose they are.
    assert {record.machine["gpu"] for record in records} == {report["gpu"]}
    assert "Vulkan 1." in report["gpu"]
    # What is there for one batch says nothing about another.
    again = measure_target(dataclasses.replace(options, batch=1, count=1))
    assert (again["num_skipped"], again["num_measured"]) == (0, 1)


def test_no_gpu_is_said_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks() -> None:
        message = "no GPU"
        raise DeviceUnavailableError(message)

    monkeypatch.setattr("ofa_compile.hardware.cuda_devices.check_cuda", lacks)
    with pytest.raises(DeviceUnavailableError, match="no GPU") as got:
        measure_target(MeasureOptions(target="cuda", space=SPACE, workspace=tmp_path))
    assert got.value.exit_code == 4
