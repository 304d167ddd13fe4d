"""`measure`: what was built ahead, in which state, and what boards do not offer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ofa_compile.errors import MissingDependencyError, UserInputError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.measure import MeasureConfig
from ofa_compile.measurement.native_builder import NativeBuilder
from ofa_compile.options import MeasureOptions
from ofa_compile.workflows.measuring import measure_target


@pytest.fixture
def _is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait until times converge: here they need not."""
    try:
        find_linker(load_target("host"))
    except MissingDependencyError as err:
        pytest.skip(str(err))

    def quick(**options: Any) -> MeasureConfig:
        timing = TimingConfig(round_ms=0.1, warmup_ms=0.1, max_seconds=0.1, min_rounds=3)
        return MeasureConfig(timing=timing, **options)

    monkeypatch.setattr("ofa_compile.measurement.measure.MeasureConfig", quick)


class _Meter:
    """Counts 5 J from look to look."""

    def __init__(self) -> None:
        self.looks = 0

    def joules(self) -> float:
        self.looks += 1
        return 5.0 * self.looks


@pytest.mark.usefixtures("_is_quick")
def test_built_first_measured_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(**changes: Any) -> dict[str, Any]:
        fixed = {"count": 1, "resolution": 24, "design": "uniform", "workspace": tmp_path}
        return measure_target(MeasureOptions(**{**fixed, **changes}))

    assert measure(build_only=True)["num_built"] == 2  # and the reference
    assert measure(build_only=True) | {"num_built": 0} == measure(build_only=True)
    monkeypatch.setattr("ofa_compile.measurement.energy.energy_meter", lambda _: _Meter())
    monkeypatch.setattr("ofa_compile.measurement.energy._SECONDS", 0.01)
    monkeypatch.setattr(NativeBuilder, "_build", lambda *_: pytest.fail("it was built again"))
    assert measure(budget_minutes=0.0)["num_measured"] == 0
    report = measure(repeats=1)
    assert (report["num_measured"], report["num_total"]) == (2, 1)
    assert 0 < report["median_energy_mj"] <= 500  # of runs in tens
    assert "idle power included" in report["energy_covers"]
    (library,) = (tmp_path / "built").rglob("*.so")  # the reference's, which others need too
    assert library.stat().st_size > 0
    roles = [r.role for r in LatencyDataset(report["dataset"])]
    assert roles == ["reference", "sample", "repeat"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"build_only": True}, "--build-only is for targets that this machine runs itself"),
        ({"budget_minutes": 3.0}, "--budget-minutes is for"),
        ({"cache_state": "cold"}, "--cache-state is for"),
        ({"repeats": 3}, "--repeats is for"),
    ],
)
def test_what_boards_do_not_offer(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    text = (Path(__file__).parents[2] / "targets" / "arm64.toml").read_text(encoding="utf-8")
    head, _, rest = text.partition('[runner]\nkind = "estimate"')
    path = tmp_path / "board.toml"
    path.write_text(f'{head}[runner]\nkind = "rpc"\nserver = "127.0.0.1:9"{rest}')
    options = MeasureOptions(target=str(path), workspace=tmp_path, **changes)
    with pytest.raises(UserInputError, match=words):
        measure_target(options)
