"""Folders as tools write them are recognised, and their `data` sections load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detectors.data import DATASETS
from detectors.data.base import DataError
from detectors.data.recognise import recognise, yolo_section
from tests.photographs import WRITERS, changed, splits, written

FRACTION = {"val_fraction": 0.2}
OBJECTS = changed(b4=[("hen", (1, 1, 9, 9))])
"""Every image has an object, so that every part of a split has one."""


def coco(root: Path) -> tuple[Path, Path, Path]:
    """Write a COCO data set; return its files and the folder of images."""
    written("coco", root, OBJECTS)
    return root / "train.json", root / "val.json", root / "images"


def move(path: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    path.rename(new)


def divided(root: Path, train: str, val: str) -> None:
    """Move the images of each split to its own folder."""
    for split, folder in (("train", train), ("val", val)):
        for each in splits()[split]:
            move(root / "images" / f"{each.name}.jpg", root / folder / f"{each.name}.jpg")
    if not any((root / "images").iterdir()):
        (root / "images").rmdir()


def as_coco_org(root: Path) -> None:
    """As downloaded from COCO, with files for other tasks."""
    train, val, _ = coco(root)
    divided(root, "train2017", "val2017")
    move(train, root / "annotations" / "instances_train2017.json")
    move(val, root / "annotations" / "instances_val2017.json")
    for name in ("captions_train2017", "captions_val2017", "person_keypoints_val2017"):
        text = (root / "annotations" / "instances_val2017.json").read_text()
        (root / "annotations" / f"{name}.json").write_text(text)


def as_coco_with_images(root: Path) -> None:
    as_coco_org(root)
    for name in ("train2017", "val2017"):
        move(root / name, root / "images" / name)


def as_roboflow(root: Path) -> None:
    train, val, _ = coco(root)
    divided(root, "train", "valid")
    move(train, root / "train" / "_annotations.coco.json")
    shutil.copytree(root / "train", root / "test")
    move(val, root / "valid" / "_annotations.coco.json")
    (root / "README.roboflow.txt").write_text("exported")


def as_cvat(root: Path) -> None:
    train, val, images = coco(root)
    move(train, root / "annotations" / "instances_default.json")
    val.unlink()
    move(images, root / "moved")
    move(root / "moved", root / "images" / "default")


def as_cvat_with_subsets(root: Path) -> None:
    train, val, _ = coco(root)
    divided(root, "images/Train", "images/Validation")
    move(train, root / "annotations" / "instances_Train.json")
    move(val, root / "annotations" / "instances_Validation.json")


def as_label_studio(root: Path) -> None:
    train, val, _ = coco(root)
    val.unlink()
    document = json.loads(train.read_text())
    for image in document["images"]:
        image["file_name"] = f"images\\{image['file_name']}"
    (root / "result.json").write_text(json.dumps(document))
    train.unlink()


LAYOUTS: list[tuple[Callable[[Path], Any], dict[str, Any]]] = [
    (coco, {}),
    (
        as_coco_org,
        {
            "train_json": "annotations/instances_train2017.json",
            "train_images": "train2017",
            "val_json": "annotations/instances_val2017.json",
            "val_images": "val2017",
        },
    ),
    (
        as_coco_with_images,
        {
            "train_json": "annotations/instances_train2017.json",
            "train_images": "images/train2017",
            "val_json": "annotations/instances_val2017.json",
            "val_images": "images/val2017",
        },
    ),
    (
        as_roboflow,
        {
            "train_json": "train/_annotations.coco.json",
            "train_images": "train",
            "val_json": "valid/_annotations.coco.json",
            "val_images": "valid",
        },
    ),
    (
        as_cvat,
        {
            "train_json": "annotations/instances_default.json",
            "train_images": "images/default",
            **FRACTION,
        },
    ),
    (
        as_cvat_with_subsets,
        {
            "train_json": "annotations/instances_Train.json",
            "train_images": "images/Train",
            "val_json": "annotations/instances_Validation.json",
            "val_images": "images/Validation",
        },
    ),
    (as_label_studio, {"train_json": "result.json", "train_images": ".", **FRACTION}),
]


@pytest.mark.parametrize(("layout", "options"), LAYOUTS)
def test_coco_as_tools_write_it(
    tmp_path: Path, layout: Callable[[Path], Any], options: dict[str, Any]
) -> None:
    layout(tmp_path)
    (section,) = recognise(tmp_path)
    assert section == {"name": "coco", "root": str(tmp_path), **options}
    data = DATASETS["coco"].model_validate(section)
    fraction = "val_fraction" in options
    assert [len(data.load(split)) for split in ("train", "val")] == ([2, 1] if fraction else [3, 2])


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_recognised(tmp_path: Path, name: str) -> None:
    expected = written(name, tmp_path)
    (section,) = recognise(tmp_path)
    found = DATASETS[name].model_validate({**section, "height": 96, "width": 128})
    assert found == expected


def test_crowdhuman(tmp_path: Path) -> None:
    written("crowdhuman", tmp_path, OBJECTS)
    (section,) = recognise(tmp_path)
    assert section == {"name": "crowdhuman", "root": str(tmp_path)}
    (tmp_path / "annotation_val.odgt").unlink()
    for name in ("CrowdHuman_train/Images", "CrowdHuman_val/Images"):
        shutil.copytree(tmp_path / "Images", tmp_path / name)
    shutil.rmtree(tmp_path / "Images")
    (section,) = recognise(tmp_path)
    data = DATASETS["crowdhuman"].model_validate(section)
    assert (len(data.load("train")), len(data.load("val"))) == (2, 1)


def test_yolo_under_another_name_and_without_validation(tmp_path: Path) -> None:
    written("yolo", tmp_path, OBJECTS)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "notes.yaml").write_text("author: me\n")
    (tmp_path / "pets.yml").write_text("names: [cat, dog, hen]\ntrain: images/train\nval:\n")
    expected = {"name": "yolo", "root": str(tmp_path), "data_yaml": "pets.yml", **FRACTION}
    assert recognise(tmp_path) == [expected]
    assert yolo_section(tmp_path / "pets.yml") == expected
    assert yolo_section(tmp_path / "notes.yaml") is None
    assert yolo_section(tmp_path / "notes.txt") is None
    data = DATASETS["yolo"].model_validate(expected)
    assert (len(data.load("train")), len(data.load("val"))) == (2, 1)
    (tmp_path / "second.yaml").write_text("val:\n  - images/val\ntrain: images/train\nnames: []\n")
    assert [each["data_yaml"] for each in recognise(tmp_path)] == ["pets.yml", "second.yaml"]
    assert "val_fraction" not in recognise(tmp_path)[1]


@pytest.mark.parametrize(
    ("lists", "options"),
    [
        (["train", "val", "trainval", "test"], {}),
        (["trainval", "test"], {"train_list": "trainval", "val_list": "test"}),
        (["default"], {"train_list": "default", **FRACTION}),
        (["cat_train", "train"], {"train_list": "train", **FRACTION}),
        ([], {"train_list": "", **FRACTION}),
    ],
)
def test_lists_of_voc(tmp_path: Path, lists: list[str], options: dict[str, Any]) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    written("voc", root, OBJECTS)
    folder = root / "ImageSets" / "Main"
    texts = [(folder / f"{name}.txt").read_text() for name in ("train", "val")]
    for path in folder.iterdir():
        path.unlink()
    for name in lists:
        (folder / f"{name}.txt").write_text(texts[name in ("val", "test")])
    for place in (root, tmp_path):
        (section,) = recognise(place)
        data = DATASETS["voc"].model_validate(section)
        counts = [len(data.load("train")), len(data.load("val"))]
        assert counts == ([4, 1] if not lists else [2, 1] if "val_fraction" in options else [3, 2])
    (section,) = recognise(root)
    named = {
        key: f"ImageSets/Main/{value}.txt" if key.endswith("list") and value else value
        for key, value in options.items()
    }
    assert section == {"name": "voc", "root": str(root), **named}


def side_by_side(root: Path, folders: dict[str, str]) -> None:
    """Write VOC's files beside the images of each split."""
    written("voc", root / "voc", OBJECTS)
    for split, folder in folders.items():
        for each in OBJECTS[split]:
            move(
                root / "voc" / "JPEGImages" / f"{each.name}.jpg", root / folder / f"{each.name}.jpg"
            )
            move(
                root / "voc" / "Annotations" / f"{each.name}.xml",
                root / folder / f"{each.name}.xml",
            )
    shutil.rmtree(root / "voc")


@pytest.mark.parametrize(
    ("folders", "options", "counts"),
    [
        (
            {"train": "train", "val": "valid"},
            {"train_list": "train", "val_list": "valid"},
            [3, 2],
        ),
        ({"train": "."}, {"train_list": ".", **FRACTION}, [2, 1]),
        ({"train": "photos"}, {"train_list": "photos", **FRACTION}, [2, 1]),
    ],
)
def test_xml_files_beside_their_images(
    tmp_path: Path, folders: dict[str, str], options: dict[str, Any], counts: list[int]
) -> None:
    side_by_side(tmp_path, folders)
    (section,) = recognise(tmp_path)
    assert section == {"name": "voc", "root": str(tmp_path), **options}
    data = DATASETS["voc"].model_validate(section)
    assert [len(data.load(split)) for split in ("train", "val")] == counts


def test_labels_without_a_data_yaml(tmp_path: Path) -> None:
    written("yolo", tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"has labels of YOLO, but no data\.yaml; write one with"):
        recognise(tmp_path)


@pytest.mark.parametrize("text", ["", "names: [", "names: [a]", "train: a"])
def test_a_wrong_data_yaml_is_still_one_of_yolo(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert recognise(tmp_path) == [{"name": "yolo", "root": str(tmp_path)}]


def test_a_data_yaml_of_another_tool(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "data.yaml").write_text("version: 3\nauthor: me\n")
    assert [section["name"] for section in recognise(tmp_path)] == ["coco"]


def test_lvis_with_images_in_a_folder_of_their_own(tmp_path: Path) -> None:
    written("lvis", tmp_path)
    for name in ("train2017", "val2017"):
        move(tmp_path / name, tmp_path / "images" / name)
    (section,) = recognise(tmp_path)
    assert (section["train_images"], section["val_images"]) == ("images", "images")
    assert len(DATASETS["lvis"].model_validate(section).load("val")) == 2


def test_nothing_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": []}')
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    (tmp_path / "Annotations").mkdir()
    assert recognise(tmp_path) == []


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        recognise(tmp_path / "nowhere")


def test_several_files_for_one_split(tmp_path: Path) -> None:
    train, _, _ = coco(tmp_path)
    shutil.copy(train, tmp_path / "train_old.json")
    with pytest.raises(DataError, match=r"several COCO files .*train\.json, .*train_old\.json"):
        recognise(tmp_path)


def test_several_formats(tmp_path: Path) -> None:
    coco(tmp_path)
    written("crowdhuman", tmp_path, OBJECTS)
    assert [section["name"] for section in recognise(tmp_path)] == ["crowdhuman", "coco"]
