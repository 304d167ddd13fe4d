"""What `tune` says of its boards."""

from __future__ import annotations

import dataclasses

from ofa_compile.cli.tune import _boards
from ofa_compile.tuning.tuning_board import TuningReport


def test_every_board_has_a_line_with_what_is_wrong() -> None:
    boards = [
        TuningReport(board="pi4@a:1", reference_us=12.3456),
        TuningReport(board="pi4@b:1", reference_us=20.0, num_drifts=2, problem="left out: hot"),
        TuningReport(board="pi4@c:1", problem="lost"),
    ]
    lines = _boards([{**dataclasses.asdict(entry), "num_trials": 7} for entry in boards])
    assert lines == [
        "board      pi4@a:1: 7 trials, 12.35 us for the reference",
        "board      pi4@b:1: 7 trials, 20 us for the reference, 2 times measured again since its "
        "speed changed; left out: hot",
        "board      pi4@c:1: 7 trials; lost",
    ]
