"""Runs of tvm_program.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Case = tuple[str, list[Any], dict[str, str]]


def run_cases(modules: Path, cases: Sequence[Case], **environment: str) -> tuple[list[Any], str]:
    """Return the results of cases, and what was printed before them."""
    program = Path(__file__).with_name("tvm_program.py")
    done = subprocess.run(
        [sys.executable, str(program), str(modules), json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    *said, results = done.stdout.splitlines()
    return json.loads(results), "\n".join(said) + done.stderr


def failing(
    call: str, result: int, after: int | None = None, times: int | None = None
) -> dict[str, str]:
    """Return an environment in which a call of the driver fails, for failing_loader.c."""
    told = {"CALL": call, "RESULT": result, "AFTER": after, "TIMES": times}
    return {f"OFA_FAILING_{k}": str(v) for k, v in told.items() if v is not None}
