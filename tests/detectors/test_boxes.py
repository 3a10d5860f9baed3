import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.boxes import area, paired_giou, paired_iou, pairwise_iou
from tests.examples import examples

Box = tuple[float, float, float, float]

# Halves of small integers: every product and sum below is exact in float32.
coordinate = st.integers(-20, 40).map(lambda n: n / 2)
any_box = st.tuples(coordinate, coordinate, coordinate, coordinate)  # also inverted ones
box_lists = st.lists(any_box, max_size=7)
pair_lists = st.lists(st.tuples(any_box, any_box), max_size=7)


def tensor(boxes: list[Box]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def scalar_area(box: Box) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0


def scalar_iou(a: Box, b: Box) -> float:
    meet = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    overlap = scalar_area(meet)
    union = scalar_area(a) + scalar_area(b) - overlap
    return overlap / union if union else 0.0


def scalar_giou(a: Box, b: Box) -> float:
    xs, ys = [a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]]
    hull = (max(xs) - min(xs)) * (max(ys) - min(ys))
    meet = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = scalar_area(a) + scalar_area(b) - scalar_area(meet)
    return scalar_iou(a, b) - ((hull - union) / hull if hull else 0.0)


@given(box_lists)
def test_area_of_every_box_including_degenerate_ones(boxes: list[Box]) -> None:
    assert area(tensor(boxes)).tolist() == [scalar_area(b) for b in boxes]


@given(box_lists, box_lists)
def test_pairwise_iou_equals_scalar_iou(a: list[Box], b: list[Box]) -> None:
    iou = pairwise_iou(tensor(a), tensor(b))
    assert iou.shape == (len(a), len(b))
    expected = torch.tensor([[scalar_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    torch.testing.assert_close(iou, expected)


def stacks(count: int) -> st.SearchStrategy[Tensor]:
    """Draw boxes [2, 3, count, 4]."""
    boxes = st.lists(any_box, min_size=6 * count, max_size=6 * count)
    return boxes.map(lambda drawn: tensor(drawn).reshape(2, 3, count, 4))


any_stack = st.integers(0, 4).flatmap(stacks)


@examples(30)
@given(any_stack, any_stack)
def test_pairwise_iou_of_stacks_is_that_of_each(a: Tensor, b: Tensor) -> None:
    iou = pairwise_iou(a, b)
    assert iou.shape == (2, 3, a.shape[2], b.shape[2])
    for i in range(2):
        for j in range(3):
            assert torch.equal(iou[i, j], pairwise_iou(a[i, j], b[i, j]))
            assert torch.equal(pairwise_iou(a[i, j], b)[i, j], iou[i, j])  # one against a stack
    assert torch.equal(pairwise_iou(b, a), iou.transpose(-1, -2))


def test_pairwise_iou_of_boxes_that_are_not_contiguous_in_memory() -> None:
    boxes = torch.rand(4, 5, 6)
    scattered, other = boxes.permute(2, 1, 0), torch.rand(6, 3, 4)
    expected = pairwise_iou(scattered.contiguous(), other)
    assert torch.equal(pairwise_iou(scattered, other), expected)
    assert torch.equal(pairwise_iou(other, scattered), expected.transpose(-1, -2))


@given(pair_lists)
def test_paired_functions_equal_scalar_ones(pairs: list[tuple[Box, Box]]) -> None:
    a, b = tensor([x for x, _ in pairs]), tensor([y for _, y in pairs])
    torch.testing.assert_close(
        paired_iou(a, b), torch.tensor([scalar_iou(x, y) for x, y in pairs]).reshape(-1)
    )
    giou = paired_giou(a, b)
    torch.testing.assert_close(
        giou, torch.tensor([scalar_giou(x, y) for x, y in pairs]).reshape(-1)
    )
    assert ((giou >= -1) & (giou <= 1)).all()


@given(pair_lists, st.booleans())
def test_gradients_are_finite_for_every_pair_of_boxes(
    pairs: list[tuple[Box, Box]], identical: bool
) -> None:
    a = tensor([x for x, _ in pairs]).requires_grad_()
    b = a.detach().clone() if identical else tensor([y for _, y in pairs])
    ious = paired_iou(a, b).sum() + pairwise_iou(a, b).sum()
    torch.autograd.backward(paired_giou(a, b).sum() + ious)
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_gradient_moves_a_degenerate_box_towards_a_target_it_does_not_touch() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    target = torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    torch.autograd.backward(paired_giou(point, target).sum())
    assert point.grad is not None
    assert (point.grad[0, :2] > 0).all()
    assert point.grad.norm() < 1


@pytest.mark.parametrize("shift", [0.0, 3.0, 40.0])
@pytest.mark.parametrize("function", [paired_giou, paired_iou, pairwise_iou])
def test_gradient_equals_finite_differences(
    function: Callable[[Tensor, Tensor], Tensor], shift: float
) -> None:
    a = torch.tensor([[1.0, 2.0, 11.0, 9.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[2.0, 1.0, 9.5, 12.0]], dtype=torch.float64) + shift
    assert torch.autograd.gradcheck(lambda x: function(x, b), (a,))


def test_far_apart_boxes_have_giou_near_minus_one() -> None:
    a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[999.0, 999.0, 1000.0, 1000.0]])
    assert paired_giou(a, b).item() == pytest.approx(-1 + 2e-6)


def test_leading_dimensions_and_double_precision_are_kept() -> None:
    boxes = torch.rand(2, 3, 4, dtype=torch.float64)
    assert area(boxes).shape == (2, 3)
    assert paired_iou(boxes[0], boxes[1]).dtype == torch.float64
    assert pairwise_iou(boxes, boxes).dtype == torch.float64
    assert math.isfinite(float(paired_giou(boxes[0], boxes[1]).sum()))
