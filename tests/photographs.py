"""A data set of photographs, written in every format that reads image files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detectors.data import DATASETS
from detectors.data.photos import Photos

CLASSES = ("cat", "dog", "hen")
Xyxy = tuple[float, float, float, float]


@dataclass(frozen=True)
class Photograph:
    """An image with objects."""

    name: str
    """Of the file, without folder and suffix."""
    size: tuple[int, int]
    """(width, height)."""
    objects: tuple[tuple[str, Xyxy], ...] = ()
    """(class, box in pixels)."""


Splits = Mapping[str, Sequence[Photograph]]


def splits() -> dict[str, list[Photograph]]:
    """Build a training split of three images, one of them without objects, and another of two."""
    return {
        "train": [
            Photograph("a1", (40, 30), (("hen", (0, 0, 40, 30)), ("cat", (10, 5, 18, 21)))),
            Photograph("a2", (64, 48), (("dog", (4, 6, 25, 36)),)),
            Photograph("b4", (50, 80)),
        ],
        "val": [
            Photograph("c1", (33, 47), (("cat", (3, 5, 14, 40)), ("cat", (3, 6, 14, 40)))),
            Photograph("c2", (64, 48), (("hen", (1, 1, 3, 2)), ("dog", (32, 16, 64, 48)))),
        ],
    }


def changed(**objects: Sequence[tuple[str, Xyxy]]) -> dict[str, list[Photograph]]:
    """Build `splits()` with other objects in the images of these names."""
    return {
        split: [replace(p, objects=tuple(objects.get(p.name, p.objects))) for p in photographs]
        for split, photographs in splits().items()
    }


def save(path: Path, size: tuple[int, int]) -> None:
    """Write an image of noise that depends on the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG", quality=95)


def write_coco(root: Path, photographs: Splits) -> dict[str, Any]:
    """Write COCO JSON files. Categories are not in order."""
    for split, images in photographs.items():
        names = {each.name: {"file_name": f"{each.name}.jpg"} for each in images}
        document = _coco_document(images, names)
        (root / f"{split}.json").write_text(json.dumps(document))
        for each in images:
            save(root / "images" / f"{each.name}.jpg", each.size)
    return {"name": "coco"}


def write_yolo(root: Path, photographs: Splits) -> dict[str, Any]:
    """Write the layout of Ultralytics; an image without objects has no label file."""
    names = dict(enumerate(CLASSES))
    places = {split: f"images/{split}" for split in photographs}
    (root / "data.yaml").write_text(json.dumps({"names": names, **places}))
    for split, images in photographs.items():
        for each in images:
            save(root / "images" / split / f"{each.name}.jpg", each.size)
            lines = [f"{yolo_line(label, box, each.size)}\n" for label, box in each.objects]
            if lines:
                path = root / "labels" / split / f"{each.name}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(lines))
    return {"name": "yolo"}


def yolo_line(label: str, box: Xyxy, size: tuple[int, int]) -> str:
    """Write an object as class, centre, width and height."""
    (x1, y1, x2, y2), (width, height) = box, size
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{CLASSES.index(label)} {' '.join(map(str, values))}"


def write_voc(root: Path, photographs: Splits) -> dict[str, Any]:
    """Write Pascal VOC's layout; coordinates start at 1."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in photographs.items():
        names = "".join(f"{each.name}\n" for each in images)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
        for each in images:
            save(root / "JPEGImages" / f"{each.name}.jpg", each.size)
            objects = "".join(voc_object(label, box) for label, box in each.objects)
            width, height = each.size
            (root / "Annotations" / f"{each.name}.xml").write_text(
                f"<annotation><filename>{each.name}.jpg</filename><size><width>{width}</width>"
                f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
            )
    return {"name": "voc"}


def voc_object(label: str, box: Xyxy) -> str:
    """Write an object as XML; like VOC, with a part that has a box, too."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    values = (box[0] + 1, box[1] + 1, box[2], box[3])
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, values, strict=True))
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return (
        f"<object><name>{label}</name><difficult>0</difficult><bndbox>{corners}</bndbox>{part}"
        "</object>"
    )


def write_lvis(root: Path, photographs: Splits) -> dict[str, Any]:
    """Write LVIS's layout: COCO files without names; validation images are in both folders."""
    for split, images in photographs.items():
        folders = {each.name: "train2017" for each in images}
        if split == "val":
            folders |= {each.name: "val2017" for each in images[1:]}
        urls = {name: f"http://127.0.0.1/{folder}/{name}.jpg" for name, folder in folders.items()}
        document = _coco_document(images, {name: {"coco_url": url} for name, url in urls.items()})
        for image in document["images"]:
            image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
        (root / f"lvis_v1_{split}.json").write_text(json.dumps(document))
        for each in images:
            save(root / folders[each.name] / f"{each.name}.jpg", each.size)
    return {"name": "lvis"}


def _coco_document(
    images: Sequence[Photograph], naming: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    pairs = [(i, each) for i, image in enumerate(images, start=1) for each in image.objects]
    return {
        "images": [
            {"id": i, "width": each.size[0], "height": each.size[1], **naming[each.name]}
            for i, each in enumerate(images, start=1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 3 * CLASSES.index(label) + 2,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            for number, (image, (label, (x1, y1, x2, y2))) in enumerate(pairs, start=1)
        ],
        "categories": [
            {"id": 3 * label + 2, "name": name} for label, name in reversed([*enumerate(CLASSES)])
        ],
    }


WRITERS: dict[str, Callable[[Path, Splits], dict[str, Any]]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "lvis": write_lvis,
}
"""Name in `DATASETS` -> writes the data set into an existing folder, returns its `data` section."""


def written(name: str, root: Path, photographs: Splits | None = None, **options: Any) -> Photos:
    """Write a data set in a format and return its options."""
    root.mkdir(parents=True, exist_ok=True)
    section = {**WRITERS, "crowdhuman": write_crowdhuman}[name](
        root, splits() if photographs is None else photographs
    )
    raw = {"root": str(root), "height": 96, "width": 128, **section, **options}
    made = DATASETS[name].model_validate(raw)
    assert isinstance(made, Photos)
    return made


def write_crowdhuman(root: Path, photographs: Splits) -> dict[str, Any]:
    """Write CrowdHuman's layout. Every object is a person."""
    for split, images in photographs.items():
        lines = []
        for each in images:
            save(root / "Images" / f"{each.name}.jpg", each.size)
            corners = [box for _, box in each.objects]
            boxes = [
                {"tag": "person", "fbox": [x1, y1, x2 - x1, y2 - y1]} for x1, y1, x2, y2 in corners
            ]
            lines.append(json.dumps({"ID": each.name, "gtboxes": boxes}) + "\n")
        (root / f"annotation_{split}.odgt").write_text("".join(lines))
    return {"name": "crowdhuman"}


def image_of(root: Path, name: str) -> Path:
    """Return the path of the image of this name in a data set that was written."""
    (path,) = root.rglob(f"{name}.jpg")
    return path
