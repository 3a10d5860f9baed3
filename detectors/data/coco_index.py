"""Read a COCO JSON file: the ground truth of each image, and all problems of the file."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Len, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detectors.data import problems as kinds
from detectors.data.base import DataError
from detectors.data.entries import THINNEST, Box, Entry, clipped, entry, outside
from detectors.data.problems import Kind, Problems

TOLERANCE = 1.0  # pixels by which a box may extend beyond its image

Size = Annotated[int, Gt(0)]
ImageId = Annotated[int, Ge(-(2**63)), Lt(2**63)]
"""Ids are stored in files and tables as integers of 64 bits."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Image(_Strict):
    id: ImageId
    file_name: Annotated[str, Len(1)]
    width: Size | None = None
    height: Size | None = None
    """The size of the picture, if the file has none."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Width and height; infinity where unknown."""
        return self.width or math.inf, self.height or math.inf


class _Annotation(_Strict):
    id: int
    image_id: int
    category_id: int
    bbox: Annotated[list[float], Len(4, 4)]
    area: float | None = None
    iscrowd: Annotated[int, Field(strict=False, ge=0, le=1)] = 0


class _Category(_Strict):
    id: int
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
    """Without control characters, because it is printed and used in names of metrics."""
    supercategory: Any = None


class _Document(_Strict):
    images: Annotated[list[Any], Len(1)]
    annotations: list[Any]
    categories: Annotated[list[_Category], Len(1)]


@dataclass(frozen=True)
class Index:
    """The content of a file."""

    categories: tuple[tuple[int, str], ...]
    """(id, name), sorted by id; a label is a position in it."""
    entries: tuple[Entry, ...]
    """Images, sorted by id, with their valid annotations. See `with_sizes` for those of size 0."""
    problems: Problems
    """Problems of the other images and annotations."""
    notes: tuple[str, ...] = ()
    """What else was left out, one line each."""
    unsized: Mapping[int, tuple[_Image, Sequence[_Annotation]]] = field(default_factory=dict)
    """Images without `width` or `height` by id, with annotations that are not checked yet."""


def read_index(path: Path) -> Index:
    """Read and check one file. Raises DataError if it is not COCO."""
    document = _read(path)
    problems = Problems()
    images = _images(document.images, problems)
    groups = _unused_groups(document)
    categories = tuple(sorted((c.id, c.name) for c in document.categories if c not in groups))
    _check_names(path, categories)
    labels = {id_: label for label, (id_, _) in enumerate(categories)}
    boxes: defaultdict[int, list[Box]] = defaultdict(list)
    unsized = {id_: (i, list[_Annotation]()) for id_, i in images.items() if math.inf in i.bounds}
    for annotation in _valid(_Annotation, document.annotations, "annotations", problems):
        if annotation.image_id in unsized:
            unsized[annotation.image_id][1].append(annotation)
            continue
        box = _box(annotation, images.get(annotation.image_id), labels, problems)
        if box is not None:
            boxes[annotation.image_id].append(box)
    entries = tuple(_entry(image, boxes[id_]) for id_, image in sorted(images.items()))
    notes = tuple(
        f"{path}: left out category {c.id} ({c.name}): it only groups others, one of the same name"
        for c in groups
    )
    return Index(categories, entries, problems, notes, unsized)


def with_sizes(index: Index, sizes: Mapping[str, tuple[int, int]]) -> Index:
    """Return the index with the size of the picture for images whose size the file lacks.

    Args:
        index: the content of a file.
        sizes: (width, height) of the valid pictures by file name. The boxes of the others are
            checked as far as possible without a size.
    """
    problems = index.problems.merged(Problems())
    labels = {id_: label for label, (id_, _) in enumerate(index.categories)}
    found = {}
    for id_, (image, annotations) in index.unsized.items():
        width, height = sizes.get(image.file_name, (None, None))
        size = {"width": image.width or width, "height": image.height or height}
        whole = image.model_copy(update=size)
        boxes = [_box(annotation, whole, labels, problems) for annotation in annotations]
        found[id_] = _entry(whole, [box for box in boxes if box is not None])
    entries = tuple(found.get(each.truth.image_id, each) for each in index.entries)
    return replace(index, entries=entries, problems=problems, unsized={})


def _entry(image: _Image, boxes: Sequence[Box]) -> Entry:
    return entry(image.file_name, image.id, (image.width or 0, image.height or 0), boxes)


def _read(path: Path) -> _Document:
    try:
        document = _Document.model_validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = [f"{_place(e['loc'])}{e['msg']}" for e in error.errors()]
        raise DataError(
            [f"{path}: not COCO: {w}; export it as COCO again" for w in wrong]
        ) from None
    ids = [c.id for c in document.categories]
    if len(set(ids)) < len(ids):
        raise DataError([f"{path}: category ids repeat: {ids}; give every category its own id"])
    return document


def _unused_groups(document: _Document) -> list[_Category]:
    """Return the categories that only group others: without annotations, and a supercategory.

    Only those that share their name with another category, as some tools export it.
    """
    names = [category.name for category in document.categories]
    groups = [category.supercategory for category in document.categories]
    found = [c for c in document.categories if names.count(c.name) > 1 and c.name in groups]
    if not found:
        return []
    used = [each.get("category_id") for each in document.annotations if isinstance(each, dict)]
    return [category for category in found if category.id not in used]


def _check_names(path: Path, categories: Sequence[tuple[int, str]]) -> None:
    """Raise DataError where two categories have one name: results are stored by name."""
    names = [name for _, name in categories]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        ids = ", ".join(f"{id_} ({name})" for id_, name in categories if name in repeated)
        raise DataError([f"{path}: category names repeat: {ids}; give every category its own name"])


Model = TypeVar("Model", bound=BaseModel)


def _valid(model: type[Model], raw: Sequence[Any], key: str, problems: Problems) -> list[Model]:
    """Return the entries with the keys and types of `model`; the others are added to `problems`."""
    valid = []
    for position, each in enumerate(raw):
        try:
            valid.append(model.model_validate(each))
        except ValidationError as error:
            first = error.errors()[0]
            place = _place((f"{key}[{position}]", *first["loc"]))
            problems.add(kinds.MALFORMED, [f"{place}{first['msg']}"])
    return valid


def _place(location: Sequence[int | str]) -> str:
    return ".".join(map(str, location)) + ": " if location else ""


def _images(raw: Sequence[Any], problems: Problems) -> dict[int, _Image]:
    images: dict[int, _Image] = {}
    for image in _valid(_Image, raw, "images", problems):
        if image.id in images:
            problems.add(kinds.REPEATED_IMAGE, [f"{image.id}: {image.file_name}"])
        else:
            images[image.id] = image
    return images


def _box(
    annotation: _Annotation, image: _Image | None, labels: dict[int, int], problems: Problems
) -> Box | None:
    """Return the box of an annotation, clipped if necessary; None if it is not valid."""
    found = [kinds.UNKNOWN_IMAGE] if image is None else []
    if annotation.category_id not in labels:
        found.append(kinds.UNKNOWN_CATEGORY)
    wrong = _box_problem(annotation, image)
    found += [wrong] if wrong else []
    for kind in found:
        problems.add(kind, [str(annotation.id)])
    if image is None or set(found) - {kinds.PARTLY_OUTSIDE}:
        return None
    x, y, w, h = annotation.bbox
    xyxy, area = (x, y, x + w, y + h), w * h if annotation.area is None else annotation.area
    if wrong:
        xyxy = clipped(xyxy, *image.bounds)
        area = min(area, (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]))
    label = labels[annotation.category_id]
    return Box(str(annotation.id), xyxy, area, label, bool(annotation.iscrowd))


def _box_problem(annotation: _Annotation, image: _Image | None) -> Kind | None:
    x, y, w, h = annotation.bbox
    area = annotation.area or 0.0
    if not all(map(math.isfinite, (x, y, w, h, area))) or area < 0:
        return kinds.BAD_NUMBER
    if min(w, h) < THINNEST:
        return kinds.DEGENERATE
    if image is None:
        return None
    width, height = image.bounds
    if outside((x, y, x + w, y + h), width, height):
        return kinds.OUTSIDE
    beyond = max(-x, -y, x + w - width, y + h - height)
    return kinds.PARTLY_OUTSIDE if beyond > TOLERANCE else None
