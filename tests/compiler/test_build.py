from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import kinds
from onnx_nets import Net, mobile_net, reference

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.errors import UnsupportedOperatorError, UserInputError
from ofa_compile.hardware.target_spec import TargetSpec, load_target

Agree = Callable[..., Any]

NAMES = (
    *("version", "input_shape", "output_shape", "arena_bytes", "num_steps"),
    *("run", "set_threads", "time", "time_steps", "time_device"),
)


def small_net(seed: int = 0) -> Net:
    net = Net((1, 3, 10, 10), seed=seed)
    net.conv((3, 8), strides=[2, 2])
    net.op("Relu")
    net.conv((8, 8), 3, group=8)
    net.classifier(8)
    return net


# Results


def test_a_mobile_network_agrees_with_onnx(agree: Agree) -> None:
    compiled = agree(mobile_net())
    assert compiled.input_shape == (1, 3, 24, 20)
    assert compiled.output_shape == (1, 5)
    assert sum(step["macs"] for step in compiled.steps) > 100_000
    assert "scale_weights" in kinds(compiled)


@pytest.mark.parametrize(
    "shape", [(1, 3, 15, 33), (1, 3, 33, 7), (1, 3, 3, 3), (1, 1, 9, 9), (3, 3, 9, 11)]
)
def test_odd_sizes_and_batches(agree: Agree, shape: tuple[int, ...]) -> None:
    net = Net(shape)
    net.conv((shape[1], 12), strides=[2, 2])
    net.op("HardSwish")
    shortcut = net.conv((12, 12), 7, group=12)
    net.squeeze_excite(12, 4)
    net.conv((12, 12), 1)
    net.op("Add", net.last, shortcut)
    net.conv((12, 12), 5, group=12, strides=[2, 2])
    net.op("AveragePool", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])
    net.classifier(12)
    compiled = agree(net)
    # With several images each has a gate of its own, so weights cannot be scaled.
    positions = -(-shape[2] // 2) * -(-shape[3] // 2)
    assert ("scale_weights" in kinds(compiled)) == (shape[0] == 1 and positions > 12)


def test_pools_and_shortcuts_of_resnets(agree: Agree) -> None:
    net = Net((1, 3, 21, 19))
    net.conv((3, 8), 7, strides=[2, 2])
    net.op("Relu")
    x = net.op("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    net.conv((8, 4), 1)
    net.op("Relu")
    net.conv((4, 4), 3, strides=[2, 2])
    net.op("Relu")
    main = net.conv((4, 16), 1)
    net.last = x
    net.op("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    net.conv((8, 16), 1)
    net.op("Add", main, net.last)
    net.op("Relu")
    net.classifier(16)
    assert "change_layout" not in kinds(agree(net))


def test_two_heads_of_one_map(agree: Agree) -> None:
    net = Net((1, 3, 8, 8))
    x = net.conv((3, 6))
    net.op("GlobalAveragePool")
    first = net.op("Flatten")
    net.op("GlobalMaxPool", x)
    net.op("Add", first, net.op("Flatten"))
    agree(net)


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_pools_that_round_up(agree: Agree, kind: str, kernel: int) -> None:
    net = Net((1, 3, 8, 11))
    net.conv((3, 6))
    options = {"kernel_shape": [kernel] * 2, "strides": [3, 2], "ceil_mode": 1}
    net.op(kind, pads=[0, kernel - 2, 0, 1], **options)
    net.classifier(6)
    assert kinds(agree(net)) == ["convolution", "pool", "global_pool", "pointwise"]


@pytest.mark.arm64
def test_arm64_executes_like_onnx(tmp_path: Path, cache: Cache) -> None:
    from ofa_compile.bundle.network_meta import render_network_meta
    from ofa_compile.bundle.preprocess import Preprocessing
    from ofa_compile.hardware.emulator import find_emulator

    target = load_target("arm64")
    net = mobile_net()
    path = net.save(tmp_path / "net.onnx")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    meta = render_network_meta(Preprocessing(height=24, width=20, mean=mean, std=std), ())
    compiled = compile_onnx(path, target, tmp_path / "out", network_meta=meta, cache=cache)
    x = net.draw(1, 3, 24, 20)
    x.tofile(tmp_path / "x.f32")
    emulator = find_emulator(target) or []
    files = ["--raw", str(tmp_path / "x.f32"), "--logits", str(tmp_path / "y.f32")]
    subprocess.run([*emulator, str(compiled.executable), *files], check=True, capture_output=True)
    actual, expected = np.fromfile(tmp_path / "y.f32", "<f4"), reference(path, x).ravel()
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


# The cache


def test_the_second_build_only_links(tmp_path: Path, host: TargetSpec) -> None:
    cache = Cache(tmp_path / "cache")
    path = small_net().save(tmp_path / "net.onnx")
    calls: list[tuple[str, int, int]] = []
    first = compile_onnx(
        path, host, tmp_path / "a", cache=cache, progress=lambda *what: calls.append(what)
    )
    assert first.object_cache_misses == 4
    assert calls[-1] == ("kernels", 4, 4)
    second = compile_onnx(path, host, tmp_path / "b", cache=cache)
    assert (second.object_cache_hits, second.object_cache_misses) == (4, 0)
    assert second.steps == first.steps
    assert second.library.read_bytes() == first.library.read_bytes()


def test_another_network_takes_equal_kernels_from_the_cache(
    tmp_path: Path, host: TargetSpec
) -> None:
    cache = Cache(tmp_path / "cache")
    for seed, misses in ((0, 4), (1, 0)):
        path = small_net(seed).save(tmp_path / "net.onnx")
        compiled = compile_onnx(path, host, tmp_path / "out", cache=cache)
        assert compiled.object_cache_misses == misses


_SECOND_BUILD = """
import json, sys
from pathlib import Path
from ofa_compile.cache import Cache
from ofa_compile.compiler import compile_onnx
from ofa_compile.hardware.target_spec import load_target
compiled = compile_onnx(Path(sys.argv[1]), load_target("host"), Path(sys.argv[2]),
                        cache=Cache(Path(sys.argv[3])))
print(json.dumps([compiled.object_cache_misses,
                  [name for name in ("tvm", "torch", "onnx", "xgboost") if name in sys.modules]]))
"""


def test_the_second_build_imports_neither_tvm_nor_torch(tmp_path: Path, host: TargetSpec) -> None:
    path = small_net().save(tmp_path / "net.onnx")
    compile_onnx(path, host, tmp_path / "a", cache=Cache(tmp_path / "cache"))
    arguments = [str(path), str(tmp_path / "b"), str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", _SECOND_BUILD, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, []]


def test_builds_with_different_caches_are_equal_byte_by_byte(
    tmp_path: Path, host: TargetSpec
) -> None:
    path = small_net().save(tmp_path / "net.onnx")
    copy = tmp_path / "renamed.onnx"
    shutil.copy(path, copy)
    libraries = []
    for name, source in (("one", path), ("two", copy)):
        cache = Cache(tmp_path / f"cache-{name}")
        compiled = compile_onnx(source, host, tmp_path / name / "out", cache=cache)
        assert compiled.object_cache_misses == 4
        libraries.append(compiled.library.read_bytes())
    assert libraries[0] == libraries[1]
    assert str(tmp_path).encode() not in libraries[0]


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "flipped", "other"])
def test_a_damaged_plan_is_made_again(tmp_path: Path, host: TargetSpec, damage: str) -> None:
    cache = Cache(tmp_path / "cache")
    path = small_net().save(tmp_path / "net.onnx")
    first = compile_onnx(path, host, tmp_path / "a", cache=cache).library.read_bytes()
    (entry,) = (tmp_path / "cache" / "plans").glob("*/*")
    data = entry.read_bytes()
    middle = len(data) // 2
    entry.write_bytes(
        {
            "empty": b"",
            "truncated": data[:middle],
            "garbage": os.urandom(len(data)),
            "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
            "other": b"PK\x05\x06" + b"\x00" * 18,  # a zip archive without files
        }[damage]
    )
    again = compile_onnx(path, host, tmp_path / "b", cache=cache)
    assert again.object_cache_misses == 0
    assert again.library.read_bytes() == first


def test_a_lost_object_is_made_again(tmp_path: Path, host: TargetSpec) -> None:
    cache = Cache(tmp_path / "cache")
    path = small_net().save(tmp_path / "net.onnx")
    first = compile_onnx(path, host, tmp_path / "a", cache=cache).library.read_bytes()
    next((tmp_path / "cache" / "objects").glob("*/*")).unlink()
    again = compile_onnx(path, host, tmp_path / "b", cache=cache)
    assert again.object_cache_misses == 1
    assert again.library.read_bytes() == first


def test_tuned_configurations_are_part_of_the_key(tmp_path: Path, host: TargetSpec) -> None:
    cache = Cache(tmp_path / "cache")
    path = small_net().save(tmp_path / "net.onnx")
    first = compile_onnx(path, host, tmp_path / "a", cache=cache)
    (step,) = [s for s in first.steps if s["workload"]["kind"] == "depthwise"]
    assert (step["config"], first.num_tuned) == ({"outputs": 14}, 0)
    tuned = {step["key"]: {"outputs": 4}}
    second = compile_onnx(path, host, tmp_path / "b", cache=cache, tuned=tuned)
    assert (second.object_cache_misses, second.num_tuned) == (1, 1)
    (step,) = [s for s in second.steps if s["workload"]["kind"] == "depthwise"]
    assert step["config"] == {"outputs": 4}


def test_a_configuration_that_the_kernel_no_longer_has_gives_way_to_the_default(
    tmp_path: Path, host: TargetSpec
) -> None:
    cache = Cache(tmp_path / "cache")
    path = small_net().save(tmp_path / "net.onnx")
    first = compile_onnx(path, host, tmp_path / "a", cache=cache)
    tuned = {step["key"]: {"outputs": 99} for step in first.steps}
    second = compile_onnx(path, host, tmp_path / "b", cache=cache, tuned=tuned)
    assert (second.object_cache_misses, second.num_tuned) == (0, 0)
    assert second.library.read_bytes() == first.library.read_bytes()


# The library


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_exports_only_prefixed_names(tmp_path: Path, host: TargetSpec, cache: Cache) -> None:
    path = small_net().save(tmp_path / "net.onnx")
    compiled = compile_onnx(path, host, tmp_path, symbol_prefix="ofa_abc_", cache=cache)
    command = ["nm", "-D", str(compiled.library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    defined = {line[-1] for line in lines if line[-2] not in "Uw"}
    assert defined == {f"ofa_abc_{name}" for name in (*NAMES, "error")}
    needed = {line[-1].split("@")[0] for line in lines if line[-2] == "U"}
    assert not {name for name in needed if "TVM" in name or "ofa" in name}


def test_two_libraries_live_in_one_process(
    tmp_path: Path, host: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((1, 3, 10, 10), dtype=np.float32)
    libraries, expected = [], []
    for name in ("one", "two"):
        path = small_net(len(libraries)).save(tmp_path / f"{name}.onnx")
        prefix = f"ofa_{name}_"
        compiled = compile_onnx(path, host, tmp_path / name, symbol_prefix=prefix, cache=cache)
        # Into one global namespace, as a program linked with both would have them.
        ctypes.CDLL(str(compiled.library), mode=ctypes.RTLD_GLOBAL)
        libraries.append(NativeLibrary(compiled.library, prefix))
        expected.append(reference(path, x))
    for library, logits in (*zip(libraries, expected, strict=True),) * 2:
        np.testing.assert_allclose(library.run(x), logits, rtol=1e-4, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


# Errors


def test_a_missing_file(tmp_path: Path, host: TargetSpec, cache: Cache) -> None:
    with pytest.raises(UserInputError, match=r"cannot read .*none\.onnx"):
        compile_onnx(tmp_path / "none.onnx", host, tmp_path / "out", cache=cache)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file(tmp_path: Path, host: TargetSpec, cache: Cache) -> None:
    path = small_net().save(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserInputError, match=r"net\.onnx: not a"):
        compile_onnx(path, host, tmp_path / "out", cache=cache)


def test_an_unsupported_network_leaves_nothing_behind(
    tmp_path: Path, host: TargetSpec, cache: Cache
) -> None:
    net = Net((1, 3, "height", 8))  # type: ignore[arg-type]
    net.conv((3, 4))
    net.classifier(4)
    with pytest.raises(UnsupportedOperatorError, match="static shape"):
        compile_onnx(net.save(tmp_path / "net.onnx"), host, tmp_path / "out", cache=cache)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file(tmp_path: Path, host: TargetSpec, cache: Cache) -> None:
    path = small_net().save(tmp_path / "net.onnx")
    (tmp_path / "out").write_text("")
    with pytest.raises(UserInputError, match=r"cannot write to .*out: File exists"):
        compile_onnx(path, host, tmp_path / "out", cache=cache)
