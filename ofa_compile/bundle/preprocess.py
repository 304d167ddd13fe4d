"""From an image of any size and kind to the input of a network.

The same steps as `runtime/image.c`, which the executable runs: cut the largest centred box with the
input's aspect ratio, resize it with an antialiased triangle filter (in float, no rounding to eight
bits), subtract the mean, divide by the standard deviation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ImageError, UserInputError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource: TypeAlias = "str | Path | Image | NDArray[np.uint8]"

CHANNEL_ORDER = "RGB"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to an image before the network sees it.

    Attributes
    ----------
    height, width
        Size of the network's input in pixels.
    mean, std
        Per channel (red, green, blue), for pixel values between 0 and 1.
    crop_fraction
        Side of the centre crop over the side of the largest one that fits: 1 keeps the whole
        short side, 0.875 is the usual ImageNet evaluation crop.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges, so that no bundle is built with constants that cannot work."""
        if self.height < 1 or self.width < 1:
            msg = f"input size {self.height}x{self.width} must be at least 1x1"
            raise UserInputError(msg)
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not all(map(math.isfinite, values)):
                msg = f"{name} must be three finite numbers, got {values}"
                raise UserInputError(msg)
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            msg = f"std must be positive, got {self.std}"
            raise UserInputError(msg)
        if not 0 < self.crop_fraction <= 1:
            msg = f"crop_fraction must be above 0 and at most 1, got {self.crop_fraction}"
            raise UserInputError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data."""
        fields = asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Build from what `to_dict` returned; other keys are ignored."""
        return cls(
            height=int(fields["height"]),
            width=int(fields["width"]),
            mean=tuple(fields["mean"]),
            std=tuple(fields["std"]),
            crop_fraction=float(fields["crop_fraction"]),
        )

    def apply(self, source: ImageSource) -> NDArray[np.float32]:
        """Return the network input for one image.

        Parameters
        ----------
        source
            Path of an image file, a PIL image, or a uint8 array of shape (height, width, 3).

        Returns
        -------
        Normalised float32 array of shape (3, height, width).

        Raises
        ------
        ImageError
            If the image cannot be read.
        """
        pixels = resize_center(load_pixels(source), self.height, self.width, self.crop_fraction)
        mean = np.asarray(self.mean, dtype=np.float32)[:, None, None]
        std = np.asarray(self.std, dtype=np.float32)[:, None, None]
        normalised: NDArray[np.float32] = (pixels - mean) / std
        return normalised


def resize_center(
    pixels: NDArray[np.float32], height: int, width: int, crop_fraction: float = 1.0
) -> NDArray[np.float32]:
    """Cut the centre of an image and resize it with an antialiased triangle filter.

    Parameters
    ----------
    pixels
        float32 array of shape (image_height, image_width, 3).
    height, width
        Size of the result.
    crop_fraction
        As in `Preprocessing`.

    Returns
    -------
    float32 array of shape (3, height, width).
    """
    from PIL import Image

    image_height, image_width, _ = pixels.shape
    scale = min(image_width / width, image_height / height) * crop_fraction
    left, top = (image_width - scale * width) / 2, (image_height - scale * height) / 2
    # Rounding must not put the box outside the image, which PIL refuses.
    right = min(left + scale * width, image_width)
    bottom = min(top + scale * height, image_height)
    box = (max(left, 0.0), max(top, 0.0), right, bottom)
    planes = [
        Image.fromarray(np.ascontiguousarray(pixels[:, :, channel])).resize(
            (width, height), Image.Resampling.BILINEAR, box=box
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(plane, dtype=np.float32) for plane in planes])


def load_pixels(source: ImageSource) -> NDArray[np.float32]:
    """Decode an image to RGB values between 0 and 1.

    EXIF orientation is applied, transparency is laid over white, 16-bit images keep their range,
    and of an animation the first frame counts.

    Returns
    -------
    float32 array of shape (height, width, 3).

    Raises
    ------
    ImageError
        If the file is missing, damaged, not an image, or of a kind that has no colour values.
    """
    from PIL import Image

    if isinstance(source, np.ndarray):
        return _array_pixels(source)
    try:
        with warnings.catch_warnings():
            # Photographs above 89 million pixels are unusual, not an attack; above twice that
            # Pillow raises.
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _image_pixels(source)
            with Image.open(source) as image:
                return _image_pixels(image)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        name = source if isinstance(source, (str, Path)) else "the image"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        msg = f"cannot read {name}: {reason}"
        hint = "give a PNG or JPEG file, or any other format that Pillow reads"
        raise ImageError(msg, hint=hint) from error


def _array_pixels(array: NDArray[np.uint8]) -> NDArray[np.float32]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        msg = f"an image array must be uint8 (height, width, 3), got {array.dtype} {array.shape}"
        raise ImageError(msg)
    return array.astype(np.float32) / np.float32(255.0)


def _image_pixels(image: Image) -> NDArray[np.float32]:
    from PIL import ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _deep_gray_pixels(image)
    if image.mode == "F":
        msg = f"cannot read {getattr(image, 'filename', '') or 'the image'}: floating-point pixels"
        hint = "convert it to 8 or 16 bits; the range of its values is unknown"
        raise ImageError(msg, hint=hint)
    if image.has_transparency_data:
        image = _over_white(image)
    return _array_pixels(np.asarray(image.convert("RGB")))


def _over_white(image: Image) -> Image:
    from PIL import Image as image_module

    layered = image.convert("RGBA")
    background = image_module.new("RGBA", layered.size, (255, 255, 255, 255))
    return image_module.alpha_composite(background, layered)


def _deep_gray_pixels(image: Image) -> NDArray[np.float32]:
    """Return a 16-bit (or 32-bit container) gray image as three equal channels."""
    values = np.asarray(image).astype(np.float64)
    if values.min() < 0 or values.max() > 65535:
        msg = f"gray values from {values.min():g} to {values.max():g} are not 16-bit"
        raise ImageError(msg, hint="convert the image to 8 or 16 bits")
    gray = (values / 65535.0).astype(np.float32)
    return np.repeat(gray[:, :, None], 3, axis=2)
