"""Graphs of ONNX: outputs under onnxruntime and in PyTorch are those of the detector."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from detectors import onnx_export
from detectors.boxes import pairwise_iou
from detectors.data.preparation import Preparation
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.masks import placed
from detectors.models import DETECTORS
from detectors.models.base import DetectorOptions
from detectors.onnx_export import ExportError, Graph, difference, export, exportable
from detectors.trained import HEADER, DetectorConfig, TrainedDetector

TINY: dict[str, Any] = {
    "name": "fcos",
    "backbone": {"name": "tiny", "channels": [8, 8]},
    "channels": 8,
    "tower_convs": 1,
}
FEWEST = {
    "channels": 8,
    "feedforward": 8,
    "queries": 9,
    "o2m_queries": 6,
    "o2m_groups": 2,
    "roi_side": 2,
    "extra_levels": 0,
    **dict.fromkeys(("encoder_layers", "decoder_layers", "stages"), 1),
    **dict.fromkeys(("samples", "cls_layers", "box_layers"), 1),
}
"""Options of detectors with queries, for those that have them."""
FEW = {"pre_nms_topk": 60, "max_dets": 25}


def built(
    gate: str = "none",
    portrait: str = "fit",
    options: DetectorOptions | None = None,
    masks: dict[str, Any] | None = None,
) -> TrainedDetector:
    """A detector with random weights whose scores are spread over [0, 1]."""
    fcos = DETECTORS["fcos"].model_validate({**TINY, "gate": {"name": gate}, "masks": masks})
    config = DetectorConfig(
        detector=options or fcos,
        branches=("o2o", "o2m"),
        classes=("a", "b", "c"),
        input=Preparation.model_validate({"height": 40, "width": 64, "portrait": portrait}),
        protocol=PROTOCOLS["default"].model_copy(update={**FEW, "nms_iou": 0.3}),
    )
    torch.manual_seed(1)
    network = config.build()
    for name, weights in network.named_parameters():
        if "predictors" in name and ".cls." in name and name.endswith("weight"):
            torch.nn.init.normal_(weights, std=0.7)
        if name.endswith("controller.weight"):
            torch.nn.init.normal_(weights, std=0.3)
    return TrainedDetector(network, config)


def pictures(count: int = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    sizes = [(50, 90), (64, 40), (40, 64)][:count]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def greedy(boxes: Tensor, scores: Tensor, most: int, iou: float, floor: float) -> Tensor:
    """ONNX's NonMaxSuppression as its specification defines it, box by box."""
    found = list[tuple[int, int, int]]()
    for image, classes in enumerate(scores):
        for label, values in enumerate(classes):
            kept = list[int]()
            for i in values.argsort(descending=True, stable=True).tolist():
                if values[i] <= floor or len(kept) == most:
                    break
                if (
                    not kept
                    or pairwise_iou(boxes[image, i : i + 1], boxes[image, kept]).max() <= iou
                ):
                    kept.append(i)
            found += [(image, label, i) for i in kept]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)


RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "clip after": {"clip": "after"},
    "clip never": {"clip": "never"},
    "cut first": {"order": "cut_then_nms"},
    "floor and cap": {"score_floor": 0.4, "cap_at_points": True, "pre_nms_topk": 500},
    "all classes": {"class_wise": False},
    "few": {"max_dets": 3},
    "nothing": {"score_floor": 0.9999},
}


SEGMENTS = {"name": "condinst", "width": 8, "convs": 0, "channels": 2}


@pytest.mark.parametrize("nms", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_the_graph_selects_as_the_protocol_says(
    rule: str, nms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "suppress", greedy)
    detector = built(masks=SEGMENTS)
    changes = {**FEW, "nms_iou": 0.3, **RULES[rule]}
    protocol = Protocol.model_validate(changes)
    prepared = detector.prepare(pictures(1)[0])
    graph = Graph(detector, "o2o", protocol, nms)
    scale = torch.tensor(prepared.scale)
    sizes = torch.tensor([prepared.size]) * scale
    boxes, scores, labels, masks = (each[0] for each in graph(prepared.image[None], sizes))
    own = detector.detections(pictures(1)[0], nms=nms, protocol=protocol)
    count = len(own)
    assert (count == 0) == (rule == "nothing")
    assert (labels[count:] == -1).all()
    assert (scores[count:] == 0).all()
    torch.testing.assert_close(scores[:count], own.scores)
    assert torch.equal(labels[:count], own.labels)
    torch.testing.assert_close(boxes[:count], own.boxes * scale.repeat(2), rtol=1e-5, atol=1e-4)
    assert (masks[count:] == 0).all()
    if count:
        drawn = placed(masks[:count], prepared.scale, own.size)
        assert (drawn != own.bitmaps()).float().mean() < 1e-3
        assert rule == "few" or 0 < drawn.float().mean() < 1


def test_outputs_under_onnxruntime_are_equal(tmp_path: Path) -> None:
    """With NMS, a gate and masks, for batches of any number of pictures."""
    detector, path = built("centerness", masks=SEGMENTS), tmp_path / "a.onnx"
    export(detector, path, nms=True, branch="o2o")
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]
    apart = difference(path, detector, pictures(), nms=True, branch="o2o")
    assert apart.scores < 1e-4
    assert apart.boxes < 1e-4 * 64
    assert apart.masks < 1e-3
    other = difference(path, detector, pictures(), nms=False, branch="o2o")
    assert max(other) > 1e-2

    session = onnxruntime.InferenceSession(path)
    prepared = [detector.prepare(each) for each in pictures()]
    sizes = np.array([np.multiply(e.size, e.scale) for e in prepared], dtype=np.float32)
    images = np.stack([each.image.numpy() for each in prepared])
    together = session.run(None, {"images": images, "sizes": sizes})
    for i in range(len(images)):
        alone = session.run(None, {"images": images[i : i + 1], "sizes": sizes[i : i + 1]})
        for whole, part in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[i], part[0], rtol=1e-5, atol=1e-4)

    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["a", "b", "c"]
    assert DetectorConfig.model_validate_json(about[HEADER]) == detector.config
    assert (about["nms"], about["branch"]) == ("true", "o2o")
    assert "[batch, 3, 40, 64] uint8, RGB" in about["input"]


@pytest.mark.parametrize("name", [name for name in DETECTORS if not DETECTORS[name].located])
def test_detectors_with_queries_are_exported(tmp_path: Path, name: str) -> None:
    fewest = {key: FEWEST[key] for key in FEWEST if key in DETECTORS[name].model_fields}
    given = {"name": name, "backbone": TINY["backbone"], **fewest}
    detector, path = built(options=DETECTORS[name].model_validate(given)), tmp_path / "a.onnx"
    export(detector, path, nms=False)
    apart = difference(path, detector, pictures(2), nms=False)
    assert apart.scores < 1e-4
    assert apart.boxes < 1e-3 * 64


def test_pictures_of_one_size_are_padded_to_it() -> None:
    detector = built(portrait="turn")
    fixed = exportable(detector)
    assert fixed.network is detector.network
    assert {fixed.prepare(each).image.shape for each in pictures()} == {(3, 64, 64)}
    assert exportable(fixed) is fixed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nms": True, "protocol": PROTOCOLS["centernet"]}, "protocol centernet: ONNX has no"),
        (
            {"nms": True, "protocol": Protocol(preset="x", level_range=0)},
            "leave out --nms, or choose another --protocol",
        ),
        ({"nms": False, "branch": "o2f"}, "branch 'o2f': the detector has o2o, o2m"),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(built(), tmp_path / "a.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if "r" in name else name)
    with pytest.raises(ExportError) as error:
        export(built(), tmp_path / "a.onnx", nms=False)
    assert str(error.value) == (
        "onnxruntime and onnxscript: not installed; run: pip install 'gaplab[onnx]'"
    )
