"""Runs in the emulated Python: ONNX Runtime, so many times. See bench_arm64_instructions."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main() -> None:
    """Load MODEL, run on a constant image of SIZE pixels, REPEATS times, on one thread."""
    model, size, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    values = {session.get_inputs()[0].name: np.full((1, 3, size, size), 0.5, np.float32)}
    for _ in range(repeats):
        (logits,) = session.run(None, values)
    sys.stdout.write(f"{logits[0, :3]}\n")


main()
