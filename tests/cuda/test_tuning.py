"""`tune --target cuda`: candidates built, run on the CPU in the place of a GPU, and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx_nets import Net

from ofa_compile.cache import Cache
from ofa_compile.cli.app import run_app
from ofa_compile.compiler.workload import Depthwise, Pointwise
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase

TRIALS = 8


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
    precision: str,
    software: Path,
    cuda: TargetSpec,
    cache: Cache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(cache.root))
    # Candidates run in processes of their own, which must find this driver, too.
    monkeypatch.setenv("LD_LIBRARY_PATH", str(software))
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
