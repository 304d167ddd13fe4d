from __future__ import annotations

import pytest

from ofa_compile.hardware import host

V2 = "cx16 popcnt sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx2 bmi1 bmi2 f16c fma movbe"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"

ZEN4 = f"""processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu {V4}
bogomips\t: 5192.27

processor\t: 1
model name\t: another
"""
HASWELL = f"vendor_id : GenuineIntel\nmodel name : Xeon\nflags : {V3}\nbogomips : 4600.0\n"
CORTEX_A76 = (
    "processor : 0\nBogoMIPS : 108.00\nFeatures : fp asimd asimdhp asimddp\nCPU part : 0xd0b\n"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be another machine."""

    def pretend(arch: str, cpuinfo: str) -> None:
        monkeypatch.setattr(host, "host_arch", lambda: arch)
        monkeypatch.setattr(host, "read_cpuinfo", lambda: host.parse_cpuinfo(cpuinfo))

    return pretend


def test_first_processor_counts() -> None:
    assert host.parse_cpuinfo(ZEN4)["model name"] == "AMD EPYC"
    assert host.parse_cpuinfo("") == {}


@pytest.mark.parametrize(
    ("flags", "level"),
    [("", "x86-64"), (V2, "x86-64-v2"), (V3, "x86-64-v3"), (V4, "x86-64-v4")],
)
def test_x86_levels(flags: str, level: str) -> None:
    name, required = host.x86_level(frozenset(flags.split()))
    assert name == level
    assert set(required) == set(flags.split())


def test_a_gap_ends_the_level() -> None:
    without_fma = frozenset(V4.split()) - {"fma"}
    assert host.x86_level(without_fma)[0] == "x86-64-v2"


def test_zen4(machine) -> None:
    machine("x86_64", ZEN4)
    core = host.detect_core()
    assert host.detect_tvm_target()["mcpu"] == "x86-64-v4"
    assert (core["vector_bits"], core["vector_registers"], core["fma_per_cycle"]) == (512, 32, 1.0)
    assert core["model"] == "AMD EPYC (family 25 model 17)"


def test_haswell(machine) -> None:
    machine("x86_64", HASWELL)
    core = host.detect_core()
    assert host.detect_tvm_target()["mcpu"] == "x86-64-v3"
    assert (core["vector_bits"], core["vector_registers"], core["fma_per_cycle"]) == (256, 16, 2.0)


def test_arm(machine) -> None:
    machine("aarch64", CORTEX_A76)
    target = host.detect_tvm_target()
    core = host.detect_core()
    assert target["mtriple"] == "aarch64-linux-gnu"
    assert target["mattr"] == ["+neon", "+dotprod", "+fullfp16"]
    assert (core["vector_bits"], core["vector_registers"]) == (128, 32)
    assert core["model"] == "CPU part 0xd0b"


def test_without_cpuinfo(machine) -> None:
    machine("x86_64", "")
    assert host.detect_tvm_target()["mcpu"] == "x86-64"
    assert not host.has_flags(("avx2",))
    assert host.has_flags(())


def test_facts_of_this_machine_are_plausible() -> None:
    core = host.detect_core()
    assert 5e8 < core["frequency_hz"] < 1e10
    assert core["l1_bytes"] <= core["l2_bytes"]
    assert core["cores"] >= 1
