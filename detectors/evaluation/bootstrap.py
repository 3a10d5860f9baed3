"""Uncertainty of AP and the gap: AP on resamples of the images (paired bootstrap).

Detections are not matched again: an image that was drawn w times counts w times, and the matching
of one image doesn't depend on the others. Shape letters: N images, D detections, H hits, T IoU
thresholds, K classes, S = T x K segments (one precision-recall curve each), R resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.matches import Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RECALL = np.linspace(0.0, 1.0, 101)


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
    weights = draws(without.images, resamples, seed)
    ap = np.array([_precisions(columns, without, each) for each in weights])
    return Replicates(*ap.T)


def average_precision(columns: Sequence[Matches], images: NDArray[np.bool_]) -> list[float | None]:
    """Compute COCO's AP on some of the images.

    Args:
        columns: matches of several sets of detections of the same images.
        images: [N], whether to use the image.

    Returns:
        AP of each set in percent points; None if the images have no object.
    """
    curves = [_Curves.of(each) for each in columns]
    found = _precisions(curves, columns[0], images.astype(np.int64))
    return [None if np.isnan(ap) else ap for ap in found]


def _precisions(columns: "Sequence[_Curves]", matches: Matches, weights: Ints) -> list[float]:
    """Return AP of each set in percent points if image n counts weights[n] times; NaN if undefined.

    matches: those of one of the sets, which hold the objects.
    """
    objects = _objects(matches, weights)
    curves = len(matches.hit) * int(np.count_nonzero(objects))
    if not curves:
        return [np.nan] * len(columns)
    reached, first = _points_reached(objects)
    return [100 * curve.area(weights, reached, first) / curves for curve in columns]


def draws(images: int, resamples: int, seed: int) -> Iterator[Ints]:
    """Yield for each resample how often each image was drawn: [N]."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, images, images), minlength=images)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval (low, high) of replicates [R]; NaN entries are ignored."""
    low, high = np.nanpercentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


@dataclass(frozen=True)
class _Curves:
    """All precision-recall curves of one set of detections, stored at their hits.

    Precision has its local maxima and recall its steps at hits. Detections are sorted by class and
    descending score; hits and ignored detections by IoU threshold, then like detections.

    Attributes:
        image: [D], image of each detection.
        class_start: [K], position of the first detection of each class.
        hit_image: [H], image of each hit.
        hit_position: [H], number of detections up to the hit, the hit included.
        hit_ignored: [H], number of ignored detections up to the hit.
        hits: [S], number of hits in each segment.
        ignored_image: image of each ignored detection.
        ignored_start: [S], number of ignored detections before each segment.
    """

    image: Ints
    class_start: Ints
    hit_image: Ints
    hit_position: Ints
    hit_ignored: Ints
    hits: Ints
    ignored_image: Ints
    ignored_start: Ints

    @classmethod
    def of(cls, matches: Matches) -> "_Curves":
        """Compute the curves. The stable sort keeps the order of equal scores, as COCO does."""
        order = np.lexsort((-matches.score, matches.label))
        image, label = matches.image[order], matches.label[order]
        threshold, hit = np.nonzero(matches.hit[:, order])
        rows, columns = np.nonzero(matches.ignored[:, order])
        ignored = rows * len(order) + columns
        class_start = np.searchsorted(label, np.arange(matches.classes))
        thresholds = np.arange(len(matches.hit))
        segments = len(thresholds) * matches.classes
        starts = thresholds[:, None] * len(order) + class_start
        return cls(
            image,
            class_start,
            image[hit],
            hit + 1,
            np.searchsorted(ignored, threshold * len(order) + hit),
            np.bincount(threshold * matches.classes + label[hit], minlength=segments),
            image[columns],
            np.searchsorted(ignored, starts.ravel()),
        )

    def area(self, weights: Ints, reached: Ints, first: Ints) -> float:
        """Return the sum over segments of the area under the curve.

        Args:
            weights: [N], how often each image was drawn.
            reached: see `_points_reached`.
            first: see `_points_reached`.
        """
        tp, detected = self._counts(weights)
        envelope = self._envelope(tp / np.maximum(detected, 1))
        thresholds = len(self.hits) // len(first)
        points = reached[tp + np.repeat(np.tile(first, thresholds), self.hits)]
        new = np.diff(points, prepend=0)
        starts = (self.hits.cumsum() - self.hits)[self.hits > 0]
        new[starts] = points[starts]
        return float(envelope @ new) / len(_RECALL)

    def _counts(self, weights: Ints) -> tuple[Ints, Ints]:
        """Count the hits, and the detections not ignored, of a segment up to each hit: [H], [H]."""
        hits = _running(weights[self.hit_image])
        detected = _running(weights[self.image])
        ignored = _running(weights[self.ignored_image])
        thresholds = len(self.hits) // len(self.class_start)
        before = np.tile(detected[self.class_start], thresholds) - ignored[self.ignored_start]
        tp = hits[1:] - np.repeat(hits[self.hits.cumsum() - self.hits], self.hits)
        up_to = detected[self.hit_position] - ignored[self.hit_ignored]
        return tp, up_to - np.repeat(before, self.hits)

    def _envelope(self, precision: Floats) -> Floats:
        """Return the highest precision at each hit or at later hits of its segment: [H].

        Segments are separated by adding steps of 1, the maximum of precision.
        """
        step = np.repeat(np.arange(len(self.hits))[::-1], self.hits)
        return np.asarray(np.maximum.accumulate((precision + step)[::-1])[::-1] - step)


def _running(values: Ints) -> Ints:
    """Return the sums of the first 0, 1, 2, ... values."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _objects(matches: Matches, weights: Ints) -> Ints:
    """Count the objects of each class in a resample: [K]. weights: [N]."""
    label = np.repeat(matches.object_label, weights[matches.object_image])
    return np.bincount(label, minlength=matches.classes)


def _points_reached(objects: Ints) -> tuple[Ints, Ints]:
    """Compute how many of the 101 recall points are reached with k hits, for every class and k.

    The division is the same as COCO's, so points that equal the recall exactly are counted.

    Args:
        objects: [K], number of objects of each class.

    Returns:
        The numbers of points, and the position of each class: the number for class c and k hits is
        entry first[c] + k.
    """
    sizes = objects + 1
    first = sizes.cumsum() - sizes
    hits = np.arange(sizes.sum()) - np.repeat(first, sizes)
    recall = hits / np.repeat(np.maximum(objects, 1), sizes)
    return np.searchsorted(_RECALL, recall, side="right"), first


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
