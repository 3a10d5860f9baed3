"""Read detections in a folder of YOLO label files, as Ultralytics writes them with `save_conf`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gaplab.errors import UserError
from gaplab.storage.detections.rows import Floats, HeldSource, KeyTable, Rows

_VALUES = 6
_NAMED = 5
_FORM = "class, centre x, centre y, width, height, confidence"
_NOT_LABELS = frozenset({"classes.txt", "obj.names"})
"""Files of other tools that lie between label files."""


def read_labels(folder: Path) -> HeldSource:
    """Read all label files below a folder; a file is named like its image.

    A category is the number of a class, from 0, in the order of the annotations. An image without
    a file has no detections.

    Raises:
        UserError: there is no label file, or lines are not labels with a confidence; with the first
            problems.
    """
    paths = [path for path in sorted(folder.rglob("*.txt")) if path.name not in _NOT_LABELS]
    if not paths:
        raise UserError(
            f"{folder}: no label files (.txt) and no Parquet files; name the file or folder of "
            "detections"
        )
    problems, tables = list[str](), list[Floats]()
    for path in paths:
        try:
            tables.append(_table(path))
        except (OSError, ValueError) as error:
            problems.append(f"{path.relative_to(folder)}: {_why(error)}")
    if problems:
        raise UserError(f"{folder}: {_shown(problems)}; write {_FORM}, as fractions of the image")
    whole = np.concatenate(tables)
    if not len(whole):
        raise UserError(f"{folder}: all label files are empty: no detection to measure")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    image = np.repeat(np.arange(len(paths)), [len(table) for table in tables])
    categories = KeyTable()
    category = categories.codes(whole[:, 0].astype(np.int64).tolist())
    rows = Rows(image, category, whole[:, 1:5], whole[:, 5])
    return HeldSource(str(folder), "yolo", tuple(names), tuple(categories), rows, indexed=True)


def _table(path: Path) -> Floats:
    """Return the labels of a file: [M, 6]. Raises ValueError with the first wrong line."""
    lines = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if wrong := next(_wrong(lines), ""):
        raise ValueError(wrong)
    table = np.array(lines, dtype=np.float64).reshape(-1, _VALUES)
    labels = table[:, 0]
    if not ((labels >= 0) & (labels == np.floor(labels)) & (labels < 2**31)).all():
        raise ValueError("classes that are not integers from 0")
    return table


def _wrong(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield what is wrong with lines of another length."""
    for number, values in enumerate(lines, start=1):
        if len(values) == _VALUES - 1:
            yield f"line {number} has no confidence (in Ultralytics: save_txt=True save_conf=True)"
        elif len(values) != _VALUES:
            yield f"line {number} has {len(values)} values, not {_VALUES}"


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not text in UTF-8"
    return getattr(error, "strerror", None) or str(error)


def _shown(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _NAMED} more files" if len(problems) > _NAMED else ""
    return "; ".join(problems[:_NAMED]) + more
