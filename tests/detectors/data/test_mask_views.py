"""Masks of samples cover the same pixels as boxes, whatever is done to the image."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.data.base import DataError
from detectors.data.loader import Batch, Shares, collate
from detectors.data.mask_views import COARSE, coarse, ground_truth, masks_of, segmented
from detectors.data.samples import Samples
from detectors.data.shapes import Shapes
from detectors.data.transforms import flip_horizontal, flip_vertical, transpose
from detectors.rle import decode, encode
from detectors.structures import ImageTruth, Sample, Targets
from detectors.training import Training
from tests.detectors.data.test_views import views
from tests.examples import examples

DATA = Shapes(size=64, train_images=6, val_images=3, max_side=40).load("train")


def truth_of(boxes: list[tuple[int, int, int, int]], size: tuple[int, int]) -> ImageTruth:
    """Objects that fill their boxes; the last one is a crowd region."""
    masks = torch.zeros(len(boxes), size[1], size[0], dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    crowd = torch.arange(len(boxes)) == len(boxes) - 1
    corners = torch.tensor(boxes, dtype=torch.float64)
    labels, area = torch.arange(len(boxes)), masks.sum(dim=(1, 2)).double()
    return ImageTruth(1, *size, corners, labels, crowd, area, encode(masks))


@st.composite
def truths(draw: st.DrawFn, size: tuple[int, int]) -> ImageTruth:
    boxes = []
    for _ in range(draw(st.integers(1, 4))):
        x1, y1 = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
        boxes.append(
            (x1, y1, draw(st.integers(x1 + 1, size[0])), draw(st.integers(y1 + 1, size[1])))
        )
    return truth_of(boxes, size)


def fill(box: list[float], shape: torch.Size, margin: float) -> torch.Tensor:
    """The pixels whose centre is in a box that is larger by a margin: [height, width] bool."""
    (x1, y1, x2, y2), (height, width) = box, shape
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside = (x > x1 - margin) & (x < x2 + margin)
    return inside & ((y > y1 - margin) & (y < y2 + margin))[:, None]


def check(masks: torch.Tensor, targets: Targets, slack: float = 1e-3) -> None:
    """Each mask has the pixels whose centre is in its box; those on the border may differ."""
    assert masks.dtype == torch.bool
    assert len(masks) == len(targets)
    for mask, box in zip(masks, targets.boxes.tolist(), strict=True):
        assert not (mask & ~fill(box, mask.shape, slack)).any()
        assert not (fill(box, mask.shape, -slack) & ~mask).any()


@examples(60)
@given(st.data())
def test_masks_cover_the_pixels_of_boxes_in_every_view(data: st.DataObject) -> None:
    view = data.draw(views())
    truth = data.draw(truths(view.original))
    objects = ~truth.crowd
    targets = view.targets(truth.boxes[objects].numpy(), truth.labels[objects].numpy())
    image = torch.zeros(3, view.size[1], view.size[0], dtype=torch.uint8)
    check(masks_of(Sample(1, image, targets, view.scale), truth, view), targets)


@examples(40)
@given(st.data(), st.sampled_from([(1.0, 1.0), (2.0, 2.0), (0.5, 0.75), (1.3, 0.4)]))
def test_masks_cover_the_pixels_of_boxes_in_padded_images(
    data: st.DataObject, scale: tuple[float, float]
) -> None:
    truth = data.draw(truths((20, 30)))
    boxes = truth.boxes[~truth.crowd] * torch.tensor([*scale, *scale])
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    targets = Targets(boxes, truth.labels[~truth.crowd])
    masks = masks_of(Sample(1, image, targets, scale), truth)
    check(masks, targets)


@examples(30)
@given(st.data(), st.sampled_from([flip_horizontal, flip_vertical, transpose]))
def test_masks_are_flipped_with_the_image(
    data: st.DataObject, flip: Callable[[Sample], Sample]
) -> None:
    truth = data.draw(truths((24, 24)))
    targets = Targets(truth.boxes[~truth.crowd], truth.labels[~truth.crowd])
    sample = Sample(1, torch.zeros(3, 24, 24, dtype=torch.uint8), targets, (1.0, 1.0))
    after = flip(replace(sample, targets=replace(targets, masks=masks_of(sample, truth))))
    assert after.targets.masks is not None
    check(after.targets.masks, after.targets)


@pytest.mark.parametrize("augment", get_args(Training.model_fields["augment"].annotation))
@pytest.mark.parametrize(
    "sizes",
    [{}, {"train_sides": (48, 80)}, {"train_sides": (96,), "crop": True}, {"colour": 0.3}],
    ids=lambda sizes: "+".join(sizes) or "fixed",
)
def test_training_samples_have_masks_inside_their_boxes(
    augment: str, sizes: dict[str, object]
) -> None:
    training = Training.model_validate({"augment": augment, **sizes})
    samples, plain = Samples(DATA, training, masks=True), Samples(DATA, training)
    for index in range(len(DATA)):
        drawn = [each.draw(index, 0, np.random.default_rng(index)) for each in (samples, plain)]
        sample, masks = drawn[0], drawn[0].targets.masks
        assert torch.equal(sample.image, drawn[1].image), "masks need no random numbers"
        assert drawn[1].targets.masks is None
        assert masks is not None
        assert masks.shape == (len(sample.targets), *sample.image.shape[1:])
        for mask, box in zip(masks, sample.targets.boxes.tolist(), strict=True):
            assert not (mask & ~fill(box, mask.shape, 1e-3)).any()
        assert masks.any()


@examples(30)
@given(st.integers(1, 21), st.integers(1, 21))
def test_coarse_masks_have_the_pixel_near_the_centre_of_each_cell(height: int, width: int) -> None:
    masks = torch.rand(2, height, width) < 0.5
    found = coarse(masks)
    assert found.shape == (2, -(-height // COARSE), -(-width // COARSE))
    for y in range(found.shape[1]):
        for x in range(found.shape[2]):
            row, column = min(4 * y + 2, height - 1), min(4 * x + 2, width - 1)
            assert found[:, y, x].tolist() == masks[:, row, column].tolist()


def test_batches_have_coarse_masks_also_in_other_processes() -> None:
    training = Training(batch=3, augment="none")
    batch = Shares(DATA, training, 0, 0, 1, masks=True)[0]
    again: Batch = pickle.loads(pickle.dumps(batch))
    assert [each.masks for each in batch.targets] == [None] * 3
    for masks, copied, targets in zip(batch.masks, again.masks, batch.targets, strict=True):
        assert masks.shape == (len(targets), 16, 16)
        assert torch.equal(masks, copied)
    plain = Shares(DATA, training, 0, 0, 1)[0]
    assert plain.masks == ()
    assert torch.equal(plain.images, batch.images)


def test_a_batch_of_images_without_objects() -> None:
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    targets = replace(none, masks=torch.zeros(0, 32, 32, dtype=torch.bool))
    sample = Sample(0, torch.zeros(3, 32, 32, dtype=torch.uint8), targets, (1.0, 1.0))
    assert [each.shape for each in collate([sample, sample]).masks] == [(0, 8, 8)] * 2


def test_ground_truth_has_masks_on_request() -> None:
    truth = ground_truth(DATA, masks=True)
    assert truth.masks is not None
    for index, size in enumerate(truth.sizes):
        masks = decode(truth.masks[truth.image == index], size)
        assert torch.equal(masks, DATA.masks(index))  # type: ignore[attr-defined]
    plain = ground_truth(DATA, masks=False)
    assert plain.masks is None
    assert plain.digest() == truth.digest()


@pytest.mark.parametrize("option", ["mosaic", "mixup"])
def test_mixed_images_have_no_masks(option: str) -> None:
    with pytest.raises(DataError, match=rf"training.{option}: mixed images have no masks; set it"):
        Samples(DATA, Training.model_validate({option: 0.5}), masks=True)


def test_data_without_masks_is_refused() -> None:
    class Boxes:
        classes: tuple[str, ...] = ("a",)
        notes: tuple[str, ...] = ()

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int, /) -> Sample:
            raise AssertionError

        def truth(self) -> list[ImageTruth]:
            return []

    with pytest.raises(DataError, match="have no masks; choose data with masks"):
        segmented(Boxes())
    with pytest.raises(DataError, match="have no masks"):
        Samples(Boxes(), Training(), masks=True)
