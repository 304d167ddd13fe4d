"""The GPU benchmark end to end on a Vulkan device, and the device's limits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_limits
from fma_peak import FmaPeak
from gpu_prebuilt import coarse_subnet, onnx_file, quick_subnets
from gpu_runtimes import runtime_class

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.export.onnx_export import export_onnx
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.vulkan_devices import check_vulkan

pytestmark = pytest.mark.vulkan

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAKES = Path(__file__).parents[1] / "benchmarks"
MISBEHAVING = ("Good", "Hanging", "Stuck", "Dying", "Greedy", "Wrong", "Absent")
NETWORK = "cifar-smallest"


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script, with the fakes on the path of its processes."""
    command = [sys.executable, str(BENCHMARKS / "bench_gpu.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(FAKES)}
    return subprocess.run(
        command, env=environment, cwd=folder, timeout=600, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, tvm_target: Any) -> Path:
    """Return an archive of a small network for one image and for two."""
    folder = tmp_path_factory.mktemp("benchmark")
    built = call(
        folder, "--prebuild", "built", "--quick", "--target", "vulkan", "--batches", "1", "2"
    )
    assert built.returncode == 0, built.stderr
    return folder / "built.tar.xz"


def run(archive: Path, output: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    rounds = ("--rounds", "2", "--output", output)
    return call(archive.parent, "--run", archive.name, *rounds, *arguments)


def written(archive: Path, output: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((archive.parent / output).read_text())
    return document


@pytest.mark.slow
def test_a_run_measures_ours_and_stock_tvm_against_the_devices_limits(archive: Path) -> None:
    done = run(archive, "run.json", "--runtimes", "tvm", "gpu_fakes:Good")
    assert done.returncode == 0, done.stdout + done.stderr
    document = written(archive, "run.json")
    assert [item["batch"] for item in document["networks"]] == [1, 2]
    assert document["limits"]["by"]["ours"]["gb_per_s"] > 0
    for item in document["networks"]:
        assert item["is_complete"]
        ours = item["runtimes"]["ours"]
        assert ours["largest_error"] < 1e-4
        assert 0 < ours["share_of_flops"] <= 1
        assert ours["share_of_bandwidth"] > 0
        shares = [step["share_of_flops"] for step in item["our_steps"]]
        assert 0 < max(shares) <= 1
        tvm = item["runtimes"]["tvm"]
        assert tvm["largest_error"] < 1e-5
        assert tvm["device_ms"] > 0
    assert f"| {NETWORK} | fp32 | 1 |" in done.stdout
    # A second run finds nothing left to do.
    again = run(archive, "run.json", "--resume", "--runtimes", "gpu_fakes:Good")
    assert again.returncode == 0, again.stdout + again.stderr
    assert written(archive, "run.json")["networks"] == document["networks"]


@pytest.mark.slow
def test_ours_is_measured_whatever_others_do(archive: Path) -> None:
    names = [f"gpu_fakes:{name}" for name in MISBEHAVING]
    done = run(archive, "fakes.json", "--runtimes", *names, "--peer-seconds", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    document = written(archive, "fakes.json")
    single, double = (item["runtimes"] for item in document["networks"])
    for runtimes in (single, double):
        ours, good = (runtimes[name] for name in ("ours", "gpu_fakes:Good"))
        assert (ours["rounds"], good["rounds"], good["device_ms"]) == (2, 2, 0.5)
        assert "no answer within 6 s" in runtimes["gpu_fakes:Hanging"]["error"]
        assert "no answer within 6 s" in runtimes["gpu_fakes:Stuck"]["error"]
        assert "SIGSEGV" in runtimes["gpu_fakes:Dying"]["error"]
        assert "differs from PyTorch on a processor by 0.01" in runtimes["gpu_fakes:Wrong"]["error"]
    assert "device_ms" in single["gpu_fakes:Greedy"]
    assert "out of memory" in double["gpu_fakes:Greedy"]["error"]
    assert "No module named 'absent'" in document["absent"]["gpu_fakes:Absent"]


@pytest.mark.slow
def test_what_is_known_first_is_written_first(archive: Path) -> None:
    done = run(archive, "dead.json", "--runtimes", "gpu_fakes:Murderous")
    assert done.returncode == -signal.SIGKILL
    document = written(archive, "dead.json")
    assert [check["is_right"] for check in document["checks"]] == [True, True]
    assert all(check["device_ms"] > 0 for check in document["checks"])
    assert "Vulkan" in document["machine"]["devices"][0]
    assert document["networks"] == []
    assert document["archive"]["built"]["versions"]["python"]


@pytest.mark.slow
def test_wrong_results_of_ours_are_found_first_and_fail_the_run(archive: Path) -> None:
    folder = archive.parent / "wrong"
    shutil.copytree(archive.parent / "built", folder)
    facts_file = folder / NETWORK / "fp32-batch-2" / "facts.json"
    facts = json.loads(facts_file.read_text())
    facts["logits"][1][0] += 0.01 * np.abs(facts["logits"]).max()
    facts_file.write_text(json.dumps(facts))
    check = call(folder.parent, "--run", str(folder), "--check", "--output", "check.json")
    assert check.returncode == 1
    assert f"{NETWORK} fp32 batch 1: right (error " in check.stdout
    assert f"{NETWORK} fp32 batch 2: FAILED: differs from PyTorch" in check.stdout
    document = written(archive, "check.json")
    assert [item["is_right"] for item in document["checks"]] == [True, False]
    assert document["networks"] == []
    fake = ("--runtimes", "gpu_fakes:Good", "--rounds", "1", "--output", "check.json")
    assert call(folder.parent, "--run", str(folder), *fake).returncode == 1
    first, second = (item["runtimes"] for item in written(archive, "check.json")["networks"])
    assert "device_ms" in first["ours"]
    assert "differs from PyTorch" in second["ours"]["error"]
    assert "device_ms" in second["gpu_fakes:Good"]


@pytest.mark.slow
def test_an_archive_has_no_file_of_this_python(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    assert "archive.json" in names
    assert "limits/fp32/libsubnet.so" in names
    assert {f"{NETWORK}/batch-{n}.onnx" for n in (1, 2)}.isdisjoint(names)  # nobody reads them here
    kinds = {"".join(Path(name).suffixes[-1:]) for name in names}
    assert kinds <= {".json", ".npz", ".so", ".param", ".bin"}


TVM_ERRORS = """
import sys
from pathlib import Path
from gpu_tvm import TvmRuntime

runtime = TvmRuntime(Path(sys.argv[1]))
for ask in (
    lambda: runtime.function("no.such"),
    lambda: runtime.function("ffi.ModuleLoadFromFile")("/missing.so"),
):
    try:
        ask()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


@pytest.mark.slow
def test_tvms_own_errors_are_passed_on(archive: Path) -> None:
    # In a process apart: TVM's library can be in one only once, and is in this one.
    command = [sys.executable, "-c", TVM_ERRORS, str(archive.parent / "built" / "tvm")]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "TVM's run time has no no.such"
    assert "/missing.so" in second


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt-tf32"])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_fall_back_to_the_processor_is_refused(tmp_path: Path, name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is nothing to fall back from")
    (architecture,) = quick_subnets().values()
    subnet = coarse_subnet(architecture, tmp_path / "weights.npz")
    export_onnx(subnet, onnx_file(tmp_path, 1), resolution=architecture.resolution)
    facts = {"architecture": architecture.to_dict(), "batch": 1, "logits": [[0.0]]}
    with pytest.raises(RuntimeError, match="has fallen back to CPUExecutionProvider"):
        runtime_class(name)(tmp_path / "batch-1", facts, name)
    with pytest.raises(RuntimeError, match=r"not (CUDA|Tensorrt)ExecutionProvider"):
        runtime_class(name).describe()


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library that measures limits in float32."""
    folder = tmp_path_factory.mktemp("limits") / "fp32"
    gpu_limits.build_limits(folder, load_target("vulkan"))
    return folder


@pytest.mark.slow
def test_limits_count_what_is_computed(limits: Path) -> None:
    with NativeLibrary(limits / "libsubnet.so", gpu_limits.PREFIX) as library:
        x = gpu_limits.chain_inputs(library.input_shape, "float32")
        found = library.run(x)
    # The closed form of a chain after as many multiply-adds as are counted: each is two operations.
    *chains, (factor, summand, *_) = x.reshape(-1, 4).astype(np.float64)
    steps = json.loads((limits / gpu_limits.STEPS).read_text())["steps"]
    operations = next(step["operations"] for step in steps if step["name"] == "sum_long")
    length = operations // (2 * library.output_shape[1] * len(chains) * gpu_limits.NUM_THREADS)
    power = factor**length
    expected = sum(chain * power + summand * (1 - power) / (1 - factor) for chain in chains)
    assert np.allclose(found, expected, rtol=1e-3)
    # And not what ever longer chains tend to.
    assert not np.allclose(found, len(chains) * summand / (1 - factor), rtol=0.01)


@pytest.mark.slow
def test_limits_are_plausible_for_the_processor_that_computes_them(limits: Path) -> None:
    if "llvmpipe" not in str(check_vulkan()[0]):
        pytest.skip("the device is no processor")
    seconds = {step.name: (step, time) for step, time in gpu_limits.step_seconds(limits)}
    for word in ("sum", "fma"):
        (short, short_s), (long, long_s) = (seconds[f"{word}_{n}"] for n in ("short", "long"))
        more = long.operations / short.operations
        assert 0.7 * more < long_s / short_s < 1.4 * more
    found = gpu_limits.limits_of(list(seconds.values()), "fp32")
    threads = len(os.sched_getaffinity(0))
    peak = FmaPeak.of_target(load_target("host")).gflops(threads=threads)
    assert 0.02 * peak < found["gflop_per_s"]["fp32"] < 1.2 * peak
    source = np.ones(2**25, np.float32)
    copies = []
    for _ in range(5):
        start = time.perf_counter()
        source.copy()
        copies.append(2e-9 * source.nbytes / (time.perf_counter() - start))
    assert 0.02 * max(copies) < found["gb_per_s"] < 10 * threads * max(copies)
