"""The names of the Python API are promises: this test changes only on purpose."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import ofa_compile

NAMES = [
    "Architecture",
    "Bundle",
    "OfaCompileError",
    "TargetSpec",
    "__version__",
    "compile",
    "export_onnx",
    "list_targets",
    "load_bundle",
    "load_supernet",
    "load_target",
    "search",
    "search_space",
    "search_spaces",
]
HEAVY = ("numpy", "onnx", "rich", "torch", "tvm", "tvm_ffi", "xgboost")


def test_names_are_frozen() -> None:
    assert ofa_compile.__all__ == NAMES
    assert set(NAMES) <= set(dir(ofa_compile))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_name_resolves_to_something_documented(name: str) -> None:
    value = getattr(ofa_compile, name)
    assert callable(value)
    assert inspect.getdoc(value)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        ofa_compile.no_such_name  # noqa: B018


def test_submodules_keep_working_beside_the_names() -> None:
    """`search` is a function of the API and a subpackage."""
    code = (
        "import ofa_compile.search.pareto\n"
        "import ofa_compile as ofa\n"
        "assert callable(ofa.search), ofa.search\n"
        "from ofa_compile.search import pareto\n"
        "import ofa_compile.search.pareto as again\n"
        "assert pareto is again\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "code",
    [
        "import ofa_compile",
        "import ofa_compile; ofa_compile.load_target('host')",
        "from ofa_compile.cli.app import run_app; assert run_app(['--help']) == 0",
        "from ofa_compile.cli.app import run_app; assert run_app(['targets', 'list']) == 0",
    ],
)
def test_light_uses_stay_light(code: str) -> None:
    report = f"import sys; print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], check=True, capture_output=True, text=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
