"""Runtimes in processes of their own: none takes the others down with it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_peers import OutOfTimeError, Peer, PeerError, TimeLimits, rounds
from gpu_runtimes import environment_of, precision_of, runtimes_for

MakePeer = Callable[..., Peer]


@pytest.fixture
def make_peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePeer]:
    """Return a function that starts a fake runtime of gpu_fakes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    started = []

    def make(name: str, *, request_s: float = 10.0, run_s: float = 600.0, **options: int) -> Peer:
        limits = TimeLimits(request_s, time.monotonic() + run_s)
        started.append(Peer(f"gpu_fakes:{name}", limits, **options))
        return started[-1]

    yield make
    for peer in started:
        peer.close()


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Return folders of a network for one image and for two."""
    found = []
    for batch in (1, 2):
        place = tmp_path / f"batch-{batch}"
        place.mkdir()
        facts = {"batch": batch, "logits": [[1.0, -2.0], [0.5, 0.25]]}
        (place / "facts.json").write_text(json.dumps(facts))
        found.append(str(place))
    return found


def test_rounds_go_on_without_those_that_hang_or_die(
    make_peer: MakePeer, places: list[str]
) -> None:
    peers = {name: make_peer(name) for name in ("Good", "Dying")}
    peers["Hanging"] = make_peer("Hanging", request_s=1.0)
    for peer in peers.values():
        assert peer.ask("load", place=places[1])["largest_error"] == 0
    limits = TimeLimits(1.0, time.monotonic() + 600)
    turns, failed = rounds(peers, 3, limits)
    assert turns == {"Good": {"device_ms": [0.5] * 3, "end_to_end_ms": [0.75] * 3}}
    assert "no answer within 1 s" in failed["Hanging"]
    assert "SIGSEGV" in failed["Dying"]
    # Those that died are there again for the next network.
    assert peers["Dying"].ask("load", place=places[0])["largest_error"] == 0


def test_rounds_end_with_the_time(make_peer: MakePeer, places: list[str]) -> None:
    good, stuck = make_peer("Good"), make_peer("Hanging", run_s=0.0)
    good.ask("load", place=places[0])
    turns, failed = rounds({"good": good, "stuck": stuck}, 3, TimeLimits(1.0, time.monotonic()))
    assert turns == {"good": {"device_ms": [0.5], "end_to_end_ms": [0.75]}}  # never less than one
    assert failed == {"stuck": "no time left"}


def test_one_that_hangs_twice_is_given_up(make_peer: MakePeer, places: list[str]) -> None:
    peer = make_peer("Stuck", request_s=1.0)
    for _ in range(2):
        with pytest.raises(PeerError, match="no answer within 1 s"):
            peer.ask("load", place=places[0])
    start = time.monotonic()
    with pytest.raises(PeerError, match="given up after it died or hung 2 times"):
        peer.ask("load", place=places[0])
    assert time.monotonic() - start < 0.5


def test_ours_is_never_given_up(make_peer: MakePeer, places: list[str]) -> None:
    peer = make_peer("Stuck", request_s=1.0, most_failures=None)
    for _ in range(3):
        with pytest.raises(PeerError, match="no answer"):
            peer.ask("load", share=0.3, place=places[0])


def test_the_end_of_the_run_is_nobodys_fault(make_peer: MakePeer, places: list[str]) -> None:
    peer = make_peer("Stuck", request_s=60.0, run_s=2.0, most_failures=1)
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(OutOfTimeError):
            peer.ask("load", place=places[0])
    assert time.monotonic() - start < 10


def test_running_out_of_memory_costs_one_network(make_peer: MakePeer, places: list[str]) -> None:
    peer = make_peer("Greedy", most_failures=1)
    for _ in range(2):
        with pytest.raises(PeerError, match="MemoryError: out of memory"):
            peer.ask("load", place=places[1])
        assert peer.ask("load", place=places[0])["largest_error"] == 0


def test_errors_are_of_the_largest_logit(make_peer: MakePeer, places: list[str]) -> None:
    error = make_peer("Wrong").ask("load", place=places[1])["largest_error"]
    assert error == pytest.approx(0.01)


def test_a_runtime_that_is_not_there_says_so(make_peer: MakePeer) -> None:
    with pytest.raises(PeerError, match="No module named 'absent'"):
        make_peer("Absent").ask("describe")


def test_runtimes_of_an_arithmetic() -> None:
    assert runtimes_for("cuda", "fp32")[:2] == ["ours", "torch-graph"]
    rounded = runtimes_for("cuda", "tf32")
    assert rounded == [
        "ours", "torch-graph-tf32", "torch-max-autotune-tf32", "onnxruntime-tf32", "tensorrt-tf32"
    ]  # fmt: skip
    assert runtimes_for("vulkan", "fp16") == ["ours", "ncnn-vulkan-fp16"]
    half = {"precision": "fp16"}
    assert {precision_of(name, half) for name in runtimes_for("cuda", "fp16")} == {"fp16"}
    # TensorRT in ONNX Runtime rounds unless its process may not.
    assert environment_of("tensorrt") == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert environment_of("tensorrt-tf32") == {}
