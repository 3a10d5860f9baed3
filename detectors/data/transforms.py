"""Augmentation: pure functions of samples. Boxes stay xyxy and inside the image."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from detectors.structures import Sample

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey of a pixel (ITU-R 601-2, as in Pillow)."""


def flip_horizontal(sample: Sample) -> Sample:
    """Flip left and right."""
    width = sample.image.shape[2]
    x1, y1, x2, y2 = sample.targets.boxes.unbind(1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return _replace(sample, lambda pixels: pixels.flip(2), boxes, sample.scale)


def flip_vertical(sample: Sample) -> Sample:
    """Flip top and bottom."""
    height = sample.image.shape[1]
    x1, y1, x2, y2 = sample.targets.boxes.unbind(1)
    boxes = torch.stack([x1, height - y2, x2, height - y1], dim=1)
    return _replace(sample, lambda pixels: pixels.flip(1), boxes, sample.scale)


def transpose(sample: Sample) -> Sample:
    """Swap x and y. Raises ValueError if the image is not square, because its size would change."""
    height, width = sample.image.shape[1:]
    if height != width:
        raise ValueError(f"transpose needs a square image, not {height} x {width}")
    boxes, extent = sample.targets.boxes[:, [1, 0, 3, 2]], sample.targets.extent
    turned = _replace(sample, lambda pixels: pixels.transpose(1, 2), boxes, sample.scale[::-1])
    return replace(turned, targets=replace(turned.targets, extent=extent and extent[::-1]))


def keep(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return the sample unchanged; no random number is drawn."""
    del rng
    return sample


def random_mirror(sample: Sample, rng: np.random.Generator) -> Sample:
    """Flip left and right with probability 0.5."""
    return flip_horizontal(sample) if rng.random() < 0.5 else sample


def random_dihedral(sample: Sample, rng: np.random.Generator) -> Sample:
    """Flip each way and transpose (square images only), each with probability 0.5.

    Three numbers are always drawn, so the flips don't depend on the size of the image.
    """
    horizontal, vertical, swapped = rng.random(3) < 0.5
    if horizontal:
        sample = flip_horizontal(sample)
    if vertical:
        sample = flip_vertical(sample)
    if swapped and sample.image.shape[1] == sample.image.shape[2]:
        sample = transpose(sample)
    return sample


def random_colours(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Change brightness, contrast and saturation by factors in [1 - strength, 1 + strength].

    Padding at the right and bottom stays as it is.
    """
    factors = rng.uniform(1 - strength, 1 + strength, 3).tolist()
    height, width = sample.image.shape[1:]
    if sample.targets.extent is not None:
        width, height = map(round, sample.targets.extent)
    image = sample.image.clone()
    image[:, :height, :width] = recoloured(image[:, :height, :width], *factors)
    return replace(sample, image=image)


def recoloured(
    image: torch.Tensor, brightness: float, contrast: float, saturation: float
) -> torch.Tensor:
    """Multiply brightness, then contrast (around the mean grey), then saturation.

    It is computed in one step without rounding in between, by NumPy, whose results do not depend on
    the number of threads.

    Args:
        image: [3, H, W] uint8 RGB.
        brightness: factor, 1 changes nothing; the others likewise.
        contrast: factor.
        saturation: factor.
    """
    pixels = image.numpy().astype(np.float32)
    grey = sum(np.float32(weight) * each for weight, each in zip(GREY, pixels, strict=True))
    sums = image.sum(dim=(1, 2)).tolist()  # of integers, so exact
    mean = sum(weight * each for weight, each in zip(GREY, sums, strict=True)) / grey.size
    gain, middle = brightness * contrast, (1 - contrast) * brightness * mean
    mixed = gain * saturation * pixels + (gain * (1 - saturation) * grey + middle)
    return torch.from_numpy(np.rint(mixed.clip(0, 255)).astype(np.uint8))


def _replace(
    sample: Sample,
    turn: Callable[[torch.Tensor], torch.Tensor],
    boxes: torch.Tensor,
    scale: tuple[float, float],
) -> Sample:
    """Return a sample with other boxes, whose image and masks [N, H, W] are turned."""
    masks = sample.targets.masks
    targets = replace(sample.targets, boxes=boxes, masks=None if masks is None else turn(masks))
    return Sample(sample.image_id, turn(sample.image), targets, scale)


AUGMENTATIONS: Mapping[str, Callable[[Sample, np.random.Generator], Sample]] = {
    "none": keep,
    "hflip": random_mirror,
    "dihedral": random_dihedral,
}
"""`Training.augment` -> function."""
