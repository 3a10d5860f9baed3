"""Boxes on validation images: which detection finds an object, which one is its duplicate."""

from dataclasses import replace

import torch

from detectors.structures import Candidates, Sample, Targets
from gaplab.results.report.photographs import (
    DUPLICATE,
    FOUND,
    NOTHING,
    THRESHOLD,
    boxes_of,
    images_of,
    picture,
)
from tests.builders import empty_truth
from tests.gaplab.results.report.making import Tree

SQUARE, FAR = [0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0]


def test_each_detection_is_found_duplicate_or_nothing() -> None:
    truth = replace(
        empty_truth([7, 8], ["<b>", "square"]),
        image=torch.tensor([1]),
        boxes=torch.tensor([SQUARE]),
        labels=torch.tensor([0]),
        crowd=torch.tensor([False]),
        area=torch.tensor([100.0]),
    )
    rows = [
        (1, SQUARE, 0.9, 0, FOUND),
        (1, SQUARE, 0.8, 0, DUPLICATE),
        (1, SQUARE, 0.7, 1, NOTHING),
        (1, FAR, 0.6, 0, NOTHING),
        (1, SQUARE, THRESHOLD - 0.01, 0, None),
        (0, SQUARE, 0.9, 0, None),
    ]
    rows.sort(key=lambda row: row[0])
    images, boxes, scores, classes, kinds = zip(*rows, strict=True)
    found = Candidates.flat(
        torch.tensor(images), torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes)
    )
    drawn = boxes_of(found, truth, 1)
    assert [kind for kind, _, _ in drawn] == [kind for kind in kinds if kind is not None]
    assert drawn[0][1] == "<b> 0.90"


def test_names_of_classes_stay_text() -> None:
    name, box = "</title><script>'\"", torch.tensor(SQUARE)
    sample = Sample(1, torch.zeros(3, 8, 8, dtype=torch.uint8), Targets(box[None], box[:1]), (1, 1))
    found = Tree(picture(sample, "photo-1", [(FOUND, name, box)]))
    assert found.balanced
    assert "script" not in found.tags
    assert name in found.text


def test_the_image_with_most_objects_is_first_and_empty_ones_are_not_drawn() -> None:
    truth = empty_truth(range(5), ["square"])
    truth = replace(truth, image=torch.tensor([3, 1, 1, 3, 3, 4]))
    assert images_of(truth) == [3, 1, 4]
    assert images_of(truth, 1) == [3]
    assert images_of(replace(truth, image=torch.tensor([2]))) == [2]
