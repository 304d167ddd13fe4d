"""Which configurations a compilation uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.compiler.workload import Pointwise, Workload
from ofa_compile.errors import ArtifactError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.space import search_space
from ofa_compile.tuning import choose
from ofa_compile.tuning.choose import database_path, shipped_configs, tuned_configs, write_configs
from ofa_compile.tuning.database import TuningDatabase, TuningRecord, TuningResults
from ofa_compile.tuning.fingerprint import kernel_digest, tuning_facts, tuning_fingerprint
from ofa_compile.tuning.union import workload_union

TARGET = load_target("x86-64")
WORK = Pointwise(49, 24, 40, "relu")


def record(time_us: float, vectors: int, *, is_default: bool = False, **changes: str):
    fields = {"fingerprint": tuning_fingerprint(TARGET), "code": kernel_digest(), **changes}
    return TuningRecord(
        workload=WORK,
        config={"vectors": vectors, "rows": 4},
        status="ok",
        time_us=time_us,
        is_default=is_default,
        **fields,
    )


@pytest.fixture(autouse=True)
def _nothing_ships(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "shipped" not in request.node.name:
        monkeypatch.setattr(choose, "shipped_configs", lambda target: {"another": {"vectors": 9}})


def test_the_workspace_goes_before_what_ships(tmp_path: Path) -> None:
    assert tuned_configs(TARGET, tmp_path) == {"another": {"vectors": 9}}
    TuningDatabase(database_path(tmp_path, TARGET)).append([record(3.0, 2), record(2.0, 1)])
    assert tuned_configs(TARGET, tmp_path) == {
        "another": {"vectors": 9},
        WORK.key: {"vectors": 1, "rows": 4},
    }


def test_stale_records_are_ignored(tmp_path: Path) -> None:
    database = TuningDatabase(database_path(tmp_path, TARGET))
    database.append([record(1.0, 3, code="older kernels"), record(2.0, 1)])
    assert tuned_configs(TARGET, tmp_path)[WORK.key]["vectors"] == 1


def test_a_corrupted_database_is_an_error(tmp_path: Path) -> None:
    path = database_path(tmp_path, TARGET)
    path.parent.mkdir(parents=True)
    path.write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"\.jsonl, line 1: not a tuning record"):
        tuned_configs(TARGET, tmp_path)


def test_the_fingerprint_tells_targets_threads_and_versions_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tuning_fingerprint(TARGET)
    assert tuning_fingerprint(load_target("x86-64-avx512")) != base
    assert tuning_fingerprint(TARGET, threads=2) != base
    assert tuning_fingerprint(target_in(TARGET, "int8")) != base  # not a feature apart: int16
    assert set(tuning_facts(TARGET)) >= {"processor", "features", "tvm", "threads"}
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.99")
    assert tuning_fingerprint(TARGET) != base


def test_only_gains_above_the_noise_are_written(tmp_path: Path) -> None:
    path = tmp_path / "out" / "x.json"
    close = TuningResults([record(2.02, 2, is_default=True), record(2.0, 1)])
    assert write_configs(path, TARGET, close) == 0
    clear = TuningResults([record(2.2, 2, is_default=True), record(2.0, 1)])
    assert write_configs(path, TARGET, clear) == 1
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["configs"] == {WORK.key: {"vectors": 1, "rows": 4}}
    assert document["measured_on"]["kernels"] == kernel_digest()


@pytest.mark.parametrize("name", ["x86-64", "x86-64-avx512"])
def test_shipped_configurations_are_mostly_the_kernels_own(name: str) -> None:
    target = load_target(name)
    machine = VectorMachine.of(target)
    shipped = shipped_configs(target)
    space = search_space("ofa_mbv3_cifar")
    union: dict[str, Workload] = {w.key: w for w in workload_union(space, space.resolutions)}
    assert set(shipped) <= set(union)
    assert shipped, f"nothing ships for {name}"
    known = 0
    for key, config in shipped.items():
        kernel = find_kernel(union[key])
        assert kernel is not None
        known += config in kernel.configs(union[key], machine)
    # Kernels move on between two tunings: what they no longer have gives way to their default.
    assert known > 0


def test_choosing_imports_neither_torch_nor_tvm(tmp_path: Path) -> None:
    TuningDatabase(database_path(tmp_path, TARGET)).append([record(2.0, 1)])
    code = (
        "import sys; from pathlib import Path\n"
        "from ofa_compile.hardware.target_spec import load_target\n"
        "from ofa_compile.tuning.choose import tuned_configs\n"
        f"assert {WORK.key!r} in tuned_configs(load_target('x86-64'), Path(sys.argv[1]))\n"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
