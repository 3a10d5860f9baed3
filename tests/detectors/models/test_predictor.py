import pytest
import torch
from torch import Tensor

from detectors.models.decode import DECODERS, ENCODERS, BoxCode
from detectors.models.gates import Centerness, GateOptions, MaxFilter, NoGate, gated
from detectors.models.points import Shape, anchor_shapes, pyramid_points
from detectors.models.predictor import SCALED, BranchShape, Predictor
from detectors.structures import Points, Predictions

SIZES, STRIDES = [(3, 4), (2, 2)], (4, 8)
SQUARE: tuple[Shape, ...] = ((4.0, 4.0),)
NINE = anchor_shapes([4.0, 5.0, 6.0], [0.5, 1.0, 2.0])
CHANNELS, CLASSES = 16, 3


def predictor(branch: BranchShape) -> Predictor:
    torch.manual_seed(0)
    return Predictor(branch, CHANNELS, CLASSES, groups=4)


def towers() -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 2, CHANNELS, h, w, generator=rng) for h, w in SIZES]
    return [(both[0], both[1]) for both in maps]


def points_of(branch: BranchShape) -> Points:
    return pyramid_points(SIZES, STRIDES, torch.device("cpu"), branch.anchors)


def predictions(module: Predictor, scales: tuple[float, float] = (1.0, 1.0)) -> Predictions:
    found: Predictions = module(towers(), torch.tensor(scales), points_of(module.branch))
    return found


def only(p: Points, n: int) -> Points:
    """Return point `n` alone."""
    here = slice(n, n + 1)
    return Points(p.xy[here], p.stride[here], p.level[here], p.anchors[here], p.extent, ())


def test_anchors_of_a_cell_are_in_the_order_of_their_channels() -> None:
    """With weights of 0 and biases that number the channels, the output shows its channel."""
    branch = BranchShape(NINE, "deltas")
    module, points = predictor(branch), points_of(branch)
    with torch.no_grad():
        for conv in (module.cls, module.box):
            conv.weight.zero_()
        module.get_parameter("cls.bias").copy_(torch.arange(9.0 * CLASSES))
        module.get_parameter("box.bias").copy_(torch.arange(9.0).repeat_interleave(4) / 10)
    found = predictions(module)
    cells = sum(h * w for h, w in SIZES)
    by_cell = found.logits.view(2, cells, 9, CLASSES)
    assert torch.equal(by_cell, torch.arange(9.0 * CLASSES).view(9, 3).expand(2, cells, 9, 3))
    for n in range(len(points)):
        shift = torch.full((1, 4), n % 9 / 10)
        torch.testing.assert_close(found.boxes[0, n], DECODERS["deltas"](shift, only(points, n))[0])
        width, height = (points.anchors[n, 2:] - points.anchors[n, :2]).tolist()
        reference = torch.tensor(NINE[n % 9]) * points.stride[n]
        assert (width, height) == pytest.approx(tuple(reference.tolist()))


@pytest.mark.parametrize("scale_code", [False, True])
@pytest.mark.parametrize("code", DECODERS)
def test_equals_the_convolutions_cell_by_cell(code: BoxCode, scale_code: bool) -> None:
    """Codes of distances in strides or by exp are scaled by their level first, others on demand."""
    branch = BranchShape(SQUARE, code, scale_code=scale_code)
    module, points, scales = predictor(branch), points_of(branch), (0.5, 2.0)
    torch.nn.init.normal_(module.box.weight, std=0.3)
    found, n = predictions(module, scales), 0
    for level, (cls, box) in enumerate(towers()):
        scores, raw = module.cls(cls), module.box(box)
        raw = raw * scales[level] if scale_code or code in SCALED else raw
        for y in range(SIZES[level][0]):
            for x in range(SIZES[level][1]):
                torch.testing.assert_close(found.logits[:, n], scores[:, :, y, x])
                reference = DECODERS[code](raw[:, None, :, y, x], only(points, n))[:, 0]
                torch.testing.assert_close(found.boxes[:, n], reference)
                if found.encoded is not None:
                    torch.testing.assert_close(found.encoded[:, n], raw[:, :, y, x])
                n += 1
    assert n == found.logits.shape[1] == len(points)
    assert (found.encoded is not None) == (code in ENCODERS)


def test_scores_start_at_the_prior_and_sides_near_a_stride() -> None:
    found = predictions(predictor(BranchShape(SQUARE, "softplus")))
    scores = found.scores()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.1)
    assert scores.max().item() < 0.05
    side = (found.boxes[..., 2:] - found.boxes[..., :2]) / torch.tensor(
        [4.0] * 12 + [8.0] * 4
    ).view(-1, 1)
    assert side.min().item() > 1
    assert side.max().item() < 6
    assert found.ungated is None
    assert found.centerness is None


def test_boxes_start_at_their_anchors_with_deltas() -> None:
    branch = BranchShape(NINE, "deltas")
    found, points = predictions(predictor(branch)), points_of(branch)
    side = points.anchors[:, 2:] - points.anchors[:, :2]
    shift = (found.boxes - points.anchors).abs() / side.repeat(1, 2)
    assert shift.max().item() < 0.5
    assert shift.mean().item() < 0.1


@pytest.mark.parametrize("anchors", [SQUARE, NINE])
def test_a_gate_is_part_of_the_logits_and_class_logits_are_kept(
    anchors: tuple[Shape, ...],
) -> None:
    branch = BranchShape(anchors, "relu", Centerness(convs=1, width=8))
    module, maps = predictor(branch), towers()
    found = predictions(module)
    assert module.gate is not None
    assert found.ungated is not None
    assert found.centerness is None
    gate = torch.cat(
        [x.permute(0, 2, 3, 1).flatten(1) for x in module.gate([b for _, b in maps])], 1
    )
    torch.testing.assert_close(found.logits, gated(found.ungated, gate[..., None]))
    plain = predictor(BranchShape(anchors, "relu"))
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if "gate" not in k})
    assert torch.equal(predictions(plain).logits, found.ungated)
    assert torch.equal(predictions(plain).boxes, found.boxes)
    assert torch.equal(found.without_gate().logits, found.ungated)


@pytest.mark.parametrize("source", ["cls", "box"])
@pytest.mark.parametrize("anchors", [SQUARE, NINE])
def test_centerness_is_a_convolution_of_its_tower(source: str, anchors: tuple[Shape, ...]) -> None:
    branch = BranchShape(anchors, "exp", centerness=True, centerness_from=source)
    module = predictor(branch)
    found = predictions(module)
    assert module.centerness is not None
    assert found.centerness is not None
    reference = [
        module.centerness(pair[source == "box"]).permute(0, 2, 3, 1).flatten(1) for pair in towers()
    ]
    torch.testing.assert_close(found.centerness, torch.cat(reference, 1))
    assert found.centerness.shape == found.logits.shape[:2]
    assert found.without_gate().centerness is None


def test_outputs_are_float32_for_features_of_any_type() -> None:
    branch = BranchShape(SQUARE, "softplus", Centerness(convs=1, width=8), centerness=True)
    module = predictor(branch)
    with torch.autocast("cpu", torch.bfloat16):
        found = predictions(module)
    assert {v.dtype for v in vars(found).values() if v is not None} == {torch.float32}


@pytest.mark.parametrize("gate", [NoGate(), Centerness(convs=1, width=8), MaxFilter()])
@pytest.mark.parametrize("anchors", [SQUARE, NINE])
def test_parameters_of_masks_are_computed_from_the_box_tower(
    gate: GateOptions, anchors: tuple[Shape, ...]
) -> None:
    """As in CondInst; a gate, such as that of o2f, leaves them out."""
    module, count = predictor(BranchShape(anchors, "relu", gate, masks=5)), len(anchors)
    found, controller = predictions(module).masks, module.controller
    assert found is not None
    assert controller is not None
    rows = list[Tensor]()
    for _, box in towers():
        channels = controller(box).split(5, 1)  # one anchor after the other
        each = torch.stack([x.flatten(2).transpose(1, 2) for x in channels], 2)
        rows.append(each.flatten(1, 2))
    assert len(channels) == count
    torch.testing.assert_close(found, torch.cat(rows, 1))
