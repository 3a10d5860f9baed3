"""Resize, crop and pad training samples to various sizes.

Samples have been resized by the data set before, and are resized again from that size.
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
"""Shorter sides, in pixels, to which an image is resized before it is cropped (as in DETR)."""

CROP_WINDOW = (384, 600)
"""Minimum and maximum of the sides of the window, in pixels (as in DETR)."""

CROP_ASPECT = 32
"""Largest ratio of the sides of an image that is cropped."""


def rescaled(sample: Sample, training: Training, rng: np.random.Generator) -> Sample:
    """Resize a sample to a random side; with `training.crop`, crop it with probability 0.5 before.

    The sample must have no padding (see `unpadded`). Images with a larger aspect than 32 are never
    cropped, because their shorter side would be enlarged to 400 pixels or more for it.
    """
    if training.crop and rng.random() < 0.5 and _aspect(sample) <= CROP_ASPECT:
        sample = random_window(resized(sample, int(rng.choice(CROP_SIDES)), math.inf), rng)
    return resized(sample, _side(training, rng), training.train_max_side)


def resized(sample: Sample, shorter: int, longer: float) -> Sample:
    """Resize the shorter side to `shorter`, or less if the longer one would exceed `longer`."""
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
    """Crop a random window with sides of 384 to 600 pixels, at most those of the image.

    Width, height, top and left are drawn in this order, each uniformly. The sides of the image must
    have at least 384 pixels.
    """
    height, width = sample.image.shape[1:]
    least, most = CROP_WINDOW
    wide = int(rng.integers(least, min(width, most), endpoint=True))
    high = int(rng.integers(least, min(height, most), endpoint=True))
    top = int(rng.integers(0, height - high, endpoint=True))
    left = int(rng.integers(0, width - wide, endpoint=True))
    return cropped(sample, (left, top, left + wide, top + high))


def cropped(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    """Crop a sample to `window` (xyxy, integers, inside the image).

    Boxes are clipped; those without area (a side below 1e-3 px) are removed, as in DETR.
    """
    x1, y1, x2, y2 = window
    corner = sample.targets.boxes.new_tensor([x1, y1])
    far = sample.targets.boxes.new_tensor([x2 - x1, y2 - y1])
    corners = (sample.targets.boxes.reshape(-1, 2, 2) - corner).clamp(min=0).minimum(far)
    inside = (corners[:, 1] - corners[:, 0] >= THINNEST).all(dim=1)
    extent = (x2 - x1, y2 - y1)
    targets = Targets(corners.reshape(-1, 4)[inside], sample.targets.labels[inside], extent)
    return Sample(sample.image_id, sample.image[:, y1:y2, x1:x2], targets, sample.scale)


def unpadded(sample: Sample) -> Sample:
    """Remove the padding at the right and bottom of a sample that was not augmented."""
    if sample.targets.extent is None:
        return sample
    width, height = map(round, sample.targets.extent)
    image = sample.image[:, :height, :width]
    return Sample(sample.image_id, image, sample.targets, sample.scale)


def padded(sample: Sample) -> Sample:
    """Pad each side, at the right and bottom, to the next multiple of 32."""
    height, width = (rounded_up(side) for side in sample.image.shape[1:])
    image = pad(sample.image, height, width)
    return Sample(sample.image_id, image, sample.targets, sample.scale)


def pad(image: Tensor, height: int, width: int) -> Tensor:
    """Pad an image [3, H, W] with grey at the right and bottom to height x width."""
    below, beside = height - image.shape[1], width - image.shape[2]
    return functional.pad(image, (0, beside, 0, below), value=PAD)


def _aspect(sample: Sample) -> float:
    """Return the ratio of the longer side to the shorter one."""
    sides = sample.image.shape[1:]
    return max(sides) / min(sides)


def _side(training: Training, rng: np.random.Generator) -> int:
    """Draw the shorter side."""
    sides = training.train_sides
    if training.side_range:
        return int(rng.integers(sides[0], sides[1], endpoint=True))
    return int(rng.choice(sides))


def _interpolated(image: Tensor, height: int, width: int) -> Tensor:
    """Resize [3, H, W] uint8 to [3, height, width], bilinearly with antialiasing."""
    if image.shape[1:] == (height, width):
        return image
    smooth = functional.interpolate(
        image[None].float(), (height, width), mode="bilinear", antialias=True
    )
    return smooth[0].round().clamp(0, 255).to(torch.uint8)
