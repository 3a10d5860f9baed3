"""Suppressed, cut, floored and repeated inputs are recognised, and others are not."""

import numpy as np
import pytest
import torch

from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import select
from detectors.structures import Candidates
from gaplab.storage.detections.findings import Facts, Findings
from tests.examples import FUZZ

IMAGES = 60
SEEDS = range(3 if FUZZ else 1)


def dense(seed: int, spread: float = 0.1, classes: int = 2) -> Candidates:
    """Build what a dense head predicts: many boxes around each of eight objects per image."""
    rng = np.random.default_rng(seed)
    parts = []
    for image in range(IMAGES):
        sides = rng.uniform(30, 120, (8, 2))
        objects = np.hstack([rng.uniform(0, 400, (8, 2)), sides])
        of = rng.integers(0, 8, 100)
        noise = rng.normal(0, spread, (100, 4)) * np.tile(sides[of], 2)
        x_y, w_h = np.split(objects[of] + noise, 2, axis=1)
        boxes = np.hstack([x_y, x_y + np.abs(w_h) + 1])
        scores = np.sort(rng.random(100) ** 3)[::-1].copy()
        parts.append(
            Candidates.flat(
                torch.full((100,), image),
                torch.from_numpy(boxes),
                torch.from_numpy(scores),
                torch.from_numpy(of % classes),
            )
        )
    return Candidates.join(parts)


def findings(*parts: Candidates, images: int = IMAGES) -> Findings:
    facts = Facts(images)
    for part in parts:
        facts.add(part)
    return facts.findings()


def suppressed(candidates: Candidates, iou: float, *, class_wise: bool = True) -> Candidates:
    protocol = Protocol(nms_iou=iou, class_wise=class_wise, max_dets=300)
    sizes = [(1_000_000, 1_000_000)] * IMAGES
    return select(candidates, protocol, sizes, suppress=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("iou", [0.45, 0.5, 0.6, 0.65, 0.7])
@pytest.mark.parametrize("class_wise", [True, False])
def test_suppressed_input_is_recognised(seed: int, iou: float, class_wise: bool) -> None:
    found = findings(suppressed(dense(seed), iou, class_wise=class_wise))
    assert found.suppressed is not None
    assert iou - 0.03 <= found.suppressed <= iou + 1e-9
    assert found.agnostic == (not class_wise)
    assert any("looks suppressed already" in line for line in found.lines())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_raw_candidates_are_not_taken_for_suppressed_ones(seed: int, spread: float) -> None:
    assert findings(dense(seed, spread)).suppressed is None


@pytest.mark.parametrize("seed", SEEDS)
def test_one_detection_for_each_object_is_not_taken_for_a_suppressed_input(seed: int) -> None:
    """Objects overlap at random, and ever less often at a high IoU."""
    rng = np.random.default_rng(seed)
    count = 10 * IMAGES
    corner, sides = rng.uniform(0, 300, (count, 2)), rng.uniform(60, 120, (count, 2))
    boxes = torch.from_numpy(np.hstack([corner, corner + sides]))
    image = torch.arange(IMAGES).repeat_interleave(10)
    scores = torch.linspace(0.9, 0.1, 10, dtype=torch.float64).repeat(IMAGES)
    labels = torch.zeros(count, dtype=torch.int64)
    assert findings(Candidates.flat(image, boxes, scores, labels)).suppressed is None


def test_the_largest_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 1, 0])
    found = findings(Candidates.flat(torch.zeros(4, dtype=torch.int64), boxes, scores, labels))
    assert found.overlap == pytest.approx(0.8)
    assert found.suppressed is None


@pytest.mark.parametrize(
    ("counts", "cut"),
    [
        ((100, 100, 100), 100),
        ((300, 300, 0, 300), 300),
        ((100, 100, 99), None),
        ((7, 7), 7),
        ((1, 1, 1), None),
        ((100,), None),
        ((), None),
    ],
)
def test_cut_input_is_recognised(counts: tuple[int, ...], cut: int | None) -> None:
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    scores = torch.cat([torch.linspace(0.9, 0.1, n) for n in counts] or [torch.zeros(0)])
    boxes = torch.rand(len(image), 4) + torch.tensor([0.0, 0, 1, 1])
    found = findings(
        Candidates.flat(image, boxes, scores, torch.zeros_like(image)), images=len(counts) + 2
    )
    assert found.cut == cut
    assert found.per_image == max(counts, default=0)
    assert found.images_without == 2 + counts.count(0)
    assert any(line.startswith("cut: ") for line in found.lines()) == (cut is not None)


@pytest.mark.parametrize(("floor", "floored"), [(0.0, False), (1e-4, False), (1e-3, True)])
def test_a_score_floor_is_recognised(floor: float, floored: bool) -> None:
    image, labels = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    scores = torch.tensor([0.9, 0.5, floor], dtype=torch.float64)
    found = findings(Candidates.flat(image, torch.rand(3, 4), scores, labels))
    assert (found.floor, found.floored) == (floor, floored)
    assert any("score floor" in line for line in found.lines()) == floored


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_repeated_rows_are_counted(copies: int) -> None:
    found = dense(0)
    repeated = Candidates.join([found] * copies)
    order = np.lexsort((-repeated.scores.numpy(), repeated.image.numpy()))
    counted = findings(repeated.take(torch.from_numpy(order)))
    assert counted.repeats == (copies - 1) * len(found)


def test_facts_do_not_depend_on_parts() -> None:
    whole = dense(1)
    halves = [whole.take(whole.image < 30), whole.take(whole.image >= 30)]
    assert findings(*halves) == findings(whole)
