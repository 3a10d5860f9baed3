"""Find what occurs more than once in a data set of image files."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from detectors.data import problems as kinds
from detectors.data.entries import Entry
from detectors.data.problems import Problems


def repeats(entries: Iterable[Entry]) -> Problems:
    """Return remarks on the repeated annotations and files of a split.

    An annotation is repeated if another of the same image has the same class and the same box. A
    file is repeated if it belongs to several image ids.
    """
    found = Problems()
    files: Counter[str] = Counter()
    for entry in entries:
        files[os.path.normpath(entry.file_name)] += 1
        found.remark(kinds.REPEATED_BOX, _repeated_boxes(entry))
    found.remark(kinds.REPEATED_FILE, [name for name, count in files.items() if count > 1])
    return found


def _repeated_boxes(entry: Entry) -> list[str]:
    """Return the places of the annotations of an image that another one before them equals."""
    if len(entry.places) < 2:
        return []
    seen, places = set(), []
    truth = entry.truth
    rows = zip(truth.labels.tolist(), truth.boxes.tolist(), entry.places, strict=True)
    for label, box, place in rows:
        key = (label, *box)
        if key in seen:
            places.append(place)
        seen.add(key)
    return places


def shared_pictures(train: Sequence[Path], val: Mapping[str, Path]) -> Problems:
    """Return a remark on validation images that are training images, too: a file or equal bytes.

    Files are only read if their sizes in bytes are equal.

    Args:
        train: the training images; missing ones are ignored.
        val: name -> file of the validation images.
    """
    by_size: defaultdict[int, set[str]] = defaultdict(set)
    for path in train:
        if os.path.isfile(path):
            by_size[path.stat().st_size].add(os.path.normpath(path))
    digests: dict[str, bytes] = {}
    found = Problems()
    for name, path in val.items():
        others = by_size.get(path.stat().st_size) if os.path.isfile(path) else None
        if others and _is_one_of(os.path.normpath(path), others, digests):
            found.remark(kinds.SHARED_PICTURE, [name])
    return found


def _is_one_of(path: str, others: set[str], digests: dict[str, bytes]) -> bool:
    """Return whether a file is one of `others`, or has the content of one."""
    if path in others:
        return True
    return any(_digest(path, digests) == _digest(other, digests) for other in others)


def _digest(path: str, digests: dict[str, bytes]) -> bytes:
    if path not in digests:
        with open(path, "rb") as file:
            digests[path] = hashlib.file_digest(file, "sha256").digest()
    return digests[path]
