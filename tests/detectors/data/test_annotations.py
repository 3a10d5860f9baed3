"""Annotations without pictures: the truth is that of the data set that training loads."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.data.annotations import read_annotations
from detectors.data.base import DataError, Split
from detectors.evaluation.truth import GroundTruth
from tests.photographs import CLASSES, WRITERS, changed, image_of, splits, written

FILES = {
    "coco": "val.json",
    "lvis": "lvis_v1_val.json",
    "crowdhuman": "annotation_val.odgt",
    "yolo": "data.yaml",
}
"""Format -> the file that is named instead of the folder."""
NEED_PICTURES = ("crowdhuman", "yolo")
"""Formats whose files don't say the sizes of images."""
each_format = pytest.mark.parametrize("name", WRITERS)


def refused(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_annotations(path, **options)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


@each_format
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_truth_is_that_of_the_data_set(tmp_path: Path, name: str, split: Split) -> None:
    data = written(name, tmp_path).load(split)
    found = read_annotations(tmp_path, split)
    assert found.truth.digest() == GroundTruth.of(data.truth(), data.classes).digest()
    assert [Path(each).stem for each in found.names] == [each.name for each in splits()[split]]
    assert len(found.category_ids) == len(found.truth.classes)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_validation_split_of_its_folder(tmp_path: Path, name: str) -> None:
    written(name, tmp_path)
    file, folder = read_annotations(tmp_path / FILES[name]), read_annotations(tmp_path)
    assert file.truth.digest() == folder.truth.digest()


@each_format
def test_pictures_are_needed_only_for_unknown_sizes(tmp_path: Path, name: str) -> None:
    written(name, tmp_path)
    path = tmp_path / FILES.get(name, "")
    before = read_annotations(path)
    for picture in [*tmp_path.rglob("*.jpg")]:
        picture.unlink()
    if name in NEED_PICTURES:
        assert refused(path)
    else:
        assert read_annotations(path).truth.digest() == before.truth.digest()


@pytest.mark.parametrize("name", NEED_PICTURES)
def test_only_the_header_of_a_picture_is_read(tmp_path: Path, name: str) -> None:
    written(name, tmp_path)
    before = read_annotations(tmp_path)
    for picture in tmp_path.rglob("*.jpg"):
        picture.write_bytes(picture.read_bytes()[:700])
    assert read_annotations(tmp_path).truth.digest() == before.truth.digest()


def test_only_the_pictures_of_the_split_are_needed(tmp_path: Path) -> None:
    written("yolo", tmp_path)
    before = read_annotations(tmp_path)
    shutil.rmtree(tmp_path / "images" / "train")
    assert read_annotations(tmp_path).truth.digest() == before.truth.digest()
    shutil.rmtree(tmp_path / "images" / "val")
    (tmp_path / "images" / "val").mkdir()
    (problem,) = refused(tmp_path)
    assert "val: 2 label files, such as labels/val/c1.txt, but no image; add the images" in problem


def test_a_label_file_without_a_picture_is_noted(tmp_path: Path) -> None:
    written("yolo", tmp_path)
    image_of(tmp_path, "c1").unlink()
    (note,) = read_annotations(tmp_path).notes
    assert "left out label files without an image: 1 (labels/val/c1.txt)" in note


def test_the_folder_of_pictures_can_be_named(tmp_path: Path) -> None:
    written("crowdhuman", tmp_path)
    before = read_annotations(tmp_path)
    shutil.move(tmp_path / "Images", tmp_path / "elsewhere")
    path = tmp_path / "annotation_val.odgt"
    (problem,) = refused(path)
    assert "2 images" in problem
    assert "--images" in problem
    found = read_annotations(path, images=tmp_path / "elsewhere")
    assert found.truth.digest() == before.truth.digest()


def test_sizes_that_a_coco_file_lacks(tmp_path: Path) -> None:
    written("coco", tmp_path)
    before, path = read_annotations(tmp_path), tmp_path / "val.json"
    document = json.loads(path.read_text())
    for image in document["images"]:
        del image["width"]
    path.write_text(json.dumps(document))
    assert read_annotations(path).truth.digest() == before.truth.digest()
    shutil.rmtree(tmp_path / "images")
    (problem,) = refused(path)
    assert "does not say the size of 2 images" in problem
    assert "--images" in problem


def test_a_compressed_file(tmp_path: Path) -> None:
    written("coco", tmp_path)
    before, path = read_annotations(tmp_path), tmp_path / "packed.json.gz"
    packed = gzip.compress((tmp_path / "val.json").read_bytes())
    path.write_bytes(packed)
    assert read_annotations(path).truth.digest() == before.truth.digest()
    path.write_bytes(packed[:-20])
    (problem,) = refused(path)
    assert "damaged gzip file" in problem


def test_category_ids_are_those_of_the_file(tmp_path: Path) -> None:
    written("coco", tmp_path)
    path = tmp_path / "val.json"
    ids = {each["name"]: each["id"] for each in json.loads(path.read_text())["categories"]}
    found = read_annotations(path)
    assert dict(zip(found.truth.classes, found.category_ids, strict=True)) == ids


def test_one_split_is_read_as_a_whole(tmp_path: Path) -> None:
    written("coco", tmp_path, changed(b4=[("hen", (1, 1, 9, 9))]))
    (tmp_path / "val.json").unlink()
    assert len(read_annotations(tmp_path).truth) == len(splits()["train"])


def _append(path: Path, **box: Any) -> None:
    document = json.loads(path.read_text())
    document["annotations"].append(document["annotations"][0] | {"id": 99} | box)
    path.write_text(json.dumps(document))


def test_annotations_that_cannot_be_used(tmp_path: Path) -> None:
    written("coco", tmp_path)
    path = tmp_path / "val.json"
    before = read_annotations(path)
    _append(path, bbox=[3, 3, 0, 5])
    (problem,) = refused(path)
    assert "boxes without width or height: 1 (99)" in problem
    assert problem.endswith(", or leave them out with --on-bad skip")
    found = read_annotations(path, on_bad="skip")
    assert torch.equal(found.truth.boxes, before.truth.boxes)
    assert any("left out boxes without width" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda path: path.unlink(), "no such file or folder"),
        (lambda path: path.write_text(""), "an empty file"),
        (lambda path: path.write_text('{"images": ['), "cut off"),
        (lambda path: path.write_text("[]"), "must be an object"),
        (lambda path: path.rename(path.with_suffix(".csv")), "no such file"),
    ],
)
def test_a_file_that_is_not_annotations(
    tmp_path: Path, change: Callable[[Path], object], part: str
) -> None:
    written("coco", tmp_path)
    change(tmp_path / "val.json")
    assert part in " ".join(refused(tmp_path / "val.json"))


def test_other_paths(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path)
    assert "not one data set, but none" in problem
    (tmp_path / "notes.csv").write_text("a,b")
    (problem,) = refused(tmp_path / "notes.csv")
    assert "not annotations; name a COCO file" in problem


def test_annotations_without_objects(tmp_path: Path) -> None:
    written("coco", tmp_path)
    path = tmp_path / "val.json"
    document = json.loads(path.read_text()) | {"annotations": []}
    path.write_text(json.dumps(document))
    (problem,) = refused(path)
    assert "no object" in problem


def test_classes_of_voc_are_those_of_both_splits(tmp_path: Path) -> None:
    written("voc", tmp_path, changed(c1=[("cat", (3, 5, 14, 40))], c2=[]))
    assert read_annotations(tmp_path).truth.classes == CLASSES
