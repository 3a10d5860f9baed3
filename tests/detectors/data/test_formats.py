"""What all formats of photographs have in common: the same data set gives the same samples."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from detectors.data.base import DataError, Dataset, Split
from detectors.data.photo_files import SPLITS
from detectors.data.photos import Photos
from tests.examples import examples
from tests.photographs import (
    CLASSES,
    WRITERS,
    Photograph,
    Xyxy,
    changed,
    image_of,
    save,
    splits,
    written,
)

PIXELS = 1e-9
"""Boxes of YOLO are fractions in decimals, so they are equal to rounding only."""
each_format = pytest.mark.parametrize("name", WRITERS)


def refused(options: Photos, split: Split = "train") -> list[str]:
    with pytest.raises(DataError) as caught:
        options.load(split)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


@each_format
@pytest.mark.parametrize("split", ["train", "val"])
def test_truth_is_what_was_written(tmp_path: Path, name: str, split: Split) -> None:
    data = written(name, tmp_path).load(split)
    photographs = splits()[split]
    assert data.classes == CLASSES
    truths = data.truth()
    assert [t.image_id for t in truths] == [*range(1, len(photographs) + 1)]
    for truth, photograph in zip(truths, photographs, strict=True):
        assert (truth.width, truth.height) == photograph.size
        boxes = torch.tensor([box for _, box in photograph.objects], dtype=torch.float64)
        assert torch.allclose(truth.boxes, boxes.reshape(-1, 4), rtol=0, atol=PIXELS)
        areas = [(x2 - x1) * (y2 - y1) for _, (x1, y1, x2, y2) in photograph.objects]
        assert truth.area.tolist() == pytest.approx(areas)
        assert truth.labels.tolist() == [CLASSES.index(label) for label, _ in photograph.objects]
        assert not truth.crowd.any()


@st.composite
def photographs(draw: st.DrawFn, name: str) -> Photograph:
    """Draw an image with objects of at least 2 pixels; coordinates are multiples of 1/8."""
    width, height = draw(st.integers(8, 40)), draw(st.integers(8, 40))

    def side(limit: int) -> tuple[float, float]:
        low = draw(st.integers(0, 8 * limit - 16))
        return low / 8, draw(st.integers(low + 16, 8 * limit)) / 8

    objects = []
    for _ in range(draw(st.integers(1, 4))):
        (x1, x2), (y1, y2) = side(width), side(height)
        objects.append((draw(st.sampled_from(CLASSES)), (x1, y1, x2, y2)))
    return Photograph(name, (width, height), tuple(objects))


@examples(10)
@given(st.tuples(*map(photographs, ("a1", "b2", "c3"))))
def test_random_data_is_the_same_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, images: tuple[Photograph, ...]
) -> None:
    root = tmp_path_factory.mktemp("formats")
    content = {"train": images[:2], "val": images[2:]}
    for name in WRITERS:
        classes = {"classes": CLASSES} if name == "voc" else {}
        options = written(name, root / name, content, **classes)
        for split, held in content.items():
            data = options.load("train" if split == "train" else "val")
            for truth, photograph in zip(data.truth(), held, strict=True):
                found = [label for label, _ in photograph.objects]
                assert [data.classes[label] for label in truth.labels] == found
                boxes = torch.tensor([box for _, box in photograph.objects], dtype=torch.float64)
                assert torch.allclose(truth.boxes, boxes, rtol=0, atol=PIXELS)


@each_format
@pytest.mark.parametrize("portrait", ["fit", "turn"])
def test_samples_are_those_of_coco(tmp_path: Path, name: str, portrait: str) -> None:
    first = written("coco", tmp_path / "coco", portrait=portrait).load("train")
    second = written(name, tmp_path / "other", portrait=portrait).load("train")
    assert len(first) == len(second)
    for index in range(len(first)):
        one, other = first[index], second[index]
        assert (one.image_id, one.scale) == (other.image_id, other.scale)
        assert torch.equal(one.image, other.image)
        assert torch.allclose(one.targets.boxes, other.targets.boxes)
        assert torch.equal(one.targets.labels, other.targets.labels)
        assert one.targets.extent == other.targets.extent


@each_format
def test_calls_with_equal_options_share_one_copy(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path)
    assert options.load("val") is options.model_copy().load("val")


def assert_same(one: Dataset, other: Dataset) -> None:
    assert len(one) == len(other)
    for index in range(len(one)):
        first, second = one[index], other[index]
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.targets.boxes, second.targets.boxes)


@each_format
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    """The reference is a data set of the image that Pillow turns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned, plain = (written(name, tmp_path / folder) for folder in ("turned", "plain"))
    with Image.open(image_of(tmp_path / "plain", "a2")) as image:
        stored = image.resize((48, 64) if orientation > 4 else (64, 48))
    stored.save(image_of(tmp_path / "turned", "a2"), "PNG", exif=exif)
    with Image.open(image_of(tmp_path / "turned", "a2")) as image:
        upright = ImageOps.exif_transpose(image)
    upright.save(image_of(tmp_path / "plain", "a2"), "PNG")
    data = turned.load("train")
    assert_same(data, plain.load("train"))
    note = f"turned images with EXIF orientation {orientation}: 1 ("
    assert sum(note in each for each in data.notes) == (orientation > 1)


@each_format
@pytest.mark.parametrize("which", ["images", "annotations"])
def test_names_may_be_composed_or_decomposed(tmp_path: Path, name: str, which: str) -> None:
    """As macOS and other systems write letters with accents."""
    data = {k: [replace(p, name=f"\u00e9{p.name}") for p in each] for k, each in splits().items()}
    composed, mixed = (written(name, tmp_path / folder, data) for folder in ("one", "other"))
    for path in (tmp_path / "other").rglob("\u00e9*"):
        if (path.suffix == ".jpg") == (which == "images"):
            path.rename(path.with_name(normalize("NFD", path.name)))
    for split in SPLITS:
        assert_same(composed.load(split), mixed.load(split))


# Wrong input --------------------------------------------------------------------------------------

ON_A2: dict[str, tuple[Xyxy, str]] = {
    "no width": ((4, 6, 4, 36), "boxes without width or height: 1 ("),
    "negative height": ((4, 36, 25, 6), "boxes without width or height: 1 ("),
    "not a number": ((4, float("nan"), 25, 36), "annotations with a non-finite number"),
    "infinite": ((4, 6, float("inf"), 36), ""),
    "outside": ((64, 6, 70, 36), ""),
}


@each_format
@pytest.mark.parametrize("kind", ON_A2)
def test_a_wrong_box_is_refused_or_left_out(tmp_path: Path, name: str, kind: str) -> None:
    box, message = ON_A2[kind]
    data = changed(a2=[("dog", box), ("cat", (1, 1, 9, 9))])
    options = written(name, tmp_path, data)
    (problem,) = refused(options)
    assert message in problem
    assert problem.endswith(", or set on_bad: skip")
    skipping = options.model_copy(update={"on_bad": "skip"}).load("train")
    (note,) = [note for note in skipping.notes if "left out" in note]
    assert message in note
    truth = skipping.truth()[1]
    assert truth.labels.tolist() == [0]
    assert truth.boxes.tolist() == [pytest.approx([1, 1, 9, 9])]


@each_format
def test_a_box_partly_outside_is_clipped(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path, changed(a2=[("dog", (-3, 6, 20, 36))]))
    (problem,) = refused(options)
    assert "boxes more than 1 px out of their image: 1 (" in problem
    data = options.model_copy(update={"on_bad": "skip"}).load("train")
    assert any("clipped boxes more than 1 px out" in note for note in data.notes)
    assert data.truth()[1].boxes.tolist() == [pytest.approx([0, 6, 20, 36])]
    assert data.truth()[1].area.tolist() == pytest.approx([600])


@each_format
def test_a_pixel_of_tolerance(tmp_path: Path, name: str) -> None:
    data = written(name, tmp_path, changed(a2=[("dog", (-0.5, 6, 20, 36))])).load("train")
    assert data.truth()[1].boxes.tolist() == [pytest.approx([-0.5, 6, 20, 36])]


def deleted(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("this is text")


@each_format
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (deleted, "image files missing in "),
        (truncated, "image files unreadable: 1 ("),
        (text, "image files unreadable: 1 ("),
    ],
)
def test_a_bad_image(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], message: str
) -> None:
    options = written(name, tmp_path)
    spoil(image_of(tmp_path, "a2"))
    if name == "yolo" and spoil is deleted:  # images are found in folders, not listed
        assert len(options.load("train")) == 2
        return
    (problem,) = refused(options)
    assert message in problem
    data = options.model_copy(update={"on_bad": "skip"}).load("train")
    assert [t.image_id for t in data.truth()] == [1, 3]
    assert any("annotations of the images left out: 1 (" in note for note in data.notes)


@each_format
def test_all_problems_of_a_split_are_reported_at_once(tmp_path: Path, name: str) -> None:
    objects: list[tuple[str, Xyxy]] = [
        *[("dog", (4, 6, 4, 36))] * 7,
        ("cat", (1, float("nan"), 9, 9)),
        ("hen", (-3, 6, 20, 36)),
    ]
    options = written(name, tmp_path, changed(a2=objects))
    truncated(image_of(tmp_path, "b4"))
    problems = refused(options)
    for wanted in ("width or height: 7 (", ", and 2 more)", "non-finite", "1 px out", "unreadable"):
        assert any(wanted in problem for problem in problems), wanted
    assert len(problems) == 4


@pytest.mark.parametrize("name", [*WRITERS, "crowdhuman"])
def test_an_annotation_file_that_can_not_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = written(name, tmp_path)
    read_bytes, read_text = Path.read_bytes, Path.read_text

    def closed(read: Any) -> Any:
        def opened(path: Path, *given: Any) -> Any:
            if path.stem in ("a1", "train", "lvis_v1_train", "annotation_train"):
                raise PermissionError(13, "Permission denied", str(path))
            return read(path, *given)

        return opened

    monkeypatch.setattr(Path, "read_bytes", closed(read_bytes))
    monkeypatch.setattr(Path, "read_text", closed(read_text))
    (problem,) = refused(options)
    assert "Permission denied" in problem


@each_format
def test_a_missing_root(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path / "a").model_copy(update={"root": str(tmp_path / "nowhere")})
    for use in (lambda: options.load("train"), options.fingerprint):
        with pytest.raises(DataError, match=r"nowhere: no such folder; set `root`") as caught:
            use()
        assert len(caught.value.problems) == 1


@each_format
def test_a_split_without_a_valid_image_is_refused(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path, on_bad="skip")
    for photograph in splits()["train"]:
        text(image_of(tmp_path, photograph.name))
    assert "no image is left to use" in refused(options)[0]
    assert len(options.load("val")) == 2


# Identity -----------------------------------------------------------------------------------------


@each_format
def test_the_fingerprint_depends_on_content_not_on_the_place(tmp_path: Path, name: str) -> None:
    here, there = (written(name, tmp_path / place) for place in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()
    assert len(here.fingerprint()) == 64


@each_format
def test_the_fingerprint_changes_with_the_content(tmp_path: Path, name: str) -> None:
    other = splits()
    other["train"][0], other["train"][1] = Photograph("a1", (40, 30)), other["train"][1]
    fewer = splits()
    del fewer["val"][0]
    prints = {
        written(name, tmp_path / "a").fingerprint(),
        written(name, tmp_path / "b", other).fingerprint(),
        written(name, tmp_path / "c", fewer).fingerprint(),
        written(name, tmp_path / "d", changed(c2=[("hen", (1, 1, 3, 3))])).fingerprint(),
    }
    resized = written(name, tmp_path / "e")
    save(image_of(tmp_path / "e", "b4"), (51, 80))
    assert len({*prints, resized.fingerprint()}) == 5


@each_format
def test_a_repaired_data_set_is_read_again(tmp_path: Path, name: str) -> None:
    options = written(name, tmp_path, changed(a2=[("dog", (4, 6, 4, 36))]))
    refused(options)
    shutil.rmtree(tmp_path)
    written(name, tmp_path)
    assert len(options.load("train")) == 3
