"""Uncertainty of AP and the gap: AP on resamples of the images (paired bootstrap).

Detections are not matched again: an image that was drawn w times counts w times, and the matching
of one image doesn't depend on the others. Shape letters: N images, K classes, R resamples.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.curves import RECALL, Curves, Tables, sparse_counts
from detectors.evaluation.matches import Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_STEP = 1 << 15
"""Number of values (curves x resamples) that are computed at once: they fit the cache."""
_VALUES = 1 << 23
"""Number of values of the largest arrays; limits the memory."""
_RESAMPLES = (8, 128)
"""Smallest and largest number of resamples that are computed at once."""
_THREADS = 2
"""Number of threads: NumPy holds Python's lock only between its loops. More gain little."""


@dataclass(frozen=True)
class Replicates:
    """AP without and with NMS on each resample: [R] float64, in percent points.

    NaN for a resample without objects. Entry r of two evaluations of the same images is measured on
    the same resample, so their differences are paired.
    """

    ap: Floats
    ap_nms: Floats

    @property
    def gap(self) -> Floats:
        """AP without NMS minus AP with NMS: [R]."""
        return self.ap - self.ap_nms


def replicates(
    without: Matches,
    with_: Matches,
    resamples: int = 1000,
    seed: int = 0,
    sets: "DetectionSets | None" = None,
) -> Replicates:
    """Compute COCO's AP on resamples of the images.

    Each resample has as many images as the data set, drawn with replacement. The draws depend only
    on the number of images, `resamples` and `seed`. AP equals that of pycocotools on a data set in
    which every image is repeated as often as it was drawn (copies are adjacent).

    Args:
        without: matches of the detections without NMS.
        with_: matches of the detections with NMS.
        resamples: number of resamples, at least 1.
        seed: seeds the draws.
        sets: `DetectionSets.of((without, with_))`, if it is known.

    Raises:
        ValueError: the matches are of different images or classes, or without objects, or
            `resamples` is less than 1.
    """
    _check(without, with_, resamples)
    sets = sets or DetectionSets.of((without, with_))
    weights = iter(draws(without.images, resamples, seed))
    parts = list[Floats]()
    with ThreadPoolExecutor(_THREADS) as threads:
        while block := list(islice(weights, _THREADS * sets.together)):
            shares = np.split(np.array(block), range(sets.together, len(block), sets.together))
            parts += threads.map(sets.average_precision, shares)
    return Replicates(*np.concatenate(parts, axis=1))


def draws(images: int, resamples: int, seed: int) -> Iterator[Ints]:
    """Yield for each resample how often each image was drawn: [N]."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, images, images), minlength=images)


def interval(
    values: Floats, level: float = 0.95, around: float | None = None
) -> tuple[float, float]:
    """Return the percentile interval (low, high) of replicates.

    AP is biased on resamples where classes have few objects: a repeated image adds no new errors.
    `around` shifts the interval by this bias, so that it lies around the measured value.

    Args:
        values: [R]; NaN entries are ignored.
        level: probability.
        around: the value measured on all images, which the mean of the replicates is shifted to;
            None: no shift.
    """
    low, high = np.nanpercentile(values, [50 * (1 - level), 50 * (1 + level)])
    shift = 0.0 if around is None else around - float(np.nanmean(values))
    return float(low) + shift, float(high) + shift


@dataclass(frozen=True)
class DetectionSets:
    """Sets of detections of the same images and objects, prepared for AP on some of the images.

    Attributes:
        objects: [K, N] sparse, number of objects of each class on each image.
        thresholds: number of IoU thresholds.
        curves: the precision-recall curves of each set.
        together: number of resamples to compute at once.
    """

    objects: Any
    thresholds: int
    curves: tuple[Curves, ...]
    together: int

    @classmethod
    def of(cls, columns: Sequence[Matches]) -> Self:
        """Prepare sets of detections."""
        first = columns[0]
        with ThreadPoolExecutor(_THREADS) as threads:
            curves = tuple(threads.map(Curves.of, columns))
        shape = first.classes, first.images
        objects = sparse_counts(first.object_label, first.object_image, shape)
        largest = max(len(first.object_image) + first.images, *(c.counts.shape[0] for c in curves))
        together = min(_STEP // (len(first.hit) * first.classes), _VALUES // largest)
        return cls(objects, len(first.hit), curves, int(np.clip(together, *_RESAMPLES)))

    def average_precision(self, weights: NDArray[Any]) -> Floats:
        """Compute COCO's AP of each of S sets, R times.

        Args:
            weights: [R, N], how often each image counts; bool: whether it does.

        Returns:
            [S, R] in percent points; NaN without an object in images that count.
        """
        by_image = np.ascontiguousarray(weights.T, dtype=np.float64)
        objects = (self.objects @ by_image).astype(np.int64)
        tables = Tables.of(objects)
        areas = np.array([each.areas(by_image, tables) for each in self.curves])
        points = len(RECALL) * self.thresholds * np.count_nonzero(objects, axis=0)
        ap = np.full(areas.shape, np.nan)
        np.divide(100 * areas, points, out=ap, where=points > 0)
        return ap


def _check(without: Matches, with_: Matches, resamples: int) -> None:
    """Raise ValueError if the arguments of `replicates` are invalid."""
    one, other = ((m.images, m.classes, len(m.hit), len(m.object_image)) for m in (without, with_))
    if one != other:
        raise ValueError(
            f"matches of {one} and of {other} images, classes, thresholds and objects can't be "
            "paired; pass the two of one evaluation"
        )
    if not len(without.object_image):
        raise ValueError(f"no object in {without.images} images: AP is undefined")
    if resamples < 1:
        raise ValueError(f"resamples {resamples}: must be at least 1")
