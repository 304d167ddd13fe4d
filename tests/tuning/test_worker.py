"""Worker processes: answers, crashes, hangs, and orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ofa_compile.errors import TuningError
from ofa_compile.tuning.worker import Worker, WorkerFailure

SCRIPT = """\
import os, sys, time
from ofa_compile.tuning.serve import serve

def handle(request, reply):
    what = request["do"]
    if what == "echo":
        print("stray words")
        reply(value=request["value"], pid=os.getpid())
    elif what == "die":
        print("last words", file=sys.stderr)
        os.kill(os.getpid(), 11)
    elif what == "hang":
        time.sleep(60)
    else:
        raise ValueError(f"cannot {what}")

serve(handle)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    (tmp_path / "scripted_worker.py").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Worker("scripted_worker")
    yield made
    made.close()


def echo(worker: Worker, value: object) -> dict:
    (reply,) = worker.call({"do": "echo", "value": value}, 30.0)
    assert reply["value"] == value
    return reply


def test_one_process_answers_many_requests(worker: Worker) -> None:
    assert echo(worker, "one")["pid"] == echo(worker, [2, None])["pid"] != os.getpid()


def test_a_request_that_cannot_be_done_says_why(worker: Worker) -> None:
    with pytest.raises(TuningError, match="ValueError: cannot fly"):
        list(worker.call({"do": "fly"}, 30.0))
    echo(worker, "still there")


def test_a_crash_is_named_and_a_new_process_goes_on(worker: Worker) -> None:
    before = echo(worker, 1)["pid"]
    with pytest.raises(WorkerFailure, match=r"(?s)SIGSEGV.*last words") as caught:
        list(worker.call({"do": "die"}, 30.0))
    assert not caught.value.is_timeout
    assert echo(worker, 2)["pid"] != before


def test_a_hang_ends_with_the_time_out(worker: Worker) -> None:
    pid = echo(worker, 1)["pid"]
    start = time.monotonic()
    with pytest.raises(WorkerFailure, match="no answer within 0 s") as caught:
        list(worker.call({"do": "hang"}, 0.3))
    assert caught.value.is_timeout
    assert time.monotonic() - start < 10.0
    assert not is_alive(pid)


def test_a_worker_that_cannot_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_worker.py").write_text("import no_such_package", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TuningError, match=r"(?s)broken_worker does not start.*no_such_package"):
        list(Worker("broken_worker").call({"do": "echo"}, 0.1))


def test_ctrl_c_does_not_reach_the_worker(worker: Worker) -> None:
    pid = echo(worker, 1)["pid"]
    os.kill(pid, signal.SIGINT)
    assert echo(worker, 2)["pid"] == pid


def test_a_closed_worker_stays_closed(worker: Worker) -> None:
    pid = echo(worker, 1)["pid"]
    worker.close()
    assert not is_alive(pid)
    with pytest.raises(WorkerFailure, match="closing"):
        echo(worker, 2)


def test_a_worker_dies_with_its_parent(worker: Worker) -> None:
    code = (
        "import sys, time; from ofa_compile.tuning.worker import Worker\n"
        "w = Worker('scripted_worker')\n"
        "(reply,) = w.call({'do': 'echo', 'value': 1}, 30.0)\n"
        "print(reply['pid'], flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    deadline = time.monotonic() + 5.0
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
