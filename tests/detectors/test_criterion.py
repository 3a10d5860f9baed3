"""Compare every part of the loss with a loop over points and classes; see `loss_cases.py`."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.criterion import Loss
from detectors.losses import ClsLoss, LossOptions
from detectors.models.decode import ENCODERS
from detectors.models.points import pyramid_points
from detectors.structures import Assignment, Predictions, Targets
from tests.detectors import loss_cases
from tests.examples import examples

KINDS = loss_cases.KINDS
NORMALIZERS = ("degrees", "positives", "objects")
PLAIN = LossOptions()
each_kind = pytest.mark.parametrize("kind", KINDS)
each_normalizer = pytest.mark.parametrize("normalizer", NORMALIZERS)

weight = st.sampled_from([0.0, 0.5, 2.0])
SELECTED: list[dict[str, Any]] = [
    {},
    {"cls": "quality_focal"},
    {"cls": "quality_focal", "cls_target": "iou"},
    {"cls": "matchability", "cls_target": "iou"},
    {"cls": "cross_entropy", "cls_target": "iou"},
]
"""The loss of the assignment, and others."""
weights = st.tuples(weight, weight, weight).filter(any)
"""Of classes, boxes and L1, of which one must be above 0."""
all_options = st.builds(
    lambda selected, weights, **others: LossOptions(
        cls_weight=weights[0], box_weight=weights[1], l1_weight=weights[2], **selected, **others
    ),
    st.sampled_from(SELECTED),
    weights,
    focal_alpha=st.sampled_from([0.0, 0.3, 1.0]),
    focal_gamma=st.sampled_from([0.0, 0.5, 2.0]),
    box=st.sampled_from(["giou", "iou", "deltas", "size_offset"]),
    size_weight=weight,
    offset_weight=weight,
    l1_of=st.sampled_from(["center_sides", "corners"]),
    box_by=st.sampled_from(["degree", "centerness", "equal"]),
    centerness_floor=st.sampled_from([1e-6, 0.5, 1.0]),
    centerness_weight=weight,
    normalizer=st.sampled_from(NORMALIZERS),
)
batches = st.lists(st.integers(0, 4), min_size=1, max_size=4)
kinds, seeds = st.sampled_from(KINDS), st.integers(0, 999)


def part(loss: Loss, name: str) -> Tensor:
    return loss.parts()[name]


def gradient(values: Tensor | None) -> Tensor:
    assert values is not None
    assert values.grad is not None
    return values.grad


@examples(60)
@given(batches, seeds, kinds, all_options, st.booleans())
def test_equals_the_loop_over_points(
    counts: list[int],
    seed: int,
    kind: ClsLoss,
    options: LossOptions,
    centerness: bool,
) -> None:
    of = loss_cases.case(counts, seed, kind, centerness)
    assert loss_cases.values(of.loss(options)) == pytest.approx(loss_cases.looped(of, options))


@each_normalizer
@pytest.mark.parametrize("box_by", ["degree", "centerness", "equal"])
@examples(5)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=5), seeds, kinds, st.integers(2, 3))
def test_mean_over_ranks_is_the_loss_of_the_global_batch(
    normalizer: str,
    box_by: str,
    counts: list[int],
    seed: int,
    kind: ClsLoss,
    size: int,
) -> None:
    of = loss_cases.case(counts, seed, kind)
    keys = {"normalizer": normalizer, "box_by": box_by, "l1_weight": 1.0}
    options = LossOptions.model_validate(keys)
    ranks = [loss_cases.values(loss) for loss in of.on_ranks(options, size)]
    mean = {name: sum(r[name] for r in ranks) / size for name in ranks[0]}
    assert mean == pytest.approx(loss_cases.values(of.loss(options)))


@each_normalizer
def test_less_than_one_positive_per_rank_is_not_rounded_up(normalizer: str) -> None:
    """With one positive on two ranks the global count is 1 and the mean over ranks 0.5."""
    of = loss_cases.case([0, 1], seed=1, kind="focal")
    only = torch.tensor([0] + [-1] * (len(of.points) - 1))
    of.assignments[1] = Assignment(only, (only >= 0).double())
    options = LossOptions.model_validate({"normalizer": normalizer, "l1_weight": 1.0})
    whole = loss_cases.values(of.loss(options))
    ranks = [loss_cases.values(rank) for rank in of.on_ranks(options, 2)]
    assert {name: sum(r[name] for r in ranks) / 2 for name in whole} == pytest.approx(whole)


def test_only_used_parts_are_returned() -> None:
    of = loss_cases.case([2], 0, "focal", centerness=False)
    assert list(of.loss(PLAIN).parts()) == ["cls", "box"]
    assert list(of.loss(LossOptions(l1_weight=0.1)).parts()) == ["cls", "box", "l1"]
    of = loss_cases.case([2], 0, "focal", centerness=True)
    assert list(of.loss(PLAIN).parts()) == ["cls", "box", "centerness"]


@each_kind
@each_normalizer
@pytest.mark.parametrize("box", ["giou", "iou", "deltas", "size_offset"])
@pytest.mark.parametrize("counts", [[0], [0, 0, 0]])
def test_batch_without_objects_trains_only_the_background(
    counts: list[int], box: str, normalizer: str, kind: ClsLoss
) -> None:
    of = loss_cases.case(counts, 2, kind)
    keys = {"normalizer": normalizer, "box": box, "l1_weight": 1.0}
    options = LossOptions.model_validate(keys)
    loss = of.loss(options)
    parts = loss.parts()
    assert {name: value.item() for name, value in parts.items() if name != "cls"} == {
        "box": 0,
        "l1": 0,
        "centerness": 0,
    }
    assert parts["cls"].item() == pytest.approx(loss_cases.looped(of, options)["cls"])
    torch.autograd.backward(loss.total())
    assert gradient(of.predictions.logits).ne(0).all()
    for values in (of.predictions.boxes, of.predictions.centerness):
        assert gradient(values).eq(0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("output", "name"), [("logits", "cls"), ("boxes", "box"), ("centerness", "centerness")]
)
@each_kind
def test_predictions_that_are_not_finite_make_their_part_nan_even_if_nothing_is_assigned(
    bad: float, output: str, name: str, kind: ClsLoss
) -> None:
    of = loss_cases.case([0, 2], 3, kind)
    with torch.no_grad():
        getattr(of.predictions, output)[0, 5] = bad
    assert [n for n, p in of.loss(PLAIN).parts().items() if p.isnan()] == [name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [-1e4, 1e4])
@each_kind
def test_logits_of_any_size_have_finite_losses_and_gradients(
    kind: ClsLoss, size: float, dtype: torch.dtype
) -> None:
    of = loss_cases.case([2, 1], 6, kind)
    p = of.predictions
    assert p.centerness is not None
    extreme = Predictions(
        torch.full_like(p.logits, size, dtype=dtype).requires_grad_(),
        p.boxes,
        None,
        torch.full_like(p.centerness, size, dtype=dtype).requires_grad_(),
    )
    other = loss_cases.Case(of.points, extreme, of.assignments, of.targets, kind)
    loss = other.loss(PLAIN)
    assert all(value.isfinite() for value in loss.parts().values())
    torch.autograd.backward(loss.total())
    for values in (extreme.logits, extreme.centerness):
        assert gradient(values).isfinite().all()
    assert part(loss, "cls").item() > 1e3


def test_gradient_reaches_boxes_and_centerness_of_positive_points_only() -> None:
    of = loss_cases.case([2, 0], 4, "bce")
    loss = of.loss(LossOptions(l1_weight=1.0))
    torch.autograd.backward([part(loss, name) for name in ("box", "l1", "centerness")])
    positive = torch.stack([a.object >= 0 for a in of.assignments])
    assert torch.equal(gradient(of.predictions.boxes).abs().sum(2) > 0, positive)
    assert torch.equal(gradient(of.predictions.centerness).ne(0), positive)


def test_a_target_by_iou_has_no_gradient() -> None:
    of = loss_cases.case([2, 1], 4, "focal")
    loss = part(of.loss(LossOptions(cls="quality_focal", cls_target="iou")), "cls")
    inputs = (of.predictions.logits, of.predictions.boxes)
    logits, boxes = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert logits.any()
    assert boxes is None


@pytest.mark.parametrize("box", ["giou", "iou", "deltas", "size_offset"])
def test_perfect_boxes_cost_nothing(box: str) -> None:
    of = loss_cases.case([1], 5, "focal")
    same = of.targets[0].boxes.repeat(len(of.points), 1)[None]
    codes = ENCODERS[box](same[0], of.points)[None] if box in ENCODERS else None
    perfect = Predictions(of.predictions.logits, same, encoded=codes)
    options = LossOptions.model_validate({"box": box, "l1_weight": 1.0})
    loss = loss_cases.Case(of.points, perfect, of.assignments, of.targets, "focal").loss(options)
    assert part(loss, "box").item() == pytest.approx(0, abs=1e-6)
    assert part(loss, "l1").item() == 0


@pytest.mark.parametrize("floor", [1e-6, 0.25, 1.0])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_floor_of_the_sum_of_centerness_is_that_of_the_global_batch(
    size: int, floor: float
) -> None:
    of = loss_cases.case([1] * size, seed=2, kind="focal")
    only = torch.tensor([0] + [-1] * (len(of.points) - 1))
    of.assignments[:] = [Assignment(only, (only >= 0).double()) for _ in range(size)]
    options = LossOptions(box_by="centerness", centerness_floor=floor, l1_weight=1.0)
    whole = loss_cases.values(of.loss(options))
    assert whole == pytest.approx(loss_cases.looped(of, options))
    ranks = [loss_cases.values(rank) for rank in of.on_ranks(options, size)]
    assert {name: sum(r[name] for r in ranks) / size for name in whole} == pytest.approx(whole)


def off_centre() -> loss_cases.Case:
    """Build one positive point whose centerness is 0.27."""
    points = pyramid_points([(4, 4)], (8,), torch.device("cpu"))
    around = torch.cat([points.xy - 4, points.xy + 4], 1)[None]
    owner = torch.where((points.xy == 12).all(1), 0, -1)
    target = Targets(torch.tensor([[10.0, 10.0, 26.0, 13.0]]), torch.tensor([0]))
    found = Assignment(owner, (owner >= 0).float())
    return loss_cases.Case(
        points, Predictions(torch.zeros(1, 16, 1), around), [found], [target], "focal"
    )


@pytest.mark.parametrize(("floor", "loss"), [(1e-6, 1.156), (1.0, 0.309)])
def test_few_points_far_from_the_centre_by_hand(floor: float, loss: float) -> None:
    """GIoU 18 / 94 - 50 / 144: once divided by the centerness, once by 1."""
    options = LossOptions(box_by="centerness", box_weight=1.0, centerness_floor=floor)
    assert part(off_centre().loss(options), "box").item() == pytest.approx(loss, abs=5e-4)


def test_by_default_a_single_point_has_its_full_box_loss_whatever_its_centerness() -> None:
    by_centerness, equal = (
        part(off_centre().loss(LossOptions.model_validate({"box_by": by})), "box")
        for by in ("centerness", "equal")
    )
    torch.testing.assert_close(by_centerness, equal)


def test_a_loss_of_encoded_boxes_needs_them() -> None:
    with pytest.raises(ValueError, match="the box loss deltas needs encoded predictions"):
        off_centre().loss(LossOptions(box="deltas"))
