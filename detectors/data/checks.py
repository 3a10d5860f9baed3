"""Checks of a whole split, on images and boxes of any format.

They find splits on which a detector can't be trained or measured, and boxes that were written in
another form than the format's.
"""

import numpy as np
from numpy.typing import NDArray

from detectors.data.base import Split
from detectors.data.entries import TOLERANCE, Entries

LARGEST_AREA = 1e10
"""Square pixels. COCO's AP leaves out objects with a larger area."""
FEW_PIXELS = 8
"""Images with a shorter side than this may have objects of one pixel."""
CLEARLY = 0.05
"""A box is clearly out of its image if it extends beyond it by more than this part of the side."""

Floats = NDArray[np.float64]


def object_problems(entries: Entries, split: Split) -> list[str]:
    """Return why a split can't be used: no object, or none that AP counts; with the remedy.

    Args:
        entries: the images with their valid boxes, at least one.
        split: objects of any area are trained on, but not all are evaluated.
    """
    areas, crowds = entries.areas[~entries.crowd], len(entries.crowd)
    if not len(areas):
        held = f"images: {len(entries)}, annotations: {crowds}"
        why = f"{held}, all of them crowd regions" if crowds else held
        effect = "nothing to train on" if split == "train" else "AP is undefined"
        return [f"no object ({why}): {effect}; annotate objects"]
    if split == "val" and (areas > LARGEST_AREA).all():
        return [
            f"the areas of all objects ({len(areas)}) are above 1e10 square pixels, and COCO's AP "
            "leaves such objects out: AP is undefined; correct `area`"
        ]
    return []


def other_form(boxes: Floats, sizes: Floats) -> str | None:
    """Return what boxes look like if they aren't x, y, width, height in pixels, with the remedy.

    The rules are strict, so that sound data is not refused:

    - Normalised: all coordinates are in [0, 1] (apart from rounding), or of at least 20 boxes in
      [-1, 2], because detections may leave their image; and no side of an image is shorter than 8
      pixels.
    - Corners: of at least 5 boxes, more than a quarter are clearly out of their image (by 5 % of
      its side), and 95 % are inside if read as x1, y1, x2, y2: each is then wider than its distance
      from the left, and higher than that from the top.
    - Centres: of at least 20 boxes, more than 10 % are clearly out of their image, and all are
      inside if read as centre x, centre y, width, height.

    Args:
        boxes: [N, 4], x, y, width, height as they are written.
        sizes: [N, 2], width and height of the image of each box. Boxes without a width or a height
            are left out.
    """
    sound = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    boxes, sizes = boxes[sound], sizes[sound]
    if not len(boxes):
        return None
    if _are_fractions(boxes):
        return _normalised(boxes, sizes)
    x_y, w_h = boxes[:, :2], boxes[:, 2:]
    clearly_out = _clearly_out(x_y, x_y + w_h, sizes)
    if _are_corners(boxes, clearly_out, sizes):
        return (
            f"the {len(boxes)} boxes look like corners (x1, y1, x2, y2), not x, y, width, height; "
            "write width x2 - x1 and height y2 - y1"
        )
    centred = _inside(x_y - w_h / 2, x_y + w_h / 2, sizes)
    if len(boxes) >= 20 and clearly_out > 0.1 and centred.all():
        return (
            f"the {len(boxes)} boxes look like centres (centre x, centre y, width, height), not "
            "x, y, width, height; subtract half of the width from x, half of the height from y"
        )
    return None


def sides_for_corners(boxes: Floats, sizes: Floats) -> str | None:
    """Return what boxes look like if they aren't x1, y1, x2, y2 in pixels, with the remedy.

    The rules are those of `other_form` for normalised boxes; and of at least 5 boxes, more than a
    quarter end before they start, and 95 % are inside if read as x, y, width, height.

    Args:
        boxes: [N, 4], as they are written.
        sizes: [N, 2], width and height of the image of each box.
    """
    if not len(boxes):
        return None
    if _are_fractions(boxes):
        return _normalised(boxes, sizes)
    x_y, w_h = boxes[:, :2], boxes[:, 2:]
    reversed_ = float((w_h < x_y).any(axis=1).mean())
    if len(boxes) < 5 or reversed_ <= 0.25 or _inside(x_y, x_y + w_h, sizes).mean() < 0.95:
        return None
    return (
        f"the {len(boxes)} boxes look like x, y, width, height, not corners (x1, y1, x2, y2); "
        "write x2 = x + width and y2 = y + height"
    )


def corners_for_centres(boxes: Floats, sizes: Floats) -> str | None:
    """Return what boxes look like that should be centre x, centre y, width, height.

    Only corners are recognised, by the rule of `other_form`.

    Args:
        boxes: [N, 4], as they are written, multiplied by the width and height of the image.
        sizes: [N, 2], width and height of the image of each box.
    """
    x_y, half = boxes[:, :2], boxes[:, 2:] / 2
    if not _are_corners(boxes, _clearly_out(x_y - half, x_y + half, sizes), sizes):
        return None
    return (
        f"the {len(boxes)} boxes look like corners (x1, y1, x2, y2), not centre x, centre y, "
        "width, height; write centre x (x1 + x2) / 2 and width x2 - x1, and so for y"
    )


def _are_fractions(boxes: Floats) -> bool:
    """Return whether the coordinates [N, 4] are fractions of the image."""
    away = np.abs(boxes - 0.5)
    return bool((away <= 0.501).all() or (len(boxes) >= 20 and (away <= 1.5).all()))


def _are_corners(boxes: Floats, clearly_out: float, sizes: Floats) -> bool:
    """Return whether boxes are corners, of which `clearly_out` is the part out of the image."""
    if len(boxes) < 5 or clearly_out <= 0.25:
        return False
    return bool(_inside(boxes[:, :2], boxes[:, 2:], sizes).mean() >= 0.95)


def _clearly_out(low: Floats, high: Floats, sizes: Floats) -> float:
    """Return the part of boxes from `low` to `high` [N, 2] that are clearly out of their image."""
    margin = sizes * CLEARLY + TOLERANCE
    out = (low < -margin) | (high > sizes + margin)
    return float(out.any(axis=1).mean()) if len(out) else 0.0


def _normalised(boxes: Floats, sizes: Floats) -> str | None:
    """Return what boxes look like whose coordinates are fractions of the image."""
    if sizes.min() < FEW_PIXELS:
        return None
    width, height = sizes.max(axis=0).astype(int)
    limit = 1 if boxes.max() <= 1.001 else 2
    remedy = "multiply x and width by the width of the image, y and height by its height"
    if (boxes[:, :2] + boxes[:, 2:] > 1.001).any():
        remedy += (
            ", and check that x, y is the upper left corner, not the centre as in YOLO's files"
        )
    return (
        f"the {len(boxes)} boxes look normalised: no coordinate is above {limit}, in images of "
        f"up to {width}x{height}; {remedy}"
    )


def _inside(low: Floats, high: Floats, sizes: Floats) -> NDArray[np.bool_]:
    """Return whether boxes from `low` to `high` [N, 2] have a size and are inside their images."""
    inside: NDArray[np.bool_] = (low >= -TOLERANCE) & (high > low) & (high <= sizes + TOLERANCE)
    return inside[:, 0] & inside[:, 1]
