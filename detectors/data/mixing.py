"""Mix images into one, so that it has more objects: mosaic and mixup (DEIM's dense one-to-one)."""

from collections.abc import Sequence

import torch

from detectors.data.orientation import Size
from detectors.data.rescaling import pad
from detectors.data.sizes import PAD
from detectors.structures import Sample, Targets

MIXUP_SHARE = (0.45, 0.55)
"""Range of the share of the first of two images, as in DEIM."""


def mosaic(tiles: Sequence[Sample], cell: Size) -> Sample:
    """Put four samples into the cells of an image of two rows and columns; they meet in its centre.

    Args:
        tiles: top left, top right, bottom left, bottom right; without padding, at most as large as
            a cell. The result has the id and the scale of the first.
        cell: (width, height) of a cell.
    """
    width, height = cell
    image = torch.full((3, 2 * height, 2 * width), PAD, dtype=torch.uint8)
    boxes = []
    for number, tile in enumerate(tiles):
        row, column = divmod(number, 2)
        high, wide = tile.image.shape[1:]
        top, left = height if row else height - high, width if column else width - wide
        image[:, top : top + high, left : left + wide] = tile.image
        boxes.append(tile.targets.boxes + tile.targets.boxes.new_tensor([left, top, left, top]))
    labels = torch.cat([tile.targets.labels for tile in tiles])
    targets = Targets(torch.cat(boxes), labels, (2 * width, 2 * height))
    return Sample(tiles[0].image_id, image, targets, tiles[0].scale)


def mixup(first: Sample, second: Sample, share: float) -> Sample:
    """Return the weighted mean of two images, with the objects of both.

    The smaller one is padded at the right and bottom. The result has the id and the scale of the
    first.

    Args:
        first: a sample.
        second: another one.
        share: weight of the first, in [0, 1]; that of the second is `1 - share`.
    """
    pairs = zip(first.image.shape[1:], second.image.shape[1:], strict=True)
    height, width = (max(pair) for pair in pairs)
    one, other = (pad(each.image, height, width).float() for each in (first, second))
    image = (share * one + (1 - share) * other).round().to(torch.uint8)
    targets = Targets(
        torch.cat([first.targets.boxes, second.targets.boxes]),
        torch.cat([first.targets.labels, second.targets.labels]),
        _extent(first.targets.extent, second.targets.extent),
    )
    return Sample(first.image_id, image, targets, first.scale)


def _extent(
    one: tuple[float, float] | None, other: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return the smallest extent that holds both; None, the whole input, if one of them is None."""
    return one and other and (max(one[0], other[0]), max(one[1], other[1]))
