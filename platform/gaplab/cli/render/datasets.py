"""Tables of what a data set holds."""

from typing import TYPE_CHECKING

from gaplab.cli.render.tabular import PlainTable, number, plain_table, text

if TYPE_CHECKING:
    from detectors.data.base import Split
    from detectors.data.summary import Counts
    from detectors.evaluation.crowding import Crowding

SHOWN = 20
"""Classes that are listed; --json lists all."""


def split_table(splits: "dict[Split, Counts]") -> PlainTable:
    """Return a table with the numbers of images and objects of each split."""
    keys = ("images", "empty", "objects", "crowd", "small", "medium", "large")
    rows = [[split, *(str(getattr(each, key)) for key in keys)] for split, each in splits.items()]
    legend = "empty: images without objects; small, medium, large: objects, as in COCO"
    return plain_table([text("split"), *map(number, keys)], rows, caption=legend)


def class_table(splits: "dict[Split, Counts]") -> PlainTable:
    """Return a table with the number of objects of each class."""
    names = list(next(iter(splits.values())).classes)
    rows = [[name, *(str(each.classes[name]) for each in splits.values())] for name in names]
    more = f"the first {SHOWN} of {len(rows)} classes; --json lists all"
    caption = more if len(rows) > SHOWN else ""
    return plain_table([text("class"), *map(number, splits)], rows[:SHOWN], caption=caption)


def crowding_table(splits: "dict[Split, Crowding]", nms_iou: float) -> PlainTable:
    """Return a table of how crowded the objects of each split are."""
    ious = list(next(iter(splits.values())).above)
    columns = [
        text("split"),
        *(number(f"IoU\n> {iou:g}") for iou in ious),
        number("recall\nafter NMS"),
    ]
    rows = [
        [split, *(_percent(each.above[i]) for i in ious), _percent(each.recall_ceiling)]
        for split, each in splits.items()
    ]
    legend = (
        "in %; IoU: objects that overlap another one of their class more; recall after NMS: of a "
        f"detector that finds every object exactly, after NMS at IoU {nms_iou:g}"
    )
    return plain_table(columns, rows, caption=legend)


def _percent(part: float) -> str:
    return f"{100 * part:.1f}"
