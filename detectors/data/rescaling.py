"""Draw views of training images, and show, pad and unpad samples that are in memory."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detectors.data.orientation import Size
from detectors.data.sizes import PAD, rounded_up, turned_size
from detectors.data.views import View, Window
from detectors.structures import Sample
from detectors.training import Training

CROP_SIDES = (400, 500, 600)
"""Shorter sides, in pixels, to which an image is resized before it is cropped (as in DETR)."""

CROP_WINDOW = (384, 600)
"""Minimum and maximum of the sides of the window, in pixels (as in DETR)."""

CROP_ASPECT = 32
"""Largest ratio of the sides of an image that is cropped."""


def draw_view(size: Size, training: Training, rng: np.random.Generator) -> View:
    """Draw the view of a training image: its shorter side, and before that perhaps a window.

    With `training.crop`, a window is drawn with probability 0.5, except for images with a larger
    aspect than 32, because their shorter side would be enlarged to 400 pixels or more for it.

    Args:
        size: (width, height) of the image.
        training: `train_sides`, `side_range`, `train_max_side` and `crop`.
        rng: the generator.
    """
    enlarged, window = size, (0, 0, *size)
    if training.crop and rng.random() < 0.5 and max(size) <= CROP_ASPECT * min(size):
        enlarged = turned_size(*size, int(rng.choice(CROP_SIDES)), math.inf)
        window = draw_window(enlarged, rng)
    x1, y1, x2, y2 = window
    shown = turned_size(x2 - x1, y2 - y1, _draw_side(training, rng), training.train_max_side)
    return View(size, enlarged, window, shown)


def draw_window(size: Size, rng: np.random.Generator) -> Window:
    """Draw a window with sides of 384 to 600 pixels, at most those of the image.

    Width, height, top and left are drawn in this order, each uniformly.

    Args:
        size: (width, height) of the image, at least 384 each.
        rng: the generator.
    """
    width, height = size
    least, most = CROP_WINDOW
    wide = int(rng.integers(least, min(width, most), endpoint=True))
    high = int(rng.integers(least, min(height, most), endpoint=True))
    top = int(rng.integers(0, height - high, endpoint=True))
    left = int(rng.integers(0, width - wide, endpoint=True))
    return left, top, left + wide, top + high


def _draw_side(training: Training, rng: np.random.Generator) -> int:
    """Draw the shorter side."""
    sides = training.train_sides
    if training.side_range:
        return int(rng.integers(sides[0], sides[1], endpoint=True))
    return int(rng.choice(sides))


def size_of(sample: Sample) -> Size:
    """Return (width, height) of a sample."""
    height, width = sample.image.shape[1:]
    return width, height


def seen(sample: Sample, view: View) -> Sample:
    """Return a view of a sample; each step is a resizing of its own, rounded to uint8.

    The sample must have no padding (see `unpadded`).
    """
    x1, y1, x2, y2 = view.window
    image = _interpolated(sample.image, view.enlarged)[:, y1:y2, x1:x2]
    (x, y), (own_x, own_y) = view.scale, sample.scale
    return Sample(
        sample.image_id,
        _interpolated(image, view.size),
        view.targets(sample.targets.boxes.numpy(), sample.targets.labels.numpy()),
        (own_x * x, own_y * y),
    )


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


def _interpolated(image: Tensor, size: Size) -> Tensor:
    """Resize [3, H, W] uint8 to (width, height), bilinearly with antialiasing."""
    width, height = size
    if image.shape[1:] == (height, width):
        return image
    smooth = functional.interpolate(
        image[None].float(), (height, width), mode="bilinear", antialias=True
    )
    return smooth[0].round().clamp(0, 255).to(torch.uint8)
