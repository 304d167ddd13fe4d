"""Turn the Once-for-All authors' accuracy predictor into one of ours.

Theirs is an MLP on one-hot kernel sizes and expand ratios (all zero for an absent block) and a
one-hot resolution. Our encoding holds the same inputs in another order, so their first layer's rows
are moved to our places and the prediction stays what it was.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ofa_compile.errors import ArchitectureError, CheckpointError
from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.space import SearchSpace

# Their encoding: 5 stages x 4 blocks x 3 kernel sizes, the same for expand ratios, then the
# resolutions 112, 128, ..., 224.
_BLOCKS_PER_STAGE = 4
_CHOICES = 3
_FIRST_INPUT = {"kernel_size": 0, "expand_ratio": 60}
_RESOLUTION_INPUT, _FIRST_RESOLUTION, _RESOLUTION_STEP = 120, 112, 16
_LAYERS = (0, 2, 4, 6)  # the odd numbers are activations
_SHAPES = ((400, 128), (400, 400), (400, 400), (1, 400))
# At 112, 128 and 144 pixels it promises more than at 160: it has not learnt those.
_LEARNT = (160, 176, 192, 208, 224)

SPACE = "ofa_mbv3_d234_e346_k357_w1.2"


def import_authors_predictor(path: Path, space: SearchSpace) -> AccuracyPredictor:
    """Read the authors' predictor for the width-1.2 MobileNetV3 space.

    Parameters
    ----------
    path
        Their file; read as plain tensors, so that nothing in it is executed.
    space
        Must be the space that it was trained on.

    Raises
    ------
    ArchitectureError
        If it is another space.
    CheckpointError
        If the file cannot be read, or holds another network.
    """
    if space.name != SPACE:
        message = f"the authors' accuracy predictor is for {SPACE}, not for {space.name}"
        raise ArchitectureError(message, hint=f"pass --space {SPACE}")
    state = _read(path)
    first = state["0.weight"].T
    weights = {
        "linear.weight": np.zeros(space.encoding_size, np.float32),
        "scale": np.array([0.0, 1.0], np.float32),
    }
    for number, layer in enumerate(_LAYERS):
        weight = _moved(first, space) if layer == 0 else state[f"{layer}.weight"].T
        weights[f"mlp.{number}.weight"] = np.ascontiguousarray(weight)[None]
        weights[f"mlp.{number}.bias"] = state[f"{layer}.bias"][None]
    report = {"source": "the Once-for-All authors' predictor: hold-out top-1 of the supernet"}
    return AccuracyPredictor(space, weights, report, _LEARNT)


def _moved(first: NDArray[np.float32], space: SearchSpace) -> NDArray[np.float32]:
    """Reorder the rows of their first layer; inputs that they lack get zeros."""
    moved = np.zeros((space.encoding_size, first.shape[1]), np.float32)
    for gene, offset in zip(space.genes, space.encoding_offsets, strict=False):
        name = gene.name.split(".", 1)[0]
        if name == "resolution":
            for resolution in _LEARNT:
                theirs = _RESOLUTION_INPUT + (resolution - _FIRST_RESOLUTION) // _RESOLUTION_STEP
                moved[offset + gene.choices.index(resolution)] = first[theirs]
        elif name in _FIRST_INPUT:
            block = _BLOCKS_PER_STAGE * gene.stage + gene.slot
            theirs = _FIRST_INPUT[name] + _CHOICES * block
            moved[offset : offset + _CHOICES] = first[theirs : theirs + _CHOICES]
    return moved


def _read(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read their tensors and check that they are the layers that are expected."""
    try:
        with warnings.catch_warnings():
            # Their file has the format of PyTorch 1.x.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler lets through what a damaged file makes it do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"cannot read {path} as a plain set of tensors: {reason}"
        raise CheckpointError(message, hint="pass the authors' acc_predictor.pth") from error
    wanted: dict[str, tuple[int, ...]] = {
        f"{n}.weight": shape for n, shape in zip(_LAYERS, _SHAPES, strict=True)
    }
    wanted |= {f"{n}.bias": shape[:1] for n, shape in zip(_LAYERS, _SHAPES, strict=True)}
    is_table = isinstance(state, dict) and all(torch.is_tensor(v) for v in state.values())
    found = {name: tuple(value.shape) for name, value in state.items()} if is_table else None
    if found != wanted:
        shapes = ", ".join(f"{name} {shape}" for name, shape in (found or {}).items()) or "none"
        message = f"{path} is not the authors' accuracy predictor of {SPACE}: its tensors are "
        raise CheckpointError(message + shapes, hint="pass the authors' acc_predictor.pth")
    return {name: value.to(torch.float32).numpy() for name, value in state.items()}
