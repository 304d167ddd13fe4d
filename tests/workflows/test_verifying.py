"""Verification with a stand-in for the device: what is measured decides, not what was predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.errors import ConfigError, MeasurementError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord
from ofa_compile.options import MeasureOptions, SearchOptions
from ofa_compile.space import Architecture
from ofa_compile.space.cost import macs
from ofa_compile.tuning.choose import tuned_configs
from ofa_compile.workflows import verifying
from ofa_compile.workflows.measuring import code_version, latency_dataset_path
from ofa_compile.workflows.selection import latency_predictor_path
from ofa_compile.workflows.verifying import search_and_verify

SPACE = "ofa_mbv3_cifar"


def true_ms(architecture: Architecture) -> float:
    """Say what the stand-in takes: not what any estimate says."""
    return 3.0 * macs(architecture) / 1e7


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[Architecture]:
    """Replace the measuring by a formula; return what was measured."""
    measured: list[Architecture] = []
    target = load_target("x86-64")

    def measure(options: MeasureOptions, progress: Any) -> None:
        assert options.workspace is not None
        dataset = LatencyDataset(latency_dataset_path(options.workspace))
        for path in options.architectures:
            architecture = Architecture.from_file(path)
            measured.append(architecture)
            dataset.append(
                LatencyRecord(
                    architecture=architecture,
                    target=target.name,
                    target_fingerprint=target.fingerprint,
                    kind="measurement",
                    median_ms=true_ms(architecture),
                    p95_ms=1.1 * true_ms(architecture),
                    spread=0.01,
                    energy_joules=0.012345,
                    versions={"code": code_version(tuned_configs(target, options.workspace))},
                )
            )

    monkeypatch.setattr(verifying, "measure_target", measure)
    # Bundles take a compiler; what goes into their manifests is tested with `compile`.
    monkeypatch.setattr(verifying, "_supernet", lambda options: None)
    return measured


def options(folder: Path, **given: Any) -> SearchOptions:
    values = {"targets": ("x86-64",), "space": SPACE, "max_evaluations": 1500, "verify_top": 6}
    return SearchOptions(**{**values, "workspace": folder, **given})


def test_measured_candidates_are_ranked_by_what_was_measured(
    device: list[Architecture], tmp_path: Path
) -> None:
    result, _ = search_and_verify(options(tmp_path / "a"))
    limit = true_ms(result.front[len(result.front) // 2].architecture)
    word = f"x86-64={limit}ms"
    output = tmp_path / "front"
    _, verification = search_and_verify(options(tmp_path / "b", targets=(word,), output=output))
    ranked = verification.ranked
    assert len(ranked) == 6
    for item in ranked:
        assert item.median_ms == true_ms(item.candidate.architecture)
        assert item.meets_limit == (item.median_ms <= limit)
        assert item.latency_error == pytest.approx(
            (item.candidate.latency_ms or 0) / item.median_ms - 1
        )
    keys = [(not item.meets_limit, -item.candidate.accuracy) for item in ranked]
    assert keys == sorted(keys)
    stored = json.loads((output / "verification.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(verification.to_dict()))
    assert stored["verified"][0]["measured"]["latency_ms"] == ranked[0].median_ms
    assert stored["verified"][0]["measured"]["energy_mj"] == pytest.approx(12.345)
    assert stored["verified"][0]["predicted"]["latency_kind"] == "estimate"


def test_rounds_refit_the_predictor_on_the_winners(
    device: list[Architecture], tmp_path: Path
) -> None:
    _, verification = search_and_verify(options(tmp_path, verify_top=12, rounds=2))
    first, second = verification.rounds
    assert (first["latency_kind"], second["latency_kind"]) == ("estimate", "measurement")
    assert second["median_latency_error"] < 0.5 * first["median_latency_error"]
    assert latency_predictor_path(tmp_path, SPACE).is_file()
    assert len(verification.ranked) == len({item.hash for item in device})


def test_a_p95_limit_is_judged_by_the_p95(device: list[Architecture], tmp_path: Path) -> None:
    search_and_verify(options(tmp_path, verify_top=12))
    from ofa_compile.options import FitLatencyOptions
    from ofa_compile.workflows.latency_fitting import fit_latency_predictor

    fit_latency_predictor(
        FitLatencyOptions(target="x86-64", space=SPACE, workspace=tmp_path, statistic="p95")
    )
    limit = 1.05 * true_ms(device[6])
    _, verification = search_and_verify(
        options(tmp_path, targets=(f"x86-64={limit}ms",), latency_statistic="p95")
    )
    for item in verification.ranked:
        assert item.p95_ms is not None
        assert item.meets_limit == (item.p95_ms <= limit)


def test_candidates_that_cannot_be_measured_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(verifying, "measure_target", lambda options, progress: None)
    with pytest.raises(MeasurementError, match="6 of 6 candidates could not be measured"):
        search_and_verify(options(tmp_path))


def test_several_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="measures on one target"):
        search_and_verify(options(tmp_path, targets=("x86-64", "arm64")))
    with pytest.raises(ConfigError, match="measures on one target"):
        search_and_verify(options(tmp_path, family=True))


def test_accuracies_need_weights(device: list[Architecture], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the weights of a supernet"):
        search_and_verify(options(tmp_path, data=tmp_path))


def test_the_command_shows_both_sides(
    device: list[Architecture], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--target", "x86-64", "--verify-top", "3", "--max-evaluations", "1500", "--quiet"]
    assert run_app(["search", *words, "--workspace", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "ms (measurement)" in out
    assert "(estimate)" in out
    assert "mJ an inference (measurement)" in out
    assert "12.345" in out
    for architecture in device:
        assert f"{architecture.short_hash}  " in out


def test_a_target_that_nothing_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--target", "cortex-a53", "--verify-top", "1", "--max-evaluations", "1500"]
    assert run_app(["search", *words, "--quiet", "--workspace", str(tmp_path)]) == 4
    assert "cannot run code for 'cortex-a53'" in capsys.readouterr().err
