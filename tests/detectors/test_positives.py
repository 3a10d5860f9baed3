"""Scores and ranks of positive points, against a computation in plain Python."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors import positives
from detectors.evaluation.metrics import POSITIVES
from detectors.models.points import whole_image
from detectors.positives import means, measure
from detectors.structures import Assignment, Points, Predictions, Targets
from tests.detectors.batching import packed, together

CLASSES = 3
Image = tuple[Predictions, Assignment, Targets]


def points_at(xy: Sequence[tuple[float, float]]) -> Points:
    places, count = torch.tensor(xy).reshape(-1, 2), len(xy)
    return Points(
        places,
        torch.full((count,), 8.0),
        torch.zeros(count, dtype=torch.int64),
        torch.cat([places - 4, places + 4], 1),
        (64.0, 64.0),
        (count,),
    )


def test_all_queries_without_an_object_are_candidates_of_every_object() -> None:
    """They have no positions: the best of two others ranks above the positive one."""
    logits = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [-3.0, 0, 0]])
    boxes = torch.tensor([[30.0, 30, 40, 40]] * 3)
    queries = whole_image(64, 64, 3, torch.device("cpu"))
    image = image_of(logits, boxes, [0, -1, -1], [([30.0, 30.0, 40.0, 40.0], 0)])
    found = means(measured(queries, [image]))
    assert found["rank"] == 2
    expected = (sigmoid(0.0) - sigmoid(-3.0)) / (sigmoid(2.0) - sigmoid(-3.0))
    assert found["relative"] == pytest.approx(expected)


def image_of(
    logits: Tensor, boxes: Tensor, owner: Sequence[int], objects: Sequence[tuple[list[float], int]]
) -> Image:
    object_N = torch.tensor(owner, dtype=torch.int64)
    targets = Targets(
        torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([label for _, label in objects], dtype=torch.int64),
    )
    return Predictions(logits, boxes), Assignment(object_N, (object_N >= 0) * 0.5), targets


def measured(points: Points, images: Sequence[Image]) -> Tensor:
    batch = Predictions(
        torch.stack([each.logits for each, _, _ in images]),
        torch.stack([each.boxes for each, _, _ in images]),
    )
    assignment = together([each for _, each, _ in images])
    return measure(points, batch, assignment, packed(*(each for _, _, each in images)))


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    sizes = [max(x[2] - x[0], 0) * max(x[3] - x[1], 0) for x in (a, b)]
    return both / (sum(sizes) - both) if both else 0.0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def oracle(points: Points, images: Sequence[Image]) -> dict[str, float]:
    """Follow the definitions word by word, with one loop per object."""
    found: dict[str, list[float]] = {name: [] for name in POSITIVES}
    for predictions, assignment, targets in images:
        owner = assignment.object.tolist()
        for g, (box, label) in enumerate(
            zip(targets.boxes.tolist(), targets.labels.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = box
            logits = predictions.logits[:, label].tolist()
            own = [n for n, g_of_n in enumerate(owner) if g_of_n == g]
            inside = [
                n
                for n, (x, y) in enumerate(points.xy.tolist())
                if owner[n] == -1 and x1 <= x <= x2 and y1 <= y <= y2
            ]
            found["score"] += [sigmoid(logits[n]) for n in own]
            found["iou"] += [iou(predictions.boxes[n].tolist(), box) for n in own]
            if not own:
                continue
            best = max(logits[n] for n in own)
            order = sorted((logits[n] for n in own + inside), reverse=True)
            low, high = sigmoid(order[-1]), sigmoid(order[0])
            second = sigmoid(order[1]) if len(order) > 1 else 0.0
            rank = 1 + sum(each > best for each in order)
            found["rank"].append(rank)
            found["first"].append(rank == 1)
            found["relative"].append((sigmoid(best) - low) / (high - low) if high > low else 1.0)
            found["score_gap"].append(high - second)
    return {name: sum(values) / len(values) for name, values in found.items() if values}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Points, list[Image]]:
    """Draw images with crowded objects on few points; scores and points on borders may be equal."""
    count = draw(st.integers(1, 12))
    place = st.integers(0, 8).map(lambda n: 8.0 * n)
    points = points_at(draw(st.lists(st.tuples(place, place), min_size=count, max_size=count)))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    levels = draw(st.sampled_from([2, 5, 1000]))
    images = []
    for objects in draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)):
        logits = torch.randint(-levels, levels, (count, CLASSES), generator=rng) * (8 / levels)
        corner = torch.randint(0, 6, (count + objects, 2), generator=rng) * 8.0
        size = torch.randint(1, 6, (count + objects, 2), generator=rng) * 8.0
        boxes = torch.cat([corner, corner + size], 1)
        labels = torch.randint(CLASSES, (objects,), generator=rng).tolist()
        owner = draw(st.lists(st.integers(-1, objects - 1), min_size=count, max_size=count))
        truth = list(zip(boxes[count:].tolist(), labels, strict=True))
        images.append(image_of(logits, boxes[:count], owner, truth))
    return points, images


@given(batches())
def test_equals_the_definition(drawn: tuple[Points, list[Image]]) -> None:
    assert means(measured(*drawn)) == pytest.approx(oracle(*drawn), abs=1e-6)


@given(batches(), st.integers(1, 40))
@settings(max_examples=30)
def test_objects_in_several_parts(drawn: tuple[Points, list[Image]], elements: int) -> None:
    whole = measured(*drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(positives, "_ELEMENTS", elements)
        torch.testing.assert_close(measured(*drawn), whole)


@given(batches())
@settings(max_examples=30)
def test_of_a_batch_is_the_sum_over_its_images(drawn: tuple[Points, list[Image]]) -> None:
    """So that any number of workers and batches has the same means."""
    points, images = drawn
    each = torch.stack([measured(points, [image]) for image in images])
    torch.testing.assert_close(measured(points, images), each.sum(0))


ROW = [(4.0, 4.0), (12.0, 4.0), (20.0, 4.0), (28.0, 4.0), (60.0, 60.0)]
"""Four points in a row, and one far away."""
WHOLE = [0.0, 0.0, 32.0, 8.0]
ROW_BOX = torch.tensor(WHOLE).repeat(len(ROW), 1)


def of_row(scores: list[float], owner: list[int], *boxes: list[float]) -> dict[str, float]:
    """Measure objects of class 0; scores of other classes are higher."""
    logits = torch.tensor([scores, [0.99] * len(ROW), [0.9] * len(ROW)]).T.logit()
    objects = [(box, 0) for box in boxes or [WHOLE]]
    return means(measured(points_at(ROW), [image_of(logits, ROW_BOX, owner, objects)]))


NEAREST = [0.3, 0.4, 0.8, 0.1, 0.95]


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ([-1, 0, -1, -1, -1], {"score": 0.4, "rank": 2, "first": 0, "relative": 3 / 7}),
        ([-1, -1, 0, -1, -1], {"score": 0.8, "rank": 1, "first": 1, "relative": 1.0}),
        ([-1, -1, -1, 0, -1], {"score": 0.1, "rank": 4, "first": 0, "relative": 0.0}),
        ([-1, 0, 0, 0, -1], {"score": 1.3 / 3, "rank": 1, "first": 1, "relative": 1.0}),
    ],
)
def test_a_medium_score_and_the_highest_one(owner: list[int], expected: dict[str, float]) -> None:
    """The cases of Fig. 5. The point that is far away is no candidate."""
    whole = expected | {"iou": 1.0, "score_gap": 0.4}
    assert of_row(NEAREST, owner) == pytest.approx(whole, abs=1e-6)


def test_a_positive_point_outside_of_the_box_is_a_candidate() -> None:
    found = of_row(NEAREST, [-1, -1, -1, -1, 0])
    assert found["rank"] == 1
    assert found["score_gap"] == pytest.approx(0.95 - 0.8, abs=1e-6)


def test_positive_points_of_another_object_are_no_candidates() -> None:
    """Two objects with the same box: each has its own point of a high score."""
    found = of_row(NEAREST, [-1, 0, 1, -1, -1], WHOLE, WHOLE)
    assert found["rank"] == 1
    assert found["score_gap"] == pytest.approx((0.1 + 0.5) / 2, abs=1e-6)


def test_equal_scores_have_the_same_rank_and_no_gap() -> None:
    found = of_row([0.5] * 5, [0, -1, -1, -1, -1])
    assert (found["rank"], found["first"], found["relative"]) == (1, 1, 1)
    assert found["score_gap"] == 0


def test_a_single_candidate_has_the_gap_of_its_score() -> None:
    found = of_row(NEAREST, [0, -1, -1, -1, -1], [2.0, 2.0, 6.0, 6.0])
    assert found["score_gap"] == pytest.approx(0.3, abs=1e-6)
    assert found["relative"] == 1


def test_large_logits_are_ranked_although_their_scores_are_equal() -> None:
    logits = torch.tensor([40.0, 50.0, 60.0, -50.0, 0.0]).repeat(CLASSES, 1).T
    image = image_of(logits, ROW_BOX, [-1, 0, -1, -1, -1], [(WHOLE, 2)])
    assert means(measured(points_at(ROW), [image]))["rank"] == 2


class TestNothingToMeasure:
    def test_no_objects(self) -> None:
        image = image_of(torch.zeros(5, CLASSES), ROW_BOX, [-1] * 5, [])
        assert measured(points_at(ROW), [image]).tolist() == [0] * (2 + len(POSITIVES))

    def test_no_positives(self) -> None:
        image = image_of(torch.zeros(5, CLASSES), ROW_BOX, [-1] * 5, [(WHOLE, 0)])
        sums = measured(points_at(ROW), [image])
        assert sums.tolist() == [0] * (2 + len(POSITIVES))
        assert means(sums) == {}

    def test_predictions_that_are_not_finite_have_no_positives(self) -> None:
        """See `engine.assign`; the loss raises the error."""
        logits = torch.full((5, CLASSES), torch.nan)
        image = image_of(logits, ROW_BOX, [-1] * 5, [(WHOLE, 0)])
        assert means(measured(points_at(ROW), [image])) == {}

    def test_objects_without_positives_are_left_out(self) -> None:
        owner = [-1, 0, -1, -1, -1]
        assert of_row(NEAREST, owner, WHOLE, WHOLE) == of_row(NEAREST, owner, WHOLE)


def test_has_no_gradient() -> None:
    predictions, assignment, targets = image_of(
        torch.zeros(5, CLASSES, requires_grad=True), ROW_BOX, [0] * 5, [(WHOLE, 0)]
    )
    assert not measured(points_at(ROW), [(predictions, assignment, targets)]).requires_grad
