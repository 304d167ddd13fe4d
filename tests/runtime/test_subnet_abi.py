from __future__ import annotations

import ctypes
import multiprocessing
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from stub_build import COMPILERS, RUNTIME, build_library, missing_tools

NAMES = (
    *("version", "input_shape", "output_shape", "arena_bytes"),
    *("run", "set_threads", "time", "num_steps", "time_steps", "time_device", "error"),
)
SIZE = 3 * 8 * 8


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = build_library(tmp_path_factory.mktemp("abi"), "ofa_abc_")
    loaded = ctypes.CDLL(str(path))
    loaded.ofa_abc_version.restype = ctypes.c_char_p
    loaded.ofa_abc_error.restype = ctypes.c_char_p
    loaded.ofa_abc_arena_bytes.restype = ctypes.c_size_t
    return loaded


def pointer(array: np.ndarray, offset: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data + offset)


@pytest.mark.parametrize("platform", COMPILERS)
def test_exports_nothing_but_the_interface(tmp_path: Path, platform: str) -> None:
    if missing_tools(platform) or shutil.which("nm") is None:
        pytest.skip("compiler or nm not installed")
    path = build_library(tmp_path, "ofa_abc_", platform)
    done = subprocess.run(
        ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1] for line in done.stdout.splitlines()}
    assert exported == {f"ofa_abc_{name}" for name in NAMES}


def test_describes_itself(library: ctypes.CDLL) -> None:
    shape, output = (ctypes.c_int64 * 4)(), (ctypes.c_int64 * 2)()
    assert library.ofa_abc_input_shape(shape) == 0
    assert library.ofa_abc_output_shape(output) == 0
    assert (list(shape), list(output)) == ([1, 3, 8, 8], [1, SIZE])
    assert library.ofa_abc_version() == b'stub "network"'
    assert library.ofa_abc_arena_bytes() == SIZE * 4


# The stub aborts when its input, output or arena is not aligned to 64 bytes.
@pytest.mark.parametrize("offset", [0, 4, 8, 20, 60])
def test_any_float_alignment_works(
    library: ctypes.CDLL, rng: np.random.Generator, offset: int
) -> None:
    space = np.zeros(SIZE + 32, dtype=np.float32)
    x = space[offset // 4 : offset // 4 + SIZE]
    x[:] = rng.standard_normal(SIZE)
    y = np.zeros(SIZE + 32, dtype=np.float32)
    assert library.ofa_abc_run(pointer(x), pointer(y, offset)) == 0
    np.testing.assert_array_equal(y[offset // 4 : offset // 4 + SIZE], x)


def test_input_and_output_may_be_the_same_buffer(library: ctypes.CDLL) -> None:
    x = np.arange(SIZE + 5, dtype=np.float32)
    assert library.ofa_abc_run(pointer(x), pointer(x, 20)) == 0
    np.testing.assert_array_equal(x[5:], np.arange(SIZE))


def test_bad_arguments_give_codes(library: ctypes.CDLL) -> None:
    x, y = np.zeros(SIZE + 1, dtype=np.float32), np.zeros(SIZE + 1, dtype=np.float32)
    times = (ctypes.c_double * 3)()
    run, time = library.ofa_abc_run, library.ofa_abc_time
    codes = {
        run(None, pointer(y)): "a pointer is NULL",
        run(pointer(x, 2), pointer(y)): "a pointer is not aligned to 4 bytes",
        time(pointer(x), pointer(y), 0, 0, times): "an argument is out of range",
        library.ofa_abc_set_threads(1001): "threads cannot be started",
    }
    assert {code: library.ofa_abc_error(code).decode() for code in codes} == codes
    assert run(pointer(x), None) == run(None, pointer(y))
    assert run(pointer(x), pointer(y, 1)) == run(pointer(x, 2), pointer(y))
    assert time(pointer(x), pointer(y), 0, 1, None) == run(None, None)
    assert library.ofa_abc_time_steps(pointer(x), pointer(y), 0, 0, times) == time(
        pointer(x), pointer(y), 0, 0, times
    )
    assert time(pointer(x), pointer(y), -1, 1, times) == library.ofa_abc_set_threads(0)
    assert library.ofa_abc_input_shape(None) == run(None, None)
    assert library.ofa_abc_error(0) == b"success"
    assert library.ofa_abc_error(-7) == b"unknown error"
    assert run(pointer(x), pointer(y)) == 0  # still works after a refused number of threads


def test_times_every_repeat(library: ctypes.CDLL) -> None:
    x, y = np.ones(SIZE, dtype=np.float32), np.zeros(SIZE, dtype=np.float32)
    times = np.full(6, -1.0)
    code = library.ofa_abc_time(
        pointer(x), pointer(y), 2, 5, times.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
    )
    assert code == 0
    assert (times[:5] >= 0).all()
    assert times[5] == -1
    np.testing.assert_array_equal(y, x)


def test_times_every_step_of_every_repeat(library: ctypes.CDLL) -> None:
    x, y = np.ones(SIZE, dtype=np.float32), np.zeros(SIZE, dtype=np.float32)
    times = np.full(7, -1.0)
    assert library.ofa_abc_num_steps() == 3
    code = library.ofa_abc_time_steps(
        pointer(x), pointer(y), 4, 2, times.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
    )
    assert code == 0
    assert times.tolist() == [1, 2, 3, 1, 2, 3, -1]
    np.testing.assert_array_equal(y, x)


def test_calls_from_many_threads_do_not_mix(library: ctypes.CDLL) -> None:
    failures: list[int] = []

    def work(number: int) -> None:
        x = np.full(SIZE, number, dtype=np.float32)
        y = np.zeros(SIZE, dtype=np.float32)
        for repeat in range(200):
            library.ofa_abc_run(pointer(x), pointer(y))
            if repeat % 50 == 0:
                library.ofa_abc_set_threads(1 + number % 3)
            if not (y == number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def _run_in_child(path: str) -> None:
    library = ctypes.CDLL(path)
    x = np.ones(SIZE, dtype=np.float32)
    assert library.ofa_abc_run(pointer(x), pointer(np.zeros_like(x))) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_works_in_a_forked_child(library: ctypes.CDLL) -> None:
    library.ofa_abc_set_threads(2)
    _run_in_child(library._name)
    child = multiprocessing.get_context("fork").Process(target=_run_in_child, args=(library._name,))
    child.start()
    child.join(20)
    assert child.exitcode == 0


PROGRAM = r"""
#include "ofa_one_/subnet.h"
#include "ofa_two_/subnet.h"
#include <stdio.h>

static float input[192], output[192];

int main(void) {
    input[0] = 5.0f;
    if (ofa_one_run(input, output) != 0 || output[0] != 5.0f) return 1;
    if (ofa_two_run(input, output) != 0 || output[0] != 5.0f) return 2;
    printf("%s", ofa_two_error(2));
    return 0;
}
"""


@pytest.mark.parametrize("language", ["c", "c++"])
def test_two_subnets_link_into_one_program(tmp_path: Path, language: str) -> None:
    compiler = {"c": "gcc", "c++": "g++"}[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} not installed")
    libraries = []
    for prefix in ("ofa_one_", "ofa_two_"):
        (tmp_path / prefix).mkdir()
        libraries.append(build_library(tmp_path / prefix, prefix))
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    command = [compiler, "-x", language, str(source), "-x", "none", *map(str, libraries)]
    output = tmp_path / "program"
    subprocess.run([*command, "-Wall", "-Wextra", "-Werror", "-o", str(output)], check=True)
    done = subprocess.run([str(output)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a pointer is not aligned to 4 bytes")


def test_template_names_only_what_is_defined() -> None:
    text = (RUNTIME / "subnet_template.h").read_text()
    assert all(f"@PREFIX@{name}(" in text for name in NAMES)
