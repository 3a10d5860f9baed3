"""Read an .odgt file (one JSON object per line): the people of each image, and all problems."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import SchemaValidator
from pydantic_core import core_schema as schema

from detectors.data import problems as kinds
from detectors.data.checks import other_form
from detectors.data.entries import THINNEST, Box, Entries, Flags, Image
from detectors.data.json_text import decoded, describe, no_collection
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


_PLAIN = SchemaValidator(
    schema.typed_dict_schema(
        {
            "ID": schema.typed_dict_field(schema.str_schema(min_length=1, strict=True)),
            "gtboxes": schema.typed_dict_field(
                schema.list_schema(
                    schema.typed_dict_schema(
                        {
                            "tag": schema.typed_dict_field(schema.str_schema(strict=True)),
                            "fbox": schema.typed_dict_field(
                                schema.list_schema(
                                    schema.float_schema(strict=True), min_length=4, max_length=4
                                )
                            ),
                            "extra": schema.typed_dict_field(
                                schema.typed_dict_schema(
                                    {
                                        "ignore": schema.typed_dict_field(
                                            schema.int_schema(strict=True), required=False
                                        )
                                    }
                                ),
                                required=False,
                            ),
                        }
                    )
                )
            ),
        }
    )
)
"""Accepts lines that `_Line` and `_Annotation` accept, too."""
LARGEST = 2.0**53
"""Larger numbers are read as they are written, because not all have an exact float."""
_OTHER = 2
"""Stands for all values of `extra.ignore` but 0 and 1."""


@dataclass(frozen=True)
class Index:
    """The content of a file in its order, and the problems of its other lines and boxes."""

    people: Entries
    """One image per valid line; its id is the number of the line, from 1, and its size is unknown.
    Full-body boxes are as they are written. `labels` has the values of `extra.ignore`, and `crowd`
    whether the tag is another than `person`."""
    problems: Problems
    content: str
    """SHA-256 of the file, in hex."""


def read_index(path: Path) -> Index:
    """Read and check one file. Empty lines are counted, but ignored."""
    problems, raw = Problems(), path.read_bytes()
    images: dict[str, Image] = {}
    with no_collection():
        for number, id_, boxes in _lines(decoded(path, raw), problems):
            name = f"{id_}.jpg"
            if name in images:
                problems.add(kinds.REPEATED_IMAGE, [f"line {number}: {id_}"])
            else:
                images[name] = Image(name, number, (0, 0), [*_people(number, boxes, problems)])
        people = Entries.of(images.values())
    return Index(people, problems, hashlib.sha256(raw).hexdigest())


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
    people = index.people.take(is_held(index, sizes))
    whole = np.array([sizes[name] for name in people.names], dtype=np.int64).reshape(-1, 2)
    low, high = people.boxes[:, :2], people.boxes[:, 2:]
    limits = whole[people.image_of_box()].astype(np.float64)
    out = np.minimum(high, limits - low).min(axis=1, initial=np.inf) < THINNEST
    problems = Problems()
    problems.add(kinds.OUTSIDE, [people.places[row] for row in np.flatnonzero(out).tolist()])
    if form := other_form(np.concatenate([low, high - low], axis=1), limits):
        problems = problems.without(kinds.OUTSIDE)
        problems.fatal = (form,)
    boxes = np.concatenate([np.maximum(low, 0.0) + 0.0, np.minimum(high, limits)], axis=1)
    tagged = people.labels == 1, people.crowd | (people.labels != 0)
    found = replace(
        people,
        sizes=whole,
        boxes=boxes,
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        labels=np.zeros_like(people.labels),
        crowd=tagged[0] if mask_is_person else tagged[1],
    )
    return found.with_boxes(~out), problems


def is_held(index: Index, sizes: Mapping[str, tuple[int, int]]) -> Flags:
    """Return whether the size of each image is known."""
    return np.array([name in sizes for name in index.people.names], dtype=np.bool_)


class _Boxes(NamedTuple):
    """The boxes of a line."""

    raw: list[Any]
    plain: bool
    """Whether all are sure to be valid as `_Annotation`."""


def _lines(text: bytes, problems: Problems) -> Iterator[tuple[int, str, _Boxes]]:
    """Yield number and ID of each valid line, and its boxes."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        with suppress(ValidationError):
            plain = _PLAIN.validate_json(line)
            if all(abs(n) < LARGEST for row in plain["gtboxes"] for n in row["fbox"]):
                yield number, plain["ID"], _Boxes(plain["gtboxes"], True)
                continue
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(kinds.NOT_CROWDHUMAN, [f"line {number}: {_reason(error)}"])
            continue
        valid = _valid(_Line, raw, f"line {number}", problems)
        if valid is not None:
            yield number, valid.ID, _Boxes(valid.gtboxes, False)


def _people(number: int, boxes: _Boxes, problems: Problems) -> Iterator[Box]:
    for position, raw in enumerate(boxes.raw):
        place = f"line {number} gtboxes[{position}]"
        annotation = raw if boxes.plain else _checked(raw, place, problems)
        if annotation is None:
            continue
        x, y, w, h = annotation["fbox"]
        if not all(map(math.isfinite, (x, y, w, h))):
            problems.add(kinds.BAD_NUMBER, [place])
        elif min(w, h) < THINNEST:
            problems.add(kinds.DEGENERATE, [place])
        else:
            ignore = annotation.get("extra", {}).get("ignore", 0)
            label = ignore if ignore in (0, 1) else _OTHER
            yield Box(place, (x, y, x + w, y + h), 0.0, label, annotation["tag"] != "person")


def _checked(raw: Any, place: str, problems: Problems) -> dict[str, Any] | None:
    """Return an annotation as `_PLAIN` does; None: it was added to the problems."""
    found = _valid(_Annotation, raw, place, problems)
    return None if found is None else found.model_dump()


Model = TypeVar("Model", bound=BaseModel)


def _valid(model: type[Model], raw: Any, place: str, problems: Problems) -> Model | None:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems.add(kinds.NOT_CROWDHUMAN, [describe(error.errors()[0], place)])
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not text in UTF-8: {error}"
    return "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
