"""Check a data set and count what it holds, without training."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain

import torch

from detectors.data.base import DataError, DataOptions, Dataset, Split
from detectors.data.photo_files import SPLITS
from detectors.data.photos import Photos

SMALL, MEDIUM = 32**2, 96**2
"""Areas in square pixels up to which COCO's metrics call an object small or medium."""


@dataclass(frozen=True)
class Counts:
    """What one split holds."""

    images: int
    empty: int
    """Images without objects."""
    objects: int
    """Objects that are not crowd regions."""
    crowd: int
    """Crowd and ignored regions."""
    small: int
    """Objects of an area of at most 32 x 32 pixels of the original image."""
    medium: int
    """Larger objects of at most 96 x 96 pixels."""
    large: int
    """Larger objects."""
    classes: dict[str, int]
    """Objects of each class, in label order."""


@dataclass(frozen=True)
class Summary:
    """What a data set holds and what is wrong with it."""

    options: DataOptions
    splits: dict[Split, Counts] = field(default_factory=dict)
    """Counts of what can be used. A split that has nothing to use is left out."""
    notes: tuple[str, ...] = ()
    """Remarks of loading, one line each."""
    problems: tuple[str, ...] = ()
    """Why the data set is refused, one line each: where, what and the remedy."""


def summarise(options: DataOptions) -> Summary:
    """Load both splits with all checks, and count.

    If the data is refused, the counts are those of what `on_bad: skip` would keep.
    """
    splits: dict[Split, Counts] = {}
    notes: list[str] = []
    problems: list[str] = []
    for split in SPLITS:
        try:
            data = options.load(split)
            notes += data.notes
        except DataError as error:
            problems += error.problems
            usable = _usable(options, split)
            if usable is None:
                continue
            data = usable
        splits[split] = count(data)
    return Summary(options, splits, _once(notes), _once(problems))


def count(data: Dataset) -> Counts:
    """Count the images and objects of one split."""
    truths = data.truth()
    objects = [~truth.crowd for truth in truths]
    none = torch.zeros(0)
    areas = torch.cat([none, *(t.area[kept] for t, kept in zip(truths, objects, strict=True))])
    labels = Counter(chain(*(t.labels[k].tolist() for t, k in zip(truths, objects, strict=True))))
    small, most = int((areas <= SMALL).sum()), int((areas <= MEDIUM).sum())
    return Counts(
        images=len(truths),
        empty=sum(not kept.any() for kept in objects),
        objects=len(areas),
        crowd=sum(int(truth.crowd.sum()) for truth in truths),
        small=small,
        medium=most - small,
        large=len(areas) - most,
        classes={name: labels[label] for label, name in enumerate(data.classes)},
    )


def _usable(options: DataOptions, split: Split) -> Dataset | None:
    """Return what can be used of a split that is refused; None if that is nothing."""
    if not isinstance(options, Photos) or options.on_bad == "skip":
        return None
    try:
        return options.model_copy(update={"on_bad": "skip"}).load(split)
    except DataError:
        return None


def _once(lines: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(lines))
