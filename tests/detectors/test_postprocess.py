import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.evaluation.protocol import Protocol
from detectors.postprocess import candidates, check_finite
from detectors.structures import Points, Predictions


def make_points(level: list[int]) -> Points:
    n = len(level)
    return Points(torch.zeros(n, 2), torch.ones(n), torch.tensor(level, dtype=torch.int64))


def best_pairs(logits: list[list[float]], level: list[int], protocol: Protocol):
    """(score, level, point, class) of the wanted pairs: sort in plain Python, level by level."""
    wanted = []
    for current in sorted(set(level)):
        pairs = [
            (-float(torch.tensor(value).sigmoid()), current, point, label)
            for point, row in enumerate(logits)
            if level[point] == current
            for label, value in enumerate(row)
        ]
        wanted += sorted(pairs)[: protocol.pre_nms_topk]
    return sorted(pair for pair in wanted if -pair[0] > protocol.score_floor)


@st.composite
def cases(draw):
    classes = draw(st.integers(1, 3))
    level = sorted(draw(st.lists(st.integers(0, 2), max_size=8)))
    # Few distinct values, so that the cut falls among ties; +-200 saturates the sigmoid.
    value = st.sampled_from([-200.0, -1.0, 0.0, 0.5, 30.0, 200.0])
    logits = [[draw(value) for _ in range(classes)] for _ in level]
    floor = draw(st.sampled_from([0.0, 0.3, 0.5]))
    protocol = Protocol(score_floor=floor, pre_nms_topk=draw(st.integers(1, 7)))
    return classes, level, logits, protocol


@settings(deadline=None)
@given(cases())
def test_keeps_the_best_pairs_of_each_level_with_ties_in_index_order(case):
    classes, level, logits, protocol = case
    boxes = torch.arange(4.0 * len(level)).reshape(-1, 4)
    predictions = Predictions(torch.tensor(logits).reshape(-1, classes), boxes)
    found = candidates(predictions, make_points(level), protocol, (1.0, 1.0), (1000, 1000))
    expected = best_pairs(logits, level, protocol)
    assert found.labels.tolist() == [label for *_, label in expected]
    assert found.levels.tolist() == [current for _, current, _, _ in expected]
    assert found.boxes.tolist() == [boxes[point].tolist() for _, _, point, _ in expected]
    assert found.scores.tolist() == pytest.approx([-score for score, *_ in expected])
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_boxes_return_to_original_pixels_and_into_the_image():
    boxes = torch.tensor([[20.0, 10.0, 60.0, 40.0], [-8.0, -8.0, 900.0, 900.0]])
    predictions = Predictions(torch.tensor([[2.0], [1.0]]), boxes)
    found = candidates(predictions, make_points([0, 0]), Protocol(), (2.0, 0.5), (100, 50))
    assert found.boxes.tolist() == [[10.0, 20.0, 30.0, 50.0], [0.0, 0.0, 100.0, 50.0]]


def test_half_precision_logits_are_ranked_by_their_float32_score():
    logits = torch.tensor([[8.0], [9.0], [8.5]], dtype=torch.float16)
    predictions = Predictions(logits, torch.zeros(3, 4))
    found = candidates(predictions, make_points([0, 0, 0]), Protocol(), (1.0, 1.0), (9, 9))
    assert found.scores.dtype == torch.float32
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-v)) for v in (9, 8.5, 8)])


def test_a_large_level_gives_exactly_its_best_pairs():
    torch.manual_seed(0)
    logits = torch.randn(5000, 4).mul(8).round().div(8)  # many ties
    predictions = Predictions(logits, torch.rand(5000, 4) * 100)
    level = [0] * 4000 + [1] * 900 + [2] * 100
    found = candidates(predictions, make_points(level), Protocol(), (1.0, 1.0), (100, 100))
    assert found.levels.bincount().tolist() == [300, 300, 300]
    expected = best_pairs(logits.tolist(), level, Protocol())
    assert found.labels.tolist() == [label for *_, label in expected]
    points = torch.tensor([point for _, _, point, _ in expected])
    assert torch.equal(found.boxes, predictions.boxes[points])


def test_check_finite_names_images_and_output():
    logits, boxes = torch.zeros(3, 5, 2), torch.zeros(3, 5, 4)
    check_finite(Predictions(logits, boxes), [11, 12, 13])
    logits[1, 0, 0], boxes[2, 4, 3], boxes[0, 0, 0] = math.nan, math.inf, -math.inf
    with pytest.raises(ValueError, match=r"logits of images \[12\].*boxes of images \[11, 13\]"):
        check_finite(Predictions(logits, boxes), [11, 12, 13])


def test_check_finite_of_an_empty_batch():
    check_finite(Predictions(torch.zeros(0, 5, 2), torch.zeros(0, 5, 4)), [])
