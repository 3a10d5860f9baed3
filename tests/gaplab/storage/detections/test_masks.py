"""Masks of detections in COCO's results: their forms, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from detectors.rle import decode
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.storage.detections import Detections, ReadOptions, array_detections, open_detections
from tests.gaplab.storage.detections.inputs import (
    SIZE,
    Rows,
    annotations,
    results,
    write_gzip,
    write_json,
    write_parquet,
)

TRUTH = annotations()
WIDTH, HEIGHT = SIZE
COUNTS = (3, 0, 5, 1)


def masked(form: str = "text") -> Rows:
    """Detections with the rectangle of their rounded box as mask."""
    rows = results(TRUTH, COUNTS)
    for row in rows:
        whole = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        x, y, w, h = map(round, row["bbox"])
        whole[y : y + h + 1, x : x + w + 1] = 1
        row["segmentation"] = rle(whole, form)
    return rows


def rle(whole: Any, form: str) -> dict[str, Any]:
    if form == "list":
        ends = np.flatnonzero(np.diff(whole.ravel(order="F"), prepend=0, append=2))
        return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends]).tolist()}
    found: dict[str, Any] = coco.encode(whole)
    return found if form == "bytes" else found | {"counts": found["counts"].decode()}


def all_of(found: Detections) -> Candidates:
    assert found.mask_problems() == []
    return Candidates.join([*found.chunks()])


@pytest.mark.parametrize(
    ("form", "write"),
    [("text", write_json), ("text", write_gzip), ("list", write_json), ("bytes", None)],
)
def test_masks_stay_with_their_detections(tmp_path: Path, form: str, write: Any) -> None:
    """In memory, counts may be bytes, as pycocotools makes them."""
    rows = masked(form)
    opened = open_detections(write(tmp_path, rows, TRUTH), TRUTH) if write else None
    found = all_of(opened or array_detections(rows, TRUTH))
    assert found.masks is not None
    for box, mask in zip(found.boxes, decode(found.masks, SIZE), strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        tight = torch.stack([xs.min(), ys.min(), xs.max(), ys.max()])
        assert (tight - box).abs().max() <= 1


ROW: dict[str, tuple[Any, str]] = {
    "missing": (None, "without a mask"),
    "nothing": ([], "without a mask"),
    "polygons": ([[1, 2, 30, 2, 30, 40]], "whose mask is polygons, not an RLE"),
    "text": ("'; DROP TABLE", "whose mask is polygons, not an RLE"),
    "no counts": ({"size": [HEIGHT, WIDTH]}, "whose RLE is not sound"),
    "empty counts": ({"size": [HEIGHT, WIDTH], "counts": ""}, "whose RLE is not sound"),
    "empty list": ({"size": [HEIGHT, WIDTH], "counts": []}, "whose RLE is not sound"),
    "too few": ({"size": [HEIGHT, WIDTH], "counts": [7]}, "whose RLE is not sound"),
    "other text": ({"size": [HEIGHT, WIDTH], "counts": "\x1b[31m<b>"}, "whose RLE is not sound"),
    "not ASCII": ({"size": [HEIGHT, WIDTH], "counts": "é"}, "whose RLE is not sound"),
    "no size": ({"counts": [0, HEIGHT * WIDTH]}, "whose RLE is not sound"),
    "three sides": ({"size": [1, 2, 3], "counts": [0, 6]}, "whose RLE is not sound"),
    "turned": (
        {"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]},
        "whose RLE has another size",
    ),
    "resized": ({"size": [50, 100], "counts": [0, 5000]}, "whose RLE has another size than"),
}


@pytest.mark.parametrize("name", ROW)
def test_masks_that_can_not_be_used(tmp_path: Path, name: str) -> None:
    """Boxes can be measured all the same."""
    rows = masked()
    rows[4]["segmentation"], what = ROW[name]
    found = open_detections(write_json(tmp_path, rows, TRUTH), TRUTH)
    [line] = found.mask_problems()
    assert f"results.json: 1 detections {what}" in line
    assert f"(images {rows[4]['image_id']}); write them as pycocotools.mask.encode does" in line
    assert line.isprintable()
    assert sum(map(len, found.chunks())) == len(rows)


def test_all_kinds_of_wrong_masks_are_counted_at_once(tmp_path: Path) -> None:
    rows = masked()
    for row, name in zip(rows, ("missing", "polygons", "turned", "missing"), strict=False):
        row["segmentation"] = ROW[name][0]
    lines = open_detections(write_json(tmp_path, rows, TRUTH), TRUTH).mask_problems()
    assert [line.split(": ")[1][:11] for line in lines] == ["2 detection", *["1 detection"] * 2]


def test_files_without_masks(tmp_path: Path) -> None:
    rows = results(TRUTH, COUNTS)
    for write in (write_json, write_parquet):
        found = open_detections(write(tmp_path, rows, TRUTH), TRUTH)
        assert all(chunk.masks is None for chunk in found.chunks())
        assert "has no masks (segmentation in COCO's JSON)" in "".join(found.mask_problems())


def test_masks_are_part_of_the_digest(tmp_path: Path) -> None:
    rows, plain = masked(), results(TRUTH, COUNTS)
    path = write_json(tmp_path, rows, TRUTH)
    first, unread = (
        open_detections(path, TRUTH, ReadOptions(masks=masks)) for masks in (True, False)
    )
    assert unread.digest == open_detections(write_json(tmp_path, plain, TRUTH), TRUTH).digest
    assert "was measured without its masks" in "".join(unread.mask_problems())
    assert all(chunk.masks is None for chunk in unread.chunks())
    rows[0]["segmentation"] = rows[1]["segmentation"]
    other = open_detections(write_json(tmp_path, rows, TRUTH), TRUTH)
    assert len({first.digest, unread.digest, other.digest}) == 3


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
@pytest.mark.parametrize("bbox", [[0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0], None, "absent"])
def test_boxes_that_are_missing_are_those_around_masks(
    tmp_path: Path, bbox: Any, form: str
) -> None:
    """Models that predict masks alone write zeros."""
    rows = masked()
    for row in rows:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h] if form == "xyxy" else row["bbox"]
    rows[2]["bbox"] = bbox
    if bbox == "absent":
        del rows[2]["bbox"]
    options = ReadOptions(boxes=form)  # type: ignore[arg-type]
    found = open_detections(write_json(tmp_path, rows, TRUTH), TRUTH, options)
    assert "1 detections without a box (missing, or 0, 0, 0, 0) have the box" in found.notes[0]
    held = all_of(found)
    at = int((held.scores == rows[2]["score"]).nonzero())
    x, y, w, h = coco.toBbox(rows[2]["segmentation"])
    assert held.boxes[at].tolist() == [x, y, x + w, y + h]


def test_a_missing_box_and_no_sound_mask(tmp_path: Path) -> None:
    rows = masked()
    for row in rows[:3]:
        del row["bbox"]
    rows[0]["segmentation"], rows[1]["segmentation"] = None, {"size": [1], "counts": 3}
    with pytest.raises(UserError, match=r"\[0\].bbox: must be 4 numbers, got null; \[1\].bbox"):
        open_detections(write_json(tmp_path, rows, TRUTH), TRUTH)
    (tmp_path / "wrong.json").write_text(json.dumps([*masked(), 3]))
    with pytest.raises(UserError, match="must be an object, got 3"):
        open_detections(tmp_path / "wrong.json", TRUTH)
