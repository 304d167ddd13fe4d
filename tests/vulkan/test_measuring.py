"""Vulkan as a target like any other: measured, searched and refused as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from networks import check_memory

from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.cli.app import run_app
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.options import MeasureOptions
from ofa_compile.space import search_space
from ofa_compile.workflows.measuring import latency_dataset_path, measure_target

SPACE = "ofa_mbv3_cifar"


Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return what runs a command and reads its document."""
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(cache.root))

    def run(*arguments: object) -> dict[str, Any]:
        assert run_app([*map(str, arguments), "--json", "--quiet"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.vulkan
def test_it_is_listed_and_searched(call: Call, tmp_path: Path) -> None:
    listed = {entry["name"]: entry for entry in call("targets", "list")["targets"]}
    assert listed["vulkan"]["is_native"] is True
    assert listed["vulkan"]["precisions"] == ["fp32", "fp16"]
    limits = ("--resolution", 24, "--max-latency-ms", 0.3, "--max-evaluations", 4000)
    found = call("search", "--target", "vulkan", *limits, "--workspace", tmp_path)
    best = found["best"]["latencies"]["vulkan"]
    assert 0 < best["ms"] <= 0.3
    assert best["kind"] == "estimate"  # nothing was measured yet


@pytest.mark.vulkan
@pytest.mark.slow
def test_a_compiled_subnet_leaks_nothing(call: Call, tmp_path: Path) -> None:
    subnet, output = tmp_path / "subnet.json", tmp_path / "bundle"
    subnet.write_text(search_space(SPACE).smallest(24).to_json(), encoding="utf-8")
    call("compile", "--target", "vulkan", "--architecture", subnet, "--output", output)
    manifest = load_bundle(output).manifest
    assert manifest.verification["verified"] is True
    assert manifest.verification["runner"] == "native"
    with NativeLibrary(output / "libsubnet.so", manifest.symbol_prefix) as library:
        check_memory(library)


@pytest.mark.vulkan
@pytest.mark.slow
def test_batches_are_measured_on_a_named_device(call: Call, tmp_path: Path) -> None:
    how = ("--resolution", 24, "--count", 1, "--batch", 2, "--workspace", tmp_path)
    report = call("measure", "--target", "vulkan", *how)
    assert report["num_measured"] == 1
    records = LatencyDataset(latency_dataset_path(tmp_path)).records(kind="measurement")
    assert [record.batch for record in records] == [2]
    (median_ms,) = (record.median_ms for record in records if record.role == "sample")
    assert report["median_images_per_s"] == pytest.approx(2e3 / median_ms)
    assert {record.energy_joules for record in records} == {None}
    # Whoever reads the times must see whose they are.
    assert {record.machine["gpu"] for record in records} == {report["gpu"]}
    assert "Vulkan 1." in report["gpu"]


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
