"""Build subnets for a board and time them there, over RPC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.verify import noise_inputs, verify
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.errors import BoardLostError, NumericMismatchError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.measure import Builder
from ofa_compile.remote.program import BoardProgram
from ofa_compile.remote.session import Board
from ofa_compile.space.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn

    from ofa_compile.cache import Cache
    from ofa_compile.supernet.supernet import Supernet

_PREFIX = "ofa_measured_"
# Pages of a fresh process are faulted in by its first runs.
_WARMUP = 3
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


def board_builder(
    target: TargetSpec,
    supernet: Supernet,
    board: Board,
    *,
    threads: int = 1,
    cache: Cache | None = None,
    tuned: dict[str, dict[str, int]] | None = None,
) -> Builder:
    """Return a builder for `measure_subnets`: extract, export, compile, upload, check.

    Parameters
    ----------
    target
        The board's target.
    supernet
        Where subnets come from; for times, fresh weights do as well as trained ones.
    board
        The board, held by the caller for as long as runners live.
    threads
        How the subnets run.
    cache
        Object cache; the default one if None.
    tuned
        Workload key -> kernel configuration.
    """
    from ofa_compile.export.onnx_export import export_onnx

    def build(architecture: Architecture, folder: Path) -> BoardRunner:
        path, side = folder / "subnet.onnx", architecture.resolution
        subnet = supernet.extract(architecture)
        export_onnx(subnet, path, resolution=side, check=False)
        plain = Preprocessing(height=side, width=side, mean=(0.0,) * 3, std=(1.0,) * 3)
        compiled = compile_onnx(
            path,
            target,
            folder,
            symbol_prefix=_PREFIX,
            network_meta=render_network_meta(plain, ()),
            cache=cache,
            tuned=tuned,
        )
        assert compiled.executable is not None  # asked for by network_meta
        program = BoardProgram(board, compiled.executable, compiled.output_shape[1])
        _check_logits(program, subnet, compiled.input_shape)
        return BoardRunner(program, threads=threads)

    return build


def _check_logits(program: BoardProgram, subnet: nn.Module, shape: tuple[int, ...]) -> None:
    """Compare one input's logits with PyTorch: a time is worth nothing if the result is wrong."""
    from ofa_compile.supernet import compute_logits

    x = noise_inputs(shape, 1)
    try:
        verify(program.run, x, compute_logits(subnet, x))
    except NumericMismatchError as error:
        msg = f"board {program.board.name} computes wrong logits: {error}"
        raise BoardLostError(msg) from error
