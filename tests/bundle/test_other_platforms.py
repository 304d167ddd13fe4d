"""Bundles for processors and platforms that this machine is not: built, verified and run here."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))

from onnx_nets import Net, reference
from stub_bundle import PREPROCESSING

from ofa_compile.bundle.build import BundleContents, Reference, build_bundle
from ofa_compile.bundle.bundle import Bundle, load_bundle
from ofa_compile.bundle.executor import check_runnable, emulator_command
from ofa_compile.bundle.manifest import describe_target
from ofa_compile.cache import Cache
from ofa_compile.errors import DeviceError, MissingDependencyError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import find_linker

NAMES = (
    *("riscv64", "riscv64-v", "armv7", "android-arm64"),
    pytest.param("wasm32", marks=pytest.mark.node),
)
SHAPE = (1, 3, 10, 10)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def build(name: str, folder: Path, cache: Cache) -> Bundle:
    """Build the bundle of a small network for a target, or skip where its tools are missing."""
    target = load_target(name)
    try:
        find_linker(target)
        check_runnable(describe_target(target))
    except MissingDependencyError as err:
        pytest.skip(f"{err}; {err.hint}")
    net = Net(SHAPE)
    net.conv((3, 12), strides=[2, 2])
    net.op("HardSwish")
    net.conv((12, 12), 5, group=12)
    net.squeeze_excite(12, 4)
    net.classifier(12)
    path = net.save(folder / "net.onnx")
    inputs = np.random.default_rng(1).standard_normal((3, *SHAPE[1:]), dtype=np.float32)
    logits = np.concatenate([reference(path, x[None]) for x in inputs])
    contents = BundleContents(preprocessing=dataclasses.replace(PREPROCESSING, height=10, width=10))
    return build_bundle(
        path,
        target,
        folder / "bundle",
        contents,
        reference=Reference(inputs=inputs, logits=logits),
        cache=cache,
    )


@pytest.mark.parametrize("name", NAMES)
def test_bundle_is_verified_and_runs(name: str, tmp_path: Path, cache: Cache) -> None:
    built = build(name, tmp_path, cache)
    bundle = load_bundle(built.path)
    verification, platform = bundle.manifest.verification, bundle.manifest.platform
    assert verification["files"] == [platform.program]
    assert verification["max_abs_error"] <= 1e-4 * verification["max_abs_logit"]
    command = load_target(name).emulator
    assert command is not None
    assert verification["runner"].endswith(" ".join(command.command))  # with its -cpu
    assert {*platform.files} < {path.name for path in bundle.path.iterdir()}
    image = np.full((9, 9, 3), 77, np.uint8)
    (best,) = bundle.classify(image, top=1)
    assert 0 < best[0].probability <= 1


CALLER = r"""
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    float image[300], logits[5];
    void *library = argc == 3 ? dlopen(argv[1], RTLD_NOW) : NULL;
    int (*set_threads)(int) = library ? dlsym(library, PREFIX "set_threads") : NULL;
    int (*run)(const float *, float *) = library ? dlsym(library, PREFIX "run") : NULL;
    FILE *file = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (!run || !set_threads || !file || fread(image, sizeof image, 1, file) != 1)
        return 1;
    if (set_threads(3) || run(image, logits))
        return 2;
    return fwrite(logits, sizeof logits, 1, stdout) == 1 ? 0 : 3;
}
"""


def test_an_android_library_is_loaded_and_threaded_by_bionic(tmp_path: Path, cache: Cache) -> None:
    """What an app's `System.loadLibrary` does, with a phone's own loader and C library."""
    bundle = build("android-arm64", tmp_path, cache)
    linker = find_linker(load_target("android-arm64"))
    (tmp_path / "caller.c").write_text(CALLER, encoding="utf-8")
    prefix = f'-DPREFIX="{bundle.manifest.symbol_prefix}"'
    made = [*linker.command, "-pie", "-fPIE", prefix, "caller.c", "-o", "caller", "-ldl"]
    subprocess.run(made, check=True, cwd=tmp_path)
    image = np.random.default_rng(3).standard_normal(SHAPE, dtype=np.float32)
    image.tofile(tmp_path / "image.f32")
    command = emulator_command(bundle.manifest.target)
    done = subprocess.run(
        [*command, "./caller", bundle.path / "libsubnet.so", "image.f32"],
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    expected = reference(tmp_path / "net.onnx", image)
    actual = np.frombuffer(done.stdout, "<f4").reshape(expected.shape)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.node
def test_wasm_program_reads_images_and_reports_what_is_wrong(tmp_path: Path, cache: Cache) -> None:
    """The launcher gives the program its arguments, its files, and its exit code back."""
    bundle = build("wasm32", tmp_path, cache)
    (tmp_path / "inside").mkdir()
    (tmp_path / "photo.ppm").write_bytes(b"P6\n2 2\n255\n" + bytes(range(12)))
    command = ["node", str(bundle.path / "subnet.mjs")]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path / "inside", capture_output=True, text=True
        )

    done = run("--json", "--benchmark", "3", "../photo.ppm")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nothing about experimental features either
    document = json.loads(done.stdout)
    assert len(document["results"][0]["classes"]) == 5
    assert document["benchmark"]["median_ms"] > 0
    done = run(f"--raw={tmp_path / 'photo.ppm'}")
    assert done.returncode == 2
    assert "the input of shape 3x10x10 takes 1200" in done.stderr
    done = run("--threads", "2", "--info")
    assert done.returncode == 1
    assert "threads cannot be started" in done.stderr
    (bundle.path / "subnet.wasm").write_bytes(b"no module")
    done = run("--info")
    assert done.returncode == 1
    assert "subnet.wasm: " in done.stderr
    with pytest.raises(DeviceError, match=r"subnet\.mjs failed \(1\)"):
        bundle.run(np.zeros(SHAPE, np.float32))


HOST_PAGE = """
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";
const [file, prefix] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1" });
const module = await WebAssembly.compile(await readFile(file));
const { exports } = await WebAssembly.instantiate(module, wasi.getImportObject());
wasi.initialize({ exports });
const input = exports.malloc(4 * 300), output = exports.malloc(4 * 5);
new Float32Array(exports.memory.buffer, input, 300).forEach((_, i, a) => { a[i] = i / 300; });
const code = exports[`${prefix}run`](input, output);
const logits = [...new Float32Array(exports.memory.buffer, output, 5)];
console.log(JSON.stringify({ code, logits, names: Object.keys(exports) }));
"""


@pytest.mark.node
def test_wasm_library_is_called_from_javascript(tmp_path: Path, cache: Cache) -> None:
    bundle = build("wasm32", tmp_path, cache)
    prefix = bundle.manifest.symbol_prefix
    (tmp_path / "host.mjs").write_text(HOST_PAGE, encoding="utf-8")
    done = subprocess.run(
        ["node", "--no-warnings", "host.mjs", str(bundle.path / "libsubnet.wasm"), prefix],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["code"] == 0
    x = (np.arange(300, dtype=np.float32) / 300).reshape(SHAPE)
    np.testing.assert_allclose(found["logits"], bundle.run(x)[0], rtol=1e-5, atol=1e-6)
    others = {name for name in found["names"] if not name.startswith(prefix)}
    assert others == {"memory", "_initialize", "malloc", "free"}
