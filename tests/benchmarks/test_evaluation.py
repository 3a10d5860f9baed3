"""Measure evaluation against pycocotools and against NMS box by box, in one thread."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.evaluation.nms import survivors
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import select
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth
from tests.detectors.evaluation import pycoco
from tests.detectors.evaluation.cases import measure_gap

PROTOCOL = Protocol()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_truth(images: int, objects: int, classes: int) -> GroundTruth:
    corners = torch.rand(images, objects, 2) * 500
    boxes = torch.cat([corners, corners + 30 + torch.rand(images, objects, 2) * 100], dim=2)
    labels, crowd = torch.randint(classes, (images, objects)), torch.zeros(objects).bool()
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2)
    each = [ImageTruth(i + 1, 640, 640, boxes[i], labels[i], crowd, area[i]) for i in range(images)]
    return GroundTruth.of(each, [f"class {k}" for k in range(classes)])


def make_candidates(truth: GroundTruth, count: int) -> Candidates:
    """Draw `count` noisy copies of the objects of an image, a tenth with another label."""
    images, objects = len(truth), len(truth.labels) // len(truth)
    image = torch.arange(images).repeat_interleave(count)
    which = image * objects + torch.randint(objects, (images * count,))
    other = torch.randint(len(truth.classes), (images * count,))
    labels = torch.where(torch.rand(images * count) < 0.1, other, truth.labels[which])
    boxes = truth.boxes[which] + torch.randn(images * count, 4) * 4
    scores = torch.rand(images, count).sort(dim=1, descending=True).values.flatten()
    level = labels * 0
    return Candidates(
        image, boxes, scores, labels, level, boxes[:, :2], scores * 0 + 8, level + 9999
    )


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of `repeats`: other load of the machine only adds time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def greedy(boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int | None) -> Tensor:
    """Apply greedy NMS to boxes by falling score, in a loop over the kept ones."""
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), list[int]()
    for i in range(len(boxes)):
        if len(kept) == limit:
            break
        if alive[i]:
            kept.append(i)
            overlaps = pairwise_iou(boxes[i : i + 1], boxes)[0] > iou_threshold
            alive &= ~(overlaps & (labels == labels[i]))
    return torch.tensor(kept)


def report(title: str, ours: float, theirs: float) -> None:
    sys.stdout.write(f"\n{title}\n")
    sys.stdout.write(f"  {ours:.3f} s against {theirs:.3f} s: {theirs / ours:.1f} times as fast\n")


@pytest.mark.timeout(1800)
def test_gap_of_five_thousand_images_against_pycocotools() -> None:
    torch.manual_seed(0)
    truth = make_truth(5000, objects=7, classes=80)
    found = make_candidates(truth, 50)
    gaps: list[Mapping[str, float | None]] = []
    ours = seconds(lambda: gaps.append(measure_gap(found, truth, PROTOCOL).metrics), 3)

    data, theirs = pycoco.dataset(truth), 0.0
    for suppress, name in ((False, "ap"), (True, "ap_nms")):
        detections = select(found, PROTOCOL, truth.sizes, suppress)
        results, evaluators = pycoco.results_of(detections, truth.image_ids), list[Any]()
        evaluate = partial(pycoco.evaluated, data, results, 100)
        theirs += seconds(lambda: evaluators.append(evaluate()), 1)  # noqa: B023
        precision = evaluators[0].eval["precision"][..., 0, -1]
        assert gaps[0][name] == pytest.approx(100 * precision[precision > -1].mean(), abs=1e-9)
    report("5,000 images x 80 classes x 50: NMS + 2 evaluations / 2 of pycocotools", ours, theirs)
    gap = gaps[0]["gap"]
    assert gap is not None
    assert gap < -1
    assert theirs / ours >= 50


@pytest.mark.parametrize("limit", [None, PROTOCOL.max_dets])
@pytest.mark.parametrize("classes", [1, 20])
def test_nms_against_a_loop_over_boxes(limit: int | None, classes: int) -> None:
    torch.manual_seed(0)
    found = make_candidates(make_truth(64, objects=50, classes=classes), 1000)
    columns = found.boxes.reshape(64, 1000, 4), found.labels.reshape(64, 1000)
    images, kept, expected = list(zip(*columns, strict=True)), list[Tensor](), list[Tensor]()

    def loop() -> None:
        each = [
            greedy(*image, PROTOCOL.nms_iou, limit) + 1000 * n for n, image in enumerate(images)
        ]
        expected.append(torch.cat(each))

    ours = seconds(lambda: kept.append(survivors(found, PROTOCOL, limit)), 5)
    theirs = seconds(loop, 2)
    title = f"64 images x 1,000 candidates, {classes} classes, limit {limit}: NMS / loop over kept"
    report(title, ours, theirs)
    assert torch.equal(kept[0], expected[0])
    assert len(expected[0]) < 64 * 900
    assert theirs / ours >= 5
