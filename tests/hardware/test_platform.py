from __future__ import annotations

import pytest

from ofa_compile.errors import TargetSpecError
from ofa_compile.hardware.platform import ANDROID, LINUX, WASI, emulator_of, platform_of


@pytest.mark.parametrize(
    ("triple", "platform"),
    [
        ("", LINUX),
        ("riscv64-linux-gnu", LINUX),
        ("armv7-linux-gnueabihf", LINUX),
        ("aarch64-unknown-linux-musl", LINUX),
        ("aarch64-linux-android", ANDROID),
        ("armv7a-linux-androideabi24", ANDROID),
        ("wasm32-wasi", WASI),
        ("wasm32-wasip1", WASI),
    ],
)
def test_a_triple_names_its_platform(triple: str, platform: object) -> None:
    assert platform_of(triple) is platform


@pytest.mark.parametrize("triple", ["aarch64-apple-darwin", "linux", "thumbv7em-none-eabi"])
def test_unknown_platforms_are_refused(triple: str) -> None:
    with pytest.raises(TargetSpecError, match="known are android, linux, wasi"):
        platform_of(triple)


def test_files() -> None:
    assert LINUX.files == ("subnet", "libsubnet.so")
    assert WASI.files == ("subnet.mjs", "subnet.wasm", "libsubnet.wasm")


def test_emulators() -> None:
    assert emulator_of("armv7-linux-gnueabihf") == ("qemu-arm",)
    assert emulator_of("loongarch64-linux-gnu") == ("qemu-loongarch64",)
    assert emulator_of("wasm32-wasi") == ("node",)
    assert emulator_of("aarch64-linux-android") == ()
