import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from detectors.data.rescaling import draw_view, draw_window, padded, seen, size_of, unpadded
from detectors.data.sizes import turned_size
from detectors.data.views import View, Window
from detectors.structures import Sample, Targets
from detectors.training import Training
from tests.examples import examples


def painted(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> Sample:
    """At most three objects; channel k is the mask of object k."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[channel, y1:y2, x1:x2] = 255
    targets = Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes))
    )
    return Sample(7, image, targets, (2.0, 3.0))


def noise(height: int, width: int) -> Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return Sample(1, torch.from_numpy(pixels), none, (1.0, 1.0))


def rescaled(sample: Sample, training: Training, rng: np.random.Generator) -> Sample:
    return seen(sample, draw_view(size_of(sample), training, rng))


def resized(sample: Sample, shorter: int, longer: float) -> Sample:
    size = size_of(sample)
    return seen(sample, View.whole(size, turned_size(*size, shorter, longer)))


def cropped(sample: Sample, window: Window) -> Sample:
    x1, y1, x2, y2 = window
    return seen(sample, View(size_of(sample), size_of(sample), window, (x2 - x1, y2 - y1)))


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
    return painted(height, width, boxes)


# Sizes -------------------------------------------------------------------------------------------


@given(*[st.integers(1, 3000)] * 2, st.integers(32, 1400), st.integers(32, 2000))
def test_the_shorter_side_is_reached_unless_the_longer_is_too_long(
    width: int, height: int, shorter: int, longer: int
) -> None:
    new = turned_size(width, height, shorter, longer)
    assert new == turned_size(height, width, shorter, longer)[::-1]
    ratio = max(width, height) / min(width, height)
    if ratio * shorter <= longer:
        assert min(new) == shorter
        assert max(new) == pytest.approx(shorter * ratio, abs=0.5 + 1e-6)
    else:
        assert max(new) == longer
        assert min(new) == pytest.approx(max(1, longer / ratio), abs=0.5 + 1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (1067, 800)), ((480, 640), (800, 1067)), ((640, 320), (1333, 666))],
)
def test_sizes_of_common_photographs(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert turned_size(*size, 800, 1333) == expected


# Resizing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "side"), [(60, 80, 33), (60, 80, 97), (75, 41, 40)])
def test_pixels_are_those_of_another_library(height: int, width: int, side: int) -> None:
    sample = noise(height, width)
    after = resized(sample, side, math.inf)
    size = turned_size(width, height, side, math.inf)
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(int)
    found = after.image.permute(1, 2, 0).numpy().astype(int)
    assert after.image.dtype == torch.uint8
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


@examples(30)
@given(samples(), st.integers(32, 90), st.integers(40, 120))
def test_boxes_and_scale_follow_the_pixels(sample: Sample, shorter: int, longer: int) -> None:
    after = resized(sample, shorter, longer)
    height, width = sample.image.shape[1:]
    new_height, new_width = after.image.shape[1:]
    x, y = new_width / width, new_height / height
    assert after.scale == pytest.approx((2 * x, 3 * y))
    assert after.image_id == 7
    assert after.targets.labels.tolist() == sample.targets.labels.tolist()
    assert after.targets.boxes.shape == sample.targets.boxes.shape
    for before, box in zip(
        sample.targets.boxes.tolist(), after.targets.boxes.tolist(), strict=True
    ):
        assert box == pytest.approx([v * f for v, f in zip(before, (x, y, x, y), strict=True)])


@pytest.mark.parametrize("side", [50, 150])
def test_a_bright_block_lands_on_its_box(side: int) -> None:
    after = resized(painted(100, 120, [(20, 30, 60, 90)]), side, math.inf)
    ys, xs = (after.image[0] > 127).nonzero(as_tuple=True)
    seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert after.targets.boxes[0].tolist() == pytest.approx([float(v) for v in seen], abs=1)


def test_the_same_size_is_the_same_image() -> None:
    sample = noise(40, 60)
    assert torch.equal(resized(sample, 40, 1333).image, sample.image)


# Cropping ----------------------------------------------------------------------------------------


@given(samples(), st.data())
def test_a_window_shows_what_is_inside(sample: Sample, data: st.DataObject) -> None:
    height, width = sample.image.shape[1:]
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    before = sample.targets.boxes.clone()
    after = cropped(sample, (x1, y1, x2, y2))
    expected = {}
    for label in range(len(before)):
        ys, xs = sample.image[label, y1:y2, x1:x2].nonzero(as_tuple=True)
        if len(ys):
            seen = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            expected[label] = [float(v) for v in seen]
    assert dict(zip(after.targets.labels.tolist(), after.targets.boxes.tolist(), strict=True)) == (
        expected
    )
    assert torch.equal(after.image, sample.image[:, y1:y2, x1:x2])
    assert (after.image_id, after.scale) == (7, (2.0, 3.0))
    assert torch.equal(sample.targets.boxes, before)


def test_a_sliver_of_a_box_is_dropped() -> None:
    targets = Targets(torch.tensor([[2.0, 0, 10.0001, 8], [2, 0, 11, 8]]), torch.tensor([0, 1]))
    sample = Sample(1, torch.zeros(3, 8, 20, dtype=torch.uint8), targets, (1.0, 1.0))
    after = cropped(sample, (10, 0, 20, 8))
    assert after.targets.labels.tolist() == [1]
    assert after.targets.boxes.tolist() == [[0, 0, 1, 8]]


@pytest.mark.parametrize(("height", "width"), [(400, 533), (600, 800), (400, 384), (900, 500)])
def test_windows_reach_every_size_and_position_allowed(height: int, width: int) -> None:
    drawn = []
    for seed in range(300):
        left, top, right, bottom = draw_window((width, height), np.random.default_rng(seed))
        high, wide = bottom - top, right - left
        assert 384 <= high <= min(height, 600)
        assert 384 <= wide <= min(width, 600)
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        drawn.append((high, wide, top / max(1, height - high), left / max(1, width - wide)))
    low, high_ = np.min(drawn, axis=0), np.max(drawn, axis=0)
    assert low[0] < 384 + 0.05 * (min(height, 600) - 384) + 1
    assert high_[1] > min(width, 600) - 0.05 * (min(width, 600) - 384) - 1
    assert low[2] < 0.05
    assert high_[2] > 0.95


# Padding -----------------------------------------------------------------------------------------


@given(samples())
def test_padding_is_at_the_right_and_bottom_and_can_be_removed(sample: Sample) -> None:
    after = padded(sample)
    height, width = sample.image.shape[1:]
    for side, before in zip(after.image.shape[1:], (height, width), strict=True):
        assert side % 32 == 0
        assert 0 <= side - before < 32
    assert (after.image[:, height:] == 114).all()
    assert (after.image[:, :, width:] == 114).all()
    assert after.targets is sample.targets
    original = (round(width * 7 / 3), round(height * 7 / 3))
    scale = (width / original[0], height / original[1])
    extent = (original[0] * scale[0], original[1] * scale[1])  # not exactly width and height
    bare = unpadded(Sample(1, after.image, replace(after.targets, extent=extent), scale))
    assert torch.equal(bare.image, sample.image)
    assert bare.scale == scale


# All together ------------------------------------------------------------------------------------


def shorter_sides(
    training: Training, count: int = 200, size: tuple[int, int] = (48, 64)
) -> set[int]:
    drawn = (rescaled(noise(*size), training, np.random.default_rng(i)) for i in range(count))
    return {min(sample.image.shape[1:]) for sample in drawn}


def test_every_side_of_the_list_is_drawn_and_no_other() -> None:
    assert shorter_sides(Training(train_sides=(40, 33, 64))) == {33, 40, 64}


def test_every_side_of_a_range_is_drawn() -> None:
    training = Training(train_sides=(40, 44), side_range=True)
    assert shorter_sides(training) == {40, 41, 42, 43, 44}


def test_the_longer_side_is_limited() -> None:
    training = Training(train_sides=(64,), train_max_side=80)
    after = rescaled(noise(20, 40), training, np.random.default_rng(0))
    assert after.image.shape == (3, 40, 80)


def test_half_of_the_images_are_cropped() -> None:
    training = Training(train_sides=(48,), crop=True)
    sample = painted(48, 64, [(0, 0, 64, 48)])
    count, sizes = 0, set()
    for seed in range(120):
        after = rescaled(sample, training, np.random.default_rng(seed))
        height, width = after.image.shape[1:]
        assert min(height, width) == 48
        # The one object fills the image, so it fills every window too, up to the last bit.
        assert after.targets.boxes.tolist() == [pytest.approx([0, 0, width, height], abs=1e-3)]
        count += after.scale == (2.0, 3.0)
        sizes.add((height, width))
    assert 40 < count < 80  # 60 expected, standard deviation 5.5
    assert len(sizes) > 20


@pytest.mark.parametrize(("height", "width"), [(1, 640), (640, 1), (20, 700)])
def test_images_of_an_extreme_aspect_are_not_cropped(height: int, width: int) -> None:
    """A crop of the first would need an image of 400 x 256,000 pixels."""
    training = Training(train_sides=(64,), train_max_side=640, crop=True)
    for seed in range(20):
        after = rescaled(noise(height, width), training, np.random.default_rng(seed))
        assert torch.equal(after.image, resized(noise(height, width), 64, 640).image)


def test_random_choices_depend_only_on_the_generator() -> None:
    training = Training(train_sides=(40, 80), crop=True)
    for seed in range(5):
        first, second = (
            rescaled(noise(48, 64), training, np.random.default_rng(seed)) for _ in range(2)
        )
        assert torch.equal(first.image, second.image)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_sides": [640, 800, 900], "side_range": True}, "two train_sides.*900"),
        ({"train_sides": [800, 640], "side_range": True}, "larger one last"),
        ({"side_range": True}, "two train_sides"),
        ({"crop": True}, "crop needs train_sides"),
        ({"train_sides": [16]}, "train_sides.0"),
        ({"train_sides": ["640"]}, "train_sides.0"),
        ({"train_sides": 640}, "train_sides"),
    ],
)
def test_invalid_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Training.model_validate(wrong)


def test_a_list_of_a_spec_becomes_sides() -> None:
    assert Training.model_validate({"train_sides": [640, 800]}).train_sides == (640, 800)


def test_the_extent_is_that_of_the_image_without_padding() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    large = resized(Sample(1, image, none, (1.0, 1.0)), 80, 1000)
    cut = cropped(large, (10, 20, 70, 50))
    found = [sample.targets.extent for sample in (large, padded(large), cut)]
    assert found == [(120, 80), (120, 80), (60, 30)]
