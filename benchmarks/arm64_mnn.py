"""Runs in the emulated Python: MNN on one network, so many times. See bench_arm64_instructions."""

from __future__ import annotations

import sys

import MNN
import numpy as np


def main() -> None:
    """Load MODEL, run on a constant image of SIZE pixels, REPEATS times, in full precision."""
    model, size, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    interpreter = MNN.Interpreter(model)
    settings = {"backend": "CPU", "numThread": 1, "precision": "high"}
    session = interpreter.createSession(settings)
    values = np.full((1, 3, size, size), 0.5, np.float32)
    kind, layout = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
    source = interpreter.getSessionInput(session)
    source.copyFrom(MNN.Tensor(values.shape, kind, values, layout))
    for _ in range(repeats):
        interpreter.runSession(session)
    logits = np.array(interpreter.getSessionOutput(session).getData())
    sys.stdout.write(f"{logits[:3]}\n")


main()
