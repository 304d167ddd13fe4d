"""Append-only store of subnet accuracies, one JSON document per line."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_compile.errors import ArchitectureError, DataError
from ofa_compile.space import Architecture

__all__ = ["AccuracyRecord", "append_record", "read_records"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AccuracyRecord:
    """Accuracy of one subnet.

    Attributes
    ----------
    architecture
        The subnet's architecture.
    top1
        Fraction of the images whose class was right.
    num_images
        Images evaluated.
    num_calibration_images
        Images that batch norm was calibrated on.
    data
        What the images are: ``train-held-out`` or ``test``.
    supernet
        Hash of the supernet's weights.
    calibration_seed
        Which choice of calibration images.
    view
        How the images were turned: see `training.evaluate.held_out_images`.
    """

    architecture: Architecture
    top1: float
    num_images: int
    num_calibration_images: int
    data: str
    supernet: str
    calibration_seed: int = 0
    view: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "measurement",
            "architecture": json.loads(self.architecture.to_json()),
            "top1": self.top1,
            "num_images": self.num_images,
            "num_calibration_images": self.num_calibration_images,
            "data": self.data,
            "supernet": self.supernet,
            "calibration_seed": self.calibration_seed,
            "view": self.view,
        }


def append_record(path: Path, record: AccuracyRecord) -> None:
    """Append one record, on a line of its own even after a torn last line.

    Several processes may append to one file: each holds a lock while it does.
    """
    line = json.dumps(record.to_dict(), sort_keys=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # until the file is closed
        if stream.seek(0, os.SEEK_END) > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                line = "\n" + line
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_records(path: Path) -> list[AccuracyRecord]:
    """Read all records.

    A line that a killed writer left unfinished is passed over; any other malformed line is an
    error.

    Returns
    -------
    Records in file order; none if the file does not exist.

    Raises
    ------
    DataError
        If a whole line is not a record of this schema version; the message names the line.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue  # torn by a kill: records are written in one piece, so no whole one is lost
        try:
            records.append(_parse(values))
        except (KeyError, TypeError, ValueError, ArchitectureError) as err:
            message = f"{path}, line {number}: not an accuracy record: {err}"
            hint = "Accuracy data sets are written by `ofa-compile evaluate`."
            raise DataError(message, hint=hint) from err
    return records


def _parse(values: dict[str, Any]) -> AccuracyRecord:
    """Build a record from its JSON values."""
    if values["schema_version"] != SCHEMA_VERSION:
        message = f"schema_version {values['schema_version']!r}, expected {SCHEMA_VERSION}"
        raise ValueError(message)
    top1 = float(values["top1"])
    if not 0.0 <= top1 <= 1.0:
        message = f"top1 is {top1}, must lie in 0..1"
        raise ValueError(message)
    return AccuracyRecord(
        architecture=Architecture.from_json(json.dumps(values["architecture"])),
        top1=top1,
        num_images=int(values["num_images"]),
        num_calibration_images=int(values["num_calibration_images"]),
        data=str(values["data"]),
        supernet=str(values["supernet"]),
        calibration_seed=int(values.get("calibration_seed", 0)),
        view=int(values.get("view", 0)),
    )
