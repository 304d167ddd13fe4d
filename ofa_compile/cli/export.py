"""`ofa-compile export`: any architecture as ONNX."""

from __future__ import annotations

from pathlib import Path

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output
from ofa_compile.options import DEFAULT_SUPERNET, ExportOptions

EPILOG = "Example: ofa-compile export --architecture arch.json --output subnet.onnx"


def export_command(
    output: opt.Output = Path("subnet.onnx"),
    architecture: opt.ArchitectureFile = None,
    resolution: opt.Resolution = None,
    supernet: opt.Supernet = DEFAULT_SUPERNET,
    space: opt.SupernetSpace = None,
    calibration_data: opt.CalibrationData = None,
    no_calibration: opt.NoCalibration = False,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Write an architecture's subnet as ONNX (the largest one without --architecture)."""
    options = ExportOptions(
        output=output,
        architecture=architecture,
        resolution=resolution,
        supernet=supernet,
        space=space,
        calibration_data=calibration_data,
        no_calibration=no_calibration,
        seed=seed,
    )
    channel = Output(as_json=as_json, quiet=quiet, verbose=verbose)
    with channel.working() as progress:
        from ofa_compile.workflows.subnets import export_architecture

        architecture_value = export_architecture(options, progress)
    channel.result(
        {"onnx": str(output), "architecture": architecture_value.to_dict()}, f"wrote {output}"
    )
