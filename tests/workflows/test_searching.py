from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.errors import ConfigError, TargetNotFoundError, UserInputError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.options import SearchOptions
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.space import Architecture, search_space
from ofa_compile.workflows.searching import parse_target, parse_targets
from ofa_compile.workflows.selection import latency_predictor_path, load_latency_predictor

QUICK = ["--max-evaluations", "2000", "--quiet"]


@pytest.mark.parametrize("limit", ["20ms", "20", "20.0ms", " 20ms"])
def test_targets_with_limits(limit: str) -> None:
    found = parse_target(f"arm64={limit}")
    assert (found.target.name, found.max_latency_ms) == ("arm64", 20.0)
    assert parse_target("arm64").max_latency_ms is None


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("arm64=20s",), ConfigError, "'20s' is not a number of milliseconds"),
        (("arm64=-3ms",), ConfigError, "'-3ms' is not a number"),
        (("arm46=3ms",), TargetNotFoundError, "arm46"),
        (("arm64=20ms", "arm64"), ConfigError, "named more than once: arm64, arm64"),
    ],
)
def test_bad_targets(words: tuple[str, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_targets(SearchOptions(targets=words))


def test_one_limit_for_one_target() -> None:
    (alone,) = parse_targets(SearchOptions(targets=("arm64",), max_latency_ms=7.0))
    assert alone.max_latency_ms == 7.0
    for words in (("arm64", "x86-64"), ("arm64=3ms",)):
        with pytest.raises(ConfigError, match="goes with one --target"):
            parse_targets(SearchOptions(targets=words, max_latency_ms=7.0))


@pytest.fixture(scope="module")
def estimates() -> dict[str, np.ndarray]:
    """Latencies of the smallest and the largest subnet on both targets."""
    space = search_space("ofa_mbv3_cifar")
    ends = [space.smallest(), space.largest()]
    return {
        name: LatencyEstimator(load_target(name)).predict(ends) for name in ("cortex-a53", "x86-64")
    }


def test_one_subnet_meets_the_limits_of_all_targets(
    estimates: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {name: float(0.7 * low + 0.3 * high) for name, (low, high) in estimates.items()}
    words = [f"--target={name}={limit}ms" for name, limit in limits.items()]
    output = tmp_path / "front"
    arguments = ["search", *words, *QUICK, "--max-parameters", "1e6", "--output", str(output)]
    assert run_app([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cost"] == "latency_ms@cortex-a53"
    assert document == json.loads((output / "front.json").read_text(encoding="utf-8"))
    for member in document["front"]:
        assert member["num_parameters"] <= 1e6
        for name, limit in limits.items():
            assert member["latencies"][name]["ms"] <= limit
            assert member["latencies"][name]["kind"] == "estimate"
        architecture = Architecture.from_dict(member["architecture"])
        assert Architecture.from_file(output / f"{architecture.short_hash}.json") == architecture
    assert run_app(arguments) == 0
    out = capsys.readouterr().out
    assert "cortex-a53 ms (estimate)" in out
    assert "x86-64 ms (estimate)" in out
    assert "accuracy, % (prediction)" in out


def test_a_family_has_one_subnet_for_each_target(
    estimates: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (a53, _), (x86, x86_high) = estimates["cortex-a53"], estimates["x86-64"]
    limits = {"cortex-a53": 1.2 * a53, "x86-64": 0.5 * (x86 + x86_high)}
    words = [f"--target={name}={limit}ms" for name, limit in limits.items()]
    arguments = ["search", *words, "--family", *QUICK, "--output", str(tmp_path)]
    assert run_app([*arguments, "--json"]) == 0
    family = json.loads(capsys.readouterr().out)["family"]
    assert list(family) == list(limits)
    for name, member in family.items():
        assert set(member["latencies"]) == set(limits)
        assert member["latencies"][name]["ms"] <= limits[name]
        assert (tmp_path / f"{name}.json").is_file()
    assert family["cortex-a53"]["accuracy"] < family["x86-64"]["accuracy"]
    assert family["x86-64"]["latencies"]["cortex-a53"]["ms"] > limits["cortex-a53"]


def test_limits_that_no_subnet_meets_say_which_and_what_is_nearest(
    estimates: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    low = estimates["x86-64"][0]
    words = ["--target=cortex-a53", f"--target=x86-64={0.5 * low}ms"]
    assert run_app(["search", *words, *QUICK]) == 7
    err = capsys.readouterr().err
    assert "max_latency_ms for x86-64" in err
    assert f"the least reachable is {low:.4g} ms" in err
    assert '"resolution":24' in err


def test_a_p95_needs_its_own_predictor(tmp_path: Path) -> None:
    space, target = search_space("ofa_mbv3_cifar"), load_target("x86-64")
    with pytest.raises(UserInputError, match="no predictor of the p95 latency") as caught:
        load_latency_predictor(target, space, None, tmp_path, statistic="p95")
    assert "--statistic p95" in (caught.value.hint or "")
    rng = np.random.default_rng(0)
    architectures = [space.sample(rng) for _ in range(12)]
    predictor = LatencyPredictor(
        space, target=target.name, target_fingerprint=target.fingerprint, statistic="p95"
    )
    predictor.fit(architectures, rng.uniform(1.0, 2.0, 12))
    path = latency_predictor_path(tmp_path, space.name, "p95")
    predictor.save(path)
    found = load_latency_predictor(target, space, None, tmp_path, statistic="p95")
    assert getattr(found, "statistic", None) == "p95"
    with pytest.raises(UserInputError, match="predicts the p95 latency, not the median"):
        load_latency_predictor(target, space, path, None)


def test_a_batch_needs_its_own_predictor(tmp_path: Path) -> None:
    space, target = search_space("ofa_mbv3_cifar"), load_target("x86-64")
    with pytest.raises(UserInputError, match="no predictor of the median latency of batch 8"):
        load_latency_predictor(target, space, None, tmp_path, batch=8)
    rng = np.random.default_rng(0)
    architectures = [space.sample(rng) for _ in range(12)]
    predictor = LatencyPredictor(
        space, target=target.name, target_fingerprint=target.fingerprint, batch=8
    )
    predictor.fit(architectures, rng.uniform(1.0, 2.0, 12))
    path = latency_predictor_path(tmp_path, space.name, batch=8)
    predictor.save(path)
    found = load_latency_predictor(target, space, None, tmp_path, batch=8)
    assert getattr(found, "batch", None) == 8
    with pytest.raises(UserInputError, match="latency of batch 8, not 1") as caught:
        load_latency_predictor(target, space, path, None)
    assert caught.value.hint == "--batch 8"


def test_one_predictor_file_cannot_serve_several_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--target", "arm64", "--target", "x86-64", "--latency-predictor", str(tmp_path)]
    assert run_app(["search", *words]) == 2
    assert "--latency-predictor is for one target" in capsys.readouterr().err
