"""`ofa-compile search`: the Pareto front of a space on a target, or the best under limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, percent, table
from ofa_compile.options import DEFAULT_SUPERNET, SearchOptions

if TYPE_CHECKING:
    from ofa_compile.search.search import SearchResult

_MAX_ROWS = 25
EPILOG = "Example: ofa-compile search --target arm64 --max-latency-ms 20 --output front"


def search_command(
    target: opt.Target = "host",
    space: opt.Space = DEFAULT_SUPERNET,
    max_latency_ms: opt.MaxLatencyMs = None,
    max_macs: opt.MaxMacs = None,
    max_size_bytes: opt.MaxSizeBytes = None,
    max_activation_bytes: opt.MaxActivationBytes = None,
    resolution: opt.Resolution = None,
    accuracy_predictor: opt.AccuracyPredictorFile = None,
    latency_predictor: opt.LatencyPredictorFile = None,
    population: Annotated[
        int | None, typer.Option("--population", min=4, help="Members kept.")
    ] = None,
    generations: Annotated[int | None, typer.Option("--generations", min=1, help="Rounds.")] = None,
    output: opt.OptionalOutput = None,
    workspace: opt.Workspace = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Search for the most accurate subnets under limits; --output keeps their architectures."""
    options = SearchOptions(
        target=target,
        space=space,
        max_latency_ms=max_latency_ms,
        max_macs=max_macs,
        max_size_bytes=max_size_bytes,
        max_activation_bytes=max_activation_bytes,
        resolution=resolution,
        accuracy_predictor=accuracy_predictor,
        latency_predictor=latency_predictor,
        population=population,
        generations=generations,
        output=output,
        workspace=workspace,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working() as progress:
        from ofa_compile.workflows.selection import front_document, search_target

        result = search_target(options, progress)
    channel.result(front_document(result), _front_table(result))


def _front_table(result: SearchResult) -> str:
    """One line per member, at most `_MAX_ROWS`; the header says what kind the latency is."""
    kind = result.best.latency_kind or "none"
    header = ("", "architecture", "accuracy (prediction)", f"latency_ms ({kind})", "macs", "bytes")
    step = max(1, -(-len(result.front) // _MAX_ROWS))
    rows = []
    for place, member in enumerate(result.front):
        mark = "best" if member is result.best else "knee" if member is result.knee else ""
        if not mark and place % step:
            continue
        name = member.architecture.short_hash
        accuracy = percent(member.accuracy, 2)
        rows.append((mark, name, accuracy, member.latency_ms, member.macs, member.size_bytes))
    return table(header, rows)
