"""Find what occurs more than once in a data set of image files."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detectors.data import problems as kinds
from detectors.data.entries import Entries
from detectors.data.problems import Problems

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Mixes the bits of numbers, so that few different boxes have equal mixtures."""


def repeats(entries: Entries) -> Problems:
    """Return remarks on the repeated annotations and files of a split.

    An annotation is repeated if another of the same image has the same class and the same box. A
    file is repeated if it belongs to several image ids.
    """
    found = Problems()
    found.remark(kinds.REPEATED_BOX, [entries.places[row] for row in _repeated_rows(entries)])
    files = Counter(map(os.path.normpath, entries.names))
    found.remark(kinds.REPEATED_FILE, [name for name, count in files.items() if count > 1])
    return found


def _repeated_rows(entries: Entries) -> list[int]:
    """Return the positions of the boxes that another one before them equals."""
    boxes = entries.boxes + 0.0  # makes -0.0 and 0.0 one
    keys = [entries.image_of_box(), entries.labels, *boxes.T.view(np.int64)]
    mixed = np.zeros(len(boxes), dtype=np.uint64)
    for key in keys:
        mixed = (mixed ^ key.astype(np.uint64)) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    twins = mixed[order[1:]] == mixed[order[:-1]]
    alike = np.sort(np.unique(np.concatenate([order[1:][twins], order[:-1][twins]])))
    seen, repeated = set(), []
    for row in alike.tolist():
        whole = tuple(key[row].item() for key in keys)
        if whole in seen:
            repeated.append(row)
        seen.add(whole)
    return repeated


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
