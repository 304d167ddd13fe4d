"""ONNX file + calibration images -> quantised graph, and what it computes."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ofa_compile.cache import Cache, digest
from ofa_compile.compiler.graph import Graph
from ofa_compile.compiler.int8.quantise import QuantisedGraph, quantise
from ofa_compile.compiler.int8.ranges import Range, observe_ranges
from ofa_compile.compiler.int8.scheme import SIGNED_SHIFT
from ofa_compile.compiler.objects import code_fingerprint
from ofa_compile.compiler.onnx_file import onnx_identity
from ofa_compile.hardware.precision import byte_products, byte_type
from ofa_compile.hardware.target_spec import TargetSpec

logger = logging.getLogger(__name__)

_NAMESPACE = "int8"
_NOISE_IMAGES = 2
# Images whose logits are computed at once.
_IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Calibration:
    """Images on which the ranges of a network's values are observed.

    Attributes
    ----------
    identity
        Equal identities stand for equal images.
    what
        What the images are, for people.
    load
        Returns normalised inputs of shape (n, C, H, W); called only where no cache has the ranges.
    """

    identity: str
    what: str
    load: Callable[[], NDArray[np.float32]]


def calibration_for_timing(target: TargetSpec, resolution: int) -> Calibration | None:
    """Calibrate on noise, enough where only the time of a run is of interest; None in float."""
    return noise((3, resolution, resolution)) if target.precision == "int8" else None


def noise(shape: tuple[int, ...]) -> Calibration:
    """Calibrate on noise of a shape (C, H, W)."""

    def load() -> NDArray[np.float32]:
        return np.random.default_rng(0).standard_normal((_NOISE_IMAGES, *shape), dtype=np.float32)

    return Calibration(f"noise {_NOISE_IMAGES} {shape}", "noise", load)


def given_images(images: NDArray[np.float32]) -> Calibration:
    """Calibrate on normalised images of shape (n, C, H, W)."""
    data = np.ascontiguousarray(images, np.float32)
    identity = f"{data.shape} {hashlib.sha256(data.tobytes()).hexdigest()}"
    return Calibration(identity, f"{len(data)} images", lambda: data)


def quantised_graph(onnx_path: Path, calibration: Calibration, cache: Cache) -> QuantisedGraph:
    """Import a network and quantise it; ranges observed before come from the cache.

    Raises
    ------
    UserInputError, UnsupportedOperatorError
        If the file cannot be read, or an operation of it not be computed in numpy.
    DataError
        If the images do not fit.
    """
    from ofa_compile.compiler.import_onnx import import_onnx
    from ofa_compile.compiler.pipeline import INT8_PASSES, run_passes

    graph = import_onnx(onnx_path)
    run_passes(graph, INT8_PASSES)
    key = digest(onnx_identity(onnx_path), calibration.identity, code_fingerprint(), "ranges")
    ranges = _load_ranges(cache, key, graph)
    if ranges is None:
        ranges = observe_ranges(graph, calibration.load())
        cache.put(_NAMESPACE, key, _pack_ranges(ranges, graph))
    return quantise(graph, ranges)


def quantised_logits(
    onnx_path: Path,
    target: TargetSpec,
    calibration: Calibration,
    inputs: NDArray[np.float32],
    cache: Cache,
) -> NDArray[np.float32]:
    """Return what a quantised network computes on a target, from the cache if asked before."""
    from ofa_compile.compiler.int8.reference import compute_quantised

    data = hashlib.sha256(np.ascontiguousarray(inputs).tobytes()).hexdigest()
    identity = onnx_identity(onnx_path)
    shift = 0 if byte_type(byte_products(target)) == "uint8" else SIGNED_SHIFT
    key = digest(identity, calibration.identity, code_fingerprint(), data, f"logits {shift}")
    stored = _load_arrays(cache, key)
    if stored is not None:
        return stored["logits"]
    quantised = quantised_graph(onnx_path, calibration, cache)
    batches = range(0, len(inputs), _IMAGES_AT_ONCE)
    parts = [compute_quantised(quantised, inputs[i : i + _IMAGES_AT_ONCE], shift) for i in batches]
    logits = np.concatenate(parts)
    cache.put(_NAMESPACE, key, _pack({"logits": logits}))
    return logits


def _values(graph: Graph) -> list[int]:
    """Ids of all values in their order: the ids themselves differ from import to import."""
    return [graph.input.id, *(node.output.id for node in graph.nodes)]


def _pack_ranges(ranges: dict[int, Range], graph: Graph) -> bytes:
    arrays = {}
    for number, value in enumerate(_values(graph)):
        seen = ranges[value]
        arrays[str(number)] = np.stack([seen.low, seen.high, seen.energy])
    return _pack(arrays)


def _load_ranges(cache: Cache, key: str, graph: Graph) -> dict[int, Range] | None:
    stored = _load_arrays(cache, key)
    values = _values(graph)
    if stored is None or len(stored) != len(values):
        return None
    return {value: Range(*stored[str(number)]) for number, value in enumerate(values)}


def _pack(arrays: dict[str, NDArray[np.float64]] | dict[str, NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _load_arrays(cache: Cache, key: str) -> dict[str, NDArray[np.float32]] | None:
    path = cache.get(_NAMESPACE, key)
    if path is None:
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
        logger.warning("ignoring a damaged cache entry (%s)", err)
        return None
