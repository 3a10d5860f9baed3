from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.selection import Selected, filter_candidates, select, select_both
from detectors.models.points import pyramid_points
from detectors.postprocess import Frame
from detectors.structures import Candidates
from tests.detectors.batching import selected
from tests.detectors.evaluation import cases
from tests.examples import examples

POINTS = pyramid_points([(8, 8), (4, 4), (2, 2)], [8, 16, 32], torch.device("cpu"))


def step_by_step(dump: Candidates, protocol: Protocol, suppress: bool) -> Candidates:
    """Select what the protocol keeps, with plain lists."""
    image: list[int] = dump.image.tolist()
    levels, scores = dump.levels.tolist(), dump.scores
    above = [i for i in range(len(dump)) if scores[i] > torch.tensor(protocol.score_floor)]
    index = []
    for group in sorted(set(zip(image, levels, strict=True))):
        own = [i for i in above if (image[i], levels[i]) == group]
        points = int(dump.level_points[own[0]]) if own and protocol.cap_at_points else len(own)
        index += own[: min(protocol.pre_nms_topk, points)]
    index.sort()
    rows = [inside(row) for row in dump.boxes.tolist()]
    clipped = replace(dump, boxes=torch.tensor(rows).reshape(-1, 4))
    seen = clipped if protocol.clip == "before" else dump

    def cut(index: list[int]) -> list[int]:
        return cases.first_of_each_group(index, image, protocol.max_dets)

    def suppressed(index: list[int]) -> list[int]:
        left = seen.take(torch.tensor(index, dtype=torch.int64))
        return [index[i] for i in cases.Loop(left, protocol).survivors()]

    steps = [suppressed, cut] if protocol.order == "nms_then_cut" else [cut, suppressed]
    for step in steps if suppress else [cut]:
        index = step(index)
    if protocol.clip == "after":
        index = [i for i in index if has_area(clipped.boxes[i].tolist())]
    return clipped.take(torch.tensor(index, dtype=torch.int64))


def inside(box: cases.Box) -> list[float]:
    """Clip a box to an image of `SIZE`."""
    return [min(max(v, 0), limit) for v, limit in zip(box, (*SIZE, *SIZE), strict=True)]


def has_area(box: cases.Box) -> bool:
    return box[2] > box[0] and box[3] > box[1]


Row = tuple[int, tuple[int, int, int], int, int, int, tuple[int, int]]
"""Image, (x, y, side), score in tenths, label, level, cell."""

SIZE = (5, 4)
box = st.tuples(st.integers(-3, 6), st.integers(-3, 6), st.integers(1, 3))
cell = st.tuples(st.integers(0, 3), st.integers(0, 3))
level, label = st.integers(0, 2), st.integers(0, 2)
row = st.tuples(st.integers(0, 3), box, st.integers(0, 10), label, level, cell)
dumps = st.lists(row, max_size=30)


def protocols(**narrowed: Sequence[Any]) -> st.SearchStrategy[Protocol]:
    """Draw protocols; each keyword gives the values of another field."""
    return st.builds(
        Protocol,
        score_floor=st.sampled_from([0.0, 0.25, 0.3]),
        pre_nms_topk=st.integers(1, 9),
        nms_iou=st.sampled_from([0.3, 0.6]),
        class_wise=st.booleans(),
        level_range=st.sampled_from([None, 0, 1]),
        order=st.sampled_from(["nms_then_cut", "cut_then_nms"]),
        max_dets=st.integers(1, 8),
        clip=st.sampled_from(["before", "after"]),
        cap_at_points=st.booleans(),
        **{name: st.sampled_from(values) for name, values in narrowed.items()},
    )


any_protocol = protocols(spatial_range=[None, 3]) | protocols(
    suppression=["max_filter"], spatial_range=[1, 3]
)


@examples(100)
@given(dumps, any_protocol, st.booleans())
def test_follows_the_protocol_step_by_step(
    rows: list[Row], protocol: Protocol, suppress: bool
) -> None:
    dump = Candidates.none()
    if rows:
        image, boxes, scores, labels, levels, cells = zip(*rows, strict=True)
        corners = [(x, y, x + side, y + side) for x, y, side in boxes]
        points = [4 >> level for level in levels]
        dump = cases.candidates(
            corners, torch.tensor(scores) / 10, labels, image, levels, cells, points
        )
    found = select(dump, protocol, [SIZE] * 4, suppress)
    cases.assert_same(found, step_by_step(dump, protocol, suppress))


def test_a_score_at_the_floor_is_dropped() -> None:
    pair = cases.candidates(cases.grid(3), [0.05, 0.3, 0.051])
    found = select(pair, PROTOCOLS["defcn"], cases.ROOMY, suppress=True)
    assert found.scores.tolist() == pytest.approx([0.3, 0.051])
    assert (
        len(select(cases.candidates(cases.grid(1), 0.0), Protocol(), cases.ROOMY, suppress=False))
        == 0
    )


def test_no_candidates_and_images_left_without_any() -> None:
    for suppress in (False, True):
        assert len(select(Candidates.none(), Protocol(), [], suppress)) == 0
        weak = cases.candidates(cases.grid(3), [0.9, 0.1, 0.8], image=[0, 1, 2])
        found = select(weak, Protocol(score_floor=0.5), cases.ROOMY, suppress)
        assert found.image.tolist() == [0, 2]


SCENE = [(64, 64)] * 4


def scene(image: int, topk: int, classes: int = 3) -> Candidates:
    """Build the candidates of a detector that guesses, with many equal scores."""
    rng = torch.Generator().manual_seed(image)
    logits = torch.randn(len(POINTS), classes, generator=rng).mul(3).round().div(3)
    shift = torch.randint(-4, 5, (len(POINTS), 4), generator=rng)
    half = POINTS.stride[:, None] * 2
    boxes = torch.cat([POINTS.xy - half, POINTS.xy + half], dim=1) + shift
    return selected(logits.sigmoid(), boxes, POINTS, topk, Frame(image, (1.0, 1.0)))


@pytest.mark.parametrize(
    "narrow",
    [
        Protocol(score_floor=0.3, pre_nms_topk=12, max_dets=20),
        Protocol(pre_nms_topk=40, max_dets=30, order="cut_then_nms"),
        Protocol(pre_nms_topk=25, suppression="max_filter", spatial_range=3, level_range=0),
        Protocol(pre_nms_topk=30, max_dets=30, nms_iou=0.5, clip="after", cap_at_points=True),
        Protocol(score_floor=0.6, pre_nms_topk=9, class_wise=False, spatial_range=5),
    ],
)
@pytest.mark.parametrize("suppress", [False, True])
def test_a_larger_dump_gives_the_same_result_under_a_narrower_protocol(
    narrow: Protocol, suppress: bool
) -> None:
    direct = Candidates.join([scene(image, narrow.pre_nms_topk) for image in range(3)])
    expected = select(direct, narrow, SCENE, suppress)
    assert len(expected) > 5
    for topk in (narrow.pre_nms_topk + 1, 60, 1000):
        dump = Candidates.join([scene(image, topk) for image in range(3)])
        cases.assert_same(select(dump, narrow, SCENE, suppress), expected)
    roomy = narrow.model_copy(update={"pre_nms_topk": 50, "score_floor": narrow.score_floor / 2})
    cases.assert_same(
        select(filter_candidates(dump, roomy, SCENE), narrow, SCENE, suppress), expected
    )


@pytest.mark.parametrize("suppress", [False, True])
def test_images_together_equal_the_images_one_by_one(suppress: bool) -> None:
    images = [scene(image, 50) for image in range(4)]
    for protocol in PROTOCOLS.values():
        alone = [select(image, protocol, SCENE, suppress) for image in images]
        found = select(Candidates.join(images), protocol, SCENE, suppress)
        cases.assert_same(found, Candidates.join(alone))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("batches", [[], [[3]], [[1, 3], [2], [0]], [[2], [0, 1]]])
def test_images_in_batches_of_any_order_equal_all_images_at_once(
    name: str, batches: list[list[int]]
) -> None:
    found = Selected(PROTOCOLS[name], SCENE)
    for batch in batches:
        found.add(Candidates.join([scene(image, 50) for image in batch]))
    images = [Candidates.none(), *(scene(image, 50) for batch in batches for image in batch)]
    expected = select_both(Candidates.join(images), PROTOCOLS[name], SCENE)
    for own, other in zip(found.columns(), expected, strict=True):
        cases.assert_same(own, other)


@pytest.fixture(scope="module")
def busy() -> Candidates:
    """Build an image with more candidates than any preset keeps: 1,100 on each of two levels."""
    torch.manual_seed(0)
    corners = torch.randint(640, (2200, 2))
    boxes = torch.cat([corners, corners + torch.randint(60, 90, (2200, 2))], dim=1)
    scores = torch.randint(10_000, (2200,)) / 10_000
    return cases.candidates(boxes, scores, torch.randint(2, (2200,)), 3, torch.arange(2200) % 2)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_presets_keep_what_they_promise(busy: Candidates, name: str) -> None:
    protocol, kept = PROTOCOLS[name], filter_candidates(busy, PROTOCOLS[name], cases.ROOMY)
    for level in (0, 1):
        own = busy.scores[busy.levels == level]
        best = own[own > protocol.score_floor][: protocol.pre_nms_topk]
        assert torch.equal(kept.scores[kept.levels == level], best)
    without, suppressed = (
        select(busy, protocol, cases.ROOMY, suppress) for suppress in (False, True)
    )
    cut = kept.take(torch.arange(protocol.max_dets))
    cases.assert_same(without, cut)
    left = cut if protocol.order == "cut_then_nms" else kept
    after = cases.Loop(left, protocol).survivors(protocol.max_dets)
    cases.assert_same(suppressed, left.take(torch.tensor(after)))
    if protocol.suppression == "nms":
        assert (len(after) < protocol.max_dets) == (protocol.order == "cut_then_nms")


class TestClipping:
    """Two boxes with IoU 0.400, which is 0.667 once both are clipped to an image of 100 x 100."""

    PAIR = cases.candidates([(-40, 0, 40, 50), (0, 0, 60, 50)], [0.9, 0.8])

    def kept(self, protocol: Protocol) -> list[list[float]]:
        return select(self.PAIR, protocol, [(100, 100)], suppress=True).boxes.tolist()

    def test_before_suppression(self) -> None:
        assert self.kept(Protocol(nms_iou=0.5, clip="before")) == [[0, 0, 40, 50]]

    def test_after_suppression(self) -> None:
        both = [[0, 0, 40, 50], [0, 0, 60, 50]]
        assert self.kept(Protocol(nms_iou=0.5, clip="after")) == both

    @pytest.mark.parametrize("name", PROTOCOLS)
    def test_presets_clip_as_their_released_code(self, name: str) -> None:
        changed = {"nms_iou": 0.5, "suppression": "nms", "level_range": None, "spatial_range": None}
        kept = self.kept(PROTOCOLS[name].model_copy(update=changed))
        before = ("default", "o2f", "condinst", "date", "deepstream", "torchvision")
        assert len(kept) == (1 if name in before else 2)

    @pytest.mark.parametrize("order", ["nms_then_cut", "cut_then_nms"])
    @pytest.mark.parametrize("suppress", [False, True])
    def test_boxes_outside_of_the_image_take_up_places_before_they_are_removed(
        self, order: Any, suppress: bool
    ) -> None:
        """As in detectron2 and cvpods, which remove them from the cut detections."""
        boxes = [(120, 0, 150, 50), (-30, 0, 0, 50), (10, 10, 20, 20), (30, 30, 60, 60)]
        found = cases.candidates(boxes, [0.9, 0.8, 0.7, 0.6])
        protocol = Protocol(clip="after", order=order, max_dets=3)
        left = select(found, protocol, [(100, 100)], suppress)
        assert left.boxes.tolist() == [[10, 10, 20, 20]]
        before = protocol.model_copy(update={"clip": "before"})
        kept = select(found, before, [(100, 100)], suppress).boxes.tolist()
        assert kept == [[100, 0, 100, 50], [0, 0, 0, 50], [10, 10, 20, 20]]

    def test_each_image_has_its_own_size(self) -> None:
        found = cases.candidates([(0, 0, 90, 90)] * 3, 0.5, image=[0, 1, 2])
        sizes = [(50, 60), (200, 40), (10, 300)]
        left = select(found, Protocol(), sizes, suppress=False).boxes.tolist()
        assert left == [[0, 0, 50, 60], [0, 0, 90, 40], [0, 0, 10, 90]]


@pytest.mark.parametrize(("capped", "kept"), [(True, [3, 2]), (False, [6, 6])])
def test_a_level_with_few_points_keeps_one_pair_per_point_on_average(
    capped: bool, kept: list[int]
) -> None:
    """As detectron2 and cvpods, which lower the number per level to the number of points."""
    levels = [0] * 6 + [1] * 6
    points = [3 if level == 0 else 2 for level in levels]
    found = cases.candidates(cases.grid(12), 0.5, levels=levels, level_points=points)
    left = filter_candidates(found, Protocol(cap_at_points=capped), cases.ROOMY)
    assert left.levels.bincount().tolist() == kept


def test_a_protocol_that_never_clips_keeps_boxes_as_they_are() -> None:
    outside = cases.candidates([[-40, 0, 40, 50], [70, 0, 90, 10]], [0.9, 0.8])
    never, after = (Protocol.model_validate({"clip": clip}) for clip in ("never", "after"))
    cases.assert_same(select(outside, never, [(64, 64)], suppress=True), outside)
    assert select(outside, after, [(64, 64)], suppress=True).boxes.tolist() == [[0, 0, 40, 50]]
