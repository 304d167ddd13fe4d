"""Runs in the emulated Python: ncnn on one network, so many times. See bench_arm64_instructions."""

from __future__ import annotations

import sys

import ncnn
import numpy as np


def main() -> None:
    """Load PARAM and BIN, run on a constant image of SIZE pixels, REPEATS times."""
    param, weights, size, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    net.load_param(param)
    net.load_model(weights)
    values = np.full((3, size, size), 0.5, np.float32)
    source, result = net.input_names()[0], net.output_names()[0]
    for _ in range(repeats):
        extractor = net.create_extractor()
        extractor.input(source, ncnn.Mat(values))
        code, logits = extractor.extract(result)
        assert code == 0
    sys.stdout.write(f"{np.array(logits)[:3]}\n")


main()
