from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ofa_compile.cache import Cache
from ofa_compile.errors import BuildError, MeasurementError
from ofa_compile.measurement import instruction_counts
from ofa_compile.measurement.instruction_counts import count_instructions

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
LACKING = [name for name in (COMPILER, EMULATOR, "cc") if shutil.which(name) is None]
needs_tools = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")
PROGRAM = """
#include <stdlib.h>
int main(int argc, char **argv) {
    long n = atol(argv[1]);
    for (long i = 0; i < n; i++) __asm__ volatile("nop\\nnop\\nnop\\nnop\\nnop");
    return argc == 2 ? 0 : 3;
}
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("program")
    (folder / "loop.c").write_text(PROGRAM)
    command = [COMPILER, "-O2", "-static", "-o", "loop", "loop.c"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "loop")


@pytest.mark.arm64
@needs_tools
def test_counts_are_exact_and_add_up(program: str, cache: Cache) -> None:
    few, many = (
        count_instructions([EMULATOR], [program, str(n)], cache=cache) for n in (100_000, 300_000)
    )
    # Five nops, and a count and a branch; converting the number costs the same for both.
    assert 7 * 200_000 <= many.total - few.total <= 8 * 200_000
    assert sum(many.by_address.values()) == many.total
    assert sum(1 for n in many.by_address.values() if n == 300_000) >= 7
    again = count_instructions([EMULATOR], [program, "100000"], cache=cache)
    assert again.total == few.total


@pytest.mark.arm64
@needs_tools
def test_a_program_that_fails_is_an_error(program: str, cache: Cache) -> None:
    with pytest.raises(MeasurementError, match="cannot count instructions of"):
        count_instructions([EMULATOR], [program, "1", "2"], cache=cache)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_an_emulator_without_plugins_is_an_error(cache: Cache) -> None:
    stub = [sys.executable, "-c", "print('unknown option -plugin')"]
    with pytest.raises(MeasurementError, match=r"wrote no counts") as caught:
        count_instructions(stub, ["program"], cache=cache)
    assert "qemu-user" in str(caught.value.hint)


def test_a_missing_compiler_is_an_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match="cannot be built") as caught:
        instruction_counts._build_plugin(1, cache)
    assert "gcc" in str(caught.value.hint)
