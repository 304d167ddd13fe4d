"""`manifest.json`: everything a bundle says about itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ofa_compile.bundle.preprocess import CHANNEL_ORDER, Preprocessing
from ofa_compile.errors import ArtifactError, OfaCompileError, UserInputError
from ofa_compile.hardware.platform import PLATFORMS, Platform, platform_of
from ofa_compile.hardware.target_spec import TargetSpec

FORMAT = "ofa-compile-bundle"
SCHEMA_VERSION = 1

MANIFEST_NAME = "manifest.json"
HEADER_NAME = "subnet.h"
ONNX_NAME = "subnet.onnx"
LABELS_NAME = "labels.txt"
# What a bundle of any platform may hold.
BUNDLE_FILES = frozenset({MANIFEST_NAME, HEADER_NAME, ONNX_NAME, LABELS_NAME}).union(
    *(platform.files for platform in PLATFORMS)
)

FigureKind = Literal["predicted", "estimated", "measured"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number about a subnet, and where it comes from.

    Attributes
    ----------
    value
        In the unit that the figure's name ends with.
    kind
        "measured" on the device or on images, "predicted" by a fitted predictor, or "estimated" by
        a model of the machine. The three are never mixed up.
    source
        What measured, predicted or estimated it, in words; may be empty.
    """

    value: float
    kind: FigureKind
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse a figure that does not say what it is."""
        if self.kind not in get_args(FigureKind):
            msg = f"a figure is predicted, estimated or measured, not {self.kind!r}"
            raise UserInputError(msg)
        if not math.isfinite(self.value):
            msg = f"a figure must be a finite number, got {self.value}"
            raise UserInputError(msg)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes
    ----------
    input_shape, output_shape
        (N, 3, H, W) and (N, classes).
    preprocessing
        From an image to the input.
    labels
        One per class.
    symbol_prefix
        Start of every name that the library exports.
    target
        What the code was built for (see `describe_target`).
    architecture, architecture_hash
        Canonical fields and hash; None for a network that came as an ONNX file.
    supernet
        Name and weights hash of the supernet, or None.
    network
        Facts known exactly: MACs, parameters, bytes of weights and of the arena.
    figures
        Numbers that are predicted, estimated or measured, by name.
    verification
        What `VerificationResult.to_dict` returned, or {"verified": False, "reason": ...}.
    versions
        Tool -> version.
    files
        Name -> {"sha256", "bytes"} of every other file of the bundle.
    precision
        "fp32", "tf32", "fp16", or "int8" for a quantised network.
    quantisation
        Of a quantised network: how many layers are in which precision, what it was calibrated on,
        and how far its logits are from those in float; else None.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    symbol_prefix: str
    target: Mapping[str, Any]
    architecture: Mapping[str, Any] | None = None
    architecture_hash: str | None = None
    supernet: Mapping[str, Any] | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    precision: str = "fp32"
    quantisation: Mapping[str, Any] | None = None

    @property
    def platform(self) -> Platform:
        """What the bundle's executable and library are."""
        return platform_of(str(self.target["triple"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "input": {
                "name": "input",
                "shape": list(self.input_shape),
                "dtype": "float32",
                "layout": "NCHW",
                "channel_order": CHANNEL_ORDER,
                "pixel_range": [0.0, 1.0],
                **self.preprocessing.to_dict(),
            },
            "output": {"name": "logits", "shape": list(self.output_shape), "dtype": "float32"},
            "labels": list(self.labels),
            "target": dict(self.target),
            "architecture": None if self.architecture is None else dict(self.architecture),
            "architecture_hash": self.architecture_hash,
            "supernet": None if self.supernet is None else dict(self.supernet),
            "symbol_prefix": self.symbol_prefix,
            "precision": self.precision,
            "quantisation": None if self.quantisation is None else dict(self.quantisation),
            "network": dict(self.network),
            "figures": {name: asdict(figure) for name, figure in sorted(self.figures.items())},
            "verification": dict(self.verification),
            "versions": dict(sorted(self.versions.items())),
            "files": {name: dict(record) for name, record in sorted(self.files.items())},
        }

    def to_json(self) -> str:
        """Return the text of `manifest.json`; equal manifests give equal bytes."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = MANIFEST_NAME) -> Manifest:
        """Parse the text of a manifest.

        Parameters
        ----------
        text
            JSON document.
        source
            Where it came from, for messages.

        Raises
        ------
        ArtifactError
            If it is no manifest, or of another schema version.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            msg = f"{source} is not valid JSON: {error}"
            raise ArtifactError(msg, hint="compile the bundle again") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            msg = f"{source} is not the manifest of a bundle"
            raise ArtifactError(msg, hint="give the folder that ofa-compile wrote")
        version = document.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            msg = f"{source} has schema version {version!r}, this release reads {SCHEMA_VERSION}"
            raise ArtifactError(msg, hint="compile the bundle again with this release")
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, ValueError, AttributeError, OfaCompileError) as error:
            reason = f"misses {error}" if isinstance(error, KeyError) else str(error)
            msg = f"{source} is damaged: {reason}"
            raise ArtifactError(msg, hint="compile the bundle again") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Manifest:
        output_shape = _shape(document["output"]["shape"], 2)
        return cls(
            input_shape=_shape(document["input"]["shape"], 4),
            output_shape=output_shape,
            preprocessing=Preprocessing.from_dict(document["input"]),
            labels=check_labels([str(v) for v in _list(document["labels"])], output_shape[1]),
            symbol_prefix=str(document["symbol_prefix"]),
            target=dict(document["target"]),
            architecture=document["architecture"],
            architecture_hash=document["architecture_hash"],
            supernet=document["supernet"],
            precision=str(document["precision"]),
            quantisation=document["quantisation"],
            network=dict(document["network"]),
            figures={name: Figure(**fields) for name, fields in document["figures"].items()},
            verification=dict(document["verification"]),
            versions=dict(document["versions"]),
            files={
                _plain_name(name): {"sha256": str(r["sha256"]), "bytes": int(r["bytes"])}
                for name, r in document["files"].items()
            },
        )


def _shape(values: object, length: int) -> tuple[int, ...]:
    sizes = _list(values)
    if len(sizes) != length or not all(type(size) is int and size > 0 for size in sizes):
        msg = f"shape {sizes} is not {length} positive sizes"
        raise ValueError(msg)
    return tuple(sizes)


def _list(values: object) -> list[Any]:
    if not isinstance(values, list):
        msg = f"{values!r} is not a list"
        raise TypeError(msg)
    return values


def _plain_name(name: str) -> str:
    # A manifest from elsewhere must not point outside its folder.
    if name != Path(name).name or name in {"", ".", ".."}:
        msg = f"file name {name!r} is not a plain name"
        raise ValueError(msg)
    return name


def describe_target(target: TargetSpec) -> dict[str, Any]:
    """Return what a bundle must know about its target to be run later."""
    return {
        "name": target.name,
        "arch": target.arch,
        "triple": target.triple,
        "tvm_target": dict(target.tvm_target),
        "requires": list(target.core.requires),
        "emulator": None if target.emulator is None else list(target.emulator.command),
        "runner": asdict(target.runner),
        "linkers": list(target.toolchain.linkers),
        "compiler_flags": list(target.toolchain.flags),
        "fingerprint": target.fingerprint,
    }


def content_files(platform: Platform) -> tuple[str, ...]:
    """Return the files of a bundle for a platform, besides its manifest."""
    return (*platform.files, HEADER_NAME, ONNX_NAME, LABELS_NAME)


def hash_file(path: Path) -> dict[str, Any]:
    """Return the record of a file: SHA-256 and size."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def check_labels(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return the labels of a bundle; without any, "class 0" and so on.

    Raises
    ------
    UserInputError
        If their number is wrong or one cannot be a line of a text file.
    """
    if not labels:
        return tuple(f"class {index}" for index in range(classes))
    if len(labels) != classes:
        msg = f"{len(labels)} labels for a network of {classes} classes"
        raise UserInputError(msg)
    for index, label in enumerate(labels):
        if not label or not label.isprintable():
            msg = f"label {index} is {label!r}: it must be one line of printable text"
            raise UserInputError(msg)
    return tuple(labels)
