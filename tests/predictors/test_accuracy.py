from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError, ArtifactError, DataError, NotFittedError
from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.predictors.accuracy_dataset import AccuracyRecord, append_record, read_records
from ofa_compile.predictors.accuracy_fit import FitConfig, fit_accuracy
from ofa_compile.space import Architecture, search_space

SPACE = search_space("ofa_mbv3_cifar")
QUICK = FitConfig(members=2, hidden=16, steps=30, folds=3)


def truth(architecture: Architecture) -> float:
    """Return an accuracy that grows with everything."""
    kernels = np.mean([k for stage in architecture.kernel_sizes for k in stage])
    ratios = np.mean([e for stage in architecture.expand_ratios for e in stage])
    size = 0.01 * sum(architecture.depths) + 0.004 * kernels + 0.01 * ratios
    return float(0.5 + size + 0.004 * (architecture.resolution - 24))


def make_records(count: int, noise: float = 0.002) -> list[AccuracyRecord]:
    rng = np.random.default_rng(0)
    return [
        AccuracyRecord(
            architecture=architecture,
            top1=truth(architecture) + float(rng.normal(0, noise)),
            num_images=2000,
            num_calibration_images=1000,
            data="train-held-out",
            supernet="ab" * 32,
        )
        for architecture in (SPACE.sample(rng) for _ in range(count))
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("accuracy") / "accuracy.jsonl"
    for record in make_records(150):
        append_record(path, record)
    return path


@pytest.fixture(scope="module")
def predictor(dataset: Path) -> AccuracyPredictor:
    return fit_accuracy(dataset, SPACE, config=QUICK)[0]


def test_ranks_unseen_subnets(predictor: AccuracyPredictor) -> None:
    rng = np.random.default_rng(1)
    unseen = [SPACE.sample(rng) for _ in range(100)]
    actual = np.array([truth(a) for a in unseen])
    predicted = predictor.predict(unseen)
    assert predicted.dtype == np.float64
    assert np.corrcoef(actual, predicted)[0, 1] > 0.95
    assert np.sqrt(np.mean((actual - predicted) ** 2)) < 0.3 * actual.std()
    assert predictor.predict([]).shape == (0,)
    assert predictor.uncertainty(unseen).shape == (100,)


def test_report_is_of_held_out_subnets(predictor: AccuracyPredictor) -> None:
    report = predictor.report
    assert report["num_subnets"] == 150
    assert report["kendall_tau"] > 0.8
    assert 0 < report["rmse"] < 0.01
    assert report["sampling_noise"] == pytest.approx(0.01, abs=0.003)


def test_saved_predictor_is_the_same(predictor: AccuracyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "accuracy.safetensors"
    predictor.save(path)
    loaded = AccuracyPredictor.load(path)
    sample = [SPACE.sample(np.random.default_rng(2))]
    assert np.array_equal(loaded.predict(sample), predictor.predict(sample))
    assert loaded.report == predictor.report
    codes = SPACE.encode(sample)
    assert np.array_equal(loaded.predict_encoded(codes), loaded.predict(sample))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_fit_is_repeatable(dataset: Path, predictor: AccuracyPredictor) -> None:
    again, _ = fit_accuracy(dataset, SPACE, config=QUICK)
    sample = [SPACE.smallest(), SPACE.largest()]
    assert np.allclose(again.predict(sample), predictor.predict(sample), atol=1e-5)


def test_predictions_stay_in_range(predictor: AccuracyPredictor) -> None:
    codes = np.full((3, SPACE.encoding_size), 100.0, np.float32)
    assert np.all((predictor.predict_encoded(codes) >= 0) & (predictor.predict_encoded(codes) <= 1))


def test_bad_use_is_explained(tmp_path: Path, predictor: AccuracyPredictor) -> None:
    with pytest.raises(NotFittedError, match="not been fitted"):
        AccuracyPredictor(SPACE).predict([SPACE.smallest()])
    with pytest.raises(NotFittedError, match="nothing to save"):
        AccuracyPredictor(SPACE).save(tmp_path / "x")
    other = search_space("ofa_mbv3_d234_e346_k357_w1.0").smallest()
    with pytest.raises(ArchitectureError, match=r"for ofa_mbv3_cifar.*w1\.0"):
        predictor.predict([other])
    with pytest.raises(ArtifactError, match="cannot read the accuracy predictor"):
        AccuracyPredictor.load(tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="cannot read the accuracy predictor"):
        AccuracyPredictor.load(tmp_path / "bad.safetensors")
    with pytest.raises(ArtifactError, match=r"linear\.weight of \(3,\)"):
        AccuracyPredictor(SPACE, {"linear.weight": np.zeros(3), "scale": np.ones(2)})  # type: ignore[dict-item]
    with pytest.raises(ArtifactError, match="no accuracy predictor ships for 'nothing'"):
        AccuracyPredictor.load_embedded("nothing")


def test_bad_data_sets_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.jsonl"
    with pytest.raises(DataError, match="does not exist"):
        fit_accuracy(path, SPACE)
    for record in make_records(5):
        append_record(path, record)
    with pytest.raises(DataError, match="5 evaluated subnets are too few"):
        fit_accuracy(path, SPACE)
    with pytest.raises(DataError, match="holds subnets of ofa_mbv3_cifar"):
        fit_accuracy(path, search_space("ofa_resnet50"))
    text = path.read_text()
    path.write_text(text.replace('"top1": 0.', '"top1": 7.', 1))
    with pytest.raises(DataError, match="line 1: not an accuracy record: top1 is 7"):
        read_records(path)
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 9', 1))
    with pytest.raises(DataError, match="line 1: not an accuracy record: schema_version 9"):
        read_records(path)
    path.write_text(text + text.replace("abab", "cdcd"))
    with pytest.raises(DataError, match="mixes subnets of 2 supernets"):
        fit_accuracy(_mixed(path), SPACE)


def _mixed(path: Path) -> Path:
    """Give the second half of a file other architectures than the first."""
    records = make_records(30)
    path.unlink()
    for number, record in enumerate(records):
        values = {**vars(record), "supernet": ("ab" if number % 2 else "cd") * 32}
        append_record(path, AccuracyRecord(**values))
    return path


def test_torn_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.jsonl"
    first, second = make_records(2)
    append_record(path, first)
    whole = path.read_text()
    path.write_text(whole + whole[:30])
    assert read_records(path) == [first]
    append_record(path, second)
    assert read_records(path) == [first, second]
    assert read_records(tmp_path / "none.jsonl") == []


def test_unwritable_destination_is_an_error(predictor: AccuracyPredictor, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ArtifactError, match="cannot write the accuracy predictor to"):
        predictor.save(blocker / "accuracy.safetensors")
