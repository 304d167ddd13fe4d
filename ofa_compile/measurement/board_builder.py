"""Build subnets for a board and time them there, over RPC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.verify import TOLERANCE, noise_inputs, tolerance_of, verify
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.int8.prepare import calibration_for_timing, quantised_logits
from ofa_compile.errors import BoardLostError, NumericMismatchError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.remote.program import BoardProgram
from ofa_compile.remote.session import Board
from ofa_compile.space.architecture import Architecture

if TYPE_CHECKING:
    from ofa_compile.supernet.supernet import Supernet

_PREFIX = "ofa_measured_"
# Pages of a fresh process are faulted in by its first runs.
_WARMUP = 3
# A turn starts a process, which takes some milliseconds: turns are longer than in-process ones, and
# the caches are warmed anew in each.
BOARD_TIMING = TimingConfig(round_ms=50.0, warmup_ms=5.0, max_seconds=15.0)
# One turn is some tens of milliseconds of work.
_TURN_LIMIT_S = 60.0


class BoardRunner:
    """A compiled subnet on a board; each turn is a process of its own there.

    Parameters
    ----------
    program
        The executable on the board.
    threads
        Threads of a run.
    """

    def __init__(self, program: BoardProgram, *, threads: int = 1) -> None:
        self._program = program
        self._threads = threads

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Run `repeats` times and return the milliseconds of each run, of shape (repeats,)."""
        return self._program.time(
            repeats=repeats, warmup=_WARMUP, threads=self._threads, limit_s=_TURN_LIMIT_S
        )

    def machine_facts(self) -> dict[str, Any]:
        """Return what the board says about itself now, and how it was reached."""
        return board_facts(self._program.board)

    def close(self) -> None:
        """Remove the executable from the board."""
        self._program.close()


def board_facts(board: Board) -> dict[str, Any]:
    """Return a board's entry in a measurement: its tag, and clock and temperature where visible."""
    facts = board.read_facts()
    found: dict[str, Any] = {
        "board": board.name,
        "model": board.model,
        "host": facts.get("host", ""),
        "machine": facts.get("machine", ""),
    }
    for name, key, scale in (
        ("load_average", "load_average", 1.0),
        ("frequency_hz", "frequency_khz", 1e3),
        ("temperature_celsius", "temperature_millicelsius", 1e-3),
    ):
        words = facts.get(key, "").split()
        if words and words[0].replace(".", "", 1).isdigit():
            found[name] = round(float(words[0]) * scale, 3)
    return found


@dataclass(frozen=True)
class BuiltSubnet:
    """A subnet's executable, what it must compute, and how nearly."""

    executable: Path
    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]
    tolerance: float = TOLERANCE

    def deploy(self, board: Board, threads: int = 1) -> BoardRunner:
        """Upload it to a board, and check there what it computes.

        Raises
        ------
        BoardLostError
            If the board fails, or its logits differ from PyTorch's: a time is worth nothing then.
        DeviceError
            If the program fails.
        """
        program = BoardProgram(board, self.executable, self.logits.shape[1])
        try:
            verify(program.run, self.inputs, self.logits, self.tolerance)
        except NumericMismatchError as error:
            msg = f"board {board.name} computes wrong logits: {error}"
            raise BoardLostError(msg) from error
        return BoardRunner(program, threads=threads)


def build_subnet(
    architecture: Architecture,
    folder: Path,
    target: TargetSpec,
    supernet: Supernet,
    *,
    batch: int = 1,
    cache: Cache | None = None,
    tuned: dict[str, dict[str, int]] | None = None,
) -> BuiltSubnet:
    """Extract, export and compile a subnet for a board.

    Parameters
    ----------
    architecture
        The subnet.
    folder
        Empty folder for its files.
    target
        The board's target.
    supernet
        Where it comes from; for times, fresh weights do as well as trained ones.
    batch
        Images of a run.
    cache
        Object cache; the default one if None.
    tuned
        Workload key -> kernel configuration.
    """
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.supernet import compute_logits

    path, side = folder / "subnet.onnx", architecture.resolution
    subnet = supernet.extract(architecture)
    export_onnx(subnet, path, resolution=side, batch=batch, check=False)
    calibration = calibration_for_timing(target, side)
    plain = Preprocessing(height=side, width=side, mean=(0.0,) * 3, std=(1.0,) * 3)
    compiled = compile_onnx(
        path,
        target,
        folder,
        symbol_prefix=_PREFIX,
        network_meta=render_network_meta(plain, ()),
        cache=cache,
        tuned=tuned,
        calibration=calibration,
    )
    assert compiled.executable is not None  # asked for by network_meta
    inputs = noise_inputs(compiled.input_shape, batch)
    if calibration is None:
        expected = compute_logits(subnet, inputs)
    else:
        expected = quantised_logits(path, target, calibration, inputs, cache or Cache())
    return BuiltSubnet(compiled.executable, inputs, expected, tolerance_of(target.precision))
