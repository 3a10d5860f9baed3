"""Metrics do not depend on the ids of images: trained and evaluated on the same pictures."""

import json
import random
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import detectors
from detectors.data.coco import Coco
from detectors.data.shapes import Shapes
from tests.detectors.miniature import SMALL

IMAGES = 8
SHAPES = Shapes(
    size=64, train_images=IMAGES, min_objects=1, max_objects=2, classes=2, min_side=24, clutter=0
)
ASSIGNMENT = detectors.ASSIGNERS["poto"]()
IDS = {
    "negative": range(-IMAGES, 0),
    "above 2^53": range(2**53, 2**53 + IMAGES),
    "hashes of 62 bits": sorted(random.Random(0).sample(range(2**61, 2**62), IMAGES)),
}


def write(root: Path, ids: list[int]) -> Coco:
    """Write the images of `SHAPES` as both splits, with these ids in this order."""
    (root / "images").mkdir(parents=True)
    data = SHAPES.load("train")
    annotations = []
    for index, truth in enumerate(data.truth()):
        picture = Image.fromarray(data[index].image.permute(1, 2, 0).numpy())
        picture.save(root / "images" / f"{index}.png")
        for label, (x1, y1, x2, y2) in zip(
            truth.labels.tolist(), truth.boxes.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"image_id": ids[index], "category_id": label, "bbox": box})
    document = {
        "images": [{"id": id_, "file_name": f"{index}.png"} for index, id_ in enumerate(ids)],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(data.classes)],
    }
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(json.dumps(document))
    return Coco(root=str(root), height=64, width=64)


def trained(data: Coco, epochs: int) -> nn.Module:
    """Train a detector on `data` and return it with averaged weights."""
    training = detectors.Training(epochs=epochs, batch=4, warmup_steps=2, augment="none", ema=0.5)
    detector = detectors.build_detector(SMALL, ASSIGNMENT, num_classes=2)
    learner = detectors.train(detector, ASSIGNMENT, data.load("train"), training)
    return learner.averaged.module


def metrics(detector: nn.Module, data: Coco) -> dict[str, float | None]:
    return detectors.evaluate(detector, ASSIGNMENT, data.load("val"))["o2o"].metrics


def test_any_ids_give_the_same_weights_and_metrics(tmp_path: Path) -> None:
    usual = write(tmp_path / "usual", [*range(1, IMAGES + 1)])
    detector, weights = trained(usual, epochs=12), trained(usual, epochs=1).state_dict()
    expected = metrics(detector, usual)
    assert (expected["ap"] or 0) > 10, "it has learned something"
    for name, ids in IDS.items():
        data = write(tmp_path / name, [*ids])
        assert metrics(detector, data) == expected, name
        found = trained(data, epochs=1).state_dict()
        assert all(torch.equal(found[key], weights[key]) for key in weights), name
