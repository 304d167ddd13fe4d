"""Imports point downwards only, and heavy packages are imported where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Higher numbers may import lower ones; equal numbers only within one part.
LEVELS = {
    "errors": -1,
    "atomic_file": 0,
    "progress": 0,
    "options": 0,
    "cache": 0,
    "json_lines": 0,
    "space": 1,
    "hardware": 1,
    "targets": 1,
    "runtime": 1,
    "weights": 1,
    "predictors": 2,
    "supernet": 3,
    "compiler": 4,
    "export": 4,
    "training": 4,
    "remote": 4,
    "kernels": 5,
    "bundle": 5,
    "measurement": 6,
    "report": 6,
    "search": 6,
    "tuning": 7,
    "workflows": 8,
    "pipeline": 8,
    "diagnosis": 8,
    "cli": 9,
    "__init__": 10,
    "__main__": 10,
}
# Parts of one level that know each other, and the one upward import: registering the kernels.
ALSO_ALLOWED = {
    ("pipeline", "workflows"),
    ("workflows", "pipeline"),
    ("compiler", "kernels"),
    ("cli", "__init__"),
    ("bundle", "__init__"),
    ("measurement", "__init__"),
    ("compiler", "__init__"),
    ("pipeline", "__init__"),
    ("workflows", "__init__"),
}

HOMES = {
    "tvm": ("compiler/", "kernels/", "remote/tvm_client.py"),
    "tvm_ffi": ("compiler/", "kernels/"),
    "torch": (
        "supernet/",
        "training/",
        "export/",
        "predictors/accuracy_import.py",
        "predictors/accuracy_mlp.py",
        "workflows/",
        "pipeline.py",
    ),
    "xgboost": ("predictors/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
# What the command line and light imports must not load at module level.
HEAVY = {"numpy", "onnx", "onnxruntime", "torch", "tvm", "tvm_ffi", "xgboost", "rich", "PIL"}


def sources() -> list[Path]:
    return sorted([*(ROOT / "ofa_compile").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def relative(path: Path) -> str:
    """Return the path inside the package, with kernels/ as a part of it."""
    base = ROOT / "ofa_compile"
    return (
        path.relative_to(base) if path.is_relative_to(base) else path.relative_to(ROOT)
    ).as_posix()


def part_of(name: str) -> str:
    """Return the level's key of a file inside the package."""
    return name.split("/")[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST, *, lazily: bool = True) -> Iterator[str]:
    """Yield the dotted names a module imports, those inside functions only if `lazily`."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are not used here"
            module = child.module or ""
            if module == "ofa_compile":
                yield from (f"{module}.{alias.name}" for alias in child.names)
            else:
                yield module
        elif lazily or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(child, lazily=lazily)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_imports_point_downwards(path: Path) -> None:
    here = part_of(relative(path))
    assert here in LEVELS, f"give '{here}' a level"
    wrong = []
    for name in imports(parsed(path)):
        if name.split(".")[0] != "ofa_compile":
            continue
        there = name.split(".")[1] if "." in name else "__init__"
        there = there if there in LEVELS else "__init__"
        is_down = here == there or LEVELS[there] < LEVELS[here] or (here, there) in ALSO_ALLOWED
        if not is_down:
            wrong.append(name)
    assert not wrong, f"{relative(path)} must not import {wrong}"


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_heavy_packages_have_homes(path: Path) -> None:
    here = relative(path)
    tops = {name.split(".")[0] for name in imports(parsed(path))}
    for package in tops & set(HOMES):
        assert here.startswith(HOMES[package]), f"{here} must not import {package}"


@pytest.mark.parametrize(
    "path",
    [p for p in sources() if "/" not in relative(p) or part_of(relative(p)) in ("cli", "hardware")],
    ids=relative,
)
def test_light_modules_import_nothing_heavy_at_module_level(path: Path) -> None:
    if relative(path) == "pipeline.py":
        pytest.skip("imported inside command bodies only")
    tops = {name.split(".")[0] for name in imports(parsed(path), lazily=False)}
    assert not tops & HEAVY


def test_modules_and_functions_stay_small() -> None:
    """500 lines a module and 60 a function are the hard limits of the conventions."""
    too_long = []
    for path in sources():
        tree = parsed(path)
        if len(path.read_text(encoding="utf-8").splitlines()) > 500:
            too_long.append(relative(path))
        # Options of a command are its parameters, one line each.
        limit = 90 if part_of(relative(path)) == "cli" else 60
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines - _docstring_lines(node) > limit:
                    too_long.append(f"{relative(path)}:{node.name} ({lines})")
    assert not too_long


def _docstring_lines(node: ast.FunctionDef) -> int:
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or 0) - first.lineno + 1 if is_text else 0
