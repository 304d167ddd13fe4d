from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from stub_build import IMAGENET, Program, build_program, write_ppm

from ofa_compile.bundle.preprocess import Preprocessing

PREPROCESSING = Preprocessing(height=8, width=8, mean=IMAGENET["mean"], std=IMAGENET["std"])


def random_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "size",
    [(8, 8), (1, 1), (7, 9), (9, 7), (3, 500), (500, 3), (16, 16), (64, 48), (333, 1001), (2, 8)],
)
def test_resize_equals_python(
    tmp_path: Path, program: Program, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    pixels = random_image(rng, *size)
    actual = program.logits(write_ppm(tmp_path / "image.ppm", pixels)).reshape(3, 8, 8)
    expected = PREPROCESSING.apply(pixels)
    assert np.abs(actual - expected).max() < 1e-3


@pytest.mark.parametrize("size", [(8, 8), (40, 30), (5, 5)])
def test_center_crop_equals_python(
    tmp_path: Path, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    program = build_program(tmp_path, crop_fraction=0.875)
    pixels = random_image(rng, *size)
    actual = program.logits(write_ppm(tmp_path / "image.ppm", pixels)).reshape(3, 8, 8)
    cropping = Preprocessing(**{**PREPROCESSING.to_dict(), "crop_fraction": 0.875})
    assert np.abs(actual - cropping.apply(pixels)).max() < 1e-3


def test_sixteen_bit_image_keeps_its_range(
    tmp_path: Path, program: Program, rng: np.random.Generator
) -> None:
    deep = rng.integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    actual = program.logits(write_ppm(tmp_path / "deep.ppm", deep)).reshape(3, 8, 8)
    mean, std = (np.array(IMAGENET[key])[:, None, None] for key in ("mean", "std"))
    expected = (deep.transpose(2, 0, 1) / 65535.0 - mean) / std
    assert np.abs(actual - expected).max() < 1e-5


def test_header_variants_are_read(tmp_path: Path, program: Program) -> None:
    path = tmp_path / "odd.ppm"
    body = bytes(range(12))
    path.write_bytes(b"P6 # a\n#b\n\t2\r\n2 #c\n 15\n" + body + b"trailing bytes")
    values = np.frombuffer(body, np.uint8).reshape(2, 2, 3) * 17
    actual = program.logits(path).reshape(3, 8, 8)
    assert np.abs(actual - PREPROCESSING.apply(values)).max() < 1e-3


BAD_IMAGES = {
    "empty file": (b"", "not a binary PPM"),
    "plain text": (b"hello", "not a binary PPM"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(100), "not a binary PPM"),
    "ascii ppm": (b"P3\n1 1\n255\n0 0 0\n", "not a binary PPM"),
    "only magic": (b"P6", "header is damaged"),
    "no height": (b"P6\n12\n", "header is damaged"),
    "negative": (b"P6\n-3 4\n255\n", "header is damaged"),
    "words": (b"P6\nten 4\n255\n", "header is damaged"),
    "endless comment": (b"P6\n#" + b"x" * 5000, "header is damaged"),
    "no blank after maximum": (b"P6 1 1 255", "header is damaged"),
    "zero width": (b"P6\n0 4\n255\n", "size 0x4 is not between"),
    "zero height": (b"P6\n4 0\n255\n", "size 4x0 is not between"),
    "huge": (b"P6\n99999999999999999999 4\n255\n", "is not between 1x1 and 1048576x1048576"),
    "int overflow": (b"P6\n4294967297 1\n255\n" + bytes(3), "is not between"),
    "zero maximum": (b"P6\n1 1\n0\n" + bytes(3), "largest value 0"),
    "maximum too large": (b"P6\n1 1\n65536\n" + bytes(6), "largest value 65536"),
    "no pixels": (b"P6\n4 4\n255\n", "the image ends in row 1 of 4"),
    "truncated": (b"P6\n4 4\n255\n" + bytes(47), "the image ends in row 4 of 4"),
    "truncated 16 bits": (b"P6\n4 4\n65535\n" + bytes(48), "the image ends in row 3 of 4"),
    "absurd but legal size": (b"P6\n1048576 1048576\n255\n" + bytes(100), "ends in row 1 of"),
    "above maximum": (b"P6\n1 1\n15\n" + bytes([3, 16, 3]), "value 16 in row 1 is above"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image_is_a_clear_error(tmp_path: Path, program: Program, kind: str) -> None:
    content, message = BAD_IMAGES[kind]
    path = tmp_path / "bad.ppm"
    path.write_bytes(content)
    done = program.run(path)
    assert done.returncode == 2
    assert f"error: {path}: ".encode() in done.stderr
    assert message.encode() in done.stderr
    assert done.stdout == b""


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    program = build_program(tmp_path)
    path = tmp_path / "tall.ppm"
    with path.open("wb") as file:
        file.write(b"P6\n100 200000\n255\n")
        file.truncate(file.tell() + 100 * 200000 * 3)
    limit = 16 << 20

    def limit_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = program.run(path, preexec_fn=limit_memory)
    assert done.returncode == 0, done.stderr
