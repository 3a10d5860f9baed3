"""Images of many sizes in training: resized, cropped and padded, from a sample to a sample.

A sample that a data set has already fitted into its box is resized once more, from that size.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detectors.data.entries import THINNEST
from detectors.data.sizes import PAD, rounded_up, turned_size
from detectors.structures import Sample, Targets
from detectors.training import Training

CROP_SIDES = (400, 500, 600)
"""Shorter sides, in pixels, that an image is resized to before it is cropped; DETR's."""

CROP_WINDOW = (384, 600)
"""Least and greatest side of the window, in pixels; DETR's."""


def rescaled(sample: Sample, training: Training, rng: np.random.Generator) -> Sample:
    """The image cropped for half of the draws if `training.crop`, then resized to a drawn side.

    The sample must be without padding (see `unpadded`).
    """
    if training.crop and rng.random() < 0.5:
        sample = random_window(resized(sample, int(rng.choice(CROP_SIDES)), math.inf), rng)
    return resized(sample, _side(training, rng), training.train_max_side)


def resized(sample: Sample, shorter: int, longer: float) -> Sample:
    """The shorter side becomes `shorter`, or less where the longer one would exceed `longer`."""
    height, width = sample.image.shape[1:]
    new_width, new_height = turned_size(width, height, shorter, longer)
    x, y = new_width / width, new_height / height
    boxes = sample.targets.boxes * sample.targets.boxes.new_tensor([x, y, x, y])
    return Sample(
        sample.image_id,
        _interpolated(sample.image, new_height, new_width),
        Targets(boxes, sample.targets.labels, (new_width, new_height)),
        (sample.scale[0] * x, sample.scale[1] * y),
    )


def random_window(sample: Sample, rng: np.random.Generator) -> Sample:
    """A window whose sides are drawn from 384 to 600 pixels, or to the image's side if less.

    Width, height, top and left are drawn in this order, each uniformly. The image has no side under
    384 pixels.
    """
    height, width = sample.image.shape[1:]
    least, most = CROP_WINDOW
    wide = int(rng.integers(least, min(width, most), endpoint=True))
    high = int(rng.integers(least, min(height, most), endpoint=True))
    top = int(rng.integers(0, height - high, endpoint=True))
    left = int(rng.integers(0, width - wide, endpoint=True))
    return cropped(sample, (left, top, left + wide, top + high))


def cropped(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    """What is inside `window` (xyxy, integers, within the image).

    Boxes are clipped to it; those with no area left (a side under 1e-3 px) are dropped, as in DETR.
    """
    x1, y1, x2, y2 = window
    corner = sample.targets.boxes.new_tensor([x1, y1])
    far = sample.targets.boxes.new_tensor([x2 - x1, y2 - y1])
    corners = (sample.targets.boxes.reshape(-1, 2, 2) - corner).clamp(min=0).minimum(far)
    inside = (corners[:, 1] - corners[:, 0] >= THINNEST).all(dim=1)
    extent = (x2 - x1, y2 - y1)
    targets = Targets(corners.reshape(-1, 4)[inside], sample.targets.labels[inside], extent)
    return Sample(sample.image_id, sample.image[:, y1:y2, x1:x2], targets, sample.scale)


def unpadded(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample without the padding at its right and bottom; `size`: original (width, height)."""
    width, height = (round(side * factor) for side, factor in zip(size, sample.scale, strict=True))
    image = sample.image[:, :height, :width]
    return Sample(sample.image_id, image, sample.targets, sample.scale)


def padded(sample: Sample) -> Sample:
    """The sample with each side padded, at the right and bottom, to the next multiple of 32."""
    height, width = (rounded_up(side) for side in sample.image.shape[1:])
    image = pad(sample.image, height, width)
    return Sample(sample.image_id, image, sample.targets, sample.scale)


def pad(image: Tensor, height: int, width: int) -> Tensor:
    """An image [3, H, W] with H <= height and W <= width, grey at the right and bottom."""
    below, beside = height - image.shape[1], width - image.shape[2]
    return functional.pad(image, (0, beside, 0, below), value=PAD)


def _side(training: Training, rng: np.random.Generator) -> int:
    sides = training.train_sides
    if training.side_range:
        return int(rng.integers(sides[0], sides[1], endpoint=True))
    return int(rng.choice(sides))


def _interpolated(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing: [3, H, W] uint8 -> [3, height, width] uint8."""
    if image.shape[1:] == (height, width):
        return image
    smooth = functional.interpolate(
        image[None].float(), (height, width), mode="bilinear", antialias=True
    )
    return smooth[0].round().clamp(0, 255).to(torch.uint8)
