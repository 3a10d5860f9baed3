"""The same detections in every form in which people bring them, and their annotations."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from detectors.data.annotations import Annotations
from detectors.evaluation.truth import GroundTruth
from tests.builders import empty_truth

Rows = list[dict[str, Any]]
SIZE = (200, 100)
CATEGORIES = {2: "person", 5: "traffic light", 9: "été"}


def annotations(
    images: int = 4, categories: Mapping[int, str] = CATEGORIES, size: tuple[int, int] = SIZE
) -> Annotations:
    """Build annotations with one object per image; ids are 10, 20, ..., names a/000010.jpg, ...."""
    ids = [10 * (i + 1) for i in range(images)]
    empty = empty_truth(ids, list(categories.values()), size)
    boxes = torch.tensor([[10.0, 10, 40, 60]], dtype=torch.float64).repeat(images, 1)
    truth: GroundTruth = replace(
        empty,
        image=torch.arange(images),
        boxes=boxes,
        labels=torch.zeros(images, dtype=torch.int64),
        crowd=torch.zeros(images, dtype=torch.bool),
        area=torch.full((images,), 1500.0, dtype=torch.float64),
    )
    names = tuple(f"a/{id_:06d}.jpg" for id_ in ids)
    return Annotations("gt.json", truth, names, tuple(categories))


def results(truth: Annotations, counts: Sequence[int], seed: int = 0) -> Rows:
    """Build random detections inside of images, `counts[i]` of image i, in COCO's form."""
    rng = np.random.default_rng(seed)
    rows = []
    for id_, count, (width, height) in zip(
        truth.truth.image_ids, counts, truth.truth.sizes, strict=True
    ):
        for _ in range(count):
            x, y = rng.uniform(0, width / 2), rng.uniform(0, height / 2)
            w, h = rng.uniform(2, width / 2), rng.uniform(2, height / 2)
            rows.append(
                {
                    "image_id": id_,
                    "category_id": int(rng.choice(truth.category_ids)),
                    "bbox": [float(v) for v in (x, y, w, h)],
                    "score": float(rng.random()),
                }
            )
    return rows


def write_json(root: Path, rows: Rows, truth: Annotations) -> Path:
    """Write COCO's results."""
    path = root / "results.json"
    path.write_text(json.dumps(rows))
    return path


def write_gzip(root: Path, rows: Rows, truth: Annotations) -> Path:
    """Write COCO's results, compressed."""
    path = root / "results.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    return path


def write_named(root: Path, rows: Rows, truth: Annotations) -> Path:
    """Write COCO's results with names instead of ids, in UTF-16."""
    names, labels = _names(truth), dict(zip(truth.category_ids, truth.truth.classes, strict=True))
    named = [
        {"file_name": names[r["image_id"]], "category_name": labels[r["category_id"]]}
        | {key: r[key] for key in ("bbox", "score")}
        for r in rows
    ]
    path = root / "named.json"
    path.write_text(json.dumps(named), encoding="utf-16")
    return path


def write_parquet(root: Path, rows: Rows, truth: Annotations) -> Path:
    """Write a Parquet file with corners and ids, in float64."""
    return save_table(root / "corners.parquet", columns(rows) | corners(rows))


def write_sides(root: Path, rows: Rows, truth: Annotations) -> Path:
    """Write a Parquet file with sides, names of classes and paths of images."""
    names, labels = _names(truth), dict(zip(truth.category_ids, truth.truth.classes, strict=True))
    sides = dict(zip("xywh", boxes(rows).T, strict=True))
    table = {
        "file_name": pa.array([names[r["image_id"]] for r in rows]).dictionary_encode(),
        "class": [labels[r["category_id"]] for r in rows],
        "confidence": [r["score"] for r in rows],
    }
    return save_table(root / "sides.parquet", table | sides)


def write_lists(root: Path, rows: Rows, truth: Annotations) -> Path:
    """Write a folder of two Parquet files with lists of four numbers."""
    cut = len(rows) // 2
    for name, part in (("1", rows[:cut]), ("2", rows[cut:])):
        table = columns(part) | {
            "bbox": pa.array([r["bbox"] for r in part], pa.list_(pa.float64()))
        }
        save_table(root / "lists" / f"{name}.parquet", table)
    return root / "lists"


def write_yolo(root: Path, rows: Rows, truth: Annotations) -> Path:
    """Write YOLO's label files with confidences."""
    sizes = dict(zip(truth.truth.image_ids, truth.truth.sizes, strict=True))
    names, folder = _names(truth), root / "labels"
    for r in rows:
        path = folder / Path(names[r["image_id"]]).with_suffix(".txt").name
        path.parent.mkdir(exist_ok=True)
        (x, y, w, h), (width, height) = r["bbox"], sizes[r["image_id"]]
        values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height, r["score"])
        label = truth.category_ids.index(r["category_id"])
        with path.open("a") as file:
            file.write(f"{label} {' '.join(map(repr, values))}\n")
    return folder


WRITERS: dict[str, Callable[[Path, Rows, Annotations], Path]] = {
    "json": write_json,
    "gzip": write_gzip,
    "named": write_named,
    "parquet": write_parquet,
    "sides": write_sides,
    "lists": write_lists,
    "yolo": write_yolo,
}
"""Kind of input -> writes rows and returns the path."""


def boxes(rows: Rows) -> NDArray[np.float64]:
    """Return the boxes as they are written: [M, 4]."""
    return np.array([r["bbox"] for r in rows], dtype=np.float64).reshape(-1, 4)


def columns(rows: Rows) -> dict[str, Any]:
    """Return the columns of ids and scores."""
    return {key: [r[key] for r in rows] for key in ("image_id", "category_id", "score")}


def corners(rows: Rows) -> dict[str, Any]:
    """Return the columns of the corners."""
    table = boxes(rows)
    table[:, 2:] += table[:, :2]
    return dict(zip(("x1", "y1", "x2", "y2"), table.T, strict=True))


def save_table(path: Path, table: dict[str, Any], **options: Any) -> Path:
    """Write columns as a Parquet file."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path, **options)
    return path


def _names(truth: Annotations) -> dict[int, str]:
    return dict(zip(truth.truth.image_ids, truth.names, strict=True))
