"""Stock TVM's libraries on a GPU, through its run time alone.

TVM's C interface (tvm/ffi/c_api.h) is called through ctypes: the machine with the GPU needs neither
TVM nor a Python that its wheels fit. The run time travels with the networks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gpu_peer_files import TVM_FOLDER, tvm_library
from gpu_prebuilt import images
from gpu_runtimes import queue_length, timed
from numpy.typing import NDArray

from ofa_compile.space import Architecture

_DEVICE_TYPES = {"cuda": 2, "vulkan": 7}
_CPU = 1
_POOLED = 2  # kind of allocator
_FLOAT32 = 2 | 32 << 8 | 1 << 16  # code, bits and lanes of a DLDataType
# Type indices of TVMFFIAny.
_NONE, _INT, _POINTER, _DTYPE, _DEVICE, _STRING, _OBJECT = 0, 1, 4, 5, 6, 8, 64
# An object begins with its counts, its type and its deleter.
_OBJECT_BYTES = 24


class _Any(ctypes.Structure):
    """TVMFFIAny."""

    _fields_ = (("index", ctypes.c_int32), ("unused", ctypes.c_uint32), ("value", ctypes.c_int64))


class _Bytes(ctypes.Structure):
    """TVMFFIByteArray."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))

    def text(self) -> str:
        return ctypes.string_at(self.data, self.size).decode(errors="replace")


class _Value:
    """What a function returned; an object is let go with it."""

    def __init__(self, runtime: TvmRuntime, raw: _Any) -> None:
        self._runtime, self.raw = runtime, raw

    def __call__(self, *arguments: Any) -> _Value:
        return self._runtime.call(self.raw.value, arguments)

    def __del__(self) -> None:
        if self.raw.index >= _OBJECT:
            self._runtime.release(self.raw.value)


class TvmRuntime:
    """TVM's run time, loaded from a folder with its libraries."""

    def __init__(self, folder: Path) -> None:
        names = {path.name: path for path in folder.glob("*.so*")}
        first = ("libtvm_ffi.so", "libtvm_runtime.so")
        missing = [name for name in first if name not in names]
        if missing:
            message = f"the archive has no {', '.join(missing)}; archive.json says why"
            raise RuntimeError(message)
        self._ffi = ctypes.CDLL(str(names[first[0]]), ctypes.RTLD_GLOBAL)
        for name in (first[1], *sorted(name for name in names if name.startswith("libcudart"))):
            ctypes.CDLL(str(names[name]), ctypes.RTLD_GLOBAL)
        for name in sorted(set(names) - set(first)):
            ctypes.CDLL(str(names[name]))

    def function(self, name: str) -> _Value:
        """Return a function that is registered under a name."""
        handle, data = ctypes.c_void_p(), ctypes.create_string_buffer(name.encode())
        key = _Bytes(ctypes.addressof(data), len(data) - 1)
        code = self._ffi.TVMFFIFunctionGetGlobal(ctypes.byref(key), ctypes.byref(handle))
        if code != 0 or not handle.value:
            message = f"TVM's run time has no {name}"
            raise RuntimeError(message)
        return _Value(self, _Any(_OBJECT, 0, handle.value))

    def call(self, function: int, arguments: tuple[Any, ...]) -> _Value:
        """Call a function with integers, text, other values and None.

        Raises
        ------
        RuntimeError
            If it fails; the message is TVM's.
        """
        kept = [_argument(argument) for argument in arguments]
        packed = (_Any * max(1, len(kept)))(*(raw for raw, _ in kept))
        result = _Any()
        code = self._ffi.TVMFFIFunctionCall(
            ctypes.c_void_p(function), packed, len(kept), ctypes.byref(result)
        )
        if code != 0:
            raise RuntimeError(self._error())
        return _Value(self, result)

    def release(self, handle: int) -> None:
        """Let go of an object."""
        self._ffi.TVMFFIObjectDecRef(ctypes.c_void_p(handle))

    def _error(self) -> str:
        error = ctypes.c_void_p()
        self._ffi.TVMFFIErrorMoveFromRaised(ctypes.byref(error))
        if not error.value:
            return "TVM fails and does not say why"
        kind, message = (_Bytes * 2).from_address(error.value + _OBJECT_BYTES)
        text = f"{kind.text()}: {message.text()}"
        self.release(error.value)
        return text


def _argument(value: Any) -> tuple[_Any, Any]:
    """Return a value as functions take it, and what must live as long as the call."""
    if value is None:
        return _Any(_NONE, 0, 0), None
    if isinstance(value, _Value):
        return value.raw, value
    if isinstance(value, _Any):
        return value, None
    if isinstance(value, str):
        text = ctypes.create_string_buffer(value.encode())
        return _Any(_STRING, 0, ctypes.addressof(text)), text
    return _Any(_INT, 0, value), None


class TvmOnGpu:
    """Stock TVM: its default pipeline and schedules, and the Relax virtual machine."""

    def __init__(self, place: Path, facts: Mapping[str, Any], _: str) -> None:
        runtime = TvmRuntime(place.parents[1] / TVM_FOLDER)
        device = _DEVICE_TYPES[facts["kind"]]
        load, method = (runtime.function(f"ffi.Module{n}") for n in ("LoadFromFile", "GetFunction"))
        file = tvm_library(place.parent, facts["batch"])
        module = load(str(file.resolve(strict=True)))
        self._module = method(module, "vm_load_executable", 1)()
        method(self._module, "vm_initialization", 1)(device, 0, _POOLED, _CPU, 0, _POOLED)
        self._main = method(self._module, "main", 1)
        # Kinds and numbers of devices are two 32-bit integers.
        self._device = _Any(_DEVICE, 0, device)
        self._alloc = runtime.function("runtime.TVMTensorAllocWithScope")
        self._upload = runtime.function("runtime.TVMTensorCopyFromBytes")
        self._download = runtime.function("runtime.TVMTensorCopyToBytes")
        self._sync = runtime.function("runtime.Device_StreamSync")
        self._host = images(Architecture.from_dict(facts["architecture"]), facts["batch"])
        self._logits = np.empty((facts["batch"], len(facts["logits"][0])), np.float32)
        self._shape = runtime.function("ffi.Shape")(*self._host.shape)
        self._x = self._uploaded()
        self._run()
        self._queued = queue_length(self._run)

    @staticmethod
    def describe() -> str:
        """Name what it needs."""
        return "its run time is in the archive"

    def _uploaded(self) -> _Value:
        x = self._alloc(self._shape, _Any(_DTYPE, 0, _FLOAT32), self._device, None)
        self._upload(x, _pointer(self._host), self._host.nbytes)
        return x

    def _fetch(self, y: _Value) -> NDArray[np.float32]:
        self._download(y, _pointer(self._logits), self._logits.nbytes)
        return self._logits

    def _run(self) -> None:
        self._main(self._x)
        self._wait()

    def _wait(self) -> None:
        self._sync(self._device, 0)

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        return self._fetch(self._main(self._x)).copy()

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs that are queued one behind the other."""

        def call() -> None:
            for _ in range(self._queued):
                self._main(self._x)
            self._wait()

        return timed(call, repeats) / self._queued

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs with copies."""
        return timed(lambda: self._fetch(self._main(self._uploaded())), repeats)

    def runs(self, repeats: int) -> int:
        """Return the runs in all queues."""
        return repeats * self._queued

    def close(self) -> None:
        """Let go of the network."""
        del self._main, self._module, self._x


def _pointer(array: NDArray[np.float32]) -> _Any:
    return _Any(_POINTER, 0, array.ctypes.data)
