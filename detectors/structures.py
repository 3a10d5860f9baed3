"""The records passed between data, model, assignment, loss and evaluation.

Shape letters: B images, N anchor points (all levels, finest first), C classes, G objects of one
image, O objects of a batch, K positive points of a batch, M candidates. Boxes are xyxy in pixels of
the tensor they belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detectors.rle import Rles
from detectors.synchronisations import on_host


@dataclass(frozen=True)
class Points:
    """The anchor points of one input size. A cell with several anchors has one point per anchor.

    Attributes:
        xy: [N, 2] float, pixels.
        stride: [N] float, pixels.
        level: [N] int64; 0 is the finest.
        anchors: [N, 4] float xyxy, pixels; the reference box of each point.
        extent: (width, height) in pixels of the area that the finest level's cells cover.
        sizes: number of points of each level, finest first; empty for a selection (see `take`).
        located: whether points have positions. False for queries: their one cell is the whole
            input, with xy its centre, stride its longer side and anchors its border.
        groups: number of groups of equal size. Each is assigned as if there were no others.
    """

    xy: Tensor
    stride: Tensor
    level: Tensor
    anchors: Tensor
    extent: tuple[float, float]
    sizes: tuple[int, ...]
    located: bool = True
    groups: int = 1

    def __len__(self) -> int:
        return len(self.xy)

    def take(self, index: Tensor) -> Self:
        """Return the points at `index` [K], as one group."""
        columns = (self.xy, self.stride, self.level, self.anchors)
        xy, stride, level, anchors = (column[index] for column in columns)
        return type(self)(xy, stride, level, anchors, self.extent, (), self.located)

    def to(self, device: str) -> Self:
        """Return the points on `device`."""
        names = ("xy", "stride", "level", "anchors")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @cached_property
    def host(self) -> Self:
        """The points on the CPU, copied at the first use."""
        return self.to("cpu")


@dataclass(frozen=True)
class Targets:
    """The objects of one image.

    Attributes:
        boxes: [G, 4] float xyxy, pixels.
        labels: [G] int64 in [0, C).
        extent: (width, height) in pixels of the image without its padding; None: the whole input.
        masks: [G, H, W] bool, the pixels of the image that show each object; None: not read.
    """

    boxes: Tensor
    labels: Tensor
    extent: tuple[float, float] | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: str) -> Self:
        """Return the objects, without their masks, on `device`."""
        return type(self)(self.boxes.to(device), self.labels.to(device), self.extent)


@dataclass(frozen=True)
class TargetBatch:
    """The objects of B images, padded to the same number G of at least 1 per image.

    Rows of padding follow the objects of their image. They may hold any numbers.

    Attributes:
        boxes: [B, G, 4] float xyxy, pixels.
        labels: [B, G] int64 in [0, C).
        real: [B, G] bool: whether the row is an object.
        extent: [B, 2] float, (width, height) in pixels of each image without its padding; NaN: the
            whole input.
        image: [O] int64, index of the image of each object.
        number: [O] int64, index of each object in its image.
        images: the same objects, image by image, on the CPU.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor
    extent: Tensor
    image: Tensor
    number: Tensor
    images: tuple[Targets, ...]

    @classmethod
    def of(cls, images: Sequence[Targets], device: torch.device) -> Self:
        """Pad the objects of at least one image, and copy them to `device` without waiting."""
        padded = cls._on_host(images)
        return cls(
            padded.boxes.to(device, non_blocking=True),
            padded.labels.to(device, non_blocking=True),
            padded.real.to(device, non_blocking=True),
            padded.extent.to(device, non_blocking=True),
            padded.image.to(device, non_blocking=True),
            padded.number.to(device, non_blocking=True),
            padded.images,
        )

    @classmethod
    @on_host
    def _on_host(cls, images: Sequence[Targets]) -> Self:
        held = tuple(each.to("cpu") for each in images)
        boxes = pad_sequence([each.boxes for each in held], batch_first=True)
        labels = pad_sequence([each.labels for each in held], batch_first=True)
        if not boxes.shape[1]:
            boxes, labels = boxes.new_zeros(len(held), 1, 4), labels.new_zeros(len(held), 1)
        counts = torch.tensor([len(each) for each in held])
        real = torch.arange(boxes.shape[1]) < counts[:, None]
        whole = (float("nan"), float("nan"))
        extent = boxes.new_tensor([each.extent or whole for each in held])
        rows = [(i, n) for i, each in enumerate(held) for n in range(len(each))]
        image, number = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).unbind(1)
        return cls(boxes, labels, real, extent, image, number, held)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def counts(self) -> list[int]:
        """The number of objects of each image."""
        return [len(each) for each in self.images]

    def repeated(self, times: int) -> Self:
        """Return the objects of the images `times` times, one batch after the other."""
        shifts = torch.arange(times, device=self.image.device) * len(self)
        return type(self)(
            self.boxes.repeat(times, 1, 1),
            self.labels.repeat(times, 1),
            self.real.repeat(times, 1),
            self.extent.repeat(times, 1),
            (shifts[:, None] + self.image).flatten(),
            self.number.repeat(times),
            self.images * times,
        )

    def extents(self, points: Points) -> Tensor:
        """Return (width, height) in pixels of every image without its padding: [B, 2]."""
        sides = [self.extent.new_full((1,), side) for side in points.extent]
        return torch.where(self.extent.isnan(), torch.cat(sides), self.extent)


@dataclass(frozen=True)
class Predictions:
    """The raw output of one head at every anchor point.

    The leading dimension is B for a batch and absent for one image (see `image`).

    Attributes:
        logits: [..., N, C], logits of the score that assignment and classification loss use. If
            the head has a gate (a predicted centerness or a max filter), it is included.
        boxes: [..., N, 4] xyxy, pixels.
        ungated: [..., N, C], logits of the class score without the gate; None without a gate.
        centerness: [..., N], logits of a centerness with a loss of its own, which multiplies the
            score at inference only; None without one.
        encoded: [..., N, 4], the boxes as the head encodes them, before any clamp; None for codes
            without an encoder (see `detectors.models.decode`).
        masks: [..., N, P], parameters of masks (see `detectors.models.condinst`); None without.
        references: [..., N, 4] xyxy, pixels: anchors or proposals of two stages; None otherwise.
    """

    logits: Tensor
    boxes: Tensor
    ungated: Tensor | None = None
    centerness: Tensor | None = None
    encoded: Tensor | None = None
    masks: Tensor | None = None
    references: Tensor | None = None

    def image(self, index: int) -> "Predictions":
        """Return logits and boxes of one image, detached: assignment has no gradients."""
        return Predictions(self.logits[index].detach(), self.boxes[index].detach())

    def finite(self) -> "Predictions":
        """Return what assignment uses, detached; logits and boxes are 0 if any is not finite."""
        logits, boxes = self.logits.detach(), self.boxes.detach()
        all_finite = logits.isfinite().all() & boxes.isfinite().all()
        logits, boxes = (torch.where(all_finite, each, 0.0) for each in (logits, boxes))
        return Predictions(logits, boxes, references=self.references)

    def without_gate(self) -> "Predictions":
        """Return the predictions without gate and centerness."""
        return Predictions(self.logits if self.ungated is None else self.ungated, self.boxes)

    def scores(self) -> Tensor:
        """Return the scores that rank detections: [..., N, C] in [0, 1].

        sqrt(class score * centerness) if centerness has a loss of its own (FCOS's improved recipe),
        else the sigmoid of the logits. The score floor of a protocol is compared with these scores;
        released FCOS codes compare theirs with the class score alone.
        """
        scores = self.logits.float().sigmoid()
        if self.centerness is None:
            return scores
        return (scores * self.centerness.float().sigmoid()[..., None]).sqrt()


@dataclass(frozen=True)
class Assignment:
    """Which object each anchor point is responsible for, and to what degree.

    The leading dimension is B for a batch and absent for one image.

    Attributes:
        object: [..., N] int64, an index into the objects of the image; -1 for a point without one.
        degree: [..., N] float in [0, 1]: 1 for a positive (or certain) point, t for an ambiguous
            one, 0 for a point without an object. `degree > 0` exactly where `object >= 0`.
        weight: [..., N, C] or [..., N, 1] float >= 0, the factor of each term of the classification
            loss; 0 removes the term; None: 1 everywhere.
        index: image [K] and point [K], int64, of the positive points of a batch, sorted; None: not
            found yet.
        counts: the number of positive points of each image, if `index` is known.
    """

    object: Tensor
    degree: Tensor
    weight: Tensor | None = None
    index: tuple[Tensor, Tensor] | None = None
    counts: tuple[int, ...] = ()

    def located(self) -> Self:
        """Return the assignment of a batch with its `index`; to find it waits once for the device.

        The wait is for the counts: positive points of a known number are found without one.
        """
        if self.index is not None:
            return self
        positive_BN = self.object >= 0
        counts = tuple(positive_BN.sum(1).tolist())
        image, point = positive_BN.nonzero_static(size=sum(counts)).unbind(1)
        return replace(self, index=(image, point), counts=counts)

    def positives(self) -> tuple[Tensor, Tensor]:
        """Return image [K] and point [K] of the positive points of a batch, see `index`."""
        index = self.located().index
        assert index is not None
        return index

    def split(self, parts: int) -> list[Self]:
        """Return the assignments of equal parts of a batch that has its `index`."""
        if parts == 1:
            return [self]
        size = len(self.object) // parts
        counts = [self.counts[start : start + size] for start in range(0, size * parts, size)]
        image, point = (torch.split(each, [sum(of) for of in counts]) for each in self.positives())
        weights = [None] * parts if self.weight is None else torch.split(self.weight, size)
        owners, degrees = torch.split(self.object, size), torch.split(self.degree, size)
        columns = zip(owners, degrees, weights, strict=True)
        return [
            type(self)(*column, (image[i] - i * size, point[i]), counts[i])
            for i, column in enumerate(columns)
        ]


@dataclass(frozen=True)
class Progress:
    """The current step and epoch of a training: step in [0, steps), epoch in [0, epochs).

    Schedules are pure functions of it, so a resumed training continues them.
    """

    step: int
    steps: int
    epoch: int
    epochs: int


@dataclass(frozen=True)
class Candidates:
    """Raw candidates (pairs of point and class) of one or several images, before suppression.

    Sorted by image, then by descending score. A protocol selects its detections from them.

    Attributes:
        image: [M] int64, index of the image in its data set.
        boxes: [M, 4] float xyxy, pixels of the original image; those of raw candidates are not
            clipped to it.
        scores: [M] float in [0, 1].
        labels: [M] int64.
        levels: [M] int64, pyramid levels.
        points: [M, 2] float, the anchor point in pixels of the detector's input.
        strides: [M] float, the stride of the anchor point in the same pixels.
        level_points: [M] int64, the number of anchor points on the level of the candidate.
        masks: [M] masks in pixels of the original image; None: the detector predicts none.
    """

    image: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor
    points: Tensor
    strides: Tensor
    level_points: Tensor
    masks: Rles | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: Tensor) -> "Candidates":
        """Return the candidates at `index` (int64 positions or a bool mask), in that order."""
        columns = {n: column[index] for n, column in vars(self).items() if column is not None}
        return Candidates(**columns)

    @classmethod
    def join(cls, parts: "Sequence[Candidates]") -> "Candidates":
        """Concatenate `parts` (at least one), sorted by image; the order within an image stays."""
        rows = [[v for name, v in vars(part).items() if name != "masks"] for part in parts]
        columns = (torch.cat(column) for column in zip(*rows, strict=True))
        joined = cls(*columns, masks=Rles.joined([(part.masks, len(part)) for part in parts]))
        return joined.take(joined.image.argsort(stable=True))

    @classmethod
    def flat(cls, image: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> "Candidates":
        """Create candidates without levels and anchor points: level 0, points and strides NaN.

        The number of points of their level is so high that `cap_at_points` has no effect.
        """
        unknown = scores.new_full((len(scores), 3), float("nan"))
        points, strides, levels = unknown[:, :2], unknown[:, 2], torch.zeros_like(labels)
        many = torch.full_like(labels, torch.iinfo(torch.int32).max)
        return cls(image, boxes, scores, labels, levels, points, strides, many)

    @classmethod
    def none(cls) -> "Candidates":
        """Return an empty set of candidates."""
        index, flat = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        return cls(index, torch.zeros(0, 4), flat, index, index, torch.zeros(0, 2), flat, index)


@dataclass(frozen=True)
class ImageTruth:
    """Ground truth of one image for evaluation, in pixels of the original image.

    Attributes:
        image_id: id of the image in the data set.
        width: width of the image.
        height: height of the image.
        boxes: [G, 4] float xyxy.
        labels: [G] int64.
        crowd: [G] bool, COCO's `iscrowd`: detections in these regions are ignored.
        area: [G] float, square pixels: COCO's `area`, for AP by size.
        masks: [G] masks; None: not read.
    """

    image_id: int
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor
    masks: Rles | None = None


@dataclass(frozen=True)
class Sample:
    """One image as input of a detector.

    Attributes:
        image_id: id of the image in the data set.
        image: [3, H, W] uint8 RGB.
        targets: its objects without crowd regions, in pixels of `image`.
        scale: (x, y) factors from pixels of the original image to pixels of `image`.
    """

    image_id: int
    image: Tensor
    targets: Targets
    scale: tuple[float, float]
