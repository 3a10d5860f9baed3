"""All measurements of detections of one origin under one protocol, as one record."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.bootstrap import DetectionSets
from detectors.evaluation.coco import ErrorTypes, calibration_error, error_types
from detectors.evaluation.crowding import CROWDING, nearest_iou
from detectors.evaluation.gap import Gap, gap_between
from detectors.evaluation.matches import Matches
from detectors.evaluation.matching import match
from detectors.evaluation.operating import (
    THRESHOLDS,
    Judged,
    OperatingPoint,
    best_f1_threshold,
    judge,
    operating_points,
)
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.score_gap import ScoreGap, TopScores, score_gap
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Column:
    """One set of detections: without NMS or with it.

    Attributes:
        points: what a user sees at each threshold given.
        best_f1: what a user sees at the threshold with the highest F1; None if F1 is always 0.
        calibration_error: see `coco.calibration_error`.
        errors: errors by type.
    """

    points: tuple[OperatingPoint, ...]
    best_f1: OperatingPoint | None
    calibration_error: float | None
    errors: ErrorTypes


@dataclass(frozen=True)
class Crowded:
    """Objects whose nearest neighbour has an IoU above a limit, and the images that hold them.

    Attributes:
        above: the limit.
        objects: number of such objects.
        share: their share of all objects, in percent.
        images: number of images that hold at least one of them.
        score_gap: the score gap of these objects; None if there are none.
        ap: AP without NMS on these images, in percent points; None if there are none, and for
            CrowdHuman's evaluator.
        ap_nms: the same with NMS.
        without: what a user sees at each threshold without NMS: duplicates and missed objects among
            these objects, the other values on these images.
        with_nms: the same with NMS.
    """

    above: float
    objects: int
    share: float
    images: int
    score_gap: ScoreGap | None
    ap: float | None
    ap_nms: float | None
    without: tuple[OperatingPoint, ...]
    with_nms: tuple[OperatingPoint, ...]

    @property
    def gap(self) -> float | None:
        """AP without NMS minus AP with NMS; None if they are."""
        return None if self.ap is None or self.ap_nms is None else self.ap - self.ap_nms


@dataclass(frozen=True)
class Summary:
    """All measurements of one origin.

    Under a protocol of masks, matches and all that follows from them (AP, missed objects, F1,
    errors) compare masks. Duplicates, score gaps and crowding always compare boxes.

    Attributes:
        gap: AP, AR and other metrics without NMS, with NMS, and their gaps.
        without: the detections without NMS.
        with_nms: the detections with NMS.
        score_gap: the score gap of all objects, among candidates without suppression.
        crowding: the same by crowding of the objects, one for each of `crowding.CROWDING`.
        matches: COCO's matches without NMS and with it, for intervals over images.
        judged: what detections without NMS and with it hit and claim.
        sets: both, prepared for AP on some of the images; None for CrowdHuman's evaluator.
    """

    gap: Gap
    without: Column
    with_nms: Column
    score_gap: ScoreGap
    crowding: tuple[Crowded, ...]
    matches: tuple[Matches, Matches]
    judged: tuple[Judged, Judged]
    sets: DetectionSets | None


def summarise(
    columns: Sequence[Candidates],
    tops: TopScores,
    truth: GroundTruth,
    protocol: Protocol,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Summary:
    """Measure detections.

    Args:
        columns: those without suppression and those with it, of all images, see
            `selection.select_both`.
        tops: the highest scores of each object among the candidates that the protocol admits, see
            `selection.filter_candidates`, clipped to their images.
        truth: the ground truth.
        protocol: how the detections were selected.
        thresholds: the score thresholds to measure at.

    Raises:
        ValueError: there is no object; crowd regions don't count.
    """
    most = protocol.max_dets
    gap = gap_between(columns, truth, protocol)
    with ThreadPoolExecutor(len(columns)) as threads:
        matchings = [
            *threads.map(lambda each: match(each, truth, most, masks=protocol.masks), columns)
        ]
        without, with_nms = threads.map(
            lambda each, matching: judge(each, truth, most, matching), columns, matchings
        )
    matches = (matchings[0].matches, matchings[1].matches)
    errors = error_types(columns, truth, most, masks=protocol.masks)
    sets = DetectionSets.of(matches) if protocol.matched else None
    return Summary(
        gap=gap,
        without=_column(without, matches[0], errors[0], thresholds),
        with_nms=_column(with_nms, matches[1], errors[1], thresholds),
        score_gap=score_gap(tops, ~truth.crowd.numpy()),
        crowding=_by_crowding((without, with_nms), sets, tops, truth, protocol, thresholds),
        matches=matches,
        judged=(without, with_nms),
        sets=sets,
    )


def _column(
    judged: Judged, matches: Matches, errors: ErrorTypes, thresholds: Sequence[float]
) -> Column:
    best = best_f1_threshold(judged)
    return Column(
        operating_points(judged, thresholds),
        None if best is None else operating_points(judged, [best])[0],
        calibration_error(matches),
        errors,
    )


def _by_crowding(
    judged: tuple[Judged, Judged],
    sets: DetectionSets | None,
    tops: TopScores,
    truth: GroundTruth,
    protocol: Protocol,
    thresholds: Sequence[float],
) -> tuple[Crowded, ...]:
    nearest = nearest_iou(truth, protocol.class_wise)
    chosen = [nearest > limit for limit in CROWDING]
    views = [tuple(each.of(some) for each in judged) for some in chosen]
    aps = np.full((len(judged), len(CROWDING)), np.nan)
    if sets is not None:
        aps = sets.average_precision(np.array([without.images for without, _ in views]))
    return tuple(
        Crowded(
            above=limit,
            objects=int(some.sum()),
            share=100 * int(some.sum()) / int((~truth.crowd).sum()),
            images=int(without.images.sum()),
            score_gap=score_gap(tops, some) if some.any() else None,
            ap=_defined(ap),
            ap_nms=_defined(ap_nms),
            without=operating_points(without, thresholds),
            with_nms=operating_points(with_nms, thresholds),
        )
        for limit, some, (without, with_nms), ap, ap_nms in zip(
            CROWDING, chosen, views, *aps, strict=True
        )
    )


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
