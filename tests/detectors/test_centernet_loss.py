"""CenterNet's loss as published, cell by cell and object by object."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.assigners.centernet import CenterNet, gaussian_radius
from detectors.criterion import Criterion
from detectors.losses import LossOptions
from detectors.models.backbones import Tiny
from detectors.models.decode import size_offset
from detectors.models.onenet import OneNetOptions
from detectors.models.points import pyramid_points
from detectors.structures import Predictions, Progress, Targets
from detectors.world import LocalWorld
from tests.detectors.batching import packed, together
from tests.examples import examples

ROWS, COLUMNS, STRIDE, CLASSES = 7, 6, 4, 2
POINTS = pyramid_points([(ROWS, COLUMNS)], (STRIDE,), torch.device("cpu"))
PAPER = LossOptions(box="size_offset", box_weight=1.0, normalizer="objects")
OVERLAP = 0.3

Center = tuple[float, float]


def objects(count: int, rng: torch.Generator) -> Targets:
    """Draw objects whose centres are in different cells."""
    cells = torch.randperm(ROWS * COLUMNS, generator=rng)[:count]
    corner = STRIDE * torch.stack([cells % COLUMNS, cells // COLUMNS], 1)
    center = corner + STRIDE * torch.rand(count, 2, generator=rng)
    half = 1 + 10 * torch.rand(count, 2, generator=rng)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    return Targets(torch.cat([center - half, center + half], 1), labels)


def center_of(box: list[float]) -> Center:
    """Return the centre in cells."""
    return (box[0] + box[2]) / 2 / STRIDE, (box[1] + box[3]) / 2 / STRIDE


def heat(targets: Targets, label: int, row: int, column: int) -> float:
    """Return Y of Eq. 1's target: the highest Gaussian of the objects of a class."""
    found = [0.0]
    sides = targets.boxes[:, 2:] - targets.boxes[:, :2]
    for g in (g for g in range(len(targets)) if int(targets.labels[g]) == label):
        x, y = center_of(targets.boxes[g].tolist())
        square = (column - math.floor(x)) ** 2 + (row - math.floor(y)) ** 2
        radius = gaussian_radius(sides[g : g + 1], OVERLAP).item() / STRIDE
        if square == 0:
            found.append(1.0)
        elif square <= radius**2:
            found.append(math.exp(-square / (2 * (radius / 3) ** 2)))
    return max(found)


def focal(logits: list[list[float]], targets: Targets) -> float:
    """Sum Eq. 1 over cells and classes, without its sign and N."""
    total = 0.0
    for n, scores in enumerate(logits):
        for label, logit in enumerate(scores):
            y, p = heat(targets, label, n // COLUMNS, n % COLUMNS), 1 / (1 + math.exp(-logit))
            term = (1 - p) ** 2 * math.log(p)
            total -= term if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    return total


def offset_and_size(raw: list[list[float]], targets: Targets) -> tuple[float, float]:
    """Sum Eq. 2 and Eq. 3 over objects, without N."""
    offset = size = 0.0
    for box in targets.boxes.tolist():
        x, y = center_of(box)
        column, row = math.floor(x), math.floor(y)
        dx, dy, width, height = raw[row * COLUMNS + column]
        offset += abs(dx - (x - column)) + abs(dy - (y - row))
        size += abs(width - (box[2] - box[0]) / STRIDE) + abs(height - (box[3] - box[1]) / STRIDE)
    return offset, size


@examples(25)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(0, 999))
def test_equals_the_published_loss(counts: list[int], seed: int) -> None:
    """L = L_k + 0.1 L_size + L_off (Eq. 4), each divided by the number N of objects."""
    rng = torch.Generator().manual_seed(seed)
    targets = [objects(count, rng) for count in counts]
    shape = (len(counts), len(POINTS))
    logits = 2 * torch.randn(*shape, CLASSES, generator=rng)
    raw = 3 * torch.randn(*shape, 4, generator=rng)
    predicted = Predictions(logits, size_offset(raw, POINTS), encoded=raw)
    assigner = CenterNet(min_overlap=OVERLAP)
    found = [
        assigner.assign(POINTS, predicted.image(i), of, Progress(0, 1, 0, 1))
        for i, of in enumerate(targets)
    ]
    loss = Criterion(PAPER, LocalWorld()).branch_loss(
        POINTS, predicted, together(found), packed(*targets), assigner.loss
    )
    number = max(1, sum(counts))
    classes = sum(focal(logits[i].tolist(), of) for i, of in enumerate(targets))
    boxes = [offset_and_size(raw[i].tolist(), of) for i, of in enumerate(targets)]
    offset, size = (sum(pair[k] for pair in boxes) for k in (0, 1))
    parts = {name: value.item() for name, value in loss.parts().items()}
    expected = {"cls": classes / number, "box": (offset + 0.1 * size) / number}
    assert parts == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_detector_decodes_its_peak_to_the_box_it_was_trained_for() -> None:
    """With the wanted offset and size at the centre's cell, the box is that of the object."""
    options = OneNetOptions(backbone=Tiny(channels=(8, 16)), channels=16, box="size_offset")
    torch.manual_seed(0)
    output = options.build(CLASSES, ("o2m",))(torch.zeros(1, 3, 28, 24, dtype=torch.uint8))
    (found,), points = output.branches["o2m"], output.points["o2m"]
    assert torch.equal(points.xy, POINTS.xy)
    assert found.encoded is not None
    raw: Tensor = found.encoded.detach().clone()
    raw[0, 2 * COLUMNS + 3] = torch.tensor([0.25, 0.75, 4.5, 2.0])
    box = size_offset(raw, points)[0, 2 * COLUMNS + 3]
    x, y = 3.25 * STRIDE, 2.75 * STRIDE
    assert box.tolist() == [x - 9, y - 4, x + 9, y + 4]
