"""What only a GPU can prepare: kernels that torch.compile times, engines that TensorRT builds.

Both keep what they found on disk, where the run proper finds it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_peers import TimeLimits
from gpu_prebuilt import read_facts
from gpu_runtimes import environment_of, is_searching, runtime_class, runtimes_for

_POLL_S = 0.5
_SCRIPT = Path(__file__).resolve().parent / "bench_gpu.py"


def warm(
    places: Sequence[tuple[Path, str]],
    kind: str,
    names: Sequence[str],
    jobs: int,
    limits: TimeLimits,
) -> dict[str, Any]:
    """Load all networks in the runtimes that search, several at once, each in a process of its own.

    Parameters
    ----------
    places
        Folder and precision of each network, in the order of the run.
    kind
        Of the target.
    names
        Runtimes that are here.
    jobs
        How many at once.
    limits
        When to end; what is under way then is given up.

    Returns
    -------
    Which are `prepared`, which `failed`, and how many were `not_begun`.
    """
    todo = [
        (name, place)
        for place, precision in places
        for name in runtimes_for(kind, precision)
        if name in names and is_searching(name)
    ]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    done: list[str] = []
    failed: list[str] = []
    while (todo or running) and limits.left() > 0:
        while todo and len(running) < jobs:
            name, place = todo.pop(0)
            command = [sys.executable, str(_SCRIPT), "--warm-one", name, str(place)]
            # What libraries print belongs to nobody's JSON.
            process = subprocess.Popen(
                command, env={**os.environ, **environment_of(name)}, stdout=sys.stderr
            )
            running.append((f"{name} {place.parent.name}/{place.name}", process))
        time.sleep(_POLL_S)
        for item in [item for item in running if item[1].poll() is not None]:
            (failed if item[1].returncode else done).append(item[0])
            running.remove(item)
    for label, process in running:
        process.kill()
        process.wait()
        failed.append(label)
    return {"jobs": jobs, "prepared": done, "failed": failed, "not_begun": len(todo)}


def warm_one(name: str, place: str) -> None:
    """Load one network in this process."""
    runtime_class(name)(Path(place), read_facts(Path(place)), name)
