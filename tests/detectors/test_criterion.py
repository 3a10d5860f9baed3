import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors.criterion import Loss, branch_loss, supply
from detectors.structures import Assignment, Predictions, Targets
from detectors.training import Training
from detectors.world import LocalWorld, World

CLASSES, POINTS = 3, 12
TRAINING = Training(focal_alpha=0.3, focal_gamma=1.5)

Box = tuple[float, float, float, float]


@dataclass
class SharedWorld:
    """Rank `rank` of two, whose sum over both ranks is known beforehand."""

    rank: int
    total: float
    size: int = 2

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return torch.full_like(value.detach(), self.total / self.size)

    def gather(self, value: Any) -> list[Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Case:
    """A batch, however it came to be assigned."""

    predictions: Predictions
    assignments: list[Assignment]
    targets: list[Targets]

    def loss(self, *, soft: bool, world: World | None = None) -> Loss:
        return branch_loss(
            self.predictions,
            self.assignments,
            self.targets,
            soft=soft,
            training=TRAINING,
            world=world or LocalWorld(),
        )

    def share(self, rank: int) -> "Case":
        """Every second image."""
        p = self.predictions
        return Case(
            Predictions(p.logits[rank::2], p.boxes[rank::2]),
            self.assignments[rank::2],
            self.targets[rank::2],
        )

    def degrees(self) -> float:
        return sum(float(a.degree.sum()) for a in self.assignments)


def boxes(count: int, rng: torch.Generator) -> Tensor:
    corner = 20 * torch.rand(count, 2, generator=rng, dtype=torch.float64)
    far = corner + 1 + 12 * torch.rand(count, 2, generator=rng, dtype=torch.float64)
    return torch.cat([corner, far], dim=1)


def case(counts: list[int], seed: int, *, soft: bool) -> Case:
    """A batch of double precision with counts[i] objects in image i; points assigned at random."""
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(len(counts), POINTS, CLASSES, generator=rng, dtype=torch.float64)
    drawn = boxes(len(counts) * POINTS, rng).reshape(len(counts), POINTS, 4)
    predictions = Predictions(logits.requires_grad_(), drawn.requires_grad_())
    targets = [Targets(boxes(n, rng), torch.randint(CLASSES, (n,), generator=rng)) for n in counts]
    return Case(predictions, [assigned(n, rng, soft=soft) for n in counts], targets)


def assigned(count: int, rng: torch.Generator, *, soft: bool) -> Assignment:
    owner = torch.randint(-1, count, (POINTS,), generator=rng)
    degree = torch.rand(POINTS, generator=rng, dtype=torch.float64).clamp(min=0.1)
    degree = torch.where(degree < 0.4, 1.0, degree) if soft else torch.ones_like(degree)
    return Assignment(owner, torch.where(owner >= 0, degree, 0.0))


def scalar_giou(a: Box, b: Box) -> float:
    meet_x = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    meet_y = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - meet_x * meet_y
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return meet_x * meet_y / union - (hull - union) / hull


def scalar_cls(logit: float, t: float, *, soft: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    if soft and t > 0:
        return -t * math.log(p) - (1 - t) * math.log(1 - p)
    p_t, alpha_t = (p, TRAINING.focal_alpha) if t else (1 - p, 1 - TRAINING.focal_alpha)
    return -alpha_t * math.pow(1 - p_t, TRAINING.focal_gamma) * math.log(p_t)


def looped(of: Case, *, soft: bool) -> tuple[float, float]:
    """002 Eq. 4 and 5, a box weighted by its degree; both over the sum of degrees, at least 1."""
    cls = box = total = 0.0
    for i, (found, targets) in enumerate(zip(of.assignments, of.targets, strict=True)):
        for n, (g, degree) in enumerate(
            zip(found.object.tolist(), found.degree.tolist(), strict=True)
        ):
            label = targets.labels[g].item() if g >= 0 else None
            for c in range(CLASSES):
                logit = of.predictions.logits[i, n, c].item()
                cls += scalar_cls(logit, degree if c == label else 0.0, soft=soft)
            if g >= 0:
                x0, y0, x1, y1 = of.predictions.boxes[i, n].tolist()
                t0, t1, t2, t3 = targets.boxes[g].tolist()
                box += degree * (1 - scalar_giou((x0, y0, x1, y1), (t0, t1, t2, t3)))
                total += degree
    return cls / max(1.0, total), box / max(1.0, total)


batches = st.lists(st.integers(0, 4), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(batches, st.integers(0, 999), st.booleans())
def test_equals_the_loop_over_points(counts: list[int], seed: int, soft: bool) -> None:
    of = case(counts, seed, soft=soft)
    loss = of.loss(soft=soft)
    assert (loss.cls.item(), loss.box.item()) == pytest.approx(looped(of, soft=soft))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.integers(0, 999), st.booleans())
def test_mean_over_two_ranks_is_the_loss_of_the_global_batch(
    counts: list[int], seed: int, soft: bool
) -> None:
    of = case(counts, seed, soft=soft)
    ranks = [of.share(r).loss(soft=soft, world=SharedWorld(r, of.degrees())) for r in range(2)]
    whole = of.loss(soft=soft)
    assert sum(r.cls.item() for r in ranks) / 2 == pytest.approx(whole.cls.item())
    assert sum(r.box.item() for r in ranks) / 2 == pytest.approx(whole.box.item())


def test_positives_fewer_than_one_on_average_a_rank_are_not_rounded_up() -> None:
    """One positive in a batch on two ranks: the global count is 1, the mean over ranks 0.5."""
    of = case([0, 1], seed=1, soft=False)
    only = torch.tensor([0] + [-1] * (POINTS - 1))
    of.assignments[1] = Assignment(only, (only >= 0).double())
    ranks = [of.share(r).loss(soft=False, world=SharedWorld(r, 1.0)) for r in range(2)]
    assert sum(r.box.item() for r in ranks) / 2 == pytest.approx(of.loss(soft=False).box.item())


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("counts", [[0], [0, 0, 0]])
def test_batch_without_objects_trains_the_background_alone(counts: list[int], soft: bool) -> None:
    of = case(counts, seed=2, soft=soft)
    loss = of.loss(soft=soft)
    assert loss.box.item() == 0
    assert (loss.cls.item(), 0.0) == pytest.approx(looped(of, soft=soft))
    (loss.cls + loss.box).backward()  # type: ignore[no-untyped-call]
    for values in (of.predictions.logits, of.predictions.boxes):
        assert values.grad is not None
        assert values.grad.isfinite().all()
    assert of.predictions.logits.grad is not None
    assert (of.predictions.logits.grad != 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("output", ["logits", "boxes"])
@pytest.mark.parametrize("soft", [False, True])
def test_predictions_that_are_not_finite_make_their_part_nan_even_where_nothing_is_assigned(
    bad: float, output: str, soft: bool
) -> None:
    of = case([0, 2], seed=3, soft=soft)
    with torch.no_grad():
        getattr(of.predictions, output)[0, 5, 1] = bad
    loss = of.loss(soft=soft)
    assert (loss.cls if output == "logits" else loss.box).isnan()


def test_gradient_reaches_boxes_of_positive_points_only() -> None:
    of = case([2, 0], seed=4, soft=True)
    of.loss(soft=True).box.backward()  # type: ignore[no-untyped-call]
    assert of.predictions.boxes.grad is not None
    moved = of.predictions.boxes.grad.abs().sum(2) > 0
    assert torch.equal(moved, torch.stack([a.object >= 0 for a in of.assignments]))


def test_perfect_boxes_cost_nothing() -> None:
    of = case([1], seed=5, soft=False)
    same = of.targets[0].boxes.repeat(POINTS, 1)[None]
    loss = Case(Predictions(of.predictions.logits, same), of.assignments, of.targets)
    assert loss.loss(soft=False).box.item() == pytest.approx(0, abs=1e-12)


def hand_made(objects: list[int], count: int) -> tuple[Assignment, Targets]:
    """Points assigned to `objects` (-1 for none) of an image that has `count`."""
    owner = torch.tensor(objects, dtype=torch.int64)
    boxes = torch.tensor([0.0, 0.0, 9.0, 9.0]).repeat(count, 1)
    return Assignment(owner, (owner >= 0) * 0.5), Targets(boxes, torch.zeros(count).long())


class TestSupply:
    @pytest.mark.parametrize(
        ("images", "expected"),
        [
            ([([0, -1, 1, -1], 2)], [2, 0, 2]),
            ([([0, 0, 0, 2], 4)], [4, 2, 4]),
            ([([-1, -1], 3)], [0, 3, 3]),
            ([([-1, -1], 0)], [0, 0, 0]),
            ([([1, 1], 2), ([-1, -1], 0), ([0, 1], 3)], [4, 2, 5]),
            ([([0], 1), ([0], 1)], [2, 0, 2]),  # object 0 of two images are two objects
            ([([], 2)], [0, 2, 2]),
            ([], [0, 0, 0]),
        ],
    )
    def test_counts_positives_and_objects_without_any(
        self, images: list[tuple[list[int], int]], expected: list[float]
    ) -> None:
        pairs = [hand_made(*image) for image in images]
        found = supply([a for a, _ in pairs], [t for _, t in pairs])
        assert found.tolist() == expected
        assert found.dtype == torch.float64

    @given(batches, st.integers(0, 999))
    def test_of_a_batch_is_the_sum_over_its_images(self, counts: list[int], seed: int) -> None:
        of = case(counts, seed, soft=True)
        each = [supply([a], [t]) for a, t in zip(of.assignments, of.targets, strict=True)]
        whole = supply(of.assignments, of.targets)
        assert torch.equal(whole, torch.stack(each).sum(0))
        owners = [set(a.object.tolist()) - {-1} for a in of.assignments]
        assert whole[1].item() == sum(counts) - sum(map(len, owners))
        assert whole[0].item() == sum(int((a.degree > 0).sum()) for a in of.assignments)
