"""Subnets ready to compile: extracted, calibrated, exported, run in PyTorch, and kept in the cache.

With one from the cache a bundle is built without importing torch or TVM.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import logging
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.verify import Reference, noise_inputs, num_verification_inputs
from ofa_compile.cache import Cache, digest, source_digest
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.options import CompileOptions, SupernetOptions
from ofa_compile.space import Architecture
from ofa_compile.workflows.subnets import is_embedded

if TYPE_CHECKING:
    from ofa_compile.supernet import Supernet

logger = logging.getLogger(__name__)

_SUBNETS = "subnets"
_MODELS = "models"


@dataclass(frozen=True, kw_only=True)
class SubnetFacts:
    """What a bundle says about where its subnet comes from."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labels: tuple[str, ...]
    num_classes: int
    weights_hash: str
    calibration: str


@dataclass(frozen=True)
class PreparedSubnet:
    """Calibrated subnet as ONNX in the cache, what PyTorch says, and facts of its supernet."""

    onnx: Path
    reference: Reference
    facts: SubnetFacts


def prepared_subnet(
    options: CompileOptions, architecture: Architecture, target: TargetSpec, cache: Cache
) -> PreparedSubnet:
    """Take the subnet from the cache, or extract, calibrate, export and run it."""
    count = num_verification_inputs(architecture.resolution, is_emulated=target.is_emulated)
    count = max(count, options.batch)  # so that every place of a batch is checked
    key = digest(
        _supernet_identity(options),
        architecture.to_json(),
        calibration_identity(options),
        str(count),
        str(options.accuracy_data),
        str(options.seed),
        str(options.batch),
        _code_identity(),
    )
    path = cache.get(_SUBNETS, key)
    if path is not None:
        stored = _read_subnet(path, cache)
        if stored is not None:
            return stored
    subnet = _make_subnet(options, architecture, count, cache)
    cache.put(_SUBNETS, key, _pack_subnet(subnet))
    return subnet


def _make_subnet(
    options: CompileOptions, architecture: Architecture, count: int, cache: Cache
) -> PreparedSubnet:
    if not options.no_calibration:
        from ofa_compile.training import native

        native.compile_ahead("torch_block")  # while torch is imported
    from ofa_compile.export import export_onnx
    from ofa_compile.supernet import compute_logits
    from ofa_compile.workflows import subnets

    supernet = subnets.load_options_supernet(options)
    images = subnets.calibration_images(options, architecture)
    module = subnets.extract_calibrated(supernet, architecture, images)
    with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
        path = Path(folder) / "subnet.onnx"
        export_onnx(module, path, resolution=architecture.resolution, batch=options.batch)
        model = path.read_bytes()
    inputs, kind = _verification_inputs(options, supernet, architecture, count)
    mean, std = subnets.normalization(supernet)
    facts = SubnetFacts(
        mean=mean,
        std=std,
        labels=subnets.class_labels(supernet),
        num_classes=supernet.num_classes,
        weights_hash=supernet.weights_hash,
        calibration="none" if images is None else f"{len(images)} images",
    )
    reference = Reference(inputs=inputs, logits=compute_logits(module, inputs), input_kind=kind)
    return PreparedSubnet(cache.put(_MODELS, digest(model), model), reference, facts)


def _verification_inputs(
    options: CompileOptions, supernet: Supernet, architecture: Architecture, count: int
) -> tuple[NDArray[np.float32], str]:
    """Real images where the user named a data set, otherwise seeded noise."""
    folder = options.accuracy_data or options.calibration_data
    resolution = architecture.resolution
    if folder is None:
        return noise_inputs((1, 3, resolution, resolution), count, options.seed), "noise"
    from ofa_compile.training.data import normalize, resize
    from ofa_compile.training.image_sample import sample_images
    from ofa_compile.workflows.subnets import normalization

    size, seed = max(supernet.space.resolutions), options.seed
    chosen = sample_images(folder, count, size=size, seed=seed, prefers_test=True)
    images = normalize(chosen, *normalization(supernet))
    inputs = np.ascontiguousarray(resize(images, resolution).numpy(), np.float32)
    return inputs, "images"


def _pack_subnet(subnet: PreparedSubnet) -> bytes:
    buffer = io.BytesIO()
    facts = {
        **asdict(subnet.facts),
        "input_kind": subnet.reference.input_kind,
        "onnx": subnet.onnx.name,
    }
    np.savez(
        buffer,
        inputs=subnet.reference.inputs,
        logits=subnet.reference.logits,
        facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
    )
    return buffer.getvalue()


def _read_subnet(path: Path, cache: Cache) -> PreparedSubnet | None:
    """Return what was stored, if the model is still there, too."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in json.loads(stored["facts"].tobytes()).items()
            }
            kind = fields.pop("input_kind")
            onnx = cache.get(_MODELS, fields.pop("onnx"))
            facts = SubnetFacts(**fields)
            reference = Reference(inputs=stored["inputs"], logits=stored["logits"], input_kind=kind)
            return None if onnx is None else PreparedSubnet(onnx, reference, facts)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as err:
        logger.warning("ignoring a damaged cache entry (%s)", err)
        return None


def _code_identity() -> str:
    """Hash of the code that turns weights into an ONNX file."""
    packages = ("space", "supernet", "training", "export", "workflows")
    return source_digest(*(f"ofa_compile.{package}" for package in packages))


def _supernet_identity(options: SupernetOptions) -> str:
    path = Path(options.supernet)
    if is_embedded(options.supernet):
        name = f"{options.supernet}.safetensors"
        path = Path(str(importlib.resources.files("ofa_compile.weights") / name))
    try:
        with path.open("rb") as file:
            return f"{options.space} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return f"{options.space} {options.supernet}"  # loading it will say what is wrong


def calibration_identity(options: SupernetOptions) -> str:
    """Hash of the images that batch norm, or whatever else, is calibrated on."""
    if options.no_calibration:
        return "none"
    if options.calibration_data is not None:
        return _listing(options.calibration_data)
    resource = importlib.resources.files("ofa_compile.weights")
    entry = resource / f"{options.supernet}.calibration.npz"
    return hashlib.sha256(entry.read_bytes()).hexdigest() if entry.is_file() else "missing"


def _listing(path: Path) -> str:
    """Identity of a file or folder by names, sizes and times of change."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    entries = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        entries.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return digest(*entries)
