"""Sparse R-CNN: its parts against naive references, and its size against the published one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, relu

from detectors.boxes import area
from detectors.cost import parameter_count
from detectors.models.backbones import Tiny
from detectors.models.operators.roi_align import roi_align
from detectors.models.queries import corners
from detectors.models.resnet import ResNet
from detectors.models.sparse_rcnn import ProposalHead, SparseRcnnOptions
from detectors.models.sparse_rcnn_stage import DynamicConv, StagePredictor

SMALL: dict[str, Any] = {
    "backbone": Tiny(channels=(8, 16)),
    "channels": 16,
    "feedforward": 32,
    "queries": 5,
    "stages": 2,
    "roi_side": 3,
    "roi_cells": 4.0,
}


def head(**changes: Any) -> ProposalHead:
    torch.manual_seed(0)
    return ProposalHead(SparseRcnnOptions(**SMALL | changes), (4, 8), ("o2o",), 3)


def test_parameters_are_those_that_sparse_rcnn_publishes() -> None:
    """106 million with ResNet-50 and 300 proposals, counted layer by layer.

    Scale and shift of the backbone's batch norm are among our parameters, 53,120 numbers. They are
    buffers in detectron2, which then has 106,289,768.
    """
    resnet50 = ResNet(depth=50, finest=4, weights="resnet50.pth")
    options = SparseRcnnOptions(**{**SparseRcnnOptions.published, "backbone": resnet50})
    c, d, hidden, bins = 256, 64, 2048, 49
    resnet, batch_norm = 25_557_032 - 2_049_000 - 53_120, 53_120
    pyramid = (256 + 512 + 1024 + 2048 + 4) * c + 4 * (9 * c * c + c)
    attention = 4 * (c * c + c)
    dynamic = (c + 1) * 2 * c * d + 2 * (d + c) + (bins * c + 1) * c + 2 * c
    feed = 2 * hidden * c + hidden + c
    towers = (1 + 3) * (c * c + 2 * c) + (c + 1) * (80 + 4)
    stage = attention + dynamic + feed + 3 * 2 * c + towers
    published = resnet + pyramid + 6 * stage + 300 * (c + 4)
    assert parameter_count(options, 80, ("o2o",)) == published + batch_norm == 106_342_888
    assert round(published / 1e6) == 106


def test_the_dynamic_head_filters_each_proposal_with_its_own_weights() -> None:
    torch.manual_seed(1)
    layer = DynamicConv(channels=6, dynamic=4, bins=9)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    state, read = torch.randn(2, 5, 6), torch.randn(2, 5, 9, 6)
    found = layer(state, read)
    for image in range(2):
        for n in range(5):
            weights = linear(state[image, n], layer.weights.weight, layer.weights.bias)
            first, second = weights[:24].view(6, 4), weights[24:].view(4, 6)
            bins = []
            for each in read[image, n]:
                x = relu(layer_norm(each @ first, (4,), layer.inner.weight, layer.inner.bias))
                x = relu(layer_norm(x @ second, (6,), layer.outer.weight, layer.outer.bias))
                bins.append(x)
            merged = linear(torch.cat(bins), layer.merge.weight, layer.merge.bias)
            one = relu(layer_norm(merged, (6,), layer.norm.weight, layer.norm.bias))
            torch.testing.assert_close(found[image, n], one)


def test_deltas_move_and_resize_boxes_as_in_the_released_code() -> None:
    torch.manual_seed(2)
    predictor = StagePredictor(SparseRcnnOptions(**SMALL).shape(), 3)
    state, boxes = torch.randn(1, 4, 16), torch.tensor([[[2.0, 4.0, 10.0, 8.0]] * 4])
    found = predictor(state, boxes).boxes[0]
    for n, (dx, dy, dw, dh) in enumerate(predictor.box(state)[0].tolist()):
        x, y = 6 + dx / 2 * 8, 6 + dy / 2 * 4
        w, h = 8 * math.exp(dw), 4 * math.exp(dh)
        wanted = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        torch.testing.assert_close(found[n], wanted)
    torch.nn.init.constant_(predictor.box[-1].get_parameter("bias"), 99.0)
    x1, _, x2, _ = predictor(state, boxes).boxes[0, 0].tolist()
    assert x2 - x1 == pytest.approx(8 * 100_000 / 16), "sides grow by at most this factor"


def test_proposals_first_cover_the_input() -> None:
    assert corners(head().boxes, (40.0, 32.0)).tolist() == [[0.0, 0.0, 40.0, 32.0]] * 5


def test_proposals_first_are_a_grid() -> None:
    boxes = corners(head(first_boxes="grid").boxes, (60.0, 32.0)).round().tolist()
    assert boxes[:4] == [[0, 0, 20, 16], [20, 0, 40, 16], [40, 0, 60, 16], [0, 16, 20, 32]]
    assert len(boxes) == 5
    square = corners(head(first_boxes="grid", queries=4).boxes, (8.0, 8.0))
    assert area(square).sum().item() == 64


def level_in_detectron2(box: Tensor, cells: float) -> int:
    """The level of FPN Eq. 1, if strides are 4 and 8 and the canonical side is on stride 4."""
    found = math.floor(math.log2(float(area(box).sqrt()) / cells / 4 + 1e-8))
    return min(max(found, 0), 1)


def test_each_box_is_read_from_the_level_that_fits_its_size() -> None:
    rng = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 16, n, n, generator=rng) for n in (16, 8)]
    corner = 40 * torch.rand(2, 5, 2, generator=rng)
    side = torch.tensor([5.0, 31.0, 32.0, 33.0, 60.0])[None, :, None].expand(2, 5, 2)
    boxes = torch.cat([corner, corner + side], 2)
    found, levels = head()._read(maps, boxes), set[int]()
    for image in range(2):
        for n in range(5):
            box = boxes[image, n]
            level = level_in_detectron2(box, 4.0)
            levels.add(level)
            one = roi_align(maps[level], box[None], torch.tensor([image]), 4 * 2**level, side=3)
            torch.testing.assert_close(found[image, n].T.view(1, 16, 3, 3), one)
    assert levels == {0, 1}


def test_boxes_pass_between_stages_without_gradients() -> None:
    """The learned boxes have gradients of the first stage only."""
    options = SparseRcnnOptions(**SMALL)
    torch.manual_seed(0)
    detector = options.build(3, ("o2o",)).train()
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    first, second = detector(images).branches["o2o"]
    learned = detector.get_parameter("head.boxes")
    last = detector.get_parameter("head.predictors.o2o.0.box.3.weight")
    inputs = [learned, last]
    of_first = torch.autograd.grad(first.boxes.sum(), inputs, retain_graph=True)
    of_second = torch.autograd.grad(second.boxes.sum(), inputs, allow_unused=True)
    assert all(gradient.any() for gradient in of_first)
    assert [gradient is None for gradient in of_second] == [True, True]
