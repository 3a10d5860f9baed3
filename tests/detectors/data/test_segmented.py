"""Masks of COCO files: polygons and RLE of every form, and what is wrong with them."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectors.data import segmentations
from detectors.data.base import DataError
from detectors.data.samples import Samples
from detectors.data.segmented import SegmentedPhotos
from detectors.rle import decode
from detectors.training import Training
from tests.detectors.data import small_coco as files

SQUARE = [10, 5, 18, 5, 18, 21, 10, 21]  # the box of annotation 13, as a polygon
CROWD = {"size": [30, 40], "counts": [0, 1200]}  # all of image 1, whose size is 40 x 30
DOG = [[4, 6, 24.5, 6, 24.5, 36, 4, 36]]


def document(**segmentation: Any) -> dict[str, Any]:
    """`small_coco.document` with segmentations; `a13=...` replaces that of annotation 13."""
    own = {"a11": DOG, "a12": CROWD, "a13": [SQUARE]} | segmentation
    whole = files.document()
    for each in whole["annotations"]:
        each["segmentation"] = own[f"a{each['id']}"]
    return whole


def loaded(root: Path, content: dict[str, Any] | None = None) -> SegmentedPhotos:
    files.write(root, content or document())
    found = files.coco(root).load("train")
    assert isinstance(found, SegmentedPhotos)
    return found


def test_masks_of_all_objects_in_the_order_of_boxes(tmp_path: Path) -> None:
    data = loaded(tmp_path / "data")
    assert data.mask_problems() == []
    truth = data.segmented(0)
    assert truth.masks is not None
    crowd, cat = decode(truth.masks, (40, 30))
    assert truth.crowd.tolist() == [True, False]
    assert crowd.all()
    assert cat[5:21, 10:18].all()
    assert cat.sum() == 16 * 8
    assert [len(data.segmented(index).masks.counts) for index in (0, 1, 2)] == [2, 1, 0]  # type: ignore[union-attr]


def test_samples_of_photographs_have_masks_of_objects_without_crowds(tmp_path: Path) -> None:
    data = loaded(tmp_path / "data")
    for training in (Training(augment="none"), Training(augment="none", train_sides=(60,))):
        samples = Samples(data, training, masks=True)
        for index in range(3):
            sample = samples.draw(index, 0, np.random.default_rng(0))
            masks = sample.targets.masks
            assert masks is not None
            assert masks.shape == (len(sample.targets), *sample.image.shape[1:])
            for mask, box in zip(masks, sample.targets.boxes.round().int().tolist(), strict=True):
                ys, xs = mask.nonzero(as_tuple=True)
                tight = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                assert (tight - torch.tensor(box)).abs().max() <= 1


def test_nothing_is_read_before_masks_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise AssertionError(path)

    data = loaded(tmp_path / "data")
    monkeypatch.setattr("detectors.data.segmented.stored_segmentations", fail)
    Samples(data, Training()).draw(0, 0, np.random.default_rng(0))
    assert all(each.masks is None for each in data.truth())
    with pytest.raises(AssertionError):
        data.segmented(0)


def test_masks_are_read_again_in_other_processes(tmp_path: Path) -> None:
    data = loaded(tmp_path / "data")
    first = data.segmented(0).masks
    sent = pickle.dumps(data)
    assert b"[[10,5," not in sent
    again = pickle.loads(sent).segmented(0).masks
    assert first is not None
    assert list(first.counts) == list(again.counts)


def test_large_files_are_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = loaded(tmp_path / "data")
    path = tmp_path / "data" / "train.json"
    expected = segmentations.stored_segmentations(path)
    monkeypatch.setenv("GAPLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(segmentations, "LEAST_BYTES", 1)
    for _ in range(2):
        found = segmentations.stored_segmentations(path)
        assert [*found.places] == [*expected.places]
        assert [*found.texts] == [*expected.texts]
        monkeypatch.setattr(segmentations, "_built", lambda path: pytest.fail("it is in the cache"))
    assert data.mask_problems() == []


WRONG = {
    "missing": (None, "without segmentation, or with one that is not sound"),
    "no polygon": ([], "without segmentation, or with one that is not sound"),
    "two points": ([[1, 2, 3, 4]], "without segmentation, or with one that is not sound"),
    "far": ([[0, 0, 1e9, 0, 1e9, 1e9]], "without segmentation, or with one that is not sound"),
    "text": ("'; DROP TABLE", "without segmentation, or with one that is not sound"),
    "nested": ([[[1, 2], [3, 4], [5, 6]]], "without segmentation, or with one that is not sound"),
    "counts": ({"size": [30, 40], "counts": [7]}, "without segmentation, or with one that is"),
    "size": ({"size": [10, 20], "counts": [0, 200]}, "whose RLE has another size than their image"),
    "turned": ({"size": [40, 30], "counts": [0, 1200]}, "whose RLE has another size than"),
}


@pytest.mark.parametrize("name", WRONG)
def test_segmentations_that_can_not_be_used(tmp_path: Path, name: str) -> None:
    wrong, reason = WRONG[name]
    data = loaded(tmp_path / "data", document(a13=wrong))
    (problem,) = data.mask_problems()
    assert f"train.json: 1 annotations {reason}" in problem
    assert "(13); correct them, or train without masks (detector.masks: null)" in problem
    with pytest.raises(DataError) as caught:
        data.segmented(0)
    assert caught.value.problems == [problem]
    data.segmented(1)


def test_annotations_with_the_same_id(tmp_path: Path) -> None:
    content = document()
    content["annotations"][2]["id"] = 11
    (problem,) = loaded(tmp_path / "data", content).mask_problems()
    assert "2 annotations with the id of another one (11, 11)" in problem


def test_annotations_without_id_are_found_by_position(tmp_path: Path) -> None:
    content = document()
    for each in content["annotations"]:
        del each["id"]
    data = loaded(tmp_path / "data", content)
    assert data.mask_problems() == []
    truth = data.segmented(0)
    assert truth.masks is not None
    assert decode(truth.masks, (40, 30)).sum(dim=(1, 2)).tolist() == [1200, 128]


def test_files_in_any_layout(tmp_path: Path) -> None:
    """Also where the list of annotations can't be divided, or another key has its name."""
    content = document()
    files.write(tmp_path / "a", content)
    path = tmp_path / "a" / "train.json"
    expected = segmentations.stored_segmentations(path)
    odd = {"info": {"annotations": [{"id": 5, "segmentation": [[0, 0, 1, 0, 1, 1]]}]}, **content}
    for text in (json.dumps(odd), json.dumps(odd, indent=2), json.dumps(content).encode("utf-16")):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        found = segmentations.stored_segmentations(path)
        assert [*found.texts] == [*expected.texts]
        assert [*found.places] == ["11", "12", "13"]
