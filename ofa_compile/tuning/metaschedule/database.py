"""MetaSchedule's database, one file per kind of machine, which survives whatever kills the tuner.

A line of JSON is a workload, named by a digest, or a record of one. The stock database numbers its
workloads instead, so that two tuners on one file mix them up, and cannot read what a killed one
leaves.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ofa_compile.cache import digest
from ofa_compile.compiler.generic_schedules import plain_values
from ofa_compile.compiler.tvm_api import Target, derived_object, meta_schedule
from ofa_compile.errors import ArtifactError
from ofa_compile.json_lines import (
    append_lines,
    decode_record,
    encode_record,
    read_lines,
    read_records,
)
from ofa_compile.tuning.fingerprint import module_fingerprint

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_HINT = "delete that line, or the file, and tune again"


@dataclass(frozen=True)
class _Line:
    """One line of the file.

    Attributes
    ----------
    kind
        What it is.
    fingerprint
        Of the machine it was written for.
    workload
        The workload's name.
    value
        The workload or the record, as TVM writes it.
    """

    kind: Literal["workload", "record"]
    fingerprint: str
    workload: str
    value: Any

    def to_json(self) -> str:
        return encode_record(self, SCHEMA_VERSION)

    @classmethod
    def from_json(cls, text: str) -> _Line:
        line = cls(**decode_record(text, SCHEMA_VERSION, cls, "MetaSchedule record"))
        if line.kind not in ("workload", "record") or not isinstance(line.workload, str):
            msg = f"not a MetaSchedule record, whose kind is workload or record: {line.kind!r}"
            raise ArtifactError(msg)
        return line


def fingerprint_database(
    target: Any, folder: Path | str, *, device: str | None = None
) -> MachineDatabase:
    """Open the database of this kind of machine, whose file need not exist yet.

    Parameters
    ----------
    target
        TVM's target: what is tuned for.
    folder
        Where databases lie, as `<fingerprint>.jsonl`: of the processor and its features (or the
        GPU), the target, its number of threads, and TVM's version.
    device
        Name of the machine that runs candidates; None for this one.

    Raises
    ------
    ArtifactError
        If the file cannot be read, or one of its complete lines is no record.
    """
    fingerprint = _fingerprint(target if isinstance(target, Target) else Target(target), device)
    return MachineDatabase(Path(folder) / f"{fingerprint}.jsonl", fingerprint, device)


@derived_object
class MachineDatabase(meta_schedule.database.PyDatabase):  # type: ignore[misc]
    """MetaSchedule's database in memory, of which every record is on the disk at once.

    Parameters
    ----------
    path
        The file. Several tuners may append to it; each sees what was there when it opened it.
    fingerprint
        Lines with another are passed over.
    device
        As in `fingerprint_database`.
    """

    def __init__(self, path: Path, fingerprint: str, device: str | None) -> None:
        super().__init__()
        self.path, self._fingerprint, self._device = path, fingerprint, device
        self._memory = meta_schedule.database.MemoryDatabase()
        self._workloads: dict[str, Any] = {}  # those in the file, by name
        if read_lines(path)[1]:
            logger.warning("%s ends in half a record, which is ignored", path)
        for _ in read_records(path, self._take, _HINT):
            pass

    def has_workload(self, mod: Any) -> bool:
        """Whether the database has a workload."""
        return bool(self._memory.has_workload(mod))

    def commit_workload(self, mod: Any) -> Any:
        """Return the workload of a module; it goes into the file with its first record."""
        return self._memory.commit_workload(mod)

    def commit_tuning_record(self, record: Any) -> None:
        """Keep a record; it is on the disk when this returns.

        Raises
        ------
        ArtifactError
            If it was made for another target, or the file cannot be written.
        """
        if record.target is not None:
            found = _fingerprint(record.target, self._device)
            if found != self._fingerprint:
                msg = f"{self.path} is not the database of the target {record.target}"
                raise ArtifactError(msg, hint="open one with fingerprint_database(target, folder)")
        value = plain_values(record.workload.as_json())
        name = digest(json.dumps(value))[:32]
        lines = [_Line("record", self._fingerprint, name, plain_values(record.as_json()))]
        if name not in self._workloads:
            lines.insert(0, _Line("workload", self._fingerprint, name, value))
        append_lines(self.path, [line.to_json() for line in lines])
        self._workloads[name] = record.workload
        self._memory.commit_tuning_record(record)

    def get_top_k(self, workload: Any, top_k: int) -> Iterable[Any]:
        """Return the fastest records of a workload."""
        return self._memory.get_top_k(workload, top_k)  # type: ignore[no-any-return]

    def get_all_tuning_records(self) -> Iterable[Any]:
        """Return all records, failures with impossible times included."""
        return self._memory.get_all_tuning_records()  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self._memory)

    def _take(self, text: str) -> None:
        """Take a line of the file into memory."""
        line = _Line.from_json(text)
        if line.fingerprint != self._fingerprint:
            return
        try:
            if line.kind == "workload":
                module = meta_schedule.database.Workload.from_json(line.value).mod
                self._workloads[line.workload] = self._memory.commit_workload(module)
                return
            workload = self._workloads[line.workload]
            record = meta_schedule.database.TuningRecord.from_json(line.value, workload)
        except KeyError:
            msg = f"a record of the workload {line.workload}, which the file does not have"
            raise ArtifactError(msg) from None
        except Exception as error:  # TVM's errors share no class of their own
            msg = f"TVM cannot read this {line.kind}: {str(error)[:200]}"
            raise ArtifactError(msg) from error
        self._memory.commit_tuning_record(record)


def _fingerprint(target: Any, device: str | None) -> str:
    return module_fingerprint(plain_values(target.export()), device)
