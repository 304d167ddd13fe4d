"""`ofa-compile compile`, the default action: from a supernet to a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.command_table import COMMANDS
from ofa_compile.cli.render import Output, percent
from ofa_compile.errors import UserInputError
from ofa_compile.options import DEFAULT_OUTPUT, DEFAULT_SUPERNET, CompileOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ofa_compile.bundle.bundle import Bundle
    from ofa_compile.bundle.manifest import Figure

EPILOG = "Example: ofa-compile --target arm64 --max-latency-ms 20 --output bundle"


def compile_command(
    ctx: typer.Context,
    target: opt.Target,
    precision: opt.Precision = "fp32",
    output: opt.Output = DEFAULT_OUTPUT,
    architecture: opt.ArchitectureFile = None,
    max_latency_ms: opt.MaxLatencyMs = None,
    max_macs: opt.MaxMacs = None,
    max_parameters: opt.MaxParameters = None,
    max_size_bytes: opt.MaxSizeBytes = None,
    max_activation_bytes: opt.MaxActivationBytes = None,
    resolution: opt.Resolution = None,
    supernet: opt.Supernet = DEFAULT_SUPERNET,
    space: opt.SupernetSpace = None,
    calibration_data: opt.CalibrationData = None,
    no_calibration: opt.NoCalibration = False,
    accuracy_data: Annotated[
        Path | None,
        typer.Option("--accuracy-data", help="Labelled images to state the accuracy on."),
    ] = None,
    accuracy_predictor: opt.AccuracyPredictorFile = None,
    latency_predictor: opt.LatencyPredictorFile = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the comparison with PyTorch; recorded.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            max=1024,
            help="Threads of the binary.  [default: the target's cores]",
        ),
    ] = None,
    batch: opt.Batch = 1,
    workspace: opt.Workspace = None,
    seed: opt.Seed = 0,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Pick an architecture, compile it for a target, verify the binary, write the bundle.

    Without --architecture a search picks it: the most accurate subnet under the limits, or with no
    limit the knee of the Pareto front.
    """
    _refuse_leftovers(ctx)
    options = CompileOptions(
        target=target,
        precision=precision,
        output=output,
        architecture=architecture,
        max_latency_ms=max_latency_ms,
        max_macs=max_macs,
        max_parameters=max_parameters,
        max_size_bytes=max_size_bytes,
        max_activation_bytes=max_activation_bytes,
        resolution=resolution,
        supernet=supernet,
        space=space,
        calibration_data=calibration_data,
        no_calibration=no_calibration,
        accuracy_data=accuracy_data,
        accuracy_predictor=accuracy_predictor,
        latency_predictor=latency_predictor,
        verify=not no_verify,
        threads=threads,
        batch=batch,
        workspace=workspace,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    if channel.shows_dry_run(options, dry_run):
        return
    with channel.working() as progress:
        from ofa_compile.pipeline import compile_bundle

        bundle = compile_bundle(options, progress)
    channel.result(bundle.manifest.to_dict(), _summary(bundle))


def _refuse_leftovers(ctx: typer.Context) -> None:
    """Refuse words that are no options, such as a command after the default action's options."""
    if not ctx.args:
        return
    word = ctx.args[0]
    if word in COMMANDS:
        message = f"options of the default action stand before the command '{word}'"
        raise UserInputError(message, hint=f"put the command first: ofa-compile {word} ...")
    message = f"unexpected argument '{word}'"
    raise UserInputError(message, hint="ofa-compile --help lists the commands")


def _summary(bundle: Bundle) -> str:
    """Say what was built, each figure labelled as what it is."""
    manifest = bundle.manifest
    size = manifest.files[manifest.platform.program]["bytes"]
    rows: list[tuple[str, str]] = [
        ("bundle", str(bundle.path)),
        ("target", str(manifest.target["name"])),
        ("architecture", (manifest.architecture_hash or "-")[:12]),
        ("input", "x".join(map(str, manifest.input_shape))),
        ("executable", f"{size:,} bytes"),
    ]
    rows += [(name, f"{value:,}") for name, value in manifest.network.items()]
    rows += [(name, _figure(name, figure)) for name, figure in manifest.figures.items()]
    rows.append(("verified", _verification(manifest.verification)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _figure(name: str, figure: Figure) -> str:
    value = percent(figure.value) if name.startswith("accuracy") else f"{figure.value:.4g}"
    return f"{value} ({figure.kind})"


def _verification(outcome: Mapping[str, Any]) -> str:
    if not outcome.get("verified"):
        return f"no: {outcome.get('reason')}"
    error, count = outcome["relative_error"], outcome["num_inputs"]
    return f"yes: {error:.1e} of the largest logit on {count} inputs, {outcome['runner']}"
