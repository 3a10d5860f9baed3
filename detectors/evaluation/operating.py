"""What a user sees at a score threshold: duplicates, missed objects, wrong counts and F1.

COCO's greedy matching at IoU 0.5, of boxes or masks, decides which detections are right. Detections
that it matches to a crowd region are left out, except among the duplicates, which are defined by
claims (see `claims`). A detection is at a threshold if its score is at least the threshold. Shape
letters: D detections, G objects and crowd regions, N images, S thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.bootstrap import draws
from detectors.evaluation.claims import claims
from detectors.evaluation.matching import Matching, match
from detectors.evaluation.metrics import DUPLICATES, DUPLICATES_SCORE
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

THRESHOLDS = (DUPLICATES_SCORE, 0.5)
"""The thresholds at which detectors are usually shown."""


@dataclass(frozen=True)
class OperatingPoint:
    """The detections at one threshold. An undefined value is None.

    Attributes:
        threshold: the score threshold.
        detections: number of detections.
        duplicates: detections that claim an object, minus one, averaged over the claimed objects.
        duplicates_any_class: the same, where a detection may claim an object of another class.
        missed: objects that no detection is matched to, in percent of all objects.
        count_error: |detections - objects| of an image, all classes together, averaged over images.
        count_bias: detections minus objects of an image, averaged over images.
        precision: detections that are matched to an object, in percent of all detections.
        f1: harmonic mean of precision and recall, in percent; all classes together.
    """

    threshold: float
    detections: int
    duplicates: float | None
    duplicates_any_class: float | None
    missed: float | None
    count_error: float | None
    count_bias: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Judged:
    """Detections by descending score, with the objects that they hit and claim.

    Attributes:
        score: [D].
        image: [D].
        counted: [D] bool, False for detections that are matched to a crowd region.
        matched: [D], the object that each detection is matched to; -1 for none.
        claim: [D], the object of its class that each detection claims; -1 for none.
        claim_any: [D], the object of any class that each detection claims; -1 for none.
        object_image: [G], images of objects and crowd regions.
        objects: [G] bool, False for crowd regions.
        chosen: [G] bool, the objects that duplicates and missed objects are counted for.
        images: [N] bool, the images that the other values are computed for.
    """

    score: Floats
    image: Ints
    counted: Flags
    matched: Ints
    claim: Ints
    claim_any: Ints
    object_image: Ints
    objects: Flags
    chosen: Flags
    images: Flags

    def of(self, chosen: Flags) -> "Judged":
        """Return the same for some objects, and for the images that hold at least one of them.

        chosen: [G].
        """
        chosen = chosen & self.objects
        images = np.zeros_like(self.images)
        images[self.object_image[chosen]] = True
        return replace(self, chosen=chosen, images=images)

    @cached_property
    def counts(self) -> "_Counts":
        """The counts from which all operating points are computed."""
        return _Counts.of(self)


def judge(
    detections: Candidates, truth: GroundTruth, max_dets: int, matching: Matching | None = None
) -> Judged:
    """Return what the detections hit and claim.

    Args:
        detections: sorted by image and descending score.
        truth: the ground truth.
        max_dets: maximum number of detections per class and image, the best ones.
        matching: the result of `match` for the same arguments, if it is known.

    Raises:
        ValueError: there is no object; crowd regions don't count.
    """
    found = matching or match(detections, truth, max_dets)
    order = np.argsort(-found.matches.score, kind="stable")
    row = found.detection[order]
    objects = ~truth.crowd.numpy()
    return Judged(
        score=found.matches.score[order],
        image=found.matches.image[order],
        counted=~found.matches.ignored[0][order],
        matched=np.where(found.matches.hit[0], found.object, -1)[order],
        claim=claims(detections, truth).numpy()[row],
        claim_any=claims(detections, truth, class_wise=False).numpy()[row],
        object_image=truth.image.numpy(),
        objects=objects,
        chosen=objects,
        images=np.ones(len(truth), dtype=bool),
    )


def operating_points(judged: Judged, thresholds: Sequence[float]) -> tuple[OperatingPoint, ...]:
    """Compute what a user sees at each threshold."""
    ends = np.searchsorted(-judged.score, -np.array(thresholds), side="right")
    return tuple(
        _point(judged, threshold, int(end)) for threshold, end in zip(thresholds, ends, strict=True)
    )


def duplicates(columns: Sequence[Candidates], truth: GroundTruth) -> dict[str, float | None]:
    """Return the duplicates of detections without suppression and of those with it, by name.

    See `metrics.DUPLICATES`. Equal to `OperatingPoint.duplicates` at that score.

    Args:
        columns: both sets, as `selection.select_both` returns them.
        truth: the ground truth of all images.
    """
    found = (_duplicates(each, truth) for each in columns)
    return dict(zip(DUPLICATES, found, strict=True))


def _duplicates(detections: Candidates, truth: GroundTruth) -> float | None:
    claim = claims(detections.take(detections.scores >= DUPLICATES_SCORE), truth)
    claimed = claim[claim >= 0].tolist()
    return len(claimed) / len(set(claimed)) - 1 if claimed else None


def best_f1_threshold(judged: Judged) -> float | None:
    """Return the threshold with the highest F1, of several the highest; None if F1 is always 0."""
    counts = judged.counts
    f1 = 2 * counts.true / np.maximum(counts.detections + counts.objects, 1)
    ends = np.flatnonzero(np.diff(judged.score, append=-np.inf)) + 1
    if not f1[ends].any():
        return None
    return float(judged.score[ends[f1[ends].argmax()] - 1])


def duplicates_replicates(
    judged: Judged, threshold: float, resamples: int = 1000, seed: int = 0
) -> Floats:
    """Compute the duplicates on resamples of the images: [R]; NaN without a claimed object.

    The resamples are those of `bootstrap.replicates` with the same `resamples` and `seed`.
    """
    images = len(judged.images)
    at = judged.score >= threshold
    claimed = at & (judged.claim >= 0) & judged.chosen[judged.claim]
    claims = np.bincount(judged.image[claimed], minlength=images)
    objects = np.unique(judged.claim[claimed])
    found = np.bincount(judged.object_image[objects], minlength=images)
    counts = np.array([(w @ claims, w @ found) for w in draws(images, resamples, seed)])
    with np.errstate(invalid="ignore"):
        return np.asarray(counts[:, 0] / counts[:, 1] - 1)


@dataclass(frozen=True)
class _Counts:
    """Counts among the 0, 1, 2, ..., D best detections: [D + 1], and numbers of objects.

    Attributes:
        detections: detections on the images.
        true: those matched to an object.
        found: those matched to a chosen object.
        claims: claims of chosen objects; their class, and any class.
        claimed: chosen objects that are claimed; by their class, and by any class.
        objects: number of objects on the images.
        chosen: number of chosen objects.
    """

    detections: Ints
    true: Ints
    found: Ints
    claims: tuple[Ints, Ints]
    claimed: tuple[Ints, Ints]
    objects: int
    chosen: int

    @classmethod
    def of(cls, judged: Judged) -> "_Counts":
        """Count in the order of the detections."""
        here = judged.images[judged.image]
        hit = judged.matched >= 0
        each = (judged.claim, judged.claim_any)
        claimed = [(claim >= 0) & judged.chosen[claim] for claim in each]
        return cls(
            detections=_running(judged.counted & here),
            true=_running(hit & here),
            found=_running(hit & judged.chosen[judged.matched]),
            claims=(_running(claimed[0]), _running(claimed[1])),
            claimed=(
                _running(claimed[0] & _first(judged.claim)),
                _running(claimed[1] & _first(judged.claim_any)),
            ),
            objects=int((judged.objects & judged.images[judged.object_image]).sum()),
            chosen=int(judged.chosen.sum()),
        )

    def duplicates(self, end: int, kind: int) -> float | None:
        """Return the mean number of duplicates; kind 0: of the same class, 1: of any class."""
        claimed = int(self.claimed[kind][end])
        return int(self.claims[kind][end]) / claimed - 1 if claimed else None


def _point(judged: Judged, threshold: float, end: int) -> OperatingPoint:
    """Return the point of the `end` best detections."""
    counts = judged.counts
    detections, true = int(counts.detections[end]), int(counts.true[end])
    errors = _count_errors(judged, end)
    return OperatingPoint(
        threshold=threshold,
        detections=detections,
        duplicates=counts.duplicates(end, 0),
        duplicates_any_class=counts.duplicates(end, 1),
        missed=_percent(counts.chosen - int(counts.found[end]), counts.chosen),
        count_error=float(np.abs(errors).mean()) if len(errors) else None,
        count_bias=float(errors.mean()) if len(errors) else None,
        precision=_percent(true, detections),
        f1=_percent(2 * true, detections + counts.objects),
    )


def _count_errors(judged: Judged, end: int) -> Ints:
    """Return detections minus objects on each image, among the `end` best detections."""
    images = len(judged.images)
    detected = judged.image[:end][judged.counted[:end]]
    objects = judged.object_image[judged.objects]
    counts = np.bincount(detected, minlength=images) - np.bincount(objects, minlength=images)
    return np.asarray(counts[judged.images])


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _running(flags: Flags) -> Ints:
    """Return the number of true flags among the first 0, 1, 2, ..., D: [D + 1]."""
    return np.concatenate([np.zeros(1, dtype=np.int64), flags.cumsum()])


def _first(claim: Ints) -> Flags:
    """Return which entries are the first of their value: [D]."""
    position = np.arange(len(claim))
    first = np.empty(claim.max(initial=-1) + 2, dtype=np.int64)  # the last entry is that of -1
    first[claim[::-1]] = position[::-1]  # of repeated indices, the last assignment stays
    return np.asarray(first[claim] == position)
