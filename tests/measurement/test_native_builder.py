from __future__ import annotations

from pathlib import Path

import pytest

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
from ofa_compile.measurement.native_builder import native_builder
from ofa_compile.space.registry import search_space


def test_foreign_targets_cannot_be_timed() -> None:
    name = "x86-64" if load_target("arm64").is_native else "arm64"
    with pytest.raises(DeviceUnavailableError, match="cannot run code"):
        native_builder(load_target(name), None)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("cache_state", ["warm", "cold"])
def test_measures_real_subnets(tmp_path: Path, cache_state: str) -> None:
    from ofa_compile.supernet.checkpoint import load_supernet

    space, target = search_space("ofa_mbv3_cifar"), load_target("host")
    build = native_builder(
        target,
        load_supernet(None, space=space),
        cache_state=cache_state,  # type: ignore[arg-type]
    )
    dataset = LatencyDataset(tmp_path / "latency.jsonl")
    config = MeasureConfig(timing=TimingConfig(max_seconds=1.0), cache_state=cache_state)  # type: ignore[arg-type]
    report = measure_subnets(
        space, target, 2, build=build, dataset=dataset, resolution=24, config=config
    )
    assert report.num_measured == 2
    assert all(0.01 < (record.median_ms or 0) < 100 for record in dataset.records())
