"""Operators without a kernel: MetaSchedule's schedules, tuned, stored and compiled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.cache import Cache
from ofa_compile.cli.app import run_app
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.workload import Generic
from ofa_compile.errors import BuildError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase

HOST = load_target("host")

ADD_ONE = """\
@T.prim_func(private=True, s_tir=True)
def main(x: T.Buffer((4, 64), "float32"), y: T.Buffer((4, 64), "float32")):
    T.func_attr({"tirx.noalias": True})
    for i, j in T.grid(4, 64):
        with T.sblock("y"):
            v_i, v_j = T.axis.remap("SS", [i, j])
            T.reads(x[v_i, v_j])
            T.writes(y[v_i, v_j])
            y[v_i, v_j] = x[v_i, v_j] + T.float32(1)
"""


PRODUCT = """\
@T.prim_func(private=True, s_tir=True)
def main(x: T.Buffer((32, 48), "float32"), w: T.Buffer((48, 32), "float32"),
         y: T.Buffer((32, 32), "float32")):
    T.func_attr({"tirx.noalias": True})
    for i, j, k in T.grid(32, 32, 48):
        with T.sblock("y"):
            v_i, v_j, v_k = T.axis.remap("SSR", [i, j, k])
            T.reads(x[v_i, v_k], w[v_k, v_j])
            T.writes(y[v_i, v_j])
            with T.init():
                y[v_i, v_j] = T.float32(0)
            y[v_i, v_j] = y[v_i, v_j] + x[v_i, v_k] * w[v_k, v_j]
"""


def save_network(path: Path) -> None:
    """Write a network with one dilated convolution, which no kernel serves."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8))],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = helper.make_opsetid("", 18)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def test_proposals_are_repeatable_and_apply() -> None:
    from ofa_compile.compiler.codegen import compile_object, flat_function
    from ofa_compile.compiler.generic_schedules import apply_trace, parse_function
    from ofa_compile.compiler.schedule_search import cpu_space, search

    function = parse_function(ADD_ONE)
    traces = search(function, cpu_space(HOST.tvm_target), 4, seed=5)
    assert 1 <= len(traces) <= 4
    assert traces == search(function, cpu_space(HOST.tvm_target), 4, seed=5)
    assert traces == json.loads(json.dumps(traces))
    scheduled, _ = flat_function(apply_trace(function, traces[0]))
    compile_object({"kernel": scheduled}, HOST.tvm_target)
    with pytest.raises(BuildError, match="does not fit its operator"):
        apply_trace(function, [[["GetSBlock", [], ["nonsense", "main"], ["b0"]]], []])


def test_what_was_measured_guides_the_search_and_is_not_proposed_again() -> None:
    from ofa_compile.compiler.generic_schedules import parse_function
    from ofa_compile.compiler.schedule_search import cpu_space, search

    function = parse_function(PRODUCT)
    traces = search(function, cpu_space(HOST.tvm_target), 6, seed=5)
    assert len(traces) == 6
    measured = [(trace, 10.0 + number) for number, trace in enumerate(traces[:5])]
    measured.append((traces[5], None))  # one that failed
    guided = search(function, cpu_space(HOST.tvm_target), 4, seed=5, measured=measured)
    assert len(guided) == 4
    assert not [trace for trace in guided if trace in traces]
    assert guided == search(function, cpu_space(HOST.tvm_target), 4, seed=5, measured=measured)
    # Where there is nothing else, nothing is proposed.
    (only,) = search(parse_function(ADD_ONE), cpu_space(HOST.tvm_target), 4, seed=5)
    assert (
        search(
            parse_function(ADD_ONE), cpu_space(HOST.tvm_target), 4, seed=5, measured=[(only, 1.0)]
        )
        == []
    )


@pytest.mark.skipif(sys.platform != "linux", reason="builds a shared library")
def test_a_foreign_network_is_tuned_and_stays_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx.reference import ReferenceEvaluator

    from ofa_compile.bundle.native import NativeLibrary

    path = tmp_path / "net.onnx"
    save_network(path)
    arguments = ["tune", "--onnx", str(path), "--workspace", str(tmp_path), "--json", "--quiet"]
    assert run_app([*arguments, "--max-trials", "12"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trials"]["ok"] == report["num_trials"] == 12
    records = list(TuningDatabase(database_path(tmp_path, HOST)))
    assert any(isinstance(r.workload, Generic) and "trace" in r.config for r in records)

    tuned = tuned_configs(HOST, tmp_path)
    key = next(r.workload.key for r in records if isinstance(r.workload, Generic))
    traced = next(r.config for r in records if "trace" in r.config)
    tuned[key] = traced  # whether or not it was the fastest
    compiled = compile_onnx(
        path, HOST, tmp_path, symbol_prefix="t_", cache=Cache(tmp_path / "cache"), tuned=tuned
    )
    assert any("trace" in step["config"] for step in compiled.steps)
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    with NativeLibrary(compiled.library, "t_") as library:
        assert np.abs(library.run(x) - expected).max() < 1e-5

    assert run_app([*arguments, "--max-trials", "1"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["coverage_before"]["num_trials"] < report["coverage_before"]["num_trials"]


def test_a_schedule_that_no_longer_fits_gives_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "net.onnx"
    save_network(path)
    cache = Cache(tmp_path / "cache")
    plain = compile_onnx(path, HOST, tmp_path / "a", cache=cache)
    tuned = {step["key"]: {"trace": [["?"], []]} for step in plain.steps}
    again = compile_onnx(path, HOST, tmp_path / "b", cache=cache, tuned=tuned)
    assert "does not fit its operator" in caplog.text
    assert again.num_tuned == 0
    assert again.library.read_bytes() == plain.library.read_bytes()


def test_a_file_that_is_no_network_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "note.onnx"
    assert run_app(["tune", "--onnx", str(path), "--workspace", str(tmp_path)]) == 2
    assert "note.onnx" in capsys.readouterr().err
    path.write_text("not a network", encoding="utf-8")
    assert run_app(["tune", "--onnx", str(path), "--workspace", str(tmp_path)]) in (2, 5)
    assert "note.onnx" in capsys.readouterr().err
