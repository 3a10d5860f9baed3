"""The records that travel between data, model, assignment, loss and evaluation.

Shape letters: B images, N anchor points (all levels, finest first), C classes, G objects of one
image, M candidates. Boxes are xyxy in pixels of the tensor they belong to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Points:
    """Anchor points of one input size. Several anchors of one cell are as many points there.

    xy: [N, 2] float, pixels; stride: [N] float, pixels; level: [N] int64, 0 is the finest.
    anchors: [N, 4] float xyxy, pixels: each point's reference box, for assignments and decoders
    that need one. extent: (width, height) in pixels of what the finest level's cells cover.
    """

    xy: Tensor
    stride: Tensor
    level: Tensor
    anchors: Tensor
    extent: tuple[float, float]

    def __len__(self) -> int:
        return len(self.xy)

    def to(self, device: str) -> Self:
        """The same points on `device`."""
        columns = (self.xy, self.stride, self.level, self.anchors)
        xy, stride, level, anchors = (column.to(device) for column in columns)
        return type(self)(xy, stride, level, anchors, self.extent)


@dataclass(frozen=True)
class Targets:
    """Objects of one image: boxes [G, 4] float xyxy in pixels, labels [G] int64 in [0, C).

    extent: (width, height) in pixels of the image without its padding; None: the whole input.
    """

    boxes: Tensor
    labels: Tensor
    extent: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: str) -> Self:
        """The same objects on `device`."""
        return type(self)(self.boxes.to(device), self.labels.to(device), self.extent)


@dataclass(frozen=True)
class Predictions:
    """Raw output at every anchor point: logits [..., N, C], boxes [..., N, 4] xyxy in pixels.

    logits: of the score p that assignment and classification loss see. Where a gate (a predicted
    centerness, a max filter) is part of the score, it is part of these logits, and `ungated` holds
    those of the class alone; without a gate `ungated` is None.
    centerness: [..., N] logits, where centerness is trained by itself and joins in at inference.
    The leading dimension is B for a batch and absent for one image (see `image`).
    """

    logits: Tensor
    boxes: Tensor
    ungated: Tensor | None = None
    centerness: Tensor | None = None

    def image(self, index: int) -> "Predictions":
        """Logits and boxes of one image, detached: assignment never sends gradients."""
        return Predictions(self.logits[index].detach(), self.boxes[index].detach())

    def of_classes_alone(self) -> "Predictions":
        """The same without gate and centerness."""
        return Predictions(self.logits if self.ungated is None else self.ungated, self.boxes)

    def scores(self) -> Tensor:
        """[..., N, C] in [0, 1], by which detections are ranked.

        sqrt(class score * centerness) where centerness is trained by itself (FCOS's improved
        recipe), else the sigmoid of the logits. A protocol's floor is compared with these; released
        FCOS codes compare theirs with the class score alone.
        """
        scores = self.logits.float().sigmoid()
        if self.centerness is None:
            return scores
        return (scores * self.centerness.float().sigmoid()[..., None]).sqrt()


@dataclass(frozen=True)
class Output:
    """What a detector says of a batch: for every branch its points and its predictions.

    In training a branch with several cascaded heads has as many predictions at its points, each of
    them supervised; in eval mode it has one.
    """

    points: Mapping[str, Points]
    branches: Mapping[str, tuple[Predictions, ...]]


@dataclass(frozen=True)
class Assignment:
    """Which object each anchor point is responsible for, and to what degree.

    object: [N] int64, index into Targets, -1 for a point without one.
    degree: [N] float in [0, 1]: 1 for a positive (or certain) point, t for an ambiguous one, 0 for
    a point without an object. `degree > 0` exactly where `object >= 0`.
    weight: [N, C] or [N, 1] float >= 0, the factor of each term of the classification loss (0: the
    point teaches nothing there); None: 1 everywhere.
    """

    object: Tensor
    degree: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Progress:
    """Where training stands; schedules are pure functions of it, so a resumed trial continues them.

    step in [0, steps), epoch in [0, epochs).
    """

    step: int
    steps: int
    epoch: int
    epochs: int


@dataclass(frozen=True)
class Candidates:
    """Raw candidates (point and class pairs) of one image or of many, before any suppression.

    Sorted by image, then by falling score. What a protocol keeps of them are its detections.

    image: [M] int64, index of the image in its data set; boxes: [M, 4] float xyxy in pixels of the
    original image; scores: [M] float in [0, 1]; labels: [M] int64; levels: [M] int64; points:
    [M, 2] float and strides: [M] float, the anchor point in pixels of the detector's input.
    """

    image: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor
    points: Tensor
    strides: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: Tensor) -> "Candidates":
        """The candidates at `index` (int64 positions or a bool mask), in that order."""
        return Candidates(**{name: column[index] for name, column in vars(self).items()})

    @classmethod
    def join(cls, parts: "Sequence[Candidates]") -> "Candidates":
        """All of `parts` (at least one), sorted by image; those of one image stay in order."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        joined = cls(*(torch.cat(column) for column in columns))
        return joined.take(joined.image.argsort(stable=True))

    @classmethod
    def none(cls) -> "Candidates":
        """No candidates at all."""
        index, flat = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        return cls(index, torch.zeros(0, 4), flat, index, index, torch.zeros(0, 2), flat)


@dataclass(frozen=True)
class ImageTruth:
    """Ground truth of one image in its original pixels, as an evaluator needs it.

    boxes: [G, 4] float xyxy; labels: [G] int64; crowd: [G] bool (COCO `iscrowd`: a detection there
    is neither right nor wrong); area: [G] float, square pixels (COCO `area`, for AP by size).
    """

    image_id: int
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor


@dataclass(frozen=True)
class Sample:
    """One image as the detector sees it.

    image: [3, H, W] uint8 RGB; targets: its non-crowd objects in the same pixels; scale: (x, y)
    factors from original to these pixels.
    """

    image_id: int
    image: Tensor
    targets: Targets
    scale: tuple[float, float]
