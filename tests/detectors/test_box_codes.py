"""Gradients of the box losses through the decoders, down to the output of the head."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.criterion import Criterion
from detectors.losses import LossOptions
from detectors.models.decode import DECODERS, ENCODERS, WIDEST, BoxCode
from detectors.models.points import pyramid_points
from detectors.structures import Assignment, Predictions, Targets
from detectors.world import LocalWorld
from tests.detectors.batching import packed, together
from tests.examples import examples

POINTS = pyramid_points([(3, 3)], (8,), torch.device("cpu"))
MIDDLE = 4
"""The positive point; its anchor is the square from -4 to 28."""


def box_loss(raw: list[float], code: BoxCode, loss: str, target: Tensor) -> tuple[float, Tensor]:
    """Compute the box loss at the positive point, and its gradient for the raw output."""
    output = torch.zeros(1, len(POINTS), 4)
    output[0, MIDDLE] = torch.tensor(raw)
    output.requires_grad_()
    boxes = DECODERS[code](output, POINTS)
    logits = torch.zeros(1, len(POINTS), 1)
    predicted = Predictions(logits, boxes, encoded=output if code in ENCODERS else None)
    owner = torch.where(torch.arange(len(POINTS)) == MIDDLE, 0, -1)
    assignment = Assignment(owner, (owner >= 0).float())
    options = LossOptions.model_validate({"box": loss, "box_weight": 1.0})
    targets = packed(Targets(target[None], torch.tensor([0])))
    found = Criterion(options, LocalWorld()).branch_loss(
        POINTS, predicted, together([assignment]), targets, "focal"
    )
    assert found.box is not None
    found.box.backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    return found.box.item(), output.grad[0, MIDDLE]


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize(
    ("value", "loss"), [(5.0, 5.0), (-12.0, 12.0), (WIDEST, WIDEST), (80.0, 80.0), (-300.0, 300.0)]
)
def test_deltas_of_any_size_have_their_full_loss_and_gradient(
    value: float, loss: float, position: int
) -> None:
    """The object is the anchor, so its deltas are 0."""
    raw = [0.0] * 4
    raw[position] = value
    found, gradient = box_loss(raw, "deltas", "deltas", POINTS.anchors[MIDDLE])
    assert found == pytest.approx(loss)
    expected = [0.0] * 4
    expected[position] = 1.0 if value > 0 else -1.0
    assert gradient.tolist() == expected


number = st.floats(-50, 50)


@examples(40)
@given(st.tuples(number, number, number, number), st.tuples(*[st.floats(1, 60)] * 4))
def test_gradient_of_deltas_is_a_sign_everywhere(
    raw: tuple[float, float, float, float], box: tuple[float, float, float, float]
) -> None:
    target = torch.tensor([box[0], box[1], box[0] + box[2], box[1] + box[3]])
    anchor = POINTS.anchors[MIDDLE]
    side = anchor[2:] - anchor[:2]
    center = (target[:2] + target[2:]) / 2 - POINTS.xy[MIDDLE]
    wanted = torch.cat([center / side, ((target[2:] - target[:2]) / side).log()])
    found, gradient = box_loss(list(raw), "deltas", "deltas", target)
    difference = torch.tensor(raw) - wanted
    assert found == pytest.approx(difference.abs().sum().item(), rel=1e-4, abs=1e-4)
    clear = difference.abs() > 1e-4
    assert torch.equal(gradient[clear], difference.sign()[clear])


@pytest.mark.parametrize("code", [code for code in DECODERS if code not in ENCODERS])
@pytest.mark.parametrize("value", [-3.0, -0.5, 0.5, 1.5])
def test_giou_trains_every_distance_except_behind_a_relu(code: BoxCode, value: float) -> None:
    """The released codes with ReLU (DeFCN, o2f, DATE, OneNet) have no gradient there either."""
    raw = [value, 0.7, 0.9, 1.1]
    _, gradient = box_loss(raw, code, "giou", torch.tensor([2.0, 4.0, 30.0, 21.0]))
    cut = code in ("relu", "pixels") and value < 0
    assert (gradient[0] == 0) == cut
    assert gradient[1:].ne(0).all()


def test_giou_trains_deltas_up_to_the_widest_box() -> None:
    target = torch.tensor([2.0, 4.0, 30.0, 21.0])
    _, below = box_loss([0.1, 0.1, WIDEST - 0.1, 0.3], "deltas", "giou", target)
    _, above = box_loss([0.1, 0.1, WIDEST + 0.1, 0.3], "deltas", "giou", target)
    assert below[2] > 0
    assert above[2] == 0
