"""Pictures as input of a detector: files, images of Pillow and arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.data import DATASETS
from detectors.data.images import ImageError
from detectors.data.preparation import Preparation
from tests.photographs import image_of, splits, written


def opened(path: Path) -> Image.Image:
    return Image.open(path)


def array(path: Path) -> Any:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("portrait", ["fit", "turn"])
@pytest.mark.parametrize("given", [Path, str, opened, array])
def test_a_picture_is_prepared_like_a_sample(tmp_path: Path, portrait: str, given: Any) -> None:
    options = written("coco", tmp_path / "coco", portrait=portrait)
    data, prepare = options.load("val"), options.preparation()
    for index, photograph in enumerate(splits()["val"]):
        sample = data[index]
        found = prepare(given(image_of(tmp_path, photograph.name)))
        assert torch.equal(found.image, sample.image)
        assert (found.scale, found.size) == (sample.scale, photograph.size)


@pytest.mark.parametrize(("exif", "turned"), [("apply", True), ("refuse", True), ("ignore", False)])
@pytest.mark.parametrize("form", ["jpg", "png", "tif", "webp"])
def test_the_orientation_is_applied(tmp_path: Path, exif: str, turned: bool, form: str) -> None:
    path, tags = tmp_path / f"a.{form}", Image.Exif()
    tags[0x0112] = 6
    Image.new("RGB", (64, 40), "red").save(path, exif=tags)
    prepare = written("coco", tmp_path / "coco", exif=exif).preparation()
    for picture in (path, Image.open(path)):
        assert prepare(picture).size == ((40, 64) if turned else (64, 40))


def test_drawn_images_need_no_resizing() -> None:
    options = DATASETS["shapes"].model_validate({"size": 64, "max_side": 40.0})
    image = options.load("val")[0].image
    found = options.preparation()(image.permute(1, 2, 0).numpy())
    assert torch.equal(found.image, image)
    assert found.scale == (1.0, 1.0)


def test_grey_arrays_and_images_become_rgb() -> None:
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12)
    prepare = Preparation(height=8, width=12)
    expected = torch.from_numpy(grey).expand(3, 8, 12)
    for picture in (grey, Image.fromarray(grey), np.stack([grey] * 3, axis=2)):
        assert torch.equal(prepare(picture).image, expected)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8, 3), dtype=np.float32),
        np.zeros((3, 8, 8), dtype=np.uint8),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
        np.zeros(8, dtype=np.uint8),
        Image.new("F", (8, 8)),
        b"pixels",
        None,
    ],
)
def test_other_things_are_refused(picture: Any) -> None:
    with pytest.raises(ImageError, match=r"uint8|give a path|mode F"):
        Preparation(height=8, width=8)(picture)


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("text")
    for path in (tmp_path / "a.jpg", tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(ImageError):
            Preparation(height=8, width=8)(path)
