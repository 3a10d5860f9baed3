"""Trained detectors: what they detect, and the files that they are saved to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycoco
from safetensors.torch import load_file, save_file

import detectors
from detectors.assigners import ASSIGNERS
from detectors.data.images import ImageError
from detectors.data.preparation import Preparation
from detectors.evaluation.protocol import PROTOCOLS
from detectors.evaluation.selection import select
from detectors.inference import NonFinitePredictionsError
from detectors.models import DETECTORS
from detectors.models.weights import WeightsError, read_weights
from detectors.trained import HEADER, DetectorConfig, TrainedDetector

SMALL = {"backbone": {"name": "tiny", "channels": [8, 16]}, "channels": 16, "tower_convs": 1}
BUILDS: dict[str, tuple[dict[str, Any], str]] = {
    "fcos": ({"name": "fcos", **SMALL}, "fcos"),
    "gate": ({"name": "fcos", "gate": {"name": "max_filter"}, **SMALL}, "poto"),
    "two branches": ({"name": "fcos", "centerness": True, **SMALL}, "dual"),
    "retinanet": ({"name": "retinanet", **SMALL}, "retinanet"),
    "masks": ({"name": "fcos", "masks": {"name": "condinst", "width": 8}, **SMALL}, "poto"),
    "onenet": ({"name": "onenet", "channels": 16, "backbone": SMALL["backbone"]}, "min_cost"),
}
"""Options of a detector, and the assignment that its branches are for."""


def built(kind: str = "two branches", classes: tuple[str, ...] = ("a", "b")) -> TrainedDetector:
    """A detector with random weights whose scores are spread over [0, 1]."""
    options, assignment = BUILDS[kind]
    config = DetectorConfig(
        detector=DETECTORS[options["name"]].model_validate(options),
        branches=tuple(ASSIGNERS[assignment]().branches()),
        classes=classes,
        input=Preparation(height=64, width=96),
        protocol=PROTOCOLS["default"].model_copy(update={"pre_nms_topk": 60, "max_dets": 40}),
    )
    torch.manual_seed(1)
    network = config.build()
    for name, weights in network.named_parameters():
        if "predictors" in name and name.endswith("cls.weight"):
            torch.nn.init.normal_(weights, std=0.5)
    return TrainedDetector(network, config)


def picture(width: int = 70, height: int = 110) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestDetections:
    def test_they_are_those_of_the_protocol_in_pixels_of_the_picture(self) -> None:
        detector = built()
        without, with_nms = detector.both(picture())
        raw = detector.candidates(picture(), topk=100)
        for found, suppress in ((without, False), (with_nms, True)):
            expected = select(raw, detector.config.protocol, [(70, 110)], suppress)
            assert torch.equal(found.boxes, expected.boxes)
            assert torch.equal(found.scores, expected.scores)
            assert found.names == [detector.classes[i] for i in expected.labels.tolist()]
        assert without.boxes.amin() >= 0
        assert (without.boxes.amax(dim=0) <= torch.tensor([70, 110, 70, 110])).all()
        assert without.boxes[:, 3].max() > 64
        assert with_nms.size == (70, 110)

    def test_one_of_both_is_returned(self) -> None:
        detector = built()
        for nms, expected in zip((False, True), detector.both(picture()), strict=True):
            assert torch.equal(detector.detections(picture(), nms=nms).scores, expected.scores)

    def test_a_threshold_keeps_what_reaches_it(self) -> None:
        every = built().detections(picture())
        level = float(every.scores[len(every) // 2])
        kept = built().detections(picture(), threshold=level)
        assert torch.equal(kept.scores, every.scores[every.scores >= level])
        assert len(built().detections(picture(), threshold=1.1)) == 0

    def test_protocol_and_branch_can_be_chosen(self) -> None:
        detector = built()
        few = PROTOCOLS["default"].model_copy(update={"max_dets": 3})
        first, second = (
            detector.detections(picture(), protocol=few, branch=branch)
            for branch in detector.config.branches
        )
        assert len(first) == len(second) == 3
        assert not torch.equal(first.scores, second.scores)
        with pytest.raises(ValueError, match="branch 'o2f': the detector has o2o, o2m"):
            detector.detections(picture(), branch="o2f")

    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (900, 3), (96, 64)])
    def test_pictures_of_any_size(self, size: tuple[int, int]) -> None:
        without, with_nms = built().both(picture(*size))
        assert len(without) >= len(with_nms) > 0
        assert (without.boxes <= torch.tensor([*size, *size])).all()

    def test_coco_has_sides_and_names(self) -> None:
        found = built().detections(Image.fromarray(picture()))
        rows = found.coco("a.jpg")
        assert json.loads(json.dumps(rows)) == rows
        assert [row["category_name"] for row in rows] == found.names
        x, y, width, height = rows[0]["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(found.boxes[0].tolist())
        assert {row["file_name"] for row in rows} == {"a.jpg"}
        assert {row["image_id"] for row in found.coco(7)} == {7}

    @pytest.mark.parametrize("size", [(1, 1), (900, 3), (96, 64)])
    def test_masks_have_the_size_of_the_picture(self, size: tuple[int, int]) -> None:
        found = built("masks").detections(picture(*size), nms=True, threshold=0.2)
        masks = found.bitmaps()
        assert masks.shape == (len(found), size[1], size[0])
        rows = found.coco("a.jpg")
        assert json.loads(json.dumps(rows)) == rows
        for row, mask in zip(rows, masks, strict=True):
            expected = pycoco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            assert row["segmentation"] == {**expected, "counts": expected["counts"].decode()}
        with pytest.raises(ValueError, match="the detector predicts no masks"):
            built().detections(picture()).bitmaps()

    def test_no_prediction_may_be_nan(self) -> None:
        detector = built()
        with torch.no_grad():
            next(detector.network.parameters()).fill_(torch.nan)
        with pytest.raises(NonFinitePredictionsError):
            detector.detections(picture())

    def test_what_is_no_picture_is_refused(self) -> None:
        with pytest.raises(ImageError, match=r"an array \[2\] of float64"):
            built().detections(np.zeros(2))


class TestFiles:
    @pytest.mark.parametrize("kind", BUILDS)
    def test_a_loaded_detector_has_equal_outputs(self, tmp_path: Path, kind: str) -> None:
        detector = built(kind)
        detector.save(tmp_path / "a.safetensors")
        loaded = detectors.load_detector(tmp_path / "a.safetensors")
        assert loaded.config == detector.config
        assert not any(module.training for module in loaded.modules())
        for branch in detector.config.branches:
            pair = (each.detections(picture(), branch=branch) for each in (detector, loaded))
            first, second = pair
            assert torch.equal(first.boxes, second.boxes)
            assert torch.equal(first.scores, second.scores)
        assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]

    def test_hostile_names_of_classes_come_back(self, tmp_path: Path) -> None:
        names = ("'; DROP TABLE trials;--", "<script>", "\x1b[31m", '"a"', "猫", "")
        built(classes=names).save(tmp_path / "a.safetensors")
        assert detectors.load_detector(tmp_path / "a.safetensors").classes == names

    def test_files_of_initial_weights_are_neither_needed_nor_located(self, tmp_path: Path) -> None:
        backbone = {"name": "resnet", "depth": 18, "weights": "/home/me/r18.pth"}
        options = {"name": "fcos", "channels": 16, "tower_convs": 1, "backbone": backbone}
        config = built().config.model_copy(
            update={"detector": DETECTORS["fcos"].model_validate(options)}
        )
        TrainedDetector(config.build(), config).save(tmp_path / "a.safetensors")
        assert b"/home/me" not in (tmp_path / "a.safetensors").read_bytes()
        loaded = detectors.load_detector(tmp_path / "a.safetensors")
        assert loaded.config.detector.backbone.weights == "r18.pth"  # type: ignore[attr-defined]

    def test_other_trainings_can_start_from_the_file(self, tmp_path: Path) -> None:
        """As `training.init_from` does."""
        built().save(tmp_path / "a.safetensors")
        found = read_weights(str(tmp_path / "a.safetensors"), "init_from")
        own = built().network.state_dict()
        assert found.keys() == own.keys()
        assert all(torch.equal(found[key], own[key]) for key in own)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (None, "no weights in the format safetensors"),
            ({}, "without a description of their detector"),
            ({HEADER: "{"}, "Invalid JSON"),
            ({HEADER: "{}"}, "detector: Field required"),
            ({HEADER: "CONFIG"}, "not the weights of this detector: missing"),
        ],
    )
    def test_files_that_cannot_be_used(
        self, tmp_path: Path, header: dict[str, str] | None, message: str
    ) -> None:
        path, good = tmp_path / "a.safetensors", built()
        path.write_bytes(b"not weights")
        if header is not None:
            whole = {
                k: v.replace("CONFIG", good.config.model_dump_json()) for k, v in header.items()
            }
            save_file({"x": torch.zeros(2)}, path, whole)
        with pytest.raises(WeightsError, match=message) as error:
            detectors.load_detector(path)
        assert len(error.value.problems) == 1
        assert str(path) in error.value.problems[0]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"none\.safetensors: no weights"):
            detectors.load_detector(tmp_path / "none.safetensors")

    def test_a_file_that_cannot_be_written_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(OSError, match="a"):
            built().save(tmp_path / "a")
        assert [each.name for each in tmp_path.iterdir()] == ["a"]

    def test_an_existing_file_is_replaced(self, tmp_path: Path) -> None:
        for kind in ("fcos", "gate"):
            built(kind).save(tmp_path / "a.safetensors")
        assert any("gate" in name for name in load_file(tmp_path / "a.safetensors"))
