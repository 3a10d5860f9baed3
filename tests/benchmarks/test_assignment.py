"""Measure assignment at COCO's size against a training step and dense SciPy, in one thread.

800 x 1344 pixels, strides 8 to 128: 22,400 points. `pytest -s tests/benchmarks/test_assignment.py`
prints the times.
"""

import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detectors.assigners.base import Assigner
from detectors.assigners.geometry import center_distance, in_center_square, matching_quality
from detectors.assigners.matching import match, one_to_one
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.models.fcos import FcosOptions
from detectors.models.points import pyramid_points
from detectors.models.resnet import ResNet
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch, Targets

HEIGHT, WIDTH, STRIDES, CLASSES = 800, 1344, (8, 16, 32, 64, 128), 80
SHARE = 0.1
SINGLE: dict[str, type[Assigner]] = {**O2M, **O2O, "o2f": O2F}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def points() -> Points:
    sizes = [(-(-HEIGHT // s), -(-WIDTH // s)) for s in STRIDES]
    return pyramid_points(sizes, STRIDES, torch.device("cpu"))


def scene(points: Points, objects: int) -> tuple[Predictions, Targets]:
    """Draw boxes of 12 to 400 pixels, and predictions around every point."""
    rng = torch.Generator().manual_seed(objects)
    size = torch.exp(2.5 + 3.5 * torch.rand(objects, 2, generator=rng))
    corner = torch.rand(objects, 2, generator=rng) * (torch.tensor([WIDTH, HEIGHT]) - size).clamp(0)
    labels = torch.randint(CLASSES, (objects,), generator=rng)
    targets = Targets(torch.cat([corner, corner + size], dim=1), labels)
    logits = 1.5 * torch.randn(len(points), CLASSES, generator=rng) - 4
    spread = torch.exp(0.5 * torch.randn(len(points), 4, generator=rng))
    reach = 2 * points.stride[:, None] * spread
    boxes = torch.cat([points.xy - reach[:, :2], points.xy + reach[:, 2:]], dim=1)
    return Predictions(logits, boxes), targets


def seconds(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median time of each function; they alternate, so that other load affects all."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, spent in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            spent.append(time.perf_counter() - start)
    return [median(spent) for spent in times]


@pytest.fixture(scope="module")
def step_seconds(points: Points) -> float:
    """Measure forward and backward pass of an image: a step without loss, optimiser and data."""
    backbone = ResNet(depth=50, bn="trained", frozen_stages=0)
    options = FcosOptions(backbone=backbone, channels=256, tower_convs=4, extra_levels=2, groups=32)
    model = options.build(CLASSES, ["o2o"]).train()
    image = torch.randint(256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8)

    def step() -> None:
        output = model(image)
        (predictions,) = output.branches["o2o"]
        assert predictions.logits.shape == (1, len(points), CLASSES)
        (predictions.logits.square().mean() + predictions.boxes.square().mean()).backward()

    (spent,) = seconds([step], 1)
    sys.stdout.write(f"\nResNet-50 FCOS, {HEIGHT} x {WIDTH}: {spent:.1f} s per step and image\n")
    return spent


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SINGLE)
def test_assignment_against_a_training_step(name: str, points: Points, step_seconds: float) -> None:
    (predictions, targets), assigner = scene(points, 20), SINGLE[name]()
    found: list[Assignment] = []
    progress = Progress(0, 10, 0, 10)
    (ours,) = seconds(
        [lambda: found.append(assigner.assign(points, predictions, targets, progress))], 7
    )
    share = ours / step_seconds
    sys.stdout.write(f"\n{name}: {1000 * ours:.1f} ms per image, {share:.2%} of a step\n")
    assert (found[0].object >= 0).any()
    assert share <= SHARE


def total(quality: Tensor, found: Assignment) -> float:
    (matched,) = (found.object[0] >= 0).nonzero(as_tuple=True)
    return float(quality.double()[found.object[0, matched], matched].sum())


@pytest.mark.parametrize("prior", ["everywhere", "centre square"])
@pytest.mark.parametrize("objects", [5, 20, 60])
def test_exact_matching_against_dense_scipy(objects: int, prior: str, points: Points) -> None:
    """Objects of `scene` are larger than a cell, so that none is without a candidate."""
    predictions, targets = scene(points, objects)
    batch = TargetBatch.of([targets], torch.device("cpu"))
    one = Predictions(predictions.logits[None], predictions.boxes[None])
    quality = matching_quality(one, batch, 0.8)[0]
    inside, distance = in_center_square(points, targets, 1.5), center_distance(points, targets)
    dense_quality = quality if prior == "everywhere" else torch.where(inside, quality, -objects)
    found: list[Assignment] = []
    expected: list[float] = []

    def sparse() -> None:
        if prior == "everywhere":
            found.append(one_to_one(quality[None], batch))
        else:
            found.append(match(quality[None], inside[None], lambda _: distance, batch, "lsa"))

    def dense() -> None:
        values = dense_quality.double().cpu().numpy()
        rows, columns = linear_sum_assignment(values, maximize=True)
        expected.append(float(values[rows, columns].sum()))

    ours, theirs = seconds([sparse, dense], 31)
    sys.stdout.write(
        f"\n{objects} objects, {prior}: {1000 * ours:.2f} ms against {1000 * theirs:.2f} ms, "
        f"{theirs / ours:.1f} times as fast\n"
    )
    assert len(found[0].object[0].unique()) == objects + 1  # type: ignore[no-untyped-call]
    assert total(dense_quality, found[0]) == pytest.approx(expected[0], abs=1e-9)
    assert ours <= theirs
    if objects == 60 and prior == "centre square":
        assert theirs / ours >= 3
