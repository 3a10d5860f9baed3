"""The AP of masks, compared with pycocotools."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.evaluation import oracle
from detectors.evaluation.coco import coco_metrics, mask_metrics
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


def theirs(found: Candidates, truth: GroundTruth, max_dets: int) -> Metrics:
    """pycocotools' metrics of masks."""
    data, results = oracle.dataset(truth), oracle.results_of(found, truth.image_ids)
    for rows, masks in ((data["annotations"], truth.masks), (results, found.masks)):
        assert masks is not None
        for row, counts in zip(rows, masks.counts, strict=True):
            row["segmentation"] = {"size": [480, 640], "counts": counts}
    for row in results:
        del row["bbox"]
    best = oracle.best_of_each_class(results, max_dets)
    return oracle.metrics_of(oracle.evaluated(data, best, max(100, max_dets), "segm"))


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


def test_missing_masks_are_an_error() -> None:
    found, truth = with_masks(1)
    assert found.masks is not None
    some = Rles.join([Rles.none(1), found.masks[torch.arange(1, len(found))]])
    for wrong in ((replace(found, masks=None), truth), (replace(found, masks=some), truth)):
        with pytest.raises(ValueError, match="needs masks of all objects and detections"):
            mask_metrics([found, wrong[0]], wrong[1], 100)
    with pytest.raises(ValueError, match="needs masks of all"):
        mask_metrics([found], replace(truth, masks=None), 100)
