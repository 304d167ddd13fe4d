"""The arithmetic of the GPU benchmark that needs no GPU: shares of limits, tables, time left."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_prebuilt import quick_subnets
from gpu_report import summary, summary_table
from gpu_run import expected_seconds, is_right
from gpu_runtimes import is_timed_by_host, precision_of
from gpu_shares import (
    join_limits,
    moved_bytes,
    percent,
    shares,
    step_shares,
    work_per_second,
)
from gpu_torch import torch_limits

from ofa_compile.space import search_space

LIMITS = {"gflop_per_s": {"fp32": 1000.0, "tf32": 4000.0}, "gb_per_s": 100.0}
(ARCHITECTURE,) = quick_subnets().values()


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "subnet": "small",
        "architecture": ARCHITECTURE.to_dict(),
        "batch": 2,
        "kind": "cuda",
        "precision": "fp32",
        "macs": 50_000_000,
        **changes,
    }


def test_shares_of_given_limits() -> None:
    # 100 million operations and 5 million bytes in 0.2 ms.
    work = work_per_second(50_000_000, 5_000_000, 0.2)
    assert work == pytest.approx({"gflop_per_s": 500.0, "gb_per_s": 25.0})
    found = shares(work, "fp32", LIMITS)
    assert found == pytest.approx({"share_of_flops": 0.5, "share_of_bandwidth": 0.25})
    assert shares(work, "tf32", LIMITS)["share_of_flops"] == pytest.approx(0.125)


def test_an_unknown_limit_gives_no_share() -> None:
    work = work_per_second(1, 1, 1.0)
    assert shares(work, "fp16", LIMITS)["share_of_flops"] is None
    nothing = {"share_of_flops": None, "share_of_bandwidth": None}
    assert shares(work, "fp32", {}) == nothing
    assert (percent(None), percent(0.616)) == ("-", "62 %")


def test_the_larger_of_two_limits_counts() -> None:
    other = {"gflop_per_s": {"fp32": 900.0, "fp16": 2000.0}, "gb_per_s": 120.0}
    joined = {"gflop_per_s": {"fp32": 1000.0, "tf32": 4000.0, "fp16": 2000.0}, "gb_per_s": 120.0}
    assert join_limits([LIMITS, other]) == join_limits([other, LIMITS]) == joined
    assert join_limits([{"error": "no device"}]) == {"gflop_per_s": {}}


def test_kernels_have_shares_of_their_own() -> None:
    steps = [{"kind": "pointwise", "macs": 50_000_000}, {"kind": "add", "macs": 0}]
    first, second = step_shares(steps, [0.2, 0.1], "fp32", LIMITS)
    assert first == {"kind": "pointwise", "ms": 0.2, "share_of_flops": pytest.approx(0.5)}
    assert second["share_of_flops"] == 0
    assert step_shares(steps, [0.2, 0.1], "fp16", LIMITS)[0]["share_of_flops"] is None


def test_a_runtime_is_held_against_its_own_arithmetic() -> None:
    half = facts(precision="fp16")
    assert precision_of("ours", half) == "fp16"
    assert precision_of("torch-graph", half) == "fp32"
    assert precision_of("tensorrt-tf32", half) == "tf32"


def test_bytes_are_of_the_elements_that_move() -> None:
    one, two = (moved_bytes(ARCHITECTURE, batch, "fp32") for batch in (1, 2))
    layers = search_space(ARCHITECTURE.space).layers(ARCHITECTURE)
    weights = sum(layer.weight_bytes for layer in layers)
    residuals = sum(layer.output_bytes for layer in layers if layer.has_residual)
    maps = sum(layer.input_bytes + layer.output_bytes for layer in layers)
    assert one == weights + maps + residuals
    assert two == weights + 2 * (maps + residuals)
    assert residuals > 0
    assert moved_bytes(ARCHITECTURE, 1, "tf32") == one
    assert moved_bytes(ARCHITECTURE, 1, "fp16") * 2 == one


def result(kinds: dict[str, float], known_limits: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what a run writes about a network, from times in milliseconds."""
    known = facts(**changes)
    runtimes = {
        kind: summary({"device_ms": [ms], "end_to_end_ms": [2 * ms]}, known, kind, known_limits)
        for kind, ms in kinds.items()
    }
    return {**known, "runtimes": runtimes}


def test_a_summary_holds_the_shares() -> None:
    found = result({"ours": 0.2, "torch-graph-tf32": 0.1}, LIMITS)["runtimes"]
    assert found["ours"]["share_of_flops"] == pytest.approx(0.5)
    assert found["torch-graph-tf32"]["share_of_flops"] == pytest.approx(0.25)
    moved = moved_bytes(ARCHITECTURE, 2, "fp32")
    assert found["ours"]["bytes"] == moved
    assert found["ours"]["share_of_bandwidth"] == pytest.approx(moved / 0.2e-3 / 100e9)


def test_the_table_shows_shares_and_who_is_timed_by_the_host() -> None:
    kinds = {"ours": 0.2, "onnxruntime": 0.3}
    known = summary_table([result(kinds, LIMITS)]).splitlines()[-1]
    assert " 50 % " in known
    assert "onnxruntime (by host) | 0.300 | 1.50 | 1.50 |" in known
    unknown = summary_table([result({"ours": 0.2}, {})])
    assert "%" not in unknown
    assert unknown.endswith("| - | - | - | - |")
    assert not is_timed_by_host("torch-graph")


def test_the_table_compares_within_an_arithmetic() -> None:
    kinds = {"ours": 0.2, "torch-graph": 0.3, "torch-graph-tf32": 0.1}
    assert " torch-graph | 0.300 | 1.50 |" in summary_table([result(kinds, LIMITS)])
    rounded = summary_table([result(kinds, LIMITS, precision="tf32")])
    assert " torch-graph-tf32 | 0.100 | 0.50 |" in rounded


def test_the_table_shows_others_where_ours_failed() -> None:
    failed = result({"torch-graph": 0.3}, LIMITS)
    failed["runtimes"]["ours"] = {"error": "the worker ended with SIGSEGV"}
    row = summary_table([failed]).splitlines()[-1]
    assert "| failed | - | - | - | - | torch-graph | 0.300 | - | - |" in row


def test_the_next_network_is_expected_to_be_as_slow_as_any() -> None:
    assert expected_seconds([]) == 0
    assert expected_seconds([{"load_s": 9.0, "timing_s": 1.0}]) == 10
    results = [{"load_s": 9.0, "timing_s": 1.0}, {"load_s": 5.0, "timing_s": 2.0}]
    assert expected_seconds(results) == 11


def test_a_run_fails_where_ours_does() -> None:
    timed, failed = ({"ours": {name: 1.0}} for name in ("device_ms", "error"))
    right, wrong = ({"is_right": value} for value in (True, False))
    good = {"runtimes": timed, "is_complete": True}
    assert is_right({"checks": [right, right], "networks": [good]})
    assert not is_right({"checks": [right, wrong], "networks": [good]})
    assert not is_right({"checks": [], "networks": []})  # nothing is known of it
    bad = {"runtimes": failed, "is_complete": True}
    assert not is_right({"checks": [right], "networks": [good, bad]})
    cut_off = {"runtimes": failed, "is_complete": False}
    assert is_right({"checks": [right], "networks": [good, cut_off]})


class FakeArray:
    """A matrix of PyTorch's that counts its products; each takes as long as its type says."""

    nbytes = 2**30

    def __init__(self, torch: Any, name: str = "float") -> None:
        self.torch, self.name = torch, name

    def half(self) -> FakeArray:
        return FakeArray(self.torch, "half")

    def clone(self) -> None:
        self.torch.milliseconds = 2.0

    def __matmul__(self, _: FakeArray) -> None:
        rounds = self.torch.backends.cuda.matmul.allow_tf32
        self.torch.milliseconds = 1.0 if self.name == "half" else 2.0 if rounds else 8.0


def fake_torch(capability: tuple[int, int]) -> Any:
    """Return as much of PyTorch as measuring limits takes, with a clock that is told."""
    torch = SimpleNamespace(__version__="0", milliseconds=0.0)
    event = SimpleNamespace(
        record=lambda: None, synchronize=lambda: None, elapsed_time=lambda _: torch.milliseconds
    )
    torch.cuda = SimpleNamespace(
        get_device_capability=lambda: capability,
        empty_cache=lambda: None,
        Event=lambda *, enable_timing: event if enable_timing else None,
    )
    settings = SimpleNamespace(allow_tf32=True)
    torch.backends = SimpleNamespace(cuda=SimpleNamespace(matmul=settings))
    torch.randn = torch.empty = lambda *_, device: FakeArray(torch, device)
    return torch


@pytest.mark.parametrize(
    ("capability", "override", "known"),
    [
        ((9, 0), "", {"fp32", "tf32", "fp16"}),
        ((7, 5), "", {"fp32", "fp16"}),
        ((9, 0), "0", {"fp32", "fp16"}),
    ],
)
def test_peaks_are_those_of_each_arithmetic(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], override: str, known: set[str]
) -> None:
    torch = fake_torch(capability)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    found = torch_limits()
    operations = 2 * 8192**3
    expected = {"fp32": operations / 8e6, "tf32": operations / 2e6, "fp16": operations / 1e6}
    assert found["gflop_per_s"] == pytest.approx({name: expected[name] for name in known})
    assert found["gb_per_s"] == pytest.approx(2 * 2**30 / 2e6)
    assert not torch.backends.cuda.matmul.allow_tf32
