"""Candidates that are right, wrong, crash and hang, in a real worker process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unfortunate_kernels import (
    WORK,
    assert_judged,
    run_kernels,
    write_kernels,
    write_typed_kernels,
)

from ofa_compile.compiler.workload import Depthwise, Pointwise
from ofa_compile.errors import DeviceUnavailableError, MissingDependencyError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.tuning.builder import BuilderPool
from ofa_compile.tuning.jobs import BuiltCandidate, BuiltJob, Job
from ofa_compile.tuning.local_runner import LocalRunner, TimingPlan

HOST = load_target("host")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels")
    try:
        write_kernels(path, HOST)
    except MissingDependencyError as err:
        pytest.skip(str(err))
    return path


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[LocalRunner]:
    made = LocalRunner(HOST, tmp_path, TimingPlan(rounds=4, turn_us=50.0, timeout_s=2.0))
    yield made
    made.close()


def test_right_ones_are_timed_and_the_faster_one_is_faster(
    runner: LocalRunner, folder: Path
) -> None:
    slow, right = run_kernels(runner, folder, "slow", "right")
    assert slow.status == right.status == "ok"
    assert slow.time_us is not None
    assert right.time_us is not None
    assert 0 < right.time_us < slow.time_us
    assert right.spread is not None
    assert right.spread >= 0


def test_each_failure_is_told_apart_and_the_others_go_on(runner: LocalRunner, folder: Path) -> None:
    names = ("right", "off_by_a_little", "skips_one", "overruns", "crashes", "hangs", "right")
    results = run_kernels(runner, folder, *names)
    assert [r.status for r in results] == ["ok", *["wrong"] * 3, "crash", "timeout", "ok"]
    words = ["", "1.0e-02", "nan", "behind the end", "SIGSEGV", "no answer within 2 s", ""]
    for result, word in zip(results, words, strict=True):
        assert word in (result.error or "")
    assert [r.status for r in run_kernels(runner, folder, "right")] == ["ok"]


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_bytes_and_halves_are_compared_as_such(
    runner: LocalRunner, dtype: str, tmp_path: Path
) -> None:
    write_typed_kernels(tmp_path, HOST, dtype)
    assert_judged(runner, tmp_path, dtype)


def test_what_did_not_build_or_load_is_a_failure_too(runner: LocalRunner, folder: Path) -> None:
    candidates = (
        BuiltCandidate({}, "LLVM gave up"),
        BuiltCandidate({}, None, folder / "no.so", "right", folder / "data.npz", ("input_0",)),
        BuiltCandidate({}, None, folder / "kernels.so", "gone", folder / "data.npz", ("input_0",)),
        BuiltCandidate({}, None, folder / "kernels.so", "right", folder / "data.npz", ("input_0",)),
    )
    results = runner.submit(BuiltJob(Job(WORK, ({},) * 4), candidates, 0.0)).result(60)
    assert [r.status for r in results] == ["build", "crash", "crash", "ok"]
    assert results[0].error == "LLVM gave up"
    assert "no.so" in (results[1].error or "")
    assert "gone" in (results[2].error or "")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    target = load_target("arm64")
    if target.is_native:
        pytest.skip("this machine is the other architecture")
    with pytest.raises(DeviceUnavailableError, match="cannot run code for arm64"):
        LocalRunner(target, tmp_path)


def test_built_kernels_run_and_are_right(tmp_path: Path) -> None:
    works = (
        Pointwise(13, 16, 24, "relu", True),
        Pointwise(9, 16, 24, "none", False, True),
        Depthwise(1, 7, 7, (3, 3), (2, 2), (1, 1, 1, 1), 24),
    )
    builder = BuilderPool(HOST, 1, tmp_path)
    try:
        runner = LocalRunner(HOST, tmp_path, TimingPlan(rounds=4, turn_us=50.0))
        try:
            for work, configs in zip(works, builder.describe(works), strict=True):
                built = builder.submit(Job(work, tuple(configs))).result(120)
                results = runner.submit(built).result(60)
                assert [r.status for r in results] == ["ok"] * len(configs), results
                # No core does a multiply-add in a picosecond: every call was made, and timed.
                assert all(r.time_us is not None and 1e6 * r.time_us > work.macs for r in results)
        finally:
            runner.close()
        # A configuration that the kernel chokes on does not take the others with it.
        good, bad = configs[0], {"nonsense": 1}
        built = builder.submit(Job(works[-1], (good, bad))).result(120)
        assert [c.error is None for c in built.candidates] == [True, False]
        assert "KeyError" in (built.candidates[1].error or "")
    finally:
        builder.close()
