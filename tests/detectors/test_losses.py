import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from detectors.losses import (
    ClsLoss,
    LossOptions,
    centerness,
    classification,
    l1_of_image,
    quality_focal,
    sigmoid_focal,
    soft_bce,
)

moderate = st.floats(-15, 15, allow_subnormal=False)
GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.5]
KINDS: tuple[ClsLoss, ...] = get_args(ClsLoss)


def scalar_focal(logit: float, target: float, alpha: float | None, gamma: float) -> float:
    """Lin et al., Eq. 5, and Eq. 4 without alpha."""
    p = 1 / (1 + math.exp(-logit))
    p_t = p if target == 1 else 1 - p
    alpha_t = 1.0 if alpha is None else alpha if target == 1 else 1 - alpha
    return -alpha_t * math.pow(1 - p_t, gamma) * math.log(p_t)


def scalar_bce(logit: float, t: float) -> float:
    """002 Eq. 2."""
    p = 1 / (1 + math.exp(-logit))
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


@given(
    st.lists(st.tuples(moderate, st.sampled_from([0.0, 1.0])), max_size=8),
    st.none() | st.floats(0, 1),
    st.sampled_from(GAMMAS),
)
def test_focal_equals_its_formula(
    elements: list[tuple[float, float]], alpha: float | None, gamma: float
) -> None:
    rows = torch.tensor(elements, dtype=torch.float64).reshape(-1, 2)
    found = sigmoid_focal(rows[:, 0], rows[:, 1], alpha, gamma)
    expected = [scalar_focal(logit, target, alpha, gamma) for logit, target in elements]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert (found >= 0).all()


@given(st.lists(st.tuples(moderate, st.floats(0, 1)), max_size=8))
def test_soft_bce_equals_its_formula(elements: list[tuple[float, float]]) -> None:
    rows = torch.tensor(elements, dtype=torch.float64).reshape(-1, 2)
    expected = [scalar_bce(logit, t) for logit, t in elements]
    assert soft_bce(rows[:, 0], rows[:, 1]).tolist() == pytest.approx(expected, rel=1e-6)


def scalar_quality_focal(logit: float, t: float, gamma: float) -> float:
    """GFL, Eq. 2."""
    p = 1 / (1 + math.exp(-logit))
    cross_entropy = (1 - t) * math.log(1 - p) + t * math.log(p)
    return -math.pow(abs(t - p), gamma) * cross_entropy


@given(
    st.lists(st.tuples(moderate, st.sampled_from([0.0, 1.0]) | st.floats(0, 1)), max_size=8),
    st.sampled_from(GAMMAS),
)
def test_quality_focal_equals_its_formula(
    elements: list[tuple[float, float]], gamma: float
) -> None:
    rows = torch.tensor(elements, dtype=torch.float64).reshape(-1, 2)
    found = quality_focal(rows[:, 0], rows[:, 1], gamma)
    expected = [scalar_quality_focal(logit, t, gamma) for logit, t in elements]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert (found >= 0).all()


@given(
    st.lists(st.tuples(moderate, st.just(0.0) | st.floats(0.01, 1)), max_size=8),
    st.sampled_from(GAMMAS),
)
def test_matchability_equals_its_formula(elements: list[tuple[float, float]], gamma: float) -> None:
    """MAL of DEIM: the target of a positive point is its quality to the power of gamma."""
    rows = torch.tensor(elements, dtype=torch.float64).reshape(-1, 2)
    options = LossOptions(focal_gamma=gamma)
    found = classification(rows[:, 0], rows[:, 1], "matchability", options)
    expected = [
        scalar_bce(logit, q**gamma) if q > 0 else scalar_focal(logit, 0.0, None, gamma)
        for logit, q in elements
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)


RELEASED: dict[ClsLoss, tuple[list[float], list[list[float]]]] = {
    "quality_focal": (
        [0.701874175, 1.650669753, 0.06249253, 0.379215164, 0.46615053],
        [
            [1.7351e-05, 0.768234723],
            [-0.007519709, 1.07671373],
            [-0.130972077, 0.000314872],
            [-0.00487094, 0.526151822],
            [0.100420937, 0.05258113],
        ],
    ),
    "matchability": (
        [0.839029676, 2.235771625, 0.693648999, 0.605293405, 3.01095195],
        [
            [0.01798621, 0.456962376],
            [0.104624654, 0.728097706],
            [-0.215541753, 0.000489822],
            [-0.119202922, 0.305687341],
            [0.585416232, 0.037509756],
        ],
    ),
}
"""Losses and gradients of the released codes for five points of class 0: `quality_focal_loss` of
mmdetection 3.3.0, and `loss_labels_mal` of DEIM with gamma 1.5."""


@pytest.mark.parametrize("kind", RELEASED)
def test_losses_and_gradients_are_those_of_the_released_codes(kind: ClsLoss) -> None:
    values = [[-4.0, 1.0], [-1.0, 2.0], [0.0, -3.0], [2.0, 0.5], [5.0, -1.0]]
    logits = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    lowest = torch.finfo(torch.float64).tiny if kind == "matchability" else 0.0
    degree = torch.zeros_like(logits)
    degree[:, 0] = torch.tensor([lowest, 0.3, 0.8, 1.0, 0.55], dtype=torch.float64)
    options = LossOptions(focal_gamma=1.5 if kind == "matchability" else 2.0)
    loss = classification(logits, degree, kind, options).sum(1)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    expected, slopes = RELEASED[kind]
    assert loss.tolist() == pytest.approx(expected, abs=1e-8)
    assert gradient.flatten().tolist() == pytest.approx(
        [v for row in slopes for v in row], abs=1e-8
    )


def test_a_target_by_iou_needs_a_loss_with_soft_targets() -> None:
    with pytest.raises(ValidationError, match="needs cls: quality_focal, matchability or cross"):
        LossOptions(cls_target="iou")
    assert LossOptions(cls="matchability", cls_target="iou").cls_target == "iou"


def test_quality_focal_has_its_minimum_where_the_score_is_the_target() -> None:
    logits = torch.linspace(-6, 6, 601, dtype=torch.float64)
    for t in (0.1, 0.5, 0.83):
        loss = quality_focal(logits, torch.full_like(logits, t), 2.0)
        assert logits[loss.argmin()].sigmoid().item() == pytest.approx(t, abs=0.01)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_quality_focal_gradient_equals_finite_differences(gamma: float, target: float) -> None:
    logits = torch.linspace(-9, 9, 13, dtype=torch.float64, requires_grad=True)
    reference = torch.full_like(logits, target)
    assert torch.autograd.gradcheck(lambda x: quality_focal(x, reference, gamma), (logits,))


def test_focal_without_focus_is_weighted_cross_entropy() -> None:
    logits, target = torch.linspace(-5, 5, 11), (torch.arange(11) % 2).float()
    expected = torch.where(target == 1, 0.25, 0.75) * soft_bce(logits, target)
    torch.testing.assert_close(sigmoid_focal(logits, target, 0.25, 0.0), expected)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_gradient_equals_finite_differences(gamma: float, target: float) -> None:
    logits = torch.linspace(-9, 9, 13, dtype=torch.float64, requires_grad=True)
    reference = torch.full_like(logits, target)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal(x, reference, 0.25, gamma), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_have_finite_losses_and_gradients(
    dtype: torch.dtype, gamma: float, kind: ClsLoss
) -> None:
    values = [-1e4, -200.0, -100.0, -88.0, -20.0, 0.0, 20.0, 88.0, 100.0, 200.0, 1e4]
    degrees = [0.0, 1.0] if kind in ("focal", "gaussian") else [0.0, 0.4, 0.5, 1.0]
    logits = torch.tensor(values, dtype=dtype).repeat(len(degrees)).requires_grad_()
    degree = torch.tensor(degrees, dtype=dtype).repeat_interleave(len(values))
    loss = classification(logits, degree, kind, LossOptions(focal_gamma=gamma))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == dtype
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_loss_of_a_wrong_and_certain_prediction_is_its_logit() -> None:
    """Where p_t vanishes, -log(p_t) is |logit|: nothing is cut off by a small epsilon."""
    logits, target = torch.tensor([100.0, -100.0]), torch.tensor([0.0, 1.0])
    assert sigmoid_focal(logits, target, 0.25, 2.0).tolist() == pytest.approx([75.0, 25.0])


class TestClassification:
    logits = torch.tensor([[-2.0, 0.5, 3.0], [1.0, -1.0, 0.0]], dtype=torch.float64)

    def assert_is(self, degree: Tensor, kind: ClsLoss, expected: list[float]) -> None:
        options = LossOptions(focal_alpha=0.3, focal_gamma=1.5)
        found = classification(self.logits, degree, kind, options)
        assert found.flatten().tolist() == pytest.approx(expected)

    def pairs(self, degree: Tensor) -> list[tuple[float, float]]:
        return list(zip(self.logits.flatten().tolist(), degree.flatten().tolist(), strict=True))

    @pytest.mark.parametrize(("kind", "alpha"), [("focal", 0.3), ("gaussian", None)])
    def test_hard_targets_are_focal(self, kind: ClsLoss, alpha: float | None) -> None:
        """CenterNet's has no class balance: its assignment weighs negatives."""
        degree = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        expected = [scalar_focal(logit, t, alpha, 1.5) for logit, t in self.pairs(degree)]
        self.assert_is(degree, kind, expected)

    def test_soft_targets_are_bce_where_positive_and_focal_elsewhere(self) -> None:
        """002 Eq. 4: certain, ambiguous, and negative classes of either."""
        degree = torch.tensor([[0.0, 1.0, 0.0], [0.4, 0.0, 0.0]], dtype=torch.float64)
        expected = [
            scalar_bce(logit, t) if t > 0 else scalar_focal(logit, 0.0, 0.3, 1.5)
            for logit, t in self.pairs(degree)
        ]
        self.assert_is(degree, "bce", expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_of_no_points_it_is_empty(self, kind: ClsLoss) -> None:
        nothing = torch.zeros(0, 3)
        assert classification(nothing, nothing, kind, LossOptions()).shape == (0, 3)


class TestCenterness:
    box = torch.tensor([[10.0, 20.0, 50.0, 40.0]])

    @pytest.mark.parametrize(
        ("point", "expected"),
        [
            ((30.0, 30.0), 1.0),
            ((20.0, 30.0), math.sqrt(10 / 30)),
            ((20.0, 25.0), math.sqrt(10 / 30 * 5 / 15)),
            ((40.0, 35.0), math.sqrt(10 / 30 * 5 / 15)),
            ((10.0, 30.0), 0.0),
            ((50.0, 40.0), 0.0),
            ((9.0, 30.0), 0.0),
            ((30.0, 99.0), 0.0),
            ((-5.0, -5.0), 0.0),
        ],
    )
    def test_by_hand(self, point: tuple[float, float], expected: float) -> None:
        found = centerness(torch.tensor([point]), self.box)
        assert found.tolist() == pytest.approx([expected])

    def test_of_a_box_without_area_is_zero(self) -> None:
        box = torch.tensor([[3.0, 3.0, 3.0, 3.0], [9.0, 9.0, 1.0, 1.0]])
        assert centerness(torch.tensor([[3.0, 3.0], [5.0, 5.0]]), box).tolist() == [0, 0]
        assert centerness(torch.zeros(0, 2), torch.zeros(0, 4)).shape == (0,)


def test_l1_counts_centre_and_sides_in_shares_of_the_image_by_hand() -> None:
    """100 x 50 pixels: centres differ by (10, 5), sides by (20, 10)."""
    found, reference = torch.tensor([[[10.0, 10.0, 30.0, 20.0]], [[10.0, 10.0, 50.0, 30.0]]])
    found = l1_of_image(found, reference, torch.tensor([[100.0, 50.0]]), "center_sides")
    assert found.tolist() == pytest.approx([10 / 100 + 5 / 50 + 20 / 100 + 10 / 50])
    assert l1_of_image(
        torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, 2), "corners"
    ).shape == (0,)
