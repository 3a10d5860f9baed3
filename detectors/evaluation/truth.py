"""The ground truth of a whole data set in columns, for the evaluators."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.rle import Rles
from detectors.structures import Candidates, ImageTruth


@dataclass(frozen=True)
class GroundTruth:
    """The G objects of I images, sorted by image.

    Attributes:
        image_ids: I ids, in the order of the data set.
        sizes: I pairs (width, height) in pixels.
        classes: names of the classes, in label order.
        image: [G] int64 in [0, I), index of the image.
        boxes: [G, 4] float xyxy, pixels of the original image.
        labels: [G] int64 in [0, len(classes)).
        crowd: [G] bool, regions in which detections are ignored.
        area: [G] float, square pixels.
        masks: [G] masks; None: they were not read.
    """

    image_ids: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]
    image: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor
    masks: Rles | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, images: Sequence[ImageTruth], classes: Sequence[str]) -> Self:
        """Create the columns from ground truth of single images.

        Raises:
            ValueError: there is no image, or image ids repeat.
        """
        ids = tuple(image.image_id for image in images)
        require_images(ids)
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
            masks=_joined([image.masks for image in images]),
        )

    def digest(self) -> str:
        """Return the SHA-256 of all columns but masks, in hex: equal for equal boxes only."""
        total = hashlib.sha256(json.dumps([self.image_ids, self.sizes, self.classes]).encode())
        for column in (self.image, self.boxes, self.labels, self.crowd, self.area):
            total.update(f"{column.dtype} {tuple(column.shape)} ".encode())
            total.update(column.contiguous().numpy().tobytes())
        return total.hexdigest()

    def positions(self) -> NDArray[np.int64]:
        """Return the position of each image among all, sorted by id: [I]."""
        order = np.argsort(np.array(self.image_ids, dtype=np.int64), kind="stable")
        return np.argsort(order, kind="stable")

    def require_objects(self) -> None:
        """Raise ValueError if there is no object; crowd regions don't count."""
        if bool(self.crowd.all()):
            raise ValueError(
                f"no object in {len(self)} images of ground truth: AP is undefined; "
                "evaluate on a split with objects"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)


def _joined(masks: Sequence[Rles | None]) -> Rles | None:
    """Return the masks of all images; None if those of any image were not read."""
    read = [each for each in masks if each is not None]
    return Rles.join(read) if len(read) == len(masks) else None


def require_images(ids: Sequence[int]) -> None:
    """Raise ValueError if there is no image, or ids of images repeat."""
    if not ids:
        raise ValueError("no image in the ground truth; evaluate on a split with images")
    if len(set(ids)) != len(ids):
        raise ValueError("image ids repeat in the ground truth; give every image its own id")


def as_candidates(truth: GroundTruth) -> Candidates:
    """Return every object, without crowd regions, as a candidate with score 1."""
    objects = ~truth.crowd
    image, boxes, labels = truth.image[objects], truth.boxes[objects], truth.labels[objects]
    ones, level = boxes.new_ones(len(boxes)), image * 0
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    masks = None if truth.masks is None else truth.masks[objects]
    return Candidates(image, boxes, ones, labels, level, centres, ones, level + 1, masks=masks)
