"""Worker process that holds one runtime: loads networks one after the other, and times them.

A runtime that crashes or hangs takes this process with it and nothing else. `gpu_peers.py` asks.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gpu_prebuilt import read_facts, relative_error
from gpu_runtimes import GpuRuntime, runtime_class

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.cuda_devices import check_cuda, pci_bus_id
from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.hardware.nvml import EnergyMeter
from ofa_compile.tuning.serve import Reply, serve_all

_MOST_REPEATS = 50
_STEP_REPEATS = 20
_SMI_TIMEOUT_S = 10
_SMI_FIELDS = (
    "name,driver_version,compute_mode,memory.total,clocks.sm,clocks.max.sm,clocks.mem,"
    "temperature.gpu,power.draw,power.limit"
)
# Why clocks are low, as drivers call it since 535, and as older ones do.
_SMI_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_PACKAGES = (
    "numpy", "torch", "triton", "onnxruntime-gpu", "onnxruntime", "tensorrt", "ncnn", "safetensors",
)  # fmt: skip


class _Served:
    """The network that is loaded, and how long its runs take."""

    def __init__(self) -> None:
        self.runtime: GpuRuntime | None = None
        self.seconds: dict[str, float] = {}

    def handlers(self) -> dict[str, Callable[[dict[str, Any], Reply], None]]:
        names = ("facts", "describe", "load", "turn", "state", "energy", "steps", "limits", "close")
        return {name: getattr(self, name) for name in names}

    def facts(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with what this machine is: devices, driver, C library, Python, packages."""
        try:
            devices = [str(device) for device in check_gpu(request["kind"])]
        except DeviceUnavailableError as error:
            devices = [f"{error}; {error.hint}"]
        versions = {}
        for name in _PACKAGES:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        reply(
            devices=devices,
            nvidia_smi=_nvidia_smi(),
            packages=versions,
            python=platform.python_version(),
            c_library=" ".join(platform.libc_ver()),
        )

    def describe(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with the runtime's version and device, or fail if it is not here."""
        reply(version=runtime_class(request["runtime"]).describe())

    def load(self, request: dict[str, Any], reply: Reply) -> None:
        """Load a network, compare it with PyTorch on a processor, and try how long a run takes."""
        self.close(request, reply)
        place = Path(request["place"])
        facts = read_facts(place)
        self.runtime = runtime_class(request["runtime"])(place, facts, request["runtime"])
        error = relative_error(facts, self.runtime.logits())
        for what in ("device_ms", "end_to_end_ms"):
            self._timed(what, 1)
        reply(largest_error=error)

    def turn(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with the milliseconds of runs that take some seconds together, of one at least."""
        what = request["what"]
        repeats = int(np.clip(request["seconds"] / self.seconds[what], 1, _MOST_REPEATS))
        reply(ms=self._timed(what, repeats).tolist())

    def _timed(self, what: str, repeats: int) -> Any:
        start = time.monotonic()
        found = getattr(self.runtime, what)(repeats)
        self.seconds[what] = (time.monotonic() - start) / repeats
        return found

    def state(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with the GPU's clocks, temperature and power, if NVIDIA's tool is here."""
        reply(nvidia_smi=_nvidia_smi())

    def energy(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with the energy of one run, if the GPU tells."""
        assert self.runtime is not None
        meter = _energy_meter()
        before = meter.joules()
        if before is None:
            return
        start, runs = time.monotonic(), 0
        repeats = int(np.clip(0.1 / self.seconds["device_ms"], 1, _MOST_REPEATS))
        while time.monotonic() - start < request["seconds"]:
            self.runtime.device_ms(repeats)
            runs += self.runtime.runs(repeats)
        after = meter.joules()
        if after is not None:
            reply(joules_per_run=(after - before) / runs)

    def steps(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with the median time of each of our kernels."""
        reply(ms=self.runtime.step_ms(_STEP_REPEATS))  # type: ignore[union-attr]

    def limits(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with what the device can do at most, by our kernels or by PyTorch's."""
        if request["by"] == "torch":
            from gpu_torch import torch_limits

            reply(**torch_limits())
        else:
            from gpu_limits import own_limits

            reply(**own_limits(Path(request["folder"])))

    def close(self, request: dict[str, Any], reply: Reply) -> None:
        """Let go of the network."""
        if self.runtime is not None:
            self.runtime.close()
        self.runtime = None


def _nvidia_smi() -> str | None:
    """Return what NVIDIA's tool says of the GPUs, clocks and reasons for throttling included."""
    for reasons in _SMI_REASONS:
        command = ["nvidia-smi", f"--query-gpu={_SMI_FIELDS},{reasons}", "--format=csv"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_SMI_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode == 0:
            break
    return (done.stdout + done.stderr).strip()


def _energy_meter() -> EnergyMeter:
    """Return the meter of the GPU that ours runs on; NVML counts them otherwise than CUDA does."""
    try:
        return EnergyMeter(pci_bus_id(check_cuda()[0]))
    except DeviceUnavailableError:
        return EnergyMeter()


if __name__ == "__main__":
    serve_all(_Served().handlers())
