"""Read YOLO's label files: the boxes of each image, and all problems."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from detectors.data import problems as kinds
from detectors.data.entries import Xyxy
from detectors.data.problems import Problems
from detectors.data.records import Drawn, Index, Listing, Record, exists
from detectors.data.yolo_files import Config

SLACK = 0.01
"""Fraction of the image by which a coordinate may exceed 1, as in Ultralytics."""


def read_labels(listing: Listing, config: Config) -> Index:
    """Read the label files of one split."""
    problems, records, empty = Problems(), [], []
    problems.add(kinds.REPEATED_NAME, listing.repeated)
    pairs = zip(listing.images, listing.annotations, strict=True)
    for number, (name, path) in enumerate(pairs, start=1):
        boxes: tuple[Drawn, ...] = ()
        if exists(path):
            boxes = tuple(_boxes(path, config, problems))
        else:
            empty.append(name)
        records.append(Record(number, name, boxes))
    problems.remark(kinds.NO_LABELS, empty)
    return Index(config.classes, tuple(records), problems, relative=True)


def _boxes(path: Path, config: Config, problems: Problems) -> Iterator[Drawn]:
    """Yield the labels of a file whose lines are valid."""
    place = f"{path.parent.name}/{path.name}"
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        problems.add(kinds.NOT_YOLO, [f"{place}: {reason}"])
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            drawn = _drawn(line, f"{place}:{number}", config, problems)
            if drawn is not None:
                yield drawn


def _drawn(line: str, place: str, config: Config, problems: Problems) -> Drawn | None:
    """Return the label of a line; None if it is not valid."""
    try:
        label, *values = map(float, line.split())
    except ValueError:
        problems.add(kinds.NOT_YOLO, [f"{place}: not all are numbers"])
        return None
    shape = values[: len(values) - config.keypoints]
    wrong = _form(label, shape)
    if wrong:
        problems.add(kinds.NOT_YOLO, [f"{place}: {wrong}"])
        return None
    if not 0 <= label < len(config.classes):
        problems.add(kinds.UNKNOWN_CATEGORY, [f"{place}: {int(label)}"])
        return None
    if any(abs(value) > 1 + SLACK for value in shape):
        problems.add(kinds.NOT_NORMALISED, [place])
        return None
    return Drawn(place, _xyxy(shape), int(label))


def _form(label: float, shape: Sequence[float]) -> str:
    """Return what is wrong with the form of a label; empty if nothing is."""
    if not label.is_integer():
        return f"class {label:g} is not an integer"
    if len(shape) == 4 or (len(shape) >= 6 and len(shape) % 2 == 0):
        return ""
    return f"{1 + len(shape)} values"


def _xyxy(shape: Sequence[float]) -> Xyxy:
    """Return the box of a label: centre and sides, or the corners of a polygon."""
    if len(shape) == 4:
        x, y, w, h = shape
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(shape[::2]), min(shape[1::2]), max(shape[::2]), max(shape[1::2])
