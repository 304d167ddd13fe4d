"""The Once-for-All authors' published predictors, for comparisons only (never shipped).

Their accuracy predictor for the w1.2 MobileNetV3 space gives a predicted hold-out top-1, which is
not comparable with published ImageNet accuracy. `PhoneTable` reads their latency table of one
phone: sums of separately measured blocks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.predictors.slot_tables import SlotTables
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace

SPACE = "ofa_mbv3_d234_e346_k357_w1.2"
# The resolutions whose input weights look trained, and for which the phone table exists.
RESOLUTIONS = (160, 176, 192, 208, 224)


def authors_accuracy(folder: Path) -> AccuracyPredictor:
    """Return the authors' accuracy predictor, converted to one of ours."""
    from ofa_compile.predictors.accuracy_import import import_authors_predictor

    return import_authors_predictor(folder / "acc_predictor.pth", search_space(SPACE))


class PhoneTable:
    """The authors' latency table of one phone (five resolutions, w1.2), in milliseconds."""

    kind: Literal["measurement"] = "measurement"
    resolutions = RESOLUTIONS

    def __init__(self, folder: Path) -> None:
        self._space = search_space(SPACE)
        self._means: dict[str, float] = {}
        self._tables = SlotTables(self._space, lambda layers: _slot_row(self._means, layers), 1)
        smallest = self._space.indices([self._space.smallest()])
        for size in RESOLUTIONS:
            # One file per resolution, where even equal layers were measured anew: asking for a
            # resolution fills its part of the tables from the file that is loaded then.
            self._means = _read_table(folder / f"note10_{size}.yaml")
            smallest[0, 0] = self._space.resolutions.index(size)
            self._tables.total(smallest)

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the sum of the table's entries for each architecture."""
        return self.predict_indices(self._space, self._space.indices(architectures))

    def predict_indices(
        self, space: SearchSpace, indices: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Do the same for architectures given as choice indices, at `RESOLUTIONS` only."""
        assert space.name == SPACE
        return self._tables.total(indices)[:, 0]


def published_subnets(path: Path, network: str = "MobileNetV3") -> list[dict[str, Any]]:
    """Return the authors' specialised subnets that lie in the w1.2 space."""
    space = search_space(SPACE)
    found = []
    for item in json.loads(path.read_text(encoding="utf-8")):
        if item["network"] != network or item["stem_channels"] != 24:
            continue
        architecture = Architecture(
            space=SPACE,
            resolution=item["resolution"],
            depths=tuple(item["depths"]),
            kernel_sizes=tuple(map(tuple, item["kernel_sizes"])),
            expand_ratios=tuple(map(tuple, item["expand_ratios"])),
        )
        if space.contains(architecture):
            found.append({**item, "architecture": architecture})
    return found


def _slot_row(means: dict[str, float], layers: Sequence[LayerSpec]) -> NDArray[np.float64]:
    """Return the time of one slot's layers, of shape (1,)."""
    keys = []
    for layer in layers:
        if layer.kind == "conv":
            keys.append(f"Conv-{_io(layer)}")
        elif layer.name == "final_expand_layer":
            keys.append(f"Conv_1-{_io(layer)}")
        elif layer.kind == "global_pool":
            keys.append(f"AvgPool2D-{_io(layer)}")
        elif layer.name == "feature_mix_layer":
            keys.append(f"Conv_2-{_io(layer)}")
        elif layer.kind == "linear":
            keys.append(f"Logits-input:1x1x{layer.in_channels}-output:{layer.out_channels}")
    depthwise = next((layer for layer in layers if layer.kind == "depthwise"), None)
    if depthwise is not None:
        keys.append(_block_key(layers, depthwise))
    return np.array([sum(means[key] for key in keys)])


def _block_key(layers: Sequence[LayerSpec], depthwise: LayerSpec) -> str:
    """Return the table's name of an inverted residual block."""
    block = [layer for layer in layers if layer.kind != "conv"]
    project = block[-1]
    se = int(any(layer.kind == "squeeze_excite" for layer in block))
    in_channels = block[0].in_channels
    return (
        f"expanded_conv-input:{depthwise.in_size}x{depthwise.in_size}x{in_channels}-"
        f"output:{project.out_size}x{project.out_size}x{project.out_channels}-"
        f"expand:{depthwise.out_channels}-kernel:{depthwise.kernel_size}-"
        f"stride:{depthwise.stride}-idskip:{int(project.has_residual)}-se:{se}-"
        f"hs:{int(depthwise.activation == 'hswish')}"
    )


def _io(layer: LayerSpec) -> str:
    """Return the table's spelling of a layer's input and output."""
    first = f"{layer.in_size}x{layer.in_size}x{layer.in_channels}"
    second = f"{layer.out_size}x{layer.out_size}x{layer.out_channels}"
    return f"input:{first}-output:{second}"


def _read_table(path: Path) -> dict[str, float]:
    """Read the means out of one file; its YAML is two levels of plain keys."""
    means, key = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"(\S.*):", line):
            key = found[1]
        elif found := re.fullmatch(r"\s+mean: (\S+)", line):
            means[key] = float(found[1])
    return means
