from __future__ import annotations

import dataclasses

import pytest

from ofa_compile.hardware.device_facts import DeviceFacts, differences
from ofa_compile.hardware.target_spec import load_target

PRINTED = """\
host=pi
machine=aarch64
cores=4
board=Raspberry Pi 4 Model B
l1_bytes=32768
l2_bytes=1048576
CPU part=0xd08
Features=fp asimd crc32
clock_hz=1497003456
peak_flops=11950000000
bandwidth_bytes_per_s=4010000000
"""
A72 = load_target("cortex-a72").core


def test_what_the_probe_prints() -> None:
    facts = DeviceFacts.parse(PRINTED)
    assert facts.model == "Raspberry Pi 4 Model B"
    assert facts.features == {"fp", "asimd", "crc32"}
    assert facts.core_values(A72) == {
        "frequency_hz": 1.5e9,
        "fma_per_cycle": 1.0,  # 11.95 GFLOP/s are 8 a cycle: four lanes, two operations each
        "memory_bandwidth_gb_per_s": 4.01,
        "l1_bytes": 32768,
        "l2_bytes": 1048576,
        "cores": 4,
    }


@pytest.mark.parametrize("text", ["", "cores=many\nclock_hz=-3\npeak_flops=nan\n", "=\n===\n"])
def test_nonsense_is_no_fact(text: str) -> None:
    facts = DeviceFacts.parse(text)
    assert facts.core_values(A72) == {}
    assert facts.missing(A72) == ()
    assert differences(A72, facts) == []


def test_differences() -> None:
    facts = DeviceFacts.parse(PRINTED)
    core = dataclasses.replace(
        A72, cores=8, frequency_hz=1.6e9, fma_per_cycle=0.5, memory_bandwidth_gb_per_s=4.0
    )
    assert differences(core, facts) == [  # the clock is near enough
        "core.fma_per_cycle is 0.5, the device has 1",
        "core.cores is 8, the device has 4",
    ]


def test_missing_features() -> None:
    facts = DeviceFacts.parse(PRINTED)
    core = dataclasses.replace(A72, requires=("asimd", "asimddp", "sve"))
    assert facts.missing(core) == ("asimddp", "sve")
