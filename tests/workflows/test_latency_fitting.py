"""What `fit-latency` says about a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_compile.cli.fit_latency import _render
from ofa_compile.errors import DataError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord, Role
from ofa_compile.measurement.sampling import draw_architectures
from ofa_compile.options import FitLatencyOptions
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.space import Architecture, search_space
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase, TuningRecord
from ofa_compile.tuning.fingerprint import kernel_digest, tuning_fingerprint
from ofa_compile.tuning.union import workload_union
from ofa_compile.workflows.latency_fitting import fit_latency_predictor
from ofa_compile.workflows.measuring import code_version, latency_dataset_path

pytest.importorskip("xgboost")

SPACE = search_space("ofa_mbv3_cifar")
TARGET = load_target("x86-64")
ALL = draw_architectures(SPACE, 45, resolution=32)


def record(
    architecture: Architecture, workspace: Path, *, factor: float = 1.0, role: Role = "sample"
) -> LatencyRecord:
    ms = factor * float(LatencyEstimator(TARGET).estimate([architecture])[0])
    return LatencyRecord(
        architecture=architecture,
        target=TARGET.name,
        target_fingerprint=TARGET.fingerprint,
        kind="measurement",
        role=role,
        median_ms=ms,
        p95_ms=1.1 * ms,
        spread=0.01,
        versions={"code": code_version(tuned_configs(TARGET, workspace))},
    )


def options(workspace: Path, **changes: object) -> FitLatencyOptions:
    fixed = {"target": "x86-64", "space": SPACE.name, "workspace": workspace}
    return FitLatencyOptions(**{**fixed, **changes})  # type: ignore[arg-type]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A data set of 45 subnets, five of which were measured twice."""
    dataset = LatencyDataset(latency_dataset_path(tmp_path))
    for architecture in ALL:
        dataset.append(record(architecture, tmp_path))
    for architecture in ALL[:5]:
        dataset.append(record(architecture, tmp_path, factor=1.02, role="repeat"))
    return tmp_path


def test_the_error_is_that_on_subnets_held_out(workspace: Path) -> None:
    report = fit_latency_predictor(options(workspace, held_out=15))
    assert report["num_samples"] == 30
    assert [point["num_samples"] for point in report["learning_curve"]] == [10, 20]
    assert report["repeats"]["num_subnets"] == 5
    assert report["repeats"]["mape"] == pytest.approx(0.02)
    predictor = LatencyPredictor.load(report["predictor"])
    truth = [record(a, workspace).median_ms or 0.0 for a in ALL[30:]]
    errors = np.abs(predictor.predict(ALL[30:]) / truth - 1)
    assert report["held_out"]["mape"] == pytest.approx(errors.mean())
    assert not report["has_kernel_times"]
    shown = _render(report)
    assert "measured twice, 5 subnets differ by 2.0 % on average" in shown
    (held_out,) = (line for line in shown.splitlines() if line.startswith("held out"))
    assert f"{100 * errors.mean():.2f} %" in held_out


def test_tuned_times_are_used_where_all_kernels_have_one(workspace: Path) -> None:
    common = {"fingerprint": tuning_fingerprint(TARGET), "code": kernel_digest()}
    trials = [
        TuningRecord(
            workload=w, config={}, status="ok", time_us=1.0 + 1e-6 * w.macs, is_default=True,
            **common,
        )
        for w in workload_union(SPACE, [32])
    ]  # fmt: skip
    database = TuningDatabase(database_path(workspace, TARGET))
    database.append(trials[:-1])
    # Times are of the tuning in force, so the data set is written anew.
    path = workspace / "tuned.jsonl"
    for known, last in ((False, []), (True, trials[-1:])):
        database.append(last)
        path.unlink(missing_ok=True)
        for architecture in ALL:
            LatencyDataset(path).append(record(architecture, workspace))
        report = fit_latency_predictor(options(workspace, dataset=path))
        assert report["has_kernel_times"] is known
        assert report["repeats"] is None


def test_a_prior_is_started_from(workspace: Path, tmp_path: Path) -> None:
    first = fit_latency_predictor(options(workspace, output=tmp_path / "prior.json"))
    other = tmp_path / "other.jsonl"
    for architecture in ALL[:12]:
        LatencyDataset(other).append(record(architecture, workspace, factor=1.7))
    report = fit_latency_predictor(
        options(workspace, dataset=other, prior=Path(first["predictor"]))
    )
    assert report["num_samples"] == 12
    adapted, prior = (LatencyPredictor.load(r["predictor"]) for r in (report, first))
    ratios = adapted.predict(ALL[12:]) / prior.predict(ALL[12:])
    assert np.abs(ratios - 1.7).max() < 0.05


def test_other_conditions_and_too_few_are_errors(workspace: Path) -> None:
    with pytest.raises(DataError, match=r"no successful records .* cold caches"):
        fit_latency_predictor(options(workspace, cache_state="cold"))
    with pytest.raises(DataError, match=r"no successful records .* batch 4"):
        fit_latency_predictor(options(workspace, batch=4))
    with pytest.raises(DataError, match=r"no successful records .* on 'x86-64-int8'") as caught:
        fit_latency_predictor(options(workspace, precision="int8"))
    assert "measure --target x86-64 --precision int8" in str(caught.value.hint)
    with pytest.raises(DataError, match="45 records leave 5 to fit on beside 40 held out"):
        fit_latency_predictor(options(workspace, held_out=40))
