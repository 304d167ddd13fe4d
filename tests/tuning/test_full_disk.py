"""A full disk is nobody's fault among the candidates: tuning ends, and nothing is recorded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from unfortunate_kernels import WORK, built_job, write_kernels

from ofa_compile.errors import MissingDependencyError, TuningError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.tuning import builder
from ofa_compile.tuning.builder import BuilderPool
from ofa_compile.tuning.jobs import Job
from ofa_compile.tuning.program import CandidateLinker

HOST = load_target("host")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
WORKER = """\
import errno, os
from ofa_compile.tuning.serve import serve

def handle(request, reply):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

serve(handle)
"""


def test_building_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full_worker.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(builder._MODULES, "cpu", "full_worker")
    try:
        pool = BuilderPool(HOST, 1, tmp_path)
    except MissingDependencyError as err:
        pytest.skip(str(err))
    try:
        with pytest.raises(TuningError, match="No space left on device") as caught:
            pool.submit(Job(WORK, ({}, {}))).result(60)
    finally:
        pool.close()
    assert "free space in" in str(caught.value.hint)


def test_linking_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        write_kernels(tmp_path, HOST)
    except MissingDependencyError as err:
        pytest.skip(str(err))
    (tmp_path / "program").mkdir()

    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(TuningError, match="No space left on device"):
        CandidateLinker(HOST).link(built_job(tmp_path, ["right"]).candidates, tmp_path / "program")
