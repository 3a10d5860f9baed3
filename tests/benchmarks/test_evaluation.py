"""How fast evaluation is, against pycocotools and against NMS one box at a time (one thread)."""

import contextlib
import io
import sys
import time
from collections.abc import Callable

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.evaluation.gap import measure_gap, select
from detectors.evaluation.nms import nms
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates, ImageTruth

CLASSES = [f"class {k}" for k in range(20)]
PROTOCOL = Protocol()
Image = tuple[Tensor, Tensor, Tensor]
"""Boxes, scores and labels."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_candidates(count: int, objects: Tensor, labels: Tensor) -> Candidates:
    """Noisy copies of objects, a tenth with another label, by falling score."""
    which = torch.randint(len(objects), (count,))
    found = torch.where(
        torch.rand(count) < 0.1, torch.randint(len(CLASSES), (count,)), labels[which]
    )
    scores = torch.rand(count).sort(descending=True).values
    return Candidates(objects[which] + torch.randn(count, 4) * 4, scores, found, found * 0)


def make_image(image_id: int, count: int, num_objects: int) -> tuple[Candidates, ImageTruth]:
    corners = torch.rand(num_objects, 2) * 500
    boxes = torch.cat([corners, corners + 30 + torch.rand(num_objects, 2) * 100], dim=1)
    labels = torch.randint(len(CLASSES), (num_objects,))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    truth = ImageTruth(image_id, 640, 640, boxes, labels, torch.zeros(num_objects).bool(), area)
    return make_candidates(count, boxes, labels), truth


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Best of `repeats`: the machine's other work only ever adds time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def pycocotools_ap(data: dict, results: list[dict]) -> float:
    """AP as a user of pycocotools would compute it from loaded JSON, silenced."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = data
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return 100 * float(evaluator.stats[0])


def to_json(detections: list[Candidates], truth: list[ImageTruth]) -> tuple[dict, list[dict]]:
    images = [{"id": t.image_id, "width": t.width, "height": t.height} for t in truth]
    annotations, results = [], []
    for found, image in zip(detections, truth, strict=True):
        own = zip(xywh(image.boxes), image.labels.tolist(), image.area.tolist(), strict=True)
        for box, label, area in own:
            row = {"image_id": image.image_id, "category_id": label, "bbox": box, "area": area}
            annotations.append({**row, "iscrowd": 0, "id": len(annotations) + 1})
        rows = zip(xywh(found.boxes), found.labels.tolist(), found.scores.tolist(), strict=True)
        for box, label, score in rows:
            row = {"image_id": image.image_id, "category_id": label, "bbox": box, "score": score}
            results.append(row)
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def xywh(boxes: Tensor) -> list[list[float]]:
    boxes = boxes.double()
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def greedy(image: Image, iou_threshold: float, limit: int | None) -> Tensor:
    """Greedy NMS with a Python loop over kept boxes; each step is one row of IoUs."""
    boxes, scores, labels = image
    alive, kept = torch.ones(len(scores), dtype=torch.bool), []
    for i in scores.argsort(descending=True, stable=True).tolist():
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


def test_gap_of_a_thousand_images_against_pycocotools():
    torch.manual_seed(0)
    pairs = [make_image(i + 1, count=50, num_objects=8) for i in range(1000)]
    found, truth = [list(column) for column in zip(*pairs, strict=True)]
    without, with_nms = ([select(i, PROTOCOL, use) for i in found] for use in (False, True))
    columns = [to_json(without, truth), to_json(with_nms, truth)]
    gaps, oracle = [], []
    ours = seconds(lambda: gaps.append(measure_gap(found, truth, CLASSES, PROTOCOL)), 3)
    theirs = seconds(lambda: oracle.append([pycocotools_ap(*c) for c in columns]), 1)
    report("1,000 images x 20 classes x 50: NMS + 2 evaluations / 2 of pycocotools", ours, theirs)
    assert [gaps[0].ap, gaps[0].ap_nms] == pytest.approx(oracle[0], abs=1e-7)
    assert theirs / ours > 8


@pytest.mark.parametrize("limit", [None, PROTOCOL.max_dets])
def test_nms_against_a_loop_over_boxes(limit):
    torch.manual_seed(0)
    images = [make_image(i + 1, count=1000, num_objects=50)[0] for i in range(16)]
    inputs = [(c.boxes, c.scores, c.labels) for c in images]
    iou = PROTOCOL.nms_iou
    ours = seconds(lambda: [nms(*image, iou, limit) for image in inputs], 5)
    loop = seconds(lambda: [greedy(image, iou, limit) for image in inputs], 2)
    report(f"16 images x 1,000 candidates, limit {limit}: nms / loop over kept boxes", ours, loop)
    for image in inputs:
        assert torch.equal(nms(*image, iou, limit), greedy(image, iou, limit))
    assert loop / ours > 5
