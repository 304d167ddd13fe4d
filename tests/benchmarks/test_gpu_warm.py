"""Preparing what other runtimes search: several at once, and no longer than there is time."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_warm
from gpu_peers import TimeLimits
from gpu_runtimes import is_searching, runtimes_for

GOOD, UNBUILDABLE, ENDLESS = (f"gpu_fakes:{name}" for name in ("Good", "Unbuildable", "Endless"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a network's folder; the fakes are what searches, in the order given to `warm`."""
    folder = tmp_path / "small" / "fp32-batch-1"
    folder.mkdir(parents=True)
    (folder / "facts.json").write_text(json.dumps({"batch": 1, "logits": [[1.0]]}))
    monkeypatch.setattr(gpu_warm, "is_searching", lambda _: True)
    fakes = [GOOD, UNBUILDABLE, ENDLESS, "gpu_fakes:Absent"]
    monkeypatch.setattr(gpu_warm, "runtimes_for", lambda *_: fakes)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return folder


def test_each_is_prepared_in_a_process_of_its_own(place: Path) -> None:
    limits = TimeLimits(1.0, time.monotonic() + 60)
    found = gpu_warm.warm([(place, "fp32")], "cuda", [GOOD, UNBUILDABLE], 2, limits)
    assert found == {
        "jobs": 2,
        "prepared": [f"{GOOD} small/fp32-batch-1"],
        "failed": [f"{UNBUILDABLE} small/fp32-batch-1"],
        "not_begun": 0,
    }


def test_what_goes_on_at_the_end_is_given_up(place: Path) -> None:
    start = time.monotonic()
    limits = TimeLimits(1.0, start + 2)
    found = gpu_warm.warm([(place, "fp32")] * 2, "cuda", [ENDLESS], 1, limits)
    assert time.monotonic() - start < 20
    assert found["failed"] == [f"{ENDLESS} small/fp32-batch-1"]
    assert (found["prepared"], found["not_begun"]) == ([], 1)


def test_those_that_time_candidates_search() -> None:
    names = [name for name in runtimes_for("cuda", "tf32") if is_searching(name)]
    assert names == ["torch-max-autotune-tf32", "tensorrt-tf32"]
    assert not any(map(is_searching, runtimes_for("vulkan", "fp32")))
