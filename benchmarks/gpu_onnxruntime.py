"""ONNX Runtime on a CUDA device: its own kernels, or TensorRT's."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gpu_prebuilt import images, onnx_file
from gpu_runtimes import precision_of, timed
from numpy.typing import NDArray

from ofa_compile.space import Architecture


class CudaOnnxRuntime:
    """The CUDA provider: one CUDA graph, bound to memory of the device."""

    provider: ClassVar[str] = "CUDAExecutionProvider"
    device: ClassVar[str] = "cuda"

    def __init__(self, place: Path, facts: Mapping[str, Any], name: str) -> None:
        ort = _imported()
        precision = precision_of(name, facts)
        file = onnx_file(place.parent, facts["batch"], precision)
        self._session = ort.InferenceSession(
            str(file), providers=[(self.provider, self.settings(precision))]
        )
        if self._session.get_providers()[0] != self.provider:  # as it does without an error
            message = f"ONNX Runtime has fallen back to {self._session.get_providers()[0]}"
            raise RuntimeError(message)
        self._host = images(Architecture.from_dict(facts["architecture"]), facts["batch"])
        self._x = ort.OrtValue.ortvalue_from_numpy(self._host, self.device, 0)
        shape = [facts["batch"], len(facts["logits"][0])]
        self._y = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self.device, 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._session.get_inputs()[0].name, self._x)
        self._binding.bind_ortvalue_output(self._session.get_outputs()[0].name, self._y)
        for _ in range(3):
            self._call()

    @classmethod
    def settings(cls, precision: str) -> dict[str, str]:
        """Return the provider's options."""
        return {"enable_cuda_graph": "1", "use_tf32": str(int(precision == "tf32"))}

    @classmethod
    def describe(cls) -> str:
        """Return ONNX Runtime's version.

        Raises
        ------
        RuntimeError
            If it was built without the provider.
        """
        ort = _imported()
        known = ort.get_available_providers()
        if cls.provider not in known:
            message = f"ONNX Runtime {ort.__version__} has {', '.join(known)}, not {cls.provider}"
            raise RuntimeError(message)
        return f"ONNX Runtime {ort.__version__}"

    def _call(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        self._call()
        return np.asarray(self._y.numpy())

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs by the host's clock: each waits for the device."""
        return timed(self._call, repeats)

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs with copies."""

        def call() -> None:
            self._x.update_inplace(self._host)
            self._call()
            self._y.numpy()

        return timed(call, repeats)

    def runs(self, repeats: int) -> int:
        """Return the timed runs."""
        return repeats

    def close(self) -> None:
        """Let go of the network."""
        del self._session, self._binding, self._x, self._y


class TensorRt(CudaOnnxRuntime):
    """The TensorRT provider: its engines take minutes to build; --warm leaves them for the run."""

    provider: ClassVar[str] = "TensorrtExecutionProvider"

    @classmethod
    def settings(cls, precision: str) -> dict[str, str]:
        """Return the provider's options; engines of each arithmetic have a folder of their own."""
        engines = Path(tempfile.gettempdir()) / "ofa-gpu-engines" / precision
        engines.mkdir(parents=True, exist_ok=True)
        return {
            "trt_cuda_graph_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engines),
            "trt_fp16_enable": str(int(precision == "fp16")),
        }


def _imported() -> Any:
    """Import ONNX Runtime, with CUDA's libraries from wherever pip has put them."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    with contextlib.suppress(ImportError):
        import tensorrt  # noqa: F401 - which loads its own
    return ort
