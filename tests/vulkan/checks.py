"""What Vulkan's own tools say of a network: the validation layer, and spirv-val."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ofa_compile.cache import Cache
from ofa_compile.compiler.gpu.objects import code_of

LAYER = Path("/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json")
WATCHED = {
    "VK_INSTANCE_LAYERS": "VK_LAYER_KHRONOS_validation",
    "VK_LAYER_ENABLES": "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT",
}
_COMPLAINTS = ("VUID", "Validation", "SYNC-")


def is_watching() -> bool:
    """Whether the validation layer is loaded now, as it is while a device is open."""
    return "VkLayer_khronos_validation" in Path("/proc/self/maps").read_text()


def complaints_in(output: pytest.CaptureFixture[str]) -> list[str]:
    """Return what the validation layer has said in this process."""
    ctypes.CDLL(None).fflush(None)  # it writes to C's stdout
    lines = output.readouterr().out.splitlines()
    return [line for line in lines if any(word in line for word in _COMPLAINTS)]


class _InstanceInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 5),
    )


def start_wrongly() -> None:
    """Start Vulkan with a flag that does not exist."""
    vulkan, instance = ctypes.CDLL("libvulkan.so.1"), ctypes.c_void_p()
    info = _InstanceInfo(type=1, flags=64)
    if vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)) == 0:
        vulkan.vkDestroyInstance(instance, None)


def check_silence(executable: Path) -> None:
    """Assert that the validation layer, with synchronisation, finds nothing in two runs."""
    done = subprocess.run(
        [str(executable), "--benchmark", "2", "--warmup", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **WATCHED},
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "2 repeats" in text
    for word in _COMPLAINTS:
        assert word not in text, text


_accepted: set[Path] = set()


def check_shaders(cache: Cache, folder: Path) -> int:
    """Assert that spirv-val accepts every shader of a cache; return how many there are.

    Those accepted before are not asked for again: tests share a cache, whose files never change.
    """
    files = {path for path in (cache.root / "gpu-kernels").rglob("*") if path.is_file()}
    for path in files - _accepted:
        _check_shader(code_of(path.read_bytes()), folder)
        _accepted.add(path)
    return len(files)


def check_exported_shaders(library: Path, folder: Path) -> int:
    """Assert that spirv-val accepts all shaders in a library of TVM's; return their number."""
    data, count = library.read_bytes(), 0
    for match in re.finditer(rb"(....)(?=\x03\x02\x23\x07)", data, re.DOTALL):
        size = int.from_bytes(match[1], "little")
        _check_shader(data[match.end() : match.end() + size], folder)
        count += 1
    return count


def _check_shader(code: bytes, folder: Path) -> None:
    program = shutil.which("spirv-val")
    assert program is not None
    shader = folder / "shader.spv"
    shader.write_bytes(code)
    command = [program, "--target-env", "vulkan1.1", str(shader)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
