"""ncnn on a Vulkan device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gpu_peer_files import NCNN_BIN, NCNN_PARAM
from gpu_prebuilt import images
from gpu_runtimes import precision_of, timed
from numpy.typing import NDArray

from ofa_compile.space import Architecture


class NcnnOnVulkan:
    """ncnn's Vulkan backend.

    It takes single images, so a batch is as many runs one after the other; its time is the host's
    and holds copies in any case.
    """

    def __init__(self, place: Path, facts: Mapping[str, Any], name: str) -> None:
        import ncnn

        self._net = ncnn.Net()
        options = self._net.opt
        options.use_vulkan_compute = True
        is_half = precision_of(name, facts) == "fp16"
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
            setattr(options, f"use_{option}", is_half)
        options.use_bf16_storage = False
        for load, file in ((self._net.load_param, NCNN_PARAM), (self._net.load_model, NCNN_BIN)):
            if load(str(place.parent / file)) != 0:
                message = f"ncnn cannot read {file}; was it made by --prebuild?"
                raise RuntimeError(message)
        if not self._net.opt.use_vulkan_compute:  # as it does without a word
            message = "ncnn has fallen back to the processor"
            raise RuntimeError(message)
        self._names = self._net.input_names()[0], self._net.output_names()[0]
        # The Mats only refer to them.
        self._images = images(Architecture.from_dict(facts["architecture"]), facts["batch"])
        self._inputs = [ncnn.Mat(image) for image in self._images]
        self.logits()

    @staticmethod
    def describe() -> str:
        """Return ncnn's version and the device that it takes.

        Raises
        ------
        RuntimeError
            If it sees none.
        """
        import ncnn

        if ncnn.get_gpu_count() < 1:
            message = f"ncnn {ncnn.__version__} sees no Vulkan device"
            raise RuntimeError(message)
        device = ncnn.get_gpu_info(ncnn.get_default_gpu_index()).device_name()
        return f"ncnn {ncnn.__version__}, {device}"

    def _call(self) -> list[Any]:
        outputs = []
        for image in self._inputs:
            extractor = self._net.create_extractor()
            extractor.input(self._names[0], image)
            outputs.append(extractor.extract(self._names[1])[1])
        return outputs

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        return np.stack([np.array(output, np.float32).ravel() for output in self._call()])

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs by the host's clock, copies among them."""
        return timed(self._call, repeats)

    end_to_end_ms = device_ms

    def runs(self, repeats: int) -> int:
        """Return the timed runs."""
        return repeats

    def close(self) -> None:
        """Let go of the network."""
        self._net.clear()
