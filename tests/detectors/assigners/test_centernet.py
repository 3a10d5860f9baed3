from itertools import product
from math import exp, floor, hypot

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.assigners.centernet import CenterNet, gaussian_radius
from detectors.models.points import pyramid_points
from detectors.structures import Assignment, Points, Predictions, Progress, Targets
from tests.examples import examples

Box = tuple[float, float, float, float]

CLASSES = 3
half = st.integers(-8, 80).map(lambda n: n / 2)
side = st.integers(1, 90).map(lambda n: n / 2)
boxes = st.lists(
    st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=6,
)


def sizes_of(height: int, width: int, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(-(-height // s), -(-width // s)) for s in strides]


def points_of(height: int, width: int, strides: tuple[int, ...]) -> Points:
    return pyramid_points(sizes_of(height, width, strides), strides, torch.device("cpu"))


def assign(
    assigner: CenterNet, points: Points, boxes: list[Box], labels: list[int] | None = None
) -> tuple[Assignment, Tensor]:
    """Return the assignment and its weight, [N, C]. By default object g has class g modulo C."""
    predictions = Predictions(torch.zeros(len(points), CLASSES), torch.zeros(len(points), 4))
    named = torch.tensor([g % CLASSES for g in range(len(boxes))] if labels is None else labels)
    named = named.to(torch.int64)
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), named)
    found = assigner.assign(points, predictions, targets, Progress(0, 1, 0, 1))
    assert found.degree.tolist() == [float(obj >= 0) for obj in found.object.tolist()]
    assert found.weight is not None
    assert found.weight.shape == (len(points), CLASSES)
    assert found.weight.dtype == torch.float32
    return found, found.weight


def iou_of_moved(width: float, height: float, moves: tuple[float, ...]) -> float:
    """Compute the IoU of a box with itself after its sides (x0, y0, x1, y1) moved."""
    x0, y0, x1, y1 = moves[0], moves[1], width + moves[2], height + moves[3]
    if x1 <= x0 or y1 <= y0:
        return 0.0
    overlap = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0))
    return overlap / (width * height + (x1 - x0) * (y1 - y0) - overlap)


def searched_radius(width: float, height: float, overlap: float) -> float:
    """Find by bisection how far corners may move in any direction at this IoU."""
    low, high = 0.0, (width + height) / 2
    for _ in range(60):
        r = (low + high) / 2
        worst = min(iou_of_moved(width, height, m) for m in product((-r, r), repeat=4))
        low, high = (r, high) if worst >= overlap else (low, r)
    return low


def centre_cell(box: Box, level: int, strides: tuple[int, ...], size: tuple[int, int]) -> int:
    """Return the index of the centre's cell (rounded down), row by row over all levels."""
    rows, columns = sizes_of(*size, strides)[level]
    cell = [
        min(max(floor((box[axis] + box[axis + 2]) / 2 / strides[level]), 0), count - 1)
        for axis, count in ((0, columns), (1, rows))
    ]
    before = sum(h * w for h, w in sizes_of(*size, strides)[:level])
    return before + cell[1] * columns + cell[0]


def level_for(box: Box, strides: tuple[int, ...], factor: float) -> int:
    half_side = max(box[2] - box[0], box[3] - box[1]) / 2
    return next(
        (level for level, s in enumerate(strides[:-1]) if half_side <= factor * s),
        len(strides) - 1,
    )


def owners(cells: list[int], boxes: list[Box], count: int) -> list[int]:
    """Return the smallest object of every centre cell; of equal ones the first."""
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    rivals = [[g for g, cell in enumerate(cells) if cell == n] for n in range(count)]
    return [min(some, key=lambda g: (areas[g], g), default=-1) for some in rivals]


def looped(
    assigner: CenterNet, strides: tuple[int, ...], size: tuple[int, int], boxes: list[Box]
) -> tuple[list[int], list[list[float]], set[int]]:
    """Return object and weights of each point, and the points where rounding may decide."""
    points = points_of(*size, strides)
    xy, close, cells = points.xy.tolist(), set(), []
    heat = [[0.0] * CLASSES for _ in xy]
    for g, box in enumerate(boxes):
        level = level_for(box, strides, assigner.range_factor)
        cells.append(centre_cell(box, level, strides, size))
        radius = searched_radius(box[2] - box[0], box[3] - box[1], assigner.min_overlap)
        for n in (n for n in range(len(points)) if points.level[n] == level):
            distance = hypot(*(a - b for a, b in zip(xy[n], xy[cells[g]], strict=True)))
            warmth = exp(-(distance**2) / (2 * (radius / 3) ** 2)) if distance <= radius else 0.0
            heat[n][g % CLASSES] = max(heat[n][g % CLASSES], warmth)
            close |= {n} if abs(distance - radius) < 1e-3 else set()
    owner = owners(cells, boxes, len(points))
    weight = [[(1 - y) ** assigner.beta for y in row] for row in heat]
    for n in (n for n, g in enumerate(owner) if g >= 0):
        weight[n][owner[n] % CLASSES] = 1.0
    return owner, weight, close


@examples(30)
@given(
    st.sampled_from([(32, 32), (48, 40), (7, 33), (1, 1)]),
    st.sampled_from([(4,), (4, 8, 16)]),
    boxes,
    st.sampled_from([0.1, 0.3, 0.7]),
    st.sampled_from([1.0, 2.0, 8.0]),
)
def test_equals_the_loop_over_objects_and_points(
    size: tuple[int, int],
    strides: tuple[int, ...],
    of: list[Box],
    overlap: float,
    factor: float,
) -> None:
    assigner = CenterNet(min_overlap=overlap, range_factor=factor)
    found, weight = assign(assigner, points_of(*size, strides), of)
    owner, expected, close = looped(assigner, strides, size, of)
    assert found.object.tolist() == owner
    for n, row in enumerate(weight.tolist()):
        if n not in close:
            assert row == pytest.approx(expected[n], abs=1e-4)


@examples(30)
@given(st.floats(1, 200), st.floats(1, 200), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95]))
def test_radius_is_the_largest_shift_of_corners_that_keeps_the_overlap(
    width: float, height: float, overlap: float
) -> None:
    radius = gaussian_radius(torch.tensor([[width, height]], dtype=torch.float64), overlap).item()
    assert radius == pytest.approx(searched_radius(width, height, overlap), rel=1e-6)


def test_radius_of_degenerate_boxes_is_finite() -> None:
    sides = torch.tensor([[0.0, 0.0], [0.0, 9.0], [1e-3, 1e4]])
    radius = gaussian_radius(sides, 0.7)
    assert radius[:2].tolist() == [0.0, 0.0]
    assert 0 <= radius[2] < 1e-3
    points = points_of(16, 16, (4,))
    found, weight = assign(CenterNet(), points, [(6.0, 6.0, 6.0, 6.0)])
    assert found.object.tolist().count(0) == 1
    assert (weight == 1).all()


def test_weights_by_hand() -> None:
    """A square of 80 px, overlap 0.3: the radius is 80 * (1 - sqrt(0.3)) / 2 = 18.09 px."""
    points = points_of(128, 128, (8,))
    found, weight = assign(CenterNet(min_overlap=0.3), points, [(20.0, 20.0, 100.0, 100.0)], [2])
    assert weight[:, :2].eq(1).all()
    xy = points.xy.tolist()
    cell, right, diagonal, far = (
        xy.index(spot) for spot in ([60.0, 60.0], [68.0, 60.0], [76.0, 76.0], [84.0, 60.0])
    )
    assert [n for n, g in enumerate(found.object.tolist()) if g == 0] == [cell]
    sigma = 80 * (1 - 0.3**0.5) / 2 / 3
    assert weight[cell, 2] == 1
    assert weight[right, 2].item() == pytest.approx((1 - exp(-32 / sigma**2)) ** 4, rel=1e-4)
    assert weight[right, 2] < 0.2
    assert weight[diagonal, 2] == 1
    assert weight[far, 2] == 1


def test_a_higher_beta_reduces_the_weights() -> None:
    points, of = points_of(64, 64, (4,)), [(4.0, 4.0, 60.0, 60.0)]
    mild, strong = (assign(CenterNet(beta=beta), points, of)[1] for beta in (2.0, 4.0))
    assert torch.allclose(mild.square(), strong)
    assert (mild < 1).any()


def test_a_centre_between_cells_belongs_to_the_lower_right_one() -> None:
    points = points_of(32, 32, (4,))
    found, _ = assign(CenterNet(), points, [(10.0, 6.0, 14.0, 10.0)])
    assert points.xy[found.object.argmax()].tolist() == [14.0, 10.0]


def test_the_smaller_object_takes_a_shared_cell_and_the_others_class_is_not_punished_there() -> (
    None
):
    points = points_of(64, 64, (4,))
    large, small = (10.0, 10.0, 50.0, 50.0), (22.0, 22.0, 38.0, 38.0)
    cell = points.xy.tolist().index([30.0, 30.0])
    for of, labels in (([large, small], [0, 1]), ([small, large], [1, 0])):
        found, weight = assign(CenterNet(), points, of, labels)
        assert found.object[cell] == of.index(small)
        assert (found.object >= 0).sum() == 1
        assert weight[cell].tolist() == [0.0, 1.0, 1.0]


def test_of_equal_objects_the_first_takes_the_cell() -> None:
    points = points_of(16, 16, (4, 8))
    found, weight = assign(CenterNet(), points, [(2.0, 2.0, 14.0, 14.0)] * 30, [1] * 30)
    assert set(found.object.tolist()) == {-1, 0}
    assert weight[found.object.argmax(), 1] == 1


def test_without_objects_all_weights_are_one() -> None:
    found, weight = assign(CenterNet(), points_of(32, 32, (4, 8)), [], [])
    assert set(found.object.tolist()) == {-1}
    assert (weight == 1).all()


def test_its_loss_is_gaussian() -> None:
    assert CenterNet.loss == "gaussian"
