"""Versions never change: pixels, boxes, options and fingerprints are compared with constants."""

import hashlib

import pytest
import torch

from detectors.data import DATASETS
from detectors.data.base import Dataset
from detectors.data.shapes import ShapesDataset
from detectors.data.shapes_options import ShapesOptions
from detectors.data.shapes_versions import ShapesVersion

VERSIONS = {name: kind for name, kind in DATASETS.items() if issubclass(kind, ShapesVersion)}
CONSTANT = {
    "shapes-v1": (
        "dfea0c426b4b3c3050e245dedd7d3dafaf767dcd42c114096407e4319402e638",
        "0b9654dca5d05d6fabd7da63fafc76ca48d62b397b86a3e66c266e84330e4d8f",
        "9efb1a1465ebbd18c05f59e65091847590cca4717e3f3a102e63d599ff37c8d2",
    ),
    "shapes-v1-crowd": (
        "b681972e8e9c5926a3a0000eec121383e4da3d9a830b42b08ee87c0a6a0349a8",
        "b4a3a742922a59b9b0b11470e75181fd9f18545bc0e818b49779e6b2bf179e02",
        "cad6cf39d6133fef1229f9aa220fe9cfc353b7956111a0dd7d9457e65eca072d",
    ),
}
"""Name -> fingerprint, and digests of some images of both splits."""


def digest(data: Dataset) -> str:
    found = hashlib.sha256()
    for index in (0, 1, 2, 50, len(data) - 1):
        sample = data[index]
        for tensor in (sample.image, sample.targets.boxes, sample.targets.labels):
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", VERSIONS)
def test_a_version_is_what_it_was(name: str) -> None:
    fingerprint, train, val = CONSTANT[name]
    version = VERSIONS[name].model_validate({})
    assert version.fingerprint() == fingerprint
    assert digest(version.load("train")) == train
    assert digest(version.load("val")) == val
    assert (version.label, version.name) == (name, name)
    expected = version.expected()
    assert (expected.images, expected.classes, expected.height, expected.width) == (1000, 4, 96, 96)
    assert (len(version.load("train")), len(version.load("val"))) == (1000, 200)


def test_versions_name_every_option() -> None:
    """So that a new default of `Shapes` does not change them."""
    for kind in VERSIONS.values():
        assert issubclass(kind, ShapesVersion)
        assert set(kind.OPTIONS) == set(ShapesOptions.model_fields) - {"name"}


def test_crowded_images_have_more_objects() -> None:
    means = {}
    for name, kind in VERSIONS.items():
        data = kind.model_validate({}).load("val")
        means[name] = sum(len(data[index].targets) for index in range(40)) / 40
    assert 3 < means["shapes-v1"] < 5
    assert means["shapes-v1-crowd"] > 2 * means["shapes-v1"]


@pytest.mark.parametrize("name", VERSIONS)
def test_masks_are_the_visible_pixels(name: str) -> None:
    data = VERSIONS[name].model_validate({}).load("val")
    assert isinstance(data, ShapesDataset)
    for index in range(4):
        masks, boxes = data.masks(index), data[index].targets.boxes
        assert masks.shape == (len(boxes), 96, 96)
        assert masks.dtype == torch.bool
        assert masks.any(dim=2).any(dim=1).all(), "some of each object can be seen"
        assert (masks.sum(dim=0) <= 1).all(), "objects hide each other"
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
            inside = torch.zeros(96, 96, dtype=torch.bool)
            inside[y1:y2, x1:x2] = True
            assert not (mask & ~inside).any()
        last = masks[-1].nonzero()
        assert [*last.min(dim=0).values.tolist(), *(last.max(dim=0).values + 1).tolist()] == [
            boxes[-1].long().tolist()[i] for i in (1, 0, 3, 2)
        ], "nothing hides the last one"
