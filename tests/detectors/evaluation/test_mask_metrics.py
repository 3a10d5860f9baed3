"""The AP of masks, compared with pycocotools."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from detectors.evaluation import oracle
from detectors.evaluation.bootstrap import DetectionSets
from detectors.evaluation.coco import coco_metrics, mask_metrics
from detectors.evaluation.matching import THRESHOLDS, coco_matches, match
from detectors.evaluation.metrics import Metrics
from detectors.evaluation.truth import GroundTruth, as_candidates
from detectors.rle import Rles, encode
from detectors.structures import Candidates
from tests.detectors.evaluation import cases, pycoco
from tests.examples import FUZZ


def blobs(boxes: torch.Tensor, rng: np.random.Generator) -> Rles:
    """Masks of 640 x 480: random parts of boxes, some of them empty, of different density."""
    masks = torch.zeros(len(boxes), 480, 640, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
        part = mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
        density = rng.choice([0.0, 0.6, 1.0], p=[0.05, 0.45, 0.5])
        part |= torch.from_numpy(rng.random(part.shape) < density)
    return encode(masks)


def with_masks(seed: int) -> tuple[Candidates, GroundTruth]:
    found, truth = cases.random_case(seed, images=4)
    rng = np.random.default_rng(seed)
    masks = blobs(found.boxes, rng)
    return replace(found, masks=masks), replace(truth, masks=blobs(truth.boxes, rng))


def evaluated(found: Candidates, truth: GroundTruth, max_dets: int) -> Any:
    """pycocotools' evaluator of masks. Its rows of detections and objects are ours plus one."""
    data, results = oracle.dataset(truth), oracle.results_of(found, truth.image_ids)
    oracle.add_masks(data, results, found, truth)
    for position, row in enumerate(results):
        row["position"] = position
    best = oracle.best_of_each_class(results, max_dets)
    evaluator = oracle.evaluated(data, best, max(100, max_dets), "segm")
    evaluator.position = {row["id"]: row["position"] for row in best}
    return evaluator


def theirs(found: Candidates, truth: GroundTruth, max_dets: int) -> Metrics:
    """pycocotools' metrics of masks."""
    return oracle.metrics_of(evaluated(found, truth, max_dets))


@pytest.mark.parametrize("max_dets", [2, 100])
def test_matches_of_masks_are_those_of_pycocotools(max_dets: int) -> None:
    for seed in range(50 if FUZZ else 3):
        found, truth = with_masks(seed)
        result = match(found, truth, max_dets, masks=True)
        evaluator = evaluated(found, truth, max_dets)
        matched = [dict[int, int]() for _ in THRESHOLDS]
        for each in evaluator.evalImgs:
            if each and each["aRng"] == evaluator.params.areaRng[0]:
                for own, targets in zip(matched, each["dtMatches"], strict=True):
                    rows = zip(each["dtIds"], targets, strict=True)
                    own |= {evaluator.position[row]: int(to) - 1 for row, to in rows if to}
        pairs = zip(result.detection.tolist(), result.object.tolist(), strict=True)
        assert {row: to for row, to in pairs if to >= 0} == matched[0]
        hits = zip(result.matches.hit | result.matches.ignored, matched, strict=True)
        assert all(set(result.detection[rows].tolist()) == set(own) for rows, own in hits)
        assert result.object.tolist() != match(found, truth, max_dets).object.tolist()


def test_matches_of_masks_have_the_ap_of_masks() -> None:
    for seed in range(3):
        found, truth = with_masks(seed)
        matches = coco_matches(found, truth, 100, masks=True)
        whole = np.ones((1, len(truth)), dtype=np.int64)
        ap = DetectionSets.of([matches]).average_precision(whole)[0, 0]
        assert ap == pytest.approx(100 * (mask_metrics([found], truth, 100)[0].values["ap"] or 0))


@pytest.mark.parametrize("max_dets", [2, 100])
def test_random_masks_equal_pycocotools(max_dets: int) -> None:
    differing = 0
    for seed in range(50 if FUZZ else 4):
        found, truth = with_masks(seed)
        (metrics,) = mask_metrics([found], truth, max_dets)
        assert pycoco.differences(metrics, theirs(found, truth, max_dets)) == {}, seed
        differing += bool(pycoco.differences(metrics, coco_metrics([found], truth, max_dets)[0]))
    assert differing, "masks and boxes have different AP"


def test_objects_themselves_have_an_ap_of_one() -> None:
    _, truth = with_masks(1)
    whole = torch.zeros(len(truth.labels), 480, 640, dtype=torch.bool)
    for number, mask in enumerate(whole):
        mask[:, 10 * number : 10 * number + 5] = True
    truth = replace(truth, masks=encode(whole))
    (metrics,) = mask_metrics([as_candidates(truth)], truth, 100)
    assert metrics.values["ap"] == 1


def test_no_detection() -> None:
    _, truth = with_masks(1)
    for none in (Candidates.none(), replace(Candidates.none(), masks=Rles.none(0))):
        (metrics,) = mask_metrics([none], truth, 100)
        assert metrics.values["ap"] == 0
        assert len(coco_matches(none, truth, 100, masks=True).score) == 0


def test_missing_masks_are_an_error() -> None:
    found, truth = with_masks(1)
    assert found.masks is not None
    some = Rles.join([Rles.none(1), found.masks[torch.arange(1, len(found))]])
    for wrong in ((replace(found, masks=None), truth), (replace(found, masks=some), truth)):
        with pytest.raises(ValueError, match="needs masks of all objects and detections"):
            mask_metrics([found, wrong[0]], wrong[1], 100)
    for measure in (mask_metrics, lambda columns, *more: match(columns[0], *more, masks=True)):
        with pytest.raises(ValueError, match="needs masks of all"):
            measure([found], replace(truth, masks=None), 100)
