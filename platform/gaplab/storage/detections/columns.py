"""Names of the columns of a table of detections, one row per box."""

from collections.abc import Sequence
from dataclasses import dataclass

from gaplab.errors import UserError
from gaplab.storage.detections.rows import BoxForm

_IMAGE = ("image_id", "image", "file_name", "image_name", "filename", "image_path")
_CATEGORY = (
    "category_id",
    "class_id",
    "label",
    "category",
    "class",
    "class_name",
    "category_name",
    "label_name",
)
_SCORE = ("score", "confidence", "conf")
_SIDES: dict[tuple[str, ...], BoxForm] = {
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x", "y", "w", "h"): "xywh",
    ("x", "y", "width", "height"): "xywh",
}
"""Columns of a box -> how it is written."""
_LISTS: dict[str, BoxForm] = {"bbox": "xywh", "box": "xyxy", "xyxy": "xyxy", "xywh": "xywh"}
"""Column with lists of four numbers -> how a box is written."""
_SHOWN = 8


@dataclass(frozen=True)
class Columns:
    """The columns that are used; `box` has four names, or one of lists of four numbers."""

    image: str
    category: str
    score: str
    box: tuple[str, ...]
    form: BoxForm

    def names(self) -> list[str]:
        """Return the names of all of them."""
        return [self.image, self.category, self.score, *self.box]


def find_columns(where: str, names: Sequence[str], form: BoxForm | None) -> Columns:
    """Find the columns by their names. Raises UserError with all that are missing.

    Args:
        where: the file, for messages.
        names: the names of all columns.
        form: how boxes are written; None: as the names say.
    """
    image, category, score = (
        next((name for name in known if name in names), "") for known in (_IMAGE, _CATEGORY, _SCORE)
    )
    sides = next((each for each in _SIDES if {*each} <= {*names}), ())
    listed = next((each for each in _LISTS if each in names), "")
    missing = [
        *([] if image else [f"the image ({_IMAGE[0]} or {_IMAGE[2]})"]),
        *([] if category else [f"the category ({_CATEGORY[0]} or {_CATEGORY[4]})"]),
        *([] if score else ["the score (score)"]),
        *([] if sides or listed else ["the box (x1, y1, x2, y2, or x, y, w, h, or bbox)"]),
    ]
    if missing:
        more = ", ..." if len(names) > _SHOWN else ""
        there = ", ".join(names[:_SHOWN]) + more
        raise UserError(f"{where}: no column for {'; for '.join(missing)}; it has {there}")
    own = _SIDES[sides] if sides else _LISTS[listed]
    return Columns(image, category, score, sides or (listed,), form or own)
