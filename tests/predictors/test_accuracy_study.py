from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.predictors.accuracy_basis import basis_of, fit_basis
from ofa_compile.predictors.accuracy_dataset import AccuracyRecord
from ofa_compile.predictors.accuracy_fit import FitConfig, collect, cross_validate, fit_records
from ofa_compile.predictors.accuracy_study import study
from ofa_compile.space import Architecture, search_space
from ofa_compile.training.sampling import sample_families

SPACE = search_space("ofa_mbv3_cifar")
QUICK = FitConfig(members=2, hidden=16, steps=30, folds=3)


def record(
    architecture: Architecture, top1: float, seed: int = 0, images: int = 2000, view: int = 0
) -> AccuracyRecord:
    return AccuracyRecord(
        architecture=architecture,
        top1=top1,
        num_images=images,
        num_calibration_images=500,
        data="train-held-out",
        supernet="ab" * 32,
        calibration_seed=seed,
        view=view,
    )


def truth(architecture: Architecture) -> float:
    """Return an accuracy to which depth matters more at high resolution."""
    size = sum(architecture.depths) - 15
    pixels = (architecture.resolution - 28) / 4
    return 0.8 + 0.004 * size + 0.01 * pixels + 0.004 * size * pixels


@pytest.fixture(scope="module")
def records() -> list[AccuracyRecord]:
    rng = np.random.default_rng(0)
    sample = [a for family in sample_families(SPACE, 160, 0) for a in family]
    return [record(a, truth(a) + float(rng.normal(0, 0.001))) for a in sample]


def test_products_catch_what_effects_cannot(records: list[AccuracyRecord]) -> None:
    data, basis = collect(records, SPACE), basis_of(SPACE)
    top1 = data.tested_top1
    target = (top1 - top1.mean()) / top1.std()
    weights, fitted = fit_basis(data.codes, target, basis, 0.16)
    assert np.std(target - fitted) < 0.15
    scale = np.array([top1.mean(), top1.std()], np.float32)
    predictor = AccuracyPredictor(SPACE, {**weights, "scale": scale})
    assert predictor.predict_encoded(data.codes) == pytest.approx(
        top1.mean() + top1.std() * fitted, abs=1e-4
    )


def test_few_subnets_need_all_views(caplog: pytest.LogCaptureFixture) -> None:
    sample = [a for family in sample_families(SPACE, 40, 0) for a in family]
    rng = np.random.default_rng(1)
    own = rng.normal(0.8, 0.02, 40)
    error = rng.normal(0.0, 0.004, 25)
    plain = [record(a, x) for a, x in zip(sample, own, strict=True)]
    # Mirrored images are 5 points harder for all, and 25 subnets were tried on them.
    mirrored = [
        record(a, x - 0.05 + e, seed=1, view=1)
        for a, x, e in zip(sample[:25], own[:25], error, strict=True)
    ]
    again = [record(sample[0], 0.6, seed=2), record(sample[1], 0.5, seed=3, view=1)]
    few = [record(a, 0.1, view=2) for a in sample[:5]]
    unusual = [record(SPACE.largest(28), 0.7, view=1)]
    data = collect([*plain, *again, *few, *mirrored, *unusual], SPACE)
    assert "left out view 2: 5 subnets have it and others" in caplog.text
    assert "left out 1 subnets not evaluated on view 0" in caplog.text
    assert np.array_equal(data.codes, SPACE.encode(sample))
    assert data.is_tested.tolist() == [True] * 25 + [False] * 15
    assert data.tested_top1 == pytest.approx(own[:25] - 0.025 + error / 2)
    everything = data.targets(np.arange(40))
    assert everything[:25] == pytest.approx(data.tested_top1)
    # What is not known of a view is what the others lost, and nothing of their noise to speak of.
    assert everything[25:] == pytest.approx(own[25:] - 0.025, abs=0.002)
    assert data.repeats.tolist() == [[own[0], 0.6], [mirrored[1].top1, 0.5]]


def test_views_may_be_harder_for_some_architectures() -> None:
    sample = [a for family in sample_families(SPACE, 400, 0) for a in family]
    rng = np.random.default_rng(1)

    def harder(architecture: Architecture) -> float:
        return 0.01 + 0.002 * (sum(architecture.depths) - 15)

    plain = [record(a, 0.8) for a in sample]
    shifted = [
        record(a, 0.8 - harder(a) + float(rng.normal(0, 0.004)), view=2) for a in sample[:200]
    ]
    data = collect([*plain, *shifted], SPACE)
    wanted = [0.8 - harder(a) / 2 for a in sample[200:]]
    filled = data.targets(np.arange(400))[200:]
    by_level = 0.8 - np.mean([harder(a) for a in sample[:200]]) / 2
    assert np.std(filled - wanted) < 0.4 * np.std(by_level - np.array(wanted))


def test_errors_are_of_the_subnets_with_all_views(records: list[AccuracyRecord]) -> None:
    # Accuracies of most are so noisy that no model predicts them; a third was tried on four views.
    rng = np.random.default_rng(2)
    noisy = [record(r.architecture, r.top1 + float(rng.normal(0, 0.01))) for r in records]
    more = [
        record(r.architecture, truth(r.architecture), view=view)
        for r in records[:54]
        for view in (1, 2, 3)
    ]
    _, report = fit_records([*noisy, *more], SPACE, config=QUICK)
    assert (report["num_subnets"], report["num_tested"], report["num_views"]) == (160, 54, 4)
    noise = fit_records(noisy, SPACE, config=QUICK)[1]["rmse"]
    assert noise > 0.0095
    assert report["rmse"] < 0.8 * noise
    # Too few of them to judge by: fewer than a tenth, or than 20.
    assert fit_records([*noisy, *more[:19]], SPACE, config=QUICK)[1]["num_tested"] == 160


def test_no_member_of_a_family_is_in_both_parts(records: list[AccuracyRecord]) -> None:
    data = collect(records, SPACE)
    assert 35 < data.group.max() + 1 < 50  # 40 families of 4 and the two extremes
    seen: list[set[int]] = []

    def model(codes: np.ndarray, top1: np.ndarray):  # type: ignore[no-untyped-def,type-arg]
        part = {
            int(g) for g, c in zip(data.group, data.codes, strict=True) if (codes == c).all(1).any()
        }
        seen.append(part)
        return lambda held: (np.zeros(len(held)), np.zeros(len(held)))

    cross_validate(data, model, QUICK)
    everything = set(data.group.tolist())
    assert len(seen) == 3
    assert all(len(everything - part) > 0 for part in seen)
    assert sum(len(everything - part) for part in seen) == len(everything)


def test_noise_floor_comes_from_repeats(records: list[AccuracyRecord]) -> None:
    repeats = [record(r.architecture, r.top1 + 0.003, seed=1) for r in records[:30]]
    _, report = fit_records([*repeats, *records], SPACE, config=QUICK)
    assert report["num_subnets"] == len(records)
    assert report["noise_floor"]["repeated_subnets"] == 30
    assert report["noise_floor"]["rmse"] == pytest.approx(0.003)
    assert "noise_floor" not in fit_records(records, SPACE, config=QUICK)[1]


def test_records_on_other_images_are_left_out(
    records: list[AccuracyRecord], caplog: pytest.LogCaptureFixture
) -> None:
    odd = [record(SPACE.smallest(28), 0.1, images=10)]
    assert len(collect([*odd, *records], SPACE).codes) == len(records)
    assert "left out 1 records not on 2000 images" in caplog.text


def test_learning_curve_is_tested_on_subnets_with_all_views(records: list[AccuracyRecord]) -> None:
    more = [record(r.architecture, r.top1, view=1) for r in records[:60]]
    found = study([*records, *more], SPACE, config=QUICK)
    last = found["learning_curve"][-1]
    # A third of all, and the rest of the last family of 4; two thirds of those with all views.
    assert 40 <= last["test_subnets"] < 44
    assert last["train_subnets"] <= 160 - last["test_subnets"]


def test_uncertainty_covers_what_members_miss_together(records: list[AccuracyRecord]) -> None:
    predictor, report = fit_records(records, SPACE, config=QUICK)
    found = predictor.uncertainty([SPACE.smallest(), SPACE.largest()])
    assert np.all(found >= report["residual_noise"] - 1e-12)
    assert report["residual_noise"] > 0


def test_study_compares_models(records: list[AccuracyRecord]) -> None:
    pytest.importorskip("xgboost")
    stages: list[str] = []
    result = study(records, SPACE, config=QUICK, progress=stages.append)
    assert set(result["models"]) == {"predictor", "mlp_3x400", "boosted_trees"}
    assert result["models"]["predictor"]["kendall_tau"] > 0.6
    rows = [row for row in result["learning_curve"] if row["model"] == "predictor"]
    assert [row["train_subnets"] for row in rows][:2] == [50, 100]
    assert rows[-1]["rmse"] < rows[0]["rmse"]
    # A third, and the rest of the last family of 4.
    assert all(0 <= row["test_subnets"] - len(records) // 3 < 4 for row in rows)
    assert "learning curve" in stages


def test_search_speed_allows_50000_candidates_a_second(
    records: list[AccuracyRecord], tmp_path: Path
) -> None:
    """Bounds the arithmetic, not the clock: at most 60,000 multiply-adds a candidate."""
    predictor, _ = fit_records(records, SPACE, config=FitConfig(steps=1))
    predictor.save(tmp_path / "p.safetensors")
    size = sum(w.size for w in AccuracyPredictor.load(tmp_path / "p.safetensors")._weights.values())
    assert size < 60_000
