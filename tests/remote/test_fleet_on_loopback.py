"""Fleets of our daemon on this machine; the stub network stands in for subnets."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import BAD_OFFERS, RPC_MAGIC, Daemon, LocalTracker
from stub_build import build_program
from stub_bundle import DEFINES, stub_logits

from ofa_compile.bundle.manifest import describe_target
from ofa_compile.hardware.target_spec import RunnerSpec, TargetSpec, load_target
from ofa_compile.measurement.board_builder import BoardRunner, BuiltSubnet
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.fleet import FleetReport, Workshop, measure_fleet
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.measure import MeasureConfig
from ofa_compile.measurement.sample_log import SampleLog
from ofa_compile.measurement.sampling import choose_architectures
from ofa_compile.remote.program import acquire_target_board, count_free_boards
from ofa_compile.remote.session import Board
from ofa_compile.remote.tracker import Tracker
from ofa_compile.space.registry import search_space

SPACE = search_space("ofa_mbv3_cifar")
# The stub takes a microsecond: its times scatter too much to converge, and need not.
TIMING = TimingConfig(round_ms=0.01, warmup_ms=0.001, min_rounds=2, max_rounds=3)
X = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltSubnet:
    path = build_program(tmp_path_factory.mktemp("stub"), defines=DEFINES).path
    return BuiltSubnet(path, X, stub_logits(X))


def measure(
    target: TargetSpec,
    folder: Path,
    built: BuiltSubnet,
    deploy: Callable[[BuiltSubnet, Board], Any] = BuiltSubnet.deploy,
    count: int = 12,
) -> FleetReport:
    description = describe_target(target)
    return measure_fleet(
        SampleLog(
            SPACE, target, LatencyDataset(folder / "latency.jsonl"), MeasureConfig(timing=TIMING)
        ),
        choose_architectures(SPACE, count),
        Workshop(
            take_board=partial(acquire_target_board, description),
            build=lambda architecture, folder: built,
            deploy=deploy,
        ),
        count_free_boards(description),
    )


@pytest.fixture(autouse=True)
def _no_outliers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards that share two busy cores with each other are never alike."""
    monkeypatch.setattr("ofa_compile.measurement.roll_call.MAX_DEVIATION", 100.0)


def test_three_boards_share_the_work(
    daemons: list[Daemon], target: TargetSpec, tmp_path: Path, built: BuiltSubnet
) -> None:
    report = measure(target, tmp_path, built)
    assert (report.num_measured, report.num_failed, len(report.boards)) == (12, 0, 3)
    assert all(entry.problem is None for entry in report.boards)
    names = {f"{target.runner.key}@{daemon.endpoint}" for daemon in daemons}
    assert {entry.board for entry in report.boards} == names
    assert {r.machine["board"] for r in LatencyDataset(tmp_path / "latency.jsonl")} <= names


@pytest.mark.parametrize("fault", ["dies", "hangs", "lies"])
def test_run_finishes_without_a_bad_board(
    daemons: list[Daemon],
    target: TargetSpec,
    tmp_path: Path,
    built: BuiltSubnet,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fault == "hangs":  # the others should not depend on how busy the machine is
        monkeypatch.setattr("ofa_compile.remote.session._CALL_S", 3.0)
    victim = daemons[1]
    name = f"{target.runner.key}@{victim.endpoint}"
    struck = threading.Event()
    broken = build_program(tmp_path, defines=(*DEFINES, "-DSTUB_NAN")).path

    def deploy(subnet: BuiltSubnet, board: Board) -> BoardRunner:
        if board.name != name or not struck.wait(0):
            if board.name == name:
                struck.set()  # the reference is in place; the next subnet meets the fault
            return subnet.deploy(board)
        if fault == "lies":
            return dataclasses.replace(subnet, executable=broken).deploy(board)
        victim.strike(fault)
        return subnet.deploy(board)

    try:
        report = measure(target, tmp_path, built, deploy)
    finally:
        victim.send(signal.SIGCONT)
    assert (report.num_measured, report.num_failed) == (12, 0)
    found = {entry.board: entry for entry in report.boards}
    expected = {"dies": "lost", "hangs": "did not answer", "lies": "computes wrong logits"}
    assert expected[fault] in str(found[name].problem)
    assert found[name].num_measured == 0
    assert all(entry.problem is None for other, entry in found.items() if other != name)


@pytest.mark.parametrize("fault", BAD_OFFERS)
def test_bad_board_that_the_tracker_offers_is_named(
    daemons: list[Daemon],
    target: TargetSpec,
    bad_board: Callable[[str], str],
    tmp_path: Path,
    built: BuiltSubnet,
    fault: str,
) -> None:
    name = bad_board(fault)
    report = measure(target, tmp_path, built)
    assert (report.num_measured, report.num_failed) == (12, 0)
    found = {entry.board: entry for entry in report.boards}
    words = "cannot upload subnet" if fault == "resets" else f"cannot connect to board {name}: "
    assert words in str(found[name].problem)
    assert found[name].num_measured == 0
    good = {f"{target.runner.key}@{daemon.endpoint}" for daemon in daemons}
    assert {entry.board for entry in report.boards if entry.problem is None} == good


def test_reset_in_the_middle_of_an_upload(
    tracker: LocalTracker, daemons: list[Daemon], key: str
) -> None:
    """A client that is reset while it uploads costs the board nothing."""
    with Tracker(tracker.endpoint) as connection:
        offer = connection.request(key, 5)
    assert offer is not None
    end = socket.create_connection((offer.endpoint.host, offer.endpoint.port))
    words = f"client:{offer.match_key}".encode()
    end.sendall(struct.pack("<ii", RPC_MAGIC, len(words)) + words)
    assert end.recv(4)
    end.sendall(struct.pack("<Qiq", 1_000_000, 3, 1) + b"x" * 5000)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
    tracker.wait_for(key, 3)


@pytest.mark.slow
@pytest.mark.arm64
def test_two_emulated_arm64_boards_one_killed(
    tracker: LocalTracker, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The daemon as it goes to a board, in the emulator; so are the programs it runs."""
    from ofa_compile.remote.daemon import build_daemon

    arm64 = load_target("arm64")
    build_daemon(arm64, tmp_path / "daemon")
    emulator = ("qemu-aarch64", "-cpu", "cortex-a53")
    boards = [
        Daemon(
            tmp_path / "daemon",
            "arm",
            tracker.endpoint,
            "--run-with",
            *emulator,
            command=emulator,
            folder=tmp_path,
        )
        for _ in range(2)
    ]
    program = build_program(tmp_path, "arm64", defines=DEFINES).path
    subnet = BuiltSubnet(program, X, stub_logits(X))
    runner = RunnerSpec(kind="rpc", tracker=str(tracker.endpoint), key="arm", wait_s=5)
    target = dataclasses.replace(arm64, runner=runner)
    name = f"arm@{boards[0].endpoint}"
    seen: list[str] = []

    def deploy(built: BuiltSubnet, board: Board) -> BoardRunner:
        seen.append(board.name)
        if seen.count(name) == 3 and board.name == name:
            boards[0].process.kill()
        return built.deploy(board)

    try:
        tracker.wait_for("arm", 2)
        report = measure(target, tmp_path, subnet, deploy)
        assert (report.num_measured, report.num_failed) == (12, 0)
        found = {entry.board: entry for entry in report.boards}
        assert "lost" in str(found[name].problem)
        assert found[f"arm@{boards[1].endpoint}"].problem is None
        facts = next(iter(LatencyDataset(tmp_path / "latency.jsonl"))).machine
        assert facts["machine"] == "aarch64"
        assert boards[1].stop()[0] == 0
    finally:
        for board in boards:
            with contextlib.suppress(ValueError):
                board.stop(signal.SIGKILL)
