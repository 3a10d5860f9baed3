import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.evaluation.coco import CocoMetrics, coco_metrics
from detectors.evaluation.gap import select
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates, ImageTruth


def make_truth(image_id, boxes, labels, crowd=None, area=None) -> ImageTruth:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    crowd = torch.zeros(len(boxes)) if crowd is None else torch.as_tensor(crowd)
    area = sides.prod(dim=1) if area is None else torch.as_tensor(area)
    labels = torch.as_tensor(labels, dtype=torch.int64)
    return ImageTruth(image_id, 640, 480, boxes, labels, crowd.bool(), area)


def make_detections(boxes, scores, labels) -> Candidates:
    labels = torch.as_tensor(labels, dtype=torch.int64)
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return Candidates(boxes, scores, labels, torch.zeros_like(labels))


def random_case(seed: int) -> tuple[list[Candidates], list[ImageTruth], list[str]]:
    """Crowds, score ties within and across images, images without objects or detections."""
    rng = np.random.default_rng(seed)
    classes = [f"class {k}" for k in range(rng.integers(1, 6))]
    truth, detections = [], []
    for image_id in rng.permutation(12) + 3:
        count = int(rng.choice([0, 1, 5, 9]))
        boxes = random_boxes(rng, count)
        labels = rng.integers(len(classes), size=count)
        truth.append(make_truth(int(image_id), boxes, labels, rng.random(count) < 0.15))
        jittered = np.repeat(boxes, 3, axis=0) + rng.normal(0, 4, size=(3 * count, 4))
        found = np.concatenate([jittered, random_boxes(rng, int(rng.integers(4)))])
        found_labels = rng.integers(len(classes), size=len(found))
        right = rng.random(3 * count) < 0.8
        found_labels[: 3 * count][right] = np.repeat(labels, 3)[right]
        keep = rng.random(len(found)) < 0.8
        scores = rng.integers(1, 20, size=len(found)) / 20
        detections.append(make_detections(found[keep], scores[keep], found_labels[keep]))
    return detections, truth, classes


def random_boxes(rng, count):
    corners = rng.random((count, 2)) * 300
    return np.concatenate([corners, corners + rng.choice([20, 60, 150], (count, 2))], axis=1)


def oracle(detections, truth, classes, max_dets) -> CocoMetrics:
    """The same numbers from pycocotools, with dictionaries written down here."""
    data = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
    for image in truth:
        data["images"].append({"id": image.image_id, "width": 640, "height": 480})
        for g, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": image.image_id,
                    "category_id": int(image.labels[g]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(image.area[g]),
                    "iscrowd": int(image.crowd[g]),
                }
            )
    return run_pycocotools(data, to_results(detections, truth), max_dets)


def to_results(detections, truth) -> list[dict]:
    """Detections as COCO results; category ids are labels plus one."""
    return [
        {
            "image_id": image.image_id,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for found, image in zip(detections, truth, strict=True)
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


def run_pycocotools(data, results, max_dets) -> CocoMetrics:
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = data
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluator.params.maxDets = [1, 10, max_dets] if max_dets > 10 else [max_dets]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., -1]
    recall = evaluator.eval["recall"][..., -1]

    def mean(values):
        valid = values[values > -1]
        return float(valid.mean()) if valid.size else None

    return CocoMetrics(
        ap=mean(precision[..., 0]),
        ap50=mean(precision[0, ..., 0]),
        ap75=mean(precision[5, ..., 0]),
        ap_small=mean(precision[..., 1]),
        ap_medium=mean(precision[..., 2]),
        ap_large=mean(precision[..., 3]),
        ar=mean(recall[..., 0]),
        per_class=tuple(mean(precision[:, :, k, 0]) for k in range(precision.shape[2])),
    )


def assert_same(found: CocoMetrics, expected: CocoMetrics) -> None:
    for name, value in vars(expected).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("seed", range(24))
def test_equals_pycocotools(seed):
    case, max_dets = random_case(seed), (1, 5, 100)[seed % 3]
    found = coco_metrics(*case, max_dets)
    assert_same(found, oracle(*case, max_dets))
    assert 0 < found.ap < 1


@pytest.mark.parametrize("max_dets", [20, 300])
def test_more_detections_than_the_limit(max_dets):
    rng = np.random.default_rng(max_dets)
    boxes = random_boxes(rng, 40)
    truth = [make_truth(1, boxes, np.zeros(40)), make_truth(2, boxes + 5, np.zeros(40))]
    noisy = np.repeat(boxes, 10, axis=0) + rng.normal(0, 3, (400, 4))
    detections = [make_detections(noisy, rng.random(400), np.zeros(400)) for _ in truth]
    case = detections, truth, ["cell"]
    found = coco_metrics(*case, max_dets)
    assert_same(found, oracle(*case, max_dets))
    assert found.ar != coco_metrics(*case, 100).ar


BCCD = Path(__file__).parents[4] / "shared" / "data" / "bccd" / "val.json"


@pytest.mark.skipif(not BCCD.exists(), reason=f"{BCCD} is not on this machine")
@pytest.mark.parametrize("use_nms", [False, True])
def test_equals_pycocotools_on_a_real_annotation_file(use_nms):
    data = json.loads(BCCD.read_text())
    truth = [real_truth(data, image) for image in data["images"]]
    rng = np.random.default_rng(0)
    detections = [select(jittered(rng, image), Protocol(), use_nms) for image in truth]
    metrics = coco_metrics(detections, truth, [c["name"] for c in data["categories"]], 100)
    assert_same(metrics, run_pycocotools(data, to_results(detections, truth), 100))
    assert 0.1 < metrics.ap < 0.9


def real_truth(data, image) -> ImageTruth:
    own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in own)]
    labels = [a["category_id"] - 1 for a in own]
    crowd = [a["iscrowd"] for a in own]
    area = torch.tensor([a["area"] for a in own], dtype=torch.float64)
    return make_truth(image["id"], boxes, labels, crowd, area)


def jittered(rng, image: ImageTruth) -> Candidates:
    """Three noisy copies of every object, by falling score."""
    count = 3 * len(image.labels)
    sides = (image.boxes[:, 2:] - image.boxes[:, :2]).repeat(3, 2)
    noise = torch.as_tensor(rng.normal(0, 0.07, (count, 4))).clamp(-0.3, 0.3)
    boxes = image.boxes.repeat(3, 1) + sides * noise
    scores = np.sort(rng.integers(1, 50, size=count) / 50)[::-1].copy()
    order = rng.permutation(count)
    return make_detections(boxes[order], scores, image.labels.repeat(3)[order])


BOX = [10.0, 10.0, 50.0, 50.0]


def test_a_perfect_detection_scores_one_and_absent_sizes_are_none():
    metrics = coco_metrics(
        [make_detections([BOX], [0.3], [0])], [make_truth(1, [BOX], [0])], "ab", 100
    )
    expected = CocoMetrics(1, 1, 1, None, 1, None, 1, (1, None))
    assert_same(metrics, expected)


def test_no_detections_at_all_score_zero():
    none = make_detections([], [], [])
    truth = [make_truth(1, [BOX], [0]), make_truth(2, [], [])]
    metrics = coco_metrics([none, none], truth, ["cell"], 100)
    assert (metrics.ap, metrics.ar, metrics.per_class) == (0, 0, (0,))


def test_detections_in_an_image_without_objects_are_false_positives():
    truth = [make_truth(1, [BOX], [0]), make_truth(2, [], [])]
    detections = [make_detections([BOX], [0.5], [0]), make_detections([BOX], [0.9], [0])]
    assert coco_metrics(detections, truth, ["cell"], 100).ap == pytest.approx(0.5)


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong():
    crowd = [100.0, 100.0, 300.0, 300.0]
    truth = [make_truth(1, [BOX, crowd], [0, 0], crowd=[False, True])]
    inside = [150.0, 150.0, 180.0, 180.0]
    found = [make_detections([inside, BOX], [0.9, 0.5], [0, 0])]
    assert coco_metrics(found, truth, ["cell"], 100).ap == pytest.approx(1)


def test_a_degenerate_detection_is_a_false_positive():
    inverted = [50.0, 10.0, 10.0, 50.0]
    found = [make_detections([inverted, BOX], [0.9, 0.5], [0, 0])]
    assert coco_metrics(found, [make_truth(1, [BOX], [0])], ["cell"], 100).ap == pytest.approx(0.5)


def test_size_follows_the_annotated_area_not_the_box():
    truth = [make_truth(1, [BOX], [0], area=[900.0])]
    metrics = coco_metrics([make_detections([BOX], [0.5], [0])], truth, ["cell"], 100)
    assert metrics.ap_small == pytest.approx(1)
    assert metrics.ap_medium is None


def test_prints_nothing(capfd):
    coco_metrics(*random_case(3), 100)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "truth", [[], [make_truth(1, [], [])], [make_truth(1, [BOX], [0], [True])]]
)
def test_ground_truth_without_objects_is_refused(truth):
    detections = [make_detections([BOX], [0.5], [0]) for _ in truth]
    with pytest.raises(ValueError, match=rf"no object in {len(truth)} images"):
        coco_metrics(detections, truth, ["cell"], 100)


def test_repeated_image_ids_and_missing_images_are_refused():
    truth = [make_truth(1, [BOX], [0]), make_truth(1, [BOX], [0])]
    found = make_detections([BOX], [0.5], [0])
    with pytest.raises(ValueError, match="image ids repeat"):
        coco_metrics([found, found], truth, ["cell"], 100)
    with pytest.raises(ValueError, match="detections of 1 images for 2"):
        coco_metrics([found], truth, ["cell"], 100)
