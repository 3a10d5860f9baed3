"""Why a detector has its NMS gap: score gaps, duplicates at equal recall, and where NMS works.

A candidate claims the object of its image and class (never a crowd region) that it overlaps most,
if the IoU is at least 0.5; of objects overlapped equally, the first. Boxes are taken as they are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.evaluation.gap import EVALUATORS
from detectors.evaluation.metrics import Metrics
from detectors.evaluation.overlaps import overlaps
from detectors.evaluation.padding import rank_in_group
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import admitted, select
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Floats = NDArray[np.float64]

_CLAIM_IOU = 0.5
_RECALLS = (0.25, 0.5, 0.75, 0.9)
_TINY_GAP = 0.05
"""Percent points; a gap below it is 0.0 in a table, and shares of it would be noise."""
_UNLIMITED = {"suppression": "nms", "class_wise": True, "level_range": None, "spatial_range": None}
_STEPS: dict[str, dict[str, Any]] = {
    "within a level": {"level_range": 0},
    "adjacent levels": {"level_range": 1},
    "all levels": {},
    "other classes": {"class_wise": False},
}
"""What changes `_UNLIMITED`; each step suppresses among more candidates than the one before."""


@dataclass(frozen=True)
class ScoreGap:
    """Highest minus second highest score among the candidates that claim an object.

    Definition 3.3 of "What Makes for End-to-End Object Detection?" (Sun et al., 2021), taken over
    the claims on one object, since a trained detector's candidates aren't positive or negative. The
    second score of an object with one claimant is 0: what else there was is not known, it fell
    below the protocol's score floor or out of its `pre_nms_topk`.

    objects: how many there are. unclaimed: the share of them that nothing claims; all else is about
    the others, and None or empty without any. single: the share with one claimant. claimants: their
    mean number. mean, deciles (nine, 10 % to 90 %), histogram (counts in ten equal bins of [0, 1]):
    of the score gap.
    """

    objects: int
    unclaimed: float
    single: float | None
    claimants: float | None
    mean: float | None
    deciles: tuple[float, ...]
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Duplicates:
    """Duplicates where detections without suppression, by falling score, reach a recall.

    recall: share of the objects that a detection claims. threshold: the score that must be admitted
    to reach it. duplicates: detections at or above it that claim an object, less one, on average
    over the objects found so. Both None where that recall is not reached.
    """

    recall: float
    threshold: float | None
    duplicates: float | None


@dataclass(frozen=True)
class GapStep:
    """Suppression among so many candidates: AP in percent points, and its share of the gap.

    share: what this step adds to AP over the step before, as a share of the whole gap.
    """

    name: str
    ap: float
    share: float | None


@dataclass(frozen=True)
class Diagnosis:
    """Score gap, duplicates at rising recall, and the gap in steps.

    ap: without suppression, percent points. gap: that minus the AP of the step that holds all of
    the protocol's suppression; the shares up to that step sum to 1.
    """

    score_gap: ScoreGap
    duplicates: tuple[Duplicates, ...]
    ap: float
    gap: float
    steps: tuple[GapStep, ...]


def diagnose(candidates: Candidates, truth: GroundTruth, protocol: Protocol) -> Diagnosis:
    """Why `candidates`, the raw ones of all images from one branch, have their gap.

    Only the protocol's score floor and `pre_nms_topk` are applied before the score gap, its cut to
    `max_dets` too before the duplicates.

    The steps suppress candidates by better ones of their own level; of adjacent levels too; of all
    levels; and of other classes too. They are a sequence, and its order matters: a duplicate that
    could fall on its own level and on the next counts for the first. A step can lower AP, then its
    share has the other sign. The whole gap is the one at "all levels", and the last step comes on
    top of it; when the protocol suppresses across classes, the gap is the one at "other classes".
    All shares are None when it is smaller than 0.05 points.

    The steps are greedy NMS with the protocol's `nms_iou`, `order` and `max_dets`; its own
    `suppression`, `level_range` and `spatial_range` are set aside, so the whole gap is not the one
    that a protocol with any of them measures.

    Raises ValueError as the protocol's evaluator does.
    """
    found = admitted(candidates, protocol)
    ap, gap, steps = _gap_in_steps(found, truth, protocol)
    detections = select(found, protocol, suppress=False)
    return Diagnosis(
        score_gap=_score_gap(found.scores, _claims(found, truth), truth),
        duplicates=_duplicates(detections.scores, _claims(detections, truth), truth),
        ap=ap,
        gap=gap,
        steps=steps,
    )


def _claims(candidates: Candidates, truth: GroundTruth) -> Tensor:
    """The object that each candidate claims: [M] int64, its position in `truth` or -1."""
    claim = torch.full_like(candidates.image, -1)
    for rows, objects, iou in overlaps(candidates, truth, ~truth.crowd):
        best = iou.argmax(dim=2)
        enough = iou.gather(2, best[:, :, None])[:, :, 0] >= _CLAIM_IOU
        claim[rows[enough]] = objects.gather(1, best)[enough]
    return claim


def _score_gap(scores: Tensor, claim: Tensor, truth: GroundTruth) -> ScoreGap:
    """scores: [M], falling within an image; claim: [M] int64, -1 for none."""
    scores, claim = scores[claim >= 0].double(), claim[claim >= 0]
    rank = rank_in_group(claim)
    best, second = torch.zeros(2, len(truth.labels), dtype=torch.float64)
    best[claim[rank == 0]] = scores[rank == 0]
    second[claim[rank == 1]] = scores[rank == 1]
    counts = claim.bincount(minlength=len(truth.labels)).numpy()
    gaps = (best - second).numpy()[counts > 0]
    counts, objects = counts[counts > 0], int((~truth.crowd).sum())
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


def _duplicates(scores: Tensor, claim: Tensor, truth: GroundTruth) -> tuple[Duplicates, ...]:
    """scores: [M], falling within an image; claim: [M] int64, -1 for none."""
    claiming = claim >= 0
    first = rank_in_group(claim[claiming]) == 0
    score = scores[claiming].double()
    best = np.asarray(score[first].sort(descending=True).values.numpy())
    objects = int((~truth.crowd).sum())
    return tuple(_at_recall(recall, score.numpy(), best, objects) for recall in _RECALLS)


def _at_recall(recall: float, score: Floats, best: Floats, objects: int) -> Duplicates:
    """score: of all claiming detections; best: the best one of each claimed object, falling."""
    reached = np.arange(1, len(best) + 1) / objects >= recall
    if not reached.any():
        return Duplicates(recall, None, None)
    threshold = float(best[reached.argmax()])
    claims, found = (score >= threshold).sum(), (best >= threshold).sum()
    return Duplicates(recall, threshold, float(claims / found - 1))


def _gap_in_steps(
    found: Candidates, truth: GroundTruth, protocol: Protocol
) -> tuple[float, float, tuple[GapStep, ...]]:
    """AP without suppression, the whole gap and the steps; percent points."""
    stages = [protocol.model_copy(update=_UNLIMITED | change) for change in _STEPS.values()]
    columns = [select(found, protocol, suppress=False)]
    columns += [select(found, stage, suppress=True) for stage in stages]
    metrics = EVALUATORS[protocol.evaluator](columns, truth, protocol.max_dets)
    aps = [_ap(each) for each in metrics]
    whole = dict(zip(_STEPS, aps[1:], strict=True))[_last_step(protocol)] - aps[0]
    gains = np.diff(aps).tolist()
    shares = [gain / whole if abs(whole) >= _TINY_GAP else None for gain in gains]
    return aps[0], -whole, tuple(map(GapStep, _STEPS, aps[1:], shares))


def _last_step(protocol: Protocol) -> str:
    return "all levels" if protocol.class_wise else "other classes"


def _ap(metrics: Metrics) -> float:
    """AP in percent points."""
    ap = metrics.values["ap"]
    assert ap is not None  # an evaluator raises instead
    return 100 * ap
