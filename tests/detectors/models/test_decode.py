import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.geometry import ltrb
from detectors.models.decode import (
    DECODERS,
    ENCODERS,
    WIDEST,
    BoxCode,
    deltas,
    encode_deltas,
    from_distances,
)
from detectors.models.points import pyramid_points
from detectors.structures import Points, Targets
from tests.examples import examples

CPU = torch.device("cpu")
POINTS = pyramid_points([(2, 3), (1, 2)], (4, 8), CPU, ((4.0, 2.0), (3.0, 5.0)))

Numbers = list[float]


def by_formula(code: BoxCode, raw: Numbers, x: float, y: float, stride: float) -> Numbers:
    sides = {
        "softplus": [stride * math.log(1 + math.exp(value + 1)) for value in raw],
        "relu": [stride * max(value, 0.0) for value in raw],
        "exp": [math.exp(value) for value in raw],
        "pixels": [max(value, 0.0) for value in raw],
    }
    left, top, right, bottom = sides[code]
    return [x - left, y - top, x + right, y + bottom]


def sized(raw: Numbers, x: float, y: float, stride: float) -> Numbers:
    """A box from the offset of its centre in the cell and its sides (CenterNet section 4)."""
    x, y = (x // stride + raw[0]) * stride, (y // stride + raw[1]) * stride
    width, height = stride * max(raw[2], 0.0), stride * max(raw[3], 0.0)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def shifted(raw: Numbers, anchor: Numbers) -> Numbers:
    """A box from deltas to an anchor (Fast R-CNN section 3)."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x = (anchor[0] + anchor[2]) / 2 + raw[0] * width
    y = (anchor[1] + anchor[3]) / 2 + raw[1] * height
    width, height = width * math.exp(min(raw[2], WIDEST)), height * math.exp(min(raw[3], WIDEST))
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@pytest.mark.parametrize("code", DECODERS)
@examples(20)
@given(raw=st.lists(st.floats(-6, 6), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_every_code_equals_its_formula_at_every_point(
    code: BoxCode, raw: Numbers, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    given = torch.tensor(raw) + torch.randn(2, len(POINTS), 4, generator=rng)
    found = DECODERS[code](given, POINTS)
    assert found.shape == (2, len(POINTS), 4)
    for image in range(2):
        for n in range(len(POINTS)):
            (x, y), stride = POINTS.xy[n].tolist(), POINTS.stride[n].item()
            values = given[image, n].tolist()
            if code == "deltas":
                expected = shifted(values, POINTS.anchors[n].tolist())
            elif code == "size_offset":
                expected = sized(values, x, y, stride)
            else:
                expected = by_formula(code, values, x, y, stride)
            assert found[image, n].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("code", DECODERS)
def test_sides_are_never_negative_and_extreme_values_stay_finite(code: BoxCode) -> None:
    raw = torch.tensor([-1e4, -3.0, 0.0, 3.0, 80.0]).repeat(4, 1).T[None].expand(1, 5, 4)
    points = pyramid_points([(1, 5)], (4,), CPU)
    boxes = DECODERS[code](raw, points)
    assert boxes.isfinite().all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_around_undoes_the_distances_to_the_sides() -> None:
    points = pyramid_points([(4, 5), (2, 3)], (4, 8), CPU)
    boxes = torch.tensor([[1.0, 2.0, 9.0, 7.0], [-3.0, 0.5, 20.25, 16.0], [4.0, 4.0, 4.0, 4.0]])
    distances = ltrb(points, Targets(boxes, torch.zeros(3, dtype=torch.int64)))
    assert torch.equal(
        from_distances(points, distances), boxes[:, None].expand(-1, len(points), -1)
    )


box = st.tuples(*[st.floats(-50, 50)] * 2, *[st.floats(0.5, 200)] * 2)


@examples(30)
@given(st.lists(st.tuples(box, box), max_size=6))
def test_deltas_undo_encoding(pairs: list[tuple[Numbers, Numbers]]) -> None:
    rows = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2, 4)
    corners = torch.cat([rows[..., :2], rows[..., :2] + rows[..., 2:]], dim=-1)
    boxes, anchors = corners.unbind(1)
    n = len(boxes)
    points = Points(boxes[:, :2], boxes[:, 0], torch.zeros(n).long(), anchors, (1.0, 1.0), (n,))
    side = (boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    encoded = encode_deltas(boxes, points)
    back = deltas(encoded, points)
    narrow = (side.log() <= WIDEST).all(1)
    torch.testing.assert_close(back[narrow], boxes[narrow])
    cut = torch.cat([encoded[:, :2], encoded[:, 2:].clamp(max=WIDEST)], dim=1)
    torch.testing.assert_close(encode_deltas(back, points), cut)


def test_a_box_without_area_has_finite_deltas_and_gradients() -> None:
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [9.0, 9.0, 1.0, 1.0]], requires_grad=True)
    anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(2, 1)
    flat = torch.zeros(2)
    encoded = encode_deltas(
        boxes, Points(anchors[:, :2], flat, flat.long(), anchors, (8.0, 8.0), ())
    )
    encoded.sum().backward()  # type: ignore[no-untyped-call]
    assert encoded.isfinite().all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


@examples(30)
@given(st.lists(box, min_size=1, max_size=6), st.sampled_from(list(ENCODERS)), st.integers(0, 7))
def test_encoding_is_undone_by_the_decoder_of_the_same_name(
    rows: list[Numbers], code: BoxCode, first: int
) -> None:
    corners = torch.tensor(rows)
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
    at = POINTS.take((first + torch.arange(len(boxes))) % len(POINTS))
    back = DECODERS[code](ENCODERS[code](boxes, at), at)
    torch.testing.assert_close(back, boxes, rtol=1e-4, atol=1e-3)
