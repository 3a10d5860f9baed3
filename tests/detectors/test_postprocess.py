import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.postprocess import Frame, best_pairs, describe_non_finite
from detectors.structures import Points, Predictions
from detectors.synchronisations import count_synchronisations
from tests.detectors.batching import selected
from tests.examples import examples

FRAME = Frame(0, (1.0, 1.0))


def make_points(level: list[int]) -> Points:
    """Build points at different positions."""
    n, levels = len(level), torch.tensor(level, dtype=torch.int64)
    xy = torch.arange(2.0 * n).reshape(n, 2) + 0.5
    sizes = tuple(level.count(i) for i in range(3))
    return Points(xy, 8.0 * 2**levels, levels, torch.zeros(n, 4), (1.0, 1.0), sizes)


def sorted_pairs(
    scores: list[list[float]], level: list[int], topk: int
) -> list[tuple[float, int, int, int]]:
    """Sort the pairs of each level in plain Python; return (-score, level, point, class)."""
    best = []
    for current in sorted(set(level)):
        pairs = [
            (-score, current, point, label)
            for point, row in enumerate(scores)
            if level[point] == current
            for label, score in enumerate(row)
        ]
        best += sorted(pairs)[:topk]
    return sorted(best)


Image = tuple[int, list[int], list[list[float]], int, int]


@st.composite
def images(draw: st.DrawFn) -> Image:
    classes = draw(st.integers(1, 3))
    level = sorted(draw(st.lists(st.integers(0, 2), max_size=8)))
    # Few distinct values, so that equal scores are cut; all are exact in float32.
    value = st.sampled_from([0.0, 0.25, 0.5, 0.625, 1.0])
    scores = [[draw(value) for _ in range(classes)] for _ in level]
    return classes, level, scores, draw(st.integers(1, 7)), draw(st.integers(0, 9))


@examples(60)
@given(images())
def test_keeps_the_best_pairs_of_each_level_and_equal_scores_in_index_order(image: Image) -> None:
    classes, level, rows, topk, index = image
    boxes = torch.arange(4.0 * len(level)).reshape(-1, 4)
    scores, points = torch.tensor(rows).reshape(-1, classes), make_points(level)
    found = selected(scores, boxes, points, topk, Frame(index, (1.0, 1.0)))
    expected = sorted_pairs(rows, level, topk)
    chosen = torch.tensor([point for _, _, point, _ in expected], dtype=torch.int64)
    assert found.labels.tolist() == [label for *_, label in expected]
    assert found.levels.tolist() == [current for _, current, _, _ in expected]
    assert found.image.tolist() == [index] * len(expected)
    assert torch.equal(found.boxes, boxes[chosen])
    assert torch.equal(found.points, points.xy[chosen])
    assert torch.equal(found.strides, points.stride[chosen])
    assert found.level_points.tolist() == [level.count(each) for each in found.levels.tolist()]
    assert found.scores.tolist() == pytest.approx([-score for score, *_ in expected])
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_candidates_of_score_zero_are_kept() -> None:
    scores = torch.tensor([[0.0], [0.3]])
    found = selected(scores, torch.zeros(2, 4), make_points([0, 0]), 5, FRAME)
    assert found.scores.tolist() == pytest.approx([0.3, 0.0])


def test_boxes_are_unclipped_in_original_pixels_and_points_in_those_of_the_input() -> None:
    boxes = torch.tensor([[20.0, 10.0, 60.0, 40.0], [-8.0, -8.0, 900.0, 900.0]])
    points, frame = make_points([0, 0]), Frame(7, (2.0, 0.5))
    found = selected(torch.tensor([[0.9], [0.8]]), boxes, points, 300, frame)
    assert found.boxes.tolist() == [[10.0, 20.0, 30.0, 80.0], [-4.0, -16.0, 450.0, 1800.0]]
    assert torch.equal(found.points, points.xy)
    assert found.strides.tolist() == [8.0, 8.0]


def test_a_large_level_gives_exactly_its_best_pairs() -> None:
    scores = torch.randint(64, (5000, 4)) / 64  # many are equal
    boxes, level = torch.rand(5000, 4) * 100, [0] * 4000 + [1] * 900 + [2] * 100
    found = selected(scores, boxes, make_points(level), 300, FRAME)
    assert found.levels.bincount().tolist() == [300, 300, 300]
    expected = sorted_pairs(scores.tolist(), level, 300)
    assert found.labels.tolist() == [label for *_, label in expected]
    points = torch.tensor([point for _, _, point, _ in expected])
    assert torch.equal(found.boxes, boxes[points])


def test_a_detector_without_points_finds_nothing() -> None:
    found = selected(torch.zeros(0, 3), torch.zeros(0, 4), make_points([]), 10, FRAME)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.image.dtype == found.labels.dtype == found.levels.dtype == torch.int64


def test_not_finite_names_images_and_output() -> None:
    logits, boxes = torch.zeros(3, 5, 2), torch.zeros(3, 5, 4)
    assert describe_non_finite(Predictions(logits, boxes), [11, 12, 13]) == ""
    logits[1, 0, 0], boxes[2, 4, 3], boxes[0, 0, 0] = math.nan, math.inf, -math.inf
    assert describe_non_finite(Predictions(logits, boxes), [11, 12, 13]) == (
        "logits of images [12] are not finite, boxes of images [11, 13] are not finite"
    )


def test_not_finite_includes_centerness() -> None:
    centerness = torch.zeros(2, 5)
    predictions = Predictions(torch.zeros(2, 5, 2), torch.zeros(2, 5, 4), None, centerness)
    assert describe_non_finite(predictions, [7, 8]) == ""
    centerness[1, 3] = math.nan
    assert describe_non_finite(predictions, [7, 8]) == "centerness of images [8] are not finite"


def test_not_finite_of_an_empty_batch() -> None:
    assert describe_non_finite(Predictions(torch.zeros(0, 5, 2), torch.zeros(0, 5, 4)), []) == ""


@pytest.mark.parametrize("topk", [1, 4, 5, 100])
def test_pairs_of_a_batch_are_those_of_each_image_and_nothing_waits(topk: int) -> None:
    """Scores have ties. On `meta`, nothing could be read at all."""
    torch.manual_seed(0)
    scores, boxes = torch.randint(4, (3, 7, 2)) / 4, torch.rand(3, 7, 4)
    with count_synchronisations() as waits:
        found = best_pairs(scores, boxes, (4, 0, 3), topk)
        found.to_host()
    assert not waits, waits
    for image in range(3):
        alone = best_pairs(scores[image, None], boxes[image, None], (4, 0, 3), topk)
        assert torch.equal(alone.pairs[0], found.pairs[image])
        assert torch.equal(alone.scores[0], scores[image].flatten()[found.pairs[image]])
        assert torch.equal(alone.boxes[0], boxes[image, found.pairs[image] // 2])
    shapes = best_pairs(scores.to("meta"), boxes.to("meta"), (4, 0, 3), topk)
    assert shapes.boxes.shape == found.boxes.shape


def test_scores_that_are_not_finite_give_valid_pairs() -> None:
    """The device must not index out of bounds before the host finds the error."""
    scores = torch.tensor([[[0.5], [torch.nan], [0.25], [torch.nan]], [[1.0], [0.5], [0.5], [0.5]]])
    for topk in (1, 2, 3):
        pairs = best_pairs(scores, torch.rand(2, 4, 4), (4,), topk).pairs
        assert pairs.shape == (2, topk)
        assert ((pairs >= 0) & (pairs < 4)).all()
