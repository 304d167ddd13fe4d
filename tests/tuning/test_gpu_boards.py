"""What becomes of networks of candidates on boards, whatever the boards do."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.errors import BoardLostError, DeviceUnavailableError
from ofa_compile.remote.session import Blame, ProgramResult
from ofa_compile.tuning.gpu_boards import GpuBoards
from ofa_compile.tuning.gpu_program import CandidateNetwork

# Three candidates, the second one of two launches; five rounds of 1, 2 + 3 and 4 ms.
ROUND = [1.0, 2.0, 3.0, 4.0]
TIMES = np.array([ROUND] * 5).tobytes()
SAID = "error 0 0\nMesa: a warning\nerror 1 1e-07\nerror 2 {}\n"


class FakeBoard:
    """A board that answers what it was told to."""

    def __init__(self, result: ProgramResult | Exception, times: bytes = TIMES) -> None:
        self.name = "fake"
        self.result, self.times = result, times
        self.files: dict[str, bytes] = {}
        self.commands: list[Sequence[str]] = []
        self.is_closed = False

    def put(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def get(self, name: str) -> bytes:
        return self.times

    def remove(self, name: str) -> None:
        self.files["removed"] = name.encode()

    def run(self, command: Sequence[str], *, limit_s: float) -> ProgramResult:
        self.commands.append(command)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


def ended(output: str, status: int = 0, *, is_timed_out: bool = False) -> ProgramResult:
    return ProgramResult(status=status, is_timed_out=is_timed_out, output=output)


@pytest.fixture
def network(tmp_path: Path) -> CandidateNetwork:
    program, data = tmp_path / "program", tmp_path / "data.npz"
    program.write_bytes(b"machine code")
    np.savez(data, expected=np.ones(3, np.float32))
    return CandidateNetwork(program, (0, 64, 128), (1, 2, 1), data)


@pytest.fixture
def boards_of() -> Callable[..., GpuBoards]:
    def make(*boards: FakeBoard) -> GpuBoards:
        waiting = list(boards)

        def take(blame: Blame) -> FakeBoard:
            if not waiting:
                message = "no board is free"
                raise DeviceUnavailableError(message)
            return waiting.pop(0)

        return GpuBoards(take, 1)

    return make


def test_candidates_that_are_right_are_timed(
    network: CandidateNetwork, boards_of: Callable[..., GpuBoards]
) -> None:
    board = FakeBoard(ended(SAID.format("nan")))
    boards = boards_of(board)
    results = boards.run(network)
    boards.close()
    assert [results[n].status for n in range(3)] == ["ok", "ok", "wrong"]
    assert [results[n].time_us for n in range(2)] == [1000, 5000]
    assert "differs by nan" in results[2].error
    assert board.files["gpu_candidates"] == b"machine code"
    assert np.frombuffer(board.files["expected"], "<f4").tolist() == [1, 1, 1]
    assert board.commands[0][-4:] == ["4", "0", "64", "128"]
    look = ["reference_gpu_candidates", "reference_expected", "times.f64", "3", "30.0"]
    assert board.commands[1][:5] == look
    assert board.files["reference_gpu_candidates"] == b"machine code"
    (report,) = boards.reports
    assert (report.reference_us, report.num_drifts, report.problem) == (1000, 0, None)
    assert board.files["removed"] == b"times.f64"
    assert board.is_closed


def test_tf32_may_be_off_by_what_rounding_costs(
    network: CandidateNetwork, boards_of: Callable[..., GpuBoards]
) -> None:
    said = "error 0 1e-3\nerror 1 1e-6\nerror 2 5e-3\n"
    for is_tf32, expected in ((False, ["wrong", "ok", "wrong"]), (True, ["ok", "ok", "wrong"])):
        boards = boards_of(FakeBoard(ended(said)))
        results = boards.run(dataclasses.replace(network, is_tf32=is_tf32))
        boards.close()
        assert [results[n].status for n in range(3)] == expected


@pytest.mark.parametrize(
    ("result", "status", "words"),
    [
        (ended("candidates: the Vulkan device was lost", 4), "crash", "4: candidates: the Vulkan"),
        (ended("", -signal.SIGSEGV), "crash", "the program ended with -11"),
        (ended("", -signal.SIGKILL, is_timed_out=True), "timeout", "no end within 120 s"),
    ],
)
def test_a_failure_is_the_networks(
    network: CandidateNetwork,
    boards_of: Callable[..., GpuBoards],
    result: ProgramResult,
    status: str,
    words: str,
) -> None:
    found = boards_of(FakeBoard(result)).run(network)
    assert found.status == status
    assert words in found.error


def test_a_board_without_a_gpu_is_left_out(
    network: CandidateNetwork, boards_of: Callable[..., GpuBoards]
) -> None:
    board = FakeBoard(ended("candidates: no Vulkan here: libvulkan.so.1 cannot be loaded", 5))
    good = FakeBoard(ended(SAID.format(0)))
    good.name = "good"
    assert boards_of(board, good).run(network)[2].board == "good"
    with pytest.raises(
        DeviceUnavailableError, match=r"is left .*no GPU that would do: candidates: no Vulkan"
    ):
        boards_of(board).run(network)


def test_what_a_board_is_lost_with_another_repeats(
    network: CandidateNetwork, boards_of: Callable[..., GpuBoards]
) -> None:
    lost = FakeBoard(BoardLostError("struck by lightning"))
    assert boards_of(lost, FakeBoard(ended(SAID.format(0)))).run(network)[2].status == "ok"
    assert lost.is_closed
    silent, torn = FakeBoard(ended("error 0 0\n")), FakeBoard(ended(SAID.format(0)), TIMES[:-1])
    found = boards_of(silent, torn).run(network)
    assert found.status == "crash"
    assert "2 boards were lost: board fake returned 159 bytes of times" in found.error
    with pytest.raises(DeviceUnavailableError, match="no board is free"):
        boards_of(FakeBoard(ended("error 0 0\n"))).run(network)
    babbling = FakeBoard(ended("error x y\n"))
    timeless = FakeBoard(ended(SAID.format(0)), np.full((5, 4), np.nan).tobytes())
    found = boards_of(babbling, timeless).run(network)
    assert "board fake returned times that are none" in found.error
