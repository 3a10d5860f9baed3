"""Curves over scores: precision against recall, duplicates against the threshold."""

import numpy as np
import pytest

from detectors.evaluation.operating import Judged
from gaplab.results.report.thresholds import duplicates_curve, precision_curve


def judged(matched: list[int], claim: list[int], objects: int = 2) -> Judged:
    """Detections of one image by falling score, 0.9, 0.8, ..."""
    count = len(matched)
    own, claims = np.array(matched, dtype=np.int64), np.array(claim, dtype=np.int64)
    every = np.ones(objects, dtype=bool)
    return Judged(
        score=np.array([0.9 - 0.1 * rank for rank in range(count)], dtype=np.float64),
        image=np.zeros(count, dtype=np.int64),
        counted=np.ones(count, dtype=bool),
        matched=own,
        claim=claims,
        claim_any=claims,
        object_image=np.zeros(objects, dtype=np.int64),
        objects=every,
        chosen=every,
        images=np.ones(1, dtype=bool),
    )


def test_precision_is_the_highest_at_that_recall_or_above() -> None:
    recall, precision = precision_curve(judged([-1, 0, 1], [0, 0, 1]))
    at = dict(zip(recall.round(2).tolist(), precision.tolist(), strict=True))
    assert at[0.5] == at[1.0] == pytest.approx(2 / 3)


def test_a_recall_that_is_never_reached_has_no_precision() -> None:
    recall, _ = precision_curve(judged([0, -1], [0, 0]))
    assert recall.max() == 0.5


def test_no_detections_give_no_curve() -> None:
    assert precision_curve(judged([], []))[0].size == 0
    assert duplicates_curve(judged([], []))[0].size == 0


def test_duplicates_fall_with_the_threshold() -> None:
    threshold, duplicates = duplicates_curve(judged([0, -1, 1], [0, 0, 1]))
    assert duplicates[threshold > 0.85].max() == 0.0
    assert duplicates[(threshold > 0.75) & (threshold < 0.78)].tolist() == [1.0]
    assert duplicates[0] == 0.5
