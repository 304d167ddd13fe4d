"""What Vulkan's own tools say of a network: the validation layer, and spirv-val."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ofa_compile.cache import Cache
from ofa_compile.compiler.gpu.objects import code_of

LAYER = Path("/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json")


def check_silence(executable: Path) -> None:
    """Assert that the validation layer, with synchronisation, finds nothing in two runs."""
    done = subprocess.run(
        [str(executable), "--benchmark", "2", "--warmup", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={
            **os.environ,
            "VK_INSTANCE_LAYERS": "VK_LAYER_KHRONOS_validation",
            "VK_LAYER_ENABLES": "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT",
        },
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "2 repeats" in text
    for word in ("VUID", "Validation", "SYNC-"):
        assert word not in text, text


def check_shaders(cache: Cache, folder: Path) -> int:
    """Assert that spirv-val accepts every shader of a cache; return how many there are."""
    program = shutil.which("spirv-val")
    assert program is not None
    files = [path for path in (cache.root / "gpu-kernels").rglob("*") if path.is_file()]
    for path in files:
        shader = folder / "shader.spv"
        shader.write_bytes(code_of(path.read_bytes()))
        command = [program, "--target-env", "vulkan1.1", str(shader)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return len(files)
