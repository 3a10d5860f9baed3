"""Write a data set of drawn JPEG pictures in COCO's layout: `python coco_shaped.py FOLDER`.

It has COCO's folders, file names, ids of categories with their gaps, size of pictures, number of
objects per picture and polygons, so that a sweep on COCO can be tried where COCO is not available.
"""

import argparse
import colorsys
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIZE = (640, 480)
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORIES = [number for number in range(1, 91) if number not in GAPS]
CORNERS = (3, 4, 5, 6, 32)
"""Of the polygons; each has 16 colors, which makes 80 classes."""


def background(rng: np.random.Generator) -> Image.Image:
    """Draw soft patches of color under fine noise, in uint8 RGB."""
    patches = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    noise = rng.normal(0, 8, (SIZE[1], SIZE[0], 1))
    pixels = np.asarray(patches.resize(SIZE, Image.Resampling.BICUBIC)) * 0.6 + 50 + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def polygon(label: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Choose the corners of an object of class `label` in pixels, inside of the picture."""
    side = math.exp(rng.uniform(math.log(12), math.log(300)))
    width, height = side * rng.uniform(0.6, 1.6), side
    x, y = (
        rng.uniform(0, max(1, limit - s)) for limit, s in zip(SIZE, (width, height), strict=True)
    )
    corners = CORNERS[label % len(CORNERS)]
    angles = [2 * math.pi * (corner + 0.25) / corners for corner in range(corners)]
    return [
        (
            min(x + width * (1 + math.cos(angle)) / 2, SIZE[0] - 1),
            min(y + height * (1 + math.sin(angle)) / 2, SIZE[1] - 1),
        )
        for angle in angles
    ]


def annotation(label: int, corners: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the category, box, polygon and area of an object of class `label`."""
    xs, ys = zip(*corners, strict=True)
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    following = [*corners[1:], corners[0]]
    crossed = [x * v - u * y for (x, y), (u, v) in zip(corners, following, strict=True)]
    flat = [coordinate for corner in corners for coordinate in corner]
    return {
        "category_id": CATEGORIES[label],
        "bbox": box,
        "segmentation": [flat],
        "area": abs(sum(crossed)) / 2,
    }


def picture(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw a picture; returns it with the annotation of each object."""
    image, objects = background(rng), []
    pen = ImageDraw.Draw(image)
    for _ in range(rng.poisson(7)):
        label = int(rng.integers(len(CATEGORIES)))
        corners = polygon(label, rng)
        color = colorsys.hsv_to_rgb(label // len(CORNERS) / 16, 0.8, rng.uniform(0.6, 1.0))
        pen.polygon(corners, fill=tuple(round(255 * part) for part in color))
        objects.append(annotation(label, corners))
    return image, objects


def write_split(root: Path, split: str, first: int, count: int) -> None:
    """Write `count` pictures, the first of which has the id `first`, and their annotations."""
    folder = root / split
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(first, first + count):
        image, objects = picture(np.random.default_rng(number))
        name = f"{number:012d}.jpg"
        image.save(folder / name, quality=90)
        images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for each in objects:
            identity = 1 + len(annotations) + 1_000_000 * (first > 1)
            annotations.append({"id": identity, "image_id": number, "iscrowd": 0, **each})
    categories = [{"id": number, "name": f"kind {number}"} for number in CATEGORIES]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1800, help="pictures to train on")
    parser.add_argument("--val", type=int, default=200, help="pictures to validate on")
    options = parser.parse_args()
    write_split(options.folder, "train2017", 1, options.train)
    write_split(options.folder, "val2017", 1 + options.train, options.val)


if __name__ == "__main__":
    main()
