from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ofa_compile.errors import BuildError, MissingDependencyError
from ofa_compile.hardware import toolchain
from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.target_spec import TargetSpec, ToolchainSpec, load_target
from ofa_compile.hardware.toolchain import find_linker


def linking_with(target: TargetSpec, *linkers: str) -> TargetSpec:
    return dataclasses.replace(target, toolchain=ToolchainSpec(linkers=linkers))


def programs(folder: Path, *names: str) -> str:
    """Put empty programs into a folder and return it as a PATH."""
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho fake 1.0\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return str(folder)


def test_first_compiler_present_is_taken(
    board: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path, "b-gcc", "c-gcc"))
    found = find_linker(linking_with(board, "a-gcc", "b-gcc", "c-gcc"))
    assert found.command == (str(tmp_path / "b-gcc"),)
    assert found.static_command == (str(tmp_path / "b-gcc"), "-static")
    assert not found.is_zig


def test_a_bare_compiler_cannot_cross_compile(
    board: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path, "gcc", "cc", "clang", "gcc-12"))
    with pytest.raises(MissingDependencyError, match="looked for gcc, cc, clang, gcc-12"):
        find_linker(linking_with(board, "gcc", "cc", "clang", "gcc-12"))
    assert find_linker(linking_with(load_target("host"), "gcc")).name == "gcc"


def test_a_bare_compiler_that_is_told_its_target_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wasm32 = load_target("wasm32")
    monkeypatch.setenv("PATH", programs(tmp_path, "clang"))
    found = find_linker(wasm32)
    assert found.command == (str(tmp_path / "clang"), "--target=wasm32-wasi")
    assert found.static_command == found.command  # the platform has no other executables
    spec = ToolchainSpec(linkers=("clang",), flags=("-O3", "--target=x"), link_flags=("-lx",))
    found = find_linker(dataclasses.replace(wasm32, toolchain=spec))
    assert found.command[1:] == ("-O3", "--target=x")
    assert found.link_flags == ("-lx",)
    (tmp_path / "clang").unlink()
    with pytest.raises(MissingDependencyError, match="link for target 'wasm32'") as caught:
        find_linker(wasm32)
    assert "clang lld wasi-libc libclang-rt-dev-wasm32" in str(caught.value.hint)


def test_compilers_may_be_found_through_the_environment(
    board: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, "board-cc")
    target = linking_with(board, "$BOARD_SDK/board-cc")
    monkeypatch.delenv("BOARD_SDK", raising=False)
    with pytest.raises(MissingDependencyError, match=r"BOARD_SDK/board-cc \(BOARD_SDK is not set"):
        find_linker(target)
    monkeypatch.setenv("BOARD_SDK", str(tmp_path))
    found = find_linker(target)
    assert found.command == (str(tmp_path / "board-cc"),)
    assert found.name == "board-cc"


def test_android_needs_the_ndk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = load_target("android-arm64")
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    monkeypatch.delenv("ANDROID_NDK", raising=False)
    with pytest.raises(
        MissingDependencyError, match=r"\(ANDROID_NDK and ANDROID_NDK_HOME are not set"
    ) as e:
        find_linker(target)
    assert "export ANDROID_NDK=" in str(e.value.hint)
    folder = tmp_path / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    folder.mkdir(parents=True)
    programs(folder, "aarch64-linux-android24-clang")
    monkeypatch.setenv("ANDROID_NDK", str(tmp_path))
    found = find_linker(target)
    assert found.name == "aarch64-linux-android24-clang"
    assert found.static_command == found.command


def test_missing_cross_compiler_names_the_line_that_installs_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if host_arch() == "aarch64":
        pytest.skip("arm64 is native here")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="can link for target 'arm64'") as caught:
        find_linker(load_target("arm64"))
    assert "apt-get install gcc-aarch64-linux-gnu" in str(caught.value.hint)
    assert "pip install ziglang" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_no_linkers_at_all(board: TargetSpec) -> None:
    with pytest.raises(MissingDependencyError, match=r"'toolchain\.linkers' is empty") as caught:
        find_linker(linking_with(board))
    assert "toolchain.linkers" in str(caught.value.hint)


def test_ziglang_comes_as_a_module(board: TargetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: object())
    found = find_linker(linking_with(board, "no-such-gcc", "ziglang"))
    assert found.is_zig
    assert found.command[1:5] == ("-m", "ziglang", "cc", "-target")
    assert found.command[5].startswith(f"{board.arch}-linux-gnu")
    assert f"{board.arch}-linux-musl" in found.static_command
    assert "-static" in found.static_command


def test_version_is_the_first_line(
    board: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{programs(tmp_path, 'x-gcc', 'y-gcc')}:/bin:/usr/bin")
    assert find_linker(linking_with(board, "x-gcc")).version() == "fake 1.0"
    (tmp_path / "y-gcc").write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    with pytest.raises(BuildError, match="y-gcc cannot be run"):
        find_linker(linking_with(board, "y-gcc")).version()
