import dataclasses
import json
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.diagnosis import Diagnosis, Duplicates, diagnose
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.score_gap import ScoreGap
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth
from tests.detectors.evaluation.cases import measure_gap
from tests.examples import examples

RECALLS = (0.25, 0.5, 0.75, 0.9)
STEPS = ["within a level", "adjacent levels", "all levels", "other classes"]
CLASSES, IMAGES = 3, 4
Box = tuple[int, int, int, int]
Object = tuple[int, Box, int, bool]
"""Image, box, label, and whether it is a crowd region."""
Row = tuple[int, Box, float, int, int]
"""A candidate: image, box, score, label, level."""
Claims = dict[int, list[float]]
"""Falling scores of the candidates that claim each object, by its index."""
Evaluator = Literal["coco", "crowd"]
EVALUATORS = pytest.mark.parametrize("evaluator", ["coco", "crowd"])


def make_truth(rows: Sequence[Object]) -> GroundTruth:
    """Build the ground truth of all images; rows are sorted by image."""
    parts = []
    for image in range(IMAGES):
        own = [row for row in rows if row[0] == image]
        boxes = torch.tensor([row[1] for row in own], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([row[2] for row in own], dtype=torch.int64)
        crowd = torch.tensor([row[3] for row in own], dtype=torch.bool)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        parts.append(ImageTruth(10 + image, 200, 100, boxes, labels, crowd, area))
    return GroundTruth.of(parts, [str(label) for label in range(CLASSES)])


def make_candidates(rows: Sequence[Row]) -> Candidates:
    """Build candidates from rows in any order."""
    rows = sorted(rows, key=lambda row: (row[0], -row[2]))
    boxes = torch.tensor([row[1] for row in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([row[2] for row in rows], dtype=torch.float32)
    image, labels, levels = (
        torch.tensor([row[k] for row in rows], dtype=torch.int64) for k in (0, 3, 4)
    )
    return Candidates(
        image, boxes, scores, labels, levels, boxes[:, :2], scores * 0 + 1, image * 0 + 99
    )


def square(k: int) -> Box:
    """Build boxes that do not touch each other."""
    return (20 * k, 0, 20 * k + 10, 10)


# The same definitions in plain loops and exact fractions.


def iou(a: Box, b: Box) -> Fraction:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0, c[2] - c[0]) * max(0, c[3] - c[1]) for c in (a, b)]
    union = sum(areas) - width * height
    return Fraction(width * height, union) if union else Fraction(0)


def by_protocol(rows: Sequence[Row], protocol: Protocol, cut: bool) -> list[Row]:
    """Select the rows that the protocol admits, sorted by image and score; `cut`: detections."""
    kept: list[Row] = []
    for image in range(IMAGES):
        own = sorted((row for row in rows if row[0] == image), key=lambda row: -row[2])
        own = [row for row in own if row[2] > protocol.score_floor]
        own = [
            row
            for k, row in enumerate(own)
            if sum(other[4] == row[4] for other in own[:k]) < protocol.pre_nms_topk
        ]
        kept += own[: protocol.max_dets] if cut else own
    return kept


def claims_by_object(rows: Sequence[Row], objects: Sequence[Object]) -> Claims:
    """Assign each candidate to the object that it claims."""
    claims: Claims = {k: [] for k, row in enumerate(objects) if not row[3]}
    for image, box, score, label, _ in rows:
        best, claimed = Fraction(0), None
        for k in claims:
            if objects[k][0] == image and objects[k][2] == label and iou(box, objects[k][1]) > best:
                best, claimed = iou(box, objects[k][1]), k
        if claimed is not None and best >= Fraction(1, 2):
            claims[claimed].append(score)
    return {k: sorted(scores, reverse=True) for k, scores in claims.items()}


def check_score_gap(found: ScoreGap, claims: Claims) -> None:
    gaps = [s[0] - (s[1] if len(s) > 1 else 0) for s in claims.values() if s]
    counts = [len(s) for s in claims.values() if s]
    assert found.objects == len(claims)
    assert found.unclaimed == pytest.approx(1 - len(gaps) / len(claims))
    if not gaps:
        assert (found.single, found.claimants, found.mean, found.deciles) == (None,) * 3 + ((),)
        assert found.histogram == (0,) * 10
        return
    assert found.single == pytest.approx(counts.count(1) / len(counts))
    assert found.claimants == pytest.approx(statistics.mean(counts))
    assert found.mean == pytest.approx(statistics.mean(gaps))
    deciles = statistics.quantiles(gaps * (1 + (len(gaps) == 1)), n=10, method="inclusive")
    assert found.deciles == pytest.approx(deciles)
    bins = [min(int(gap * 10), 9) for gap in gaps]
    assert found.histogram == tuple(bins.count(b) for b in range(10))


def check_duplicates(found: Sequence[Duplicates], claims: Claims) -> None:
    assert [each.recall for each in found] == list(RECALLS)
    scores = sorted({score for s in claims.values() for score in s}, reverse=True)
    for each in found:
        for threshold in scores:  # lowered until the recall is reached
            counts = [sum(score >= threshold for score in s) for s in claims.values()]
            counts = [count for count in counts if count]
            if Fraction(len(counts), len(claims)) >= Fraction(str(each.recall)):
                assert each.threshold == threshold
                assert each.duplicates == pytest.approx(statistics.mean(counts) - 1)
                break
        else:
            assert (each.threshold, each.duplicates) == (None, None)


def check_steps(
    found: Diagnosis, candidates: Candidates, truth: GroundTruth, protocol: Protocol
) -> None:
    """Compare each step with the gap under its own protocol."""
    free: dict[str, Any] = {
        "suppression": "nms",
        "spatial_range": None,
        "level_range": None,
        "class_wise": True,
    }
    changes: list[dict[str, Any]] = [
        {"level_range": 0},
        {"level_range": 1},
        {},
        {"class_wise": False},
    ]
    gaps = [
        measure_gap(candidates, truth, protocol.model_copy(update=free | change)).metrics
        for change in changes
    ]
    assert [step.name for step in found.steps] == STEPS
    assert [step.ap for step in found.steps] == pytest.approx([gap["ap_nms"] for gap in gaps])
    assert found.ap == pytest.approx(gaps[0]["ap"])
    assert found.gap == pytest.approx(gaps[2 if protocol.class_wise else 3]["gap"], abs=1e-9)
    before = [found.ap, *(step.ap for step in found.steps)]
    for step, previous in zip(found.steps, before, strict=False):
        expected = (step.ap - previous) / -found.gap if abs(found.gap) >= 0.05 else None
        assert step.share == (None if expected is None else pytest.approx(expected))


labels, levels, images = st.integers(0, 1), st.integers(0, 2), st.integers(0, 2)
scores = st.integers(0, 16).map(lambda k: k / 16)
corner, side = st.integers(0, 2), st.sampled_from([0, 2, 3, 4, 4])
boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
rows = st.lists(st.tuples(images, boxes, scores, labels, levels), max_size=40)
objects = st.lists(st.tuples(images, boxes, labels, st.booleans()), max_size=15)
protocols = st.builds(
    Protocol,
    evaluator=st.sampled_from(["coco", "crowd"]),
    score_floor=st.sampled_from([0.0, 0.25]),
    pre_nms_topk=st.integers(1, 12),
    nms_iou=st.sampled_from([0.3, 0.6]),
    class_wise=st.booleans(),
    level_range=st.sampled_from([None, 0]),
    spatial_range=st.sampled_from([1, 3]),
    suppression=st.sampled_from(["nms", "max_filter"]),
    order=st.sampled_from(["nms_then_cut", "cut_then_nms"]),
    max_dets=st.integers(1, 12),
)


@examples(60)
@given(rows, objects, protocols)
def test_diagnosis_is_that_of_plain_loops(
    rows: list[Row], objects: list[Object], protocol: Protocol
) -> None:
    objects = sorted([*objects, (2, (1, 1, 5, 5), 0, False)], key=lambda row: row[0])
    candidates, truth = make_candidates(rows), make_truth(objects)
    found = diagnose(candidates, truth, protocol)
    admitted, detections = (by_protocol(rows, protocol, cut) for cut in (False, True))
    check_score_gap(found.score_gap, claims_by_object(admitted, objects))
    check_duplicates(found.duplicates, claims_by_object(detections, objects))
    check_steps(found, candidates, truth, protocol)


@examples(30)
@given(st.lists(st.integers(1, 16), min_size=10, max_size=10), st.integers(0, 2))
def test_recall_is_reached_at_the_first_score_that_finds_enough_objects(
    best: list[int], copies: int
) -> None:
    objects = [(k % IMAGES, square(k // IMAGES), 0, False) for k in range(10)]
    rows = [(i, box, s / 16, 0, 0) for (i, box, _, _), s in zip(objects, best, strict=True)]
    rows += [(i, box, 1 / 32, 0, 0) for i, box, _, _ in objects for _ in range(copies)]
    found = diagnose(make_candidates(rows), make_truth(sorted(objects)), Protocol())
    falling = sorted(best, reverse=True)
    expected = [falling[k - 1] / 16 for k in (3, 5, 8, 9)]
    assert [each.threshold for each in found.duplicates] == expected
    assert [each.duplicates for each in found.duplicates] == [0] * 4


def scene(level: int, label: int = 0) -> tuple[Candidates, GroundTruth]:
    """Build two objects found on level 0, and on `level` as `label` at a slightly lower score."""
    objects = [(i, square(i + k), k, False) for i in range(2) for k in range(2)]
    rows: list[Row] = [(i, box, 0.9 - 0.4 * i, k, 0) for i, box, k, _ in objects]
    rows += [(i, box, s - 0.05, (k + label) % 2, level) for i, box, s, k, _ in rows]
    return make_candidates(rows), make_truth(objects)


@EVALUATORS
@pytest.mark.parametrize(
    ("level", "shares"),
    [(0, (1, 0, 0, 0)), (1, (0, 1, 0, 0)), (2, (0, 0, 1, 0)), (3, (0, 0, 1, 0))],
)
def test_the_gap_belongs_to_the_level_of_the_duplicates(
    level: int, shares: tuple[float, ...], evaluator: Evaluator
) -> None:
    candidates, truth = scene(level)
    found = diagnose(candidates, truth, Protocol(evaluator=evaluator))
    assert [step.share for step in found.steps] == pytest.approx(shares)
    assert found.gap < -1
    assert found.score_gap.mean == pytest.approx(0.05)
    assert found.score_gap.claimants == 2
    # The last objects are found at 0.5, above their own duplicates at 0.45.
    assert [each.duplicates for each in found.duplicates] == [0, 0, 0.5, 0.5]


@EVALUATORS
def test_duplicates_in_another_class_count_if_the_protocol_suppresses_them(
    evaluator: Evaluator,
) -> None:
    candidates, truth = scene(0, label=1)
    across = diagnose(candidates, truth, Protocol(evaluator=evaluator, class_wise=False))
    within = diagnose(candidates, truth, Protocol(evaluator=evaluator))
    assert [step.share for step in across.steps] == pytest.approx((0, 0, 0, 1))
    assert across.gap < -1
    assert within.gap == 0
    assert [step.share for step in within.steps] == [None] * 4
    assert [step.ap for step in within.steps] == [step.ap for step in across.steps]


@pytest.mark.parametrize(
    "rule",
    [{"spatial_range": 1}, {"level_range": 0}, {"suppression": "max_filter", "spatial_range": 3}],
)
def test_ranges_and_max_filter_of_the_protocol_are_ignored(rule: dict[str, Any]) -> None:
    candidates, truth = scene(1)
    apart = 100 * torch.arange(2.0 * len(candidates)).reshape(-1, 2)
    candidates = dataclasses.replace(candidates, points=apart)  # no two are near each other
    assert measure_gap(candidates, truth, Protocol(**rule)).metrics["gap"] == 0
    assert diagnose(candidates, truth, Protocol(**rule)) == diagnose(candidates, truth, Protocol())


@EVALUATORS
def test_no_candidates(evaluator: Evaluator) -> None:
    truth = make_truth([(1, square(0), 1, False), (3, square(0), 2, True)])
    found = diagnose(Candidates.none(), truth, Protocol(evaluator=evaluator))
    assert found.score_gap == type(found.score_gap)(1, 1.0, None, None, None, (), (0,) * 10)
    assert {(each.threshold, each.duplicates) for each in found.duplicates} == {(None, None)}
    assert (found.ap, found.gap) == (0, 0)
    assert {(step.ap, step.share) for step in found.steps} == {(0, None)}


@EVALUATORS
def test_no_object_is_rejected(evaluator: Evaluator) -> None:
    candidates, _ = scene(0)
    with pytest.raises(ValueError, match="no object"):
        diagnose(candidates, make_truth([(0, square(0), 0, True)]), Protocol(evaluator=evaluator))


def test_score_gap_of_a_single_claimant_is_its_score() -> None:
    truth = make_truth([(0, square(0), 0, False), (0, square(1), 0, False)])
    rows = [(0, square(0), 0.75, 0, 0), (0, square(1), 0.5, 0, 0), (0, square(1), 0.25, 0, 0)]
    found = diagnose(make_candidates(rows), truth, Protocol()).score_gap
    assert (found.mean, found.single, found.claimants, found.unclaimed) == (0.5, 0.5, 1.5, 0)


def test_a_candidate_claims_an_object_from_an_iou_of_one_half() -> None:
    truth = make_truth([(0, square(0), 0, False)])
    rows = [(0, (0, 0, 10, 5), 0.75, 0, 0), (0, (0, 0, 10, 4), 0.5, 0, 0)]
    assert diagnose(make_candidates(rows), truth, Protocol()).score_gap.claimants == 1


def test_of_objects_with_equal_overlap_the_first_is_claimed() -> None:
    objects: list[Object] = [(0, (0, 0, 10, 10), 0, False), (0, (4, 0, 14, 10), 0, False)]
    rows = [(0, (2, 0, 12, 10), 0.75, 0, 0), (0, (5, 0, 15, 10), 0.5, 0, 0)]
    both, truth = make_candidates(rows), make_truth(objects)
    assert diagnose(both, truth, Protocol()).score_gap.unclaimed == 0
    assert diagnose(both, make_truth(objects[::-1]), Protocol()).score_gap.unclaimed == 0.5


def test_duplicates_are_of_detections_and_score_gaps_of_all_candidates() -> None:
    truth = make_truth([(0, square(k), 0, False) for k in range(2)])
    rows = [(0, square(0), 0.75, 0, 0), (0, square(0), 0.5, 0, 0), (0, square(1), 0.25, 0, 0)]
    found = diagnose(make_candidates(rows), truth, Protocol(max_dets=2))
    assert [each.threshold for each in found.duplicates] == [0.75, 0.75, None, None]
    assert found.score_gap.unclaimed == 0


def test_a_diagnosis_consists_of_plain_data() -> None:
    candidates, truth = scene(1)
    found = json.loads(json.dumps(dataclasses.asdict(diagnose(candidates, truth, Protocol()))))
    assert set(found) == {"score_gap", "duplicates", "ap", "gap", "steps", "levels"}
    assert found["steps"][1]["share"] == pytest.approx(1)
    assert found["score_gap"]["histogram"] == [4, *[0] * 9]
