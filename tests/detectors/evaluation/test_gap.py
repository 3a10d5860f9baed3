import math
from collections.abc import Sequence
from typing import Literal

import pytest
import torch

from detectors.evaluation.coco import coco_metrics
from detectors.evaluation.crowd import crowd_metrics
from detectors.evaluation.gap import gap_between
from detectors.evaluation.metrics import ClassGap
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.selection import select
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from tests.detectors.evaluation import cases
from tests.detectors.evaluation.cases import measure_gap

SIZES = ("small", "medium", "large")
AP, AR = (tuple(f"{metric}_{size}" for size in SIZES) for metric in ("ap", "ar"))
COCO = ["ap", "ap50", "ap75", *AP, "ar1", "ar10", "ar", *AR]
CROWD = ["ap", "mmr", "recall"]
METRICS = {"coco": COCO, "crowd": CROWD}
CLASSES = ["red", "white", "absent"]

Evaluator = Literal["coco", "crowd"]
Order = Literal["nms_then_cut", "cut_then_nms"]
each_evaluator = pytest.mark.parametrize("evaluator", METRICS)


def random_data(seed: int) -> tuple[Candidates, GroundTruth]:
    """Build noisy copies of objects of the first two classes, and one image without objects."""
    torch.manual_seed(seed)
    found, truth = [], []
    for index in range(8):
        count = 0 if index == 5 else 6
        corners, labels = torch.rand(count, 2) * 300, torch.randint(2, (count,))
        boxes = torch.cat([corners, corners + 40], dim=1)
        truth.append(cases.image_truth(50 - index, boxes, labels))
        copies = boxes.repeat(4, 1) + torch.randn(4 * count, 4) * 4
        found.append(cases.candidates(copies, torch.rand(4 * count), labels.repeat(4), index))
    return Candidates.join(found), GroundTruth.of(truth, CLASSES)


def one_image(
    boxes: cases.Values, labels: cases.Values = 0, classes: Sequence[str] = ("red",)
) -> GroundTruth:
    return GroundTruth.of([cases.image_truth(1, boxes, labels)], classes)


def known(value: float | None) -> float:
    """Return a metric that is not None."""
    assert value is not None
    return value


def names_of(metric: str) -> tuple[str, str, str]:
    return metric, f"{metric}_nms", "gap" if metric == "ap" else f"{metric}_gap"


@each_evaluator
def test_every_metric_has_three_names(evaluator: Evaluator) -> None:
    gap = measure_gap(*random_data(0), Protocol(evaluator=evaluator))
    expected = [name for metric in METRICS[evaluator] for name in names_of(metric)]
    assert list(gap.metrics) == expected
    assert [row.name for row in gap.per_class] == CLASSES


@each_evaluator
@pytest.mark.parametrize("order", ["nms_then_cut", "cut_then_nms"])
def test_numbers_are_percent_points_of_the_selected_detections(
    evaluator: Evaluator, order: Order
) -> None:
    found, truth = random_data(3)
    protocol = Protocol(evaluator=evaluator, max_dets=12, score_floor=0.2, nms_iou=0.5, order=order)
    gap = measure_gap(found, truth, protocol)
    columns = [select(found, protocol, truth.sizes, suppress) for suppress in (False, True)]
    assert gap == gap_between(columns, truth, protocol)
    evaluate = {"coco": coco_metrics, "crowd": crowd_metrics}[evaluator]
    plain, suppressed = (evaluate([column], truth, 12)[0] for column in columns)
    for metric, value in plain.values.items():
        values = [gap.metrics[name] for name in names_of(metric)]
        other = suppressed.values[metric]
        if value is None:
            assert values == [None] * 3
        else:
            assert other is not None
            expected = [100 * value, 100 * other, 100 * value - 100 * other]
            assert values == pytest.approx(expected, abs=1e-9)
    assert gap.metrics["ap"] != gap.metrics["ap_nms"]
    for k, row in enumerate(gap.per_class[:2]):
        aps = [100 * known(each.per_class[k]) for each in (plain, suppressed)]
        assert [row.ap, row.ap_nms] == pytest.approx(aps)
        assert row.gap == pytest.approx(known(row.ap) - known(row.ap_nms), abs=1e-9)
    assert gap.per_class[2] == ClassGap("absent", None, None, None)


def test_sizes_without_objects_are_none() -> None:
    metrics = measure_gap(*random_data(1), Protocol()).metrics  # 40 x 40: all are medium
    for metric in COCO:
        values = [metrics[name] for name in names_of(metric)]
        absent = metric.endswith(("_small", "_large"))
        assert values == [None] * 3 if absent else None not in values


@each_evaluator
@pytest.mark.parametrize("seed", range(5))
def test_duplicates_cost_ap_without_nms_and_nothing_with_it(
    evaluator: Evaluator, seed: int
) -> None:
    found, truth = random_data(seed)
    protocol = Protocol(evaluator=evaluator)
    once = measure_gap(found, truth, protocol).metrics
    doubled = found.take(torch.arange(len(found)).repeat_interleave(2))
    twice = measure_gap(doubled, truth, protocol).metrics
    for metric in METRICS[evaluator]:
        assert twice[f"{metric}_nms"] == once[f"{metric}_nms"]
    assert known(twice["ap"]) < known(once["ap"]) - 1
    assert known(twice["gap"]) < known(once["gap"]) < 0


def test_perfect_separate_detections_have_no_gap() -> None:
    labels = [0, 1, 0, 1, 0]
    found = cases.candidates(cases.grid(5), [0.9, 0.8, 0.7, 0.6, 0.5], labels)
    truth = one_image(cases.grid(5), labels, CLASSES)
    gap = measure_gap(found, truth, Protocol())
    for metric in ("ap", "ap50", "ap75", "ap_small", "ar", "ar10"):
        values = [gap.metrics[name] for name in names_of(metric)]
        assert values == pytest.approx([100, 100, 0])
    assert gap.metrics["ar1"] == pytest.approx((100 / 3 + 50) / 2)  # one of three, one of two
    assert gap.per_class[2] == ClassGap("absent", None, None, None)


class TestObjectsThatOverlap:
    """Pairs of objects of IoU 17 / 23. The candidates are the objects themselves."""

    @pytest.fixture
    def pairs(self) -> tuple[Candidates, GroundTruth]:
        shifted = cases.grid(4) + torch.tensor([3.0, 0.0, 3.0, 0.0])
        boxes = torch.cat([cases.grid(4), shifted])
        found = cases.candidates(boxes, torch.linspace(0.9, 0.2, 8))
        return found, one_image(boxes)

    def test_nms_loses_recall(self, pairs: tuple[Candidates, GroundTruth]) -> None:
        metrics = measure_gap(*pairs, Protocol()).metrics
        # One box of each pair is kept. Up to IoU 0.5 it matches either object, but only one.
        assert [metrics[name] for name in names_of("ar")] == pytest.approx([100, 50, 50])
        assert known(metrics["gap"]) > 0

    def test_nms_loses_crowd_recall(self, pairs: tuple[Candidates, GroundTruth]) -> None:
        metrics = measure_gap(*pairs, PROTOCOLS["crowdhuman"]).metrics
        assert [metrics[name] for name in names_of("recall")] == pytest.approx([100, 50, 50])
        assert metrics["mmr"] == pytest.approx(0)
        assert metrics["mmr_nms"] == pytest.approx(50)
        assert metrics["mmr_gap"] == pytest.approx(-50)

    @pytest.mark.parametrize("nms_iou", [0.74, 1.0])
    def test_a_high_threshold_loses_nothing(
        self, pairs: tuple[Candidates, GroundTruth], nms_iou: float
    ) -> None:
        metrics = measure_gap(*pairs, Protocol(nms_iou=nms_iou)).metrics
        assert metrics["gap"] == metrics["ar_gap"] == 0


@each_evaluator
@pytest.mark.parametrize("order", ["nms_then_cut", "cut_then_nms"])
def test_suppressed_detections_have_no_gap(evaluator: Evaluator, order: Order) -> None:
    found, truth = random_data(7)
    protocol = Protocol(evaluator=evaluator, order=order)
    before = measure_gap(found, truth, protocol).metrics
    after = measure_gap(
        select(found, protocol, truth.sizes, suppress=True), truth, protocol
    ).metrics
    assert after["gap"] == 0
    assert after["ap"] == after["ap_nms"] == before["ap_nms"]
    assert known(after["ap"]) > known(before["ap"])


def test_cutting_first_loses_objects_to_duplicates() -> None:
    first, second = cases.grid(2)
    found = cases.candidates(torch.stack([first, first, first, second]), [0.9, 0.8, 0.7, 0.6])
    truth = one_image(cases.grid(2))
    late = measure_gap(found, truth, Protocol(max_dets=2, order="nms_then_cut")).metrics
    early = measure_gap(found, truth, Protocol(max_dets=2, order="cut_then_nms")).metrics
    assert (late["ar_nms"], early["ar_nms"]) == (100, 50)
    assert late["ar"] == early["ar"] == 50


@each_evaluator
def test_no_candidates(evaluator: Evaluator) -> None:
    truth = one_image(cases.grid(1))
    metrics = measure_gap(Candidates.none(), truth, Protocol(evaluator=evaluator)).metrics
    assert metrics["ap"] == metrics["ap_nms"] == metrics["gap"] == 0
    assert all(value is None or math.isfinite(value) for value in metrics.values())


@each_evaluator
def test_no_object_is_rejected(evaluator: Evaluator) -> None:
    with pytest.raises(ValueError, match="no object"):
        measure_gap(Candidates.none(), one_image([]), Protocol(evaluator=evaluator))
