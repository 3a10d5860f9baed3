"""Precision-recall curves as functions of how often each image counts, for many choices at once.

Numbers of objects, detections and hits are sums of weights over images, which products of sparse
matrices compute. Shape letters: N images, D detections, T IoU thresholds, K classes, C curves
(T x K), E ends (see `Curves`), U positions of ends, R choices of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.matches import Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

RECALL = np.linspace(0.0, 1.0, 101)
"""COCO's recall points."""
_PART = 1 << 14
"""Number of ends whose hits are counted at once."""


@dataclass(frozen=True)
class Curves:
    """The precision-recall curves of one set of detections: one per IoU threshold and class.

    Detections are sorted by class and descending score. In a run of hits, without false positives
    in between, the precision does not fall, so a curve is given by its ends: the last hit of each
    run. All curves are followed together, one end of each per step.

    Attributes:
        label: [C], class of each curve, in the order of the steps.
        hits: [C, N] sparse, number of hits of each curve on each image.
        ignored: [C, N] sparse, number of ignored detections before the last end.
        parts: the ends, some steps at a time.
        counts: [U, N] sparse, number of detections on each image from the one after the previous
            position up to this one, at the U positions of the ends of all thresholds.
        sizes: number of positions in each step, where the classes are followed together.
    """

    label: Ints
    hits: Any
    ignored: Any
    parts: "tuple[_Part, ...]"
    counts: Any
    sizes: Ints

    @classmethod
    def of(cls, matches: Matches) -> Self:
        """Compute the curves. The stable sort keeps the order of equal scores, as COCO does."""
        order = np.lexsort((-matches.score, matches.label))
        image, label = matches.image[order], matches.label[order]
        hit, ignored = matches.hit[:, order], matches.ignored[:, order]
        ends = [_ends(*each, label) for each in zip(hit, ignored, strict=True)]
        positions = np.unique(np.concatenate(ends))
        classes = _Steps.of(_lengths([positions], label, matches.classes))
        curves = _Steps.of(_lengths(ends, label, matches.classes))
        owner, detected = _before(positions, np.arange(len(label)), label)
        counts = sparse_counts(
            classes.place[owner], image[detected], (len(positions), matches.images)
        )
        place = classes.place[np.searchsorted(positions, np.concatenate(ends))]
        marked = [_marked(flags, ends, label) for flags in (hit, ignored)]
        shape = len(curves.lane), matches.images
        whole, left_out = (
            sparse_counts(curves.lane[curves.owner[end]], image[at], shape) for end, at in marked
        )
        shape = len(place), matches.images
        own = [sparse_counts(curves.place[end], image[at], shape) for end, at in marked]
        return cls(
            np.argsort(curves.lane) % matches.classes,
            whole,
            left_out,
            _parts(own[0], own[1], place[np.argsort(curves.place)], curves.sizes),
            counts,
            classes.sizes,
        )

    def areas(self, weights: Floats, tables: "Tables") -> Floats:
        """Return 101 times the sum of the areas under all curves, for each resample: [R].

        Args:
            weights: [N, R], how often each image counts.
            tables: what depends on the number of objects.
        """
        detected = self._detected(weights)
        state = _State(
            self.hits @ weights,
            self.ignored @ weights if self.ignored.nnz else None,
            tables.first[self.label],
            tables.points,
        )
        for part in reversed(self.parts):
            state.follow(part, weights, detected)
        return np.asarray(state.area.sum(axis=0))

    def _detected(self, weights: Floats) -> Floats:
        """Return the number of detections of the class up to each position: [U, R], at least 1."""
        detected: Floats = self.counts @ weights
        start = 0
        for before, size in pairwise(self.sizes.tolist()):
            stop = start + before
            detected[stop : stop + size] += detected[start : start + size]
            start = stop
        return np.maximum(detected, 1, out=detected)


@dataclass(frozen=True)
class _Part:
    """The ends of consecutive steps.

    Attributes:
        hits: [E, N] sparse, number of hits on each image from the one after the previous end up to
            this one.
        ignored: [E, N] sparse, the same for ignored detections; None if there are none.
        place: [E], the position of each end in `Curves.counts`.
        sizes: number of ends in each step.
    """

    hits: Any
    ignored: Any
    place: Ints
    sizes: Ints


class _State:
    """The curves at one step, on R resamples; followed from the last end to the first.

    Attributes:
        hits: [C, R], number of hits up to the end.
        ignored: [C, R], number of ignored detections up to the end; None if there are none.
        best: [C, R], the highest precision at the ends after this one.
        area: [C, R], 101 times the area under the curve above `best`.
    """

    def __init__(self, hits: Floats, ignored: Floats | None, first: Ints, points: Floats) -> None:
        """Start after the last end.

        Args:
            hits: [C, R], number of all hits.
            ignored: [C, R], number of all ignored detections up to the last end.
            first: [C, R], see `Tables`.
            points: see `Tables`.
        """
        self.hits, self.ignored = hits, ignored
        self.best, self.area = np.zeros_like(hits), np.zeros_like(hits)
        self._first, self._points = first.astype(np.float64), points
        self._precision, self._reached = np.zeros_like(hits), np.empty_like(hits)
        self._index = np.empty(hits.shape, dtype=np.intp)

    def follow(self, part: _Part, weights: Floats, detected: Floats) -> None:
        """Follow the curves over the ends of a part, the last step first.

        Args:
            part: the ends.
            weights: [N, R], how often each image counts.
            detected: [U, R], number of detections of the class up to each position.
        """
        hits = part.hits @ weights
        ignored = None if part.ignored is None else part.ignored @ weights
        stop = len(hits)
        for size in part.sizes[::-1].tolist():
            start = stop - size
            self._add(size, part.place[start:stop], detected)
            self.hits[:size] -= hits[start:stop]
            if self.ignored is not None and ignored is not None:
                self.ignored[:size] -= ignored[start:stop]
            stop = start

    def _add(self, size: int, place: Ints, detected: Floats) -> None:
        """Add what the ends at `place` of the first `size` curves add to the areas.

        A higher precision than that of all later ends holds for all recall points up to this one.
        The mode is `clip` because NumPy copies `out` in the default mode.
        """
        hits, best, precision = self.hits[:size], self.best[:size], self._precision[:size]
        seen = detected.take(place, axis=0, out=precision, mode="clip")
        if self.ignored is not None:
            seen -= self.ignored[:size]
            np.maximum(seen, 1, out=seen)
        np.maximum(np.divide(hits, seen, out=precision), best, out=precision)
        gain = np.subtract(precision, best, out=best)
        index = np.add(hits, self._first[:size], out=self._index[:size], casting="unsafe")
        gain *= self._points.take(index, out=self._reached[:size], mode="clip")
        self.area[:size] += gain
        self.best, self._precision = self._precision, self.best


@dataclass(frozen=True)
class _Steps:
    """The order of the elements of sequences that are followed together.

    Step i holds element i of each sequence that has one, the longest sequences first.

    Attributes:
        lane: [sequences], place of each sequence in a step.
        owner: [elements], sequence of each element, in the order of the sequences.
        place: [elements], place of each element among all, in the order of the steps.
        sizes: number of elements of each step.
    """

    lane: Ints
    owner: Ints
    place: Ints
    sizes: Ints

    @classmethod
    def of(cls, lengths: Ints) -> Self:
        """Return the order for sequences of some lengths."""
        lane = np.argsort(np.argsort(-lengths, kind="stable"))
        owner = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(len(owner)) - (lengths.cumsum() - lengths)[owner]
        sizes = np.bincount(step)
        return cls(lane, owner, (sizes.cumsum() - sizes)[step] + lane[owner], sizes)


@dataclass(frozen=True)
class Tables:
    """What depends on the numbers of objects.

    Attributes:
        first: [K, R], position in `points` of the entry for no hit.
        points: number of the 101 recall points that are reached with k hits, for k = 0, 1, ...;
            as float64.
    """

    first: Ints
    points: Floats

    @classmethod
    def of(cls, objects: Ints) -> Self:
        """Compute the tables. objects: [K, R], number of objects of each class.

        The division is the same as COCO's, so points that equal the recall exactly are counted.
        """
        numbers, which = np.unique(objects, return_inverse=True)
        sizes = numbers + 1
        first = sizes.cumsum() - sizes
        hits = np.arange(sizes.sum()) - np.repeat(first, sizes)
        recall = hits / np.repeat(np.maximum(numbers, 1), sizes)
        return cls(first[which.reshape(objects.shape)], _points_reached(recall).astype(np.float64))


def _ends(hit: Flags, ignored: Flags, label: Ints) -> Ints:
    """Return the positions of the hits that no hit of their class follows directly.

    Args:
        hit: [D], by class and descending score.
        ignored: [D], such detections are passed over.
        label: [D].
    """
    counted = np.flatnonzero(~ignored)
    right, own = hit[counted], label[counted]
    followed = np.append(right[1:] & (own[1:] == own[:-1]), False)[: len(right)]
    return np.asarray(counted[right & ~followed])


def _before(ends: Ints, at: Ints, label: Ints) -> tuple[Ints, Ints]:
    """Return (index of an end, position) for the positions `at` up to an end of their class."""
    index = np.searchsorted(ends, at)
    index, at = index[index < len(ends)], at[index < len(ends)]
    same = label[ends[index]] == label[at]
    return index[same], at[same]


def _marked(flags: Flags, ends: Sequence[Ints], label: Ints) -> tuple[Ints, Ints]:
    """Return `_before` for the detections that are marked at each threshold.

    Args:
        flags: [T, D].
        ends: positions of the ends at each threshold; their indices count all of them.
        label: [D].
    """
    first = np.cumsum([0, *map(len, ends)])
    pairs = [_before(e, np.flatnonzero(f), label) for e, f in zip(ends, flags, strict=True)]
    indices = [start + index for start, (index, _) in zip(first, pairs, strict=False)]
    return np.concatenate(indices), np.concatenate([at for _, at in pairs])


def _lengths(ends: Sequence[Ints], label: Ints, classes: int) -> Ints:
    """Return the number of ends at each threshold and class: [T x K]."""
    return np.concatenate([np.bincount(label[each], minlength=classes) for each in ends])


def _parts(hits: Any, ignored: Any, place: Ints, sizes: Ints) -> tuple[_Part, ...]:
    """Divide the ends of all steps; the arguments are the attributes of `_Part`."""
    stops = sizes.cumsum()
    starts = stops - sizes
    firsts = np.flatnonzero(np.diff(starts // _PART, prepend=-1))
    made = []
    for first, last in pairwise([*firsts.tolist(), len(sizes)]):
        own = slice(starts[first], stops[last - 1])
        left_out = ignored[own] if ignored[own].nnz else None
        made.append(_Part(hits[own], left_out, place[own], sizes[first:last]))
    return tuple(made)


def sparse_counts(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Any:
    """Return the sparse matrix of the number of entries at each row and column, as float64."""
    from scipy.sparse import csr_array  # not at the top: other commands import this module

    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _points_reached(recall: Floats) -> Ints:
    """Return how many of the 101 recall points are at most `recall`, for values in [0, 1].

    Equal to a search among the points, but faster: the estimate is at most one point off.
    """
    points = (100 * recall).astype(np.int64)
    points -= RECALL.take(points) > recall
    points += (points < 100) & (RECALL.take(np.minimum(points + 1, 100)) <= recall)
    return points + 1
