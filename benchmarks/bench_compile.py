"""How long `ofa-compile compile` takes, as a command: cold, cold with BN calibration, and warm.

One random subnet of ofa_mbv3_d234_e346_k357_w1.0 at 224 px with random weights, for this machine.
A cold run starts with an empty cache (no kernel, no subnet, not even the C operators that
calibrate); a warm one repeats it. With calibration, 500 images are drawn of a folder, which is made
here of coloured noise with a photograph's spectrum (500 x 375 pixels, JPEG) unless one is given.
Every round takes each figure once; importing torch, TVM and ONNX alone is timed in the same rounds,
so that the work beyond imports is a difference of neighbours.

    python benchmarks/bench_compile.py [--photos FOLDER] [--rounds 3] [--before CHECKOUT]

A CHECKOUT (a folder with another revision's `ofa_compile`, in which its `kernels` and `targets` are
linked) is timed in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table
from PIL import Image
from subnets import W10

from ofa_compile.space import Architecture, search_space

IMPORTS = "import torch, tvm, tvm.relax, onnx"
NUM_PHOTOS, PHOTO_SHAPE = 600, (375, 500)


def architecture(options: argparse.Namespace) -> Architecture:
    """Return the subnet: random, at 224 px (`--quick`: a small one of another space)."""
    if options.quick:
        return search_space("ofa_mbv3_cifar").smallest()
    space = search_space(W10)
    drawn = space.sample(np.random.default_rng(options.seed)).to_dict()
    return Architecture.from_dict({**drawn, "resolution": 224})


def make_photos(folder: Path, count: int, seed: int) -> None:
    """Write images whose amplitudes fall with frequency and whose colours are correlated."""
    rng = np.random.default_rng(seed)
    height, width = PHOTO_SHAPE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    amplitude = np.maximum(frequency, 0.5 / width) ** -1.2
    (folder / "train" / "class").mkdir(parents=True)
    for number in range(count):
        white = rng.standard_normal((3, height, width))
        white += 2 * rng.standard_normal((1, height, width))
        smooth = np.fft.irfft2(np.fft.rfft2(white) * amplitude, s=PHOTO_SHAPE)
        smooth *= rng.uniform(30, 70) / smooth.std()
        pixels = np.clip(smooth + rng.uniform(90, 150), 0, 255).astype(np.uint8)
        image = Image.fromarray(np.moveaxis(pixels, 0, -1).copy())
        image.save(folder / "train" / "class" / f"{number}.jpg", quality=90)


def timed(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return its wall time and, with its children, its processor time.

    In a folder of the system's, since Python looks for packages in the current one first.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    settings = {**os.environ, **environment}
    subprocess.run(
        command, check=True, capture_output=True, env=settings, cwd=tempfile.gettempdir()
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 3), "processor_s": round(processor, 3)}


class Compiles:
    """The commands of one revision, in a folder of its own."""

    def __init__(self, folder: Path, inputs: list[str], photos: Path, path: Path | None) -> None:
        self.folder, self.inputs, self.photos = folder, inputs, photos
        self.environment = {"OFA_COMPILE_CACHE": str(folder / "cache")}
        if path is not None:
            self.environment["PYTHONPATH"] = str(path.resolve())

    def run(self, *options: str) -> dict[str, float]:
        """Compile once, for this machine."""
        command = [sys.executable, "-m", "ofa_compile", "compile", "--target", "host", "--quiet"]
        output = ["--output", str(self.folder / "bundle")]
        return timed([*command, *self.inputs, *output, *options], self.environment)

    def round(self) -> dict[str, dict[str, float]]:
        """Return every figure once."""
        calibration = ("--calibration-data", str(self.photos))
        figures = {}
        self.forget()
        figures["cold, no calibration"] = self.run("--no-calibration")
        self.forget()
        figures["cold, calibrated"] = self.run(*calibration)
        figures["warm"] = self.run(*calibration)
        return figures

    def forget(self) -> None:
        """Empty the cache."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)


def median(rounds: list[dict[str, dict[str, float]]], name: str) -> float:
    """Return the median wall time of one figure."""
    return statistics.median(figures[name]["wall_s"] for figures in rounds)


def report(revision: str, rounds: list[dict[str, dict[str, float]]]) -> list[tuple[str, ...]]:
    """Return the table's rows of one revision."""
    imports = median(rounds, "imports")
    rows: list[tuple[str, ...]] = []
    for name in rounds[0]:
        walls = [figures[name]["wall_s"] for figures in rounds]
        beyond = "" if name in ("imports", "warm") else f"{median(rounds, name) - imports:.2f}"
        spread = f"{min(walls):.2f}-{max(walls):.2f}"
        processor = statistics.median(figures[name]["processor_s"] for figures in rounds)
        row = (revision, name, f"{median(rounds, name):.2f}", spread, beyond, f"{processor:.2f}")
        rows.append(row)
    return rows


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time every revision in turn, round by round."""
    from ofa_compile.supernet import load_supernet, save_supernet

    photos = options.photos
    if photos is None:
        photos = folder / "photos"
        make_photos(photos, 20 if options.quick else NUM_PHOTOS, options.seed)
    chosen = architecture(options)
    (folder / "architecture.json").write_text(chosen.to_json(), encoding="utf-8")
    supernet = folder / "supernet.safetensors"
    save_supernet(load_supernet(None, space=chosen.space), supernet)
    inputs = ["--supernet", str(supernet), "--architecture", str(folder / "architecture.json")]
    revisions = {"this": None} | ({"before": options.before} if options.before else {})
    commands = {}
    for name, path in revisions.items():
        (folder / name).mkdir()
        commands[name] = Compiles(folder / name, inputs, photos, path)
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        imports = timed([sys.executable, "-c", IMPORTS], {})
        for name, compiles in commands.items():
            rounds[name].append({"imports": imports, **compiles.round()})
    return {"architecture": chosen.to_dict(), "rounds": rounds}


def main() -> None:
    """Time and report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--photos", type=Path, help="a folder with one folder of images a class")
    arguments.add_argument("--rounds", type=int, help="repetitions (default: 3)")
    arguments.add_argument("--before", type=Path, help="another revision's checkout")
    options = arguments.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory(prefix="ofa-compile-bench-") as folder:
        found = measure(Path(folder), options)
    header = ("revision", "figure", "s", "range", "beyond imports", "processor s")
    rows = [row for name, rounds in found["rounds"].items() for row in report(name, rounds)]
    say(options, table(header, rows))
    finish({"benchmark": "compile", **found}, options)


if __name__ == "__main__":
    main()
