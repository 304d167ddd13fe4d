from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ofa_compile.errors import TargetNotFoundError, TargetSpecError
from ofa_compile.hardware import host
from ofa_compile.hardware.target_spec import list_targets, load_target

BOARD = """
schema_version = 1
description = "A board"

[tvm_target]
kind = "llvm"
mtriple = "aarch64-linux-gnu"
mcpu = "cortex-a55"

[core]
vector_bits = 128
vector_registers = 32
frequency_hz = 1.8e9
fma_per_cycle = 1.0
memory_bandwidth_gb_per_s = 4.0
l1_bytes = 32768
l2_bytes = 131072
cores = 4
requires = ["asimd", "no-such-flag"]

[runner]
kind = "estimate"

[toolchain]
linkers = ["aarch64-linux-gnu-gcc"]
"""


def write(folder: Path, text: str, name: str = "board.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_a_target(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, BOARD))
    assert (target.name, target.arch, target.is_native) == ("board", "aarch64", False)
    assert target.tvm_target == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a55",
    }
    assert target.emulator is None
    assert target.evaluator.repeat == 10  # a default
    assert hash(target) == hash(load_target(tmp_path / "board.toml"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.name = "other"  # type: ignore[misc]


def test_fingerprint_follows_everything_but_the_description(tmp_path: Path) -> None:
    first = load_target(write(tmp_path, BOARD))
    again = load_target(write(tmp_path, BOARD.replace("A board", "The same board")))
    other = load_target(write(tmp_path, BOARD.replace("cores = 4", "cores = 2")))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert len(first.fingerprint) == 64


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema_version = 1", "schema_version = 2", "'schema_version' is 2; this release reads 1"),
        ("schema_version = 1", "", "'schema_version' is None"),
        ('description = "A board"', "", "'description' must be a non-empty string"),
        ("[runner]", "[runer]", "unknown key 'runer'; allowed are schema_version"),
        ('kind = "estimate"', 'kind = "guess"', r"'runner\.kind' is 'guess'; allowed are local"),
        ('kind = "estimate"', "", r"missing key 'runner\.kind'"),
        ("cores = 4", "cores = 0", r"'core\.cores' is 0; allowed is 1 to 1024"),
        ("vector_bits = 128", "", r"missing key 'core\.vector_bits' \(an integer\)"),
        ('kind = "llvm"', "kind = 3", "'tvm_target' must be a table with a string 'kind'"),
        ("[toolchain]", "[emulator]\ncommand = []\n[toolchain]", r"'emulator\.command' is empty"),
        ("schema_version = 1", "schema_version = 1\ndetect = true", "'core' is set together with"),
        ("schema_version = 1", 'schema_version = 1\ndetect = "x"', "'detect' must be true or"),
        ('mcpu = "cortex-a55"', "mcpu = ", r"is not valid TOML: .*line 8"),
    ],
)
def test_malformed_files(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in BOARD
    with pytest.raises(TargetSpecError, match=words) as caught:
        load_target(write(tmp_path, BOARD.replace(old, new)))
    assert "board.toml" in str(caught.value)


def test_file_name_must_serve_as_a_target_name(tmp_path: Path) -> None:
    with pytest.raises(TargetSpecError, match="a target is named by its file"):
        load_target(write(tmp_path, BOARD, "my board.toml"))


def test_unknown_target_proposes_the_nearest() -> None:
    with pytest.raises(TargetNotFoundError, match=r"'arm46'; known are host, android-arm64"):
        load_target("arm46")
    with pytest.raises(TargetNotFoundError) as caught:
        load_target("cortex-a67")
    assert caught.value.hint == "did you mean 'cortex-a76'?"
    with pytest.raises(TargetNotFoundError, match=r"no hardware-target file at 'boards/x\.toml'"):
        load_target("boards/x.toml")
    with pytest.raises(TargetNotFoundError):
        load_target("")


def test_list_starts_with_host() -> None:
    names = list_targets()
    assert names[0] == "host"
    assert names[1:] == sorted(names[1:])
    assert {"arm64", "x86-64", "x86-64-avx512", "cortex-a53", "cortex-a72"} < set(names)


def test_host_is_detected_and_native() -> None:
    target = load_target("host")
    assert target.detected
    assert target.is_native
    assert target.arch == host.host_arch()
    assert target.core.model
    assert target.fingerprint == load_target("host").fingerprint


def test_dictionary_is_plain_json() -> None:
    document = load_target("arm64").to_dict()
    assert json.loads(json.dumps(document)) == document
    assert document["core"]["vector_bits"] == 128


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('kind = "estimate"\nkey = "x"', "which has no board to reach"),
        ('kind = "rpc"\ntracker = "a:1"\nserver = "b:2"', "exclude each other"),
        ('kind = "rpc"\ntracker = "nonsense"', r"'runner\.tracker' must be HOST:PORT .*'nonsense'"),
        ('kind = "rpc"\nserver = "host:70000"', r"'runner\.server' must be HOST:PORT"),
        ('kind = "rpc"\nwait_s = -1', r"'runner\.wait_s' is -1"),
        ('kind = "rpc"\ntraker = "a:1"', r"unknown key 'runner\.traker'"),
    ],
)
def test_runner_addresses_are_checked(tmp_path: Path, lines: str, message: str) -> None:
    text = BOARD.replace('kind = "estimate"', lines)
    with pytest.raises(TargetSpecError, match=message):
        load_target(write(tmp_path, text))
