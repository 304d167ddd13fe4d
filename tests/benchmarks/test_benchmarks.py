from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("bench_*.py"))
DATA_SCRIPTS = ["bench_latency_predictor.py", "bench_search.py"]


def run(
    script: str, *arguments: str, shared: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "OFA_COMPILE_SHARED"}
    if shared is not None:
        environment["OFA_COMPILE_SHARED"] = shared
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_common_options(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    for option in ("--quick", "--json", "--output", "--seed"):
        assert option in done.stdout


@pytest.mark.parametrize("script", DATA_SCRIPTS)
def test_missing_data_is_said(script: str) -> None:
    done = run(script, "--quick")
    assert done.returncode != 0
    assert "skipped, no data" in done.stderr


def test_readme_lists_every_script() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        assert script in text


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_is_taken_from_the_package_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "ofa_compile":
            module = importlib.import_module(str(node.module))
            for name in (alias.name for alias in node.names):
                submodule = f"{node.module}.{name}"
                assert hasattr(module, name) or importlib.util.find_spec(submodule), submodule


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_quick_run_gives_a_document(script: str, tmp_path: Path) -> None:
    shared = os.environ.get("OFA_COMPILE_SHARED")
    if script in DATA_SCRIPTS and shared is None:
        pytest.skip("OFA_COMPILE_SHARED is not set")
    output = tmp_path / "result.json"
    done = run(script, "--quick", "--json", "--output", str(output), shared=shared)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads(output.read_text(encoding="utf-8"))
    assert {"machine", "versions", "revision", "time"} <= set(document["provenance"])


def test_runtimes_plot_draws_a_result_or_says_what_it_needs(tmp_path: Path) -> None:
    result = next(iter(sorted((FOLDER / "results").glob("*peers-one-thread.json"))))
    picture = tmp_path / "runtimes.svg"
    done = run("plot_runtimes.py", str(result), str(picture))
    if importlib.util.find_spec("matplotlib") is None:
        assert "pip install -r benchmarks/requirements-plots.txt" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert picture.read_text(encoding="utf-8").count("<use ") > 10  # marks
