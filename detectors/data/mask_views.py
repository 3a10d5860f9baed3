"""The masks of samples and of ground truth, for detectors and protocols that need them."""

import torch
from torch import Tensor

from detectors.data.base import NO_MASKS, DataError, Dataset, Segmented
from detectors.data.orientation import Size
from detectors.data.views import View
from detectors.evaluation.truth import GroundTruth
from detectors.rle import decode
from detectors.structures import ImageTruth, Sample

COARSE = 4
"""Masks of a batch have one pixel in so many of each row and column, as in CondInst."""


def segmented(dataset: Dataset) -> Segmented:
    """Return a data set whose objects have masks. Raises DataError if it is none."""
    if not isinstance(dataset, Segmented):
        raise DataError([f"{type(dataset).__name__}: its objects have no masks; {NO_MASKS}"])
    return dataset


def ground_truth(dataset: Dataset, *, masks: bool) -> GroundTruth:
    """Return the ground truth of all images, on request with masks; see `Segmented`.

    Raises:
        DataError: there are no masks, or they can't be used.
    """
    if not masks:
        return GroundTruth.of(dataset.truth(), dataset.classes)
    found = segmented(dataset)
    if problems := found.mask_problems():
        raise DataError(problems)
    images = [found.segmented(index) for index in range(len(found))]
    return GroundTruth.of(images, dataset.classes)


def masks_of(sample: Sample, truth: ImageTruth, view: View | None = None) -> Tensor:
    """Return the masks of the objects of a sample before augmentation: [G, H, W] bool.

    A pixel has the value of the pixel of the original image in which its centre lies.

    Args:
        sample: the sample.
        truth: its objects, with masks.
        view: the view of the image that it shows; None: the whole image, perhaps with padding.
    """
    objects, offset = (~truth.crowd).nonzero()[:, 0], (0.0, 0.0)
    if view is not None:
        (x1, y1, x2, y2), (width, height) = view.window, view.size
        offset = (-x1 * width / (x2 - x1), -y1 * height / (y2 - y1))
        boxes = truth.boxes[objects].numpy()
        objects = view.targets(boxes, objects.numpy()).labels  # without those cropped away
    assert truth.masks is not None
    masks = decode(truth.masks[objects], (truth.width, truth.height))
    high, wide = sample.image.shape[1:]
    return _resampled(masks, sample.scale, offset, (wide, high))


def coarse(masks: Tensor) -> Tensor:
    """Return the pixel near the centre of each COARSE x COARSE pixels: [G, ceil(H / COARSE), ...].

    Cells at the right and bottom that are cut off before their centre have their last pixel.
    """
    height, width = masks.shape[1:]
    y, x = (_centres(side, masks.device) for side in (height, width))
    return masks[:, y][:, :, x]


def _centres(side: int, device: torch.device) -> Tensor:
    return torch.arange(COARSE // 2, side + COARSE // 2, COARSE, device=device).clamp(max=side - 1)


def _resampled(
    masks: Tensor, scale: tuple[float, float], offset: tuple[float, float], size: Size
) -> Tensor:
    """Resample masks [G, H, W] to (width, height) `size`.

    Args:
        masks: masks of the original image.
        scale: (x, y) factors from its pixels to those of the result.
        offset: (x, y) pixels of the result, added after the factors.
        size: of the result. What lies outside the original is False.
    """
    if (scale, offset, size) == ((1.0, 1.0), (0.0, 0.0), (masks.shape[2], masks.shape[1])):
        return masks
    columns, rows = (
        ((torch.arange(side, dtype=torch.float64) + 0.5 - shift) / factor).floor().long()
        for side, shift, factor in zip(size, offset, scale, strict=True)
    )
    inside_x, inside_y = (
        (at >= 0) & (at < side) for at, side in ((columns, masks.shape[2]), (rows, masks.shape[1]))
    )
    columns, rows = columns.clamp(0, masks.shape[2] - 1), rows.clamp(0, masks.shape[1] - 1)
    return masks[:, rows][:, :, columns] & inside_y[:, None] & inside_x
