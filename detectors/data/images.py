"""Image files as tensors; the only importer of Pillow."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detectors.data.sizes import PAD, fitted_size, rounded_up, turned_size

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
"""Those that hold photographs. Pillow knows more by a file's content, whatever its name; some start
other programs (EPS runs Ghostscript), and none of them is a photograph's."""
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class ImageError(ValueError):
    """An image file that can't be used; the message says why, without the file's name."""


def read_size(path: Path, *, decode: bool) -> tuple[int, int]:
    """(width, height) in pixels; with `decode` only if every pixel can be read.

    Raises ImageError when it can't, or when pixels have more than 8 bits.
    """
    with _open(path) as image:
        if decode:
            _load(image)
        return image.size


def read_fitted(
    path: Path, height: int, width: int, *, turn: bool = False
) -> tuple[Tensor, tuple[float, float]]:
    """An image resized to fit inside height x width, aspect kept, padded at the right and bottom.

    With `turn` the smaller of the two limits the image's shorter side and the larger its longer
    one, and each side is padded to the next multiple of 32 only.

    Returns [3, height, width] uint8 RGB and the (x, y) factors. Grey, palette and CMYK images are
    converted, transparency is dropped, an EXIF orientation is not applied. Raises ImageError.
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
