"""Detections that are in memory: columns, a NumPy array, rows of COCO, or objects per image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gaplab.errors import UserError
from gaplab.storage.detections.coco_json import rows_of
from gaplab.storage.detections.columns import find_columns
from gaplab.storage.detections.rows import BoxForm, Floats, HeldSource, Key, KeyTable, Rows, key_of

WHERE = "detections"
_PER_IMAGE = ("xyxy", "confidence", "class_id")
"""Attributes of supervision.Detections."""
_COLUMNS = 7
_FORMS = (
    "give a path; columns as a dict of arrays or a DataFrame; an array [M, 7] of image id, x, y, "
    "width, height, score, category id; a list of COCO's results; or supervision.Detections by "
    "image id or file name"
)


def array_source(given: Any, images: Sequence[Key], form: BoxForm | None = None) -> HeldSource:
    """Return the rows of detections in memory.

    Args:
        given: a mapping (or DataFrame) of columns named as in Parquet files; an array [M, 7] as
            pycocotools takes it (image id, x, y, width, height, score, category id); a list of
            COCO's results; a mapping from image ids or file names to objects with `xyxy` [M, 4],
            `confidence` [M] and `class_id` [M] such as supervision.Detections; or a list of such
            objects, one for each of `images` in order.
        images: ids of all annotated images.
        form: how boxes are written; None: as usual for the kind.

    Raises:
        UserError: it is none of these, or incomplete.
    """
    if isinstance(given, np.ndarray):
        return _of_array(given, form)
    if _is_table(given):
        return _of_columns(given, form)
    if isinstance(given, Mapping):
        return _of_images([*given.items()])
    listed = [*given] if isinstance(given, Sequence) and not isinstance(given, str) else None
    if listed is None:
        raise UserError(f"{WHERE}: {type(given).__name__} is of no known kind; {_FORMS}")
    if listed and all(_has_boxes(each) for each in listed):
        if len(listed) != len(images):
            raise UserError(
                f"{WHERE}: {len(listed)} objects for {len(images)} images; give one for each image "
                "of the annotations in order, or a dict by image id or file name"
            )
        return _of_images([*zip(images, listed, strict=True)])
    return rows_of(listed, WHERE, form or "xywh")


def _has_boxes(value: Any) -> bool:
    return all(hasattr(value, name) for name in _PER_IMAGE)


def _is_table(given: Any) -> bool:
    """Return whether a value has named columns: a DataFrame, or a dict of lists or arrays."""
    if hasattr(given, "columns"):
        return True
    return isinstance(given, Mapping) and not any(map(_has_boxes, given.values()))


def _of_array(given: Any, form: BoxForm | None) -> HeldSource:
    if given.ndim != 2 or given.shape[1] != _COLUMNS:
        raise UserError(f"{WHERE}: an array of shape {given.shape}, not [M, 7]; {_FORMS}")
    table = given.astype(np.float64)
    return _source(table[:, 0], table[:, 6], table[:, 1:5], table[:, 5], form or "xywh")


def _of_columns(given: Any, form: BoxForm | None) -> HeldSource:
    columns = find_columns(WHERE, [str(name) for name in getattr(given, "columns", given)], form)
    own = {name: np.asarray(given[name]) for name in columns.names()}
    if len(lengths := {len(each) for each in own.values()}) > 1:
        raise UserError(f"{WHERE}: columns of different lengths: {sorted(lengths)}")
    parts = [_numbers(own[name], name) for name in columns.box]
    boxes = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
    scores = _numbers(own[columns.score], columns.score)
    return _source(own[columns.image], own[columns.category], boxes, scores, columns.form)


def _of_images(given: Sequence[tuple[Any, Any]]) -> HeldSource:
    """Return the rows of objects per image."""
    if wrong := [key for key, each in given if not _has_boxes(each)]:
        raise UserError(f"{WHERE}: {wrong[0]!r} has no xyxy, confidence and class_id; {_FORMS}")
    missing = [key for key, each in given if each.confidence is None or each.class_id is None]
    if missing:
        raise UserError(f"{WHERE}: {missing[0]!r}: confidence or class_id is None; set both")
    image = np.array([key for key, _ in given], dtype=object)
    counts = [len(each.xyxy) for _, each in given]
    if not sum(counts):
        raise UserError(f"{WHERE}: no detection to measure")
    boxes, scores, labels = (
        np.concatenate([np.asarray(getattr(each, name)) for _, each in given])
        for name in _PER_IMAGE
    )
    found = _source(np.repeat(image, counts), labels, boxes.reshape(-1, 4), scores, "xyxy")
    return replace(found, indexed=True)


def _source(image: Any, category: Any, boxes: Any, scores: Any, form: BoxForm) -> HeldSource:
    """Return rows. Raises UserError if there are none, or ids are no integers or names."""
    images, categories = KeyTable(), KeyTable()
    if not len(scores):
        raise UserError(f"{WHERE}: no detection to measure")
    if boxes.shape != (len(scores), 4):
        raise UserError(f"{WHERE}: boxes of shape {boxes.shape}, not [{len(scores)}, 4]")
    codes = [
        table.codes(_keys(column, what))
        for table, column, what in (
            (images, image, "images"),
            (categories, category, "categories"),
        )
    ]
    rows = Rows(codes[0], codes[1], boxes, scores)
    return HeldSource(WHERE, form, tuple(images), tuple(categories), rows)


def _keys(column: Any, what: str) -> Iterator[Key]:
    for value in column.tolist():
        key = key_of(value)
        if key is None:
            raise UserError(f"{WHERE}: {value!r} among the {what} is no id and no name")
        yield key


def _numbers(column: Any, name: str) -> Floats:
    """Return a column as float32 or float64. Raises UserError for other values than numbers."""
    try:
        whole = np.array(column.tolist(), dtype=np.float64) if column.dtype == object else column
        return np.asarray(whole, dtype=np.float32 if whole.dtype == np.float32 else np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{WHERE}: column {name}: must be numbers") from None
