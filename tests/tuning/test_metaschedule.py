"""Our parts behind MetaSchedule's interfaces: builds and runs that fail, and what is kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_compile.compiler.tvm_api import (
    IRModule,
    Target,
    meta_schedule,
    s_tir,
    tvm,
)
from ofa_compile.errors import ArtifactError, BuildError, ConfigError
from ofa_compile.hardware.host import host_arch
from ofa_compile.tuning.metaschedule import (
    IsolatedRunner,
    WarmBuilder,
    fingerprint_database,
    limit_intrinsics,
)

# Without VNNI, whose instructions TVM would have to parse for twenty seconds.
TARGET = Target(
    {"kind": "llvm", "num-cores": 2} | ({"mcpu": "x86-64-v3"} if host_arch() == "x86_64" else {})
)
QUICKLY = meta_schedule.runner.EvaluatorConfig(number=1, repeat=2, min_repeat_ms=1)

# y = x + 1 over 64 values; then something else happens.
SCRIPT = """\
@T.prim_func(s_tir=True)
def main(x: T.Buffer((64,), "{dtype}"), y: T.Buffer((64,), "{dtype}")):
    T.func_attr({{"tirx.noalias": True, "global_symbol": "main"}})
    for i in T.{loop}:
        with T.sblock("y"):
            v_i = T.axis.spatial(64, i)
            y[v_i] = x[v_i] + T.{dtype}({step})
    {then}
"""
EXTRA = "T.evaluate(T.call_extern('int32', '{}'))"


def function(
    then: str = "T.evaluate(0)", *, step: int = 1, loop: str = "serial(64)", dtype: str = "float32"
) -> Any:
    return tvm.script.from_source(SCRIPT.format(then=then, step=step, loop=loop, dtype=dtype))


def build_input(**changes: Any) -> Any:
    return meta_schedule.builder.BuilderInput(IRModule({"main": function(**changes)}), TARGET)


def run_inputs(built: Sequence[Any], *, dtype: str = "float32") -> list[Any]:
    argument = meta_schedule.arg_info.TensorInfo(dtype, [64])
    return [
        meta_schedule.runner.RunnerInput(str(result.artifact_path), "cpu", [argument] * 2)
        for result in built
    ]


def run(runner: Any, built: Sequence[Any]) -> list[Any]:
    futures = runner.run(run_inputs(built))
    assert all(future.done() for future in futures)
    return [future.result() for future in futures]


@pytest.fixture(scope="module")
def builder() -> Iterator[Any]:
    with closing(WarmBuilder(max_workers=1)) as made:
        yield made


@pytest.fixture(scope="module")
def runner() -> Iterator[Any]:
    references = {dtype: function(dtype=dtype) for dtype in ("float32", "int32", "float16")}
    references["again"] = function(step=3)
    references["bfloat16"] = function(dtype="bfloat16")
    with closing(IsolatedRunner(IRModule(references), timing=QUICKLY, timeout_s=2.0)) as made:
        yield made


def test_each_failure_is_a_result_and_the_others_are_timed(builder: Any, runner: Any) -> None:
    inputs = [
        build_input(),
        build_input(step=2),
        build_input(then=EXTRA.format("abort")),
        build_input(then=EXTRA.format("pause")),
        build_input(loop="thread_binding(64, thread='threadIdx.x')"),
        build_input(),
    ]
    built = list(builder.build(inputs))
    assert [result.error_msg is None for result in built] == [True] * 4 + [False, True]
    assert "InternalError" in built[4].error_msg
    # Linked together: one file under several names.
    assert len({Path(str(r.artifact_path)).stat().st_ino for r in built if r.artifact_path}) == 1
    del built[4]
    results = run(runner, built)
    words = [None, "wrong result: argument 1", "SIGABRT", "no answer within 2 s", None]
    for result, word in zip(results, words, strict=True):
        assert (word in result.error_msg) if word else (result.error_msg is None), results
        assert (result.run_secs is None) == (word is not None)
    assert 0 < float(results[0].run_secs[0]) < 1e-3


def test_what_is_right_depends_on_the_arguments(builder: Any, runner: Any) -> None:
    cases = [
        ("float32", 3, None),  # like the other reference that takes the same
        ("float16", 1, None),
        ("float64", 2, None),  # nothing to compare with
        ("bfloat16", 1, "an argument of bfloat16 cannot be filled"),
        ("int32", 1, None),
        ("int32", 2, "argument 1 differs in 64 of 64 places"),
    ]
    built = builder.build([build_input(dtype=dtype, step=step) for dtype, step, _ in cases])
    inputs = [
        item
        for result, (dtype, _, _) in zip(built, cases, strict=True)
        for item in run_inputs([result], dtype=dtype)
    ]
    for future, (dtype, step, words) in zip(runner.run(inputs), cases, strict=True):
        error = future.result().error_msg
        assert (words in error) if words else error is None, (dtype, step, error)


def test_files_as_of_the_stock_builder_run_as_well(
    builder: Any, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(builder._common, "is_joint", False)
    built = builder.build([build_input(), build_input(step=2)])
    assert [Path(str(result.artifact_path)).suffix for result in built] == [".tar"] * 2
    assert [r.error_msg is None for r in run(runner, built)] == [True, False]
    folder = Path(str(built[0].artifact_path)).parent
    tvm.get_global_func("s_tir.meta_schedule.remove_build_dir")(str(built[0].artifact_path))
    assert not folder.exists()


def test_a_reference_that_cannot_be_compiled_is_an_error() -> None:
    with pytest.raises(BuildError, match="reference main cannot be compiled"):
        IsolatedRunner(function(loop="thread_binding(64, thread='threadIdx.x')"))


FRAGILE = """\
import os, time
from ofa_compile.tuning.serve import serve

def build(request, reply):
    for number, candidate in enumerate(request["candidates"]):
        reply(starting=number)
        if "die_here" in candidate["module"]:
            os.kill(os.getpid(), 11)
        if "hang_here" in candidate["module"]:
            time.sleep(60)
        if "disk_full" in candidate["module"]:
            reply(result=number, error="OSError: [Errno 28] No space left on device")
            continue
        reply(result=number, artifact="a file")

serve(build)
"""


def test_a_build_worker_that_dies_or_hangs_fails_one_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile_worker.py").write_text(FRAGILE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("ofa_compile.tuning.metaschedule.builder._MODULE", "fragile_worker")
    names = ("fine", "die_here", "hang_here", "fine")
    inputs = [build_input(then=EXTRA.format(name)) for name in names]
    with closing(WarmBuilder(max_workers=1, timeout_s=1.0)) as builder:
        errors = [result.error_msg for result in builder.build(inputs)]
        with pytest.raises(RuntimeError, match=r"cannot be built: .*No space left"):
            builder.build([build_input(then=EXTRA.format("disk_full"))])
    assert errors[0] is errors[3] is None
    assert "SIGSEGV" in errors[1]
    assert "no answer within 1 s" in errors[2]


def test_workers_that_cannot_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa_compile.tuning.metaschedule.builder._MODULE", "no_such_worker")
    with (
        closing(WarmBuilder(max_workers=1)) as builder,
        pytest.raises(RuntimeError, match="no_such_worker does not start"),  # as TVM passes it on
    ):
        builder.build([build_input()])


def test_no_worker_survives_its_parent() -> None:
    code = (
        "import sys, time; sys.modules['torch'] = None\n"
        "from ofa_compile.tuning.metaschedule import IsolatedRunner, WarmBuilder\n"
        "parts = WarmBuilder(max_workers=1), IsolatedRunner()\n"
        "[part._workers.submit(lambda: None).result() for part in parts]\n"  # both have started
        "print(*(w._process.pid for p in parts for w in p._workers._workers), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 5.0
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def tuning_record(database: Any, step: int, seconds: float, target: Any = TARGET) -> Any:
    module = IRModule({"main": function(step=step)})
    schedule = s_tir.Schedule(module)
    schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, 8])
    return meta_schedule.database.TuningRecord(
        schedule.trace,
        database.commit_workload(module),
        [seconds],
        target,
        meta_schedule.arg_info.ArgInfo.from_entry_func(module),
    )


def test_records_survive_the_file_and_what_kills_a_tuner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = fingerprint_database(TARGET, tmp_path / "deep")
    for step, seconds in ((1, 3e-6), (1, 2e-6), (2, 1e-6)):
        database.commit_tuning_record(tuning_record(database, step, seconds))
    content = database.path.read_bytes()
    database.path.write_bytes(content + content[:50])
    again = fingerprint_database(TARGET, tmp_path / "deep")
    assert "ends in half a record" in caplog.text
    assert len(again) == 3
    module = IRModule({"main": function()})
    assert again.has_workload(module)
    assert not again.has_workload(IRModule({"main": function(step=3)}))
    best = again.query_tuning_record(module, TARGET, "main")
    assert float(best.run_secs[0]) == pytest.approx(2e-6)
    scheduled = again.query_schedule(module, TARGET, "main")
    assert len(scheduled.get_loops(scheduled.get_sblock("y"))) == 2
    # The next record cuts the torn line off; another tuner may write at the same time.
    again.commit_tuning_record(tuning_record(again, 3, 4e-6))
    database.commit_tuning_record(tuning_record(database, 4, 5e-6))
    assert len(fingerprint_database(TARGET, tmp_path / "deep")) == 5


def test_kinds_of_machine_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = fingerprint_database(TARGET, tmp_path)
    here.commit_tuning_record(tuning_record(here, 1, 1e-6))
    others = [
        fingerprint_database({**dict(TARGET.export()), "num-cores": 1}, tmp_path),
        fingerprint_database(TARGET, tmp_path, device="board"),
    ]
    monkeypatch.setattr("ofa_compile.hardware.host.model_name", lambda: "another processor")
    others.append(fingerprint_database(TARGET, tmp_path))
    monkeypatch.undo()
    assert len({database.path for database in (here, *others)}) == 4
    # Not even if the file is copied.
    others[0].path.write_bytes(here.path.read_bytes())
    assert len(fingerprint_database(TARGET, tmp_path)) == 1
    copied = fingerprint_database({**dict(TARGET.export()), "num-cores": 1}, tmp_path)
    assert len(copied) == 0
    record = tuning_record(copied, 1, 1e-6)  # of the first target
    with pytest.raises(RuntimeError, match="is not the database of the target"):
        copied.commit_tuning_record(record)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: "nonsense", "line 2: not a MetaSchedule record"),
        (lambda line: line.replace('"record"', '"note"'), "line 2: .*whose kind is workload"),
        (lambda line: line.replace('"schema_version":1', '"schema_version":9'), "schema version 9"),
        (lambda line: json.dumps({**json.loads(line), "workload": "x"}), "line 2: .*workload x"),
        (lambda line: json.dumps({**json.loads(line), "value": [1]}), "TVM cannot read this"),
    ],
)
def test_a_corrupted_file_is_an_error(tmp_path: Path, change: Any, words: str) -> None:
    database = fingerprint_database(TARGET, tmp_path)
    database.commit_tuning_record(tuning_record(database, 1, 1e-6))
    workload, record = database.path.read_text(encoding="utf-8").splitlines()
    database.path.write_text(f"{workload}\n{change(record)}\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=words) as caught:
        fingerprint_database(TARGET, tmp_path)
    assert "delete that line" in str(caught.value.hint)


def test_intrinsics_that_tvm_lacks_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no intrinsics of z80; it has those of arm_cpu, cuda"):
        limit_intrinsics("x86", "z80")


@pytest.mark.slow
@pytest.mark.skipif(host_arch() != "x86_64", reason="the guide names the intrinsics of x86")
@pytest.mark.usefixtures("tvm_logger")
def test_the_guide_tunes_an_operator(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    text = (repository / "docs/metaschedule.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(code, made)
    database, trials = made["database"], 16
    times = [float(record.run_secs[0]) for record in database.get_all_tuning_records()]
    assert len(times) == trials
    assert sum(0 < seconds < 1 for seconds in times) > trials // 2, times
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((64, 96), (96, 128)))
    y = tvm.runtime.tensor(np.zeros((64, 128), np.float32))
    made["library"]["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(w), y)
    np.testing.assert_allclose(y.numpy(), x @ w, rtol=1e-4, atol=1e-4)
    assert len(fingerprint_database(made["target"], tmp_path / "tuned")) == trials
