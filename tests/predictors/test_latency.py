from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError, ArtifactError, DataError, NotFittedError
from ofa_compile.predictors import metrics
from ofa_compile.predictors.features import FeatureBatch
from ofa_compile.predictors.kernel_times import KernelTimes
from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.predictors.latency_base import VARIANTS, LatencyBase
from ofa_compile.predictors.latency_residual import LatencyPredictorConfig
from ofa_compile.predictors.slot_tables import SlotTables, slot_layers, slots_of
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.space.registry import search_space

pytest.importorskip("xgboost")

SPACE = search_space("ofa_mbv3_d234_e346_k357_w1.0")


def device_row(layers: list[LayerSpec]) -> np.ndarray:
    """A device with launch costs, slower depthwise convolutions, and a cache cliff."""
    total = 0.0
    for layer in layers:
        work = layer.macs / (2e8 if layer.kind == "depthwise" else 8e8)
        spilled = layer.input_bytes > 2e6
        total += 0.004 + work + (0.02 if spilled else 0.0)
    return np.array([total])


DEVICE = SlotTables(SPACE, device_row, 1)


def sample(count: int, seed: int, noise: float = 0.01) -> tuple[list[Architecture], np.ndarray]:
    rng = np.random.default_rng(seed)
    indices = SPACE.sample_indices(rng, count)
    times = DEVICE.total(indices)[:, 0] * np.exp(noise * rng.normal(size=count))
    return [SPACE.from_indices(row) for row in indices], times


@pytest.fixture(scope="module")
def fitted() -> LatencyPredictor:
    predictor = LatencyPredictor(SPACE, target="toy", target_fingerprint="f00")
    predictor.fit(*sample(100, 0))
    return predictor


def test_a_hundred_samples_are_enough(fitted: LatencyPredictor) -> None:
    architectures, times = sample(300, 1, noise=0.0)
    predicted = fitted.predict(architectures)
    assert metrics.mape(times, predicted) < 0.02
    assert metrics.within_tolerance(times, predicted, 0.10) >= 0.99
    assert metrics.spearman(times, predicted) > 0.99
    mean_alone = np.full(len(times), np.median(times))
    assert metrics.mape(times, predicted) < 0.2 * metrics.mape(times, mean_alone)


def test_cross_validated_error_is_honest(fitted: LatencyPredictor) -> None:
    architectures, times = sample(300, 2)
    held_out = metrics.mape(times, fitted.predict(architectures))
    assert 0.5 < fitted.report["cross_validated"]["mape"] / held_out < 2.0


def test_residual_is_used_where_the_base_cannot_follow() -> None:
    rng = np.random.default_rng(4)
    indices = SPACE.sample_indices(rng, 250)
    work = DEVICE.total(indices)[:, 0]
    times = np.maximum(work, 2 * np.median(work) - work)
    architectures = [SPACE.from_indices(row) for row in indices]
    predictor = LatencyPredictor(SPACE)
    report = predictor.fit(architectures, times)
    assert report.residual_share > 0
    assert report.cross_validated["mape"] < report.base_cross_validated["mape"]
    without = LatencyPredictor(SPACE, config=LatencyPredictorConfig(use_residual=False))
    assert without.fit(architectures, times).residual_share == 0


def test_outliers_do_not_spoil_the_fit() -> None:
    architectures, times = sample(100, 5)
    times[:6] *= 3
    predictor = LatencyPredictor(SPACE)
    predictor.fit(architectures, times)
    fresh, truth = sample(100, 6, noise=0.0)
    assert metrics.mape(truth, predictor.predict(fresh)) < 0.03


def quirky_kernels(noise: float = 0.0) -> KernelTimes:
    """Tell the kernels' times on a device that likes some places and not others, at 224 pixels."""
    rng, measuring = np.random.default_rng(20), np.random.default_rng(21)
    likes = 0.4 * rng.normal(size=len(slots_of(SPACE)))
    ms = [[0.0] * len(slot.combinations) for slot in slots_of(SPACE)]
    for slot, combination, layers in slot_layers(SPACE, 224):
        quirk = np.exp(likes[slot] + 0.03 * rng.normal() + noise * measuring.normal())
        ms[slot][combination] = float(device_row(layers)[0] * quirk)
    return KernelTimes(SPACE, {224: ms})


def at_224(count: int, seed: int) -> tuple[list[Architecture], np.ndarray]:
    """Draw subnets, and time them on that device."""
    indices = SPACE.sample_indices(np.random.default_rng(seed), count)
    indices[:, 0] = SPACE.resolutions.index(224)
    alone = quirky_kernels().per_slot(indices).sum(axis=1)
    return [SPACE.from_indices(row) for row in indices], 1.1 * alone + 0.02


def test_kernel_times_make_ten_samples_enough(tmp_path: Path) -> None:
    fresh, truth = at_224(200, 31)
    times_of, errors = quirky_kernels(noise=0.02), []
    for known in (times_of, None):
        predictor = LatencyPredictor(SPACE, kernel_times=known)
        predictor.fit(*at_224(10, 30))
        errors.append(metrics.mape(truth, predictor.predict(fresh)))
        predictor.save(tmp_path / "latency.json")
        loaded = LatencyPredictor.load(tmp_path / "latency.json")
        np.testing.assert_array_equal(loaded.predict(fresh), predictor.predict(fresh))
    assert errors[0] < 0.02
    assert errors[0] < 0.5 * errors[1]
    assert times_of.resolutions == {224}
    with pytest.raises(ArchitectureError, match="were not tuned when this predictor was fitted"):
        LatencyPredictor(SPACE, kernel_times=times_of).fit(*sample(10, 0))


def test_a_similar_devices_predictor_makes_few_samples_enough(tmp_path: Path) -> None:
    prior = LatencyPredictor(SPACE)
    prior.fit(*at_224(100, 39))

    def similar(count: int, seed: int) -> tuple[list[Architecture], np.ndarray]:
        architectures, times = at_224(count, seed)
        return architectures, 0.1 + 1.7 * times

    fresh, truth = similar(200, 41)
    adapted, afresh = LatencyPredictor(SPACE, prior=prior), LatencyPredictor(SPACE)
    for predictor in (adapted, afresh):
        predictor.fit(*similar(12, 40))
    error = metrics.mape(truth, adapted.predict(fresh))
    assert error < 0.03
    assert error < 0.6 * metrics.mape(truth, afresh.predict(fresh))
    adapted.save(tmp_path / "adapted.json")
    loaded = LatencyPredictor.load(tmp_path / "adapted.json")
    np.testing.assert_array_equal(loaded.predict(fresh), adapted.predict(fresh))
    with pytest.raises(ArchitectureError, match="resolution 160 lies outside"):
        LatencyPredictor(SPACE, prior=prior).fit([SPACE.largest(160)] * 10, [1.0] * 10)


def test_saved_predictor_predicts_the_same(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "latency.json"
    fitted.save(path)
    loaded = LatencyPredictor.load(path)
    architectures, _ = sample(50, 7)
    np.testing.assert_array_equal(loaded.predict(architectures), fitted.predict(architectures))
    np.testing.assert_array_equal(
        loaded.uncertainty(architectures), fitted.uncertainty(architectures)
    )
    assert (loaded.kind, loaded.target, loaded.target_fingerprint) == ("measurement", "toy", "f00")
    assert loaded.report == fitted.report
    assert [item.name for item in path.parent.iterdir()] == ["latency.json"]


def test_prediction_imports_no_xgboost(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    fitted.save(path)
    code = (
        "import sys; from ofa_compile.predictors.latency import LatencyPredictor as P;"
        f"p = P.load({str(path)!r}); p.predict([p.space.largest()]);"
        "assert not {'xgboost', 'torch', 'tvm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_uncertainty_grows_away_from_the_data(fitted: LatencyPredictor) -> None:
    architectures, times = sample(200, 8, noise=0.0)
    ordinary = fitted.uncertainty(architectures)
    errors = np.abs(metrics.relative_errors(times, fitted.predict(architectures)))
    assert np.mean(errors <= 3 * ordinary) > 0.95
    assert fitted.uncertainty([SPACE.largest()])[0] > np.median(ordinary)


def test_indices_and_architectures_agree(fitted: LatencyPredictor) -> None:
    indices = SPACE.sample_indices(np.random.default_rng(9), 20)
    architectures = [SPACE.from_indices(row) for row in indices]
    np.testing.assert_array_equal(
        fitted.predict_indices(SPACE, indices), fitted.predict(architectures)
    )
    assert fitted.predict_indices(SPACE, indices[:0]).shape == (0,)


def test_refuses_what_it_does_not_know(fitted: LatencyPredictor) -> None:
    with pytest.raises(NotFittedError, match="not fitted"):
        LatencyPredictor(SPACE).predict([SPACE.smallest()])
    other = search_space("ofa_mbv3_d234_e346_k357_w1.2")
    with pytest.raises(ArchitectureError, match="space"):
        fitted.predict([other.smallest()])
    with pytest.raises(ArchitectureError, match="is for"):
        fitted.predict_indices(other, other.indices([other.smallest()]))
    narrow = LatencyPredictor(SPACE)
    rng = np.random.default_rng(0)
    at_160 = [SPACE.sample(rng, resolution=160) for _ in range(20)]
    narrow.fit(at_160, np.linspace(1, 2, 20))
    assert narrow.resolutions == (160,)
    with pytest.raises(ArchitectureError, match="resolution 224 lies outside"):
        narrow.predict([SPACE.largest(resolution=224)])


def test_bad_data_is_refused() -> None:
    architectures, times = sample(12, 0)
    predictor = LatencyPredictor(SPACE)
    with pytest.raises(DataError, match="at least 10"):
        predictor.fit(architectures[:5], times[:5])
    with pytest.raises(DataError, match="positive"):
        predictor.fit(architectures, -times)
    with pytest.raises(DataError, match="at least 10"):
        predictor.fit(architectures, times[:-1])


def test_damaged_files_are_refused(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    with pytest.raises(ArtifactError, match="cannot read"):
        LatencyPredictor.load(path)
    fitted.save(path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ArtifactError, match="no latency predictor"):
        LatencyPredictor.load(path)
    document = json.loads(text)
    path.write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema version"):
        LatencyPredictor.load(path)
    path.write_text(json.dumps({**document, "features": ["other"]}))
    with pytest.raises(ArtifactError, match="features"):
        LatencyPredictor.load(path)
    path.write_text("[1]")
    with pytest.raises(ArtifactError, match="no latency predictor"):
        LatencyPredictor.load(path)


def test_unwritable_destination_is_an_error(fitted: LatencyPredictor, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        fitted.save(blocker / "latency.json")


@pytest.mark.parametrize("variant", VARIANTS)
def test_base_on_raw_features_equals_the_standardised_fit(variant: str) -> None:
    predictor = LatencyPredictor(SPACE)
    architectures, times = sample(60, 3)
    batch = predictor._features.batch(SPACE.indices(architectures))
    base, fit = LatencyBase.fit(batch, times, variant)
    restored = LatencyBase.from_dict(json.loads(json.dumps(base.to_dict())))
    np.testing.assert_array_equal(restored.predict(batch), base.predict(batch))
    assert metrics.mape(times, base.predict(batch)) < 0.03
    assert fit.scale < 0.05


@pytest.mark.parametrize(("count", "variants"), [(39, 3), (40, 4)])
def test_products_without_slots_take_some_samples(
    count: int, variants: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below, the leave-one-out error cannot tell that blocks do not differ."""
    tried: list[str] = []
    fit = LatencyBase.fit

    def note(batch: FeatureBatch, target: Any, variant: str) -> Any:
        tried.append(variant)
        return fit(batch, target, variant)

    monkeypatch.setattr(LatencyBase, "fit", note)
    architectures, times = sample(count, 4)
    LatencyBase.fit_best(LatencyPredictor(SPACE).features(architectures), times)
    assert ("totals+products" in tried, len(tried)) == (variants == 4, variants)


@pytest.mark.parametrize("count", [40, 150])
def test_two_thirds_of_the_errors_lie_within_one_deviation(count: int) -> None:
    predictor = LatencyPredictor(SPACE)
    predictor.fit(*sample(count, 11, noise=0.02))
    fresh, times = sample(600, 12, noise=0.02)
    errors = np.abs(metrics.relative_errors(times, predictor.predict(fresh)))
    promised = predictor.uncertainty(fresh)
    assert 0.6 < np.mean(errors <= promised) < 0.78
    assert 0.9 < np.mean(errors <= 2 * promised) < 0.99
