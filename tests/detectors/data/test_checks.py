"""Checks of whole splits: in which form boxes are written, and whether there are objects."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors.data.checks import corners_for_centres, object_problems, other_form
from detectors.data.entries import Box, Entries, Image
from tests.examples import examples

Floats = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)


def sound(seed: int, count: int, beyond: float = 0.0) -> tuple[Floats, Floats]:
    """Draw xywh boxes anywhere in images of 8 to 2000 pixels.

    beyond: by what part of their sides boxes may extend beyond the image, on any side.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 2000, (count, 2)).astype(np.float64)
    extents = np.maximum(1.0, sizes * rng.uniform(0, 1, (count, 2)) ** 2)
    low = rng.uniform(0, 1, (count, 2)) * (sizes - extents)
    shift = extents * rng.uniform(-beyond, beyond, (count, 2))
    return np.hstack([low + shift, extents]), sizes


def corners(boxes: Floats) -> Floats:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def centred(boxes: Floats) -> Floats:
    return np.hstack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]])


def normalised(boxes: Floats, sizes: Floats) -> Floats:
    return boxes / np.tile(sizes, 2)


@examples(200)
@given(SEEDS, st.integers(0, 300))
def test_sound_boxes_are_accepted(seed: int, count: int) -> None:
    assert other_form(*sound(seed, count)) is None


@examples(200)
@given(SEEDS, st.integers(10, 300), st.sampled_from([0.2, 0.5, 0.9]))
def test_boxes_of_partly_visible_objects_are_accepted(seed: int, count: int, beyond: float) -> None:
    assert other_form(*sound(seed, count, beyond)) is None


@pytest.mark.parametrize("beyond", [0, 1, 4])
def test_boxes_that_frame_the_whole_image_are_accepted(beyond: int) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 600, (50, 2)).astype(np.float64)
    boxes = np.hstack([rng.uniform(0, 5, (50, 2)), sizes - 5 + beyond])
    assert other_form(boxes, sizes) is None


@examples(200)
@given(SEEDS, st.integers(1, 300), st.booleans())
def test_normalised_boxes_are_recognised(seed: int, count: int, centres: bool) -> None:
    boxes, sizes = sound(seed, count)
    written = normalised(centred(boxes) if centres else boxes, sizes)
    text = other_form(written, sizes)
    assert text is not None
    assert text.startswith(f"the {count} boxes look normalised: ")
    assert "multiply x and width by the width of the image" in text
    outside = (written[:, :2] + written[:, 2:] > 1.01).any()
    assert ("the centre as in YOLO's" in text) or not (centres and outside)


@pytest.mark.parametrize(("side", "sound"), [(7, True), (8, False), (400, False)])
def test_boxes_of_one_pixel_are_accepted_in_images_of_few_pixels(side: int, sound: bool) -> None:
    boxes = np.array([[0.0, 0, 1, 1], [0, 0, 0.5, 1]])
    assert (other_form(boxes, np.full((2, 2), float(side))) is None) is sound


def test_one_box_in_pixels_shows_that_none_is_normalised() -> None:
    boxes, sizes = sound(0, 50)
    written = normalised(boxes, sizes)
    written[17] = [10, 10, 5, 5]
    assert other_form(written, sizes) is None


@examples(200)
@given(SEEDS, st.integers(50, 300))
def test_corners_are_recognised(seed: int, count: int) -> None:
    boxes, sizes = sound(seed, count)
    text = other_form(corners(boxes), sizes)
    assert text is not None
    assert text.startswith(f"the {count} boxes look like corners (x1, y1, x2, y2)")
    assert "x2 - x1" in text


def test_a_few_wrong_corners_make_no_difference() -> None:
    boxes, sizes = sound(0, 100)
    written = corners(boxes)
    written[:2] = [[50, 50, 10, 10], [-9, 3, 5, 4]]
    written[2:4] = [[float("nan"), 1.0, 2.0, 3.0], [4.0, 4.0, 0.0, 0.0]]
    assert "look like corners" in (other_form(written, sizes) or "")


@examples(200)
@given(SEEDS, st.integers(100, 300))
def test_centres_are_recognised(seed: int, count: int) -> None:
    boxes, sizes = sound(seed, count)
    text = other_form(centred(boxes), sizes)
    assert text is not None
    assert text.startswith(f"the {count} boxes look like centres (centre x, centre y, ")
    assert "subtract half of the width from x" in text


@examples(200)
@given(SEEDS, st.integers(60, 300))
def test_corners_for_centres_are_recognised(seed: int, count: int) -> None:
    boxes, sizes = sound(seed, count)
    assert corners_for_centres(centred(boxes), sizes) is None
    text = corners_for_centres(corners(boxes), sizes)
    assert text is not None
    assert text.startswith(f"the {count} boxes look like corners (x1, y1, x2, y2), not centre x, ")


@examples(200)
@given(SEEDS, st.integers(10, 300), st.sampled_from([0.2, 0.5, 0.9]))
def test_centres_of_partly_visible_objects_are_accepted(
    seed: int, count: int, beyond: float
) -> None:
    boxes, sizes = sound(seed, count, beyond)
    assert corners_for_centres(centred(boxes), sizes) is None


@pytest.mark.parametrize("rows", [[], [[1.0, 1.0, 0.0, 0.0]], [[np.nan, 0.0, 1.0, 1.0]]])
def test_boxes_without_an_extent_have_no_form(rows: list[list[float]]) -> None:
    boxes = np.array(rows).reshape(-1, 4)
    assert other_form(boxes, np.full((len(boxes), 2), 64.0)) is None


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations_in_each_form(bccd: Path, split: str) -> None:
    content = json.loads((bccd / f"{split}.json").read_text())
    size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    boxes = np.array([each["bbox"] for each in content["annotations"]], dtype=np.float64)
    sizes = np.array([size[each["image_id"]] for each in content["annotations"]], dtype=np.float64)
    assert other_form(boxes, sizes) is corners_for_centres(centred(boxes), sizes) is None
    assert "corners" in (other_form(corners(boxes), sizes) or "")
    assert "corners" in (corners_for_centres(corners(boxes), sizes) or "")
    assert "centres" in (other_form(centred(boxes), sizes) or "")
    for written in (boxes, centred(boxes)):
        assert "normalised" in (other_form(normalised(written, sizes), sizes) or "")


# Objects ------------------------------------------------------------------------------------------


def images(*objects: tuple[float, bool]) -> Entries:
    """Build an image without objects, and one for each pair of an area and a crowd flag."""
    boxes = [Box("", (1.0, 1.0, 9.0, 9.0), area, 0, crowd) for area, crowd in objects]
    single = (Image("1", 1, (64, 64), [box]) for box in boxes)
    return Entries.of([Image("0", 0, (64, 64)), *single])


@pytest.mark.parametrize(
    ("objects", "train", "val"),
    [
        (
            [],
            "annotations: 0): nothing to train on",
            "annotations: 0): AP is undefined",
        ),
        (
            [(64, True)] * 3,
            "(images: 4, annotations: 3, all of them crowd regions): nothing",
            "): AP is undefined",
        ),
        ([(64, True), (64, False)], "", ""),
        ([(1e10, False)], "", ""),
        ([(2e10, False), (64, True)], "", "areas of all objects (1) are above 1e10 square pixels"),
        ([(2e10, False), (64, False)], "", ""),
    ],
)
def test_a_split_needs_objects(objects: list[tuple[float, bool]], train: str, val: str) -> None:
    for split, expected in (("train", train), ("val", val)):
        found = object_problems(images(*objects), split)  # type: ignore[arg-type]
        assert len(found) == bool(expected)
        assert expected in "".join(found)
