"""Diagnosis of the NMS gap: score gaps, duplicates at equal recall, and the steps of NMS."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detectors.evaluation.claims import claims
from detectors.evaluation.gap import EVALUATORS
from detectors.evaluation.metrics import Metrics
from detectors.evaluation.padding import rank_in_group
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.score_gap import ScoreGap, score_gap, top_scores
from detectors.evaluation.selection import clip_to_images, filter_candidates, select
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Floats = NDArray[np.float64]

_RECALLS = (0.25, 0.5, 0.75, 0.9)
_TINY_GAP = 0.05
"""Percent points. A smaller gap is shown as 0.0, and shares of it would be noise."""
_UNLIMITED = {"suppression": "nms", "class_wise": True, "level_range": None, "spatial_range": None}
_STEPS: dict[str, dict[str, Any]] = {
    "within a level": {"level_range": 0},
    "adjacent levels": {"level_range": 1},
    "all levels": {},
    "other classes": {"class_wise": False},
}
"""Changes to `_UNLIMITED`. Each step suppresses among more candidates than the step before."""
_FLAT_STEPS: dict[str, dict[str, Any]] = {"same class": {}, "other classes": {"class_wise": False}}
"""The same for candidates that have no levels."""


@dataclass(frozen=True)
class Duplicates:
    """Duplicates at a recall, among detections without suppression.

    Attributes:
        recall: fraction of the objects that a detection claims.
        threshold: the highest score threshold that reaches this recall; None if none does.
        duplicates: detections at or above the threshold that claim an object, minus one, averaged
            over the claimed objects; None if the recall is not reached.
    """

    recall: float
    threshold: float | None
    duplicates: float | None


@dataclass(frozen=True)
class GapStep:
    """AP with suppression among the candidates of one step."""

    name: str
    ap: float
    """Percent points."""
    share: float | None
    """AP gained over the step before, as a fraction of the whole gap."""


@dataclass(frozen=True)
class Diagnosis:
    """Score gap, duplicates at several recalls, and the NMS gap in steps."""

    score_gap: ScoreGap
    duplicates: tuple[Duplicates, ...]
    ap: float
    """AP without suppression, in percent points."""
    gap: float
    """`ap` minus the AP of the last step that the protocol's suppression includes."""
    steps: tuple[GapStep, ...]
    """The shares of the steps up to that step sum to 1."""
    levels: bool
    """Whether the candidates have levels. Otherwise the first step is among those of one class."""


def diagnose(
    candidates: Candidates, truth: GroundTruth, protocol: Protocol, *, levels: bool = True
) -> Diagnosis:
    """Diagnose the NMS gap.

    Score gaps are computed after the protocol's score floor and `pre_nms_topk`; duplicates after
    the cut to `max_dets`, too.

    The steps apply greedy NMS among candidates of the same level; of adjacent levels, too; of all
    levels; and of other classes, too. Their order matters: a duplicate that could be suppressed on
    its own level and on the next one counts for the first step. If a step lowers AP, its share has
    the opposite sign. The whole gap is that of "all levels", and "other classes" is in addition to
    it. If the protocol suppresses across classes, the whole gap is that of "other classes". If the
    whole gap is smaller than 0.05 points, all shares are None.

    The steps use the protocol's `nms_iou`, `order` and `max_dets`, but not its `suppression`,
    `level_range` and `spatial_range`: a protocol that sets one of these measures another gap.

    Args:
        candidates: raw candidates of all images, from one branch.
        truth: the ground truth.
        protocol: how the gap is measured.
        levels: whether the candidates have levels. Without, the steps are "same class" and "other
            classes".

    Raises:
        ValueError: there is no object in the ground truth.
    """
    found = filter_candidates(candidates, protocol, truth.sizes)
    ap, gap, steps = _gap_in_steps(found, truth, protocol, levels)
    detections = select(found, protocol, truth.sizes, suppress=False)
    clipped = clip_to_images(found, truth.sizes)
    return Diagnosis(
        score_gap=score_gap(top_scores(clipped, truth), ~truth.crowd.numpy()),
        duplicates=_duplicates(detections.scores, claims(detections, truth), truth),
        ap=ap,
        gap=gap,
        steps=steps,
        levels=levels,
    )


def _duplicates(scores: Tensor, claim: Tensor, truth: GroundTruth) -> tuple[Duplicates, ...]:
    """Compute the duplicates at several recalls.

    Args:
        scores: [M], descending within an image.
        claim: [M] int64, the claimed objects; -1 for none.
        truth: the ground truth.
    """
    claiming = claim >= 0
    first = rank_in_group(claim[claiming]) == 0
    score = scores[claiming].double()
    best = np.asarray(score[first].sort(descending=True).values.numpy())
    objects = int((~truth.crowd).sum())
    return tuple(_at_recall(recall, score.numpy(), best, objects) for recall in _RECALLS)


def _at_recall(recall: float, score: Floats, best: Floats, objects: int) -> Duplicates:
    """Compute the duplicates at one recall.

    Args:
        recall: the recall, in [0, 1].
        score: scores of all detections that claim an object.
        best: highest score for each claimed object, descending.
        objects: number of objects.
    """
    reached = np.arange(1, len(best) + 1) / objects >= recall
    if not reached.any():
        return Duplicates(recall, None, None)
    threshold = float(best[reached.argmax()])
    claims, found = (score >= threshold).sum(), (best >= threshold).sum()
    return Duplicates(recall, threshold, float(claims / found - 1))


def _gap_in_steps(
    found: Candidates, truth: GroundTruth, protocol: Protocol, levels: bool
) -> tuple[float, float, tuple[GapStep, ...]]:
    """Return AP without suppression, the whole gap and the steps, in percent points."""
    steps = _STEPS if levels else _FLAT_STEPS
    stages = [protocol.model_copy(update=_UNLIMITED | change) for change in steps.values()]
    columns = [select(found, protocol, truth.sizes, suppress=False)]
    columns += [select(found, stage, truth.sizes, suppress=True) for stage in stages]
    metrics = EVALUATORS[protocol.evaluator](columns, truth, protocol.max_dets)
    aps = [_ap(each) for each in metrics]
    last = -2 if protocol.class_wise else -1
    whole = aps[last] - aps[0]
    gains = np.diff(aps).tolist()
    shares = [gain / whole if abs(whole) >= _TINY_GAP else None for gain in gains]
    return aps[0], -whole, tuple(map(GapStep, steps, aps[1:], shares))


def _ap(metrics: Metrics) -> float:
    """Return AP in percent points."""
    ap = metrics.values["ap"]
    assert ap is not None  # an evaluator raises instead
    return 100 * ap
