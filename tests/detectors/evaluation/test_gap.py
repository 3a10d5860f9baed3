import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.evaluation.coco import coco_metrics
from detectors.evaluation.gap import ClassGap, measure_gap, select
from detectors.evaluation.nms import nms
from detectors.evaluation.protocol import Protocol
from detectors.postprocess import candidates
from detectors.structures import Candidates, ImageTruth, Points, Predictions

CLASSES = ["red", "white", "absent"]


def make_candidates(boxes, scores, labels=None, levels=None) -> Candidates:
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    return Candidates(
        boxes,
        torch.as_tensor(scores, dtype=torch.float32),
        zeros if labels is None else torch.as_tensor(labels),
        zeros if levels is None else torch.as_tensor(levels),
    )


def make_truth(image_id, boxes, labels) -> ImageTruth:
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.as_tensor(labels, dtype=torch.int64)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return ImageTruth(image_id, 500, 500, boxes, labels, torch.zeros(len(boxes)).bool(), area)


def grid(count: int, size: float = 20.0) -> torch.Tensor:
    """Boxes [count, 4] that do not touch each other."""
    left = torch.arange(count) * 2 * size
    return torch.stack([left, left * 0, left + size, left * 0 + size], dim=1)


def random_data(seed: int) -> tuple[list[Candidates], list[ImageTruth]]:
    """Noisy copies of objects of the first two classes, and one image without any object."""
    generator = torch.Generator().manual_seed(seed)
    found, truth = [], []
    for image_id in range(8):
        count = 0 if image_id == 5 else 6
        corners = torch.rand(count, 2, generator=generator) * 300
        boxes = torch.cat([corners, corners + 40], dim=1)
        labels = torch.randint(2, (count,), generator=generator)
        truth.append(make_truth(image_id, boxes, labels))
        noise = torch.randn(4 * count, 4, generator=generator) * 4
        scores = torch.rand(4 * count, generator=generator).sort(descending=True).values
        order = torch.randperm(4 * count, generator=generator)
        copies = (boxes.repeat(4, 1) + noise)[order]
        found.append(make_candidates(copies, scores, labels.repeat(4)[order]))
    return found, truth


def twice(image: Candidates) -> Candidates:
    return image.take(torch.arange(len(image)).repeat_interleave(2))


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_cost_ap_without_nms_and_nothing_with_it(seed):
    found, truth = random_data(seed)
    once = measure_gap(found, truth, CLASSES, Protocol())
    doubled = measure_gap([twice(image) for image in found], truth, CLASSES, Protocol())
    assert doubled.ap_nms == once.ap_nms
    assert doubled.ar_nms == once.ar_nms
    assert doubled.ap < once.ap - 1
    assert doubled.gap < once.gap < 0


def test_perfect_separate_detections_have_no_gap():
    truth = [make_truth(1, grid(5), [0, 1, 0, 1, 0])]
    found = [make_candidates(grid(5), [0.9, 0.8, 0.7, 0.6, 0.5], [0, 1, 0, 1, 0])]
    gap = measure_gap(found, truth, CLASSES, Protocol())
    numbers = (gap.ap, gap.ap_nms, gap.ap50, gap.ap50_nms, gap.ap75, gap.ap75_nms, gap.ar)
    assert numbers == pytest.approx((100,) * 7)
    assert (gap.gap, gap.ar_gap) == (0, 0)
    assert gap.per_class[2] == ClassGap("absent", None, None, None)


def test_nms_loses_recall_on_objects_that_overlap():
    shifted = grid(4) + torch.tensor([3.0, 0.0, 3.0, 0.0])  # IoU 17 / 23 with the others
    boxes = torch.cat([grid(4), shifted])
    truth = [make_truth(1, boxes, [0] * 8)]
    found = [make_candidates(boxes, torch.linspace(0.9, 0.2, 8))]
    gap = measure_gap(found, truth, ["red"], Protocol())
    assert gap.ar == pytest.approx(100)
    # Of each pair one box is kept; up to IoU 0.5 it could stand for either, but only for one.
    assert gap.ar_nms == pytest.approx(50)
    assert gap.ar_gap == pytest.approx(50)
    assert gap.gap > 0


@pytest.mark.parametrize("order", ["nms_then_cut", "cut_then_nms"])
def test_suppressed_detections_have_no_gap(order):
    found, truth = random_data(7)
    protocol = Protocol(order=order)
    suppressed = [select(image, protocol, use_nms=True) for image in found]
    gap = measure_gap(suppressed, truth, CLASSES, protocol)
    before = measure_gap(found, truth, CLASSES, protocol)
    assert gap.gap == 0
    assert gap.ap == gap.ap_nms == before.ap_nms


def test_cutting_first_loses_objects_that_duplicates_displace():
    boxes = torch.cat([grid(2)[:1], grid(2)[:1], grid(2)[:1], grid(2)[1:]])
    found = [make_candidates(boxes, [0.9, 0.8, 0.7, 0.6])]
    truth = [make_truth(1, grid(2), [0, 0])]
    late = measure_gap(found, truth, ["red"], Protocol(max_dets=2, order="nms_then_cut"))
    early = measure_gap(found, truth, ["red"], Protocol(max_dets=2, order="cut_then_nms"))
    assert (late.ar_nms, early.ar_nms) == (100, 50)
    assert late.ar == early.ar == 50


def test_columns_are_the_metrics_of_the_selected_detections():
    found, truth = random_data(3)
    protocol = Protocol(max_dets=9, score_floor=0.2, nms_iou=0.5)
    gap = measure_gap(found, truth, CLASSES, protocol)
    plain = coco_metrics([select(i, protocol, False) for i in found], truth, CLASSES, 9)
    nms_too = coco_metrics([select(i, protocol, True) for i in found], truth, CLASSES, 9)
    assert (gap.ap, gap.ap50, gap.ap75, gap.ar) == pytest.approx(
        (100 * plain.ap, 100 * plain.ap50, 100 * plain.ap75, 100 * plain.ar)
    )
    assert (gap.ap_nms, gap.ap50_nms, gap.ap75_nms, gap.ar_nms) == pytest.approx(
        (100 * nms_too.ap, 100 * nms_too.ap50, 100 * nms_too.ap75, 100 * nms_too.ar)
    )
    assert gap.gap == pytest.approx(gap.ap - gap.ap_nms)
    assert gap.ar_gap == pytest.approx(gap.ar - gap.ar_nms)
    for k, name in enumerate(CLASSES[:2]):
        row = gap.per_class[k]
        assert (row.name, row.ap, row.ap_nms) == pytest.approx(
            (name, 100 * plain.per_class[k], 100 * nms_too.per_class[k])
        )
        assert row.gap == pytest.approx(row.ap - row.ap_nms)


@st.composite
def dumps(draw):
    row = st.tuples(*[st.integers(0, 4)] * 2, st.integers(1, 3), *[st.integers(0, 2)] * 2)
    rows = torch.tensor(draw(st.lists(row, max_size=25))).reshape(-1, 5)
    scores = torch.tensor(draw(st.lists(st.integers(0, 10), min_size=25, max_size=25)))
    scores = scores[: len(rows)].sort(descending=True).values / 10
    boxes = torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:3]], dim=1)
    return make_candidates(boxes, scores, rows[:, 3], rows[:, 4])


@settings(deadline=None)
@given(
    dumps(),
    st.builds(
        Protocol,
        score_floor=st.sampled_from([0.0, 0.25]),
        pre_nms_topk=st.integers(1, 9),
        nms_iou=st.sampled_from([0.3, 0.6]),
        order=st.sampled_from(["nms_then_cut", "cut_then_nms"]),
        max_dets=st.integers(1, 8),
    ),
    st.booleans(),
)
def test_select_follows_the_protocol_step_by_step(dump, protocol, use_nms):
    levels, scores = dump.levels.tolist(), dump.scores.tolist()
    index = [
        i
        for i in range(len(dump))
        if scores[i] > protocol.score_floor and levels[:i].count(levels[i]) < protocol.pre_nms_topk
    ]
    steps = [lambda index: index[: protocol.max_dets]]
    if use_nms:
        steps.insert(
            protocol.order == "cut_then_nms", lambda index: suppress(dump, index, protocol)
        )
    for step in steps:
        index = step(index)
    expected = dump.take(torch.tensor(index, dtype=torch.int64))
    found = select(dump, protocol, use_nms)
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value), name


def suppress(dump, index, protocol):
    part = dump.take(torch.tensor(index, dtype=torch.int64))
    return [index[i] for i in nms(part.boxes, part.scores, part.labels, protocol.nms_iou)]


def test_a_generous_dump_answers_a_narrower_protocol():
    torch.manual_seed(0)
    level = torch.tensor([0] * 60 + [1] * 20 + [2] * 5)
    points = Points(torch.zeros(85, 2), torch.ones(85), level)
    corners = torch.rand(85, 2) * 60
    predictions = Predictions(torch.randn(85, 3).round(), torch.cat([corners, corners + 20], 1))
    narrow = Protocol(score_floor=0.3, pre_nms_topk=12, max_dets=20)
    view = (1.0, 1.0), (80, 80)
    dump = candidates(predictions, points, Protocol(), *view)
    own = candidates(predictions, points, narrow, *view)
    for use_nms in (False, True):
        from_dump, direct = (select(c, narrow, use_nms) for c in (dump, own))
        assert len(direct) > 5
        for name, value in vars(direct).items():
            assert torch.equal(getattr(from_dump, name), value), name


def test_no_candidates():
    empty = make_candidates([], [])
    assert len(select(empty, Protocol(), use_nms=True)) == 0
    gap = measure_gap([empty], [make_truth(1, grid(1), [0])], ["red"], Protocol())
    assert (gap.ap, gap.ap_nms, gap.gap, gap.ar) == (0, 0, 0, 0)


def test_no_objects_at_all_is_refused():
    with pytest.raises(ValueError, match="no object"):
        measure_gap([make_candidates([], [])], [make_truth(1, [], [])], ["red"], Protocol())
