"""Commands for a CUDA target: on a GPU, or on the driver that takes its place without one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drivers import Driver
from onnx_nets import Net, reference

from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.cli.app import run_app
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.workload import Depthwise, Generic, Pointwise
from ofa_compile.hardware.cuda_devices import check_cuda
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.space import search_space
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase
from ofa_compile.workflows.measuring import latency_dataset_path

pytestmark = pytest.mark.usefixtures("commands")
TRIALS, MANY = 8, 80


def network(path: Path) -> Path:
    """Write a block on a small map: the CPU takes minutes for a real one's candidates."""
    net = Net((1, 3, 8, 8))
    net.conv((3, 16))
    net.conv((16, 32), 1)
    net.conv((32, 32), 3, group=32)
    net.conv((32, 16), 1)
    net.classifier(16)
    return net.save(path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_candidates_are_right_and_the_fastest_is_used(
    precision: str, cuda: TargetSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = network(tmp_path / "net.onnx")
    target = ["--target", "cuda", "--precision", precision, "--workspace", str(tmp_path)]
    trials = ["--max-trials", str(TRIALS), "--onnx", str(path), "--json", "--quiet"]
    assert run_app(["tune", *target, *trials]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_trials"] == report["trials"]["ok"] == TRIALS, report
    of_precision = target_in(cuda, precision)
    found = list(TuningDatabase(database_path(tmp_path, of_precision)))
    assert {type(record.workload) for record in found} & {Pointwise, Depthwise}
    assert all(record.time_us is not None and record.time_us > 0 for record in found)
    assert tuned_configs(of_precision, tmp_path)


def foreign_network(path: Path) -> Path:
    """Write a network with operators of TVM's: a softmax, and a window with gaps."""
    net = Net((1, 3, 12, 12))
    net.conv((3, 8))
    net.op("Softmax", axis=1)
    net.conv((8, 8), 3, dilations=[2, 2], pads=[2, 2, 2, 2])
    net.classifier(8)
    return net.save(path)


@pytest.mark.slow
def test_schedules_of_metaschedule_are_right(
    cuda: TargetSpec,
    cache: Cache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rng: np.random.Generator,
) -> None:
    path = foreign_network(tmp_path / "net.onnx")
    where = ["--target", "cuda", "--workspace", str(tmp_path), "--onnx", str(path)]
    assert run_app(["tune", *where, "--max-trials", str(MANY), "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_trials"] == report["trials"]["ok"] == MANY, report
    found = [r for r in TuningDatabase(database_path(tmp_path, cuda)) if "trace" in r.config]
    assert len({record.workload.key for record in found}) == 2
    assert all(isinstance(record.workload, Generic) for record in found)
    # The fastest are used, and right together; so is one of each that was not the fastest.
    tuned = tuned_configs(cuda, tmp_path)
    for number, chosen in enumerate((tuned, tuned | {r.workload.key: r.config for r in found})):
        folder = tmp_path / str(number)
        compiled = compile_onnx(path, cuda, folder, symbol_prefix="m_", cache=cache, tuned=chosen)
        assert number == 0 or any("trace" in step["config"] for step in compiled.steps)
        x = rng.standard_normal((1, 3, 12, 12), dtype=np.float32)
        with NativeLibrary(compiled.library, "m_") as library:
            expected = reference(path, x)
            assert np.abs(library.run(x) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_a_space_is_measured(
    driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--resolution", "24", "--count", "1", "--batch", "2", "--workspace", str(tmp_path))
    assert run_app(["measure", "--target", "cuda", *how, "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_measured"] == 1
    (record,) = LatencyDataset(latency_dataset_path(tmp_path)).records(kind="measurement")
    assert record.batch == 2
    assert record.machine["gpu"] == report["gpu"] == str(check_cuda()[0])
    assert (record.energy_joules or 1) > 0
    if not driver.is_real:
        assert record.energy_joules is None


def test_a_target_is_checked_with_its_gpu(
    driver: Driver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["targets", "check", "cuda", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["kernel"]["is_ok"] is True
    assert "sm_75, sm_80, sm_86, sm_89, sm_90: nvcc" in checks["kernel"]["detail"]
    assert checks["GPU"]["is_ok"] is True
    assert checks["GPU"]["is_skipped"] is False
    assert "CUDA 1" in checks["GPU"]["detail"]
    assert ("Software CUDA" in checks["GPU"]["detail"]) != driver.is_real


@pytest.mark.slow
def test_a_bundle_is_verified_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subnet, output = tmp_path / "subnet.json", tmp_path / "bundle"
    subnet.write_text(search_space("ofa_mbv3_cifar").smallest(24).to_json(), encoding="utf-8")
    arguments = ["--architecture", str(subnet), "--output", str(output), "--quiet"]
    assert run_app(["compile", "--target", "cuda", *arguments]) == 0
    verification = load_bundle(output).manifest.verification
    assert verification["verified"] is True
    assert verification["runner"] == "native"
