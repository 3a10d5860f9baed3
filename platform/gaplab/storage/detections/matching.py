"""Match the images and categories of detections to those of annotations, by id or by name."""

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detectors.data.annotations import Annotations
from gaplab.storage.detections.rows import Ints, Key

Numbering = Literal["auto", "id", "name", "index", "index1", "coco91"]
"""How categories are matched. `index`: numbers from 0, `index1`: from 1, in the order of the
annotations' categories. `coco91`: the 80 ids of COCO's categories (1 to 90)."""

COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""Ids from 1 to 90 that no category of COCO has."""
COCO_IDS = tuple(id_ for id_ in range(1, 91) if id_ not in COCO_GAPS)

Table = Mapping[Hashable, int]


@dataclass(frozen=True)
class Way:
    """A way to match keys.

    Attributes:
        name: what is compared, for messages.
        prepare: turns a key into what the table has.
        table: prepared key -> position in the annotations.
    """

    name: str
    prepare: Callable[[Key], Hashable]
    table: Table

    def positions(self, keys: Sequence[Key]) -> Ints:
        """Return the position of each key; -1 if it is unknown."""
        found = (self.table.get(self.prepare(key), -1) for key in keys)
        return np.fromiter(found, dtype=np.int64, count=len(keys))


@dataclass(frozen=True)
class Match:
    """How keys were matched.

    Attributes:
        positions: position of each key in the annotations; -1 if it is unknown.
        way: what was compared.
        usual: whether that is what is compared first.
    """

    positions: Ints
    way: str
    usual: bool


def match_images(keys: Sequence[Key], annotations: Annotations) -> Match:
    """Match images: integers by id, else by the number that is the file name; text by file name.

    A file name may lack its folders or its suffix. Text that consists of digits may be an id.
    """
    ids, names = annotations.truth.image_ids, annotations.names
    by_id = _table(ids)
    stems = [os.path.splitext(name)[0] for name in map(_base, names)]
    if _integers(keys):
        number = _table(int(stem) if _is_number(stem) else None for stem in stems)
        return _best(keys, [Way("id", _same, by_id), Way("number in the file name", _same, number)])
    ways = [
        Way("file name", _slashes, _table(map(_slashes, names))),
        Way("file name without folders", _base, _table(map(_base, names))),
        Way("path without suffix", _slashes, _table(map(_stem, map(_slashes, names)))),
        Way("file name without suffix", _base, _table(stems)),
        Way("file name without suffix", lambda key: _stem(_base(key)), _table(stems)),
        Way("id written as text", _number, by_id),
    ]
    return _best(keys, ways)


def match_categories(keys: Sequence[Key], annotations: Annotations, numbering: Numbering) -> Match:
    """Match categories as `numbering` says; `auto`: in the way that matches most, ids first."""
    names, size = annotations.truth.classes, len(annotations.truth.classes)
    ids = Way("id", _number, _table(annotations.category_ids))
    ways = {
        "id": ids,
        "index": Way("position from 0", _number, _table(range(size))),
        "index1": Way("position from 1", _number, _table(range(1, size + 1))),
        "coco91": Way("COCO's ids up to 90", _number, _table(COCO_IDS if size == 80 else ())),
        "name": Way("name", str, _table(names)),
    }
    if numbering != "auto":
        return _best(keys, [ways[numbering]])
    if _integers(keys):
        return _best(keys, [ways[name] for name in ("id", "index", "index1", "coco91")])
    folded = Way("name in small letters", _folded, _table(map(_folded, names)))
    return _best(keys, [ways["name"], folded, ids])


def match_labels(keys: Sequence[Key], annotations: Annotations, numbering: Numbering) -> Match:
    """Match classes that are numbers from 0, as in YOLO's files, unless `numbering` says else."""
    return match_categories(keys, annotations, "index" if numbering == "auto" else numbering)


def _best(keys: Sequence[Key], ways: Sequence[Way]) -> Match:
    """Return the match that leaves the fewest keys unknown; of several, the first."""
    found = [(way.positions(keys), way) for way in ways]
    known = [int((positions >= 0).sum()) for positions, _ in found]
    first = known.index(max(known))
    positions, way = found[first]
    return Match(positions, way.name, first == 0)


def _table(keys: Iterable[Hashable]) -> Table:
    """Return the position of each key that occurs once; None is no key."""
    listed = list(keys)
    count = Counter(listed)
    return {key: i for i, key in enumerate(listed) if key is not None and count[key] == 1}


def _integers(keys: Sequence[Key]) -> bool:
    return all(isinstance(key, int) for key in keys)


def _same(key: Key) -> Hashable:
    return key


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _number(key: Key) -> Hashable:
    """Return a key as an integer, if it is one or consists of digits."""
    text = str(key).strip()
    return int(text) if _is_number(text) else key


def _slashes(key: Key) -> str:
    return os.path.normpath(str(key).replace("\\", "/"))


def _base(key: Key) -> str:
    return _slashes(key).rpartition("/")[2]


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _folded(key: Key) -> str:
    return " ".join(str(key).casefold().replace("_", " ").split())
