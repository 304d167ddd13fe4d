from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.errors import BuildError, MeasurementError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.machine import machine_facts, tool_versions
from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
from ofa_compile.measurement.sampling import choose_architectures, reference_architecture
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.registry import search_space

SPACE = search_space("ofa_mbv3_cifar")
TARGET = load_target("x86-64")
CONFIG = MeasureConfig(timing=TimingConfig(round_ms=1, warmup_ms=1))


class Device:
    """Times subnets by their estimate; builds named in `broken` fail."""

    def __init__(self, speed: float = 1.0) -> None:
        self.estimator = LatencyEstimator(TARGET)
        self.rng = np.random.default_rng(0)
        self.speed = speed
        self.built: list[Architecture] = []
        self.broken: set[str] = set()
        self.is_all_broken = False
        self.num_open = 0

    def build(self, architecture: Architecture, folder: Path) -> Device.Run:
        assert folder.is_dir()
        self.built.append(architecture)
        is_reference = architecture == reference_architecture(SPACE)
        if architecture.hash in self.broken or (self.is_all_broken and not is_reference):
            msg = "the linker is on strike"
            raise BuildError(msg)
        self.num_open += 1
        return Device.Run(self, float(self.estimator.estimate([architecture])[0]))

    class Run:
        def __init__(self, device: Device, ms: float) -> None:
            self.device, self.ms = device, ms

        def time(self, repeats: int) -> np.ndarray:
            noise = np.exp(0.002 * self.device.rng.normal(size=repeats))
            return self.ms * noise / self.device.speed

        def close(self) -> None:
            self.device.num_open -= 1


@pytest.fixture
def dataset(tmp_path: Path) -> LatencyDataset:
    return LatencyDataset(tmp_path / "latency.jsonl")


def wanted(count: int) -> list[Architecture]:
    return choose_architectures(SPACE, count)


def run(device: Device, dataset: LatencyDataset, count: int = 5, **options: object) -> object:
    return measure_subnets(
        SPACE,
        TARGET,
        wanted(count),
        build=device.build,
        dataset=dataset,
        config=CONFIG,
        **options,
    )  # type: ignore[arg-type]


def test_measures_and_records(dataset: LatencyDataset) -> None:
    device = Device()
    calls: list[tuple[str, int, int | None]] = []
    affinity = os.sched_getaffinity(0)
    report = run(device, dataset, progress=lambda *a: calls.append(a))  # type: ignore[arg-type]
    assert report.num_measured == report.num_total == 5  # type: ignore[attr-defined]
    assert device.num_open == 0
    assert os.sched_getaffinity(0) == affinity
    assert calls == [("measure", n, 5) for n in range(6)]
    records = list(dataset)
    assert [record.role for record in records] == ["reference"] + ["sample"] * 5
    for record in records[1:]:
        truth = device.estimator.estimate([record.architecture])[0]
        assert record.median_ms == pytest.approx(truth, rel=0.01)
        assert record.is_converged
        assert record.target_fingerprint == TARGET.fingerprint
        assert record.versions["python"]
    assert len({record.session for record in records}) == 1


def test_second_run_continues_on_the_same_scale(dataset: LatencyDataset) -> None:
    run(Device(), dataset, 3)
    slower = Device(speed=0.5)
    report = run(slower, dataset, 6)
    assert (report.num_skipped, report.num_measured) == (3, 3)  # type: ignore[attr-defined]
    last = list(dataset)[-1]
    # Half the speed shows as drift, not as twice the latency.
    truth = slower.estimator.estimate([last.architecture])[0]
    assert last.median_ms == pytest.approx(truth, rel=0.01)
    assert last.drift == pytest.approx(1.0, abs=0.05)
    finished = Device()
    assert run(finished, dataset, 6).num_measured == 0  # type: ignore[attr-defined]
    assert finished.built == []


def test_interrupted_run_loses_only_the_subnet_in_flight(dataset: LatencyDataset) -> None:
    device = Device()
    build = device.build

    def interrupt(architecture: Architecture, folder: Path) -> Device.Run:
        if len(device.built) == 4:
            raise KeyboardInterrupt
        return build(architecture, folder)

    with pytest.raises(KeyboardInterrupt):
        measure_subnets(SPACE, TARGET, wanted(8), build=interrupt, dataset=dataset, config=CONFIG)
    assert len(dataset.records()) == 3
    assert device.num_open == 0
    assert run(Device(), dataset, 8).num_skipped == 3  # type: ignore[attr-defined]


def test_a_run_out_of_time_is_continued_by_the_next(dataset: LatencyDataset) -> None:
    assert run(Device(), dataset, max_seconds=-1.0).num_measured == 0  # type: ignore[attr-defined]
    assert run(Device(), dataset, max_seconds=1e6).num_measured == 5  # type: ignore[attr-defined]


def test_some_are_measured_once_more_at_the_end(dataset: LatencyDataset) -> None:
    device = Device()
    report = run(device, dataset, num_repeats=2)
    assert (report.num_measured, report.num_total) == (7, 5)  # type: ignore[attr-defined]
    assert device.built[1:] == [*wanted(5), *wanted(2)]
    assert [r.architecture for r in dataset.records(role="repeat")] == wanted(2)
    assert len(dataset.records()) == 5
    assert run(device, dataset, num_repeats=3).num_measured == 1  # type: ignore[attr-defined]


def test_failures_are_recorded_and_tried_once_more(dataset: LatencyDataset) -> None:
    probe = Device()
    run(probe, LatencyDataset(dataset.path.with_name("other")), 5)
    device = Device()
    device.broken = {probe.built[2].hash}
    assert run(device, dataset).num_failed == 1  # type: ignore[attr-defined]
    failed = [record for record in dataset if record.status == "failed"]
    assert failed[0].error == "BuildError: the linker is on strike"
    assert run(device, dataset).num_failed == 1  # type: ignore[attr-defined]
    third = run(device, dataset)
    assert (third.num_failed, third.num_skipped) == (0, 5)  # type: ignore[attr-defined]
    assert device.num_open == 0


def test_gives_up_when_everything_fails(dataset: LatencyDataset) -> None:
    device = Device()
    device.is_all_broken = True
    with pytest.raises(MeasurementError, match="6 of 6 subnets failed"):
        run(device, dataset, 20)
    assert len(device.built) == 7


def test_other_conditions_do_not_count(dataset: LatencyDataset) -> None:
    run(Device(), dataset, 3)
    for conditions in ({"threads": 2}, {"batch": 8}):
        config = MeasureConfig(timing=CONFIG.timing, **conditions)
        report = measure_subnets(
            SPACE, TARGET, wanted(3), build=Device().build, dataset=dataset, config=config
        )
        assert report.num_measured == report.num_total == 3
    newer = MeasureConfig(timing=CONFIG.timing, code="newer kernels")
    report = measure_subnets(
        SPACE, TARGET, wanted(3), build=Device().build, dataset=dataset, config=newer
    )
    assert report.num_measured == report.num_total == 3
    assert len(dataset.records(code="newer kernels")) == 3
    assert len(dataset.records(code="")) == 9
    assert len(dataset.records()) == 12


def test_machine_facts_are_plain_values() -> None:
    assert machine_facts()["machine"]
    assert "numpy" in tool_versions()
