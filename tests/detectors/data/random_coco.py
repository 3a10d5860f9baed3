"""Random COCO files: sound annotations, and every kind of those that are not."""

import json
import math
from typing import Any

import numpy as np

Document = dict[str, Any]
NAN = math.nan

CHANGES: list[dict[str, Any]] = [
    {"image_id": 77},
    {"image_id": 2**70},
    {"category_id": 77},
    {"category_id": "1"},
    {"image_id": 1.0},
    {"id": 5.0},
    {"id": "five"},
    {"id": None},
    {"id": 2**70},
    {"id": True},
    {"bbox": [4, 6, 0, 30]},
    {"bbox": [4, 6, 5, -3]},
    {"bbox": [4, NAN, 20, 30]},
    {"bbox": [4, 6, math.inf, 30]},
    {"bbox": [-700, 6, 20, 30]},
    {"bbox": [-3, 6, 20, 30]},
    {"bbox": [-0.5, -1.0, 9, 9]},
    {"bbox": [1, 2, 3]},
    {"bbox": [1, "2", 3, 4]},
    {"bbox": [1, 2, 3, 2**60]},
    {"bbox": None},
    {"bbox": []},
    {"bbox": [0, 0, 1e-3, 1e-3]},
    {"bbox": [0, 0, 0.0009, 5]},
    {"area": NAN},
    {"area": -2},
    {"area": 0},
    {"area": None},
    {"area": 1e300},
    {"area": 10**30},
    {"area": "9"},
    {"iscrowd": 1},
    {"iscrowd": True},
    {"iscrowd": 1.0},
    {"iscrowd": "1"},
    {"iscrowd": 2},
    {"ignore": 1},
    {"ignore": 0},
    {"ignore": False},
    {"segmentation": [[1, 2, 9, 2, 9, 9]], "bbox": None},
    {"attributes": [{"a": "},{"}, {"b": "]"}], "note": '}, {"id": 1'},
    {},
]
"""Keys that an annotation has instead of sound ones."""


def annotation(rng: np.random.Generator, id_: int, images: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw a sound annotation."""
    image = images[int(rng.integers(len(images)))]
    width, height = image.get("width", 40), image.get("height", 30)
    x, y = (round(float(rng.uniform(0, side / 2)), 2) for side in (width, height))
    w, h = (round(float(rng.uniform(1, side / 2)), 2) for side in (width, height))
    found = {
        "segmentation": [[x, y, x + w, y, x + w, y + h]],
        "area": round(w * h / 2, 4),
        "iscrowd": int(rng.random() < 0.1),
        "image_id": image["id"],
        "bbox": [x, y, w, h],
        "category_id": int(rng.choice([1, 4, 90])),
        "id": id_,
    }
    return {key: found[key] for key in rng.permutation([*found])}


def random_coco(seed: int, bad: float, unsized: float = 0.0) -> Document:
    """Draw a file.

    Args:
        seed: of the generator.
        bad: part of the annotations with one of `CHANGES`.
        unsized: part of the images without a size.
    """
    rng = np.random.default_rng(seed)
    ids = rng.permutation(rng.choice(40, size=int(rng.integers(1, 12)), replace=False) * 7)
    images = [
        {"id": int(id_), "file_name": f"ä{id_}.jpg", "width": 64, "height": 48} for id_ in ids
    ]
    for image in images:
        if rng.random() < unsized:
            del image[str(rng.choice(["width", "height"]))]
    annotations = [annotation(rng, 3 * i + 1, images) for i in range(int(rng.integers(0, 60)))]
    for each in annotations:
        if rng.random() < bad:
            each.update(CHANGES[int(rng.integers(len(CHANGES)))])
    categories = [{"id": id_, "name": f"class {id_}", "supercategory": "x"} for id_ in (90, 1, 4)]
    parts = {"images": images, "annotations": annotations, "categories": categories}
    return {key: parts[key] for key in rng.permutation([*parts])}


def written(document: Document, seed: int) -> bytes:
    """Write a file with one of several spacings."""
    spacings: list[dict[str, Any]] = [
        {"indent": 1},
        {"separators": (",", ":")},
        {},
        {"ensure_ascii": False},
    ]
    return json.dumps(document, **spacings[seed % len(spacings)]).encode()
