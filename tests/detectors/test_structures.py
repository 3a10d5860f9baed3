import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.structures import Assignment, Predictions, TargetBatch, Targets
from tests.examples import examples


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


def owners() -> st.SearchStrategy[torch.Tensor]:
    """Objects of points, for an even number of images: [B, N]."""
    rows = st.tuples(st.integers(1, 4), st.integers(0, 5))
    return rows.flatmap(
        lambda size: st.lists(
            st.lists(st.integers(-1, 2), min_size=size[1], max_size=size[1]),
            min_size=2 * size[0],
            max_size=2 * size[0],
        )
    ).map(lambda found: torch.tensor(found, dtype=torch.int64).reshape(len(found), -1))


@settings(examples(60))
@given(owners(), st.booleans())
def test_positive_points_and_their_halves_are_those_of_nonzero(
    owner: torch.Tensor, weighted: bool
) -> None:
    degree, weight = (owner >= 0).float(), torch.rand(*owner.shape, 2) if weighted else None
    whole = Assignment(owner, degree, weight).located()
    assert whole.counts == tuple((owner >= 0).sum(1).tolist())
    half = len(owner) // 2
    halves = (slice(half), slice(half, None))
    for found, part in zip((whole, *whole.split(2)), (slice(None), *halves), strict=True):
        expected = (owner[part] >= 0).nonzero(as_tuple=True)
        assert [each.tolist() for each in found.positives()] == [e.tolist() for e in expected]
        assert torch.equal(found.object, owner[part])
        assert torch.equal(found.degree, degree[part])
        torch.testing.assert_close(found.weight, None if weight is None else weight[part])


@pytest.mark.parametrize("counts", [[2, 0, 1], [0], [3]])
def test_repeated_objects_are_those_of_repeated_images(counts: list[int]) -> None:
    images = [Targets(torch.rand(n, 4), torch.arange(n), (8.0, 9.0) if n else None) for n in counts]
    cpu = torch.device("cpu")
    found, expected = TargetBatch.of(images, cpu).repeated(3), TargetBatch.of(images * 3, cpu)
    for name, column in vars(expected).items():
        if isinstance(column, torch.Tensor):
            torch.testing.assert_close(getattr(found, name), column, equal_nan=True)
    assert found.counts == counts * 3
