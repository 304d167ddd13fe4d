"""Append-only files of one JSON record per line, which survive whatever kills their writers.

Every record says which schema version it is of. Lines are written with one `write` call under a
file lock and synchronised to disk. A process killed in the middle leaves at most a torn last line:
readers pass over it, the next append cuts it off.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from ofa_compile.errors import ArtifactError

Record = TypeVar("Record")


def encode_record(record: Any, schema_version: int, **encoded: Any) -> str:
    """Return a dataclass as one line of JSON, without the line end.

    Parameters
    ----------
    record
        Its fields are JSON values, but for those in `encoded`.
    schema_version
        Goes into the line.
    encoded
        Fields as the JSON values that stand for them.
    """
    values = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    document = {"schema_version": schema_version, **values, **encoded}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def decode_record(text: str, schema_version: int, record: type, what: str) -> dict[str, Any]:
    """Read the fields that `encode_record` wrote.

    Parameters
    ----------
    text
        A line.
    schema_version
        The only one to read.
    record
        The dataclass; fields without a default must be there, others may.
    what
        Its name in messages, such as "tuning record".

    Raises
    ------
    ArtifactError
        If the text is no record of this schema version.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        msg = f"not a {what}, as it is no JSON document: {text[:60]!r}"
        raise ArtifactError(msg) from error
    if not isinstance(document, dict):
        msg = f"not a {what}, which is a JSON object: {text[:60]!r}"
        raise ArtifactError(msg)
    version = document.pop("schema_version", None)
    if version != schema_version:
        msg = f"{what} of schema version {version!r}; this version reads {schema_version}"
        raise ArtifactError(msg)
    fields = dataclasses.fields(record)
    absent = dataclasses.MISSING
    required = {f.name for f in fields if f.default is absent and f.default_factory is absent}
    unknown = sorted(set(document) - {item.name for item in fields})
    missing = sorted(required - set(document))
    if unknown or missing:
        msg = f"not a {what}: unknown fields {unknown}, missing fields {missing}"
        raise ArtifactError(msg)
    return document


def read_records(
    path: Path, parse: Callable[[str], Record], hint: str | None = None
) -> Iterator[Record]:
    """Yield every complete record; a torn last line is passed over.

    Raises
    ------
    ArtifactError
        If `parse` refuses a complete line; with file and line number, and the hint if it has none.
    """
    for number, line in enumerate(read_lines(path)[0], start=1):
        try:
            yield parse(line)
        except (ArtifactError, ValueError) as error:
            msg = f"{path}, line {number}: {error}"
            raise ArtifactError(msg, hint=getattr(error, "hint", None) or hint) from error


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines (without their line ends), all or none; they are on the disk on return.

    Raises
    ------
    ArtifactError
        If the file cannot be written; it then holds what it held before.
    """
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _cut_torn_line(cast("IO[bytes]", file))
            try:
                if file.write(data) != len(data):
                    msg = "the disk took only part of the line"
                    raise OSError(msg)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        msg = f"cannot append to {path}: {error}"
        raise ArtifactError(msg, hint="check free space and permissions") from error


def read_lines(path: Path) -> tuple[list[str], bool]:
    """Return the complete lines, and whether a torn one follows; none if there is no file.

    Raises
    ------
    ArtifactError
        If the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], False
    except OSError as error:
        msg = f"cannot read {path}: {error}"
        raise ArtifactError(msg) from error
    end = content.rfind(b"\n") + 1
    return content[:end].decode("utf-8", errors="replace").splitlines(), end < len(content)


def _cut_torn_line(file: IO[bytes]) -> int:
    """Cut what a killed writer left after the last line end; return the file's new length."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return 0
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return end
    file.seek(0)
    keep = file.read(end).rfind(b"\n") + 1
    file.truncate(keep)
    file.seek(keep)
    return keep
