"""`tune --target vulkan`: our kernels' alternatives and MetaSchedule's schedules, on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import StockBoard
from onnx_nets import Net, reference

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.cli.app import run_app
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.workload import GatedPointwise, Generic
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.space import search_space
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase


def network(path: Path) -> Path:
    """Write a network with a product, a gate, and a softmax and a dilated window of TVM's."""
    net = Net((1, 3, 12, 12))
    net.conv((3, 8))
    net.squeeze_excite(8, 4)
    net.conv((8, 12), 1)
    net.op("Softmax", axis=1)
    net.conv((12, 8), 3, dilations=[2, 2], pads=[2, 2, 2, 2])
    net.classifier(8)
    return net.save(path)


def tune(
    capsys: pytest.CaptureFixture[str], workspace: Path, *arguments: str, target: str = "vulkan"
) -> dict[str, Any]:
    where = ("--target", target, "--workspace", str(workspace), "--json", "--quiet")
    assert run_app(["tune", *where, *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.vulkan
@pytest.mark.slow
def test_metaschedule_and_our_kernels_are_tuned_on_the_device(
    vulkan: TargetSpec,
    tmp_path: Path,
    cache: Cache,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(cache.root))
    path = network(tmp_path / "net.onnx")
    report = tune(capsys, tmp_path, "--onnx", str(path), "--max-trials", "40")
    assert report["num_trials"] == 40
    # Mesa's software device gets one or the other schedule wrong: those must be out, and few.
    assert report["trials"]["ok"] + report["trials"]["wrong"] == 40
    assert report["trials"]["ok"] >= 36
    records = [r for r in TuningDatabase(database_path(tmp_path, vulkan)) if r.status == "ok"]
    assert {type(r.workload) for r in records} >= {Generic, GatedPointwise}
    traced = {r.workload.key: r.config for r in records if "trace" in r.config}
    assert len({r.workload.key for r in records if len(r.config) > 1}) > 1
    assert all(record.time_us is not None and record.time_us > 0 for record in records)
    # What was tuned is used, and right; so is a schedule that was not the fastest.
    tuned = tuned_configs(vulkan, tmp_path)
    assert tuned
    compiled = compile_onnx(
        path, vulkan, tmp_path, symbol_prefix="t_", cache=cache, tuned={**tuned, **traced}
    )
    assert any("trace" in step["config"] for step in compiled.steps)
    assert compiled.num_tuned > len(traced)
    x = rng.standard_normal((1, 3, 12, 12), dtype=np.float32)
    with NativeLibrary(compiled.library, "t_") as library:
        expected = reference(path, x)
        assert np.abs(library.run(x) - expected).max() <= 1e-5 * np.abs(expected).max()
    again = tune(capsys, tmp_path, "--onnx", str(path), "--dry-run")
    assert again["coverage"]["num_trials"] < report["coverage_before"]["num_trials"]


@pytest.mark.vulkan
@pytest.mark.slow
def test_halves_are_tuned_apart(
    vulkan: TargetSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subnet = tmp_path / "smallest.json"
    subnet.write_text(search_space("ofa_mbv3_cifar").smallest(24).to_json(), encoding="utf-8")
    options = ("--architecture", str(subnet), "--max-trials", "6")
    report = tune(capsys, tmp_path, "--precision", "fp16", *options)
    assert report["trials"]["ok"] == 6
    path = database_path(tmp_path, target_in(vulkan, "fp16"))
    assert report["database"] == str(path) != str(database_path(tmp_path, vulkan))


@pytest.mark.vulkan
@pytest.mark.slow
def test_the_gpu_of_a_board_is_tuned(
    tmp_path: Path,
    cache: Cache,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    repository: Path,
) -> None:
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(cache.root))
    # A busy machine would have its jobs measured again.
    monkeypatch.setattr("ofa_compile.measurement.roll_call.MAX_DEVIATION", 100.0)
    board = StockBoard("gpu")
    text = (repository / "targets" / "vulkan.toml").read_text(encoding="utf-8")
    runner = f'kind = "rpc"\nserver = "{board.endpoint}"\nkey = "gpu"'
    target = tmp_path / "board.toml"
    target.write_text(text.replace('kind = "local"', runner), encoding="utf-8")
    path = network(tmp_path / "net.onnx")
    where = ("--onnx", str(path))
    try:
        report = tune(capsys, tmp_path, *where, "--max-trials", "12", target=str(target))
        halves = ("--precision", "fp16", "--max-trials", "4")
        in_halves = tune(capsys, tmp_path, *where, *halves, target=str(target))
    finally:
        board.kill()
    assert report["kind"] == "measurement"
    assert report["num_trials"] == 12
    assert report["trials"]["ok"] >= 10, report
    assert in_halves["trials"]["ok"] >= 3, in_halves
    assert in_halves["database"] != report["database"]
    assert tuned_configs(load_target(str(target)), tmp_path)
    (said,) = report["boards"]
    assert said["num_trials"] == 12
    assert said["reference_us"] > 0
    assert (said["num_drifts"], said["problem"]) == (0, None)


@pytest.mark.vulkan
def test_a_space_is_planned_for_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = [
        tune(capsys, tmp_path, "--resolution", "24", "--dry-run", "--batch", batch)["coverage"]
        for batch in ("1", "8")
    ]
    assert plans[0]["num_workloads"] == plans[1]["num_workloads"] > 50


def test_tuning_needs_the_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks() -> None:
        message = "no CUDA driver on this machine"
        raise DeviceUnavailableError(message)

    monkeypatch.setattr("ofa_compile.hardware.cuda_devices.check_cuda", lacks)
    arguments = ["tune", "--workspace", str(tmp_path), "--target"]
    assert run_app([*arguments, "cuda"]) == 4
    assert "no CUDA driver" in capsys.readouterr().err
    assert run_app([*arguments, "vulkan-arm64"]) == 4
    assert "tuning needs the device" in capsys.readouterr().err
    assert run_app([*arguments, "host", "--batch", "2"]) == 2
    assert "only GPUs are tuned" in capsys.readouterr().err
