"""Operating points against plain loops over detections and objects, one threshold at a time."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.bootstrap import draws
from detectors.evaluation.matching import match
from detectors.evaluation.metrics import DUPLICATES_SCORE
from detectors.evaluation.operating import (
    Judged,
    OperatingPoint,
    best_f1_threshold,
    duplicates,
    duplicates_replicates,
    judge,
    operating_points,
)
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from tests.detectors.evaluation import cases, grids
from tests.detectors.evaluation.grids import make, objects
from tests.examples import examples

Box = Sequence[float]
rows = st.lists(grids.row, max_size=30)


def iou(a: Box, b: Box) -> Fraction:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = sum(areas) - width * height
    return Fraction(int(width * height), int(union)) if union else Fraction(0)


class Loops:
    """Plain loops over the detections at one threshold, with the objects that are chosen."""

    def __init__(
        self, found: Candidates, truth: GroundTruth, threshold: float, chosen: Sequence[int]
    ) -> None:
        self.truth, self.chosen = truth, chosen
        self.objects = [k for k, crowd in enumerate(truth.crowd.tolist()) if not crowd]
        self.owner: list[int] = truth.image.tolist()
        all_of_them = set(chosen) == set(self.objects)
        self.images = range(len(truth)) if all_of_them else sorted({self.owner[k] for k in chosen})
        columns = found.image, found.boxes, found.labels, found.scores
        everything = zip(*(column.tolist() for column in columns), strict=True)
        self.rows = [row[:3] for row in everything if row[3] >= threshold]
        keep = found.scores.double() >= threshold
        result = match(found.take(keep), truth, 100)
        self.hits = result.object[result.matches.hit[0]].tolist()
        ignored = result.matches.ignored[0]
        counted = result.matches.image[~ignored].tolist()
        self.detected = [counted.count(image) for image in self.images]
        self.present = [sum(self.owner[k] == image for k in self.objects) for image in self.images]

    def duplicates(self, any_class: bool) -> float | None:
        claims: dict[int, int] = {}
        for image, box, label in self.rows:
            own = [
                (iou(box, self.truth.boxes[k].tolist()), -k)
                for k in self.objects
                if self.owner[k] == image and (any_class or int(self.truth.labels[k]) == label)
            ]
            best, k = max(own, default=(Fraction(0), 1))
            if best >= Fraction(1, 2) and -k in self.chosen:
                claims[-k] = claims.get(-k, 0) + 1
        return sum(claims.values()) / len(claims) - 1 if claims else None

    def point(self, threshold: float) -> OperatingPoint:
        differences = [a - b for a, b in zip(self.detected, self.present, strict=True)]
        detections = sum(self.detected)
        true = sum(self.owner[k] in self.images for k in self.hits)
        both = detections + sum(self.present)
        missed = len(set(self.chosen) - set(self.hits))
        return OperatingPoint(
            threshold,
            detections,
            self.duplicates(any_class=False),
            self.duplicates(any_class=True),
            100 * missed / len(self.chosen) if self.chosen else None,
            sum(map(abs, differences)) / len(differences) if differences else None,
            sum(differences) / len(differences) if differences else None,
            100 * true / detections if detections else None,
            100 * 2 * true / both if both else None,
        )


def same(found: OperatingPoint, expected: OperatingPoint) -> bool:
    pairs = zip(vars(found).values(), vars(expected).values(), strict=True)
    return all(a == b or a == pytest.approx(b) for a, b in pairs)


@examples(60)
@given(rows, objects, st.sets(st.integers(0, 12)))
def test_points_are_those_of_plain_loops(
    rows: list[Any], objects: list[Any], wanted: set[int]
) -> None:
    """At every threshold, and for every subset of the objects."""
    found, truth = make(rows, objects)
    everything = np.flatnonzero(~truth.crowd.numpy()).tolist()
    judged = judge(found, truth, 100)
    some = np.isin(np.arange(len(truth.labels)), list(wanted))
    thresholds = [k / 8 for k in range(10)]
    for chosen, view in ((everything, judged), (sorted(wanted & set(everything)), judged.of(some))):
        if chosen == everything and view is not judged:
            continue
        for point in operating_points(view, thresholds):
            expected = Loops(found, truth, point.threshold, chosen).point(point.threshold)
            assert same(point, expected), (point, expected)


@examples(60)
@given(rows, rows, objects)
def test_duplicates_of_an_evaluation_are_those_at_its_score(
    without: list[Any], with_nms: list[Any], objects: list[Any]
) -> None:
    columns = [make(each, objects) for each in (without, with_nms)]
    truth = columns[0][1]
    expected = [
        operating_points(judge(found, truth, 100), [DUPLICATES_SCORE])[0].duplicates
        for found, _ in columns
    ]
    found = duplicates([each for each, _ in columns], truth)
    assert found == dict(zip(("duplicates", "duplicates_nms"), expected, strict=True))


@examples(60)
@given(rows, objects)
def test_best_f1_is_the_highest_of_all_thresholds(rows: list[Any], objects: list[Any]) -> None:
    judged = judge(*make(rows, objects), 100)
    points = operating_points(judged, [k / 8 for k in range(8, 0, -1)])
    best = max(points, key=lambda point: point.f1 or 0)
    assert best_f1_threshold(judged) == (best.threshold if best.f1 else None)


def square(k: int) -> Box:
    return (20 * k, 0, 20 * k + 10, 10)


def view(*detections: tuple[float, int, int], objects: int = 2) -> Judged:
    """Judge detections (score, position, label) of `objects` objects of class 0."""
    truth = GroundTruth.of([cases.image_truth(1, [square(k) for k in range(objects)])], "ab")
    scores, position, label = zip(*detections, strict=True) if detections else ((), (), ())
    found = cases.candidates([square(k) for k in position], scores, label)
    return judge(found, truth, 100)


def test_duplicates_of_the_class_and_of_any_class() -> None:
    (point,) = operating_points(view((0.9, 0, 0), (0.8, 0, 0), (0.7, 0, 1), (0.6, 1, 1)), [0.25])
    assert point.duplicates == 1  # two of its class on the first object
    assert point.duplicates_any_class == 1  # four on two objects
    assert point.missed == 50
    assert (point.count_error, point.count_bias) == (2, 2)
    assert point.precision == 25
    assert point.f1 == pytest.approx(100 * 2 / 6)


def test_a_score_equal_to_the_threshold_counts() -> None:
    above, below = operating_points(view((0.5, 0, 0)), [0.5, np.nextafter(0.5, 1)])
    assert (above.detections, below.detections) == (1, 0)


def test_of_equal_f1_the_highest_threshold_is_best() -> None:
    # F1 is 2/3 with one detection of two objects, and 4/6 with two right ones among four.
    judged = view((0.9, 0, 0), (0.8, 5, 0), (0.7, 6, 0), (0.6, 1, 0))
    assert best_f1_threshold(judged) == pytest.approx(0.9)


def test_best_f1_does_not_divide_equal_scores() -> None:
    judged = view((0.5, 0, 0), (0.5, 5, 0), (0.25, 1, 0))
    points = operating_points(judged, [0.5, 0.25])
    assert [point.f1 for point in points] == pytest.approx([50, 80])
    assert best_f1_threshold(judged) == 0.25


def test_no_detections() -> None:
    judged = view()
    assert best_f1_threshold(judged) is None
    assert operating_points(judged, [0.25]) == (
        OperatingPoint(0.25, 0, None, None, 100, 2, -2, None, 0),
    )


def test_no_chosen_object() -> None:
    judged = view((0.9, 0, 0)).of(np.zeros(2, dtype=bool))
    assert best_f1_threshold(judged) is None
    assert operating_points(judged, [0.25]) == (OperatingPoint(0.25, 0, *[None] * 7),)


def test_all_detections_are_ignored() -> None:
    truth = GroundTruth.of(
        [cases.image_truth(1, [(0, 0, 100, 100), square(9)], crowd=[True, False])], "a"
    )
    judged = judge(cases.candidates([square(0), square(1)], [0.9, 0.8]), truth, 100)
    assert best_f1_threshold(judged) is None
    assert operating_points(judged, [0.25]) == (
        OperatingPoint(0.25, 0, None, None, 100, 1, -1, None, 0),
    )


def test_only_crowd_regions_are_rejected() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [square(0)], crowd=[True])], "a")
    with pytest.raises(ValueError, match="no object in 1 images"):
        judge(Candidates.none(), truth, 100)


def test_duplicates_on_resamples_are_those_of_repeated_images() -> None:
    found, truth = cases.random_case(6)
    values = duplicates_replicates(judge(found, truth, 100), 0.3, resamples=20, seed=4)
    parts = [found.take(found.image == image) for image in range(len(truth))]
    for value, weights in zip(values, draws(len(truth), 20, 4), strict=True):
        counts = [0, 0]
        for part, weight in zip(parts, weights.tolist(), strict=True):
            (point,) = operating_points(judge(part, truth, 100), [0.3])
            claimed = judge(part, truth, 100).claim
            claims = int(
                (claimed[part.scores.double().sort(descending=True).values >= 0.3] >= 0).sum()
            )
            counts[0] += weight * claims
            counts[1] += (
                0 if point.duplicates is None else weight * round(claims / (point.duplicates + 1))
            )
        assert value == pytest.approx(counts[0] / counts[1] - 1)


def test_duplicates_on_resamples_without_detections_are_undefined() -> None:
    assert np.isnan(duplicates_replicates(view(), 0.25, resamples=3)).all()
