"""Candidates and ground truth for tests of evaluation, and suppression by a textbook.

Suppression is plain loops over numbers; boxes given to them have whole coordinates, so that every
area is exact and only the one division of an IoU is rounded.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth

Box = Sequence[float]


def candidates(boxes, scores, labels=0, image=0, levels=0, cells=((0, 0),)) -> Candidates:
    """Columns, broadcast to the number of boxes, in the order that Candidates promise.

    cells: (x, y) of each anchor point on the grid of its level, whose stride is 8 * 2 ** level.
    """
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)

    def whole(values) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64).expand(count).clone()

    levels, image = whole(levels), whole(image)
    strides = 8.0 * 2**levels
    cells = torch.as_tensor(cells, dtype=torch.float32).reshape(-1, 2).expand(count, 2)
    scores = torch.as_tensor(scores, dtype=torch.float32).expand(count)
    points = (cells + 0.5) * strides[:, None]
    found = Candidates(image, boxes, scores, whole(labels), levels, points, strides)
    return ordered(found)


def ordered(found: Candidates) -> Candidates:
    """By image, then by falling score."""
    found = found.take(found.scores.argsort(descending=True, stable=True))
    return found.take(found.image.argsort(stable=True))


def image_truth(image_id, boxes, labels=0, crowd=False, area=None) -> ImageTruth:
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) if area is None else torch.as_tensor(area)
    labels = torch.as_tensor(labels, dtype=torch.int64).expand(len(boxes)).clone()
    crowd = torch.as_tensor(crowd, dtype=torch.bool).expand(len(boxes)).clone()
    return ImageTruth(image_id, 640, 480, boxes, labels, crowd, area)


def grid(count: int, size: float = 20.0) -> torch.Tensor:
    """Boxes [count, 4] that do not touch each other."""
    left = torch.arange(count) * 2 * size
    return torch.stack([left, left * 0, left + size, left * 0 + size], dim=1)


def random_case(seed: int, images: int = 8) -> tuple[Candidates, GroundTruth]:
    """Crowds, score ties within and across images, images without objects or detections.

    Image ids are in no order; there is at least one object and one detection.
    """
    rng = np.random.default_rng(seed)
    classes = [f"class {k}" for k in range(rng.integers(1, 5))]
    truth, parts = [], []
    for place, image_id in enumerate(rng.permutation(images) + 3):
        count = int(rng.choice([0, 1, 5, 9])) if place else 5
        boxes, labels = random_boxes(rng, count), rng.integers(len(classes), size=count)
        crowd = rng.random(count) < 0.15 * (place > 0)
        truth.append(image_truth(int(image_id), boxes, labels, crowd))
        jittered = np.repeat(boxes, 3, axis=0) + rng.normal(0, 4, size=(3 * count, 4))
        found = np.concatenate([jittered, random_boxes(rng, int(rng.integers(4)) + (place == 0))])
        found_labels = rng.integers(len(classes), size=len(found))
        right = rng.random(3 * count) < 0.8
        found_labels[: 3 * count][right] = np.repeat(labels, 3)[right]
        scores = rng.integers(1, 20, size=len(found)) / 20
        keep = (rng.random(len(found)) < 0.8) | (place == 0)
        parts.append(candidates(found[keep], scores[keep], found_labels[keep], place))
    return Candidates.join(parts), GroundTruth.of(truth, classes)


def random_boxes(rng, count: int):
    corners = rng.random((count, 2)) * 300
    return np.concatenate([corners, corners + rng.choice([20, 60, 150], (count, 2))], axis=1)


def assert_same(found: Candidates, expected: Candidates) -> None:
    for name, column in vars(expected).items():
        assert torch.equal(getattr(found, name), column), name
        assert getattr(found, name).dtype == column.dtype, name


def iou(a: Box, b: Box) -> float:
    """With the precision of float32, as 3 / 5 is compared with 0.6."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    if not overlap:
        return 0.0
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return float(np.float32(overlap / (sum(areas) - overlap)))


def near(cells: tuple[int, int], levels: tuple[int, int], reach: int) -> bool:
    """Along one axis: whether cell 0 comes within `reach` of cell 1, on the grid of the latter.

    A coarser cell covers several of that grid, a finer one lies in one of them.
    """
    (other, own), up = cells, levels[0] - levels[1]
    covered = range(other << up, (other + 1) << up) if up > 0 else [other >> -up]
    return any(abs(cell - own) <= reach for cell in covered)


class Loop:
    """Suppression among `found` as a protocol's fields describe it."""

    def __init__(self, found: Candidates, protocol: Protocol) -> None:
        self.protocol, self.image = protocol, found.image.tolist()
        self.boxes, self.labels, self.levels = (
            column.tolist() for column in (found.boxes, found.labels, found.levels)
        )
        self.cells = (found.points // found.strides[:, None]).int().tolist()
        self.threshold = float(np.float32(protocol.nms_iou))

    def survivors(self, limit: int | None = None) -> list[int]:
        filtering = self.protocol.suppression == "max_filter"
        kept: list[int] = []
        for j in range(len(self.boxes)):
            better: Iterable[int] = range(j) if filtering else kept
            if not any(self.suppresses(i, j) for i in better):
                kept.append(j)
        return kept if limit is None else first_of_each_image(kept, self.image, limit)

    def suppresses(self, i: int, j: int) -> bool:
        p, apart = self.protocol, abs(self.levels[i] - self.levels[j])
        if self.image[i] != self.image[j] or (p.class_wise and self.labels[i] != self.labels[j]):
            return False
        if p.level_range is not None and apart > p.level_range:
            return False
        if p.spatial_range is not None:
            axes = zip(self.cells[i], self.cells[j], strict=True)
            levels, reach = (self.levels[i], self.levels[j]), (p.spatial_range - 1) // 2
            if not all(near(cells, levels, reach) for cells in axes):
                return False
        return p.suppression == "max_filter" or iou(self.boxes[i], self.boxes[j]) > self.threshold


def first_of_each_image(index: Sequence[int], image: Sequence[int], most: int) -> list[int]:
    counts, kept = Counter[int](), []
    for i in index:
        counts[image[i]] += 1
        if counts[image[i]] <= most:
            kept.append(i)
    return kept
