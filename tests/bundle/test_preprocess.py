from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ofa_compile.bundle.network_meta import quote_c
from ofa_compile.bundle.preprocess import Preprocessing, load_pixels, resize_center
from ofa_compile.errors import ImageError, UserInputError

FIELDS: dict[str, Any] = {
    "height": 8,
    "width": 8,
    "mean": (0.1, 0.2, 0.3),
    "std": (0.5, 0.6, 0.7),
}


def gradient(height: int = 6, width: int = 10) -> np.ndarray:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    pixels[..., 2] = 77
    return pixels


def test_normalises_after_resizing() -> None:
    gray = np.full((5, 9, 3), 51, dtype=np.uint8)
    actual = Preprocessing(**FIELDS).apply(gray)
    assert actual.shape == (3, 8, 8)
    assert actual.dtype == np.float32
    expected = (0.2 - np.array(FIELDS["mean"])) / np.array(FIELDS["std"])
    np.testing.assert_allclose(actual, np.broadcast_to(expected[:, None, None], (3, 8, 8)), 1e-5)


def test_same_size_changes_nothing(rng: np.random.Generator) -> None:
    pixels = rng.random((8, 8, 3), dtype=np.float32)
    np.testing.assert_allclose(resize_center(pixels, 8, 8), pixels.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 24), (24, 8)])
def test_crops_the_centre_of_the_long_side(size: tuple[int, int], rng: np.random.Generator) -> None:
    pixels = rng.random((*size, 3), dtype=np.float32)
    middle = pixels[:, 8:16] if size[1] == 24 else pixels[8:16]
    actual = resize_center(pixels, 8, 8)
    np.testing.assert_allclose(actual, middle.transpose(2, 0, 1), atol=1e-6)


def test_crop_fraction_keeps_the_centre(rng: np.random.Generator) -> None:
    pixels = rng.random((16, 16, 3), dtype=np.float32)
    actual = resize_center(pixels, 8, 8, crop_fraction=0.5)
    np.testing.assert_allclose(actual, pixels[4:12, 4:12].transpose(2, 0, 1), atol=1e-6)


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.float32)
    stripes[:, ::2] = 1.0
    # Without antialiasing the stripes would alias to black or white.
    assert np.abs(resize_center(stripes, 8, 8)[:, :, 1:-1] - 0.5).max() < 0.05


@pytest.mark.parametrize("size", [(7, 3), (3, 7), (1, 1), (1, 999), (999, 1), (333, 77)])
@pytest.mark.parametrize("target", [(8, 8), (5, 9), (32, 24)])
def test_any_size_works(
    rng: np.random.Generator, size: tuple[int, int], target: tuple[int, int]
) -> None:
    pixels = rng.random((*size, 3), dtype=np.float32)
    actual = resize_center(pixels, *target, crop_fraction=0.875)
    assert actual.shape == (3, *target)
    assert actual.min() >= pixels.min() - 1e-5
    assert actual.max() <= pixels.max() + 1e-5


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_file_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(gradient(60, 80)).save(path)
    lossy = 0.2 if suffix in ("jpg", "gif", "webp") else 1e-6
    assert np.abs(load_pixels(path) - gradient(60, 80) / 255).max() < lossy
    np.testing.assert_array_equal(load_pixels(str(path)), load_pixels(path))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "RGBA", "LA", "HSV"])
def test_modes_agree_with_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    expected = np.asarray(image.convert("RGB")) / 255
    np.testing.assert_allclose(load_pixels(image), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_jpeg_of_other_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.jpg"
    image = Image.fromarray(gradient(64, 64)).convert(mode)
    image.save(path, quality=95)
    assert np.abs(load_pixels(path) - np.asarray(image.convert("RGB")) / 255).max() < 0.15


def test_sixteen_bit_png_keeps_its_range(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "deep.png")
    actual = load_pixels(tmp_path / "deep.png")
    for channel in range(3):
        np.testing.assert_allclose(actual[..., channel], values / 65535, atol=1e-6)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = (0, 255, 51)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "clear.png")
    actual = load_pixels(tmp_path / "clear.png")
    np.testing.assert_allclose(actual[0, :, 0], [1.0, 0.0, 0.8], atol=0.005)


def test_transparent_palette_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    np.testing.assert_allclose(load_pixels(tmp_path / "palette.png")[0], [[1, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(gradient(24, 40))
    methods = Image.Transpose
    inverse = {
        1: None,
        2: methods.FLIP_LEFT_RIGHT,
        3: methods.ROTATE_180,
        4: methods.FLIP_TOP_BOTTOM,
        5: methods.TRANSPOSE,
        6: methods.ROTATE_90,
        7: methods.TRANSVERSE,
        8: methods.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    actual = load_pixels(tmp_path / "photo.png")
    np.testing.assert_allclose(actual, gradient(24, 40) / 255, atol=1e-6)


def test_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(load_pixels(tmp_path / "film.gif")[0, 0], [1, 0, 0], atol=0.02)


def jpeg_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "good.jpg"
    Image.fromarray(gradient(64, 64)).save(path)
    return path.read_bytes()


def test_unreadable_files_are_clear_errors(tmp_path: Path) -> None:
    good = jpeg_bytes(tmp_path)
    bad = {
        "empty.jpg": b"",
        "text.png": b"this is no image",
        "truncated.jpg": good[: len(good) // 2],
        "header.jpg": good[:20],
        "broken.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }
    for name, content in bad.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageError, match=f"cannot read .*{name}") as caught:
            load_pixels(path)
        assert caught.value.hint
    with pytest.raises(ImageError, match="No such file"):
        load_pixels(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="Is a directory"):
        load_pixels(tmp_path)


def test_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(gradient(50, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert load_pixels(path).shape == (50, 50, 3)  # only unusual
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="exceeds limit"):
        load_pixels(path)


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ImageError, match="floating-point pixels"):
        load_pixels(tmp_path / "float.tiff")
    wide = Image.fromarray(np.full((4, 4), 70000, dtype=np.int32))
    with pytest.raises(ImageError, match="not 16-bit"):
        load_pixels(wide)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_wrong_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="must be uint8"):
        load_pixels(array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "at least 1x1"),
        ({"mean": (0.1, 0.2)}, "mean must be three"),
        ({"mean": (0.1, 0.2, float("nan"))}, "mean must be three finite"),
        ({"std": (1, 0, 1)}, "std must be positive"),
        ({"crop_fraction": 1.5}, "crop_fraction must be above 0"),
        ({"crop_fraction": 0}, "crop_fraction must be above 0"),
    ],
)
def test_impossible_constants_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        Preprocessing(**{**FIELDS, **change})


def test_survives_json() -> None:
    preprocessing = Preprocessing(**FIELDS, crop_fraction=0.875)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


def test_c_strings_are_ascii() -> None:
    assert quote_c("a?b") == r'"a\077b"'
    assert quote_c('\\"\n1') == r'"\134\042\0121"'
    assert quote_c("é") == r'"\303\251"'
