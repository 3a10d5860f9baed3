import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from detectors.evaluation import overlaps
from detectors.evaluation.crowd import crowd_metrics, recall_ceiling
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.selection import select
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth
from tests.examples import examples

SIZE = (40, 30)
Box = tuple[int, int, int, int]
Object = tuple[int, Box, int, bool]
"""Image, box, label, and whether it is a crowd region."""
Row = tuple[int, Box, float, int]
"""A detection: image, box, score, label."""
RATES = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1)


def make_truth(objects: Sequence[Object], images: int = 1, classes: int = 1) -> GroundTruth:
    return GroundTruth.of(
        [image_truth(i, [row for row in objects if row[0] == i]) for i in range(images)],
        [str(label) for label in range(classes)],
    )


def image_truth(image_id: int, objects: Sequence[Object]) -> ImageTruth:
    boxes = torch.tensor([row[1] for row in objects], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([row[2] for row in objects], dtype=torch.int64)
    regions = torch.tensor([row[3] for row in objects], dtype=torch.bool)
    area = torch.ones(len(objects))
    return ImageTruth(image_id, SIZE[0], SIZE[1], boxes, labels, regions, area)


def make_candidates(rows: Sequence[Row]) -> Candidates:
    """Build candidates from rows in any order."""
    rows = sorted(rows, key=lambda row: (row[0], -row[2]))
    boxes = torch.tensor([row[1] for row in rows], dtype=torch.float32).reshape(-1, 4)
    image, labels = (torch.tensor([row[k] for row in rows], dtype=torch.int64) for k in (0, 3))
    scores = torch.tensor([row[2] for row in rows], dtype=torch.float32)
    level = labels * 0
    return Candidates(
        image, boxes, scores, labels, level, boxes[:, :2], scores * 0 + 8, level + 9999
    )


def alone(
    rows: Sequence[tuple[int, Box, float]],
    objects: Sequence[tuple[int, Box, bool]],
    images: int = 1,
    max_dets: int = 100,
) -> dict[str, float]:
    """Compute the metrics of one class; rows: (image, box, score); objects: (image, box, crowd)."""
    truth = make_truth([(image, box, 0, region) for image, box, region in objects], images)
    found = make_candidates([(image, box, score, 0) for image, box, score in rows])
    return known(crowd_metrics([found], truth, max_dets)[0].values)


def known(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return metrics, none of which is None."""
    found = {name: value for name, value in values.items() if value is not None}
    assert found.keys() == values.keys()
    return found


def square(k: int) -> Box:
    """Build boxes that do not touch each other."""
    return (8 * k, 0, 8 * k + 6, 6)


# The same rules in plain loops and exact fractions.


def clipped(box: Box) -> Box:
    """Clip as CrowdDet does."""
    width, height = SIZE
    x1, y1, x2, y2 = box
    return (
        min(max(x1, 0), width - 1),
        min(max(y1, 0), height - 1),
        min(max(x2, 0), width),
        min(max(y2, 0), height),
    )


def inside(box: Box) -> Box:
    """Clip as a protocol does."""
    (x1, y1, x2, y2), (width, height) = box, SIZE
    return (
        min(max(x1, 0), width),
        min(max(y1, 0), height),
        min(max(x2, 0), width),
        min(max(y2, 0), height),
    )


def size_of(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def common(a: Box, b: Box) -> int:
    return size_of((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Box, b: Box) -> Fraction:
    union = size_of(a) + size_of(b) - common(a, b)
    return Fraction(common(a, b), union) if union else Fraction(0)


def outcome(
    box: Box, objects: Sequence[Box], regions: Sequence[Box], taken: set[int]
) -> bool | None:
    """Match a detection: True, False, or None if it does not count; add the object to `taken`."""
    best, match = Fraction(1, 2), None
    for k, other in enumerate(objects):
        if k not in taken and iou(box, other) > best:
            best, match = iou(box, other), k
    if match is not None:
        taken.add(match)
        return True
    if any(2 * common(box, region) > size_of(box) for region in regions):
        return None
    return False


def ranked_outcomes(
    detections: Sequence[Row], truth_rows: Sequence[Object], images: int, label: int, max_dets: int
) -> list[bool]:
    """List hits and misses of a class by falling score; of equal scores the earlier image first."""
    scored: list[tuple[float, bool | None]] = []
    for image in range(images):
        own = [row for row in truth_rows if row[0] == image and row[2] == label]
        objects = [clipped(box) for _, box, _, region in own if not region]
        regions = [clipped(box) for _, box, _, region in own if region]
        found = sorted((row for row in detections if row[0] == image), key=lambda row: -row[2])
        taken: set[int] = set()
        for _, box, score, found_label in found[:max_dets]:
            if found_label == label:
                scored.append((score, outcome(clipped(box), objects, regions, taken)))
    scored.sort(key=lambda pair: -pair[0])
    return [hit for _, hit in scored if hit is not None]


def oracle(hits: Sequence[bool], count: int, images: int) -> dict[str, float]:
    """Compute ap, mmr and recall of a class from its ranked hits and its number of objects."""
    right = wrong = 0
    curve: list[tuple[float, float, Fraction]] = []
    for hit in hits:
        right, wrong = right + hit, wrong + (not hit)
        curve.append((right / count, right / (right + wrong), Fraction(wrong, images)))
    area = 0.0
    for (r0, p0, _), (r1, p1, _) in pairwise(curve):
        area += (r1 - r0) * (p0 + p1) / 2
    missed: list[float] = []
    for rate in RATES:
        reached = [recall for recall, _, false in curve if float(false) >= rate]
        missed.append(1 - (reached[0] if reached else curve[-1][0]) if curve else 1)
    average = 0 if 0 in missed else math.exp(sum(math.log(m) for m in missed) / len(missed))
    return {"ap": area, "mmr": average, "recall": right / count}


CLASSES = 2


def corners_of(x: int, y: int, width: int, height: int) -> Box:
    return (x, y, x + width, y + height)


boxes = st.builds(
    corners_of, st.integers(-3, 42), st.integers(-3, 31), st.integers(-1, 9), st.integers(-1, 9)
)
near = st.builds(
    corners_of, st.integers(0, 2), st.integers(0, 2), st.integers(3, 6), st.integers(3, 6)
)
IMAGES = 4
anywhere = st.one_of(boxes, near, near)
labels = st.integers(0, CLASSES - 1)
truths = st.lists(
    st.tuples(st.integers(0, IMAGES - 1), anywhere, labels, st.booleans()), max_size=20
)
found = st.lists(
    st.tuples(st.integers(0, IMAGES - 1), anywhere, st.integers(0, 8).map(lambda k: k / 8), labels),
    max_size=40,
)
HIT_ALL: list[Object] = [(0, square(0), 0, False), (1, square(1), 0, False)]


@examples(50)
@given(found, truths, st.integers(1, 12), st.sampled_from([1, 40, overlaps._PAIRS]))
@example([(i, box, 0.5, 0) for i, box, _, _ in HIT_ALL], HIT_ALL, 5, overlaps._PAIRS)
def test_metrics_are_those_of_plain_loops(
    rows: list[Row], objects: list[Object], max_dets: int, pairs: int
) -> None:
    objects = [*objects, (2, (1, 1, 5, 5), 0, False)]
    truth = make_truth(objects, IMAGES, CLASSES + 1)
    with mock.patch.object(overlaps, "_PAIRS", pairs):
        metrics = crowd_metrics([make_candidates(rows)], truth, max_dets)[0]
    expected: list[dict[str, float] | None] = []
    for label in range(CLASSES + 1):
        count = sum(row[2] == label and not row[3] for row in objects)
        hits = ranked_outcomes(rows, objects, IMAGES, label, max_dets)
        expected.append(oracle(hits, count, IMAGES) if count else None)
    present = [values for values in expected if values is not None]
    means = {name: np.mean([values[name] for values in present]) for name in present[0]}
    assert metrics.values == pytest.approx(means, abs=1e-12)
    assert len(metrics.per_class) == len(expected)
    for ap, values in zip(metrics.per_class, expected, strict=True):
        assert ap == (None if values is None else pytest.approx(values["ap"], abs=1e-12))


def test_area_omits_the_first_segment_and_does_not_interpolate() -> None:
    objects = [(0, square(k), False) for k in range(2)]
    rows = [(0, square(0), 0.9), (0, square(3), 0.8), (0, square(1), 0.7)]
    # recall 1/2, 1/2, 1 at precision 1, 1/2, 2/3
    assert alone(rows, objects)["ap"] == pytest.approx((1 / 2 + 2 / 3) / 2 * 0.5)


def test_miss_rate_is_taken_where_the_false_positives_reach_each_rate() -> None:
    objects = [(0, square(k), False) for k in range(4)]
    rows = [(0, square(0), 0.9), (1, square(0), 0.8), (0, square(1), 0.7), (1, square(1), 0.6)]
    rows += [(0, square(2), 0.5)]
    # In four images one false positive is 1/4 each, from the second rank on (3/4 missed), two are
    # 1/2, from the fourth (1/2 missed). Six rates are at most 1/4, one is at most 1/2, and two are
    # never reached: there the last miss rate counts, 1/4.
    values = alone(rows, objects, images=4)
    assert values["mmr"] == pytest.approx((0.75**6 * 0.5 * 0.25**2) ** (1 / 9))
    assert values["recall"] == 0.75


def test_a_rate_reached_exactly_counts_as_reached() -> None:
    objects = [(0, square(k), False) for k in range(4)]
    rows = [(0, square(0), 0.9), (0, (0, 20, 6, 26), 0.8), (0, square(1), 0.7)]
    values = alone(rows, objects, images=10)  # one false positive in ten images: 0.1
    assert values["mmr"] == pytest.approx((0.75**5 * 0.5**4) ** (1 / 9))


def test_of_equal_scores_the_earlier_image_comes_first() -> None:
    objects = [(image, square(0), False) for image in range(25)]
    rows = [(image, square(image >= 25), 0.5 + image % 2 / 4) for image in range(50)]
    hits = [True] * 12 + [False] * 13 + [True] * 13 + [False] * 12
    assert alone(rows, objects, images=50)["ap"] == pytest.approx(oracle(hits, 25, 50)["ap"])


def test_of_objects_with_equal_overlap_the_first_is_matched() -> None:
    left, right = (0, (0, 0, 10, 6), False), (0, (4, 0, 14, 6), False)
    rows = [(0, (2, 0, 12, 6), 0.9), (0, (5, 0, 15, 6), 0.8)]  # the second overlaps only `right`
    assert alone(rows, [left, right])["recall"] == 1
    assert alone(rows, [right, left])["recall"] == 0.5


def test_miss_rate_is_zero_if_nothing_is_missed() -> None:
    objects = [(0, square(k), False) for k in range(3)]
    values = alone([(0, box, 0.5) for _, box, _ in objects], objects)
    assert values == {"ap": pytest.approx(2 / 3), "mmr": 0, "recall": 1}


def test_without_detections_everything_is_missed() -> None:
    truth = make_truth([(0, square(0), 0, False)], images=2)
    metrics = crowd_metrics([Candidates.none()], truth, 10)[0]
    assert metrics.values == {"ap": 0, "mmr": 1, "recall": 0}
    assert metrics.per_class == (0,)


def test_an_iou_of_exactly_one_half_is_no_match() -> None:
    assert alone([(0, (0, 0, 6, 3), 0.9)], [(0, square(0), False)])["recall"] == 0
    assert alone([(0, (0, 0, 6, 4), 0.9)], [(0, square(0), False)])["recall"] == 1


def test_boxes_are_clipped_to_the_image() -> None:
    beyond = (30, 0, 100, 6)  # in an image 40 wide: 10 of 70 pixels
    assert alone([(0, (30, 0, 40, 6), 0.9)], [(0, beyond, False)])["recall"] == 1
    assert alone([(0, (30, 0, 300, 6), 0.9)], [(0, beyond, False)])["recall"] == 1


@pytest.mark.parametrize(
    ("box", "object_"),
    [
        ((60, 0, 90, 6), (39, 0, 40, 6)),  # beyond the right edge: 1 px inside is left
        ((0, 50, 6, 90), (0, 29, 6, 30)),  # beyond the bottom edge
    ],
)
def test_a_box_beyond_the_right_or_bottom_edge_keeps_one_pixel(box: Box, object_: Box) -> None:
    """As CrowdDet's evaluator clips: x1 to at most width - 1, y1 to at most height - 1."""
    assert alone([(0, box, 0.9)], [(0, object_, False)])["recall"] == 1
    assert alone([(0, object_, 0.9)], [(0, box, False)])["recall"] == 1


def test_a_crowd_region_absorbs_any_number_of_detections() -> None:
    objects = [(0, square(0), False), (0, square(1), False), (0, (16, 0, 40, 30), True)]
    rows = [(0, square(0), 0.9), (0, square(1), 0.2)]
    inside = [(0, (20, 5, 22 + k, 12), 0.5) for k in range(5)]
    outside = [(0, (0, 20, 2 + k, 25), 0.5) for k in range(5)]
    assert alone(rows + inside, objects) == alone(rows, objects)
    assert alone(rows + outside, objects)["ap"] < alone(rows, objects)["ap"]


def test_a_region_must_cover_more_than_half_of_a_detection() -> None:
    objects = [(0, square(0), False), (0, square(1), False), (0, (20, 0, 40, 30), True)]
    rows = [(0, square(0), 0.9), (0, square(1), 0.2)]
    half, more = (0, (18, 5, 22, 9), 0.5), (0, (18, 5, 23, 9), 0.5)
    assert alone([*rows, half], objects)["ap"] < alone(rows, objects)["ap"]
    assert alone([*rows, more], objects) == alone(rows, objects)


def test_an_object_inside_a_region_is_matched_before_the_region_absorbs() -> None:
    objects = [(0, (0, 0, 30, 30), True), (0, square(1), False)]
    assert alone([(0, square(1), 0.9), (0, square(1), 0.8)], objects)["recall"] == 1


def test_only_the_best_detections_of_an_image_count() -> None:
    objects = [(0, square(0), False), (0, square(1), False), (1, square(0), False)]
    rows = [(0, square(0), 0.9), (0, square(1), 0.8), (1, square(0), 0.1)]
    assert alone(rows, objects, 2, max_dets=1)["recall"] == pytest.approx(2 / 3)


def test_columns_do_not_affect_each_other() -> None:
    objects = [(0, square(k), 0, False) for k in range(4)]
    truth = make_truth(objects)
    columns = [make_candidates([(0, square(k), 0.5, 0) for k in range(n)]) for n in (4, 1, 0)]
    metrics = crowd_metrics(columns, truth, 100)
    assert [each.values["recall"] for each in metrics] == [1, 0.25, 0]
    assert metrics == [crowd_metrics([column], truth, 100)[0] for column in columns]


@pytest.mark.parametrize("objects", [[], [(0, square(0), 0, True)]])
def test_no_object_is_rejected(objects: list[Object]) -> None:
    truth = make_truth(objects, images=3)
    with pytest.raises(ValueError, match="no object in 3 images"):
        crowd_metrics([Candidates.none()], truth, 10)
    with pytest.raises(ValueError, match="no object in 3 images"):
        recall_ceiling(truth, PROTOCOLS["crowdhuman"])


def noisy(seed: int) -> tuple[Candidates, GroundTruth]:
    """Build detections of separate objects, and of the background."""
    rng = np.random.default_rng(seed)
    chosen = [(i, k) for i in range(6) for k in rng.permutation(5)[:3].tolist()]
    objects = [(i, square(k), 0, False) for i, k in chosen]
    rows = [(i, box, float(rng.random()), 0) for i, box, _, _ in objects]
    rows += [(i, (0, 20, 5 + i, 28), float(rng.random()), 0) for i in range(6)]
    return make_candidates(rows), make_truth(objects, images=6)


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_cost_ap_without_nms_and_nothing_with_it(seed: int) -> None:
    once, truth = noisy(seed)
    twice = once.take(torch.arange(len(once)).repeat_interleave(2))
    protocol = PROTOCOLS["crowdhuman"]
    columns = [
        select(c, protocol, truth.sizes, nms) for nms in (False, True) for c in (once, twice)
    ]
    plain, plain_twice, nms, nms_twice = crowd_metrics(columns, truth, protocol.max_dets)
    assert nms_twice == nms
    assert plain == nms
    assert known(plain_twice.values)["ap"] < known(plain.values)["ap"] - 0.1


def test_nms_suppresses_some_of_the_objects_themselves() -> None:
    objects: list[Object] = [
        (0, square(0), 0, False),
        (0, (0, 1, 6, 6), 0, False),
        (1, square(2), 0, False),
    ]
    truth = make_truth(objects, images=2)
    found = make_candidates([(i, box, 1.0, label) for i, box, label, _ in objects])
    assert crowd_metrics([found], truth, 500)[0].values["recall"] == 1
    assert recall_ceiling(truth, PROTOCOLS["crowdhuman"]) == pytest.approx(2 / 3)
    assert recall_ceiling(truth, Protocol(nms_iou=0.9)) == 1


def test_the_ceiling_clips_objects_when_the_protocol_says() -> None:
    objects: list[Object] = [(0, (30, 0, 45, 6), 0, False), (0, (30, 0, 100, 6), 0, False)]
    assert recall_ceiling(make_truth(objects), Protocol()) == 0.5  # both are clipped to 10 x 6
    assert recall_ceiling(make_truth(objects), Protocol(clip="after")) == 1


@examples(50)
@given(truths, st.sampled_from([0.3, 0.5, 0.75]), st.integers(1, 8), st.booleans())
@example([(2, (0, 2, 6, 8), 0, False)], 0.3, 2, False)  # an IoU of exactly 0.3
def test_ceiling_is_the_recall_of_what_greedy_suppression_keeps(
    objects: list[Object], nms_iou: float, max_dets: int, wise: bool
) -> None:
    objects = sorted([*objects, (2, (1, 1, 5, 5), 0, False)], key=lambda row: row[0])
    threshold = Fraction(str(nms_iou))
    kept: list[Row] = []
    for image, box, label, region in objects:
        rivals = [row for row in kept if row[0] == image]
        free = all(
            iou(inside(box), inside(row[1])) <= threshold or (wise and row[3] != label)
            for row in rivals
        )
        if free and not region and len(rivals) < max_dets:
            kept.append((image, box, 1.0, label))
    recalls = []
    for label in range(CLASSES):
        count = sum(row[2] == label and not row[3] for row in objects)
        hits = ranked_outcomes(kept, objects, IMAGES, label, max_dets)
        recalls += [sum(hits) / count] if count else []
    protocol = Protocol(
        evaluator="crowd", nms_iou=nms_iou, max_dets=max_dets, class_wise=wise, pre_nms_topk=1
    )
    ceiling = recall_ceiling(make_truth(objects, IMAGES, CLASSES), protocol)
    assert ceiling == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"spatial_range": 3}, "because of spatial_range:"),
        ({"level_range": 0}, "because of level_range:"),
        ({"suppression": "max_filter", "spatial_range": 3}, "max_filter, spatial_range:"),
    ],
)
def test_a_rule_about_the_pyramid_has_no_ceiling(values: dict[str, Any], fields: str) -> None:
    truth = make_truth([(0, square(0), 0, False)])
    with pytest.raises(ValueError, match=fields):
        recall_ceiling(truth, Protocol.model_validate(values))
