"""Read image files as tensors, with Pillow."""

import contextlib
import io
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from detectors.data.orientation import UNKNOWN, Exif, Orientation, PartialSize, Size
from detectors.data.sizes import PAD, fitted_size, rounded_up, turned_size
from detectors.data.views import View

Picture = Image.Image
"""A decoded image."""

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_GREY_16 = {"I;16", "I;16B", "I;16L", "I;16N"}
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
"""Formats of photographs. Pillow detects others from the content of a file, whatever its name; some
start other programs (EPS runs Ghostscript)."""
_TIFF_BITS, _TIFF_ZERO = 258, 262
"""Tags: the number of bits per channel, and what the value 0 is (0: white)."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes the stored pixels upright, by orientation. 1 is upright."""
_STORED = _UPRIGHT | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What makes upright pixels the stored ones again."""
_LATE = tuple(
    [b"eXIf", b"iTXtXML:com.adobe.xmp"]
    + [name + b"Raw profile type exif" for name in (b"tEXt", b"zTXt", b"iTXt")]
)
"""Beginnings of the parts of a PNG file that may hold an orientation."""


_BLOCK = 2**24
"""Bytes of pixels that Pillow passes at once: those of a photograph at any usual size."""


class ImageError(ValueError):
    """An image file can't be used. The message gives the reason, without the name of the file."""


def pass_pixels_at_once() -> None:
    """Let Pillow pass the pixels of an image in one block, in the whole process.

    It otherwise joins blocks of 64 KiB, for which it copies all pixels once more.
    """
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, _BLOCK)


def read_size(path: Path, *, decode: bool) -> Orientation:
    """Return the size of an image and its EXIF orientation.

    Args:
        path: the file.
        decode: whether to decode all pixels, to find damaged files.

    Raises:
        ImageError: the image can't be read, or has channels of more than 16 bits.
    """
    with _open(path) as image:
        orientation = _orientation(image, path)
        if decode:
            _load(image)
        return orientation


def read_fitted(
    path: Path, height: int, width: int, *, exif: Exif, size: Size, turn: bool = False
) -> tuple[Tensor, tuple[float, float]]:
    """Read an image, resized to fit inside height x width and padded at the right and bottom.

    The aspect ratio is kept. Grey, palette and CMYK images are converted, and transparency is
    dropped. Grey of 16 bits is reduced to 8 by `round(value / 257)`, whatever range the values of
    the image have (of 12 bits, which TIFF has: `round(value * 255 / 4095)`). Of colours with 16
    bits, the upper 8 are used.

    Args:
        path: the file.
        height: maximum height.
        width: maximum width.
        exif: whether the EXIF orientation is applied.
        size: (width, height) according to the annotations; see `Orientation.is_applied`.
        turn: whether the smaller of the two limits the shorter side of the image and the larger its
            longer side; each side is then only padded to the next multiple of 32.

    Returns:
        [3, height, width] uint8 RGB, and the (x, y) factors of the resizing.

    Raises:
        ImageError: the image can't be read.
    """
    return fitted_pixels(read_rgb(path, exif, size), height, width, turn=turn)


def shown_pixels(rgb: Picture, view: View) -> Tensor:
    """Return a view of an RGB image, cropped and resized at once: [3, height, width] uint8.

    Raises:
        ImageError: the image has another size than the view was made for.
    """
    if rgb.size != view.original:
        (width, height), (wide, high) = view.original, rgb.size
        raise ImageError(f"{wide}x{high} pixels, not {width}x{height} as when it was loaded")
    _silence()
    resized = np.asarray(rgb.resize(view.size, Image.Resampling.BILINEAR, view.source))
    return torch.from_numpy(resized).permute(2, 0, 1)


@cache
def _silence() -> None:
    """Let PyTorch say now, once, that arrays that are not writable must not be written."""
    with warnings.catch_warnings(action="ignore"):
        torch.from_numpy(np.frombuffer(b" ", dtype=np.uint8))


def to_rgb(picture: Any, exif: Exif) -> Image.Image:
    """Return a picture as 8-bit RGB, converted as in `read_fitted`.

    Args:
        picture: the path of a file, an image of Pillow, or an array [height, width, 3] (RGB) or
            [height, width] (grey) of uint8.
        exif: whether the EXIF orientation of a file or of an image of Pillow is applied.

    Raises:
        ImageError: the picture can't be read, or is none of these.
    """
    if isinstance(picture, str | os.PathLike):
        return read_rgb(Path(picture), exif, UNKNOWN)
    if isinstance(picture, np.ndarray):
        return _of_array(picture)
    if not isinstance(picture, Image.Image):
        raise ImageError(f"{type(picture).__name__}: give a path, an image of Pillow or an array")
    _check_mode(picture)
    if picture.format == "PNG":  # the orientation may follow the pixels
        _load(picture)
    orientation = _held_orientation(picture)
    _load(picture)
    return _oriented(_to_rgb(picture), orientation, upright=orientation.is_applied(exif))


def fitted_pixels(
    rgb: Image.Image, height: int, width: int, *, turn: bool
) -> tuple[Tensor, tuple[float, float]]:
    """Resize and pad an RGB image; see `read_fitted` for the arguments and the result."""
    fitted = fitted_size(*rgb.size, height, width)
    if turn:
        fitted = turned_size(*rgb.size, min(height, width), max(height, width))
        width, height = map(rounded_up, fitted)
    canvas = np.full((height, width, 3), PAD, dtype=np.uint8)
    resized = rgb if rgb.size == fitted else rgb.resize(fitted, Image.Resampling.BILINEAR)
    canvas[: fitted[1], : fitted[0]] = np.asarray(resized)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1).contiguous()
    return pixels, (fitted[0] / rgb.width, fitted[1] / rgb.height)


def read_rgb(path: Path, exif: Exif, size: PartialSize) -> Picture:
    """Read an image as 8-bit RGB; see `read_fitted`.

    Raises:
        ImageError: the image can't be read.
    """
    with _open(path) as image:
        orientation = _orientation(image, path)
        _load(image)
        upright = orientation.is_applied(exif, size)
        return _oriented(_to_rgb(image), orientation, upright=upright)


def _of_array(pixels: np.ndarray[Any, Any]) -> Image.Image:
    shape = pixels.shape
    sound = pixels.dtype == np.uint8 and pixels.size and (len(shape) == 2 or shape[2:] == (3,))
    if not sound:
        raise ImageError(
            f"an array {[*shape]} of {pixels.dtype}; give [height, width, 3] (RGB) or "
            "[height, width] (grey) of uint8"
        )
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def encode(image: Tensor, kind: Literal["jpeg", "png"], longest: int) -> bytes:
    """Return an image as the bytes of a file.

    Args:
        image: [3, H, W] uint8 RGB; or 4 channels, RGBA, for `png`.
        kind: `jpeg` for photographs, `png` for pixels that must stay as they are.
        longest: the image is made smaller if a side has more pixels than this.
    """
    buffer = io.BytesIO()
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pixels.thumbnail((longest, longest))
    pixels.save(buffer, kind, quality=85, optimize=True)
    return buffer.getvalue()


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(path, formats=_FORMATS)
    except Exception as error:  # Pillow raises errors of any kind for damaged files
        raise ImageError(_reason(error, path)) from error
    try:
        _check_mode(image)
    except ImageError:
        image.close()
        raise
    return image


def _check_mode(image: Image.Image) -> None:
    # PPM is the only format of mode I whose values are scaled to 16 bits
    if image.mode not in _MODES | _GREY_16 and (image.mode, image.format) != ("I", "PPM"):
        raise ImageError(f"pixels of mode {image.mode}, not grey or RGB of 8 or 16 bits")


def _load(image: Image.Image) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            image.load()
    except Exception as error:
        raise ImageError(str(error) or type(error).__name__) from error


def _orientation(image: Image.Image, path: Path) -> Orientation:
    """Return the orientation of an open image whose pixels have not been read."""
    if image.format == "PNG":
        with contextlib.suppress(OSError, ImageError):  # raised again where pixels are needed
            if _has_late_orientation(path):
                _load(image)
    return _held_orientation(image)


def _held_orientation(image: Image.Image) -> Orientation:
    """Return the orientation as far as Pillow has read it."""
    value, damaged = _value(image)
    if isinstance(image, TiffImageFile):  # its `size` is that of the upright image, mostly
        stored = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        return Orientation(stored, value, damaged, read_upright=True)
    return Orientation(image.size, value, damaged)


def _oriented(image: Image.Image, orientation: Orientation, *, upright: bool) -> Image.Image:
    """Return the upright image, or one with the stored pixels, of an image that was read."""
    if orientation.value == 1 or upright == orientation.read_upright:
        return image
    methods = _UPRIGHT if upright else _STORED
    return image.transpose(methods[orientation.value])


def _value(image: Image.Image) -> tuple[int, bool]:
    """Return the orientation, 1 if there is no valid one, and whether the data is damaged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if isinstance(data := image.info.get("exif"), bytes):  # JPEG was parsed when opened
                Image.Exif().load(data)
            # not PNG's own getexif, which reads all pixels
            value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        except Exception:  # Pillow raises errors of any kind for damaged data
            return 1, True
    if value is None:
        return 1, bool(caught)
    valid = isinstance(value, int) and 1 <= value <= 8
    return (value, False) if valid else (1, True)


def _has_late_orientation(path: Path) -> bool:
    """Return whether a PNG file may have an orientation behind its pixels."""
    with path.open("rb") as file:
        file.seek(8)
        late = False
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4])
            part = head[4:] + file.read(min(length, 25))
            late |= part.startswith(b"IDAT")
            if late and part.startswith(_LATE):
                return True
            file.seek(4 + length - (len(part) - 4), os.SEEK_CUR)
    return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "I" or image.mode in _GREY_16:
        image = _reduced(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _reduced(image: Image.Image) -> Image.Image:
    """Return grey of 8 bits; see `read_fitted`."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    most = 2 ** tags.get(_TIFF_BITS, (16,))[0] - 1
    values = np.asarray(image).astype(np.uint32)
    if tags.get(_TIFF_ZERO) == 0:  # Pillow inverts such images of 8 bits only
        values = most - values
    return Image.fromarray(((values * 255 + most // 2) // most).astype(np.uint8))


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; cut it into parts"
    return str(error).replace(str(path), path.name) or type(error).__name__
