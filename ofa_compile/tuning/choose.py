"""Which configurations a compilation uses: the workspace's, else those that ship, else defaults.

Imports neither TVM nor torch: every compilation comes through here.
"""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.atomic_file import replacing
from ofa_compile.compiler.workload import Separable
from ofa_compile.errors import ArtifactError, UserInputError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.tuning.fingerprint import kernel_digest, tuning_facts, tuning_fingerprint

if TYPE_CHECKING:
    from ofa_compile.tuning.database import Config, TuningRecord, TuningResults

SHIPPED_SCHEMA_VERSION = 1
_PACKAGE = "ofa_compile.tuning.shipped"


def database_path(workspace: Path, target: TargetSpec) -> Path:
    """Return the database of a target on this machine."""
    return workspace / "tuning" / f"{tuning_fingerprint(target)}.jsonl"


def tuned_configs(target: TargetSpec, workspace: Path) -> dict[str, Config]:
    """Return the configuration to use for each workload that is tuned, by the workload's key.

    Raises
    ------
    ArtifactError
        If the workspace's database is corrupted.
    """
    path = database_path(workspace, target)
    chosen = shipped_configs(target)
    if path.is_file():
        from ofa_compile.tuning.database import TuningDatabase

        results = TuningDatabase(path).results(
            tuning_fingerprint(target), kernel_digest(target.family)
        )
        chosen.update(results.configs())
    return chosen


def shipped_configs(target: TargetSpec) -> dict[str, Config]:
    """Return what ships for the target's instruction set; empty where nothing does.

    These come from one machine: good for its relatives, better than a model for most. They are of
    float32, which layers of a quantised network that stay in floats are in as well.
    """
    name = f"{target.arch}-{target.core.vector_bits}.json"
    resource = importlib.resources.files(_PACKAGE) / name
    is_cpu = target.tvm_target.get("kind") == "llvm"
    if not is_cpu or target.precision == "fp16" or not resource.is_file():
        return {}
    document = json.loads(resource.read_text(encoding="utf-8"))
    version = document.get("schema_version")
    if version != SHIPPED_SCHEMA_VERSION:
        msg = f"{name} is of schema version {version!r}, not {SHIPPED_SCHEMA_VERSION}"
        raise ArtifactError(msg, hint="install the package again")
    return dict(document["configs"])


def write_configs(path: Path, target: TargetSpec, results: TuningResults) -> int:
    """Write the configurations that beat the default as one small file; return their number.

    Raises
    ------
    UserInputError
        If the file cannot be written.
    """
    used = sorted(results.used().items())
    configs = {key: record.config for key, record in used if not _is_default(record)}
    facts = tuning_facts(target)
    facts.pop("features", None)
    document: dict[str, Any] = {
        "schema_version": SHIPPED_SCHEMA_VERSION,
        "measured_on": {**facts, "kernels": kernel_digest(target.family)},
        "configs": configs,
    }
    lines = json.dumps(document, indent=1, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staging:
            staging.write_text(_compact(lines) + "\n", encoding="utf-8")
    except OSError as err:
        msg = f"cannot write {path}: {err.strerror}"
        raise UserInputError(msg) from err
    return len(configs)


def _is_default(record: TuningRecord) -> bool:
    """Tell whether compilations use this without being told: never one kernel for two workloads."""
    return record.is_default and not isinstance(record.workload, Separable)


def _compact(text: str) -> str:
    """Put each configuration on the line of its key."""
    return text.replace("{\n   ", "{ ").replace(",\n   ", ", ").replace("\n  }", " }")
