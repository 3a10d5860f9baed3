"""Read image files as tensors, with Pillow."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detectors.data.sizes import PAD, fitted_size, rounded_up, turned_size

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
"""Formats of photographs. Pillow detects others from the content of a file, whatever its name; some
start other programs (EPS runs Ghostscript)."""
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class ImageError(ValueError):
    """An image file can't be used. The message gives the reason, without the name of the file."""


def read_size(path: Path, *, decode: bool) -> tuple[int, int]:
    """Return (width, height) of an image in pixels.

    Args:
        path: the file.
        decode: whether to decode all pixels, to find damaged files.

    Raises:
        ImageError: the image can't be read, or has more than 8 bits per channel.
    """
    with _open(path) as image:
        if decode:
            _load(image)
        return image.size


def read_fitted(
    path: Path, height: int, width: int, *, turn: bool = False
) -> tuple[Tensor, tuple[float, float]]:
    """Read an image, resized to fit inside height x width and padded at the right and bottom.

    The aspect ratio is kept. Grey, palette and CMYK images are converted, transparency is dropped,
    and an EXIF orientation is not applied.

    Args:
        path: the file.
        height: maximum height.
        width: maximum width.
        turn: whether the smaller of the two limits the shorter side of the image and the larger its
            longer side; each side is then only padded to the next multiple of 32.

    Returns:
        [3, height, width] uint8 RGB, and the (x, y) factors of the resizing.

    Raises:
        ImageError: the image can't be read.
    """
    with _open(path) as image:
        _load(image)
        rgb = _to_rgb(image)
    size = fitted_size(*rgb.size, height, width)
    if turn:
        size = turned_size(*rgb.size, min(height, width), max(height, width))
        width, height = map(rounded_up, size)
    canvas = np.full((height, width, 3), PAD, dtype=np.uint8)
    resized = rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BILINEAR)
    canvas[: size[1], : size[0]] = np.asarray(resized)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1).contiguous()
    return pixels, (size[0] / rgb.width, size[1] / rgb.height)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=_FORMATS)
    except _BROKEN as error:
        raise ImageError(_reason(error, path)) from error
    if image.mode not in _MODES:
        image.close()
        raise ImageError(f"pixels of mode {image.mode}, not 8 bits a channel")
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except _BROKEN as error:
        raise ImageError(str(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(error: Exception, path: Path) -> str:
    return str(error).replace(str(path), path.name) or type(error).__name__
