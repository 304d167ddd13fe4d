"""What is asked of Android's compiler: a script stands in for the NDK and takes notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx_nets import Net

from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import find_linker

STAND_IN = """\
#!/usr/bin/env python3
import json, os, pathlib, sys
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps(sys.argv[1:]) + "\\n")
if "--version" in sys.argv:
    print("stand-in 1")
elif "-o" in sys.argv:
    pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_bytes(b"made")
else:
    pathlib.Path(sys.argv[-1]).with_suffix(".o").write_bytes(b"made")
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the stand-in as an NDK; return the file of its notes."""
    folder = tmp_path / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin"
    folder.mkdir(parents=True)
    compiler = folder / "aarch64-linux-android24-clang"
    compiler.write_text(STAND_IN, encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("ANDROID_NDK", str(tmp_path / "ndk"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


def small_net(folder: Path) -> Path:
    net = Net((1, 3, 8, 8))
    net.conv((3, 4))
    net.classifier(4)
    return net.save(folder / "net.onnx")


def test_links_for_bionic(notes: Path, tmp_path: Path) -> None:
    target = load_target("android-arm64")
    compiled = compile_onnx(
        small_net(tmp_path), target, tmp_path / "out", network_meta="", cache=Cache(tmp_path / "c")
    )
    assert compiled.executable == tmp_path / "out" / "subnet"
    assert compiled.library == tmp_path / "out" / "libsubnet.so"
    calls = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    sources = [call for call in calls if "-c" in call]
    assert len(sources) >= 8
    assert all("-fPIC" in call for call in sources)
    (library,) = (call for call in calls if "-shared" in call)
    (program,) = (call for call in calls if "-pie" in call)
    for call in (library, program):
        assert "-static" not in call  # bionic's programs are dynamic
        assert "-Wl,-z,max-page-size=16384" in call
        assert any(word.startswith("object_") for word in call)
    assert "-Wl,-soname,libsubnet.so" in library


def test_without_an_ndk_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_NDK", raising=False)
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    with pytest.raises(MissingDependencyError, match="ANDROID_NDK"):
        compile_onnx(small_net(tmp_path), load_target("android-arm64"), tmp_path / "out")


def test_a_folder_that_is_no_ndk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK", str(tmp_path))
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    with pytest.raises(MissingDependencyError, match=f"ANDROID_NDK is '{tmp_path}'") as caught:
        find_linker(load_target("android-arm64"))
    assert "aarch64-linux-android24-clang" in str(caught.value)
    assert "unpack Android's NDK" in str(caught.value.hint)
