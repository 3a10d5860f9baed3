"""Candidates and ground truth for tests of evaluation, and suppression in plain loops.

Boxes given to the loops have integer coordinates, so that every area is exact and only the one
division of an IoU is rounded.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.evaluation.gap import Gap, gap_between
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import select_both
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth

Box = Sequence[float]
ROOMY = ((1_000_000, 1_000_000),) * 1000
"""Sizes of images whose right and bottom edges no box reaches."""
Values = Tensor | NDArray[Any] | Sequence[Any] | float
"""One value for all rows, or one value per row."""


def measure_gap(candidates: Candidates, truth: GroundTruth, protocol: Protocol) -> Gap:
    """Measure the candidates of all images, without suppression and with it."""
    return gap_between(select_both(candidates, protocol, truth.sizes), truth, protocol)


def candidates(
    boxes: Values,
    scores: Values,
    labels: Values = 0,
    image: Values = 0,
    levels: Values = 0,
    cells: Values = ((0, 0),),
    level_points: Values = 1_000_000,
) -> Candidates:
    """Build candidates in the order of the class; values are broadcast to the number of boxes.

    cells: (x, y) of each anchor point on the grid of its level, whose stride is 8 * 2 ** level.
    """
    box_N4 = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(box_N4)

    def integers(values: Values) -> Tensor:
        return torch.as_tensor(values, dtype=torch.int64).expand(count).clone()

    level_N = integers(levels)
    strides = 8.0 * 2**level_N
    cell_N2 = torch.as_tensor(cells, dtype=torch.float32).reshape(-1, 2).expand(count, 2)
    score_N = torch.as_tensor(scores, dtype=torch.float32).expand(count)
    points = (cell_N2 + 0.5) * strides[:, None]
    columns = (integers(image), box_N4, score_N, integers(labels), level_N, points, strides)
    return ordered(Candidates(*columns, integers(level_points)))


def ordered(found: Candidates) -> Candidates:
    """Sort candidates by image, then by falling score."""
    found = found.take(found.scores.argsort(descending=True, stable=True))
    return found.take(found.image.argsort(stable=True))


def image_truth(
    image_id: int,
    boxes: Values,
    labels: Values = 0,
    crowd: Values = False,
    area: Values | None = None,
) -> ImageTruth:
    """Build the ground truth of an image of 640 x 480 pixels; by default areas are the boxes'."""
    box_G4 = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    area_G = (box_G4[:, 2:] - box_G4[:, :2]).prod(dim=1) if area is None else torch.as_tensor(area)
    label_G = torch.as_tensor(labels, dtype=torch.int64).expand(len(box_G4)).clone()
    crowd_G = torch.as_tensor(crowd, dtype=torch.bool).expand(len(box_G4)).clone()
    return ImageTruth(image_id, 640, 480, box_G4, label_G, crowd_G, area_G)


def grid(count: int, size: float = 20.0) -> Tensor:
    """Build boxes [count, 4] that do not touch each other."""
    left = torch.arange(count) * 2 * size
    return torch.stack([left, left * 0, left + size, left * 0 + size], dim=1)


def random_case(seed: int, images: int = 8) -> tuple[Candidates, GroundTruth]:
    """Build images with crowds, equal scores, and without objects or detections.

    Scores are equal within and across images. Image ids are not sorted. There is at least one
    object and one detection.
    """
    rng = np.random.default_rng(seed)
    classes = [f"class {k}" for k in range(rng.integers(1, 5))]
    truth, parts = [], []
    for index, image_id in enumerate(rng.permutation(images) + 3):
        count = int(rng.choice([0, 1, 5, 9])) if index else 5
        boxes, labels = random_boxes(rng, count), rng.integers(len(classes), size=count)
        crowd = rng.random(count) < 0.15 * (index > 0)
        truth.append(image_truth(int(image_id), boxes, labels, crowd))
        jittered = np.repeat(boxes, 3, axis=0) + rng.normal(0, 4, size=(3 * count, 4))
        found = np.concatenate([jittered, random_boxes(rng, int(rng.integers(4)) + (index == 0))])
        found_labels = rng.integers(len(classes), size=len(found))
        right = rng.random(3 * count) < 0.8
        found_labels[: 3 * count][right] = np.repeat(labels, 3)[right]
        scores = rng.integers(1, 20, size=len(found)) / 20
        keep = (rng.random(len(found)) < 0.8) | (index == 0)
        parts.append(candidates(found[keep], scores[keep], found_labels[keep], index))
    return Candidates.join(parts), GroundTruth.of(truth, classes)


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    corners = rng.random((count, 2)) * 300
    return np.concatenate([corners, corners + rng.choice([20, 60, 150], (count, 2))], axis=1)


def assert_same(found: Candidates, expected: Candidates) -> None:
    for name, column in vars(expected).items():
        if column is not None:
            assert torch.equal(getattr(found, name), column), name
            assert getattr(found, name).dtype == column.dtype, name


def iou(a: Box, b: Box) -> float:
    """Compute the IoU in float32, so that 3 / 5 equals a threshold of 0.6."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    if not overlap:
        return 0.0
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return float(np.float32(overlap / (sum(areas) - overlap)))


def near(cells: tuple[int, int], levels: tuple[int, int], reach: int) -> bool:
    """Tell whether cell 0 is within `reach` of cell 1 along one axis, on the grid of cell 1.

    A cell of a coarser level covers several cells of that grid, one of a finer level lies in one.
    """
    (other, own), up = cells, levels[0] - levels[1]
    covered = range(other << up, (other + 1) << up) if up > 0 else [other >> -up]
    return any(abs(cell - own) <= reach for cell in covered)


class Loop:
    """Suppression among `found` by the fields of a protocol, pair by pair."""

    def __init__(self, found: Candidates, protocol: Protocol) -> None:
        self.protocol = protocol
        self.image: list[int] = found.image.tolist()
        self.boxes: list[Box] = found.boxes.tolist()
        self.labels: list[int] = found.labels.tolist()
        self.levels: list[int] = found.levels.tolist()
        self.cells: list[list[int]] = (found.points // found.strides[:, None]).int().tolist()
        self.threshold = float(np.float32(protocol.nms_iou))

    def survivors(self, limit: int | None = None) -> list[int]:
        """Return the indices of kept candidates, at most `limit` per image."""
        filtering = self.protocol.suppression == "max_filter"
        kept, counts = list[int](), Counter[int]()
        for j, image in enumerate(self.image):
            if counts[image] == limit:  # whatever follows in this image is left out
                continue
            better: Iterable[int] = range(j) if filtering else kept
            if not any(self.suppresses(i, j) for i in better):
                kept.append(j)
                counts[image] += 1
        return kept

    def suppresses(self, i: int, j: int) -> bool:
        """Tell whether candidate `i`, which has the higher score, suppresses candidate `j`."""
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


def first_of_each_group(index: Sequence[int], group: Sequence[Hashable], most: int) -> list[int]:
    """Keep at most the first `most` of the indices in each group, by the group of every index."""
    counts, kept = Counter[Hashable](), []
    for i in index:
        counts[group[i]] += 1
        if counts[group[i]] <= most:
            kept.append(i)
    return kept
