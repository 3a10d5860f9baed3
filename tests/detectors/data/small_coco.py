"""A COCO data set of three small images, with every part of its files replaceable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detectors.data.base import DataError, Split
from detectors.data.coco import Coco

Document = dict[str, Any]
SIZES = {1: (40, 30), 2: (64, 48), 3: (50, 80)}  # image id -> width, height


def document() -> Document:
    """Three images: two objects (one of them a crowd), one object, none. Ids are not sorted."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": SIZES[i][0], "height": SIZES[i][1]}
            for i in (3, 1, 2)
        ],
        "annotations": [
            {"id": 11, "image_id": 2, "category_id": 9, "bbox": [4, 6, 20.5, 30], "area": 99.5},
            {"id": 12, "image_id": 1, "category_id": 4, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"id": 13, "image_id": 1, "category_id": 4, "bbox": [10, 5, 8, 16], "iscrowd": 0},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
    }


def pixels(width: int, height: int, seed: int) -> Image.Image:
    """Draw random pixels."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def write(root: Path, train: Document | None = None, val: Document | None = None) -> Path:
    """Write three images and both files into a new folder, and return it."""
    (root / "images").mkdir(parents=True)
    for id_, (width, height) in SIZES.items():
        pixels(width, height, id_).save(root / "images" / f"{id_}.jpg", quality=95)
    for name, content in (("train", train), ("val", val)):
        (root / f"{name}.json").write_text(json.dumps(content or document()))
    return root


def coco(root: Path, **options: Any) -> Coco:
    """Build options for small images."""
    return Coco(root=str(root), height=96, width=128, **options)


def refused(options: Coco, split: Split = "train") -> list[str]:
    """Return the problems for which a split is refused, each in one line."""
    with pytest.raises(DataError) as caught:
        options.load(split)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems
