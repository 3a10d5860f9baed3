from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.evaluation.nms import survivors
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates
from tests.detectors.evaluation import cases
from tests.examples import examples

ONE = [1.0, 1.0, 5.0, 5.0]
AMONG_ALL = Protocol()
Suppression = Literal["nms", "max_filter"]

windows = st.sampled_from([None, 1, 3, 5])
protocols = st.builds(
    Protocol,
    suppression=st.just("nms"),
    nms_iou=st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.6, 0.9, 1.0]),
    class_wise=st.booleans(),
    level_range=st.sampled_from([None, 0, 1]),
    spatial_range=windows,
) | st.builds(
    Protocol,
    suppression=st.just("max_filter"),
    class_wise=st.booleans(),
    level_range=st.sampled_from([None, 0, 1]),
    spatial_range=windows.filter(bool),
)


Row = tuple[int, tuple[int, int, int, int], int, int, int, tuple[int, int]]
"""Image, (x, y, width, height), score in quarters, label, level, cell on the finest level."""

# Small grids and few scores: equal and degenerate boxes, ties, long chains of suppression.
corner, side, level = st.integers(0, 6), st.integers(-1, 5), st.integers(0, 2)
box, cell = st.tuples(corner, corner, side, side), st.tuples(st.integers(0, 7), st.integers(0, 7))
row = st.tuples(st.integers(0, 3), box, st.integers(0, 4), st.integers(0, 2), level, cell)
several_images = st.lists(row, max_size=40)


def build(rows: list[Row]) -> Candidates:
    if not rows:
        return Candidates.none()
    image, boxes, scores, labels, levels, cells = zip(*rows, strict=True)
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    own = [(x >> level, y >> level) for (x, y), level in zip(cells, levels, strict=True)]
    return cases.candidates(corners, torch.tensor(scores) / 4, labels, image, levels, own)


def plain_nms(boxes: Tensor, labels: Tensor, threshold: float) -> list[int]:
    """Apply greedy class-wise NMS to boxes sorted by falling score, without any protocol."""
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            overlaps = pairwise_iou(boxes[i : i + 1], boxes)[0] > threshold
            alive &= ~(overlaps & (labels == labels[i]))
    return kept


@examples(100)
@given(several_images, protocols, st.none() | st.integers(0, 12))
def test_equals_the_loop_over_pairs(rows: list[Row], protocol: Protocol, limit: int | None) -> None:
    found = build(rows)
    kept = survivors(found, protocol, limit)
    assert kept.dtype == torch.int64
    assert kept.tolist() == cases.Loop(found, protocol).survivors(limit)


@examples(50)
@given(several_images, protocols)
def test_images_do_not_affect_each_other(rows: list[Row], protocol: Protocol) -> None:
    found = build(rows)
    alone = [(found.image == image).nonzero()[:, 0] for image in range(4)]
    expected = [own[survivors(found.take(own), protocol)] for own in alone]
    assert torch.equal(survivors(found, protocol), torch.cat(expected))


def crowd(counts: list[int], classes: int, seed: int) -> Candidates:
    """Build jittered copies of a few objects in each image, with integer coordinates."""
    torch.manual_seed(seed)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    corners = torch.rand(20, 2)[torch.randint(20, (len(image),))] * 200
    corners = corners + torch.randn(len(image), 2) * 6
    boxes = torch.cat([corners, corners + 40 + torch.randn(len(image), 2) * 8], dim=1).round()
    labels = torch.randint(classes, (len(image),))
    levels = torch.randint(3, (len(image),))
    cells = (corners.clamp(min=0) // 8).long() >> levels[:, None]
    scores = torch.randint(50, (len(image),)) / 50
    return cases.candidates(boxes, scores, labels, image, levels, cells)


@pytest.mark.parametrize("counts", [[63], [64], [65], [128, 0, 129], [300, 1, 0, 70]])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "protocol",
    [
        AMONG_ALL,
        Protocol(nms_iou=0.4, level_range=1, spatial_range=5, class_wise=False),
        Protocol(suppression="max_filter", spatial_range=3, level_range=1),
    ],
)
def test_more_candidates_than_a_block(counts: list[int], classes: int, protocol: Protocol) -> None:
    found = crowd(counts, classes, seed=sum(counts) + classes)
    expected = cases.Loop(found, protocol).survivors()
    assert 10 < len(expected) < len(found)
    assert survivors(found, protocol).tolist() == expected
    for limit in (1, 17, 66):
        first = cases.first_of_each_group(expected, found.image.tolist(), limit)
        assert survivors(found, protocol, limit).tolist() == first


@pytest.mark.parametrize("counts", [[65] * 65 + [3], [2, 0, 65] * 40])
def test_more_images_than_are_processed_together(counts: list[int]) -> None:
    found = crowd(counts, classes=2, seed=len(counts))
    rows = found.image[:, None] == torch.arange(len(counts))
    for limit in (None, 5):
        expected: list[int] = []
        for own in (mask.nonzero()[:, 0] for mask in rows.T):
            image = found.take(own)
            expected += own[plain_nms(image.boxes, image.labels, 0.6)[:limit]].tolist()
        assert survivors(found, AMONG_ALL, limit).tolist() == expected


@pytest.mark.parametrize("copies", [1, 3])
def test_a_chain_longer_than_a_block_alternates(copies: int) -> None:
    """Box i overlaps only its neighbours, so greedy NMS keeps every second one."""
    left = torch.arange(600.0).repeat(copies) * 4
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)
    scores = torch.linspace(1, 0.1, 600).repeat(copies)
    image = torch.arange(copies).repeat_interleave(600)
    chain = cases.candidates(boxes, scores, image=image)
    kept = survivors(chain, Protocol(nms_iou=0.4))
    assert kept.tolist() == list(range(0, 600 * copies, 2))


def test_a_max_filter_does_not_alternate() -> None:
    cells = [(n, 0) for n in range(100)]
    row = cases.candidates([ONE] * 100, torch.linspace(1, 0.1, 100), cells=cells)
    assert survivors(row, Protocol(suppression="max_filter", spatial_range=3)).tolist() == [0]
    everywhere = row.take(torch.arange(0, 100, 2))
    kept = survivors(everywhere, Protocol(suppression="max_filter", spatial_range=3))
    assert len(kept) == 50


def test_overlap_equal_to_the_threshold_is_kept() -> None:
    pair = cases.candidates([[0, 0, 2, 1], [0, 0, 1, 1]], [0.5, 0.9])
    assert survivors(pair, Protocol(nms_iou=0.5)).tolist() == [0, 1]
    assert survivors(pair, Protocol(nms_iou=0.49)).tolist() == [0]


def test_of_identical_boxes_the_first_per_class_and_image_is_kept() -> None:
    labels, image = torch.tensor([1, 0, 1]).repeat(100), torch.tensor([0] * 150 + [2] * 150)
    same = cases.candidates([ONE] * 300, 0.5, labels, image)
    assert survivors(same, AMONG_ALL).tolist() == [0, 1, 150, 151]
    assert survivors(same, AMONG_ALL, 1).tolist() == [0, 150]
    assert survivors(same, Protocol(class_wise=False)).tolist() == [0, 150]


@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("suppression", ["nms", "max_filter"])
def test_window_is_a_square_of_cells(side: int, suppression: Suppression) -> None:
    offsets = [(x, y) for x in range(-4, 5) for y in range(-4, 5) if (x, y) != (0, 0)]
    protocol = Protocol(suppression=suppression, spatial_range=side)
    for x, y in offsets:
        pair = cases.candidates([ONE, ONE], [0.9, 0.8], cells=[(4, 4), (4 + x, 4 + y)])
        inside = max(abs(x), abs(y)) <= (side - 1) / 2
        assert len(survivors(pair, protocol)) == (1 if inside else 2)


@pytest.mark.parametrize("levels", [(0, 1), (1, 0)])
def test_one_cell_across_levels_is_the_coarse_cell_and_its_four_children(
    levels: tuple[int, int],
) -> None:
    fine = [(x, y) for x in range(6) for y in range(6)]
    for x, y in fine:
        cells = [(1, 1), (x, y)] if levels == (1, 0) else [(x, y), (1, 1)]
        pair = cases.candidates([ONE, ONE], [0.9, 0.8], levels=levels, cells=cells)
        child = x in (2, 3) and y in (2, 3)
        assert len(survivors(pair, Protocol(spatial_range=1))) == (1 if child else 2)
        assert len(survivors(pair, Protocol(spatial_range=1, level_range=0))) == 2


def dense(seed: int) -> Candidates:
    """Build a candidate for each point and class of two small images: they overlap strongly."""
    torch.manual_seed(seed)
    points = [(0, x, y) for x in range(6) for y in range(5)]
    points += [(1, x, y) for x in range(3) for y in range(3)]
    rows = [(image, label, *point) for image in (0, 1) for label in (0, 1) for point in points]
    image, label, level, x, y = torch.tensor(rows).T
    centre = torch.stack([x, y], dim=1) * 2 ** level[:, None] * 8
    boxes = torch.cat([centre, centre + 40], dim=1) + torch.randint(-4, 5, (len(rows), 4))
    cells = torch.stack([x, y], dim=1)
    return cases.candidates(boxes, torch.rand(len(rows)), label, image, level, cells)


class TestTableTwoOfPoto:
    @pytest.mark.parametrize("suppression", ["nms", "max_filter"])
    def test_one_cell_of_one_level_suppresses_nothing(self, suppression: Suppression) -> None:
        found = dense(seed=1)
        protocol = Protocol(suppression=suppression, spatial_range=1, level_range=0, nms_iou=0.01)
        assert survivors(found, protocol).tolist() == list(range(len(found)))
        among_classes = protocol.model_copy(update={"class_wise": False})
        assert len(survivors(found, among_classes)) < len(found)

    @pytest.mark.parametrize("seed", range(3))
    def test_without_ranges_it_is_plain_nms(self, seed: int) -> None:
        found = dense(seed)
        expected: list[int] = []
        for own in ((found.image == image).nonzero()[:, 0] for image in (0, 1)):
            part = found.take(own)
            expected += own[plain_nms(part.boxes, part.labels, 0.6)].tolist()
        assert survivors(found, AMONG_ALL).tolist() == expected
        assert len(expected) < len(found)
        whole = Protocol(spatial_range=99, level_range=9)
        assert survivors(found, whole).tolist() == expected

    def test_a_wider_max_filter_keeps_a_subset_of_what_a_narrow_one_keeps(self) -> None:
        found = dense(seed=4)
        before: set[int] | None = None
        for side in (1, 3, 5, 7, 99):
            protocol = Protocol(suppression="max_filter", spatial_range=side, level_range=1)
            kept = set(survivors(found, protocol).tolist())
            assert before is None or kept < before
            before = kept
        assert len(kept) == 4  # the best of each image and class


@pytest.mark.parametrize("limit", [None, 0, 5])
@pytest.mark.parametrize(
    "protocol", [AMONG_ALL, Protocol(suppression="max_filter", spatial_range=3)]
)
def test_no_candidates(protocol: Protocol, limit: int | None) -> None:
    kept = survivors(Candidates.none(), protocol, limit)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_one_candidate_of_a_late_image() -> None:
    assert survivors(cases.candidates([ONE], 0.1, 4, image=999), AMONG_ALL).tolist() == [0]
