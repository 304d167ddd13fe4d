"""The thread pool, hammered by a C program; also under a sanitizer that finds data races."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from stub_build import COMPILERS, EMULATORS, RUNTIME, missing_tools

SOURCES = (Path(__file__).parent / "pool_hammer.c", RUNTIME / "ofa_pool.c")
SOURCES += (RUNTIME / "ofa_run.c", RUNTIME / "ofa_call.c")
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{RUNTIME}")


def build(folder: Path, *flags: str, platform: str = "native") -> Path:
    program = folder / "hammer"
    command = [COMPILERS[platform], *FLAGS, *flags, *map(str, SOURCES), "-o", str(program)]
    done = subprocess.run([*command, "-pthread"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def hammer(
    program: Path, threads: int, runs: int, seed: int = 1, platform: str = "native"
) -> float:
    """Run the program; returns the processor time it took while idle, in ms."""
    command = [*EMULATORS[platform], str(program), str(threads), str(runs), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing_tools("native"):
        pytest.skip("gcc is not installed")
    return build(tmp_path_factory.mktemp("pool"), "-O2")


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_tile_runs_once_and_sees_the_step_before(program: Path, threads: int) -> None:
    hammer(program, threads, 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_long_hammering(program: Path, seed: int) -> None:
    hammer(program, 2 + seed % 3, 5000, seed)


def test_idle_workers_use_no_processor_time(program: Path) -> None:
    assert hammer(program, 4, 20) < 5.0


@pytest.mark.parametrize("threads", [2, 4])
def test_no_data_races(tmp_path: Path, threads: int) -> None:
    reason = _why_no_sanitizer(tmp_path)
    if reason is not None:
        pytest.skip(reason)
    hammer(build(tmp_path, "-O1", "-g", "-fsanitize=thread"), threads, 30)


@pytest.mark.arm64
def test_on_emulated_arm64(tmp_path: Path) -> None:
    hammer(build(tmp_path, "-O2", "-static", platform="arm64"), 3, 20, platform="arm64")


def _why_no_sanitizer(folder: Path) -> str | None:
    """Say why programs with the thread sanitizer cannot be built and run here, or None."""
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    command = ["gcc", "-fsanitize=thread", "empty.c", "-o", "empty"]
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode != 0:
        return "the compiler has no thread sanitizer"
    done = subprocess.run([str(folder / "empty")], capture_output=True, check=False)
    return None if done.returncode == 0 else "the thread sanitizer does not run on this kernel"


@pytest.mark.parametrize("name", ["ofa_pool.c", "ofa_run.c"])
def test_sources_are_strict_c11(tmp_path: Path, name: str) -> None:
    # Newer compilers refuse what gcc 12 only warns of, such as undeclared functions.
    command = ["gcc", *FLAGS, "-c", str(RUNTIME / name), "-o", str(tmp_path / "object.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
