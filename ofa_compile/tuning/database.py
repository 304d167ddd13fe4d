"""The tuning database: what became of every trial on one kind of machine, one JSON line each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ofa_compile.compiler.workload import Separable, Workload, workload_from_dict
from ofa_compile.errors import ArtifactError
from ofa_compile.json_lines import (
    append_lines,
    decode_record,
    encode_record,
    read_lines,
    read_records,
)

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1

MIN_GAIN = 0.02
"""Below this gain over the default, a difference is noise."""
# The same for noisy rounds: a median of 18 has a standard error of 0.3 times their spread.
_SPREAD_SHARE = 0.5
MIN_FUSION_GAIN = 0.05
"""The same for one kernel over two, since these were not timed in the same rounds."""

Config = dict[str, Any]
LatencyKind = Literal["measurement", "estimate"]
KINDS: tuple[LatencyKind, ...] = ("measurement", "estimate")
Status = Literal["ok", "wrong", "crash", "timeout", "build"]
STATUSES: tuple[Status, ...] = ("ok", "wrong", "crash", "timeout", "build")


@dataclass(frozen=True, kw_only=True)
class TuningRecord:
    """One trial: a workload, a configuration of its kernel, and how that went.

    Attributes
    ----------
    workload
        What was computed.
    config
        How, in the kernel's own words.
    fingerprint
        Of the machine, TVM and threads (`fingerprint.tuning_fingerprint`).
    code
        Digest of the kernels; records of others are stale.
    status
        `ok`; or the failure: a `wrong` result, a `crash`, a `timeout`, or it did not `build`.
    error
        What went wrong, in words.
    time_us
        Time of a run in microseconds: the lower quartile of the default's rounds, times the median
        ratio to the default in rounds that both ran. Of boards, on the scale of the median one.
    spread
        Half the 16-84 % range of those ratios (for the default, of its times), as a fraction.
    roofline_share
        Time that the machine's peaks allow, over `time_us`.
    is_default
        Whether the kernel takes this configuration on its own.
    trial_s
        Wall time that building and measuring took.
    kind
        `measurement` was read on a device, `estimate` comes from a model of it.
    board
        The board that it ran on; None on this machine, and for what did not run.
    """

    workload: Workload
    config: Config
    fingerprint: str
    code: str
    status: Status
    error: str | None = None
    time_us: float | None = None
    spread: float | None = None
    roofline_share: float | None = None
    is_default: bool = False
    trial_s: float = 0.0
    kind: LatencyKind = "measurement"
    board: str | None = None

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the line end."""
        return encode_record(self, SCHEMA_VERSION, workload=self.workload.to_dict())

    @classmethod
    def from_json(cls, text: str) -> TuningRecord:
        """Read a record back.

        Raises
        ------
        ArtifactError
            If the text is no record of this schema version.
        """
        document = decode_record(text, SCHEMA_VERSION, cls, "tuning record")
        try:
            workload = workload_from_dict(document.pop("workload"))
        except (TypeError, KeyError, AttributeError) as error:
            msg = f"not a tuning record, as it has no workload: {text[:60]!r}"
            raise ArtifactError(msg) from error
        record = cls(workload=workload, **document)
        record._check()
        return record

    def _check(self) -> None:
        """Refuse values that no tuner writes."""
        is_number = isinstance(self.time_us, int | float) and not isinstance(self.time_us, bool)
        config_ok = isinstance(self.config, dict) and all(
            isinstance(value, list if name == "trace" else int)
            for name, value in self.config.items()
        )
        if self.status not in STATUSES or self.kind not in KINDS or not config_ok:
            msg = f"status {self.status!r}, kind {self.kind!r} or config {self.config!r} is not a "
            msg += "tuner's"
            raise ArtifactError(msg)
        if self.status == "ok" and not (is_number and self.time_us and self.time_us > 0):
            msg = f"time_us of a record with status 'ok' must be positive, got {self.time_us!r}"
            raise ArtifactError(msg)


class TuningDatabase:
    """The records in one file, in the order they were written.

    Several tuners may append to one file at a time; lines stay whole.

    Parameters
    ----------
    path
        The JSON Lines file. It need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[TuningRecord]) -> None:
        """Add records, all or none; they are on the disk when this returns.

        Raises
        ------
        ArtifactError
            If the file cannot be written.
        """
        append_lines(self.path, [record.to_json() for record in records])

    def __iter__(self) -> Iterator[TuningRecord]:
        """Yield every complete record; a torn last line is passed over with a warning.

        Raises
        ------
        ArtifactError
            If a complete line is no record, with file and line number.
        """
        if read_lines(self.path)[1]:
            logger.warning("%s ends in half a record, which is ignored", self.path)
        hint = "delete that line, or the file, and tune again"
        return read_records(self.path, TuningRecord.from_json, hint)

    def results(self, fingerprint: str, code: str) -> TuningResults:
        """Return what today's kernels did on one kind of machine."""
        records = [r for r in self if r.fingerprint == fingerprint and r.code == code]
        return TuningResults(records)


class TuningResults:
    """Comparable records by workload; of equal trials the last one counts.

    Attributes
    ----------
    history
        All records, in the order they came.
    """

    def __init__(self, records: Iterable[TuningRecord] = ()) -> None:
        self.history: list[TuningRecord] = []
        self._by_key: dict[str, dict[str, TuningRecord]] = {}
        for record in records:
            self.add(record)

    def add(self, record: TuningRecord) -> None:
        """Take one more record."""
        self.history.append(record)
        configs = self._by_key.setdefault(record.workload.key, {})
        configs[config_key(record.config)] = record

    def __iter__(self) -> Iterator[list[TuningRecord]]:
        """Yield the records of each workload."""
        return (list(configs.values()) for configs in self._by_key.values())

    def of(self, workload: Workload) -> list[TuningRecord]:
        """Return the records of one workload."""
        return list(self._by_key.get(workload.key, {}).values())

    def tried(self, workload: Workload) -> set[str]:
        """Return the configurations that were tried, whatever came of it, as `config_key`s."""
        return set(self._by_key.get(workload.key, ()))

    def best(self, workload: Workload) -> TuningRecord | None:
        """Return the fastest right record of a workload, or None."""
        return fastest(self.of(workload))

    def used(self) -> dict[str, TuningRecord]:
        """Return the record of every workload that a compilation uses, by the workload's key.

        The default's, unless another one beats it by more than the noise. A kernel for two
        workloads is used if it beats both, and has none here otherwise.
        """
        chosen = {
            key: record
            for key, records in self._by_key.items()
            if (record := preferred(records.values())) is not None
        }
        return {key: record for key, record in chosen.items() if _beats_parts(record, chosen)}

    def configs(self) -> dict[str, Config]:
        """Return the configuration to use for every workload, by the workload's key."""
        return {key: record.config for key, record in self.used().items()}


def _beats_parts(record: TuningRecord, chosen: Mapping[str, TuningRecord]) -> bool:
    if not isinstance(record.workload, Separable):
        return True
    parts = [chosen.get(part.key) for part in record.workload.parts]
    apart = sum(part.time_us or 0.0 for part in parts if part is not None)
    return None not in parts and apart > (1 + MIN_FUSION_GAIN) * (record.time_us or 0.0)


def preferred(records: Iterable[TuningRecord]) -> TuningRecord | None:
    """Return the fastest record, or the default's where the difference is noise."""
    found = list(records)
    best = fastest(found)
    default = fastest(record for record in found if record.is_default)
    if best is None or default is None or best.time_us is None or default.time_us is None:
        return best
    noise = max(MIN_GAIN, _SPREAD_SHARE * max(best.spread or 0.0, default.spread or 0.0))
    return best if default.time_us > (1 + noise) * best.time_us else default


def fastest(records: Iterable[TuningRecord]) -> TuningRecord | None:
    """Return the record with the smallest time among those with status `ok`."""
    timed = [record for record in records if record.status == "ok"]
    return min(timed, key=lambda record: record.time_us or 0.0, default=None)


def config_key(config: Config) -> str:
    """Return a text that is equal for equal configurations."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def record_summary(records: Iterable[TuningRecord]) -> dict[Status, int]:
    """Count records by status."""
    counts = dict.fromkeys(STATUSES, 0)
    for record in records:
        counts[record.status] += 1
    return counts
