import dataclasses
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch

from detectors.evaluation.bootstrap import DetectionSets
from detectors.evaluation.crowding import nearest_iou
from detectors.evaluation.matching import coco_matches
from detectors.evaluation.operating import judge, operating_points
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.score_gap import top_scores
from detectors.evaluation.selection import clip_to_images, filter_candidates, select_both
from detectors.evaluation.summary import Summary, summarise
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth
from tests.detectors.evaluation import cases, pycoco

PROTOCOL = Protocol(max_dets=20)


def measure(found: Candidates, truth: GroundTruth, protocol: Protocol = PROTOCOL) -> Summary:
    """Measure candidates image by image, as they come from a large file."""
    chunks = [found.take(found.image == image) for image in range(len(truth))]
    shares = [select_both(chunk, protocol, truth.sizes) for chunk in chunks]
    columns = [Candidates.join(parts) for parts in zip(*shares, strict=True)]
    admitted = (filter_candidates(chunk, protocol, truth.sizes) for chunk in chunks)
    tops = reduce(add, (top_scores(clip_to_images(c, truth.sizes), truth) for c in admitted))
    return summarise(columns, tops, truth, protocol)


def images_of(truth: GroundTruth, images: list[int]) -> GroundTruth:
    """Build the ground truth of some of the images."""
    parts = []
    for image in images:
        own = truth.image == image
        columns = (truth.boxes[own], truth.labels[own], truth.crowd[own], truth.area[own])
        parts.append(ImageTruth(truth.image_ids[image], *truth.sizes[image], *columns))
    return GroundTruth.of(parts, truth.classes)


@pytest.mark.parametrize("seed", range(4))
def test_ap_of_some_images_equals_pycocotools(seed: int) -> None:
    found, truth = cases.random_case(seed)
    some = [0, 3, 4]
    chosen = np.isin(np.arange(len(truth)), some)
    here = found.take(torch.as_tensor(chosen)[found.image])
    renumbered = torch.tensor([some.index(i) for i in here.image.tolist()])
    here = dataclasses.replace(here, image=renumbered)
    expected = pycoco.metrics_of(here, images_of(truth, some), 100).values["ap"]
    assert expected is not None
    matches = coco_matches(found, truth, 100)
    whole = np.ones_like(chosen)
    found_aps = DetectionSets.of([matches] * 2).average_precision(np.array([whole, chosen]))
    assert found_aps[:, 1] == pytest.approx([100 * expected] * 2)


def test_ap_of_no_image_is_undefined() -> None:
    matches = coco_matches(*cases.random_case(0), 100)
    nothing = np.zeros((1, matches.images), dtype=bool)
    assert np.isnan(DetectionSets.of([matches]).average_precision(nothing)).all()


def test_a_summary_consists_of_the_single_measurements() -> None:
    found, truth = cases.random_case(2)
    summary = measure(found, truth)
    without, with_nms = select_both(found, PROTOCOL, truth.sizes)
    for column, detections in ((summary.without, without), (summary.with_nms, with_nms)):
        judged = judge(detections, truth, PROTOCOL.max_dets)
        assert column.points == operating_points(judged, (0.25, 0.5))
        assert column.best_f1 is not None
        assert column.best_f1 == operating_points(judged, [column.best_f1.threshold])[0]
    assert summary.matches[1].score.tolist() == coco_matches(with_nms, truth, 20).score.tolist()
    assert summary.with_nms.points[0].detections < summary.without.points[0].detections


def test_crowded_objects_and_their_images() -> None:
    """Two objects overlap with IoU 1/3; one of them is missed, another object is found twice."""
    near = [[0, 0, 40, 40], [20, 0, 60, 40]]
    truth = GroundTruth.of(
        [cases.image_truth(1, near), cases.image_truth(2, [near[0]]), cases.image_truth(3, [])], "a"
    )
    found = cases.candidates(
        [near[0], near[0], near[0], [99, 99, 120, 120]], [0.9, 0.8, 0.7, 0.4], image=[0, 1, 1, 1]
    )
    summary = measure(found, truth)
    some, none = summary.crowding[0], summary.crowding[2]
    assert [each.above for each in summary.crowding] == [0.1, 0.3, 0.5]
    assert (some.objects, some.images) == (2, 1)
    assert some.share == pytest.approx(200 / 3)
    assert summary.crowding[1] == dataclasses.replace(some, above=0.3)
    point = some.without[0]
    assert (point.detections, point.missed, point.duplicates) == (1, 50, 0)
    assert some.ap == some.ap_nms == pytest.approx(100 * 51 / 101)
    assert some.gap == 0
    assert some.score_gap is not None
    assert (some.score_gap.objects, some.score_gap.unclaimed) == (2, 0.5)
    assert (none.objects, none.share, none.images, none.score_gap) == (0, 0, 0, None)
    assert (none.ap, none.ap_nms, none.gap) == (None, None, None)
    everything = summary.without.points[0]
    assert (everything.detections, everything.duplicates) == (4, 0.5)


def test_neighbours_across_classes_count_if_the_protocol_suppresses_them() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [[0, 0, 40, 40], [0, 0, 40, 30]], [0, 1])], "ab")
    for class_wise, objects in ((True, 0), (False, 2)):
        summary = measure(Candidates.none(), truth, Protocol(class_wise=class_wise))
        assert summary.crowding[0].objects == objects
    assert nearest_iou(truth).tolist() == [0, 0]


def test_no_detections() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [[0, 0, 40, 40]])], "a")
    summary = measure(Candidates.none(), truth)
    assert summary.gap.metrics["gap"] == 0
    assert summary.without.best_f1 is None
    assert summary.without.calibration_error is None
    assert summary.score_gap.unclaimed == 1


def test_crowd_evaluator_has_no_ap_by_crowding() -> None:
    found, truth = cases.random_case(1)
    summary = measure(found, truth, Protocol(evaluator="crowd"))
    assert summary.gap.metrics["mmr"] is not None
    assert {each.ap for each in summary.crowding} == {None}


def test_no_objects_are_rejected() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [[0, 0, 4, 4]], crowd=[True])], "a")
    with pytest.raises(ValueError, match="no object in 1 images"):
        measure(Candidates.none(), truth)
