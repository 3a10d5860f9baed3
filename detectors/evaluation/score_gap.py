"""The score gap of objects: how much better the best candidate of an object is than the second."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.evaluation.claims import claims
from detectors.evaluation.padding import rank_in_group
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ScoreGap:
    """The highest minus the second highest score among the candidates that claim an object.

    Definition 3.3 of "What Makes for End-to-End Object Detection?" (Sun et al., 2021), computed
    over the candidates that claim an object, because the candidates of a trained detector are not
    positive or negative. The second score is 0 for an object with one candidate: others, if any,
    were below the score floor or not among the `pre_nms_topk`.

    Attributes:
        objects: number of objects.
        unclaimed: fraction of the objects that no candidate claims. All other attributes are about
            the remaining objects; they are None or empty if there are none.
        single: fraction of the objects with one candidate.
        claimants: mean number of candidates per object.
        mean: mean score gap.
        deciles: nine quantiles of the score gap, 10 % to 90 %.
        histogram: counts of the score gap in ten equal bins of [0, 1].
    """

    objects: int
    unclaimed: float
    single: float | None
    claimants: float | None
    mean: float | None
    deciles: tuple[float, ...]
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class TopScores:
    """The two highest scores among the candidates that claim each of G objects.

    The sum of the records of different images is the record of all of them.

    Attributes:
        best: [G]; 0 for an object without candidates.
        second: [G]; 0 for an object with fewer than two candidates.
        count: [G] int64, number of candidates.
    """

    best: Floats
    second: Floats
    count: Ints

    @classmethod
    def none(cls, objects: int) -> Self:
        """Return the record of G = `objects` without candidates."""
        return cls(np.zeros(objects), np.zeros(objects), np.zeros(objects, dtype=np.int64))

    def __add__(self, other: Self) -> Self:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(mine + theirs for mine, theirs in pairs))


def top_scores(candidates: Candidates, truth: GroundTruth) -> TopScores:
    """Return the two highest scores that claim each object of `truth`.

    Args:
        candidates: those of some or all images, by image and descending score.
        truth: the ground truth of all images.
    """
    claim = claims(candidates, truth)
    scores, claim = candidates.scores[claim >= 0].double(), claim[claim >= 0]
    rank = rank_in_group(claim)
    best, second = torch.zeros(2, len(truth.labels), dtype=torch.float64)
    best[claim[rank == 0]] = scores[rank == 0]
    second[claim[rank == 1]] = scores[rank == 1]
    counts = claim.bincount(minlength=len(truth.labels))
    return TopScores(best.numpy(), second.numpy(), counts.numpy())


def score_gap(tops: TopScores, chosen: Flags) -> ScoreGap:
    """Compute the score gap of some objects.

    Args:
        tops: the highest scores of each object.
        chosen: [G], at least one of them True; no crowd region.
    """
    claimed = chosen & (tops.count > 0)
    gaps, counts = (tops.best - tops.second)[claimed], tops.count[claimed]
    objects = int(chosen.sum())
    return ScoreGap(
        objects=objects,
        unclaimed=1 - len(gaps) / objects,
        single=_mean(counts == 1),
        claimants=_mean(counts),
        mean=_mean(gaps),
        deciles=tuple(np.quantile(gaps, np.arange(1, 10) / 10).tolist()) if len(gaps) else (),
        histogram=tuple(np.histogram(gaps, bins=10, range=(0, 1))[0].tolist()),
    )


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
