"""A second Vulkan device, chosen by number or by name: for bundles, and for TVM."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checks import LAYER, WATCHED
from networks import PREFIX, build_small, check_numbers
from tvm_runs import Case, failing, run_cases

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import CompiledNetwork
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.vulkan_devices import check_vulkan, list_vulkan_devices

pytestmark = pytest.mark.vulkan
tvm_device = pytest.mark.usefixtures("tvm_elsewhere")
FIRST, SECOND = NAMES = "llvmpipe", "Second GPU-1"
RESULT = pytest.approx(math.e + 1, rel=4e-3)


@pytest.fixture
def ran(
    two_devices: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Return the file that the second device leaves behind; both are there."""
    for variable, value in two_devices.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("OFA_SECOND_RAN", str(tmp_path / "ran"))
    list_vulkan_devices.cache_clear()
    yield tmp_path / "ran"
    list_vulkan_devices.cache_clear()


@pytest.fixture
def numbers(ran: Path) -> dict[str, int]:
    """Return the number of each device, which is up to the loader."""
    return {device.name.split(" (")[0]: device.number for device in list_vulkan_devices()}


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, vulkan: TargetSpec, cache: Cache
) -> tuple[Path, CompiledNetwork]:
    return build_small(tmp_path_factory.mktemp("two-devices"), vulkan, cache)


def test_both_are_listed(numbers: dict[str, int]) -> None:
    assert set(numbers) == set(NAMES)
    assert sorted(numbers.values()) == [0, 1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_named", [False, True])
def test_a_network_runs_where_it_is_told(
    built: tuple[Path, CompiledNetwork],
    ran: Path,
    numbers: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
    name: str,
    is_named: bool,
) -> None:
    wanted = name.upper()[2:] if is_named else str(numbers[name])
    monkeypatch.setenv("OFA_VULKAN_DEVICE", wanted)
    assert [device.number for device in check_vulkan()] == [numbers[name]]
    with NativeLibrary(built[1].library, PREFIX) as library:
        check_numbers(built[0], library, rng)
    assert ran.exists() == (name == SECOND)


@pytest.mark.parametrize("wanted", ["2", "third GPU"])
def test_a_device_that_is_not_there(
    built: tuple[Path, CompiledNetwork], ran: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("OFA_VULKAN_DEVICE", wanted)
    with pytest.raises(DeviceUnavailableError, match=rf"'{wanted}'.* 0: .* 1: ") as got:
        check_vulkan()
    assert all(name in str(got.value) for name in NAMES)
    done = subprocess.run(
        [str(built[1].executable), "--benchmark", "1"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 4
    assert "OFA_VULKAN_DEVICE names no device of this machine; give a number or" in done.stderr
    assert not ran.exists()


@tvm_device
def test_tvm_names_both(numbers: dict[str, int], tvm_modules: Path) -> None:
    (names,), _ = run_cases(tvm_modules, [("name_devices", [], {})])
    assert {name.split(" (")[0]: number for number, name in enumerate(names)} == numbers


@tvm_device
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_named", [False, True])
def test_tvm_runs_where_it_is_told(
    ran: Path, numbers: dict[str, int], tvm_modules: Path, name: str, is_named: bool
) -> None:
    """By its number; number 0 is the device that is named."""
    case = ("do_everything", [0], {"OFA_VULKAN_DEVICE": name})
    if not is_named:
        case = ("do_everything", [numbers[name]], {})
    assert run_cases(tvm_modules, [case])[0] == [RESULT]
    assert ran.exists() == (name == SECOND)


@tvm_device
@pytest.mark.usefixtures("ran")
def test_tvm_copies_from_one_to_the_other(tvm_modules: Path) -> None:
    """Two threads at a time, which wait for each other's devices."""
    (values,), _ = run_cases(tvm_modules, [("cross", [], {})])
    assert values == [pytest.approx(math.exp(math.e + 1) + 1, rel=1e-5)] * 2


@tvm_device
def test_what_a_device_cannot_do_is_said(
    numbers: dict[str, int], tvm_modules: Path, failing_loader: dict[str, str]
) -> None:
    """The second has workgroups of 128; a failure that was overcome is not its reason."""
    cases: list[Case] = [
        ("launch", ["wide", numbers[FIRST]], failing("none", 0)),
        (
            "recover_then_refuse",
            ["wide", numbers[SECOND]],
            failing("vkAllocateMemory", -2, times=2),
        ),
        ("compute", ["float32", 2], failing("none", 0)),
        ("compute", ["float32", -1], failing("none", 0)),  # a part of a name, to anyone else
        ("mix", [], failing("none", 0)),
    ]
    (wide, refused, third, negative, mixed), _ = run_cases(tvm_modules, cases, **failing_loader)
    assert wide == RESULT
    assert "the Vulkan device's limits are too small for this kernel; choose another" in refused
    assert "vkAllocateMemory" not in refused
    assert "this machine has no Vulkan device 2; vulkaninfo --summary lists those" in third
    assert "this machine has no Vulkan device -1; " in negative
    assert "expected to match x.device_id" in mixed  # which TVM sees to


@tvm_device
@pytest.mark.usefixtures("ran")
@pytest.mark.skipif(not LAYER.is_file(), reason="no validation layer")
def test_the_validation_layer_is_silent(tvm_modules: Path) -> None:
    (values,), said = run_cases(tvm_modules, [("cross", [], {})], **WATCHED)
    assert len(values) == 2
    for word in ("VUID", "Validation", "SYNC-"):
        assert word not in said, said
