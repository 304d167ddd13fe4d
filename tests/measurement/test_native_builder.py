from __future__ import annotations

from pathlib import Path

import pytest

from ofa_compile.errors import DeviceUnavailableError, MissingDependencyError, UserInputError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
from ofa_compile.measurement.native_builder import NativeBuilder
from ofa_compile.measurement.sampling import choose_architectures
from ofa_compile.space.registry import search_space


def test_foreign_targets_cannot_be_timed() -> None:
    name = "x86-64" if load_target("arm64").is_native else "arm64"
    with pytest.raises(DeviceUnavailableError, match="cannot run code"):
        NativeBuilder(load_target(name), None)  # type: ignore[arg-type]


def test_what_was_built_ahead_is_only_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, target = search_space("ofa_mbv3_cifar"), load_target("host")
    try:
        find_linker(target)
    except MissingDependencyError as err:
        pytest.skip(str(err))
    architecture = space.smallest(24)
    build = NativeBuilder(target, ahead=tmp_path / "ahead")
    for folder, is_new in (("first", True), ("second", False)):
        (tmp_path / folder).mkdir()
        assert build.build_ahead(architecture, tmp_path / folder) is is_new
    later = NativeBuilder(target, ahead=tmp_path / "ahead")
    monkeypatch.setattr(later, "_build", lambda *_: pytest.fail("it was built again"))
    runner = later(architecture, tmp_path)
    assert (runner.time(2) > 0).all()
    runner.close()
    later.forget([architecture, space.largest(24)])
    assert not list((tmp_path / "ahead").iterdir())
    (tmp_path / "file").write_bytes(b"")
    blocked = NativeBuilder(target, ahead=tmp_path / "file" / "in")
    monkeypatch.setattr(blocked, "_build", lambda *_: tmp_path / "file")
    with pytest.raises(UserInputError, match=r"cannot write .*\.so: Not a directory"):
        blocked.build_ahead(architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cache_state", ["warm", "cold"])
def test_measures_real_subnets(tmp_path: Path, cache_state: str) -> None:
    from ofa_compile.supernet.checkpoint import load_supernet

    space, target = search_space("ofa_mbv3_cifar"), load_target("host")
    build = NativeBuilder(
        target,
        load_supernet(None, space=space),
        cache_state=cache_state,  # type: ignore[arg-type]
    )
    dataset = LatencyDataset(tmp_path / "latency.jsonl")
    wanted = choose_architectures(space, 2, resolution=24)
    config = MeasureConfig(timing=TimingConfig(max_seconds=1.0), cache_state=cache_state)  # type: ignore[arg-type]
    report = measure_subnets(space, target, wanted, build=build, dataset=dataset, config=config)
    assert report.num_measured == 2
    assert all(0.01 < (record.median_ms or 0) < 100 for record in dataset.records())
