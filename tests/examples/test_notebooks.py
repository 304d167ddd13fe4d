"""The notebooks run from the first cell to the last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


def code_cells(path: Path) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    return ["".join(c["source"]) for c in document["cells"] if c["cell_type"] == "code"]


def test_there_is_a_notebook_of_ten_cells_without_outputs() -> None:
    assert [path.name for path in NOTEBOOKS] == ["search_compile_measure.ipynb"]
    document = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    assert len(code_cells(NOTEBOOKS[0])) == 10
    assert not any(cell.get("outputs") for cell in document["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        for number, source in enumerate(code_cells(path), start=1):
            exec(compile(source, f"{path.name}, cell {number}", "exec"), names)
        assert names["measured_ms"] > 0
        assert names["bundle"].manifest.verification["verified"] is True
        assert names["logits"].shape == (1, 10)
        assert names["chosen"].latency_ms <= names["limit"]
        assert (names["folder"] / "report.html").stat().st_size > 10_000
        assert "(measurement)" in capsys.readouterr().out
    finally:
        if "folder" in names:
            shutil.rmtree(names["folder"])
