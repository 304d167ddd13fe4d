"""What holds on a GPU, and on the driver that takes its place: numbers, memory, threads, an end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from drivers import Context, Driver, current_context
from gpu_prebuilt import PREFIX as SUBNET_PREFIX
from gpu_prebuilt import images
from kit import KERNELS, PRECISIONS, PREFIX, SHAPE, Kit, Network
from kit_build import BATCH
from networks import check_memory, check_threads

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.verify import tolerance_of, verify
from ofa_compile.errors import DeviceError
from ofa_compile.space import Architecture
from ofa_compile.tuning.gpu_here import GpuHere

ZEROS, ONES = (np.full((1, *SHAPE), value, np.float32) for value in (0, 1))
# What a driver may keep for itself.
_SLACK = 32 * 2**20

slow_but_for_fp32 = pytest.mark.parametrize(
    "precision",
    [p if p == "fp32" else pytest.param(p, marks=pytest.mark.slow) for p in PRECISIONS],
)


@pytest.fixture
def library(kit: Kit) -> Iterator[NativeLibrary]:
    with NativeLibrary(kit.network().library, PREFIX) as loaded:
        yield loaded


@slow_but_for_fp32
@pytest.mark.parametrize("batch", [1, BATCH])
def test_a_network_agrees_with_onnx(kit: Kit, precision: str, batch: int) -> None:
    network = kit.network(precision, batch)
    with NativeLibrary(network.library, PREFIX) as library:
        verify(library.run, network.x, network.logits, tolerance_of(precision))
        if precision != "fp32":  # and it does compute in that
            error = np.abs(library.run(network.x) - network.logits).max()
            assert error > 1e-6 * np.abs(network.logits).max()


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_agrees_with_numpy(kit: Kit, precision: str, name: str) -> None:
    device = GpuHere("cuda")
    try:
        for workload, candidates in kit.kernels(precision, name):
            results = device.run(candidates)
            assert isinstance(results, dict), f"{workload}: {results}"
            assert len(results) == len(candidates.outputs)
            assert {r.status for r in results.values()} == {"ok"}, f"{workload}: {results}"
            assert all(r.time_us is not None and r.time_us > 0 for r in results.values())
    finally:
        device.close()


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_subnets_agree_with_pytorch(kit: Kit, precision: str) -> None:
    for subnet in kit.subnets(precision):
        x = images(Architecture.from_dict(subnet.facts["architecture"]), subnet.facts["batch"])
        known = np.array(subnet.facts["logits"], np.float32)
        expected = np.concatenate([known] * -(-len(x) // len(known)))[: len(x)]
        with NativeLibrary(subnet.library, SUBNET_PREFIX) as library:
            verify(library.run, x, expected, tolerance_of(precision))


def test_times_are_the_devices(library: NativeLibrary, kit: Kit, driver: Driver) -> None:
    steps = library.time_steps(ZEROS, repeats=3, warmup=1)
    assert steps.shape == (3, len(kit.network().steps))
    whole = library.time_device(ZEROS, repeats=3, warmup=1)
    if driver.is_real:
        assert (steps > 0).all()
        # Events between kernels cost some microseconds each; the host's clock has the copies.
        assert np.median(whole) <= np.median(steps.sum(axis=1)) * 1.2
        assert np.median(whole) <= np.median(library.time(ZEROS, repeats=20))
    else:  # one millisecond passes between two events
        assert (steps == 1).all()
        assert whole.tolist() == [1, 1, 1]


def test_a_timed_run_leaves_the_last_inputs_result(library: NativeLibrary) -> None:
    expected = library.run(ONES)
    library.time_device(ONES, repeats=2)
    np.testing.assert_array_equal(library.run(ONES), expected)


def test_threads_take_turns(library: NativeLibrary, rng: np.random.Generator) -> None:
    check_threads(library, rng)


def test_two_networks_run_at_a_time(library: NativeLibrary, kit: Kit) -> None:
    other = kit.network(batch=BATCH)
    alone = library.run(other.x)
    with NativeLibrary(other.library, PREFIX) as second, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(one.run, other.x) for one in (library, second) * 8]
        for job in jobs:
            np.testing.assert_allclose(job.result(), alone, rtol=1e-4, atol=1e-5)
    # What one gives back is not the other's.
    np.testing.assert_array_equal(library.run(other.x), alone)


def test_a_threads_own_context_stays_its_own(library: NativeLibrary) -> None:
    library.run(ZEROS)
    assert current_context() is None
    with Context():
        mine = current_context()
        library.run(ZEROS)
        assert current_context() == mine != None  # noqa: E711


def test_others_may_capture_graphs(kit: Kit) -> None:
    """Which a driver would give up for an allocation in any other thread."""
    with (
        Context() as context,
        context.capture(),
        ThreadPoolExecutor(1) as pool,
        NativeLibrary(kit.network().library, PREFIX) as library,
    ):
        assert pool.submit(library.run, ZEROS).result().shape == (1, 5)
        assert library.run(ZEROS).shape == (1, 5)  # and in that thread itself


def test_memory_is_given_back(kit: Kit, driver: Driver) -> None:
    slack = _SLACK if driver.is_real else 0
    with Context() as context:
        start = context.free_bytes()
        with NativeLibrary(kit.network().library, PREFIX) as library:
            library.run(ZEROS)
            before = context.free_bytes()
            assert before < start or driver.is_real
            check_memory(library)
            library.time_steps(ZEROS, repeats=3)
            assert before - context.free_bytes() <= slack
        assert start - context.free_bytes() <= slack


def call(network: Network, driver: Driver, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a network's executable once, on an input that is not 0."""
    return subprocess.run(
        [str(network.executable), "--benchmark", "1", "--warmup", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=driver.environment(**environment),
    )


def test_no_memory_is_left(kit: Kit, driver: Driver) -> None:
    with Context() as context:
        if driver.is_real:
            taken = context.take(context.free_bytes() - _SLACK)
            done = call(kit.network(), driver)
            context.give_back(taken)
        else:  # of each process its own
            done = call(kit.network(), driver, OFA_SOFTWARE_MEMORY="1000")
    assert done.returncode == 4, done.stderr
    assert "out of memory" in done.stderr
    assert "close other programs that nvidia-smi shows, or compile for a smaller" in done.stderr


def test_a_kernel_that_goes_astray(kit: Kit, driver: Driver) -> None:
    done = call(kit.oddity("stray"), driver)
    assert done.returncode == 4, done.stderr
    assert "a kernel did what the CUDA device forbids" in done.stderr
    assert "report it as a bug" in done.stderr


def test_a_kernel_that_never_ends(kit: Kit, driver: Driver) -> None:
    start = time.monotonic()
    done = call(kit.oddity("endless"), driver, OFA_GPU_TIMEOUT_S="1")
    assert done.returncode == 4, done.stderr
    assert "the CUDA device does not answer; end this program" in done.stderr
    assert "no answer for 1 s" in done.stderr
    # Nor did the program wait for it at its end.
    assert 1 < time.monotonic() - start < 7


def run_script(driver: Driver, network: Network, *lines: str, **environment: str) -> str:
    """Run Python in a process of its own, where `library` is a network's; return what it prints."""
    head = (
        "import os, sys, time, numpy as np",
        "from ofa_compile.bundle.native import NativeLibrary",
        "from ofa_compile.errors import DeviceError",
        f"library = NativeLibrary({str(network.library)!r}, {PREFIX!r})",
        f"zeros = np.zeros((1, *{SHAPE}), np.float32)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*head, *lines])],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=driver.environment(**environment),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SAY = "def say(x):\n  try: print(library.run(x).shape)\n  except DeviceError as err: print(err)"


def test_a_device_that_hangs_is_not_asked_again(kit: Kit, driver: Driver) -> None:
    said = run_script(
        driver,
        kit.oddity("endless"),
        SAY,
        "say(zeros)",
        "say(zeros + 1)",
        "start = time.monotonic()",
        "say(zeros)",
        "print(time.monotonic() - start < 0.5)",
        OFA_GPU_TIMEOUT_S="1",
    )
    first, second, third, is_quick = said.splitlines()
    assert first == "(1, 4)"
    assert "does not answer" in second
    assert "does not answer" in third
    assert is_quick == "True"


def test_a_forked_process_is_told_so(kit: Kit, driver: Driver) -> None:
    said = run_script(
        driver,
        kit.network(),
        SAY,
        "say(zeros)",
        "child = os.fork()",
        "if child == 0: say(zeros); sys.stdout.flush(); os._exit(0)",
        "os.waitpid(child, 0)",
        "say(zeros)",
    )
    first, second, third = said.splitlines()
    assert first == third == "(1, 5)"
    assert "the process was forked from one that used it; start processes anew" in second


@pytest.mark.usefixtures("software")  # NVIDIA's promises nothing to a process after a fault
def test_after_a_fault_the_device_is_opened_again(kit: Kit) -> None:
    with NativeLibrary(kit.oddity("stray").library, PREFIX) as library:
        expected = library.run(ZEROS)
        with pytest.raises(DeviceError, match=r"\(cuStreamQuery: 700, CUDA_ERROR_ILL"):
            library.run(ONES)
        np.testing.assert_array_equal(library.run(ZEROS), expected)
