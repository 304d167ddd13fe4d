"""What a new target costs: the whole road from `targets new` to a binary, step by step.

Every step is one command, run as a user would run it, from an empty cache and an empty workspace:
the file, its check, the device's own facts, tuning of the whole space, 100 measured subnets, the
predictor, the search, the compiled binary; and a binary under another limit, which is what every
further deployment costs. Wall time includes whatever else the machine was doing; processor time
does not, and is the figure to compare.

    python benchmarks/bench_retarget.py [--quick] [--json] [--count N] [--tune-minutes M]
        [--workspace FOLDER] [--prefix WORDS] [--build-prefix WORDS]

With --workspace a run that was stopped goes on where it stood: the times of all its attempts are
added up. --prefix is put before the commands that time code, to give them the machine (such as
"taskset -c 0"), --build-prefix before the others (such as "nice"); a command that these stop (exit
code 124) is called again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import finish, parser, say, table

_STOPPED = (124, 143)
_MAX_CALLS = 60
# Published costs, each with its source; none of them was measured here.
PUBLISHED = [
    {
        "method": "LitePred, adapting a predictor (NSDI 2024)",
        "measurements": "1,400-18,500",
        "hours": "0.05-1.73",
        "source": "README of its repository (microsoft/Moonlit), 14 platforms",
    },
    {
        "method": "nn-Meter, building a predictor (MobiSys 2021)",
        "measurements": "57,000 kernels, and adaptive ones after them",
        "hours": "days, by LitePred's account",
        "source": "INIT_SAMPLE_NUM of its default predictorbuild_config.yaml, summed",
    },
    {
        "method": "a network trained for one deployment by earlier search methods",
        "measurements": "-",
        "hours": "14 to 1,142 times the GPU hours of Once-for-All at 40 deployments",
        "source": "abstract of Once-for-All (arXiv 1908.09791, first version)",
    },
]


@dataclass(frozen=True)
class Step:
    """One command of the road."""

    name: str
    words: tuple[str, ...]
    times_code: bool = False


def road(options: argparse.Namespace) -> list[Step]:
    """Return the steps, in order."""
    budget, count = str(options.tune_minutes), str(options.count)
    target = ("--target", "machine.toml")
    few = ("--max-trials", "4", "--resolution", "24") if options.quick else ()
    new = ("targets", "new", "machine", "--from", "host", "--set", 'runner.kind="local"')
    probe = ("targets", "probe", "machine.toml", "--write")
    steps = [
        Step("write the file", new),
        Step("check it", ("targets", "check", "machine.toml")),
        Step("ask the device", probe, times_code=True),
        Step("tune the space", ("tune", *target, "--budget-minutes", budget, *few), True),
        Step(f"build {count} subnets", ("measure", *target, "--count", count, "--build-only")),
        Step(f"measure {count} subnets", ("measure", *target, "--count", count), True),
        Step("fit the predictor", ("fit-latency", *target)),
        Step("search the front", ("search", *target, "--output", "front")),
        Step("compile one", ("compile", *target, "--output", "first")),
        Step("compile another", ("compile", *target, "--max-macs", "8e6", "-o", "next")),
    ]
    return [step for step in steps if options.tune_minutes > 0 or step.words[0] != "tune"]


def run_step(step: Step, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one step until it is done; return its times and what it printed."""
    prefix = shlex.split(options.prefix if step.times_code else options.build_prefix)
    command = [*prefix, sys.executable, "-m", "ofa_compile", *step.words, "--json", "--quiet"]
    environment = {**os.environ, "OFA_COMPILE_CACHE": str(folder / "cache")}
    environment.pop("OFA_COMPILE_WORKSPACE", None)
    start, used = time.monotonic(), _processor_seconds()
    for _ in range(_MAX_CALLS):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in _STOPPED:
            break
    if done.returncode != 0:
        message = f"{step.name} fails ({done.returncode}): {done.stderr.strip()[-2000:]}"
        raise SystemExit(message)
    return {
        "name": step.name,
        "command": shlex.join(["ofa-compile", *step.words]),
        "wall_s": round(time.monotonic() - start, 2),
        "processor_s": round(_processor_seconds() - used, 2),
        "printed": json.loads(done.stdout),
    }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def follow(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run the steps that are still to be run; keep what is done beside the workspace."""
    log = folder / "steps.json"
    done = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else []
    for step in road(options)[len(done) :]:
        done.append(run_step(step, options, folder))
        log.write_text(json.dumps(done), encoding="utf-8")
        say(options, f"{step.name}: {done[-1]['processor_s']:.1f} s of processor time")
    return done


def summarise(steps: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return totals, and of what the steps printed what says how good the outcome is."""
    printed = {step["name"]: step.pop("printed") for step in steps}
    fitted = printed["fit the predictor"]
    manifest = printed["compile another"]
    return {
        "num_commands": len(steps),
        "num_measured": options.count,
        "processor_minutes": round(sum(s["processor_s"] for s in steps) / 60, 2),
        "wall_minutes": round(sum(s["wall_s"] for s in steps) / 60, 2),
        "next_deployment_processor_s": steps[-1]["processor_s"],
        "trained": 0,
        "device": printed["ask the device"]["facts"],
        "tuning": {
            key: value
            for key, value in printed.get("tune the space", {}).items()
            if key in ("num_trials", "coverage")
        },
        "predictor": {key: value for key, value in fitted.items() if "path" not in key},
        "verification": manifest["verification"],
        "figures": manifest["figures"],
    }


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--count", type=int, help="subnets to measure (default 100)")
    arguments.add_argument("--tune-minutes", type=float, help="budget of tuning (default 10)")
    arguments.add_argument("--workspace", type=Path, help="folder to begin or go on in")
    arguments.add_argument("--prefix", default="", help="words before commands that time code")
    arguments.add_argument("--build-prefix", default="", help="words before the other commands")
    options = arguments.parse_args()
    if options.count is None:
        options.count = 10 if options.quick else 100
    if options.tune_minutes is None:
        options.tune_minutes = 0.1 if options.quick else 10.0
    with tempfile.TemporaryDirectory(prefix="ofa-retarget-") as temporary:
        folder = (options.workspace or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        steps = follow(options, folder)
    document = {"summary": summarise(steps, options), "steps": steps, "published": PUBLISHED}
    rows = [(s["name"], f"{s['processor_s']:.1f}", f"{s['wall_s']:.1f}") for s in steps]
    say(options, "\n" + table(("step", "processor s", "wall s"), rows))
    summary = document["summary"]
    say(options, f"\n{summary['processor_minutes']} minutes of one core, {len(steps)} commands, "
        f"{options.count} subnets measured, nothing trained; the next deployment takes "
        f"{summary['next_deployment_processor_s']:.1f} s\n")  # fmt: skip
    rows = [(p["method"], p["measurements"], p["hours"], p["source"]) for p in PUBLISHED]
    say(options, table(("published", "measurements", "hours", "source"), rows))
    finish(document, options)


if __name__ == "__main__":
    main()
