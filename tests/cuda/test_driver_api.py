"""What we declare of the driver's interface, against the header of NVIDIA's toolkit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from drivers import driver_functions

from ofa_compile.compiler.cuda.nvcc import find_nvcc
from ofa_compile.compiler.link import runtime_folder
from ofa_compile.hardware.cuda_errors import cuda_errors

# An enumeration is a number to whoever calls.
_ALIKE = """\
#include <cuda.h>
#include <type_traits>
template <class T> struct Plain { using type = T; };
template <class T> requires std::is_enum_v<T> struct Plain<T> { using type = int; };
template <> struct Plain<unsigned> { using type = int; };
template <class T> struct Plain<T *> { using type = typename Plain<T>::type *; };
template <class T> struct Function;
template <class R, class... P> struct Function<R (*)(P...)> {
    using type = typename Plain<R>::type (*)(typename Plain<P>::type...);
};
template <class A, class B>
constexpr bool alike =
    std::is_same_v<typename Function<A>::type, typename Function<B>::type>;
"""


@pytest.fixture
def include(real_nvcc: None) -> Path:
    """Return the folder of NVIDIA's headers."""
    folder = Path(find_nvcc().path).resolve().parents[1] / "include"
    for place in (folder, Path("/usr/local/cuda/include")):
        if (place / "cuda.h").is_file():
            return place
    pytest.skip("the toolkit has no headers")


def refusals(include: Path, text: str, folder: Path) -> str:
    """Return what the compiler says against declarations."""
    (folder / "check.cc").write_text(text, encoding="utf-8")
    command = ["g++", "-std=c++20", "-fsyntax-only", f"-isystem{include}", "check.cc"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if "error" in line)


def declarations(functions: dict[str, list[str]]) -> str:
    lines = []
    for name, types in functions.items():
        ours = f"CUresult (*)({', '.join(types)})"
        lines.append(f'static_assert(alike<decltype(&{name}), {ours}>, "{name}");')
    return "\n".join(lines)


def test_functions_take_what_nvidias_take(include: Path, tmp_path: Path) -> None:
    ours = driver_functions()
    assert len(ours) > 30
    assert refusals(include, _ALIKE + declarations(ours), tmp_path) == ""
    wrong = {"cuMemAlloc_v2": ["CUdeviceptr *", "int *"]}
    assert "cuMemAlloc_v2" in refusals(include, _ALIKE + declarations(wrong), tmp_path)


def test_numbers_are_nvidias(include: Path, tmp_path: Path) -> None:
    text = (runtime_folder() / "cuda_api.h").read_text(encoding="utf-8")
    ours = re.findall(r"\b(CU\w+) = (\d+)", text)
    assert len(ours) > 7
    lines = [f'static_assert({name} == {number}, "{name}");' for name, number in ours]
    assert refusals(include, "#include <cuda.h>\n" + "\n".join(lines), tmp_path) == ""


def test_the_oldest_driver_has_every_function(include: Path) -> None:
    """NVIDIA says of every function from which version on drivers have it."""
    text = (include / "cudaTypedefs.h").read_text(encoding="utf-8")
    oldest = cuda_errors().oldest_driver
    newest = 0
    for symbol in driver_functions():
        name = symbol.removesuffix("_v2")
        since = sorted(int(number) for number in re.findall(rf"PFN_{name}_v(\d+)\b", text))
        # Of two versions the library has the older name without an ending.
        assert since, symbol
        needed = since[1] if symbol.endswith("_v2") and len(since) > 1 else since[0]
        assert needed <= oldest, f"{symbol} came with {needed}"
        newest = max(newest, needed)
    assert newest == oldest  # an older driver would do otherwise
