from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))

from boards import StockBoard

from ofa_compile.cli.app import run_app
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset


def target_file(folder: Path, runner: str) -> Path:
    """Write a target like x86-64 or arm64, reached as a board."""
    name = "x86-64" if load_target("x86-64").is_native else "arm64"
    text = (Path(__file__).parents[2] / "targets" / f"{name}.toml").read_text()
    head, _, rest = text.partition("[runner]")
    _, _, rest = rest.partition("\n[")
    path = folder / "loopback.toml"
    path.write_text(f'{head}[runner]\nkind = "rpc"\n{runner}\n[{rest}')
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "batch"), [("fp32", 2), ("int8", 1)])
def test_measure_command_on_a_board(
    precision: str, batch: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = StockBoard("loopback")
    try:
        path = target_file(tmp_path, f'server = "{server.endpoint}"')
        command = ["measure", "--target", str(path), "--count", "2", "--resolution", "24"]
        command += ["--precision", precision, "--batch", str(batch)]
        command += ["--workspace", str(tmp_path / "w"), "--json"]
        assert run_app(command) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["num_measured"], report["num_failed"]) == (2, 0)
        for record in LatencyDataset(report["dataset"]):
            assert record.kind == "measurement"
            assert record.batch == batch
            assert record.machine["board"] == f"loopback@{server.endpoint}"
            assert 0.01 < (record.median_ms or 0) < 1000
            expected = target_in(load_target(path), precision)
            assert record.target_fingerprint == expected.fingerprint
            assert record.precision == ("float32" if precision == "fp32" else precision)
    finally:
        server.kill()


def test_address_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    first = load_target(target_file(tmp_path, 'tracker = "127.0.0.1:9190"'))
    second = load_target(target_file(tmp_path, 'server = "10.1.2.3:9090"\nkey = "b"\nwait_s = 3'))
    assert first.fingerprint == second.fingerprint
    local = dataclasses.replace(first.runner, kind="estimate", tracker="")
    assert dataclasses.replace(first, runner=local).fingerprint != first.fingerprint
