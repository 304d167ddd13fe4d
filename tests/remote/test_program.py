"""Programs, bundles and measurements on a board (the stub network stands in for a real one)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import LocalTracker, StockBoard
from stub_build import build_program
from stub_bundle import CLASSES, DEFINES, LABELS, PREPROCESSING, StubCompiler, stub_logits

from ofa_compile.bundle.build import BundleContents, build_bundle
from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.bundle.verify import Reference
from ofa_compile.errors import (
    BoardLostError,
    DeviceError,
    DeviceUnavailableError,
    MissingDependencyError,
    NumericMismatchError,
)
from ofa_compile.hardware.target_spec import RunnerSpec, TargetSpec, load_target
from ofa_compile.remote.program import BoardProgram
from ofa_compile.remote.session import Board


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(tmp_path_factory.mktemp("stub"), defines=DEFINES).path


@pytest.fixture
def target(tracker: LocalTracker, stock_board: StockBoard) -> TargetSpec:
    """Return this machine, reached as a board."""
    runner = RunnerSpec(kind="rpc", tracker=str(tracker.endpoint), key="stock", wait_s=20)
    return dataclasses.replace(load_target("host"), name="loopback", runner=runner)


@pytest.fixture
def build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: TargetSpec, rng: np.random.Generator
) -> Callable[..., Any]:
    """Return a function that builds the stub's bundle for the board."""
    stub = StubCompiler(tmp_path)
    monkeypatch.setattr("ofa_compile.compiler.build.compile_onnx", stub)
    onnx_path = tmp_path / "network.onnx"
    onnx_path.write_bytes(b"the stub compiler does not read this")

    def call(shift: float = 0.0, **runner: Any) -> Any:
        x = rng.standard_normal((8, 3, 8, 8), dtype=np.float32)
        spec = dataclasses.replace(target, runner=dataclasses.replace(target.runner, **runner))
        return build_bundle(
            onnx_path,
            spec,
            tmp_path / "bundle",
            BundleContents(preprocessing=PREPROCESSING, labels=LABELS),
            reference=Reference(inputs=x, logits=stub_logits(x) + np.float32(shift)),
        )

    return call


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8), dtype=np.float32)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_runs_any_number_of_inputs(board: Board, path: Path, count: int) -> None:
    program = BoardProgram(board, path, CLASSES)
    np.testing.assert_array_equal(program.run(noise(count), threads=2), stub_logits(noise(count)))
    program.close()
    with pytest.raises(BoardLostError, match="cannot run subnet-"):
        program.run(noise(1))


def test_times_each_run_in_one_process(board: Board, path: Path) -> None:
    times = BoardProgram(board, path, CLASSES).time(repeats=7, threads=2)
    assert times.shape == (7,)
    assert (times >= 0).all()


def test_failing_program_is_not_the_boards_fault(board: Board, path: Path) -> None:
    program = BoardProgram(board, path, CLASSES)
    with pytest.raises(
        DeviceError, match=r"subnet on board stock.* failed \(2\): error: --th"
    ) as e:
        program.run(noise(1), threads=5000)
    assert not isinstance(e.value, BoardLostError)
    assert program.run(noise(1)).shape == (1, CLASSES)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("kill -ILL $$", r"failed \(signal 4\): it printed nothing"),
        ("printf 1234 > logits.f32", "returned 4 bytes of logits.f32, not 1 x 4 values"),
        ("true", "No such file|cannot open|Check failed|download"),
    ],
)
def test_wrong_programs_are_clear_errors(
    board: Board, tmp_path: Path, body: str, message: str
) -> None:
    wrong = tmp_path / "subnet"
    wrong.write_text(f"#!/bin/sh\n{body}\n")
    with pytest.raises(DeviceError, match=message):
        BoardProgram(board, wrong, CLASSES).run(noise(1))


def test_bundle_is_verified_run_and_timed_on_the_board(build: Any, board_name: str) -> None:
    bundle = build()
    verification = bundle.manifest.verification
    assert verification["verified"] is True
    assert verification["runner"].startswith("board ")
    assert board_name not in verification["runner"]
    loaded = load_bundle(bundle.path)
    np.testing.assert_array_equal(loaded.run(noise(3)), stub_logits(noise(3)))
    assert loaded.time(noise(1), repeats=4).shape == (4,)
    assert len(loaded.classify(np.zeros((9, 9, 3), np.uint8), top=2)[0]) == 2


@pytest.fixture
def board_name(stock_board: StockBoard) -> str:
    return str(stock_board.endpoint)


def test_wrong_logits_leave_no_bundle(build: Any, tmp_path: Path) -> None:
    with pytest.raises(NumericMismatchError, match="differs from the reference"):
        build(shift=0.1)
    assert not (tmp_path / "bundle").exists()


def test_address_comes_from_the_environment(
    build: Any, monkeypatch: pytest.MonkeyPatch, stock_board: StockBoard, tracker: LocalTracker
) -> None:
    with pytest.raises(DeviceUnavailableError, match="nothing says where they are") as caught:
        build(tracker="")
    assert "OFA_COMPILE_TRACKER" in str(caught.value.hint)
    monkeypatch.setenv("OFA_COMPILE_TRACKER", str(tracker.endpoint))
    assert build(tracker="").manifest.target["runner"]["tracker"] == ""


def test_missing_compiler_for_the_glue(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = build()
    bundle.manifest.target["linkers"][:] = ["no-such-gcc"]
    with pytest.raises(MissingDependencyError, match="looked for no-such-gcc"):
        bundle.run(noise(1))
