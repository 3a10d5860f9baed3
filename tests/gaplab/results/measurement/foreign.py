"""Files of three detectors on one data set, as other tools write them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.mask import frPyObjects

from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import select
from detectors.rle import Rles, decode, of_segmentation
from gaplab.results.measurement.inputs import open_inputs

SIZE = (400, 300)
CATEGORIES = {1: "cat", 5: "dog", 7: "hen"}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Foreign:
    """Paths of annotations and of three files of results.

    Attributes:
        truth: COCO annotations.
        o2m: many detections for each object.
        o2o: one detection for each object, and a weak one.
        suppressed: `o2m` after NMS at IoU 0.6.
    """

    truth: Path
    o2m: Path
    o2o: Path
    suppressed: Path


def write_foreign(root: Path, images: int = 24, seed: int = 0) -> Foreign:
    """Write annotations and detections of `images` images."""
    root.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(seed), [root / f"{n}.json" for n in ("gt", "o2m", "o2o")]
    annotations, o2m, o2o = Rows(), Rows(), Rows()
    for image in range(1, images + 1):
        for _ in range(rng.integers(2, 6)):
            box = [*rng.uniform((0, 0), (300, 200)), *rng.uniform(30, 100, 2)]
            category = int(rng.choice([*CATEGORIES]))
            one = {"image_id": image, "category_id": category}
            area = box[2] * box[3]
            annotations.append(
                one | {"id": len(annotations) + 1, "bbox": box, "area": area, "iscrowd": 0}
            )
            o2m += [one | _detection(rng, box, 0.02, 0.7) for _ in range(10)]
            o2m += [one | _detection(rng, box, 0.15, 0.4) for _ in range(10)]
            o2o += [one | _detection(rng, box, 0.05, mean) for mean in (0.8, 0.1)]
    document = {
        "images": [
            {"id": i, "file_name": f"{i:04d}.jpg", "width": SIZE[0], "height": SIZE[1]}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()],
    }
    for path, content in zip(paths, (document, o2m, o2o), strict=True):
        path.write_text(json.dumps(content))
    suppressed = root / "suppressed.json"
    suppressed.write_text(json.dumps(_suppressed(paths[1], paths[0])))
    return Foreign(paths[0], paths[1], paths[2], suppressed)


def with_masks(files: Foreign) -> Foreign:
    """Add masks to the files: polygons and one crowd region's RLE to objects, RLE to detections."""
    document = json.loads(files.truth.read_text())
    for each in document["annotations"]:
        each["segmentation"] = [_diamond(each["bbox"])]
    crowd = document["annotations"][0]
    crowd |= {"iscrowd": 1, "segmentation": _uncompressed(crowd["segmentation"])}
    files.truth.write_text(json.dumps(document))
    for path in (files.o2m, files.o2o, files.suppressed):
        rows = json.loads(path.read_text())
        for row in rows:
            [mask] = frPyObjects([_diamond(row["bbox"])], SIZE[1], SIZE[0])
            row["segmentation"] = {"size": mask["size"], "counts": mask["counts"].decode()}
        path.write_text(json.dumps(rows))
    return files


def _diamond(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]


def _uncompressed(polygons: list[list[float]]) -> dict[str, Any]:
    [mask] = decode(Rles.of([of_segmentation(polygons, SIZE)]), SIZE)
    flat = mask.T.flatten().int().numpy()
    ends = [0, *(np.flatnonzero(np.diff(flat, prepend=0)).tolist()), len(flat)]
    return {"size": [SIZE[1], SIZE[0]], "counts": np.diff(ends).tolist()}


def _detection(rng: np.random.Generator, box: list[float], noise: float, mean: float) -> Any:
    x, y, w, h = box
    shift, scale = rng.normal(0, noise, 2), np.exp(rng.normal(0, noise, 2))
    score = float(np.clip(rng.normal(mean, 0.1), 0.001, 0.999))
    bbox = [x + shift[0] * w, y + shift[1] * h, w * scale[0], h * scale[1]]
    return {"bbox": [float(v) for v in bbox], "score": score}


def _suppressed(detections: Path, truth: Path) -> Rows:
    """Return detections after NMS at IoU 0.6, as results."""
    (given,) = open_inputs([detections], truth)
    protocol = Protocol(nms_iou=0.6, clip="never", max_dets=1000, pre_nms_topk=10_000)
    (chunk,) = given.detections.chunks()
    sizes, ids = given.annotations.truth.sizes, given.annotations.category_ids
    kept = select(chunk, protocol, sizes, suppress=True)
    columns = (kept.image.tolist(), kept.labels.tolist(), kept.boxes.tolist(), kept.scores.tolist())
    return [
        {
            "image_id": given.annotations.truth.image_ids[image],
            "category_id": ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, label, (x1, y1, x2, y2), score in zip(*columns, strict=True)
    ]
