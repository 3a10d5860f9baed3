"""One split of any format, divided into training and validation images."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from detectors.data import DATASETS
from detectors.data.base import DataError
from detectors.data.fraction import part_of
from detectors.data.photos import Photos
from tests.photographs import WRITERS, Photograph, written

FORMATS = [*WRITERS, "crowdhuman"]
each_format = pytest.mark.parametrize("name", FORMATS)
HERE = Path("train.json")


@dataclass(frozen=True)
class Image:
    file_name: str


def photographs(count: int = 10) -> dict[str, list[Photograph]]:
    """Build one split of images with different sizes."""
    whole = [Photograph(f"p{i}", (40 + i, 30), (("hen", (1, 1, 9, 9)),)) for i in range(count)]
    return {"train": whole}


def widths(options: Photos, split: Any) -> list[int]:
    return [truth.width for truth in options.load(split).truth()]


@each_format
def test_every_format_is_divided_the_same_way(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path, photographs(), val_fraction=0.3)
    ranked = sorted(range(10), key=lambda i: hashlib.sha256(f"p{i}.jpg".encode()).digest())
    assert widths(options, "val") == sorted(40 + i for i in ranked[:3])
    assert widths(options, "train") == sorted(40 + i for i in ranked[3:])
    ids = [[t.image_id for t in options.load(split).truth()] for split in ("train", "val")]
    assert sorted([*ids[0], *ids[1]]) == [*range(1, 11)]


@each_format
def test_without_a_fraction_both_splits_are_needed(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="val"):
        written(name, tmp_path, photographs()).load("train")


@each_format
def test_one_image_can_not_be_divided(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path, photographs(1), val_fraction=0.5)
    with pytest.raises(DataError, match="val_fraction can't divide 1 image; add images"):
        options.load("train")


@each_format
def test_the_fingerprint_needs_one_split_only(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path, photographs(), val_fraction=0.3)
    assert len(options.fingerprint()) == 64


def test_all_xml_files_without_a_list(tmp_path: Path) -> None:
    listed = written("voc", tmp_path, photographs(), val_fraction=0.3)
    expected = widths(listed, "train")
    (tmp_path / "ImageSets/Main/train.txt").rename(tmp_path / "unused.txt")
    free = listed.model_copy(update={"train_list": ""})
    assert widths(free, "train") == expected
    for path in (tmp_path / "Annotations").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(
        DataError, match="Annotations: no XML file; correct `annotations` or the list"
    ):
        free.model_copy(update={"title": "again"}).load("train")


names = st.lists(st.text(min_size=1), min_size=2, max_size=60, unique=True)


@given(names, st.floats(0.001, 0.999), st.randoms())
def test_parts_are_disjoint_and_do_not_depend_on_order(
    words: list[str], fraction: float, random: Any
) -> None:
    images = [Image(word) for word in words]
    train, val = (part_of(images, split, fraction, HERE) for split in ("train", "val"))
    assert sorted([*train, *val], key=images.index) == images
    assert len(val) == min(max(1, round(fraction * len(images))), len(images) - 1)
    random.shuffle(images)
    assert {*part_of(images, "val", fraction, HERE)} == {*val}


def test_a_larger_fraction_keeps_the_images_of_a_smaller_one() -> None:
    images = [Image(f"{i}.jpg") for i in range(100)]
    small, large = ({*part_of(images, "val", f, HERE)} for f in (0.1, 0.2))
    assert small < large


def test_folders_and_backslashes_make_no_difference() -> None:
    def last(names: list[str]) -> list[str]:
        part = part_of([Image(name) for name in names], "val", 0.4, HERE)
        return [each.file_name[-2:] for each in part]

    plain = [f"{i}" * 2 for i in range(10)]
    expected = last(plain)
    assert last([f"images/train/{name}" for name in plain]) == expected
    assert last([f"images\\train\\{name}" for name in plain]) == expected


def test_two_entries_of_one_file_stay_together(tmp_path: Path) -> None:
    options = written("coco", tmp_path, photographs(), val_fraction=0.5)
    document = json.loads((tmp_path / "train.json").read_text())
    again = [{**image, "id": image["id"] + 100} for image in document["images"]]
    document["images"] += again
    (tmp_path / "train.json").write_text(json.dumps(document))
    for split in ("train", "val"):
        ids = {t.image_id for t in options.load(split).truth()}
        assert len(ids) == 10
        assert {i % 100 for i in ids if i > 100} == {i for i in ids if i < 100}


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 1.5, True, "half"])
def test_a_wrong_fraction_is_refused(wrong: Any) -> None:
    for name in FORMATS:
        with pytest.raises(ValidationError):
            DATASETS[name].model_validate({"root": "a", "val_fraction": wrong})
