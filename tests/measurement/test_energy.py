"""Energy as a library in the place of NVIDIA's tells it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.hardware import cuda_devices, nvml
from ofa_compile.hardware.nvml import EnergyMeter
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement import energy
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.energy import energy_meter, joules_per_run
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
from ofa_compile.measurement.sampling import choose_architectures
from ofa_compile.space import Architecture, search_space

# Counts 40 J from look to look; the second GPU's counter cannot be read.
LIBRARY = """\
#include <string.h>
static unsigned long long used = 1000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(index + 1ul);
    return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) {
    *device = (void *)(strcmp(id, "0000:3b:00.0") == 0 ? 1ul : 2ul);
    return strncmp(id, "0000:", 5) == 0 ? 0 : 6;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    *millijoules = used += 40000;
    return device == (void *)1ul ? 0 : 3;
}
/* CUDA counts them the other way round. */
int cuInit(int flags) { return flags; }
int cuDriverGetVersion(int *version) { return *version = 12040, 0; }
int cuDeviceGetCount(int *count) { return *count = 2, 0; }
int cuDeviceGetName(char *name, int bytes, int device) {
    return strcpy(name, device ? "counting" : "silent"), 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = 9, 0; }
int cuDeviceGetPCIBusId(char *id, int bytes, int device) {
    return strcpy(id, device ? "0000:3b:00.0" : "0000:41:00.0"), 0;
}
"""


class Runner:
    num_runs = 0

    def time(self, repeats: int) -> np.ndarray:
        self.num_runs += repeats
        return np.full(repeats, 1.5) + 0.01 * np.arange(repeats)


@pytest.fixture
def _library(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(LIBRARY, encoding="utf-8")
    command = ["gcc", "-shared", "-fPIC", "-o", "nvml.so", "nvml.c"]
    subprocess.run(command, cwd=folder, check=True)
    monkeypatch.setattr(nvml, "_LIBRARY", str(folder / "nvml.so"))
    monkeypatch.setattr(cuda_devices, "_DRIVER", str(folder / "nvml.so"))
    monkeypatch.setattr(energy, "_SECONDS", 0.01)
    cuda_devices.list_cuda_devices.cache_clear()
    yield
    cuda_devices.list_cuda_devices.cache_clear()


@pytest.mark.usefixtures("_library")
def test_energy_is_that_of_one_run() -> None:
    meter, runner = EnergyMeter("0000:3b:00.0"), Runner()
    joules = joules_per_run(runner, meter)
    # The first runs are not counted.
    assert joules == pytest.approx(40 / (runner.num_runs - 10))
    assert EnergyMeter().joules() is not None


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("bus", ["0000:41:00.0", "nowhere"])
def test_a_counter_that_cannot_be_read_is_absent(bus: str) -> None:
    assert EnergyMeter(bus).joules() is None
    assert joules_per_run(Runner(), EnergyMeter(bus)) is None


def test_without_the_library_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_LIBRARY", "libnone.so.7")
    assert EnergyMeter().joules() is None


def test_only_cuda_has_a_meter() -> None:
    assert energy_meter(load_target("host")) is None
    assert energy_meter(load_target("vulkan")) is None


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize(("device", "is_read"), [("counting", True), ("silent", False)])
def test_the_gpu_that_runs_the_code_is_read(
    device: str, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFA_CUDA_DEVICE", device)
    assert (energy_meter(load_target("cuda")) is not None) == is_read


@pytest.mark.usefixtures("_library")
def test_records_hold_it(tmp_path: Path) -> None:
    def build(architecture: Architecture, folder: Path) -> Runner:
        return Runner()

    space = search_space("ofa_mbv3_cifar")
    dataset = LatencyDataset(tmp_path / "latency.jsonl")
    config = MeasureConfig(batch=4, timing=TimingConfig(round_ms=1, warmup_ms=1, min_rounds=2))
    subnets = choose_architectures(space, 2)
    reports = [
        measure_subnets(
            space, load_target("host"), wanted,
            build=build, dataset=dataset, config=config, meter=meter,
        )
        for wanted, meter in ((subnets[:1], EnergyMeter()), (subnets, None))
    ]  # fmt: skip
    first, second = dataset.records()
    assert first.energy_joules is not None
    assert 0 < first.energy_joules < 40
    assert second.energy_joules is second.energy_mj is None
    # Of an inference, not of a run of several.
    assert first.energy_mj == pytest.approx(1e3 * first.energy_joules / 4)
    assert [report.median_energy_mj for report in reports] == [first.energy_mj, None]
