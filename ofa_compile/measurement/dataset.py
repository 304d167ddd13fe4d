"""Append-only store of latency records, one JSON document per line (see `json_lines`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ofa_compile.errors import ArtifactError, DataError
from ofa_compile.json_lines import append_lines, decode_record, encode_record, read_records
from ofa_compile.space.architecture import Architecture

SCHEMA_VERSION = 1

LatencyKind = Literal["measurement", "estimate"]
Role = Literal["sample", "reference", "repeat"]
CacheState = Literal["warm", "cold"]


@dataclass(frozen=True, kw_only=True)
class LatencyRecord:
    """What became of timing one subnet on one target.

    Attributes
    ----------
    architecture
        The subnet.
    target, target_fingerprint
        Name of the hardware target, and the hash of its resolved description.
    kind
        `measurement` was read on the device, `estimate` comes from a model of it.
    role
        `reference` for the anchor of a session, `repeat` for a sample measured once more, `sample`
        for everything else.
    threads, batch, precision, cache_state
        How the subnet ran.
    status, error
        `failed` records keep the reason, and have no figures.
    median_ms, p95_ms
        Of single runs, corrected for the drift of the machine.
    spread
        Half the 16-84 % range of the rounds' medians, as a fraction of `median_ms`.
    ci_half_width
        Half of the 95 % confidence interval of the median, as a fraction of it.
    num_runs, num_rounds
        How many timed runs in how many interleaved rounds stand behind the figures.
    drift
        This record's reference time over the session's first, minus one.
    energy_joules
        Of one run, by the counter of the GPU, idle power included; None where none can be read.
    is_converged
        Whether the confidence interval got as narrow as was asked.
    session
        Names the run of `measure` that wrote this; all of its records share one reference time.
    versions, machine
        Tool versions, and the facts of the machine that were readable.
    """

    architecture: Architecture
    target: str
    target_fingerprint: str
    kind: LatencyKind
    role: Role = "sample"
    threads: int = 1
    batch: int = 1
    precision: str = "float32"
    cache_state: CacheState = "warm"
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    spread: float | None = None
    ci_half_width: float | None = None
    num_runs: int = 0
    num_rounds: int = 0
    drift: float | None = None
    energy_joules: float | None = None
    is_converged: bool | None = None
    session: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def energy_mj(self) -> float | None:
        """Millijoules of one inference: a run's energy over its images."""
        return None if self.energy_joules is None else 1e3 * self.energy_joules / self.batch

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the line end."""
        return encode_record(self, SCHEMA_VERSION, architecture=self.architecture.to_dict())

    @classmethod
    def from_json(cls, text: str) -> LatencyRecord:
        """Read a record back.

        Raises
        ------
        ArtifactError
            If the text is no record of this schema version.
        """
        document = decode_record(text, SCHEMA_VERSION, cls, "latency record")
        if document["kind"] not in ("measurement", "estimate"):
            msg = f"kind must be 'measurement' or 'estimate', got {document['kind']!r}"
            raise ArtifactError(msg)
        median = document.get("median_ms")
        is_positive = (
            isinstance(median, int | float) and not isinstance(median, bool) and median > 0
        )
        if document.get("status", "ok") == "ok" and not is_positive:
            msg = f"median_ms of a record with status 'ok' must be positive, got {median!r}"
            raise ArtifactError(msg)
        text = json.dumps(document.pop("architecture"))
        return cls(architecture=Architecture.from_json(text), **document)


class LatencyDataset:
    """The latency records in one file, in the order they were written.

    Parameters
    ----------
    path
        The JSON Lines file. It need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, record: LatencyRecord) -> None:
        """Add one record; it is on the disk when this returns.

        Raises
        ------
        ArtifactError
            If the file cannot be written.
        """
        append_lines(self.path, [record.to_json()])

    def __iter__(self) -> Iterator[LatencyRecord]:
        """Yield every complete record.

        Raises
        ------
        ArtifactError
            If a complete line is no record, with file and line number.
        """
        hint = "measure again, or use the version that wrote the file"
        return read_records(self.path, LatencyRecord.from_json, hint)

    def records(
        self,
        *,
        kind: LatencyKind | None = None,
        target_fingerprint: str | None = None,
        code: str | None = None,
        cache_state: CacheState | None = None,
        role: Role = "sample",
    ) -> list[LatencyRecord]:
        """Return the successful samples, optionally under some conditions only."""
        return [
            record
            for record in self
            if record.status == "ok"
            and record.role == role
            and cache_state in (None, record.cache_state)
            and kind in (None, record.kind)
            and target_fingerprint in (None, record.target_fingerprint)
            and code in (None, record.versions.get("code", ""))
        ]


def only_one_kind(records: list[LatencyRecord]) -> LatencyKind:
    """Return the kind that all records share.

    Raises
    ------
    DataError
        If there are none, or measurements and estimates are mixed.
    """
    kinds = {record.kind for record in records}
    if len(kinds) != 1:
        found = " and ".join(sorted(kinds)) or "no records"
        msg = f"a predictor is fitted on one kind of latency, found {found}"
        raise DataError(msg, hint="keep measurements and estimates in files of their own")
    return kinds.pop()
