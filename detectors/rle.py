"""Masks as COCO's run-length encodings (RLE): a few hundred bytes each. hotcoco codes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from hotcoco import mask as coco
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True, eq=False)
class Rles:
    """N masks, each as large as its image.

    Attributes:
        counts: [N] of bytes: COCO's compressed counts; empty for an object without a mask, which
            is not the same as a mask without a pixel.
    """

    counts: NDArray[np.object_]

    @classmethod
    def of(cls, counts: Iterable[bytes]) -> Self:
        """Create a column of masks."""
        listed = list(counts)
        column = np.empty(len(listed), dtype=np.object_)
        column[:] = listed
        return cls(column)

    @classmethod
    def none(cls, number: int) -> Self:
        """Create `number` rows without a mask."""
        return cls.of([b""] * number)

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """Concatenate columns."""
        return cls(np.concatenate([cls.none(0).counts, *(part.counts for part in parts)]))

    @classmethod
    def joined(cls, parts: Sequence[tuple[Self | None, int]]) -> Self | None:
        """Concatenate columns of so many rows, of which some are None; None if all of them are."""
        if all(part is None for part, _ in parts):
            return None
        return cls.join(cls.none(rows) if part is None else part for part, rows in parts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: Tensor) -> "Rles":
        """Return the masks at `index` (int64 positions or a bool mask), in that order."""
        return Rles(self.counts[index.numpy()])

    @property
    def held(self) -> Tensor:
        """Whether each row has a mask: [N] bool."""
        return torch.tensor([bool(each) for each in self.counts], dtype=torch.bool)


def encode(masks: Tensor) -> Rles:
    """Encode masks [N, height, width] bool of one image."""
    number, height, width = masks.shape
    if not masks.numel():
        return Rles.of([_empty(height, width)] * number)
    columns = masks.cpu().transpose(1, 2).contiguous().numpy().view(np.uint8)
    rles: Any = coco.encode(columns.T)  # in Fortran's order; its stub leaves lists out
    return Rles.of(each["counts"] for each in rles)


def decode(rles: Rles, size: Size) -> Tensor:
    """Decode masks of one image of `size`: [N, height, width] bool.

    Raises:
        ValueError: a row has no mask.
    """
    width, height = size
    if not all(rles.counts):
        raise ValueError("a row without a mask can't be decoded")
    if not len(rles):
        return torch.zeros(0, height, width, dtype=torch.bool)
    columns = coco.decode(as_coco(rles, [size] * len(rles)))
    return torch.from_numpy(columns.T).transpose(1, 2).bool()


def of_segmentation(segmentation: Any, size: Size) -> bytes:
    """Encode a sound segmentation (see `detectors.data.masks.extent`) of an image of `size`.

    Args:
        segmentation: polygons, of which the parts outside the image are left out, or an RLE of the
            image, compressed or not.
        size: of the image.
    """
    width, height = size
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return segmentation["counts"].encode()
    found = coco.frPyObjects(segmentation, height, width)
    counts: bytes = (coco.merge(found) if isinstance(found, list) else found)["counts"]
    return counts


def as_coco(rles: Rles, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Return masks as COCO's tools take them: mappings with `size` and `counts`."""
    pairs = zip(rles.counts, sizes, strict=True)
    return [{"size": [height, width], "counts": counts} for counts, (width, height) in pairs]


def overlap(masks: Rles, others: Rles, crowd: NDArray[np.bool_], size: Size) -> NDArray[np.float64]:
    """Compute the IoU of masks with other masks of the same image: [N, M] float64.

    Args:
        masks: N masks.
        others: M masks.
        crowd: [M], which of the others are crowd regions; the common area is then divided by that
            of the mask alone.
        size: of the image.
    """
    if not len(masks) or not len(others):
        return np.zeros((len(masks), len(others)))
    first, second = (as_coco(each, [size] * len(each)) for each in (masks, others))
    return coco.iou(first, second, crowd.astype(np.uint8))


def _empty(height: int, width: int) -> bytes:
    rle = {"size": [height, width], "counts": [height * width]}
    counts: bytes = coco.frPyObjects(rle, height, width)["counts"]
    return counts
