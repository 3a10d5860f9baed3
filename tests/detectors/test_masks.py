"""The mask loss against loops, and masks of candidates."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from detectors.api import evaluate
from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Strategy
from detectors.criterion import Criterion
from detectors.data.base import Dataset
from detectors.data.loader import Batch
from detectors.data.mask_views import COARSE, coarse, ground_truth
from detectors.evaluation.gap import gap_between
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.selection import admitted, select_both
from detectors.evaluation.truth import as_candidates
from detectors.inference import CandidateRequest, MaskRequest, predict
from detectors.losses import LossOptions, dice
from detectors.masks import MaskTargets, mask_loss, masks_at
from detectors.models.condinst import mask_logits
from detectors.models.dense import DenseDetector
from detectors.models.mask_options import CondInst
from detectors.models.points import pyramid_points
from detectors.rle import decode
from detectors.structures import Assignment, Points, Predictions, Sample, Targets
from detectors.world import LocalWorld
from tests.detectors import miniature as mini

OPTIONS = CondInst(channels=3)


def test_dice_is_that_of_counted_pixels() -> None:
    logits = torch.randn(4, 5, 6)
    target = (torch.rand(4, 5, 6) < 0.4).float()
    target[3] = 0
    found = dice(logits, target)
    for k in range(4):
        common = both = 0.0
        for p, t in zip(logits[k].sigmoid().flatten(), target[k].flatten(), strict=True):
            common, both = common + float(p * t), both + float(p * p + t * t)
        assert float(found[k]) == pytest.approx(1 - 2 * common / (both + 1e-5), abs=1e-5)
    assert float(found[3]) == 1
    sure = 100 * (2 * target[:3] - 1)
    assert dice(sure, target[:3]).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert dice(logits[:0], target[:0]).shape == (0,)


def case(stride: int, side: int, number: int, seed: int = 0) -> dict[str, Any]:
    """Random parameters and features for two images of side x side, with `number` positives."""
    rng = torch.Generator().manual_seed(seed)
    cells = -(-side // stride)
    points = points_of(stride, side)
    masks = [torch.rand(count, side, side, generator=rng) < 0.5 for count in (2, 3)]
    labels = [torch.randint(2, (count,), generator=rng) for count in (2, 3)]
    targets = tuple(Targets(torch.zeros(len(each), 4), each) for each in labels)
    images = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    batch = Batch(images, targets, (0, 1), ((1.0, 1.0),) * 2, tuple(map(coarse, masks)))
    object_ = torch.full((2, len(points)), -1)
    at = torch.randperm(2 * len(points), generator=rng)[:number]
    for place in at.tolist():
        image = place // len(points)
        object_[image, place % len(points)] = int(torch.randint(2 + image, (1,), generator=rng))
    predictions = Predictions(
        torch.randn(2, len(points), 2, generator=rng),
        torch.zeros(2, len(points), 4),
        masks=torch.randn(2, len(points), OPTIONS.parameters, generator=rng),
    )
    return {
        "points": points,
        "predictions": predictions,
        "assignment": Assignment(object_, (object_ >= 0).float()),
        "features": torch.randn(2, OPTIONS.channels, cells, cells, generator=rng),
        "targets": MaskTargets.of(batch, DEVICE),
    }


DEVICE = torch.device("cpu")


def points_of(stride: int, height: int, width: int | None = None) -> Points:
    size = -(-height // stride), -(-(width or height) // stride)
    return pyramid_points((size,), (stride,), DEVICE, ((1.0, 1.0),), 0.5)


def loss(options: LossOptions, **changes: Any) -> torch.Tensor:
    return mask_loss(Criterion(options, LocalWorld()), **changes)


@pytest.mark.parametrize(("stride", "side"), [(4, 24), (8, 32), (8, 34), (16, 40)])
def test_the_mask_loss_is_the_mean_over_positive_points(stride: int, side: int) -> None:
    given = case(stride, side, 6)
    points, size, each = given["points"], -(-side // COARSE), []
    images, places = given["assignment"].positives()
    for image, place in zip(images.tolist(), places.tolist(), strict=True):
        point, number = torch.tensor([place]), int(given["assignment"].object[image, place])
        logits = mask_logits(
            given["features"][image : image + 1],
            torch.zeros(1, dtype=torch.int64),
            given["predictions"].masks[image, point],
            points.xy[point],
            points.stride[point],
            stride,
        )
        if stride > COARSE:
            logits = F.interpolate(logits[:, None], scale_factor=stride / 4, mode="bilinear")[:, 0]
        wanted = given["targets"].masks[2 * image + number]
        each.append(float(dice(logits[:, :size, :size], wanted[None])))
    assert len(each) == 6
    options = LossOptions(mask_weight=2.0, mask_points=0)
    assert loss(options, **given).item() == pytest.approx(2 * sum(each) / 6, rel=1e-5)


@pytest.mark.parametrize("most", [1, 2, 5, 6, 30])
def test_the_best_points_of_each_object_in_turn(most: int) -> None:
    """Points that are left out get no gradient."""
    given = case(4, 24, 40)
    predictions, object_ = given["predictions"], given["assignment"].object
    parameters = predictions.masks.requires_grad_()
    loss(LossOptions(mask_points=most), **given).backward()  # type: ignore[no-untyped-call]
    for image, objects in ((0, 2), (1, 3)):
        turns = list[tuple[int, float, int]]()
        for number in range(objects):
            own = (object_[image] == number).nonzero()[:, 0].tolist()
            label = int(given["targets"].labels[2 * image + number])
            scores = sorted((-float(predictions.logits[image, n, label]), n) for n in own)
            turns += [(turn, score, n) for turn, (score, n) in enumerate(scores)]
        expected = {n for _, _, n in sorted(turns)[:most]}
        used = parameters.grad[image].abs().sum(1) > 0
        assert set(used.nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("most", [0, 64])
def test_without_positive_points_the_loss_is_zero_and_has_gradients(most: int) -> None:
    given = case(8, 32, 0)
    inputs = [given["features"].requires_grad_(), given["predictions"].masks.requires_grad_()]
    found = loss(LossOptions(mask_points=most), **given)
    assert found.item() == 0
    found.backward()  # type: ignore[no-untyped-call]
    for each in inputs:
        assert not each.grad.any()
        with torch.no_grad():
            each[0, 0] = torch.nan
        assert loss(LossOptions(mask_points=most), **given).isnan()
        with torch.no_grad():
            each[0, 0] = 0


def test_batches_without_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="needs batches with masks"):
        MaskTargets.of(replace(mini.batch([1]), masks=()), DEVICE)


def test_a_detector_learns_the_masks_of_a_batch() -> None:
    strategy = ASSIGNERS["poto"]()
    options = mini.SMALL.model_copy(update={"masks": CondInst(width=8, convs=1)})
    quick = mini.BRISK.model_copy(update={"lr": 1e-2})
    learner = mini.learner(strategy, quick, model=mini.detector(strategy, options))
    whole = mini.batch([2, 3])
    losses = [mini.train_step(learner, whole, mini.progress(2))["o2o.mask"] for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("width", "height"), [(40, 40), (20, 31), (60, 50), (41, 17), (1, 1)])
@pytest.mark.parametrize(("stride", "filled"), [(4, 1.0), (8, 1.0), (8, 0.87)])
def test_masks_in_original_pixels(width: int, height: int, stride: int, filled: float) -> None:
    """Probabilities between the pixels 4i + 2 of the input, pixel by pixel; it may have padding."""
    high, wide, rng = 32, 40, torch.Generator().manual_seed(1)
    scale, points = (filled * wide / width, filled * high / height), points_of(stride, high, wide)
    chosen = points.take(torch.tensor([0, 7, 3]))
    features = torch.randn(2, OPTIONS.channels, high // stride, wide // stride, generator=rng)
    parameters = torch.randn(3, OPTIONS.parameters, generator=rng)
    image = torch.full((3,), 1)
    found = masks_at(features, image, parameters, chosen, scale, (width, height))
    assert found.shape == (3, height, width)
    logits = mask_logits(features, image, parameters, chosen.xy, chosen.stride, stride)
    if stride > COARSE:
        logits = F.interpolate(logits[:, None], scale_factor=2, mode="bilinear")[:, 0]
    p, lowest, last = logits.sigmoid(), high // COARSE - 1, wide // COARSE - 1
    for row in range(height):
        for column in range(width):
            y = min(max(((row + 0.5) * scale[1] - 2.5) / COARSE, 0), lowest)
            x = min(max(((column + 0.5) * scale[0] - 2.5) / COARSE, 0), last)
            top, left = min(int(y), lowest - 1), min(int(x), last - 1)
            upper = (left + 1 - x) * p[:, top, left] + (x - left) * p[:, top, left + 1]
            lower = (left + 1 - x) * p[:, top + 1, left] + (x - left) * p[:, top + 1, left + 1]
            value = (top + 1 - y) * upper + (y - top) * lower
            clear = (value - 0.5).abs() > 1e-4
            assert torch.equal(found[clear, row, column], value[clear] > 0.5)


def test_no_point_has_no_mask() -> None:
    points = points_of(8, 40).take(torch.zeros(0, dtype=torch.int64))
    image = torch.zeros(0, dtype=torch.int64)
    features, parameters = torch.zeros(1, 3, 5, 5), torch.zeros(0, OPTIONS.parameters)
    assert masks_at(features, image, parameters, points, (1.0, 1.0), (40, 40)).shape == (0, 40, 40)


PROTOCOL = Protocol(evaluator="masks", score_floor=0.01, pre_nms_topk=3)


def segmenting(strategy: Strategy) -> DenseDetector:
    """A detector with masks whose scores differ."""
    model = mini.detector(strategy, mini.SMALL.model_copy(update={"masks": OPTIONS}))
    for name, weight in model.named_parameters():
        if ("cls" in name or "controller" in name) and weight.ndim > 1:
            weight.data.mul_(20)
    return model


class Reduced:
    """A data set whose images were twice as wide and four times as high."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def __getitem__(self, index: int) -> Sample:
        return replace(self._data[index], scale=SCALE)


SCALE = (0.5, 0.25)


def test_candidates_that_a_protocol_admits_have_masks() -> None:
    model = segmenting(ASSIGNERS["dual"]()).eval()
    data: Any = Reduced(mini.SHAPES.load("val"))
    sizes = [(2 * width, 4 * height) for width, height in ground_truth(data, masks=True).sizes]
    request = CandidateRequest(
        ["o2o", "o2m"], mini.TOPK, batch=2, masks=MaskRequest(PROTOCOL, sizes)
    )
    found = predict(model, data, request, LocalWorld())
    plain = predict(model, data, replace(request, masks=None), LocalWorld())
    for branch, each in found.items():
        assert each.masks is not None
        expected = torch.zeros(len(each), dtype=torch.bool)
        expected[admitted(each, PROTOCOL)] = True
        assert 0 < int(expected.sum()) < len(each)
        assert torch.equal(each.masks.held, expected)
        mini.assert_same(replace(each, masks=None), plain[branch])
        output = model(torch.stack([data[i].image for i in range(len(data))]), branches=[branch])
        points, parameters = output.points[branch], output.branches[branch][0].masks
        assert parameters is not None
        for row in expected.nonzero()[:, 0].tolist():
            image = each.image[row : row + 1]
            level, xy = points.level == each.levels[row], (points.xy == each.points[row]).all(1)
            point = (level & xy).nonzero()[:, 0]
            mask = masks_at(
                output.masks[branch],
                image,
                parameters[image, point],
                points.take(point),
                SCALE,
                sizes[int(image)],
            )
            own = decode(each.masks[torch.tensor([row])], sizes[int(image)])
            assert int((own ^ mask).sum()) <= 8, "rounding of another batch"


def test_the_gap_of_masks() -> None:
    model, strategy = segmenting(ASSIGNERS["poto"]()), ASSIGNERS["poto"]()
    metrics = evaluate(model, strategy, mini.SHAPES.load("val"), PROTOCOL)["o2o"].metrics
    ap, nms = metrics["ap"], metrics["ap_nms"]
    assert ap is not None
    assert nms is not None
    assert metrics["gap"] == pytest.approx(ap - nms)
    without = mini.detector(strategy)
    with pytest.raises(ValueError, match="the detector predicts no masks; choose a protocol of"):
        evaluate(without, strategy, mini.SHAPES.load("val"), PROTOCOL)


def test_perfect_masks_have_an_ap_of_100() -> None:
    """The masks of all objects as detections, under every preset of masks."""
    truth = ground_truth(mini.SHAPES.load("val"), masks=True)
    for protocol in (p for p in PROTOCOLS.values() if p.evaluator == "masks"):
        columns = select_both(as_candidates(truth), protocol, truth.sizes)
        assert gap_between(columns, truth, protocol).metrics["ap"] == pytest.approx(100)
