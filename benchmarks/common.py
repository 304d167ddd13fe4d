"""What the benchmark scripts share: data folders, provenance, result files, tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "ofa-compile", "numpy", "torch", "apache-tvm", "apache-tvm-ffi", "xgboost-cpu", "onnx",
    "onnxruntime", "openvino", "ncnn", "MNN", "executorch",
)  # fmt: skip


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    result.add_argument("--json", action="store_true", help="print the result file's document")
    result.add_argument("--output", type=Path, help="write the JSON document here")
    result.add_argument("--seed", type=int, default=0)
    return result


def data_folder(argument: Path | None) -> Path:
    """Return the folder with the published data, or end the script saying that it is absent."""
    shared = os.environ.get("OFA_COMPILE_SHARED")
    folder = argument or (Path(shared) / "data" if shared else None)
    if folder is None or not folder.is_dir():
        message = (
            "skipped, no data: pass --data FOLDER or set OFA_COMPILE_SHARED (with data/ in it)"
        )
        raise SystemExit(message)
    return folder


def provenance() -> dict[str, Any]:
    """Return what a reader needs to judge a figure: machine, versions, revision, time."""
    return {
        "machine": {
            "processor": _cpu_model(),
            "architecture": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "system": f"{platform.system()} {platform.release()}",
            "load_average": list(os.getloadavg()),
        },
        "versions": {"python": platform.python_version(), **_versions(_PACKAGES)},
        "revision": _revision(),
        "time": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        # Folders of this machine say nothing to a reader elsewhere: only their names are kept.
        "command": " ".join(
            ["python", *(Path(a).name if a.startswith("/") else a for a in sys.argv)]
        ),
    }


def finish(document: dict[str, Any], options: argparse.Namespace) -> None:
    """Write and print the result document as the options ask."""
    document = {**document, "provenance": provenance()}
    text = json.dumps(document, indent=1, sort_keys=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")
    if options.json:
        sys.stdout.write(text + "\n")


def say(options: argparse.Namespace, text: str = "") -> None:
    """Print for people: on stderr when stdout carries JSON."""
    stream = sys.stderr if options.json else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format rows as a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def summary_of(ratios: Mapping[str, float]) -> dict[str, Any]:
    """Return the geometric mean of the subnets' ratios, and which is the worst."""
    worst = min(ratios, key=ratios.__getitem__)
    mean = geometric_mean(ratios.values())
    return {"geometric_mean": round(mean, 3), "worst": [worst, round(ratios[worst], 3)]}


def _cpu_model() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _revision() -> str | None:
    """Return the repository's revision, marked when there are uncommitted changes."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
