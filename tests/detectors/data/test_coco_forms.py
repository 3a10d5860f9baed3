"""COCO files as various tools write them: what is read, and one line for what can't be."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycoco

from detectors.data.base import Dataset
from tests.detectors.data.small_coco import SIZES, Document, coco, document, refused, write

Change = Callable[[Document], None]


def same(a: Dataset, b: Dataset) -> None:
    """Check that two data sets have the same ground truth and the same targets."""
    assert a.classes == b.classes
    for first, second in zip(a.truth(), b.truth(), strict=True):
        for name, value in vars(first).items():
            assert str(value) == str(getattr(second, name)), name
    for index in range(len(a)):
        assert str(a[index].targets) == str(b[index].targets)


def loaded(root: Path, change: Change, **options: Any) -> Dataset:
    content = document()
    change(content)
    return coco(write(root, train=content), **options).load("train")


# Spellings ----------------------------------------------------------------------------------------


def without_ids(content: Document) -> None:
    for annotation in content["annotations"]:
        del annotation["id"]


def null_ids(content: Document) -> None:
    for annotation in content["annotations"]:
        annotation["id"] = None


def floats(content: Document) -> None:
    for image in content["images"]:
        image.update({key: float(image[key]) for key in ("id", "width", "height")})
    for annotation in content["annotations"]:
        keys = ("id", "image_id", "category_id")
        annotation.update({key: float(annotation[key]) for key in keys})
        annotation["iscrowd"] = float(annotation.get("iscrowd", 0))
    for category in content["categories"]:
        category["id"] = float(category["id"])


def lvis(content: Document) -> None:
    """Add the keys of LVIS."""
    content.update(info={"year": 2020}, licenses=[])
    for image in content["images"]:
        image.update(neg_category_ids=[1], not_exhaustive_category_ids=[], coco_url="1.jpg")
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    for category in content["categories"]:
        category.update(synset="cat.n.01", frequency="c", synonyms=["cat"], image_count=3)


def labels_of_tools(content: Document) -> None:
    """Add the keys of Label Studio, CVAT and Roboflow."""
    for annotation in content["annotations"]:
        annotation.update(attributes={"occluded": False}, segmentation=[], ignore=0, score=None)


def false_flags(content: Document) -> None:
    for annotation in content["annotations"]:
        annotation.update(iscrowd=bool(annotation.get("iscrowd")), ignore=False)


@pytest.mark.parametrize(
    "change", [without_ids, null_ids, floats, lvis, labels_of_tools, false_flags]
)
def test_spellings_of_the_same_data(tmp_path: Path, change: Change) -> None:
    data = loaded(tmp_path / "a", change)
    assert data.notes == ()
    same(data, coco(write(tmp_path / "b")).load("train"))


def test_annotations_without_ids_are_named_by_their_position(tmp_path: Path) -> None:
    content = document()
    without_ids(content)
    content["annotations"][2]["bbox"][2] = 0
    content["annotations"][0]["id"] = 0
    (problem,) = refused(coco(write(tmp_path, train=content)))
    assert "boxes without width or height: 1 (annotations[2])" in problem


@pytest.mark.parametrize("value", [1.5, 2.0**53, "1", [1], True])
@pytest.mark.parametrize(
    ("part", "key"), [("images", "id"), ("images", "width"), ("annotations", "image_id")]
)
def test_other_numbers_are_no_integers(tmp_path: Path, part: str, key: str, value: Any) -> None:
    content = document()
    content[part][0][key] = value
    problems = refused(coco(write(tmp_path, train=content)))
    shown = "a list" if isinstance(value, list) else json.dumps(value)
    assert f"({part}[0].{key}: must be an integer, got {shown})" in problems[0]


# Boxes of segmentations ---------------------------------------------------------------------------


def no_bbox(annotation: dict[str, Any], form: str) -> None:
    if form == "missing":
        del annotation["bbox"]
    else:
        annotation["bbox"] = [] if form == "empty" else None


def segmentation(x: int, y: int, w: int, h: int, form: str) -> Any:
    """Write a box as polygons or as an RLE of image 2."""
    if form == "polygons":
        return [[x, y, x + w, y, x, y + h], [x + w, y, x + w, y + h, x, y + h]]
    width, height = SIZES[2]
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if form == "rle":
        return {"size": [height, width], "counts": pycoco.encode(mask)["counts"].decode()}
    before, between = x * height + y, [value for _ in range(w - 1) for value in (h, height - h)]
    counts = [before, *between, h]
    return {"size": [height, width], "counts": [*counts, height * width - sum(counts)]}


@pytest.mark.parametrize("form", ["missing", "empty", "null"])
@pytest.mark.parametrize("shape", ["polygons", "rle", "uncompressed rle"])
def test_a_box_that_is_missing_is_that_of_the_segmentation(
    tmp_path: Path, form: str, shape: str
) -> None:
    def with_box(content: Document) -> None:
        content["annotations"][0]["bbox"] = [4, 6, 20, 30]

    def with_segmentation(content: Document) -> None:
        no_bbox(content["annotations"][0], form)
        content["annotations"][0]["segmentation"] = segmentation(4, 6, 20, 30, shape)

    data = loaded(tmp_path / "a", with_segmentation)
    same(data, loaded(tmp_path / "b", with_box))
    (note,) = data.notes
    assert "took from `segmentation` the box of annotations without `bbox`: 1 (11)" in note


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "not COCO: 1 (annotations[0].bbox: is missing)"),
        ([], "not COCO: 1 (annotations[0].bbox: is missing)"),
        ([[1, 2]], "not COCO: 1 (annotations[0].segmentation: must be polygons with at least 3"),
        ({"size": [48, 64], "counts": [1]}, "(annotations[0].segmentation: must be polygons with"),
        ({"size": [48, 64], "counts": [48 * 64]}, "boxes without width or height: 1 (11)"),
        ([[1, float("nan"), 2, 2, 3, 3]], "non-finite number or negative area: 1 (11)"),
        ([[1, 1, 9, 1, 99, 9]], "boxes more than 1 px out of their image: 1 (11)"),
    ],
)
def test_segmentations_without_a_valid_box(tmp_path: Path, mask: Any, message: str) -> None:
    content = document()
    del content["annotations"][0]["bbox"]
    content["annotations"][0]["segmentation"] = mask
    (problem,) = refused(coco(write(tmp_path, train=content)))
    assert message in problem


# Ignored annotations ------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [1, 1.0, True])
def test_ignored_annotations_are_crowd_regions(tmp_path: Path, flag: Any) -> None:
    def ignore(content: Document) -> None:
        for annotation in content["annotations"]:
            annotation["ignore"] = flag if annotation["id"] == 11 else 0

    def crowd(content: Document) -> None:
        content["annotations"][0]["iscrowd"] = 1

    data = loaded(tmp_path / "a", ignore)
    same(data, loaded(tmp_path / "b", crowd))
    assert [len(sample.targets) for sample in (data[0], data[1], data[2])] == [1, 0, 0]
    (note,) = data.notes
    assert "made crowd regions of annotations with `ignore`: 1 (" in note


@pytest.mark.parametrize("flag", [2, -1, "yes", None])
def test_other_flags_are_refused(tmp_path: Path, flag: Any) -> None:
    for key in ("ignore", "iscrowd"):
        content = document()
        content["annotations"][0][key] = flag
        (problem,) = refused(coco(write(tmp_path / key, train=content)))
        assert f"not COCO: 1 (annotations[0].{key}: must be " in problem


# Identity -----------------------------------------------------------------------------------------


def ignore_one(content: Document) -> None:
    content["annotations"][0]["ignore"] = 1


def segmented(content: Document) -> None:
    del content["annotations"][0]["bbox"]
    content["annotations"][0]["segmentation"] = [[4, 6, 24, 6, 4, 36]]


def unsized(content: Document) -> None:
    del content["images"][0]["width"]


@pytest.mark.parametrize(
    ("change", "later"),
    [
        (lambda content: None, False),
        (lvis, False),
        (labels_of_tools, False),
        (ignore_one, True),
        (segmented, True),
        (without_ids, True),
        (floats, True),
        (unsized, True),
    ],
)
def test_files_that_were_read_in_another_way_have_another_fingerprint(
    tmp_path: Path, change: Change, later: bool
) -> None:
    """Trials on them, with on_bad: skip, had other ground truth."""
    content = document()
    change(content)
    root = write(tmp_path, train=content)
    pictures = sorted((f"{i}.jpg", (root / f"images/{i}.jpg").stat().st_size) for i in SIZES)
    train, val = (
        [hashlib.sha256((root / f"{split}.json").read_bytes()).hexdigest(), pictures]
        for split in ("train", "val")
    )
    before = hashlib.sha256(json.dumps([train, val]).encode()).hexdigest()
    assert (coco(root).fingerprint() != before) is later


# Whole files --------------------------------------------------------------------------------------

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_utf_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    content = document()
    content["categories"][0]["name"] = "Hündin"
    root = write(tmp_path, train=content, val=content)
    expected = coco(root).load("train")
    for split in ("train", "val"):
        text = json.dumps(content, ensure_ascii=False)
        (root / f"{split}.json").write_bytes(text.encode(encoding))
    data = coco(root, title="again").load("train")
    assert data.classes == ("cat", "Hündin")
    same(data, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file; export it again"),
        (b" \n", "an empty file; export it again"),
        ("\ufeff".encode(), "an empty file; export it again"),
        (b"[1, 2]", "not COCO: must be an object, got a list; export it as COCO again"),
        (b'"text"', 'not COCO: must be an object, got "text"; export it as COCO again'),
        (b"null", "not COCO: must be an object, got null; export it as COCO again"),
        (b'{"images": [{"id": 1', "not COCO: cut off: EOF while parsing an object at line 1 "),
        (b"{'images': []}", "not COCO: not JSON: "),
        (b"PK\x03\x04", "not COCO: not JSON: "),
        (b'{"images": "\xff"}', "not COCO: not JSON: "),
        (b"\xff\xfe{\x00\xff", "not text in utf-16: "),
        (b"\0\0\0\0\0", "not text in utf-32"),
        (b"[" * 10**6, "not COCO: not JSON: "),
        (b"{}", "not COCO: images: is missing; export it as COCO again"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    root = write(tmp_path)
    (root / "train.json").write_bytes(content)
    problems = refused(coco(root))
    assert len(problems) == (3 if content == b"{}" else 1)
    assert problems[0].startswith(f"{root / 'train.json'}: {message}")
    assert len(problems[0]) < 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": "40"}, 'images[1].width: must be an integer, got "40"'),
        ({"height": -3}, "images[1].height: must be greater than 0, got -3"),
        ({"file_name": ""}, "images[1].file_name: must not be empty"),
        ({"file_name": None}, "images[1].file_name: must be text, got null"),
    ],
)
def test_an_image_entry_that_cannot_be_used_is_one_problem(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """Its annotations are no problems of their own."""
    content = document()
    content["images"][1].update(change)
    root = write(tmp_path, train=content)
    problem, *others = refused(coco(root))
    assert message in problem
    assert others == []
    problem, lost = coco(root, on_bad="skip").load("train").notes
    assert message in problem
    assert "left out annotations of the images left out: 2 (12, 13)" in lost


def test_other_problems_of_annotations_without_an_image_are_reported(tmp_path: Path) -> None:
    content = document()
    content["images"][1]["width"] = 0
    content["annotations"][1]["category_id"] = 77
    content["annotations"][0]["image_id"] = 78
    entry, unknown, category = refused(coco(write(tmp_path, train=content)))
    assert "(images[1].width: " in entry
    assert "unknown image id: 1 (11)" in unknown
    assert "unknown category id: 1 (12)" in category
