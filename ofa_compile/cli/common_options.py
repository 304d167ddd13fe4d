"""Options that mean the same in every command, as annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ofa_compile.hardware import precision

Target = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="Hardware target: a name from `targets list`, or a TOML file.",
        envvar="OFA_COMPILE_TARGET",
    ),
]
Precision = Annotated[
    precision.Precision,
    typer.Option(
        "--precision", help="fp32, tf32, fp16 or int8; `targets show` says which a target has."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where the result goes.")]
OptionalOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where the result goes.")
]
Space = Annotated[str, typer.Option("--space", help="Search space (see `supernet list`).")]
Supernet = Annotated[
    str, typer.Option("--supernet", help="Embedded supernet, or the path of a checkpoint.")
]
SupernetSpace = Annotated[
    str | None,
    typer.Option("--space", help="Search space, for a checkpoint that does not name its own."),
]
CalibrationData = Annotated[
    Path | None,
    typer.Option(
        "--calibration-data", help="Images for BN calibration; 2,000 are drawn, at 224 px 500."
    ),
]
NoCalibration = Annotated[
    bool, typer.Option("--no-calibration", help="Keep the checkpoint's running statistics.")
]
ArchitectureFile = Annotated[
    Path | None, typer.Option("--architecture", help="JSON file of the architecture.")
]
Resolution = Annotated[int | None, typer.Option("--resolution", help="Input height and width.")]
Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        help="Folder of measurements and predictors  [default: ofa-workspace/TARGET].",
        envvar="OFA_COMPILE_WORKSPACE",
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=1024, help="Threads of the binary.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images of one run.")]
CacheState = Annotated[
    Literal["warm", "cold"],
    typer.Option("--cache-state", help="Caches as the last run left them, or flushed before each."),
]
Count = Annotated[int, typer.Option("--count", min=1, help="Number of subnets.")]
MaxLatencyMs = Annotated[
    float | None, typer.Option("--max-latency-ms", min=0, help="Limit on the latency.")
]
MaxMacs = Annotated[
    float | None, typer.Option("--max-macs", min=0, help="Limit on multiply-accumulates.")
]
MaxParameters = Annotated[
    float | None, typer.Option("--max-parameters", min=0, help="Limit on the number of weights.")
]
MaxSizeBytes = Annotated[
    float | None, typer.Option("--max-size-bytes", min=0, help="Limit on the size of the weights.")
]
MaxActivationBytes = Annotated[
    float | None,
    typer.Option("--max-activation-bytes", min=0, help="Limit on the activations' peak memory."),
]
AccuracyPredictorFile = Annotated[
    Path | None,
    typer.Option("--accuracy-predictor", help="Predictor file  [default: the embedded one]."),
]
LatencyPredictorFile = Annotated[
    Path | None,
    typer.Option("--latency-predictor", help="Predictor file  [default: the workspace's]."),
]
LatencyStatistic = Annotated[
    Literal["median", "p95"],
    typer.Option("--statistic", help="Of each subnet's runs: their median or 95th percentile."),
]
Data = Annotated[
    Path, typer.Option("--data", help="Images: a folder (or archive) with train/ and test/.")
]
Dataset = Annotated[
    Path | None, typer.Option("--dataset", help="JSON Lines file  [default: the workspace's].")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Show the log (-vv: all of it).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the resolved options and stop.")]
