"""Read a COCO JSON file: the ground truth of each image, and all problems of the file."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from detectors.data import problems as kinds
from detectors.data.base import DataError
from detectors.data.checks import other_form
from detectors.data.coco_columns import (
    Columns,
    Known,
    Part,
    as_part,
    categories_of,
    parts_of,
)
from detectors.data.coco_schema import (
    LATER_RULES,
    RULES,
    Annotation,
    Category,
    Document,
    Image,
    StrictAnnotation,
    StrictImage,
    whole,
)
from detectors.data.entries import THINNEST, Box, Entries, clipped, out_of_image
from detectors.data.entry_builder import EntryBuilder, Rows
from detectors.data.json_blocks import divided
from detectors.data.json_text import decoded, describe, no_collection
from detectors.data.masks import extent
from detectors.data.problems import Kind, Problems

_FORM = (kinds.DEGENERATE, kinds.OUTSIDE, kinds.PARTLY_OUTSIDE)
"""Kinds of problems that boxes in another form cause."""


class Found(NamedTuple):
    """An annotation with the keys and types of COCO."""

    place: str
    """Its id, or its position in the file."""
    annotation: Annotation
    numbers: Sequence[float]
    """x, y, width and height."""
    position: int
    """Its position in the file."""


@dataclass(frozen=True)
class Index:
    """The content of a file."""

    categories: tuple[tuple[int, str], ...]
    """(id, name), sorted by id; a label is a position in it."""
    entries: Entries
    """Images, sorted by id, with their valid annotations. See `with_sizes` for those of size 0."""
    problems: Problems
    """Problems of the other images and annotations."""
    notes: tuple[str, ...] = ()
    """What else was left out, one line each."""
    lost: tuple[str, ...] = ()
    """Places of valid annotations whose image is not valid."""
    rules: int = RULES
    """Which rules of `coco_schema` the file needs."""
    content: str = ""
    """SHA-256 of the file, in hex."""
    unsized: Mapping[int, tuple[Image, Sequence[Found]]] = field(default_factory=dict)
    """Images without `width` or `height` by id, with annotations that are not checked yet."""


def read_index(path: Path) -> Index:
    """Read and check one file. Raises DataError if it is not COCO."""
    with no_collection():
        return _read_index(path, path.read_bytes())


def _read_index(path: Path, raw: bytes) -> Index:
    content = hashlib.sha256(raw).hexdigest()
    document, parts = _read(path, decoded(path, raw))
    groups = _unused_groups(document, parts)
    categories = tuple(sorted((c.id, c.name) for c in document.categories if c not in groups))
    _check_names(path, categories)
    reader = _Reader({id_: label for label, (id_, _) in enumerate(categories)})
    reader.read_images(document.images)
    reader.read_annotations(parts)
    notes = tuple(
        f"{path}: left out category {c.id} ({c.name}): it only groups others, one of the same name"
        for c in groups
    )
    lost, entries, rules = tuple(reader.lost), reader.entries(), reader.rules
    problems, unsized = reader.checked(), reader.unsized
    return Index(categories, entries, problems, notes, lost, rules, content, unsized)


def with_sizes(index: Index, sizes: Mapping[str, tuple[int, int]]) -> Index:
    """Return the index with the size of the picture for images whose size the file lacks.

    Args:
        index: the content of a file.
        sizes: (width, height) of the valid pictures by file name. The boxes of the others are
            checked as far as possible without a size.
    """
    if not index.unsized:
        return index
    reader = _Reader({id_: label for label, (id_, _) in enumerate(index.categories)})
    for id_, (image, annotations) in index.unsized.items():
        width, height = sizes.get(image.file_name, (None, None))
        size = {"width": image.width or width, "height": image.height or height}
        reader.images[id_] = image.model_copy(update=size)
        for found in annotations:
            reader.add(found)
    entries = index.entries.updated(reader.entries())
    problems = index.problems.merged(reader.checked())
    return replace(index, entries=entries, problems=problems, unsized={})


def _read(path: Path, text: bytes) -> tuple[Document, list[Part]]:
    """Return the file without its annotations, and the annotations."""
    for place in divided(text, "annotations"):
        try:
            parts, rest = parts_of(place)
        except ValueError:
            continue
        return _document(path, lambda: Document.model_validate(rest)), parts  # noqa: B023
    document = _document(path, lambda: Document.model_validate_json(text))
    return document, [as_part(document.annotations)]


def _document(path: Path, validate: Callable[[], Document]) -> Document:
    try:
        document = validate()
    except ValidationError as error:
        wrong = [describe(each) for each in error.errors()]
        raise DataError(
            [f"{path}: not COCO: {w}; export it as COCO again" for w in wrong]
        ) from None
    ids = [c.id for c in document.categories]
    if len(set(ids)) < len(ids):
        raise DataError([f"{path}: category ids repeat: {ids}; give every category its own id"])
    return document


def _unused_groups(document: Document, parts: Sequence[Part]) -> list[Category]:
    """Return the categories that only group others: without annotations, and a supercategory.

    Only those that share their name with another category, as some tools export it.
    """
    names = [category.name for category in document.categories]
    groups = [category.supercategory for category in document.categories]
    found = [c for c in document.categories if names.count(c.name) > 1 and c.name in groups]
    if not found:
        return []
    used = [*categories_of(parts)]
    return [category for category in found if category.id not in used]


def _check_names(path: Path, categories: Sequence[tuple[int, str]]) -> None:
    """Raise DataError where two categories have one name: results are stored by name."""
    names = [name for _, name in categories]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        ids = ", ".join(f"{id_} ({name})" for id_, name in categories if name in repeated)
        raise DataError([f"{path}: category names repeat: {ids}; give every category its own name"])


Model = TypeVar("Model", bound=BaseModel)


class _Reader:
    """Reads images, then annotations, and collects their problems."""

    def __init__(self, labels: Mapping[int, int]) -> None:
        self.images: dict[int, Image] = {}
        self.unsized: dict[int, tuple[Image, list[Found]]] = {}
        self.lost: list[str] = []
        self.rules = RULES
        self._labels = labels
        self._problems = Problems()
        self._bad_images: set[Any] = set()
        self._boxes = EntryBuilder()
        self._written: list[tuple[float, ...]] = []
        """x, y, width, height of each box, and width and height of its image."""
        self._sound = [np.zeros((0, 6))]
        """The same of the boxes that were read as columns."""

    def entries(self) -> Entries:
        """Return the images with their boxes, sorted by id."""
        images = sorted(self.images.items())
        sizes = [(image.width or 0, image.height or 0) for _, image in images]
        names = [image.file_name for _, image in images]
        return self._boxes.entries([id_ for id_, _ in images], names, sizes)

    def checked(self) -> Problems:
        """Return the problems of what was read. Boxes in another form are one problem."""
        slow = np.array(self._written, dtype=np.float64).reshape(-1, 6)
        written = np.concatenate([*self._sound, slow])
        form = other_form(written[:, :4], written[:, 4:])
        if form is None:
            return self._problems
        problems = self._problems.without(*_FORM)
        problems.fatal = (form,)
        return problems

    def read_images(self, raw: Sequence[Any]) -> None:
        """Read the images."""
        for position, each in enumerate(raw):
            image = self._valid((StrictImage, Image), each, f"images[{position}]")
            if image is None:
                bad = whole(each.get("id")) if isinstance(each, dict) else None
                self._bad_images |= {bad} if isinstance(bad, int) else set()
            elif image.id in self.images:
                self._problems.add(kinds.REPEATED_IMAGE, [f"{image.id}: {image.file_name}"])
            else:
                self.images[image.id] = image

    def read_annotations(self, parts: Iterable[Part]) -> None:
        """Read the annotations. Those of images without a size are only collected."""
        self.unsized = {i: (image, []) for i, image in self.images.items() if not image.is_sized}
        known, start = Known(self.images, self._labels), 0
        for part in parts:
            if part.columns is not None:
                self._read_columns(part.columns, known, start)
                start += len(part.columns.ids)
            else:
                raw = part.raw()
                for found in self._valid_annotations(raw, start):
                    self._read(found)
                start += len(raw)

    def _read_columns(self, columns: Columns, known: Known, start: int) -> None:
        """Read annotations in columns: first those that are sound, then each of the others."""
        sound = known.sound(columns)
        self._sound.append(sound.written)
        self._boxes.add_rows(
            Rows(
                sound.rows + start,
                columns.images[sound.rows],
                sound.corners,
                sound.areas,
                sound.labels,
                columns.crowd[sound.rows],
                columns.ids[sound.rows],
            )
        )
        for row in np.setdiff1d(np.arange(len(columns.ids)), sound.rows).tolist():
            annotation = columns.annotation(row)
            numbers = columns.numbers[row].tolist()
            self._read(Found(str(annotation.id), annotation, numbers, start + row))

    def _read(self, found: Found) -> None:
        if found.annotation.image_id in self.unsized:
            self.unsized[found.annotation.image_id][1].append(found)
        else:
            self.add(found)

    def _valid_annotations(self, raw: Sequence[Any], start: int) -> Iterator[Found]:
        """Yield the annotations with the keys and types of COCO."""
        for position, each in enumerate(raw, start):
            place = f"annotations[{position}]"
            annotation = self._valid((StrictAnnotation, Annotation), each, place)
            numbers = None if annotation is None else self._numbers(annotation, place)
            if annotation is not None and numbers is not None:
                id_ = annotation.id
                place = place if id_ is None else str(id_)
                yield Found(place, annotation, numbers, position)

    def add(self, found: Found) -> None:
        """Add the box of an annotation, clipped if necessary, or its problems."""
        place, annotation, (x, y, w, h), position = found
        image = self.images.get(annotation.image_id)
        wrong = list(self._problems_of(found, image))
        for kind in wrong:
            self._problems.add(kind, [place])
        if image is None or set(wrong) - {kinds.PARTLY_OUTSIDE}:
            self.lost += [] if wrong else [place]
            return
        xyxy = (x, y, x + w, y + h)
        area = w * h if annotation.area is None else annotation.area
        if wrong:
            xyxy = clipped(xyxy, *image.bounds)
            area = min(area, (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]))
        crowd = bool(annotation.iscrowd or annotation.ignore)
        box = Box(place, xyxy, area, self._labels[annotation.category_id], crowd)
        self._boxes.add(position, annotation.image_id, box)

    def _valid(self, models: tuple[type[Model], type[Model]], raw: Any, place: str) -> Model | None:
        """Return `raw` as the first model that accepts it; None: it was added to the problems."""
        strict, wide = models
        try:
            return strict.model_validate(raw)
        except ValidationError:
            pass
        try:
            valid = wide.model_validate(raw)
        except ValidationError as error:
            self._problems.add(kinds.MALFORMED, [describe(error.errors()[0], place)])
            return None
        self.rules = LATER_RULES
        return valid

    def _numbers(self, annotation: Annotation, place: str) -> Sequence[float] | None:
        """Return x, y, width and height; None: the annotation was added to the problems."""
        id_ = place if annotation.id is None else str(annotation.id)
        if annotation.ignore and not annotation.iscrowd:
            self._problems.remark(kinds.IGNORED, [id_])
        if annotation.bbox is not None:
            return annotation.bbox
        mask = annotation.segmentation
        try:
            numbers = extent(mask)
        except ValueError as error:
            what = f"segmentation: {error}" if mask else "bbox: is missing"
            self._problems.add(kinds.MALFORMED, [f"{place}.{what}"])
            return None
        self._problems.remark(kinds.BOX_OF_SEGMENTATION, [id_])
        return numbers

    def _problems_of(self, found: Found, image: Image | None) -> Iterator[Kind]:
        annotation = found.annotation
        if image is None and annotation.image_id not in self._bad_images:
            yield kinds.UNKNOWN_IMAGE
        if annotation.category_id not in self._labels:
            yield kinds.UNKNOWN_CATEGORY
        if image is not None and math.inf not in image.bounds:
            self._written.append((*found.numbers, *image.bounds))
        wrong = _box_problem(found, image)
        if wrong is not None:
            yield wrong


def _box_problem(found: Found, image: Image | None) -> Kind | None:
    x, y, w, h = found.numbers
    area = found.annotation.area or 0.0
    if not all(map(math.isfinite, (x, y, w, h, area))) or area < 0:
        return kinds.BAD_NUMBER
    if min(w, h) < THINNEST:
        return kinds.DEGENERATE
    if image is None:
        return None
    return out_of_image((x, y, x + w, y + h), *image.bounds)
