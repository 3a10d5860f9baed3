"""Pictures of more than 8 bits, of unusual sizes, and damaged ones."""

import contextlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from detectors.data.images import ImageError, pass_pixels_at_once, read_fitted, read_size
from detectors.data.sizes import PAD
from tests.examples import examples

VALUES = np.linspace(0, 65535, 64 * 48).round().astype(np.uint16).reshape(48, 64)


def read(path: Path, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    size = read_size(path, decode=True).stored
    pixels, _ = read_fitted(path, height, width, exif="apply", size=size)
    return pixels.permute(1, 2, 0).numpy()


def assert_grey(found: NDArray[np.uint8], expected: NDArray[Any]) -> None:
    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2))


# 16 bits ------------------------------------------------------------------------------------------


def reduced(values: NDArray[Any], most: int = 65535) -> NDArray[Any]:
    return np.rint(values / np.float64(most) * 255).astype(np.uint8)


@pytest.mark.parametrize("most", [65535, 4095, 255])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "TIFF, big-endian", "PPM", "JPEG2000"])
def test_grey_of_16_bits_is_scaled_whatever_its_range(tmp_path: Path, form: str, most: int) -> None:
    """Equal values of two images are equal grey: the brightest of an image is not made white."""
    values = (VALUES.astype(np.uint32) * most // 65535).astype(np.uint16)
    name, _, big = form.partition(",")
    how = {"irreversible": False} if name == "JPEG2000" else {}
    Image.fromarray(values.astype(">u2") if big else values).save(tmp_path / "a", name, **how)
    assert_grey(read(tmp_path / "a"), reduced(values))


@examples(40)
@given(st.integers(0, 65535))
def test_each_value_is_rounded(tmp_path_factory: pytest.TempPathFactory, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "value.png"
    Image.fromarray(np.full((32, 32), value, dtype=np.uint16)).save(path)
    assert read(path, 32, 32)[0, 0, 0] == round(value / 257)


def changed_tag(path: Path, tag: int, value: int) -> None:
    """Change a tag of a TIFF file of little-endian byte order that has one short value."""
    content = path.read_bytes()
    entry = tag.to_bytes(2, "little") + b"\x03\0\x01\0\0\0"
    assert content.count(entry) == 1
    start = content.index(entry) + len(entry)
    path.write_bytes(content[:start] + value.to_bytes(2, "little") + content[start + 2 :])


def test_grey_of_16_bits_where_0_is_white(tmp_path: Path) -> None:
    Image.fromarray(VALUES).save(tmp_path / "a.tif")
    changed_tag(tmp_path / "a.tif", 262, 0)
    assert_grey(read(tmp_path / "a.tif"), reduced(65535 - VALUES.astype(np.int64)))


def test_grey_of_12_bits(tmp_path: Path) -> None:
    """Two values in three bytes, the upper bits first."""
    values = (VALUES >> 4).astype(np.uint32)
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    ).astype(np.uint8)
    Image.fromarray(packed.reshape(48, 96)).save(tmp_path / "a.tif")
    changed_tag(tmp_path / "a.tif", 258, 12)
    content = (tmp_path / "a.tif").read_bytes()
    width = (256).to_bytes(2, "little") + b"\x04\0\x01\0\0\0"
    start = content.index(width) + len(width)
    (tmp_path / "a.tif").write_bytes(content[:start] + b"\x40" + content[start + 1 :])
    assert_grey(read(tmp_path / "a.tif"), reduced(values, 4095))


@pytest.mark.parametrize(("mode", "values"), [("F", np.float32), ("I", np.int32)])
def test_other_depths_are_refused(tmp_path: Path, mode: str, values: Any) -> None:
    Image.fromarray(VALUES.astype(values)).save(tmp_path / "a.tif")
    for decode in (False, True):
        with pytest.raises(ImageError, match=f"mode {mode}, not grey or RGB of 8 or 16 bits"):
            read_size(tmp_path / "a.tif", decode=decode)


def test_lab_is_refused(tmp_path: Path) -> None:
    Image.new("LAB", (64, 48)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="mode LAB, not grey or RGB"):
        read_size(tmp_path / "a.tif", decode=False)


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (60000, 1), (65000, 40), (3, 65000)])
@pytest.mark.parametrize("turn", [False, True])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int], turn: bool) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", size, "white").save(path)
    pixels, (x, y) = read_fitted(path, 64, 96, exif="apply", size=size, turn=turn)
    width, height = round(size[0] * x), round(size[1] * y)
    assert min(width, height) >= 1
    assert (pixels[:, :height, :width] == 255).all()
    assert (pixels[:, height:] == PAD).all()
    assert (pixels[:, :, width:] == PAD).all()


def test_a_large_picture_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (64, 48), 255).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    assert (read(tmp_path / "a.png") == 255).all()


def test_a_picture_of_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (64, 48)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with pytest.raises(ImageError, match="more than 3,000 pixels; cut it into parts"):
        read_size(tmp_path / "a.png", decode=False)


# Colours ------------------------------------------------------------------------------------------


def test_colours_of_a_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 40, 10)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - (200, 40, 10)).max() <= 3


def test_the_upper_bits_of_colours_are_used(tmp_path: Path) -> None:
    """A PPM of 16 bits a channel."""
    colours = np.random.default_rng(0).integers(0, 65536, (48, 64, 3), dtype=np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6 64 48 65535\n" + colours.astype(">u2").tobytes())
    assert np.abs(read(tmp_path / "a.ppm").astype(int) - (colours >> 8)).max() <= 1


def png(path: Path, values: NDArray[Any], kind: int) -> None:
    """Write a PNG of 16 bits a channel from [H, W, C], without Pillow."""
    height, width, _ = values.shape
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    lines = np.insert(rows, 0, 0, axis=1).tobytes()  # each without a filter
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            len(part).to_bytes(4, "big") + name + part + zlib.crc32(name + part).to_bytes(4, "big")
            for name, part in parts
        )
    )


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_the_upper_bits_of_a_png_are_used(tmp_path: Path, kind: int, channels: int) -> None:
    """RGB, grey with alpha and RGB with alpha."""
    shape = (48, 64, channels)
    values = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    png(tmp_path / "a.png", values, kind)
    colours = np.repeat(values[..., :1], 3, axis=2) if kind == 4 else values[..., :3]
    assert np.array_equal(read(tmp_path / "a.png"), colours >> 8)


# Damage -------------------------------------------------------------------------------------------


@examples(60)
@given(
    st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"]),
    st.floats(0, 1),
    st.binary(min_size=0, max_size=20),
    st.booleans(),
)
def test_a_damaged_file_raises_no_other_error(
    tmp_path_factory: pytest.TempPathFactory, form: str, where: float, change: bytes, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    Image.fromarray((VALUES >> 8).astype(np.uint8)).convert("RGB").save(path, form)
    content = path.read_bytes()
    start = int(where * len(content))
    end = b"" if cut else content[start + len(change) :]
    path.write_bytes(content[:start] + change + end)
    for decode in (False, True):
        with contextlib.suppress(ImageError):
            size = read_size(path, decode=decode).stored
            read_fitted(path, 32, 32, exif="apply", size=size)


# Blocks of pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_size_of_blocks_changes_no_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 10)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole", form)
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-2000])
    before = read(tmp_path / "whole", 150, 200)
    pass_pixels_at_once()
    assert pixels.nbytes < ImageFile.MAXBLOCK
    assert np.array_equal(read(tmp_path / "whole", 150, 200), before)
    with pytest.raises(ImageError):
        read(tmp_path / "cut", 150, 200)
