"""Uncertainty of AP and the gap: AP on resamples of the images (paired bootstrap).

Detections are not matched again: an image that was drawn w times counts w times, and the matching
of one image doesn't depend on the others. Shape letters: N images, D detections, H hits, T IoU
thresholds, K classes, R resamples.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.matches import Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RECALL = np.linspace(0.0, 1.0, 101)
_TOGETHER = 16
"""Number of resamples whose detections are counted at once."""
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
    without: Matches, with_: Matches, resamples: int = 1000, seed: int = 0
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

    Raises:
        ValueError: the matches are of different images or classes, or without objects, or
            `resamples` is less than 1.
    """
    _check(without, with_, resamples)
    columns = _Curves.of(without), _Curves.of(with_)
    weights = iter(draws(without.images, resamples, seed))
    parts = list[Floats]()
    with ThreadPoolExecutor(_THREADS) as threads:
        while block := list(islice(weights, _THREADS * _TOGETHER)):
            shares = np.split(np.array(block), range(_TOGETHER, len(block), _TOGETHER))
            parts += threads.map(lambda each: _precisions(columns, without, each), shares)
    return Replicates(*np.concatenate(parts, axis=1))


def average_precision(columns: Sequence[Matches], images: NDArray[np.bool_]) -> Floats:
    """Compute COCO's AP on some of the images.

    Args:
        columns: matches of C sets of detections of the same images.
        images: [R, N], R choices of images: whether to use each of them.

    Returns:
        AP of each set on each choice: [C, R] in percent points; NaN if the images have no object.
    """
    return _precisions([_Curves.of(each) for each in columns], columns[0], images.astype(np.int64))


def _precisions(columns: "Sequence[_Curves]", matches: Matches, weights: Ints) -> Floats:
    """Compute AP of each of C sets on R resamples: [C, R] in percent points; NaN if undefined.

    Args:
        columns: the curves of the sets.
        matches: those of one of the sets, which hold the objects.
        weights: [R, N], how often each image counts.
    """
    objects = [_objects(matches, each) for each in weights]
    tables = [_Tables.of(each) for each in objects]
    curves = len(matches.hit) * np.count_nonzero(objects, axis=1)
    areas = np.array([each.areas(weights.astype(np.int32), tables) for each in columns])
    ap = np.full(areas.shape, np.nan)
    np.divide(100 * areas, curves, out=ap, where=curves > 0)
    return ap


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
class _Curves:
    """All precision-recall curves of one set of detections, stored at their hits.

    Precision has its local maxima and recall its steps at hits. Detections are sorted by class and
    descending score; U of them are hits at one threshold or more.

    Attributes:
        counts: [U, N] sparse int32, number of detections on each image from the one after the
            previous hit up to this hit.
        first: [K], position of the first of the U hits of each class.
        per_class: [K], number of the U hits of each class.
        levels: the curves at each threshold.
    """

    counts: Any
    first: Ints
    per_class: Ints
    levels: "tuple[_Level, ...]"

    @classmethod
    def of(cls, matches: Matches) -> "_Curves":
        """Compute the curves. The stable sort keeps the order of equal scores, as COCO does."""
        order = np.lexsort((-matches.score, matches.label))
        image, label = matches.image[order], matches.label[order]
        hit, ignored = matches.hit[:, order], matches.ignored[:, order]
        hits = np.flatnonzero(hit.any(axis=0))
        start = np.searchsorted(label, np.arange(matches.classes))
        per_class = np.bincount(label[hits], minlength=matches.classes)
        levels = zip(hit, ignored, strict=True)
        return cls(
            _counts(hits, start[label[hits]], image, matches.images),
            per_class.cumsum() - per_class,
            per_class,
            tuple(_Level.of(*each, hits, start, image, label) for each in levels),
        )

    def areas(self, weights: Ints, tables: "Sequence[_Tables]") -> list[float]:
        """Return the sum over thresholds and classes of the area under the curve, per resample.

        Args:
            weights: [R, N] int32, how often each image was drawn.
            tables: R tables, see `_Tables`.
        """
        running = np.zeros((len(weights), self.counts.shape[0] + 1), dtype=np.int32)
        np.cumsum((self.counts @ weights.T).T, axis=1, out=running[:, 1:])
        before = np.repeat(running[:, self.first], self.per_class, axis=1)
        detected = (running[:, 1:] - before).astype(np.float64)
        rows = zip(weights, detected, tables, strict=True)
        return [sum(level.area(*row) for level in self.levels) / len(_RECALL) for row in rows]


@dataclass(frozen=True)
class _Level:
    """The precision-recall curves of all classes at one IoU threshold, with H hits.

    Attributes:
        hit: [H], position of each hit among the U hits at any threshold.
        image: [H], image of each hit.
        counts: [K], number of hits of each class.
        step: [H], a larger number for every class that comes earlier, see `area`.
        ignored_image: image of each ignored detection.
        ignored: [H], number of ignored detections up to the hit, of all classes.
        ignored_before: [H], number of ignored detections of the classes before.
    """

    hit: Ints
    image: Ints
    counts: Ints
    step: Floats
    ignored_image: Ints
    ignored: Ints
    ignored_before: Ints

    @classmethod
    def of(
        cls,
        hit: NDArray[np.bool_],
        ignored: NDArray[np.bool_],
        hits: Ints,
        start: Ints,
        image: Ints,
        label: Ints,
    ) -> "_Level":
        """Compute the curves at one threshold.

        Args:
            hit: [D], by class and descending score.
            ignored: [D].
            hits: [U], positions of the hits at any threshold.
            start: [K], position of the first detection of each class.
            image: [D].
            label: [D].
        """
        own, (left_out,) = np.flatnonzero(hit), np.nonzero(ignored)
        return cls(
            np.searchsorted(hits, own),
            image[own],
            np.bincount(label[own], minlength=len(start)),
            (len(start) - 1 - label[own]).astype(np.float64),
            image[left_out],
            np.searchsorted(left_out, own),
            np.searchsorted(left_out, start[label[own]]),
        )

    def area(self, weights: Ints, detected: Floats, tables: "_Tables") -> float:
        """Return 101 times the sum over classes of the area under the curve.

        `step` separates the classes where the precision at a hit is replaced by the highest one at
        this hit or later hits: precision is at most 1.

        Args:
            weights: [N], how often each image was drawn.
            detected: [U], number of detections of the class up to the hit.
            tables: see `_Tables`.
        """
        if not len(self.hit):
            return 0.0
        running = _running(weights.take(self.image))
        ends = self.counts.cumsum()
        before = running[ends - self.counts]
        index = running[1:] - np.repeat(before - tables.first, self.counts)
        seen = detected.take(self.hit)
        if len(self.ignored_image):
            left_out = _running(weights.take(self.ignored_image))
            seen -= left_out.take(self.ignored) - left_out.take(self.ignored_before)
        best = tables.hits.take(index) / np.maximum(seen, 1, out=seen) + self.step
        np.maximum.accumulate(best[::-1], out=best[::-1])
        points = tables.points.take(index)
        new = np.diff(points, prepend=0.0)
        starts, lasts = (ends - self.counts)[self.counts > 0], ends[self.counts > 0] - 1
        new[starts] = points[starts]
        return float(new @ best - points[lasts] @ self.step[lasts])


@dataclass(frozen=True)
class _Tables:
    """What depends on the number of objects in a resample.

    The entries of class c and k hits are at first[c] + k.

    Attributes:
        first: [K].
        hits: k, as float64.
        points: number of the 101 recall points that are reached with k hits, as float64.
    """

    first: Ints
    hits: Floats
    points: Floats

    @classmethod
    def of(cls, objects: Ints) -> "_Tables":
        """Compute the tables. objects: [K], number of objects of each class.

        The division is the same as COCO's, so points that equal the recall exactly are counted.
        """
        sizes = objects + 1
        first = sizes.cumsum() - sizes
        hits = np.arange(sizes.sum()) - np.repeat(first, sizes)
        recall = hits / np.repeat(np.maximum(objects, 1), sizes)
        return cls(first, hits.astype(np.float64), _points_reached(recall).astype(np.float64))


def _counts(hits: Ints, start: Ints, image: Ints, images: int) -> Any:
    """Return the sparse matrix of `_Curves.counts`.

    Args:
        hits: [U], positions of the hits.
        start: [U], position of the first detection of the class of each hit.
        image: [D], by class and descending score.
        images: number of images.
    """
    from scipy.sparse import csr_array  # not at the top: other commands import this module

    first = np.maximum(start, np.concatenate([[0], hits[:-1] + 1]))
    lengths = hits + 1 - first
    ends = lengths.cumsum()
    position = np.arange(lengths.sum()) + np.repeat(first - (ends - lengths), lengths)
    ones = np.ones(len(position), dtype=np.int32)
    pointers = np.concatenate([[0], ends])
    return csr_array((ones, image[position], pointers), shape=(len(hits), images))


def _running(values: Ints) -> Ints:
    """Return the sums of the first 0, 1, 2, ... values."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _objects(matches: Matches, weights: Ints) -> Ints:
    """Count the objects of each class in a resample: [K]. weights: [N]."""
    label = np.repeat(matches.object_label, weights[matches.object_image])
    return np.bincount(label, minlength=matches.classes)


def _points_reached(recall: Floats) -> Ints:
    """Return how many of the 101 recall points are at most `recall`, for values in [0, 1].

    Equal to a search among the points, but faster: the estimate is at most one point off.
    """
    points = (100 * recall).astype(np.int64)
    points -= _RECALL.take(points) > recall
    points += (points < 100) & (_RECALL.take(np.minimum(points + 1, 100)) <= recall)
    return points + 1


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
