from typing import Any

import pytest
import torch

from detectors.cost import model_cost
from detectors.losses import LossOptions
from detectors.models.detr import DetrOptions
from detectors.models.resnet import ResNet
from detectors.training import Training
from tests.detectors.queries import MATCHING, build, images


def test_parameters_are_those_that_detr_publishes() -> None:
    """41,302,368 with ResNet-50 and 92 outputs for classes; ours are COCO's 80, without others."""
    options = DetrOptions(
        backbone=ResNet(depth=50, weights="resnet50.pth"), **DetrOptions.published
    )
    cost = model_cost(options, 80, ("o2o",), (800, 1066))
    assert cost.trainable == 41_302_368 - (92 - 80) * (256 + 1)


def test_centres_of_boxes_are_inside_the_input() -> None:
    boxes = build("detr")(images(32, 40)).branches["o2o"][-1].boxes
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert ((center > 0) & (center < torch.tensor([40.0, 32.0]))).all()


@pytest.mark.parametrize(
    ("changes", "fit"),
    [
        ({"location": "points"}, False),
        ({"location": "anchors"}, False),
        ({"level_range": True}, False),
        ({"level_range": False}, True),
        ({"classification": False, "solver": "argmin"}, True),
    ],
)
def test_which_options_of_the_cost_need_positions(changes: dict[str, Any], fit: bool) -> None:
    assert MATCHING.model_copy(update=changes).needs_positions != fit


def test_losses_of_positions_and_of_encoded_boxes_are_refused() -> None:
    weighted = Training(loss=LossOptions(box_by="centerness"))
    (problem,) = weighted.unfit_queries(MATCHING)
    assert problem.startswith("training.loss.box_by: centerness needs the positions of points")
    encoded = Training(loss=LossOptions(box="deltas"))
    (problem,) = encoded.unfit_losses({"o2o": DetrOptions().branch("o2o").box})
    assert "needs a detector that predicts deltas, but branch o2o predicts relative" in problem
