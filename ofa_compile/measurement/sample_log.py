"""What a data set knows about subnets measured under one set of conditions."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.hardware.precision import recorded_precision
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord
from ofa_compile.measurement.machine import tool_versions
from ofa_compile.measurement.sampling import reference_architecture
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import SearchSpace

if TYPE_CHECKING:
    from ofa_compile.measurement.measure import MeasureConfig

_MAX_ATTEMPTS = 2


def gpu_of(target: TargetSpec) -> str | None:
    """Say which GPU of this machine runs code for a target; None where it is not one of this.

    Raises
    ------
    DeviceUnavailableError
        If this machine has none.
    """
    if not target.is_gpu or target.runner.kind != "local":
        return None
    return str(check_gpu(target.kind)[0])


class SampleLog:
    """Reads and appends the records of one target, space and configuration.

    Attributes
    ----------
    anchor_ms
        The reference network's time that all records are scaled to; None until one is written.
    """

    def __init__(
        self, space: SearchSpace, target: TargetSpec, dataset: LatencyDataset, config: MeasureConfig
    ) -> None:
        self.dataset, self.config = dataset, config
        self.reference_architecture = reference_architecture(space)
        self._target_fingerprint = target.fingerprint
        self._gpu = gpu_of(target)
        self._common: dict[str, Any] = {
            "target": target.name,
            "target_fingerprint": target.fingerprint,
            "precision": recorded_precision(target),
            "kind": "measurement",
            "threads": config.threads,
            "batch": config.batch,
            "cache_state": config.cache_state,
            "session": uuid.uuid4().hex[:12],
            "versions": {**tool_versions(), "code": config.code},
        }
        records = [record for record in dataset if self._is_comparable(record)]
        samples = [record for record in records if record.role == "sample"]
        self._measured = {record.architecture.hash for record in samples if record.status == "ok"}
        self._attempts = Counter(record.architecture.hash for record in samples)
        repeats = (record for record in records if record.role == "repeat")
        self._repeated = {record.architecture.hash for record in repeats}
        self.anchor_ms = next((r.median_ms for r in records if self._is_anchor(r)), None)

    def is_done(self, architecture: Architecture) -> bool:
        """Tell whether a subnet is measured, or failed too often."""
        name = architecture.hash
        return name in self._measured or self._attempts[name] >= _MAX_ATTEMPTS

    def is_repeated(self, architecture: Architecture) -> bool:
        """Tell whether a subnet was measured a second time, whatever came of it."""
        return architecture.hash in self._repeated

    @property
    def num_total(self) -> int:
        """Successful samples that compare with this session's."""
        return sum(
            self._is_comparable(record) and record.role == "sample" and record.status == "ok"
            for record in self.dataset
        )

    def append(self, architecture: Architecture, **figures: Any) -> LatencyRecord:
        """Record what became of a subnet."""
        if self._gpu is not None:
            figures["machine"] = {**figures.get("machine", {}), "gpu": self._gpu}
        record = LatencyRecord(architecture=architecture, **self._common, **figures)
        self.dataset.append(record)
        return record

    def write_anchor(self, anchor_ms: float, machine: dict[str, Any]) -> None:
        """Record the reference's time: the scale of this and all later sessions."""
        self.anchor_ms = anchor_ms
        self.append(
            self.reference_architecture, role="reference", median_ms=anchor_ms, machine=machine
        )

    def _is_anchor(self, record: LatencyRecord) -> bool:
        return (
            record.role == "reference"
            and record.architecture == self.reference_architecture
            and record.status == "ok"
        )

    def _is_comparable(self, record: LatencyRecord) -> bool:
        """Tell whether a record ran under the same conditions."""
        return (
            record.kind == "measurement"
            and record.target_fingerprint == self._target_fingerprint
            and record.threads == self.config.threads
            and record.batch == self.config.batch
            and record.cache_state == self.config.cache_state
            and record.versions.get("code", "") == self.config.code
            and record.architecture.space == self.reference_architecture.space
        )
