"""Networks and kernels that are compiled in one place and run in another, without TVM or nvcc:

    python tests/cuda/kit_build.py FOLDER --architectures sm_90      # writes FOLDER.tar.xz
    OFA_CUDA_KIT=FOLDER.tar.xz PYTHONPATH=. python -m pytest -m "" -rs -o filterwarnings=default \\
        tests/cuda/test_on_gpu.py tests/cuda/test_networks.py        # where the GPU is

These tests need NumPy, onnx and pytest, and a C compiler to watch what is called. Without a kit
they build what they run.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ofa_compile.tuning.gpu_program import CandidateNetwork

if TYPE_CHECKING:
    from kit_build import Builder

VARIABLE = "OFA_CUDA_KIT"
"""Variable of the environment that names a kit: a folder, or the archive of one."""
PRECISIONS = ("fp32", "tf32", "fp16")
KERNELS = ("products", "windows", "separables", "maps")
SHAPE = (3, 24, 20)
PREFIX = "ofa_kit_"
FACTS = "facts.json"
ARRAYS = "arrays.npz"


@dataclass(frozen=True)
class Network:
    """A compiled network.

    Attributes
    ----------
    library, executable
        Its files; the library's names begin with `PREFIX`.
    steps
        Symbols of the kernel of every step.
    x, logits
        Inputs, and what they give; empty where nobody compares.
    """

    library: Path
    executable: Path
    steps: list[str]
    x: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Subnet:
    """A subnet of a search space, as `benchmarks/gpu_prebuilt.py` writes it."""

    library: Path
    facts: Mapping[str, Any]


class Kit:
    """What was built; what is not there is built when it is asked for, or the test skipped.

    Parameters
    ----------
    folder
        Of all of it.
    builder
        What builds; None where that cannot be.
    lacks
        Why there is no builder.
    """

    def __init__(self, folder: Path, builder: Builder | None, lacks: str = "") -> None:
        self.folder, self._builder, self._lacks = folder, builder, lacks

    def network(self, precision: str = "fp32", batch: int = 1) -> Network:
        """Return a small MobileNet, and what ONNX's evaluator says that it computes."""
        place = self._have(
            f"network-{precision}-{batch}", lambda b, place: b.network(place, precision, batch)
        )
        return _network(place)

    def oddity(self, name: str) -> Network:
        """Return a network of one kernel that goes wrong unless its input is 0.

        "endless" does not end within a test's patience, "stray" writes to an address without
        memory.
        """
        return _network(self._have(name, lambda b, place: b.oddity(place, name)))

    def kernels(self, precision: str, name: str) -> list[tuple[str, CandidateNetwork]]:
        """Return the workloads of one of `KERNELS`, each with its configurations as candidates."""
        place = self._have(
            f"kernels-{precision}-{name}", lambda b, place: b.kernels(place, precision, name)
        )
        return [_candidates(place, entry) for entry in _facts(place)["networks"]]

    def subnets(self, precision: str) -> list[Subnet]:
        """Return subnets of the search spaces, of batch 1 and of more."""
        place = self._have(f"subnets-{precision}", lambda b, place: b.subnets(place, precision))
        return [
            Subnet(place / entry["place"] / "libsubnet.so", entry)
            for entry in _facts(place)["networks"]
        ]

    def _have(self, name: str, build: Callable[[Builder, Path], None]) -> Path:
        place = self.folder / name
        if not (place / FACTS).is_file():
            if self._builder is None:
                pytest.skip(f"{name} is not in {self.folder}, and cannot be built: {self._lacks}")
            place.mkdir(parents=True, exist_ok=True)
            build(self._builder, place)
        return place


def unpack(kit: Path, folder: Path) -> Path:
    """Return the folder of a kit: itself, or the archive's contents in another."""
    if kit.is_dir():
        return kit.resolve()
    with tarfile.open(kit) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _facts(place: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((place / FACTS).read_text(encoding="utf-8"))
    return facts


def _network(place: Path) -> Network:
    with np.load(place / ARRAYS) as arrays:
        x, logits = arrays["x"], arrays["logits"]
    steps = _facts(place)["steps"]
    return Network(place / "libsubnet.so", place / "subnet", steps, x, logits)


def _candidates(place: Path, entry: Mapping[str, Any]) -> tuple[str, CandidateNetwork]:
    folder = place / entry["place"]
    return entry["workload"], CandidateNetwork(
        folder / "libsubnet.so",
        tuple(entry["outputs"]),
        tuple(entry["num_launches"]),
        folder / ARRAYS,
        entry["is_tf32"],
    )
