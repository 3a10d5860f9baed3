import math

import pytest
import torch

from detectors.structures import Predictions


def test_scores_are_the_sigmoid_of_the_logits_in_float32() -> None:
    logits = torch.tensor([[[8.0], [9.0], [8.5]]], dtype=torch.bfloat16)
    found = Predictions(logits, torch.zeros(1, 3, 4)).scores()
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx([1 / (1 + math.exp(-v)) for v in (8, 9, 8.5)])


def test_scores_are_geometric_means_with_a_separate_centerness() -> None:
    """FCOS's improved recipe: every class of a point shares its centerness."""
    logits = torch.tensor([[0.0, 2.0], [-3.0, 1.0]])
    centerness = torch.tensor([1.5, -200.0])
    found = Predictions(logits, torch.zeros(2, 4), None, centerness).scores()
    shares = [[1 / (1 + math.exp(-v)) for v in row] for row in logits.tolist()]
    center = 1 / (1 + math.exp(-1.5))
    assert found[0].tolist() == pytest.approx([math.sqrt(p * center) for p in shares[0]])
    assert found[1].tolist() == [0, 0]


def test_scores_of_a_gate_are_those_of_the_product_alone() -> None:
    logits, ungated = torch.tensor([[-1.0]]), torch.tensor([[5.0]])
    assert torch.equal(Predictions(logits, torch.zeros(1, 4), ungated).scores(), logits.sigmoid())


def test_one_image_is_detached_and_has_logits_and_boxes() -> None:
    values = [torch.rand(2, 3, n, requires_grad=True) for n in (5, 4, 5)]
    of = Predictions(values[0], values[1], values[2], torch.rand(2, 3))
    image = of.image(1)
    assert torch.equal(image.logits, values[0][1])
    assert torch.equal(image.boxes, values[1][1])
    assert not image.logits.requires_grad
    assert not image.boxes.requires_grad


def test_without_gate_the_logits_are_those_of_the_classes() -> None:
    logits, boxes, ungated = torch.rand(3, 2), torch.rand(3, 4), torch.rand(3, 2)
    plain = Predictions(logits, boxes, None, torch.rand(3)).without_gate()
    assert plain.logits is logits
    assert plain.centerness is None
    gated = Predictions(logits, boxes, ungated).without_gate()
    assert gated.logits is ungated
    assert gated.boxes is boxes
