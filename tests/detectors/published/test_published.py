"""Released detectors: every name has one counterpart here, and outputs stay the same."""

from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.data.preparation import Preparation
from detectors.models.operators.roi_align import roi_align_levels
from detectors.models.weights import WeightsError
from detectors.published import PUBLISHED, load_published, published_detector, recognise
from detectors.published.base import rename
from detectors.published.coco import CLASSES, IDS
from tests.detectors.published import released

CASES: dict[str, tuple[str, Callable[[], released.Shapes], int]] = {
    "detr": ("detr", released.detr, 0),
    "detr r101": ("detr", lambda: released.detr(depth=101), 0),
    "deformable": ("deformable_detr", released.deformable_detr, 40),
    "refine": ("deformable_detr", lambda: released.deformable_detr(refine=True), 36),
    "two_stage": (
        "deformable_detr",
        lambda: released.deformable_detr(refine=True, two_stage=True),
        56,
    ),
    "sparse_rcnn 300": ("sparse_rcnn", released.sparse_rcnn, 0),
    "poto": ("poto", released.poto, 4),
    "sparse_rcnn 100": ("sparse_rcnn", lambda: released.sparse_rcnn(queries=100), 0),
}
"""System, published names and shapes, and how many more they are than ours.

Those are copies of predictors, and of the factors of five levels, which are one weight here, four.
"""


@pytest.mark.parametrize("case", CASES)
def test_every_published_name_has_one_counterpart(case: str) -> None:
    name, shapes, more = CASES[case]
    with torch.device("meta"):
        weights = {key: torch.empty(shape) for key, shape in shapes().items()}
        assert recognise(weights) == name
        system = PUBLISHED[name]
        own = system.options(weights).build(80, ("o2o",)).state_dict()
        found = system.convert(weights, "it")
    expected = {key: value.shape for key, value in own.items() if "num_batches" not in key}
    assert {key: value.shape for key, value in found.items()} == expected
    assert len(weights) == len(found) + more


def test_the_documentation_names_every_table() -> None:
    text = (Path(__file__).parents[3] / "docs" / "use.md").read_text()
    for name, system in PUBLISHED.items():
        repository = system.source.split(":")[0]
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {repository} |")]
        assert f"`detectors/published/{name}.py`" in row


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(3)).byte()


def outputs(weights: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and boxes of our detector with published weights."""
    found = published_detector(weights, "it.pth")(images()).branches["o2o"][-1]
    return found.logits, found.boxes


def assert_boxes(found: torch.Tensor, relative: torch.Tensor) -> None:
    """Compare corners in pixels of `images` with centre and sides in [0, 1]."""
    size = torch.tensor([96, 64])
    center, sides = relative[..., :2] * size, relative[..., 2:] * size
    expected = torch.cat([center - sides / 2, center + sides / 2], -1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)


def test_detr_predicts_the_same(tmp_path: Path) -> None:
    """Also when it is read from a file as training writes it, with its options."""
    weights = released.filled(released.detr(encoder=1, decoder=2, queries=7))
    torch.save({"model": weights, "args": Namespace(lr=1e-4)}, tmp_path / "it.pth")
    detector = load_published(tmp_path / "it.pth")
    assert detector.classes == CLASSES
    assert detector.config.input == Preparation(height=800, width=1333, portrait="turn")
    found = detector(images()).branches["o2o"][-1]
    logits, boxes = found.logits, found.boxes
    with torch.no_grad():
        expected, relative = released.forward_detr(weights, images(), (1, 2))
    p = expected.softmax(-1)
    score = p / (p + p[..., -1:])
    torch.testing.assert_close(logits.sigmoid(), score[..., IDS], rtol=1e-3, atol=1e-4)
    assert_boxes(boxes, relative)


@pytest.mark.parametrize("variant", [{}, {"refine": True, "two_stage": True}], ids=str)
def test_deformable_detr_predicts_the_same(variant: dict[str, bool]) -> None:
    weights = released.filled(released.deformable_detr(1, 2, queries=7, **variant))
    logits, boxes = outputs(weights)
    with torch.no_grad():
        expected, relative = released.forward_deformable_detr(weights, images(), (1, 2))
    torch.testing.assert_close(logits, expected[..., IDS], rtol=1e-3, atol=1e-3)
    assert_boxes(boxes, relative)


def test_sparse_rcnn_predicts_the_same() -> None:
    weights = released.filled(released.sparse_rcnn(stages=2, queries=7))
    logits, boxes = outputs(weights)

    def pool(levels: list[torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
        """RoIAlign on the level of the box's side: 224 pixels are read from stride 16."""
        flat = boxes.flatten(0, 1)
        side = ((flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1])).sqrt()
        level = (4 + (side / 224 + 1e-8).log2()).floor().clamp(2, 5).long() - 2
        image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
        maps = [*zip(levels, (4, 8, 16, 32), strict=True)]
        found = roi_align_levels(maps, flat, image, level, side=7)
        return found.flatten(2).transpose(1, 2).reshape(*boxes.shape[:2], 49, -1)

    with torch.no_grad():
        expected, relative = released.forward_sparse_rcnn(weights, images(), pool, 2)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    assert_boxes(boxes, relative)


def test_poto_predicts_the_same() -> None:
    weights = released.filled(released.poto())
    logits, boxes = outputs(weights)
    with torch.no_grad():
        expected, corners = released.forward_poto(weights, images())
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(boxes, corners, rtol=1e-3, atol=0.1)


def test_the_classes_are_those_of_coco() -> None:
    assert len(set(CLASSES)) == len(CLASSES) == len(IDS) == 80
    assert (CLASSES[0], CLASSES[11], CLASSES[79]) == ("person", "stop sign", "toothbrush")
    assert (IDS[0], IDS[11], IDS[79]) == (1, 13, 90)


BROKEN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "nothing": (
        dict.clear,
        "not the weights that were released for DETR, Deformable DETR, Sparse R-CNN or POTO",
    ),
    "missing": (
        lambda w: w.pop("transformer.encoder.layers.0.norm1.bias"),
        "not the weights of this detector: missing head.encoder.0.itself.norm.bias",
    ),
    "unknown": (lambda w: w.update(extra=torch.zeros(1)), "unknown weights extra"),
    "shape": (
        lambda w: w.update({"input_proj.3.0.bias": torch.zeros(3)}),
        "of another shape neck.extras.0.0.bias [3] not [256]",
    ),
    "copies": (
        lambda w: w.update({"class_embed.1.bias": w["class_embed.1.bias"] + 1}),
        "class_embed.1.bias: not equal to its other copies",
    ),
    "classes": (
        lambda w: w.update({k: v[:21] for k, v in w.items() if k.startswith("class_embed.")}),
        "its class layer has 21 outputs, not 91; only detectors with the category ids of COCO",
    ),
}


@cache
def small_deformable_detr() -> dict[str, torch.Tensor]:
    return released.filled(released.deformable_detr(encoder=1, decoder=2, queries=3))


@pytest.mark.parametrize("case", BROKEN)
def test_broken_state_dicts(case: str) -> None:
    change, problem = BROKEN[case]
    weights = dict(small_deformable_detr())
    change(weights)
    with pytest.raises(WeightsError) as caught:
        published_detector(weights, "it.pth")
    (line,) = caught.value.problems
    assert line.startswith("it.pth: ")
    assert problem in line


def test_names_are_replaced_up_to_a_dot() -> None:
    names = {"a.{}.norm1": "x.{}.first", "a.1": "y"}
    assert rename("a.10.norm1.weight", names) == "x.10.first.weight"
    assert rename("a.1.norm1", names) == "x.1.first"
    assert rename("a.1.norm10", names) == "y.norm10"
    assert rename("a.12.norm", names) is None
