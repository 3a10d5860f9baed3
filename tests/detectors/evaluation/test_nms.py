import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.boxes import pairwise_iou
from detectors.evaluation.nms import nms


def greedy(boxes, scores, labels, iou_threshold) -> list[int]:
    """Textbook NMS, one box at a time."""
    iou = pairwise_iou(boxes, boxes).tolist()
    iou_threshold = torch.tensor(iou_threshold).item()  # as precise as the boxes, 3 / 5 is 0.6
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i)):
        if all(labels[i] != labels[j] or iou[j][i] <= iou_threshold for j in kept):
            kept.append(i)
    return kept


@st.composite
def crowded_images(draw):
    # A small grid of corners and few scores: equal boxes, equal scores, long suppression chains.
    corner, side = st.integers(0, 6), st.integers(0, 5)
    row = st.tuples(corner, corner, side, side, st.integers(0, 4), st.integers(0, 2))
    rows = torch.tensor(draw(st.lists(row, max_size=40)), dtype=torch.float32).reshape(-1, 6)
    boxes = torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:4]], dim=1)
    return boxes, rows[:, 4] / 4, rows[:, 5].long()


thresholds = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.6, 0.9, 1.0])


@settings(deadline=None)
@given(crowded_images(), thresholds)
def test_equals_greedy_loop(image, iou_threshold):
    kept = nms(*image, iou_threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == greedy(*image, iou_threshold)


@settings(deadline=None)
@given(crowded_images(), thresholds, st.integers(0, 50))
def test_limit_equals_a_cut_afterwards(image, iou_threshold, limit):
    assert nms(*image, iou_threshold, limit).tolist() == nms(*image, iou_threshold)[:limit].tolist()


@pytest.mark.parametrize("size", [255, 256, 257, 700])
@pytest.mark.parametrize("classes", [1, 3])
def test_equals_greedy_loop_across_blocks(size, classes):
    torch.manual_seed(size + classes)
    centres = torch.rand(20, 2).repeat(40, 1)[:size] * 200
    corners = centres + torch.randn(size, 2) * 6
    boxes = torch.cat([corners, corners + 40 + torch.randn(size, 2) * 8], dim=1)
    scores = torch.randint(50, (size,)) / 50
    labels = torch.randint(classes, (size,))
    expected = greedy(boxes, scores, labels, 0.6)
    assert 20 < len(expected) < size
    assert nms(boxes, scores, labels, 0.6).tolist() == expected
    assert nms(boxes, scores, labels, 0.6, limit=60).tolist() == expected[:60]


def test_a_chain_longer_than_a_block_alternates():
    # Box i overlaps only its neighbours, so greedy NMS keeps every second one.
    left = torch.arange(600.0) * 4
    boxes = torch.stack([left, torch.zeros(600), left + 10, torch.full((600,), 10.0)], dim=1)
    scores = torch.linspace(1, 0.1, 600)
    kept = nms(boxes, scores, torch.zeros(600, dtype=torch.int64), 0.4)
    assert kept.tolist() == list(range(0, 600, 2))


def test_overlap_equal_to_the_threshold_is_kept():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    image = boxes, torch.tensor([0.5, 0.9]), torch.tensor([0, 0])
    assert nms(*image, 0.5).tolist() == [1, 0]
    assert nms(*image, 0.49).tolist() == [1]


def test_identical_boxes_leave_the_first_of_each_class():
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0]]).repeat(300, 1)
    labels = torch.tensor([1, 0, 1]).repeat(100)
    assert nms(boxes, torch.full((300,), 0.5), labels, 0.6).tolist() == [0, 1]


@pytest.mark.parametrize("limit", [None, 0, 5])
def test_no_boxes(limit):
    empty = torch.zeros(0, dtype=torch.int64)
    kept = nms(torch.zeros(0, 4), torch.zeros(0), empty, 0.6, limit)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_one_box():
    boxes = torch.tensor([[0.0, 0.0, 3.0, 3.0]])
    assert nms(boxes, torch.tensor([0.1]), torch.tensor([4]), 0.6).tolist() == [0]
