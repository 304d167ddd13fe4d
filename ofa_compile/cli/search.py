"""`ofa-compile search`: the Pareto front of a space on a target, or the best under limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.plot import scatter
from ofa_compile.cli.render import Output, percent, table
from ofa_compile.options import DEFAULT_SUPERNET, SearchOptions

if TYPE_CHECKING:
    from ofa_compile.progress import ProgressCallback
    from ofa_compile.search.family import Family
    from ofa_compile.search.search import Candidate, SearchResult
    from ofa_compile.workflows.verifying import Verification

_MAX_ROWS = 25
EPILOG = (
    "Example: ofa-compile search --target arm64=20ms --output front; "
    "ofa-compile search --target arm64=20ms --target x86-64=5ms --family"
)


_Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="Hardware target, perhaps with its limit: NAME or NAME=20ms. May be given again: "
        "limits of all hold, the front is the first one's  [default: host].",
        envvar="OFA_COMPILE_TARGET",
    ),
]
_VerifyTop = Annotated[
    int, typer.Option("--verify-top", min=0, help="Measure so many of the best on the target.")
]
_Rounds = Annotated[
    int,
    typer.Option(
        "--rounds", min=1, help="With --verify-top: refit on what was measured, search again."
    ),
]


def search_command(
    target: _Targets = None,
    space: opt.Space = DEFAULT_SUPERNET,
    max_latency_ms: opt.MaxLatencyMs = None,
    max_macs: opt.MaxMacs = None,
    max_parameters: opt.MaxParameters = None,
    max_size_bytes: opt.MaxSizeBytes = None,
    max_activation_bytes: opt.MaxActivationBytes = None,
    resolution: opt.Resolution = None,
    family: Annotated[
        bool,
        typer.Option("--family", help="One subnet for each target, and what each costs on all."),
    ] = False,
    latency_statistic: Annotated[
        Literal["median", "p95"],
        typer.Option("--latency-statistic", help="What limits and front are about."),
    ] = "median",
    batch: opt.Batch = 1,
    accuracy_predictor: opt.AccuracyPredictorFile = None,
    latency_predictor: opt.LatencyPredictorFile = None,
    max_evaluations: Annotated[
        int | None,
        typer.Option("--max-evaluations", min=1, help="About how many architectures to score."),
    ] = None,
    verify_top: _VerifyTop = 0,
    rounds: _Rounds = 1,
    supernet: Annotated[
        str | None,
        typer.Option(
            "--supernet", help="Weights of verified subnets  [default: the embedded ones]."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="With --verify-top: images to measure accuracy.")
    ] = None,
    calibration_data: opt.CalibrationData = None,
    output: opt.OptionalOutput = None,
    workspace: opt.Workspace = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Search for the most accurate subnets under limits; --output keeps their architectures."""
    options = SearchOptions(
        targets=tuple(target or ("host",)),
        space=space,
        max_latency_ms=max_latency_ms,
        max_macs=max_macs,
        max_parameters=max_parameters,
        max_size_bytes=max_size_bytes,
        max_activation_bytes=max_activation_bytes,
        resolution=resolution,
        family=family,
        latency_statistic=latency_statistic,
        batch=batch,
        accuracy_predictor=accuracy_predictor,
        latency_predictor=latency_predictor,
        max_evaluations=max_evaluations,
        verify_top=verify_top,
        rounds=rounds,
        supernet=supernet,
        data=data,
        calibration_data=calibration_data,
        output=output,
        workspace=workspace,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working() as progress:
        from ofa_compile.workflows.searching import result_document

        result, verification = _run(options, progress)
    document = result_document(result)
    text = _text(result)
    if "estimate_limits" in document:
        text = f"{text}\n\nnote: {document['estimate_limits']}"
    if verification is not None:
        document |= verification.to_dict()
        text = f"{text}\n\n{_verified_table(verification)}"
    channel.result(document, text)


def _run(
    options: SearchOptions, progress: ProgressCallback
) -> tuple[SearchResult | Family, Verification | None]:
    if options.verify_top:
        from ofa_compile.workflows.verifying import search_and_verify

        return search_and_verify(options, progress)
    from ofa_compile.workflows.searching import search_targets

    return search_targets(options, progress), None


def _text(result: SearchResult | Family) -> str:
    from ofa_compile.search.family import Family

    return _family_table(result) if isinstance(result, Family) else _front_text(result)


def _verified_table(verification: Verification) -> str:
    """List what was measured beside what was predicted, the best first."""
    header = [
        *("verified", "accuracy (prediction)", "accuracy (measurement)"),
        *("ms (prediction)", "ms (measurement)", "error", "p95 ms", "meets limit"),
    ]
    has_batch = verification.ranked[0].batch != 1 if verification.ranked else False
    if has_batch:
        header.append("images/s (measurement)")
    has_energy = any(item.energy_mj is not None for item in verification.ranked)
    if has_energy:
        header.append("mJ an inference (measurement)")
    rows = []
    for item in verification.ranked:
        kind = item.candidate.latency_kind
        predicted = item.candidate.latency_ms
        rows.append(
            (
                item.candidate.architecture.short_hash,
                percent(item.candidate.accuracy, 2),
                None if item.accuracy is None else percent(item.accuracy, 2),
                None if predicted is None else f"{predicted:.3f} ({kind})",
                item.median_ms,
                None if item.latency_error is None else percent(item.latency_error),
                item.p95_ms,
                "yes" if item.meets_limit else "no",
                *([item.images_per_s] if has_batch else []),
                *([item.energy_mj] if has_energy else []),
            )
        )
    return table(header, rows)


def _front_text(result: SearchResult) -> str:
    """Plot the front above a table of at most `_MAX_ROWS` of its members."""
    step = max(1, -(-len(result.front) // _MAX_ROWS))
    marks, rows = [], []
    for place, member in enumerate(result.front):
        mark = "best" if member is result.best else "knee" if member is result.knee else ""
        marks.append(mark[:1].upper() or ".")
        if mark or place % step == 0:
            rows.append((mark, *_row(member)))
    points = [(_cost(result, member), 100 * member.accuracy) for member in result.front]
    plot = scatter(points, marks, x_label=result.cost_name, y_label="accuracy, % (prediction)")
    return f"{plot}\n\n{table(('', *_header(result.best)), rows)}"


def _family_table(family: Family) -> str:
    """One line per target's subnet, with what it costs on every target."""
    members = family.members
    header = ("best for", *_header(next(iter(members.values()))))
    return table(header, [(name, *_row(member)) for name, member in members.items()])


def _header(member: Candidate) -> tuple[str, ...]:
    """Name the columns of `_row`; each latency says what kind it is, and of what."""
    latencies: list[str] = []
    for name, latency in member.latencies.items():
        statistic = "" if latency.statistic == "median" else f"{latency.statistic} "
        images = "" if latency.batch == 1 else f" of {latency.batch} images"
        latencies.append(f"{name or 'latency'} {statistic}ms{images} ({latency.kind})")
        if latency.batch != 1:
            latencies.append(f"images/s ({latency.kind})")
    accuracy = "accuracy (prediction)"
    return ("architecture", accuracy, "±", *latencies, "macs", "parameters", "bytes")


def _row(member: Candidate) -> tuple[object, ...]:
    latencies: list[float] = []
    for latency in member.latencies.values():
        latencies += [latency.ms] if latency.batch == 1 else [latency.ms, latency.images_per_s]
    spread = None if member.accuracy_std is None else percent(member.accuracy_std, 2)
    return (
        member.architecture.short_hash,
        percent(member.accuracy, 2),
        spread,
        *latencies,
        member.macs,
        member.num_parameters,
        member.size_bytes,
    )


def _cost(result: SearchResult, member: Candidate) -> float:
    """Return the figure that the front is drawn over."""
    if result.cost_name.startswith("latency_ms"):
        return member.latency_ms or 0.0
    return float(getattr(member, result.cost_name))
