import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from detectors.data import DATASETS
from detectors.data.base import DataError
from detectors.data.coco import Coco
from detectors.data.sizes import PAD, fitted_size
from detectors.options import NOT_IDENTITY
from tests.detectors.data.small_coco import (
    SIZES,
    Document,
    coco,
    document,
    pixels,
    refused,
    write,
)

# Reading ------------------------------------------------------------------------------------------


def test_truth_is_the_file(tmp_path: Path) -> None:
    data = coco(write(tmp_path / "pets")).load("train")
    assert data.classes == ("cat", "dog")
    assert data.notes == ()
    assert len(data) == 3
    first, second, third = data.truth()
    assert [(t.image_id, t.width, t.height) for t in data.truth()] == [
        (id_, *size) for id_, size in SIZES.items()
    ]
    assert first.boxes.tolist() == [[0, 0, 40, 30], [10, 5, 18, 21]]
    assert first.crowd.tolist() == [True, False]
    assert first.labels.tolist() == [0, 0]
    assert first.area.tolist() == [1200, 128]
    assert second.boxes.tolist() == [[4, 6, 24.5, 36]]
    assert second.labels.tolist() == [1]
    assert second.area.tolist() == [99.5]
    assert third.boxes.shape == (0, 4)
    assert (third.labels.dtype, third.crowd.dtype) == (torch.int64, torch.bool)


def test_samples_are_resized_padded_and_without_crowds(tmp_path: Path) -> None:
    data = coco(write(tmp_path / "pets")).load("val")
    small, double, tall = (data[i] for i in range(3))
    assert small.scale == (3.2, 3.2)  # 40 x 30 -> 128 x 96
    assert small.targets.boxes.tolist() == [pytest.approx([32, 16, 57.6, 67.2])]
    assert small.targets.labels.tolist() == [0]
    assert double.scale == (2.0, 2.0)  # 64 x 48 -> 128 x 96
    assert double.targets.boxes.tolist() == [[8, 12, 49, 72]]
    assert tall.scale == (1.2, 1.2)  # 50 x 80 -> 60 x 96
    assert tall.targets.boxes.shape == (0, 4)
    assert (tall.image[:, :, 60:] == PAD).all()
    assert tall.image[:, :, :60].float().std() > 20
    for sample in (small, double, tall):
        assert sample.image.shape == (3, 96, 128)
        assert sample.image.dtype == torch.uint8
        assert sample.targets.boxes.dtype == torch.float32


def test_each_direction_has_its_own_factor_after_rounding(tmp_path: Path) -> None:
    data = Coco(root=str(write(tmp_path)), height=45, width=100).load("train")
    assert data[2].scale == (28 / 50, 45 / 80)  # 28.125 wide before rounding


def test_pixels_of_an_image_that_fits_are_untouched(tmp_path: Path) -> None:
    root = write(tmp_path)
    image = pixels(64, 48, 2)
    image.save(root / "images" / "2.jpg", format="PNG")
    sample = Coco(root=str(root), height=48, width=64).load("train")[1]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), np.asarray(image))


def test_portraits_turn_and_are_padded_to_multiples_of_32(tmp_path: Path) -> None:
    options = Coco(root=str(write(tmp_path)), height=80, width=120, portrait="turn")
    small, double, tall = (options.load("train")[i] for i in range(3))
    assert small.scale == (107 / 40, 80 / 30)  # 40 x 30 -> 107 x 80
    assert small.image.shape == (3, 96, 128)
    assert double.scale == (107 / 64, 80 / 48)
    assert tall.scale == (75 / 50, 120 / 80)  # 50 x 80 -> 75 x 120: the longer side is limited
    assert tall.image.shape == (3, 128, 96)
    for sample, (width, height) in ((small, (107, 80)), (tall, (75, 120))):
        assert (sample.image[:, height:] == PAD).all()
        assert (sample.image[:, :, width:] == PAD).all()
        assert sample.image[:, :height, :width].float().std() > 20
    x, y = small.scale
    expected = [10 * x, 5 * y, 18 * x, 21 * y]
    assert small.targets.boxes.tolist() == [pytest.approx(expected)]


def test_height_and_width_may_be_swapped_if_images_turn(tmp_path: Path) -> None:
    root = str(write(tmp_path))
    first = Coco(root=root, height=80, width=120, portrait="turn").load("train")
    second = Coco(root=root, height=120, width=80, portrait="turn").load("train")
    for index in range(3):
        assert torch.equal(first[index].image, second[index].image)


def test_the_cache_keeps_to_its_limit(tmp_path: Path) -> None:
    root = str(write(tmp_path))
    data = Coco(root=root, height=512, width=512, cache_mib=1).load("train")  # 0.75 MiB per image
    assert [data[i] is data[i] for i in (1, 0, 2)] == [True, False, False]
    assert data[1] is data[1]


@given(*[st.integers(1, 3000)] * 2, *[st.integers(32, 1400)] * 2)
def test_the_largest_size_that_fits(w: int, h: int, height: int, width: int) -> None:
    new_w, new_h = fitted_size(w, h, height, width)
    assert (new_w, new_h) == (width, max(1, round(h * width / w))) or (new_w, new_h) == (
        max(1, round(w * height / h)),
        height,
    )
    assert new_w <= width
    assert new_h <= height


def test_a_bright_block_lands_on_its_box(tmp_path: Path) -> None:
    root = write(tmp_path)
    values = np.zeros((80, 50, 3), dtype=np.uint8)
    values[20:60, 10:35] = 255
    Image.fromarray(values).save(root / "images" / "3.jpg", format="PNG")
    content = document()
    box = {"id": 20, "image_id": 3, "category_id": 4, "bbox": [10, 20, 25, 40]}
    content["annotations"].append(box)
    (root / "train.json").write_text(json.dumps(content))
    sample = Coco(root=str(root), height=200, width=320).load("train")[2]
    ys, xs = (sample.image[0, :, :125] > 127).nonzero(as_tuple=True)
    seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert sample.targets.boxes[0].tolist() == pytest.approx([float(v) for v in seen], abs=1)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "LA"])
def test_every_8_bit_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    root = write(tmp_path)
    image = pixels(64, 48, 0).convert(mode)
    image.save(root / "images" / "2.jpg", format="TIFF")
    sample = Coco(root=str(root), height=48, width=64).load("train")[1]
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), expected)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    root = write(tmp_path)
    palette = pixels(64, 48, 0).convert("P")
    palette.save(root / "images" / "2.jpg", format="PNG", transparency=bytes(range(256)))
    assert coco(root).load("train")[1].image.shape == (3, 96, 128)


def test_the_cache_changes_nothing_but_identity_of_samples(tmp_path: Path) -> None:
    root = write(tmp_path)
    kept, fresh = (coco(root, cache_mib=mib).load("train") for mib in (1, 0))
    assert kept[1] is kept[1]
    assert fresh[1] is not fresh[1]
    assert torch.equal(kept[1].image, fresh[1].image)


def test_equal_options_share_one_copy(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert coco(root).load("val") is coco(root).load("val")


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_is_refused(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match="of 3"):
        coco(write(tmp_path)).load("train")[index]


# Invalid input -----------------------------------------------------------------------------------


def test_a_missing_root_is_always_refused(tmp_path: Path) -> None:
    for on_bad in ("refuse", "skip"):
        (problem,) = refused(coco(tmp_path / "nowhere", on_bad=on_bad))
        assert "nowhere: no such folder" in problem
        assert "`root`" in problem


def test_all_missing_paths_are_named_at_once(tmp_path: Path) -> None:
    problems = refused(coco(tmp_path, on_bad="skip"))
    assert len(problems) == 4
    for problem, (path, option) in zip(
        problems,
        [
            ("train.json", "train_json"),
            ("images", "train_images"),
            ("val.json", "val_json"),
            ("images", "val_images"),
        ],
        strict=True,
    ):
        assert f"{tmp_path / path}: no such" in problem
        assert f"`{option}`" in problem


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    for path in (root / "images").iterdir():
        path.unlink()
    problems = refused(coco(root, on_bad="skip"))
    assert [problem.split(";")[0] for problem in problems] == [
        f"{root / 'images'}: holds no image"
    ] * 2
    assert ["train_images" in p for p in problems] == [True, False]


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not COCO"),
        ("[]", "not COCO"),
        ('{"images": [], "annotations": [], "categories": []}', "images: .*at least 1"),
        ('{"images": [1], "categories": [{"id": 1, "name": "a"}]}', "annotations: is missing"),
        (
            '{"images": [1], "annotations": [], "categories": [{"id": 1}]}',
            r"categories\[0\].name: is missing",
        ),
    ],
)
def test_a_file_that_is_not_coco(tmp_path: Path, text: str, message: str, on_bad: Any) -> None:
    root = write(tmp_path)
    (root / "train.json").write_text(text)
    (root / "val.json").write_text("nonsense")
    with pytest.raises(DataError, match=message) as caught:
        coco(root, on_bad=on_bad).load("train")
    assert any("train.json" in problem for problem in caught.value.problems)
    assert any("val.json" in problem for problem in caught.value.problems)


def test_category_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    content = document()
    content["categories"].append({"id": 9, "name": "horse"})
    (problem,) = refused(coco(write(tmp_path, train=content), on_bad="skip"))
    assert "category ids repeat" in problem


def test_category_names_that_repeat_are_refused(tmp_path: Path) -> None:
    content = document()
    content["categories"].append({"id": 2, "name": "cat"})
    for supercategory in ("cat", "none", None):  # as a group it would have no annotations
        content["categories"][1]["supercategory"] = supercategory
        content["annotations"].append(content["annotations"][1] | {"id": 14, "category_id": 2})
        root = write(tmp_path / str(supercategory), train=content, val=content)
        problem = refused(coco(root, on_bad="skip"))[0]
        assert "category names repeat: 2 (cat), 4 (cat); give every" in problem


@pytest.mark.parametrize("group", [0, 20])
def test_a_category_that_only_groups_others_is_left_out(tmp_path: Path, group: int) -> None:
    """Some tools export the name of the data set as a category, above one of the same name."""
    content = document()
    for category in content["categories"]:
        category["supercategory"] = "cat"
    content["categories"].append({"id": group, "name": "cat", "supercategory": {"not": "a name"}})
    content["annotations"].append(content["annotations"][1] | {"id": 14, "category_id": []})
    data = coco(write(tmp_path, train=content, val=content), on_bad="skip").load("train")
    assert data.classes == ("cat", "dog")
    assert f"left out category {group} (cat)" in data.notes[0]


def test_both_splits_must_have_the_same_labels(tmp_path: Path) -> None:
    content = document()
    content["categories"][0]["name"] = "wolf"
    (problem,) = refused(coco(write(tmp_path, val=content), on_bad="skip"))
    assert "4 cat, 9 wolf differ from 4 cat, 9 dog" in problem


def annotation(**changes: Any) -> Callable[[Path, Document], None]:
    """Change annotation 11: the only object of image 2."""
    return lambda root, content: content["annotations"][0].update(changes)


def image(**changes: Any) -> Callable[[Path, Document], None]:
    return lambda root, content: content["images"][2].update(changes)


def without(part: str, key: str, position: int) -> Callable[[Path, Document], None]:
    return lambda root, content: content[part][position].pop(key)


def no_file(root: Path, content: Document) -> None:
    (root / "images" / "2.jpg").unlink()


def truncated(root: Path, content: Document) -> None:
    path = root / "images" / "2.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_image(root: Path, content: Document) -> None:
    (root / "images" / "2.jpg").write_text("this is text")


def deep(root: Path, content: Document) -> None:
    Image.new("F", (64, 48)).save(root / "images" / "2.jpg", format="TIFF")


def repeated(root: Path, content: Document) -> None:
    content["images"].append({**content["images"][2], "file_name": "other.jpg"})


NAN, INF = float("nan"), float("inf")
BAD_ANNOTATIONS = [
    (annotation(image_id=77), "annotations of an unknown image id: 1 (11)"),
    (annotation(category_id=77), "annotations of an unknown category id: 1 (11)"),
    (annotation(bbox=[4, 6, 0, 30]), "boxes without width or height: 1 (11)"),
    (annotation(bbox=[4, 6, 20, -3]), "boxes without width or height: 1 (11)"),
    (annotation(bbox=[4, NAN, 20, 30]), "non-finite number or negative area: 1 (11)"),
    (annotation(bbox=[4, 6, INF, 30]), "non-finite number or negative area: 1 (11)"),
    (annotation(area=NAN), "non-finite number or negative area: 1 (11)"),
    (annotation(area=-2), "non-finite number or negative area: 1 (11)"),
    (annotation(bbox=[70, 6, 20, 30]), "boxes wholly outside their image: 1 (11)"),
    (annotation(bbox=[4, -40, 20, 30]), "boxes wholly outside their image: 1 (11)"),
    (annotation(bbox=[4, 6, 20]), "not COCO: 1 (annotations[0].bbox: "),
    (
        annotation(bbox=[4, "6", 20, 30]),
        "not COCO: 1 (annotations[0].bbox[1]: must be a number, got",
    ),
    (annotation(image_id="2"), "not COCO: 1 (annotations[0].image_id: "),
    (without("annotations", "bbox", 0), "not COCO: 1 (annotations[0].bbox: is missing)"),
]
BAD_IMAGES = [
    (no_file, "/images (train_images): 1 (2.jpg)"),
    (truncated, "image files unreadable: 1 (2.jpg: image file is truncated"),
    (no_image, "image files unreadable: 1 (2.jpg: cannot identify image file '2.jpg')"),
    (deep, "image files unreadable: 1 (2.jpg: pixels of mode F, not grey or RGB"),
    (
        image(width=48, height=64),
        "another size than the annotations say: 1 (2.jpg: 64x48, not 48x64)",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_ANNOTATIONS + BAD_IMAGES)
def test_bad_input_is_refused(
    tmp_path: Path, spoil: Callable[[Path, Document], None], message: str
) -> None:
    content = document()
    root = write(tmp_path)
    spoil(root, content)
    (root / "train.json").write_text(json.dumps(content))
    (problem,) = refused(coco(root))
    assert problem.startswith(f"{root / 'train.json'}: ")
    assert message in problem
    assert problem.endswith(", or set on_bad: skip")


@pytest.mark.parametrize("sizes", ["in the file", "of the pictures"])
@pytest.mark.parametrize(("spoil", "message"), BAD_ANNOTATIONS)
def test_a_bad_annotation_is_left_out(
    tmp_path: Path, spoil: Callable[[Path, Document], None], message: str, sizes: str
) -> None:
    content = document()
    spoil(tmp_path, content)
    if sizes == "of the pictures":
        unsized(content, ["width", "height"], False)
    data = coco(write(tmp_path, train=content), on_bad="skip").load("train")
    (note,) = data.notes
    assert message in note
    assert "left out" in note
    assert [len(t.boxes) for t in data.truth()] == [2, 0, 0]
    assert len(data[1].targets) == 0


@pytest.mark.parametrize(("spoil", "message"), BAD_IMAGES)
def test_a_bad_image_is_left_out_with_its_annotations(
    tmp_path: Path, spoil: Callable[[Path, Document], None], message: str
) -> None:
    content = document()
    root = write(tmp_path)
    spoil(root, content)
    (root / "train.json").write_text(json.dumps(content))
    data = coco(root, on_bad="skip").load("train")
    assert [t.image_id for t in data.truth()] == [1, 3]
    about_image, about_annotations = data.notes
    assert message in about_image
    assert "left out annotations of the images left out: 1 (11)" in about_annotations


def test_an_image_entry_that_is_not_coco(tmp_path: Path) -> None:
    content = document()
    content["images"][0]["width"] = 0
    problems = refused(coco(write(tmp_path, train=content)))
    assert "(images[0].width: must be greater than 0, got 0)" in problems[0]


def unsized(content: Document, keys: Sequence[str], null: bool) -> Document:
    """Remove the size of every image, or set it to null."""
    for each in content["images"]:
        for key in keys:
            each.pop(key)
            each.update({key: None} if null else {})
    return content


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("keys", [["width", "height"], ["width"], ["height"]])
def test_a_size_that_the_file_lacks_is_that_of_the_picture(
    tmp_path: Path, keys: list[str], null: bool
) -> None:
    with_size = coco(write(tmp_path / "with")).load("train")
    content = unsized(document(), keys, null)
    without_size = coco(write(tmp_path / "without", train=content)).load("train")
    assert without_size.notes == ()
    for a, b in zip(with_size.truth(), without_size.truth(), strict=True):
        assert (a.image_id, a.width, a.height) == (b.image_id, b.width, b.height)
        assert (a.boxes.tolist(), a.area.tolist()) == (b.boxes.tolist(), b.area.tolist())
        assert (a.labels.tolist(), a.crowd.tolist()) == (b.labels.tolist(), b.crowd.tolist())
    for index in range(3):
        assert torch.equal(with_size[index].image, without_size[index].image)
        assert torch.equal(with_size[index].targets.boxes, without_size[index].targets.boxes)


def test_one_side_in_the_file_must_be_that_of_the_picture(tmp_path: Path) -> None:
    content = unsized(document(), ["height"], False)
    content["images"][2]["width"] = 48
    (problem,) = refused(coco(write(tmp_path, train=content)))
    assert "another size than the annotations say: 1 (2.jpg: 64x48, not 48x48)" in problem


@pytest.mark.parametrize("image_id", [2**63, -(2**63) - 1, 10**30])
def test_an_image_id_of_more_than_64_bits_is_refused(tmp_path: Path, image_id: int) -> None:
    content = document()
    content["images"][0]["id"] = image_id
    problems = refused(coco(write(tmp_path, train=content)))
    assert "(images[0].id: must be " in problems[0]


@pytest.mark.parametrize("image_id", [2**63 - 1, -(2**63), 0])
def test_any_image_id_of_64_bits_is_accepted(tmp_path: Path, image_id: int) -> None:
    content = document()
    before = content["images"][0]["id"]
    content["images"][0]["id"] = image_id
    for annotation in content["annotations"]:
        if annotation["image_id"] == before:
            annotation["image_id"] = image_id
    data = coco(write(tmp_path, train=content)).load("train")
    assert image_id in [each.image_id for each in data.truth()]


def test_an_image_id_used_twice(tmp_path: Path) -> None:
    content = document()
    repeated(tmp_path, content)
    (problem,) = refused(coco(write(tmp_path / "a", train=content)))
    assert "image ids used before: 1 (2: other.jpg)" in problem
    data = coco(write(tmp_path / "b", train=content), on_bad="skip").load("train")
    assert len(data) == 3
    assert "image ids used before" in data.notes[0]


@pytest.mark.parametrize("sizes", ["in the file", "of the pictures"])
@pytest.mark.parametrize(
    ("bbox", "clipped"),
    [
        ([-3, 6, 20, 30], [0, 6, 17, 36]),
        ([4, -2, 20, 30], [4, 0, 24, 28]),
        ([50, 6, 20, 30], [50, 6, 64, 36]),
        ([4, 30, 20, 30.5], [4, 30, 24, 48]),
    ],
)
def test_a_box_partly_outside(
    tmp_path: Path, bbox: list[float], clipped: list[float], sizes: str
) -> None:
    content = document()
    content["annotations"][0]["bbox"] = bbox
    if sizes == "of the pictures":
        unsized(content, ["width", "height"], True)
    root = write(tmp_path, train=content)
    (problem,) = refused(coco(root))
    assert "boxes more than 1 px out of their image: 1 (11)" in problem
    data = coco(root, on_bad="skip").load("train")
    (note,) = data.notes
    assert "clipped boxes more than 1 px out of their image: 1 (11)" in note
    truth = data.truth()[1]
    assert truth.boxes.tolist() == [clipped]
    assert truth.area.tolist() == [99.5]
    assert data[1].targets.boxes.tolist() == [[2 * v for v in clipped]]


def test_annotations_of_a_missing_picture_without_a_size_are_checked_too(tmp_path: Path) -> None:
    content = unsized(document(), ["width", "height"], False)
    content["annotations"][0]["bbox"] = [-9, 6, 5, 30]
    root = write(tmp_path, train=content)
    no_file(root, content)
    problems = refused(coco(root))
    assert any("image files missing" in problem for problem in problems)
    assert any("boxes wholly outside their image: 1 (11)" in problem for problem in problems)
    notes = coco(root, on_bad="skip").load("train").notes
    assert len(notes) == 2


def test_a_pixel_of_tolerance(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [-1, -1, 66, 50]
    data = coco(write(tmp_path, train=content)).load("train")
    assert data.truth()[1].boxes.tolist() == [[-1, -1, 65, 49]]


def test_all_problems_are_reported_at_once_and_long_lists_are_cut(tmp_path: Path) -> None:
    content = document()
    bad = {"id": 0, "image_id": 3, "category_id": 4, "bbox": [1, 1, 0, 5]}
    content["annotations"] += [{**bad, "id": 100 + i} for i in range(8)]
    content["annotations"].append({**bad, "id": 200, "category_id": 5, "image_id": 6})
    root = write(tmp_path, train=content)
    truncated(root, content)
    (root / "images" / "3.jpg").unlink()
    problems = refused(coco(root))
    kinds = ["no width", "unknown image", "unknown category", "missing", "unreadable"]
    assert len(problems) == len(kinds)
    assert any("width or height: 9 (100, 101, 102, 103, 104, and 4 more)" in p for p in problems)
    data = coco(root, on_bad="skip").load("train")
    assert len(data.notes) == len(kinds) + 1
    assert [t.image_id for t in data.truth()] == [1]


def test_a_split_without_a_valid_image_is_refused(tmp_path: Path) -> None:
    content = document()
    for entry in content["images"]:
        entry["width"] += 1
    problems = refused(coco(write(tmp_path, train=content), on_bad="skip"))
    assert "no image is left to use" in problems[0]
    assert "another size" in problems[1]


def test_headers_alone_do_not_show_damage(tmp_path: Path) -> None:
    root = write(tmp_path)
    truncated(root, document())
    data = coco(root, verify="header").load("train")
    assert len(data[0].targets) == 1
    with pytest.raises(DataError, match=r"2\.jpg: image file is truncated"):
        data[1]


def test_a_repaired_file_is_read_again(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    root = write(tmp_path, train=content)
    refused(coco(root))
    (root / "train.json").write_text(json.dumps(document()))
    assert len(coco(root).load("train")) == 3


# Identity -----------------------------------------------------------------------------------------


def test_the_fingerprint_depends_on_content_not_on_paths(tmp_path: Path) -> None:
    here, there = write(tmp_path / "here"), write(tmp_path / "there")
    (there / "train.json").rename(there / "learn.json")
    moved = coco(there, train_json="learn.json", title="x", cache_mib=3)
    assert coco(here).fingerprint() == moved.fingerprint()
    swapped = coco(here, train_json="val.json", val_json="train.json")
    assert swapped.fingerprint() == coco(here).fingerprint()  # equal files


def test_each_split_has_its_own_folder(tmp_path: Path) -> None:
    shared, apart = write(tmp_path / "shared"), write(tmp_path / "apart")
    (apart / "images").rename(apart / "learn")
    shutil.copytree(apart / "learn", apart / "check")
    options = coco(apart, train_images="learn", val_images="check")
    assert options.fingerprint() == coco(shared).fingerprint()
    pixels(40, 30, 5).save(apart / "check" / "1.jpg", quality=50)  # the same name and size
    with_other = coco(apart, train_images="learn", val_images="check", title="other")
    assert with_other.fingerprint() != options.fingerprint()
    train, val = with_other.load("train"), with_other.load("val")
    assert torch.equal(train[0].image, coco(shared).load("train")[0].image)
    assert not torch.equal(val[0].image, train[0].image)
    (apart / "check" / "2.jpg").unlink()
    options = coco(apart, train_images="learn", val_images="check", cache_mib=1)
    assert len(options.load("train")) == 3
    with pytest.raises(
        DataError, match=r"val\.json: image files missing in .*/check \(val_images\): 1 \("
    ):
        options.load("val")


def test_the_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    other = document()
    other["annotations"][0]["bbox"][0] = 5
    roots = [write(tmp_path / "a"), write(tmp_path / "b", train=other)]
    roots += [write(tmp_path / "c", val=other), write(tmp_path / "d")]
    pixels(40, 30, 1).save(roots[3] / "images" / "1.jpg", quality=50)
    assert len({coco(root).fingerprint() for root in roots}) == 4


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_edited_file_is_read_again(tmp_path: Path, split: Any) -> None:
    """Also by the same process, with the same options."""
    options, edit = coco(write(tmp_path)), document()
    before, count = options.fingerprint(), len(options.load(split).truth()[0].boxes)
    edit["annotations"].pop()
    (tmp_path / f"{split}.json").write_text(json.dumps(edit))
    assert options.fingerprint() != before
    assert len(options.load(split).truth()[0].boxes) == count - 1
    assert options.source(split) == f"{tmp_path}/{split}.json"
    (tmp_path / f"{split}.json").write_text(json.dumps(document()))
    assert options.fingerprint() == before


def test_a_fingerprint_with_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        coco(tmp_path / "nowhere").fingerprint()
    root, whole = write(tmp_path / "a"), write(tmp_path / "b")
    no_file(root, document())
    with pytest.raises(
        DataError, match=r"train\.json: image files missing in \S+ \(train_images\): 1 \(2"
    ) as caught:
        coco(root).fingerprint()
    assert len(caught.value.problems) == 2
    skipping = [coco(path, on_bad="skip").fingerprint() for path in (root, whole)]
    assert skipping[0] != skipping[1]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert coco(tmp_path / "pets").label == "pets"
    assert coco(tmp_path / "pets", title="Pets 2").label == "Pets 2"
    root = write(tmp_path / "pets")
    monkeypatch.chdir(root)
    assert Coco(root=".").label == "pets"
    assert len(Coco(root=".").load("train")) == 3


def test_paths_and_memory_are_not_part_of_the_identity() -> None:
    apart = {n for n, f in Coco.model_fields.items() if f.json_schema_extra == NOT_IDENTITY}
    assert apart == {
        "root",
        "train_json",
        "val_json",
        "train_images",
        "val_images",
        "title",
        "cache_mib",
        "workers",
        "planned_images",
        "planned_classes",
    }


@pytest.mark.parametrize(
    "wrong", [{}, {"root": ""}, {"root": "a", "height": 31}, {"root": "a", "on_bad": "ignore"}]
)
def test_invalid_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Coco.model_validate(wrong)


def test_the_table_names_its_rows() -> None:
    for name, kind in DATASETS.items():
        assert kind.model_fields["name"].default == name


# Real photographs --------------------------------------------------------------------------------

BCCD = Path(__file__).parents[4] / "shared" / "data" / "bccd"


@pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD photographs are not on this machine")
def test_real_photographs() -> None:
    options = Coco(root=str(BCCD), height=240, width=320, train_json="val.json")
    data = options.load("train")
    raw = json.loads((BCCD / "val.json").read_text())
    assert data.classes == ("RBC", "WBC", "Platelets")
    assert data.notes == ()
    assert len(data) == len(raw["images"]) == 87
    truth = {t.image_id: t for t in data.truth()}
    assert sum(len(t.boxes) for t in truth.values()) == len(raw["annotations"])
    for entry in raw["annotations"]:
        x, y, w, h = entry["bbox"]
        assert [x, y, x + w, y + h] in truth[entry["image_id"]].boxes.tolist()
    sample = data[0]
    assert sample.scale == (0.5, 0.5)
    assert sample.image.float().mean() > 100  # a bright microscope field
    assert torch.equal(sample.targets.boxes, (data.truth()[0].boxes / 2).float())
    assert len(options.fingerprint()) == 64
