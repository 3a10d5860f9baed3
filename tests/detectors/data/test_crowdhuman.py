import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from detectors.data.base import DataError
from detectors.data.crowdhuman import CrowdHuman
from detectors.options import NOT_IDENTITY

Lines = list[dict[str, Any]]
SIZES = {"273271,c9db": (64, 48), "282555,1ad0": (40, 60), "284193,faa9": (50, 50)}
FIRST, SECOND, THIRD = SIZES


def person(fbox: list[float], tag: str = "person", **extra: int) -> dict[str, Any]:
    """Build a box in the format of CrowdHuman."""
    return {
        "tag": tag,
        "fbox": fbox,
        "hbox": [1, 1, 2, 2],
        "vbox": fbox,
        "head_attr": {"ignore": 0, "occ": 0, "unsure": 0},
        "extra": {"box_id": 0, "occ": 1, **extra},
    }


def lines() -> Lines:
    """Three images: people of every kind, one person partly outside the image, and nobody."""
    people = [
        person([10, 5, 8, 16.5]),
        person([30, 5, 8, 16], ignore=0),
        person([2, 2, 10, 10], ignore=1),
        person([20, 20, 30, 20], tag="mask", ignore=1),
        person([40, 8, 12, 9], tag="mask"),
        person([5, 30, 7, 7], ignore=2),
    ]
    return [
        {"ID": FIRST, "gtboxes": people},
        {"ID": SECOND, "gtboxes": [person([-7, 20, 60, 55.5])]},
        {"ID": THIRD, "gtboxes": []},
    ]


def text(content: Lines) -> str:
    return "".join(json.dumps(line) + "\n" for line in content)


def write(root: Path, train: str | None = None, val: str | None = None) -> Path:
    (root / "Images").mkdir(parents=True)
    for seed, (id_, (width, height)) in enumerate(SIZES.items()):
        values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / "Images" / f"{id_}.jpg", quality=95)
    for name, content in (("train", train), ("val", val)):
        (root / f"annotation_{name}.odgt").write_text(text(lines()) if content is None else content)
    return root


def crowdhuman(root: Path, **options: Any) -> CrowdHuman:
    return CrowdHuman(root=str(root), **{"height": 96, "width": 128, **options})


def refused(options: CrowdHuman) -> list[str]:
    with pytest.raises(DataError) as caught:
        options.load("train")
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_is_person", [False, True])
def test_truth_is_the_file(tmp_path: Path, mask_is_person: bool) -> None:
    root = write(tmp_path)
    data = crowdhuman(root, mask_is_person=mask_is_person).load("train")
    assert data.classes == ("person",)
    assert data.notes == ()
    rows = [json.loads(row) for row in (root / "annotation_train.odgt").read_text().splitlines()]
    assert len(data) == len(rows)
    for number, (row, truth) in enumerate(zip(rows, data.truth(), strict=True), start=1):
        width, height = SIZES[row["ID"]]
        assert (truth.image_id, truth.width, truth.height) == (number, width, height)
        assert len(truth.boxes) == len(row["gtboxes"])
        for box, crowd, area, written in zip(
            truth.boxes.tolist(), truth.crowd, truth.area, row["gtboxes"], strict=True
        ):
            corner, sides = np.array(written["fbox"][:2]), np.array(written["fbox"][2:])
            low, high = np.clip([corner, corner + sides], 0, [width, height])
            assert box == [*low, *high]
            assert area == np.prod(high - low)
            flag = written["extra"].get("ignore", 0)
            if mask_is_person:
                assert crowd == (flag == 1)
            else:
                assert crowd == (written["tag"] != "person" or flag != 0)
        assert truth.labels.tolist() == [0] * len(row["gtboxes"])
        assert (truth.boxes.dtype, truth.area.dtype) == (torch.float64, torch.float64)


@pytest.mark.parametrize(("mask_is_person", "kept"), [(False, [0, 1]), (True, [0, 1, 4, 5])])
def test_ignored_boxes_are_no_targets(
    tmp_path: Path, mask_is_person: bool, kept: list[int]
) -> None:
    data = crowdhuman(write(tmp_path), mask_is_person=mask_is_person).load("val")
    sample, truth = data[0], data.truth()[0]
    assert sample.scale == (2.0, 2.0)
    assert sample.image.shape == (3, 96, 128)
    assert torch.equal(sample.targets.boxes, (2 * truth.boxes[kept]).float())
    assert sample.targets.labels.tolist() == [0] * len(kept)
    assert data[2].targets.boxes.shape == (0, 4)


@pytest.mark.parametrize("tag", ["person", "mask", "Person"])
def test_what_is_ignored(tmp_path: Path, tag: str) -> None:
    flags = (-1, 0, 1, 2, 2**70)
    content = lines()
    content[0]["gtboxes"] = [person([1, 1, 9, 9], tag, ignore=flag) for flag in flags]
    for mask_is_person in (False, True):
        root = write(tmp_path / str(mask_is_person), text(content))
        (truth, *_) = crowdhuman(root, mask_is_person=mask_is_person).load("train").truth()
        plain = [tag != "person" or flag != 0 for flag in flags]
        assert truth.crowd.tolist() == ([flag == 1 for flag in flags] if mask_is_person else plain)


def test_extra_may_be_missing_and_lines_may_be_empty(tmp_path: Path) -> None:
    content = lines()
    del content[0]["gtboxes"][0]["extra"]
    data = crowdhuman(write(tmp_path, train="\n" + text(content) + " \n\n")).load("train")
    assert [truth.image_id for truth in data.truth()] == [2, 3, 4]
    assert data.truth()[0].crowd.tolist()[:2] == [False, False]


def test_turned_portraits(tmp_path: Path) -> None:
    data = crowdhuman(write(tmp_path), portrait="turn").load("train")
    assert [tuple(data[i].image.shape[1:]) for i in range(3)] == [(96, 128), (128, 96), (96, 96)]
    assert data[1].scale == (85 / 40, 128 / 60)


# Invalid input -----------------------------------------------------------------------------------


def box(**changes: Any) -> Callable[[Lines], str]:
    """Change the only box of the second line."""

    def spoil(content: Lines) -> str:
        content[1]["gtboxes"][0].update(changes)
        return text(content)

    return spoil


def line(**changes: Any) -> Callable[[Lines], str]:
    def spoil(content: Lines) -> str:
        content[1].update(changes)
        return text(content)

    return spoil


def without(key: str) -> Callable[[Lines], str]:
    def spoil(content: Lines) -> str:
        del content[1][key]
        return text(content)

    return spoil


def truncated(content: Lines) -> str:
    first, second, third = text(content).splitlines()
    return "\n".join([first, second[: len(second) // 2], third])


def not_an_object(content: Lines) -> str:
    first, _, third = text(content).splitlines()
    return "\n".join([first, "[1, 2]", third])


def deep(content: Lines) -> str:
    first, _, third = text(content).splitlines()
    return "\n".join([first, "[" * 10**6, third])


def long_integer(content: Lines) -> str:
    first, _, third = text(content).splitlines()
    return "\n".join([first, "7" * 5000, third])


NAN, INF = float("nan"), float("inf")
BAD_BOXES = [
    (box(fbox=[4, 6, 0, 30]), "boxes without width or height: 1 (line 2 gtboxes[0])"),
    (box(fbox=[4, 6, 20, -3]), "boxes without width or height: 1 (line 2 gtboxes[0])"),
    (box(fbox=[4, NAN, 20, 30]), "non-finite number or negative area: 1 (line 2 gtboxes[0])"),
    (box(fbox=[4, 6, INF, 30]), "non-finite number or negative area: 1 (line 2 gtboxes[0])"),
    (box(fbox=[40, 6, 20, 30]), "boxes wholly outside their image: 1 (line 2 gtboxes[0])"),
    (box(fbox=[4, -40, 20, 30]), "boxes wholly outside their image: 1 (line 2 gtboxes[0])"),
    (box(fbox=[4, 6, 20]), "not CrowdHuman's: 1 (line 2 gtboxes[0].fbox: "),
    (
        box(fbox=[4, "6", 20, 30]),
        'not CrowdHuman\'s: 1 (line 2 gtboxes[0].fbox[1]: must be a number, got "6")',
    ),
    (box(tag=3), "not CrowdHuman's: 1 (line 2 gtboxes[0].tag: "),
    (box(extra={"ignore": "1"}), "not CrowdHuman's: 1 (line 2 gtboxes[0].extra.ignore: "),
    (line(gtboxes=[5]), "not CrowdHuman's: 1 (line 2 gtboxes[0]: must be an object, got 5)"),
]
BAD_LINES = [
    (truncated, "not CrowdHuman's: 1 (line 2: not JSON: "),
    (not_an_object, "not CrowdHuman's: 1 (line 2: must be an object, got a list)"),
    (deep, "not CrowdHuman's: 1 (line 2: nested too deeply)"),
    (long_integer, "not CrowdHuman's: 1 (line 2: not JSON: "),
    (without("ID"), "not CrowdHuman's: 1 (line 2.ID: is missing)"),
    (without("gtboxes"), "not CrowdHuman's: 1 (line 2.gtboxes: is missing)"),
    (line(ID=7), "not CrowdHuman's: 1 (line 2.ID: "),
    (line(ID=""), "not CrowdHuman's: 1 (line 2.ID: "),
    (line(ID=FIRST), f"image ids used before: 1 (line 2: {FIRST})"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_BOXES + BAD_LINES)
def test_bad_input_is_refused(tmp_path: Path, spoil: Callable[[Lines], str], message: str) -> None:
    root = write(tmp_path, train=spoil(lines()))
    (problem,) = refused(crowdhuman(root))
    assert problem.startswith(f"{root / 'annotation_train.odgt'}: ")
    assert message in problem
    assert problem.endswith(", or set on_bad: skip")


@pytest.mark.parametrize(("spoil", "message"), BAD_BOXES)
def test_a_bad_box_is_left_out(tmp_path: Path, spoil: Callable[[Lines], str], message: str) -> None:
    data = crowdhuman(write(tmp_path, train=spoil(lines())), on_bad="skip").load("train")
    (note,) = data.notes
    assert message in note
    assert "left out" in note
    assert [len(truth.boxes) for truth in data.truth()] == [6, 0, 0]


@pytest.mark.parametrize(("spoil", "message"), BAD_LINES)
def test_a_bad_line_is_left_out(
    tmp_path: Path, spoil: Callable[[Lines], str], message: str
) -> None:
    data = crowdhuman(write(tmp_path, train=spoil(lines())), on_bad="skip").load("train")
    (note,) = data.notes
    assert message in note
    assert [truth.image_id for truth in data.truth()] == [1, 3]


def test_a_line_that_is_not_text(tmp_path: Path) -> None:
    root = write(tmp_path)
    path = root / "annotation_train.odgt"
    path.write_bytes(path.read_bytes() + b'{"ID": "\xff\xfe"}\n')
    (problem,) = refused(crowdhuman(root))
    assert "line 4: not text in UTF-8" in problem


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_utf_encoding(tmp_path: Path, encoding: str) -> None:
    root = write(tmp_path)
    expected = crowdhuman(root).load("train").truth()
    path = root / "annotation_train.odgt"
    path.write_bytes(path.read_text().encode(encoding))
    found = crowdhuman(root).load("train").truth()
    assert [t.boxes.tolist() for t in found] == [t.boxes.tolist() for t in expected]


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_normalised_boxes_are_refused(tmp_path: Path, on_bad: str) -> None:
    content = lines()
    for row in content:
        for each in row["gtboxes"]:
            each["fbox"] = [0.1, 0.2, 0.3, 0.4]
    (problem,) = refused(crowdhuman(write(tmp_path, train=text(content)), on_bad=on_bad))
    assert "annotation_train.odgt: the 7 boxes look normalised: " in problem


def damage(root: Path, id_: str, kind: str) -> None:
    path = root / "Images" / f"{id_}.jpg"
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", ["missing", "unreadable"])
def test_a_bad_image(tmp_path: Path, kind: str) -> None:
    root = write(tmp_path)
    damage(root, SECOND, kind)
    (problem,) = refused(crowdhuman(root))
    where = f" in {root / 'Images'} (images)" if kind == "missing" else ""
    assert f"annotation_train.odgt: image files {kind}{where}: 1 ({SECOND}.jpg" in problem
    data = crowdhuman(root, on_bad="skip").load("train")
    about_image, about_boxes = data.notes
    assert f"left out image files {kind}" in about_image
    assert "left out annotations of the images left out: 1 (line 2 gtboxes[0])" in about_boxes
    assert [truth.image_id for truth in data.truth()] == [1, 3]


@pytest.mark.parametrize("id_", ["x" * 5000, "a\0b", "a\nb"])
def test_an_id_that_no_file_can_have(tmp_path: Path, id_: str) -> None:
    root = write(tmp_path, train=text([*lines(), {"ID": id_, "gtboxes": []}]))
    for use in (lambda: crowdhuman(root).load("train"), crowdhuman(root).fingerprint):
        with pytest.raises(DataError, match=r"image files missing in \S+ \(images\): 1") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_headers_alone_do_not_show_damage(tmp_path: Path) -> None:
    root = write(tmp_path)
    damage(root, SECOND, "unreadable")
    data = crowdhuman(root, verify="header").load("train")
    with pytest.raises(DataError, match=f"{SECOND}.jpg: image file is truncated"):
        data[1]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    content = lines()
    content[0]["gtboxes"] += [person([1, 1, 0, 5])] * 7
    content[1]["gtboxes"][0]["fbox"] = [100, 1, 5, 5]
    root = write(tmp_path, train=text(content) + "{\n" + json.dumps(content[0]))
    damage(root, THIRD, "missing")
    problems = refused(crowdhuman(root))
    for message in (
        "width or height: 7 (line 1 gtboxes[6], line 1 gtboxes[7], ",
        ", and 2 more)",
        "wholly outside their image: 1 (line 2 gtboxes[0])",
        "(line 4: not JSON: ",
        f"used before: 1 (line 5: {FIRST})",
        f"(images): 1 ({THIRD}.jpg)",
    ):
        assert sum(message in problem for problem in problems) == 1
    assert len(problems) == 5


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_a_file_without_images(tmp_path: Path, on_bad: str) -> None:
    (problem,) = refused(crowdhuman(write(tmp_path, train=""), on_bad=on_bad))
    assert "annotation_train.odgt: an empty file; export it again" in problem


def test_all_missing_paths_are_named_at_once(tmp_path: Path) -> None:
    (problem,) = refused(crowdhuman(tmp_path / "nowhere", on_bad="skip"))
    assert "nowhere: no such folder; set `root`" in problem
    problems = refused(crowdhuman(tmp_path, on_bad="skip"))
    assert [problem.split("; ")[1] for problem in problems] == [
        f"correct `{option}`" for option in ("train_odgt", "images", "val_odgt")
    ]
    problems = refused(crowdhuman(tmp_path, train_images="learn", val_images="check"))
    assert [problem.split("; ")[1] for problem in problems] == [
        f"correct `{split}_{kind}`" for split in ("train", "val") for kind in ("odgt", "images")
    ]


def test_a_repaired_file_is_read_again(tmp_path: Path) -> None:
    root = write(tmp_path, train="{")
    refused(crowdhuman(root))
    (root / "annotation_train.odgt").write_text(text(lines()))
    assert len(crowdhuman(root).load("train")) == 3


# Identity -----------------------------------------------------------------------------------------


def test_the_fingerprint_depends_on_content_not_on_paths(tmp_path: Path) -> None:
    here, there = write(tmp_path / "here"), write(tmp_path / "there")
    (there / "annotation_train.odgt").rename(there / "learn.odgt")
    (there / "Images").rename(there / "pictures")
    moved = crowdhuman(there, train_odgt="learn.odgt", images="pictures", title="x")
    assert crowdhuman(here).fingerprint() == moved.fingerprint()
    other = lines()
    other[0]["gtboxes"][0]["fbox"][0] = 11
    changed = [write(tmp_path / "a", train=text(other)), write(tmp_path / "b", val=text(other))]
    changed.append(write(tmp_path / "c"))
    Image.new("RGB", SIZES[FIRST]).save(changed[2] / "Images" / f"{FIRST}.jpg")
    prints = {crowdhuman(root).fingerprint() for root in [here, *changed]}
    assert len(prints) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"train_images": "learn/Images", "val_images": "check/Images"},
        {"images": "learn/Images", "val_images": "check/Images"},
        {"images": "check/Images", "train_images": "learn/Images"},
    ],
)
def test_each_split_may_have_its_own_folder(tmp_path: Path, options: dict[str, str]) -> None:
    shared, apart = write(tmp_path / "shared"), write(tmp_path / "apart")
    shutil.copytree(apart / "Images", apart / "check" / "Images")
    (apart / "learn").mkdir()
    (apart / "Images").rename(apart / "learn" / "Images")
    for folder in ("learn", "check"):  # the only picture in which they differ
        Image.new("RGB", SIZES[FIRST], "white" if folder == "learn" else "black").save(
            apart / folder / "Images" / f"{FIRST}.jpg"
        )
    train, val = (crowdhuman(apart, **options).load(split) for split in ("train", "val"))
    assert train[0].image.float().mean() > 250
    assert val[0].image.float().mean() < 5
    assert torch.equal(train[1].image, crowdhuman(shared).load("train")[1].image)
    damage(apart / "check", THIRD, "missing")
    option = "val_images" if "val_images" in options else "images"
    with pytest.raises(DataError, match=rf"check/Images \({option}\): 1 \({THIRD}\.jpg\)"):
        crowdhuman(apart, **options, title="read again").load("val")


def test_one_folder_or_two_are_one_fingerprint(tmp_path: Path) -> None:
    shared, apart = write(tmp_path / "shared"), write(tmp_path / "apart")
    shutil.copytree(apart / "Images", apart / "Images_val")
    assert (
        crowdhuman(shared).fingerprint() == crowdhuman(apart, val_images="Images_val").fingerprint()
    )


def test_a_fingerprint_with_missing_images(tmp_path: Path) -> None:
    root, whole = write(tmp_path / "a"), write(tmp_path / "b")
    damage(root, FIRST, "missing")
    with pytest.raises(DataError, match=rf"\(images\): 1 \({FIRST}\.jpg\)") as caught:
        crowdhuman(root).fingerprint()
    assert len(caught.value.problems) == 2
    skipping = [crowdhuman(path, on_bad="skip").fingerprint() for path in (root, whole)]
    assert skipping[0] != skipping[1]


def test_paths_and_memory_are_not_part_of_the_identity() -> None:
    apart = {n for n, f in CrowdHuman.model_fields.items() if f.json_schema_extra == NOT_IDENTITY}
    assert apart == {
        "root",
        "train_odgt",
        "val_odgt",
        "images",
        "train_images",
        "val_images",
        "title",
        "cache_mib",
        "workers",
        "planned_images",
        "planned_classes",
    }


def test_the_papers_size_is_the_default() -> None:
    options = CrowdHuman(root="somewhere/CrowdHuman")
    assert (options.height, options.width, options.label) == (800, 1400, "CrowdHuman")
    assert CrowdHuman(root="x", title="Crowds").label == "Crowds"
    with pytest.raises(ValidationError):
        CrowdHuman.model_validate({"train_odgt": "a"})
