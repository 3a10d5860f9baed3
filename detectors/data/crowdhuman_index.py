"""Read an .odgt file (one JSON object per line): the people of each image, and all problems."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, ValidationError

from detectors.data import problems as kinds
from detectors.data.checks import other_form
from detectors.data.entries import THINNEST, Box, Entries, Image, Xyxy, clipped, outside
from detectors.data.json_text import decoded, describe
from detectors.data.problems import Problems


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Extra(_Strict):
    ignore: int = 0


class _Annotation(_Strict):
    tag: str
    fbox: Annotated[list[float], Len(4, 4)]
    extra: _Extra = _Extra()


class _Line(_Strict):
    ID: Annotated[str, Len(1)]
    gtboxes: list[Any]


@dataclass(frozen=True)
class Person:
    """One person."""

    place: str
    """Position in the file, for messages."""
    xyxy: Xyxy
    """Full-body box in pixels of the original image; it may extend beyond the image."""
    tag: str
    ignore: int
    """The value of `extra.ignore`."""

    def ignored(self, *, mask_is_person: bool) -> bool:
        """Return whether the box is a crowd region: no training target, and detections ignored."""
        return self.ignore == 1 if mask_is_person else self.tag != "person" or self.ignore != 0


@dataclass(frozen=True)
class Record:
    """One line of the file, numbered from 1, with its valid boxes."""

    line: int
    file_name: str
    people: tuple[Person, ...]


@dataclass(frozen=True)
class Index:
    """The content of a file in its order, and the problems of its other lines and boxes."""

    records: tuple[Record, ...]
    problems: Problems


def read_index(path: Path) -> Index:
    """Read and check one file. Empty lines are counted, but ignored."""
    problems = Problems()
    records: dict[str, Record] = {}
    for number, line in _lines(path, problems):
        name = f"{line.ID}.jpg"
        if name in records:
            problems.add(kinds.REPEATED_IMAGE, [f"line {number}: {line.ID}"])
        else:
            records[name] = Record(number, name, tuple(_people(number, line, problems)))
    return Index(tuple(records.values()), problems)


def entries(
    index: Index, sizes: Mapping[str, tuple[int, int]], *, mask_is_person: bool
) -> tuple[Entries, Problems]:
    """Return the images in `sizes` with clipped boxes, and the problems of boxes.

    `image_id` is the line number, and `area` that of the clipped box.

    Args:
        index: the content of the file.
        sizes: (width, height) of the valid images by file name.
        mask_is_person: see `CrowdHuman`.
    """
    found, problems = list[Image](), Problems()
    for record in index.records:
        if record.file_name not in sizes:
            continue
        size = sizes[record.file_name]
        out = [person.place for person in record.people if outside(person.xyxy, *size)]
        problems.add(kinds.OUTSIDE, out)
        people = [person for person in record.people if person.place not in out]
        boxes = [
            _box(person, size, person.ignored(mask_is_person=mask_is_person)) for person in people
        ]
        found.append(Image(record.file_name, record.line, size, boxes))
    if form := _other_form(index, sizes):
        problems = problems.without(kinds.OUTSIDE)
        problems.fatal = (form,)
    return Entries.of(found), problems


def _other_form(index: Index, sizes: Mapping[str, tuple[int, int]]) -> str | None:
    """Return what the boxes look like if they aren't x, y, width, height in pixels."""
    rows = [
        (x1, y1, x2 - x1, y2 - y1, *sizes[record.file_name])
        for record in index.records
        if record.file_name in sizes
        for x1, y1, x2, y2 in (person.xyxy for person in record.people)
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return other_form(table[:, :4], table[:, 4:])


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, _Line]]:
    for number, text in enumerate(decoded(path, path.read_bytes()).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            problems.add(kinds.NOT_CROWDHUMAN, [f"line {number}: {_reason(error)}"])
            continue
        line = _valid(_Line, raw, f"line {number}", problems)
        if line is not None:
            yield number, line


def _people(number: int, line: _Line, problems: Problems) -> Iterator[Person]:
    for position, raw in enumerate(line.gtboxes):
        place = f"line {number} gtboxes[{position}]"
        annotation = _valid(_Annotation, raw, place, problems)
        if annotation is None:
            continue
        x, y, w, h = annotation.fbox
        if not all(map(math.isfinite, annotation.fbox)):
            problems.add(kinds.BAD_NUMBER, [place])
        elif min(w, h) < THINNEST:
            problems.add(kinds.DEGENERATE, [place])
        else:
            yield Person(place, (x, y, x + w, y + h), annotation.tag, annotation.extra.ignore)


Model = TypeVar("Model", bound=BaseModel)


def _valid(model: type[Model], raw: Any, place: str, problems: Problems) -> Model | None:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems.add(kinds.NOT_CROWDHUMAN, [describe(error.errors()[0], place)])
        return None


def _box(person: Person, size: tuple[int, int], ignored: bool) -> Box:
    x1, y1, x2, y2 = clipped(person.xyxy, *size)
    return Box(person.place, (x1, y1, x2, y2), (x2 - x1) * (y2 - y1), 0, ignored)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not text in UTF-8: {error}"
    return "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
