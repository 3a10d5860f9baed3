from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from detectors.data.base import DataError
from detectors.data.photos import Photos
from detectors.data.voc import Voc
from tests.photographs import CLASSES, changed, image_of, written


def voc(root: Path, **options: Any) -> Photos:
    return written("voc", root, **options)


def page(root: Path, name: str = "a2") -> Path:
    return root / "Annotations" / f"{name}.xml"


def replaced(root: Path, old: str, new: str, name: str = "a2") -> None:
    text = page(root, name).read_text()
    assert old in text
    page(root, name).write_text(text.replace(old, new))


def refused(options: Photos) -> list[str]:
    with pytest.raises(DataError) as caught:
        options.load("train")
    return caught.value.problems


# Reading ------------------------------------------------------------------------------------------


def test_coordinates_of_voc_start_at_one(tmp_path: Path) -> None:
    """A box from pixel 1 to the last one covers the whole image."""
    options = voc(tmp_path)
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax>"
    assert corners in page(tmp_path, "a1").read_text()
    truth = options.load("train").truth()[0]
    assert truth.boxes[0].tolist() == [0, 0, 40, 30]
    zero = options.model_copy(update={"first_pixel": 0}).load("train").truth()[0]
    assert zero.boxes[0].tolist() == [1, 1, 40, 30]


def test_coordinates_of_other_tools_start_at_zero(tmp_path: Path) -> None:
    options = voc(tmp_path)
    replaced(tmp_path, "<xmin>5</xmin>", "<xmin>0</xmin>")
    (note,) = options.load("train").notes
    assert "kept objects with xmin or ymin 0; set first_pixel: 0 unless VOC's rule holds" in note
    assert note.endswith(": 1 (a2.xml object 1)")
    assert options.model_copy(update={"first_pixel": 0}).load("train").notes == ()


def test_coordinates_may_be_fractions(tmp_path: Path) -> None:
    options = voc(tmp_path)
    replaced(tmp_path, "<xmax>25</xmax>", "<xmax>24.75</xmax>")
    assert options.load("train").truth()[1].boxes.tolist() == [[4, 6, 24.75, 36]]


def test_difficult_objects_are_ignored(tmp_path: Path) -> None:
    options = voc(tmp_path)
    replaced(tmp_path, "<difficult>0</difficult>", "<difficult> 1\n</difficult>")
    data = options.load("train")
    assert data.truth()[1].crowd.tolist() == [True]
    assert len(data[1].targets) == 0


def test_difficult_may_be_missing(tmp_path: Path) -> None:
    options = voc(tmp_path)
    replaced(tmp_path, "<difficult>0</difficult>", "")
    assert options.load("train").truth()[1].crowd.tolist() == [False]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_given_is_read_from_the_image(tmp_path: Path, size: str) -> None:
    options = voc(tmp_path)
    whole = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    replaced(tmp_path, whole, size)
    assert options.load("train").truth()[1].width == 64


def test_classes_are_those_of_both_splits(tmp_path: Path) -> None:
    data = changed(a1=[("dog", (1, 1, 9, 9))])
    options = written("voc", tmp_path, data)
    assert options.load("train").classes == CLASSES
    assert options.load("val").classes == CLASSES


def test_classes_may_be_given_in_another_order(tmp_path: Path) -> None:
    options = voc(tmp_path, classes=["hen", "owl", "dog", "cat"])
    assert options.load("train").classes == ("hen", "owl", "dog", "cat")
    assert options.load("train").truth()[0].labels.tolist() == [0, 3]
    assert options.fingerprint() != voc(tmp_path / "other").fingerprint()


def test_a_class_that_is_not_given(tmp_path: Path) -> None:
    options = voc(tmp_path, classes=["cat", "dog"])
    (problem,) = refused(options)
    assert "unknown category id: 1 (a1.xml object 1: hen)" in problem
    data = options.model_copy(update={"on_bad": "skip"}).load("train")
    assert data.truth()[0].labels.tolist() == [0]


def test_lists_of_one_class_have_a_flag(tmp_path: Path) -> None:
    usual = voc(tmp_path / "usual").load("train")
    options = voc(tmp_path / "other", train_list="ImageSets/Main/cat_train.txt")
    lines = "a1  1\na2 -1\n\nb4  0\n"
    (tmp_path / "other/ImageSets/Main/cat_train.txt").write_text(lines)
    for one, two in zip(usual.truth(), options.load("train").truth(), strict=True):
        assert one.boxes.tolist() == two.boxes.tolist()


def test_names_with_blanks_and_other_suffixes(tmp_path: Path) -> None:
    options = voc(tmp_path)
    page(tmp_path).rename(page(tmp_path, "a 1"))
    image_of(tmp_path, "a2").rename(tmp_path / "JPEGImages" / "a 1.jpeg")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a1\na 1\nb4\n")
    assert [len(t.boxes) for t in options.load("train").truth()] == [1, 2, 0]


# Wrong input --------------------------------------------------------------------------------------


def deleted(root: Path) -> None:
    page(root).unlink()


def spoiled(old: str, new: str) -> Callable[[Path], None]:
    return lambda root: replaced(root, old, new)


def entities(root: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    page(root).write_text(f"{bomb}<annotation>&b;</annotation>")


OBJECTS = [
    (spoiled("<name>dog</name>", ""), "not Pascal VOC: 1 (a2.xml object 1: name is empty"),
    (spoiled("<name>dog", "<name>\x7fdog"), "not Pascal VOC: 1 (a2.xml object 1: name is empty"),
    (spoiled("<xmin>5</xmin>", ""), "not Pascal VOC: 1 (a2.xml object 1: bndbox/xmin is missing)"),
    (spoiled(">5</xmin>", ">five</xmin>"), "(a2.xml object 1: bndbox/xmin is not a number)"),
    (spoiled("<difficult>0", "<difficult>no"), "(a2.xml object 1: difficult is 'no', not 0 or 1)"),
]
PAGES = [
    (deleted, "annotation files missing: 1 (a2.xml)"),
    (spoiled("</annotation>", ""), "not Pascal VOC: 1 (a2.xml: not XML: no element found"),
    (spoiled("annotation>", "html>"), "not Pascal VOC: 1 (a2.xml: 'html' instead of"),
    (spoiled(">64<", ">63<"), "another size than"),
    (entities, "not Pascal VOC: 1 (a2.xml: has a document type)"),
]


@pytest.mark.parametrize(("spoil", "message"), OBJECTS + PAGES)
def test_bad_input_is_refused(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    options = voc(tmp_path)
    spoil(tmp_path)
    (problem,) = refused(options)
    assert problem.startswith(f"{tmp_path / 'ImageSets/Main/train.txt'}: ")
    assert message in problem
    assert problem.endswith(", or set on_bad: skip")


@pytest.mark.parametrize(("spoil", "message"), OBJECTS + PAGES)
def test_bad_input_is_left_out(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    options = voc(tmp_path, on_bad="skip")
    spoil(tmp_path)
    data = options.load("train")
    assert message in data.notes[0]
    kept = (spoil, message) in OBJECTS
    assert [truth.image_id for truth in data.truth()] == ([1, 2, 3] if kept else [1, 3])
    assert sum(len(truth.boxes) for truth in data.truth()) == 2


def test_all_missing_paths_are_named_at_once(tmp_path: Path) -> None:
    options = voc(tmp_path / "data", on_bad="skip", annotations="XML", images="photos")
    problems = refused(options)
    assert len(problems) == 2
    assert "XML: no such folder; correct `annotations`" in problems[0]
    assert "photos: no such folder; correct `images`" in problems[1]
    options = Voc(root=str(tmp_path / "data"), train_list="a.txt", val_list="b.txt")
    problems = refused(options)
    assert len(problems) == 2
    assert "a.txt: No such file or directory; correct `train_list`" in problems[0]
    assert "b.txt: No such file or directory; correct `val_list`" in problems[1]


def test_an_empty_list_and_a_binary_one(tmp_path: Path) -> None:
    options = voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_text("\n \n")
    (tmp_path / "ImageSets/Main/val.txt").write_bytes(b"\xff\xff")
    first, second = refused(options)
    assert "lists no image; correct `train_list`" in first
    assert "is not UTF-8 text; correct `val_list`" in second


def test_an_image_listed_twice(tmp_path: Path) -> None:
    options = voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a2\na1\na2\n")
    (problem,) = refused(options)
    assert "images listed before: 1 (a2)" in problem
    data = options.model_copy(update={"on_bad": "skip"}).load("train")
    assert [truth.image_id for truth in data.truth()] == [1, 2]


def test_no_object_in_any_file(tmp_path: Path) -> None:
    none: dict[str, list[Any]] = {"a1": [], "a2": [], "c1": [], "c2": []}
    options = written("voc", tmp_path, changed(**none), on_bad="skip")
    problems = refused(options)
    assert len(problems) == 2
    assert "train.txt: no object in the XML files" in problems[0]


@pytest.mark.parametrize("wrong", [{"classes": ["a", "a"]}, {"classes": [""]}, {"first_pixel": 2}])
def test_invalid_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Voc.model_validate({"root": "a", **wrong})
