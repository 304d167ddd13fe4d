"""The program that tries candidates on boards: what it says, and whom it blames, by its exit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from drivers import Driver

from ofa_compile.compiler.workload import Add
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.tuning.builder import BuilderPool
from ofa_compile.tuning.gpu_program import CandidateNetwork, CandidateNetworkLinker
from ofa_compile.tuning.jobs import Job

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("commands")]
DEVICE_FAILED, NO_DEVICE = 4, 5
ROUNDS = 2

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def network(cuda: TargetSpec, tmp_path: Path) -> CandidateNetwork:
    """Two candidates of one workload, which are the same."""
    work = Add(260, "relu")
    with closing(BuilderPool(cuda, 1, tmp_path)) as pool:
        ((config, *_),) = pool.describe([work])
        built = pool.submit(Job(work, (config, config))).result()
    assert [candidate.error for candidate in built.candidates] == [None, None]
    folder = tmp_path / "program"
    folder.mkdir()
    return CandidateNetworkLinker(cuda, as_program=True).link(built.candidates, folder)


@pytest.fixture
def run(network: CandidateNetwork, driver: Driver, tmp_path: Path) -> Run:
    """Run the program, with something set in its environment."""
    expected = tmp_path / "expected"
    expected.write_bytes(network.expected().astype("<f4").tobytes())
    words = (expected, tmp_path / "times", ROUNDS, 10, 4, *network.outputs)

    def start(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(network.path), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=driver.environment(**environment),
        )

    return start


def test_candidates_are_compared_and_timed(run: Run, tmp_path: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    errors = [line.split() for line in done.stdout.splitlines()]
    assert [words[:2] for words in errors] == [["error", "0"], ["error", "1"]]
    assert all(float(words[2]) < 1e-6 for words in errors)
    times = np.fromfile(tmp_path / "times", "<f8").reshape(-1, 2)
    assert len(times) >= ROUNDS
    assert (times > 0).all()


@pytest.mark.parametrize(
    ("fail", "status", "words"),
    [
        ("cuInit:999", NO_DEVICE, "CUDA cannot start here"),
        ("cuInit:805", NO_DEVICE, "Multi-Process Service"),
        ("cuModuleLoadData:209", NO_DEVICE, "gpu_architectures"),
        ("cuGraphLaunch:214", NO_DEVICE, "fault of its memory"),
        # What a candidate may bring about.
        ("cuGraphLaunch:700", DEVICE_FAILED, "a kernel did what the CUDA device forbids"),
        ("cuLaunchKernel:701", DEVICE_FAILED, "limits are too small"),
        ("cuStreamQuery:600", DEVICE_FAILED, "does not answer"),
    ],
)
def test_its_exit_says_who_is_to_blame(run: Run, fail: str, status: int, words: str) -> None:
    done = run(OFA_WATCH_FAIL=fail, OFA_GPU_TIMEOUT_S="0.2")
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("candidates: ")
    assert words in done.stderr
