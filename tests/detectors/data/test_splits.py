"""Whole splits of every format: without objects, and what occurs twice."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detectors.data.base import DataError, DataOptions, Expected, Split
from detectors.data.shapes import Shapes
from tests.detectors.data.small_coco import Document, coco, document, refused, write
from tests.photographs import Photograph, image_of, splits, written

FORMATS = ["coco", "yolo", "voc", "crowdhuman"]
SPLITS: list[Split] = ["train", "val"]
Spoil = Callable[[Document], None]


def problems(options: DataOptions, split: Split) -> list[str]:
    with pytest.raises(DataError) as caught:
        options.load(split)
    return caught.value.problems


# Without objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("empty", SPLITS)
def test_a_split_without_objects_is_refused(tmp_path: Path, name: str, empty: Split) -> None:
    content = splits()
    content[empty] = [replace(photograph, objects=()) for photograph in content[empty]]
    if name == "yolo":  # a split without any label file is refused as such
        image, *others = content[empty]
        content[empty] = [image, *others]
        options = written(name, tmp_path, content)
        (tmp_path / "labels" / empty).mkdir(parents=True)
        (tmp_path / "labels" / empty / f"{image.name}.txt").write_text("")
    else:
        options = written(name, tmp_path, content)
    other: Split = "val" if empty == "train" else "train"
    assert len(options.load(other)) == len(content[other])
    problem, *notes = problems(options, empty)
    assert ["images without a label file" in note for note in notes] == [True] * (name == "yolo")
    assert f"no object (images: {len(content[empty])}, annotations: 0): " in problem
    assert ("nothing to train on" if empty == "train" else "AP is undefined") in problem
    assert str(tmp_path) in problem


@pytest.mark.parametrize("val_fraction", [0.0, 0.4])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_known_is_planned_only_where_annotations_cannot_be_read(
    tmp_path: Path, name: str, val_fraction: float
) -> None:
    root = tmp_path / "data"
    fields: dict[str, Any] = {"planned_images": 118_287, "planned_classes": 77}
    options = written(name, root, val_fraction=val_fraction, **fields)
    assert options.expected() == Expected(118_287, 77, options.height, options.width)
    train = options.load("train")
    size = options.height, options.width
    assert options.known() == Expected(len(train), len(train.classes), *size)
    for split in SPLITS:
        listed, loaded = options.listed(split), options.load(split)
        assert listed.images == len(loaded)
        assert listed.most == max(len(image.boxes) for image in loaded.truth())
    shutil.rmtree(root)
    assert options.known() == options.expected()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("changes", [{"max_objects": 0}, {"max_objects": 1}])
def test_shapes_without_objects_are_refused(split: Split, changes: dict[str, int]) -> None:
    """With at most one object, the only image has none for some seeds."""
    images = {"train_images": 1, "val_images": 1, "min_objects": 0}
    refusals = []
    for seed in range(20):
        options = Shapes.model_validate({**images, **changes, "seed": seed})
        assert options.listed(split).images == 1
        refusals.append(options.listed(split).problems)
        if refusals[-1]:
            assert problems(options, split) == list(refusals[-1])
            assert f"data: no object in split {split} (images: 1)" in refusals[-1][0]
            assert f"data.{split}_images" in refusals[-1][0]
        else:
            truth = options.load(split).truth()
            assert sum(len(each.boxes) for each in truth) == 1
    assert any(refusals)
    assert all(refusals) is (changes["max_objects"] == 0)


def crowds(content: Document) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def ignored(content: Document) -> None:
    for annotation in content["annotations"]:
        annotation.update(ignore=1, iscrowd=0)


def huge(content: Document) -> None:
    for annotation in content["annotations"]:
        annotation["area"] = 1.1e10


def empty(content: Document) -> None:
    content["annotations"] = []


def bad(content: Document) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"][2] = 0


CROWDS = "no object (images: 3, annotations: 3, all of them crowd regions): "
NOTHING = "no object (images: 3, annotations: 0): "
AREAS = "the areas of all objects (2) are above 1e10 square pixels"


@pytest.mark.parametrize(
    ("spoil", "train", "val"),
    [
        (crowds, CROWDS, CROWDS),
        (ignored, CROWDS, CROWDS),
        (empty, NOTHING, NOTHING),
        (huge, "", AREAS),
    ],
)
@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_a_split_on_which_ap_is_undefined_is_refused(
    tmp_path: Path, spoil: Spoil, train: str, val: str, on_bad: str
) -> None:
    content = document()
    spoil(content)
    options = coco(write(tmp_path, train=content, val=content), on_bad=on_bad)
    expected: list[tuple[Split, str]] = [("train", train), ("val", val)]
    for split, message in expected:
        if message:
            problem, *remarks = refused(options, split)
            assert problem.startswith(f"{tmp_path / split}.json: {message}")
            assert ["with `ignore`: 3 (11, 12, 13)" in line for line in remarks] == (
                [True] if spoil is ignored else []
            )
        else:
            assert len(options.load(split)) == 3
        assert [message in line for line in options.listed(split).problems] == [True] * bool(
            message
        )


def test_a_split_of_which_everything_is_skipped_is_refused(tmp_path: Path) -> None:
    content = document()
    bad(content)
    root = write(tmp_path, train=content)
    problem, note = refused(coco(root, on_bad="skip"))
    assert NOTHING in problem
    assert "left out boxes without width or height: 3 (11, 12, 13)" in note
    first, second = refused(coco(root))
    assert {NOTHING in first, NOTHING in second} == {True, False}


def test_a_split_whose_images_with_objects_are_skipped_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    for name in ("1", "2"):
        (root / "images" / f"{name}.jpg").unlink()
    problem, missing, lost = refused(coco(root, on_bad="skip"))
    assert "no object (images: 1, annotations: 0): " in problem
    assert "files missing" in missing
    assert "annotations of the images left out: 3" in lost
    (problem,) = refused(coco(root))  # what is missing may have objects
    assert "files missing" in problem


# Boxes in another form ----------------------------------------------------------------------------


def rewritten(form: Callable[[list[float], tuple[int, int]], list[float]]) -> Document:
    """Build a file of one large image with 40 boxes, written in another form."""
    content = document()
    size = {each["id"]: (each["width"], each["height"]) for each in content["images"]}
    boxes = [
        (image, [size[image][0] * x / 10, size[image][1] * y / 10, 6, 7])
        for image in size
        for x in range(1, 8)
        for y in range(1, 7)
    ]
    content["annotations"] = [
        {"id": id_, "image_id": image, "category_id": 4, "bbox": form(box, size[image])}
        for id_, (image, box) in enumerate(boxes)
    ]
    return content


def plain(box: list[float], size: tuple[int, int]) -> list[float]:
    return box


def normalised(box: list[float], size: tuple[int, int]) -> list[float]:
    return [value / side for value, side in zip(box, (*size, *size), strict=True)]


def corners(box: list[float], size: tuple[int, int]) -> list[float]:
    return [*box[:2], box[0] + box[2], box[1] + box[3]]


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
@pytest.mark.parametrize("with_size", [True, False])
@pytest.mark.parametrize(
    ("form", "what"), [(normalised, "normalised: "), (corners, "like corners (")]
)
def test_boxes_in_another_form_are_one_problem(
    tmp_path: Path,
    form: Callable[[list[float], tuple[int, int]], list[float]],
    what: str,
    with_size: bool,
    on_bad: str,
) -> None:
    assert len(coco(write(tmp_path / "a", train=rewritten(plain))).load("train")) == 3
    content = rewritten(form)
    for image in content["images"] if not with_size else ():
        del image["width"], image["height"]
    options = coco(write(tmp_path / "b", train=content), on_bad=on_bad)
    (problem,) = refused(options)
    assert problem.startswith(f"{tmp_path}/b/train.json: the 126 boxes look {what}")
    assert "on_bad" not in problem
    assert "clip" not in problem
    assert list(options.listed("train").problems) == ([problem] if with_size else [])


def test_other_problems_are_reported_with_the_form(tmp_path: Path) -> None:
    content = rewritten(corners)
    content["annotations"][0]["category_id"] = 77
    root = write(tmp_path, train=content)
    (root / "images" / "3.jpg").unlink()
    form, category, missing = refused(coco(root))
    assert "look like corners" in form
    assert "unknown category" in category
    assert "files missing" in missing


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_corners_in_yolo_labels_are_refused(tmp_path: Path, on_bad: str) -> None:
    options = written("yolo", tmp_path, on_bad=on_bad)
    label = tmp_path / "labels" / "train" / "a2.txt"
    label.write_text("".join(f"0 0.{i} 0.{i} 0.{i}8 0.{i}9\n" for i in range(3, 10)))
    (tmp_path / "labels" / "train" / "a1.txt").unlink()
    problem, note = problems(options, "train")
    assert "the 7 boxes look like corners (x1, y1, x2, y2), not centre x" in problem
    assert "images without a label file: 2" in note


# What occurs twice --------------------------------------------------------------------------------


def test_repeated_annotations_and_files_are_noted(tmp_path: Path) -> None:
    content = document()
    again = content["annotations"][0] | {"id": 21}
    content["annotations"] += [
        again,
        again | {"id": 22, "category_id": 4},
        again | {"id": 23, "bbox": [5, 6, 20.5, 30]},
        again | {"id": 24, "area": 1},
    ]
    content["images"].append({**content["images"][2], "id": 9, "file_name": "./2.jpg"})
    root = write(tmp_path, train=content)
    data = coco(root).load("train")
    assert len(data) == 4
    assert [len(truth.boxes) for truth in data.truth()] == [2, 5, 0, 0]
    assert data.notes == (
        f"{root}/train.json: kept annotations with the image, class and box of another: 2 (21, 24)",
        f"{root}/train.json: kept image files with several image ids: 1 (2.jpg)",
    )


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_in_both_splits_are_noted(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path)
    assert options.load("val").notes == ()
    shutil.copy(image_of(tmp_path, "a2"), image_of(tmp_path, "c2"))  # of the same size
    copied = options.model_copy(update={"title": "read again"})
    (note,) = copied.load("val").notes
    assert "kept validation images that are also training images: 1 (" in note
    assert note.endswith("c2.jpg)")
    assert all("also training" not in each for each in copied.load("train").notes)


def test_a_file_of_both_splits_is_noted(tmp_path: Path) -> None:
    root = write(tmp_path)
    (note,) = coco(root).load("val").notes
    assert "also training images: 3 (1.jpg, 2.jpg, 3.jpg)" in note
    assert coco(root).load("train").notes == ()


def test_parts_of_one_split_share_no_picture(tmp_path: Path) -> None:
    photographs = {"train": [Photograph(f"p{i}", (40, 30), BOX) for i in range(8)]}
    options = written("coco", tmp_path, photographs, val_fraction=0.5)
    assert options.load("val").notes == ()
    for i in range(1, 8):
        shutil.copy(tmp_path / "images" / "p0.jpg", tmp_path / "images" / f"p{i}.jpg")
    copied = options.model_copy(update={"title": "read again"})
    assert "also training images: 4 (" in copied.load("val").notes[0]


BOX = (("cat", (1.0, 2.0, 9.0, 8.0)),)
