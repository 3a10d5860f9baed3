"""Boxes on validation images: which detection finds an object, which one is its duplicate."""

import io
from base64 import b64decode
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from detectors.rle import encode
from detectors.structures import Candidates, Sample, Targets
from gaplab.results.report.photographs import (
    DUPLICATE,
    FOUND,
    NOTHING,
    THRESHOLD,
    Mark,
    images_of,
    marks_of,
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
    drawn = marks_of(found, truth, 1)
    assert [each.kind for each in drawn] == [kind for kind in kinds if kind is not None]
    assert drawn[0].text == "<b> 0.90"
    assert all(each.mask is None for each in drawn)
    whole = torch.arange(len(found))[:, None, None].repeat(1, *reversed(truth.sizes[1])) % 2 > 0
    masked = marks_of(replace(found, masks=encode(whole)), truth, 1)
    assert [bool(each.mask.all()) for each in masked] == [True, False, True, False]  # type: ignore[union-attr]


def test_names_of_classes_stay_text() -> None:
    name, box = "</title><script>'\"", torch.tensor(SQUARE)
    sample = Sample(1, torch.zeros(3, 8, 8, dtype=torch.uint8), Targets(box[None], box[:1]), (1, 1))
    found = Tree(picture(sample, "photo-1", [Mark(FOUND, name, box)]))
    assert found.balanced
    assert "script" not in found.tags
    assert name in found.text


def test_masks_are_tinted_where_they_are_the_best_one_on_top() -> None:
    """The sample is twice as large as the original, and padded."""
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, :3, :4] = True
    masks[1, :, 2:] = True
    box = torch.tensor(SQUARE)
    marks = [
        Mark(kind, "", box, mask) for kind, mask in zip((FOUND, DUPLICATE), masks, strict=True)
    ]
    pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
    sample = Sample(1, pixels, Targets(box[None], box[:1]), (2, 2))
    found = Tree(picture(sample, "photo-1", marks))
    assert found.balanced
    assert (found.all("width")[0], found.all("height")[0]) == ("16.0", "12.0")
    content = b64decode(found.all("href")[1].removeprefix("data:image/png;base64,"))
    tint = np.array(Image.open(io.BytesIO(content)))
    assert (tint[..., 3] > 0).tolist() == masks.any(0).tolist()
    for mask, kind in ((masks[0], FOUND), (masks[1] & ~masks[0], DUPLICATE)):
        assert {bytes(each[:3]).hex() for each in tint[mask.numpy()]} == {kind.color[1:].lower()}
    plain = Tree(picture(sample, "photo-1", [Mark(FOUND, "", box)]))
    assert "image" not in plain.tags


def test_the_image_with_most_objects_is_first_and_empty_ones_are_not_drawn() -> None:
    truth = empty_truth(range(5), ["square"])
    truth = replace(truth, image=torch.tensor([3, 1, 1, 3, 3, 4]))
    assert images_of(truth) == [3, 1, 4]
    assert images_of(truth, 1) == [3]
    assert images_of(replace(truth, image=torch.tensor([2]))) == [2]
