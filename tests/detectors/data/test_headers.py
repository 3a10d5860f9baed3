"""Headers of images are read once per machine, with the same result as in every process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detectors.data import headers
from detectors.data.headers import read_headers
from detectors.data.images import read_size
from tests.detectors.data.small_coco import coco, pixels, write

BAD = ("cut.jpg", "text.jpg")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the headers of any number of images in a folder of the test."""
    monkeypatch.setenv("GAPLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(headers, "LEAST_IMAGES", 0)
    return tmp_path / "cache"


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Write images: a photograph, one with an EXIF orientation, and two that are damaged."""
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels(40, 30, 0).save(tmp_path / "good.jpg")
    pixels(40, 30, 1).save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-200])
    (tmp_path / "text.jpg").write_text("no image")
    return {name: tmp_path / name for name in ("cut.jpg", "good.jpg", "text.jpg", "turned.jpg")}


def shown(paths: dict[str, Path], decode: bool = True) -> list[tuple[str, str]]:
    return [(name, repr(found)) for name, found in read_headers(paths, decode=decode).items()]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the images that are opened from now on."""
    names: list[str] = []

    def read(path: Path, *, decode: bool) -> Any:
        names.append(path.name)
        return read_size(path, decode=decode)

    monkeypatch.setattr(headers, "read_size", read)
    return names


@pytest.mark.parametrize("decode", [True, False])
def test_headers_are_read_once(paths: dict[str, Path], opened: list[str], decode: bool) -> None:
    first = shown(paths, decode)
    assert opened == [*paths]
    assert shown(paths, decode) == first
    assert opened[len(paths) :] == ["cut.jpg"] * decode + ["text.jpg"]


def test_whether_images_are_decoded_is_kept_apart(paths: dict[str, Path]) -> None:
    shown(paths, decode=False)
    assert "truncated" in dict(shown(paths, decode=True))["cut.jpg"]


def test_an_image_that_has_changed_is_read_again(paths: dict[str, Path]) -> None:
    shown(paths)
    pixels(50, 20, 0).save(paths["good.jpg"])
    assert "(50, 20)" in dict(shown(paths))["good.jpg"]


def test_an_image_that_is_repaired_keeps_its_time(paths: dict[str, Path]) -> None:
    """An image without a permission has the same time and size when it gets one."""
    before, good = paths["cut.jpg"].stat(), paths["good.jpg"].read_bytes()
    shown(paths)
    paths["cut.jpg"].write_bytes(good[: before.st_size - 2] + b"\xff\xd9")
    os.utime(paths["cut.jpg"], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "Orientation" in dict(shown(paths))["cut.jpg"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"40", b"41")),
        lambda path: path.write_bytes(b"\n"),
    ],
)
def test_a_damaged_file_is_made_again(
    paths: dict[str, Path], folder: Path, opened: list[str], damage: Callable[[Path], object]
) -> None:
    first = shown(paths)
    (file,) = folder.glob("*.json")
    content = file.read_bytes()
    damage(file)
    assert shown(paths) == first
    assert file.read_bytes() == content
    assert opened.count("good.jpg") == 2


def test_few_images_are_not_kept(
    paths: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "LEAST_IMAGES", len(paths) + 1)
    shown(paths)
    assert not folder.exists()


def test_a_data_set_with_bad_images(tmp_path: Path, opened: list[str]) -> None:
    root = write(tmp_path / "pets")
    (root / "images" / "2.jpg").write_text("no image")
    first, second = (coco(root, title=t, on_bad="skip").load("train") for t in ("a", "b"))
    assert first.notes == second.notes
    assert str(first.truth()) == str(second.truth())
    assert opened == ["1.jpg", "2.jpg", "3.jpg", "2.jpg"]
