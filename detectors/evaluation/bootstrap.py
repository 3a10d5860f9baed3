"""How surely AP and the gap are known: AP on resamples of the images (paired bootstrap).

Nothing is matched again: an image drawn w times counts w times, and matching in one image doesn't
depend on the others. Letters: N images, D detections, H hits, T IoU thresholds, K classes,
S = T x K segments (one precision-recall curve each), R resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.matches import Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RECALL = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Replicates:
    """AP without and with NMS on each resample, [R] float64, percent points.

    NaN where a resample holds no object. Entry r of two evaluations of the same images was measured
    on the same resample, so differences of replicates are paired.
    """

    ap: Floats
    ap_nms: Floats

    @property
    def gap(self) -> Floats:
        """AP without NMS minus AP with it, [R]."""
        return self.ap - self.ap_nms


def replicates(
    without: Matches, with_: Matches, resamples: int = 1000, seed: int = 0
) -> Replicates:
    """COCO AP on `resamples` resamples of the images, as many images each, drawn with return.

    The draws depend on the number of images, `resamples` and `seed` alone. AP is what pycocotools
    gives on a data set in which every image stands as often as it was drawn (copies in a row).
    Raises ValueError where the two aren't of the same images and classes, where there is no object,
    and for fewer than one resample.
    """
    _check(without, with_, resamples)
    columns = _Curves.of(without), _Curves.of(with_)
    ap = np.full((len(columns), resamples), np.nan)
    for r, weights in enumerate(draws(without.images, resamples, seed)):
        objects = _objects(without, weights)
        curves = len(without.hit) * int(np.count_nonzero(objects))
        if not curves:
            continue
        reached, first = _points_reached(objects)
        for column, curve in enumerate(columns):
            ap[column, r] = 100 * curve.area(weights, reached, first) / curves
    return Replicates(*ap)


def draws(images: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each image was drawn, [N], for each resample."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, images, images), minlength=images)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval (low, high) of replicates [R]; NaN entries don't count."""
    low, high = np.nanpercentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


@dataclass(frozen=True)
class _Curves:
    """All precision-recall curves of one set of detections, reduced to where they have corners.

    Along a curve precision has its maxima and recall its steps at hits. Detections are by class,
    then falling score; hits by IoU threshold, then like detections; so are ignored ones.

    image: [D], of each detection; class_start: [K], its first detection. hit_image: [H];
    hit_position: [H], detections up to and with the hit; hit_ignored: [H], ignored ones up to it;
    hits: [S], in each segment; ignored_image: of each ignored one; ignored_start: [S], those before
    the segment.
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
        """The curves; the stable sort leaves equal scores as COCO has them."""
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
        """Sum over segments of the area under the curve. weights: [N], how often an image counts.

        reached, first: see `_points_reached`.
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
        """Hits, and detections that aren't ignored, up to each hit in its segment: [H], [H]."""
        hits = _running(weights[self.hit_image])
        detected = _running(weights[self.image])
        ignored = _running(weights[self.ignored_image])
        thresholds = len(self.hits) // len(self.class_start)
        before = np.tile(detected[self.class_start], thresholds) - ignored[self.ignored_start]
        tp = hits[1:] - np.repeat(hits[self.hits.cumsum() - self.hits], self.hits)
        up_to = detected[self.hit_position] - ignored[self.hit_ignored]
        return tp, up_to - np.repeat(before, self.hits)

    def _envelope(self, precision: Floats) -> Floats:
        """The best precision at each hit or a later one of its segment: [H].

        Segments are told apart by steps of 1, which no precision exceeds.
        """
        step = np.repeat(np.arange(len(self.hits))[::-1], self.hits)
        return np.asarray(np.maximum.accumulate((precision + step)[::-1])[::-1] - step)


def _running(values: Ints) -> Ints:
    """Sums of the first 0, 1, 2, ... values."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _objects(matches: Matches, weights: Ints) -> Ints:
    """Objects of each class on a resample: [K]. weights: [N]."""
    label = np.repeat(matches.object_label, weights[matches.object_image])
    return np.bincount(label, minlength=matches.classes)


def _points_reached(objects: Ints) -> tuple[Ints, Ints]:
    """How many recall points k hits reach; that of class c and k hits is entry first[c] + k.

    objects: [K], of each class. The division is COCO's, so a point that recall just meets counts.
    """
    sizes = objects + 1
    first = sizes.cumsum() - sizes
    hits = np.arange(sizes.sum()) - np.repeat(first, sizes)
    recall = hits / np.repeat(np.maximum(objects, 1), sizes)
    return np.searchsorted(_RECALL, recall, side="right"), first


def _check(without: Matches, with_: Matches, resamples: int) -> None:
    one, other = ((m.images, m.classes, len(m.hit), len(m.object_image)) for m in (without, with_))
    if one != other:
        raise ValueError(
            f"matches of {one} and of {other} images, classes, thresholds and objects can't be "
            "paired; give the two of one evaluation"
        )
    if not len(without.object_image):
        raise ValueError(f"no object in {without.images} images: AP is undefined")
    if resamples < 1:
        raise ValueError(f"resamples {resamples}: must be at least 1")
