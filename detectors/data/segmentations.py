"""The segmentations of a COCO file as they are written, apart from its other content.

Most detectors need none of them, so they are not part of the index of a file. Like the index, those
of a large file are kept in an Arrow file, which processes map to memory.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic_core import SchemaValidator, core_schema

from detectors.data.cache import code_digest, stored
from detectors.data.coco_schema import whole
from detectors.data.entries import Ints, Texts
from detectors.data.index_file import (
    LEAST_BYTES,
    content_digest,
    read_batch,
    strings_of,
    texts_of,
    write_batch,
)
from detectors.data.json_blocks import Divided, divided
from detectors.data.json_text import decoded
from detectors.data.masks import check

_ANY = SchemaValidator(core_schema.list_schema(core_schema.any_schema()))
_COLUMNS = ("place", "segmentation")
_KIND = "5e9"
"""Distinguishes the name of the file from that of the index; a name has hex digits only."""


@dataclass(frozen=True, eq=False)
class Segmentations:
    """The segmentations of N annotations.

    Attributes:
        places: N positions in the file: an id, or the position in the list; see `Entries.places`.
        texts: the segmentation of each as JSON; empty if it has none, or none that is sound.
    """

    places: Texts
    texts: Texts

    def rows_of(self, places: Sequence[str]) -> tuple[Ints, list[str]]:
        """Return the row of each place, -1 without one, and the places that occur again."""
        rows, repeated = dict[str, int](), list[str]()
        for row, place in enumerate(self.places):
            if place in rows:
                repeated.append(place)
            rows[place] = row
        found = np.array([rows.get(place, -1) for place in places], dtype=np.int64)
        return found, repeated


def stored_segmentations(path: Path) -> Segmentations:
    """Return the segmentations of a COCO file that `read_index` accepts. Raises DataError."""
    if path.stat().st_size < LEAST_BYTES:
        return _built(path)
    name = f"{content_digest(path)[:32]}-{code_digest()}-{_KIND}.arrow"
    return stored(name, _read, partial(_built, path), _write)


def _built(path: Path) -> Segmentations:
    text = decoded(path, path.read_bytes())
    for place in divided(text, "annotations"):
        with suppress(ValueError):
            return _collected(_elements(place))
    return _collected(json.loads(text)["annotations"])


def _elements(place: Divided) -> Iterator[Any]:
    """Yield the elements of a list. Raises ValueError if it is not that of the annotations."""
    end = place.start
    for block in place.blocks(_ANY):
        yield from block.rows or []
        end = block.end
    place.rest(end)


def _collected(annotations: Iterable[Any]) -> Segmentations:
    """Return the segmentations of annotations, of which some may not be sound."""
    places, texts = list[str](), list[str]()
    for position, each in enumerate(annotations):
        if not isinstance(each, dict):
            continue
        id_ = whole(each.get("id"))
        places.append(str(id_) if isinstance(id_, int) else f"annotations[{position}]")
        texts.append(_sound(each.get("segmentation")))
    return Segmentations(Texts.of(places), Texts.of(texts))


def _sound(segmentation: Any) -> str:
    try:
        check(segmentation)
    except ValueError:
        return ""
    return json.dumps(segmentation, separators=(",", ":"))


def _read(path: Path) -> Segmentations | None:
    batch = read_batch(path)
    return None if batch is None else Segmentations(*(texts_of(batch[name]) for name in _COLUMNS))


def _write(path: Path, found: Segmentations) -> bool:
    columns = [strings_of(each) for each in (found.places, found.texts)]
    write_batch(path, pa.RecordBatch.from_arrays(columns, [*_COLUMNS]))
    return True
