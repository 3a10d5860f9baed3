"""The ground truth of a whole data set in columns, as evaluators need it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from detectors.structures import ImageTruth


@dataclass(frozen=True)
class GroundTruth:
    """Objects of I images, sorted by image; G objects in all.

    image_ids: I ids, index i is image i of the data set; sizes: (width, height) of each;
    image: [G] int64 in [0, I); boxes: [G, 4] float xyxy, original pixels; labels: [G] int64 in
    [0, len(classes)); crowd: [G] bool, regions where a detection is neither right nor wrong;
    area: [G] float, square pixels.
    """

    image_ids: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]
    image: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor

    @classmethod
    def of(cls, images: Sequence[ImageTruth], classes: Sequence[str]) -> Self:
        """The columns of `images`.

        Raises ValueError when there are none, or when image ids repeat.
        """
        if not images:
            raise ValueError("no image in the ground truth; evaluate on a split with images")
        ids = tuple(image.image_id for image in images)
        if len(set(ids)) != len(ids):
            raise ValueError("image ids repeat in the ground truth; give every image its own id")
        counts = torch.tensor([len(image.labels) for image in images])
        return cls(
            ids,
            tuple((image.width, image.height) for image in images),
            tuple(classes),
            torch.arange(len(images)).repeat_interleave(counts),
            torch.cat([image.boxes for image in images]),
            torch.cat([image.labels for image in images]),
            torch.cat([image.crowd for image in images]),
            torch.cat([image.area for image in images]),
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)
