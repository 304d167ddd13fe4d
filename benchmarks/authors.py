"""The Once-for-All authors' published predictors, for comparisons only (never shipped).

`AuthorsAccuracy` reads their accuracy predictor for the w1.2 MobileNetV3 space: a predicted
hold-out top-1, not comparable with published ImageNet accuracy. `PhoneTable` reads their latency
table of one phone: sums of separately measured blocks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ofa_compile.predictors.slot_tables import SlotTables
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import ABSENT, SearchSpace

SPACE = "ofa_mbv3_d234_e346_k357_w1.2"
# The resolutions whose input weights look trained, and for which the phone table exists.
RESOLUTIONS = (160, 176, 192, 208, 224)


class AuthorsAccuracy:
    """The authors' accuracy predictor: 128 inputs, three hidden layers of 400."""

    resolutions = RESOLUTIONS

    def __init__(self, path: Path) -> None:
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
        self._layers = [
            (state[f"{i}.weight"].numpy().T.copy(), state[f"{i}.bias"].numpy())
            for i in (0, 2, 4, 6)
        ]
        self._space = search_space(SPACE)
        self._columns = self._input_columns()

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the predicted hold-out top-1 fraction of each architecture."""
        return self.predict_indices(self._space, self._space.indices(architectures))

    def predict_indices(
        self, space: SearchSpace, indices: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Do the same for architectures given as choice indices."""
        assert space.name == SPACE
        values = np.zeros((len(indices), 128), dtype=np.float32)
        rows = np.arange(len(indices))
        for gene, offset in self._columns.items():
            present = indices[:, gene] != ABSENT
            values[rows[present], offset + indices[present, gene]] = 1.0
        sizes = np.array(self._space.resolutions)[indices[:, 0]]
        values[rows, 120 + (sizes - 112) // 16] = 1.0
        for number, (weight, bias) in enumerate(self._layers):
            values = values @ weight + bias
            if number < 3:
                np.maximum(values, 0.0, out=values)
        return values[:, 0].astype(np.float64)

    def _input_columns(self) -> dict[int, int]:
        """Return the first input of each block gene: kernel sizes, then expand ratios."""
        columns = {}
        for column, gene in enumerate(self._space.genes):
            if gene.slot >= 0:
                base = 0 if gene.name.startswith("kernel_size") else 60
                columns[column] = base + 3 * (4 * gene.stage + gene.slot)
        return columns


class PhoneTable:
    """The authors' latency table of one phone (five resolutions, w1.2), in milliseconds."""

    kind: Literal["measurement"] = "measurement"
    resolutions = RESOLUTIONS

    def __init__(self, folder: Path) -> None:
        # One table per resolution: the same small layer was measured anew for each.
        self._space = search_space(SPACE)
        self._tables = {}
        for size in RESOLUTIONS:
            means = _read_table(folder / f"note10_{size}.yaml")
            self._tables[size] = SlotTables(self._space, partial(_slot_row, means), 1)

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the sum of the table's entries for each architecture."""
        return self.predict_indices(self._space, self._space.indices(architectures))

    def predict_indices(
        self, space: SearchSpace, indices: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Do the same for architectures given as choice indices."""
        assert space.name == SPACE
        total = np.full(len(indices), np.nan)
        for size, tables in self._tables.items():
            rows = indices[:, 0] == self._space.resolutions.index(size)
            total[rows] = tables.total(indices[rows])[:, 0]
        return total


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
