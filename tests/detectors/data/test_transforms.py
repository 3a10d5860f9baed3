from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from detectors.data.transforms import (
    AUGMENTATIONS,
    flip_horizontal,
    flip_vertical,
    random_colours,
    random_dihedral,
    random_mirror,
    recoloured,
    transpose,
)
from detectors.structures import Sample, Targets
from detectors.training import Training
from tests.examples import examples

Transform = Callable[[Sample], Sample]


def painted(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> Sample:
    """At most three objects; channel k is the mask of object k."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[channel, y1:y2, x1:x2] = 255
    targets = Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes))
    )
    return Sample(7, image, targets, (2.0, 3.0))


def boxes_of(image: torch.Tensor, count: int) -> list[list[float]]:
    """The boxes of the masks, read from the pixels."""
    found = []
    for channel in image[:count]:
        ys, xs = channel.nonzero(as_tuple=True)
        found.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return [[float(v) for v in box] for box in found]


@st.composite
def samples(draw: st.DrawFn, *, square: bool = False) -> Sample:
    height = draw(st.integers(1, 12))
    width = height if square else draw(st.integers(1, 12))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
    return painted(height, width, boxes)


def check(before: Sample, after: Sample) -> None:
    assert after.targets.boxes.tolist() == boxes_of(after.image, len(before.targets))
    assert after.targets.boxes.shape == before.targets.boxes.shape
    assert after.targets.labels is before.targets.labels
    assert after.image_id == 7


@given(samples())
def test_horizontal(sample: Sample) -> None:
    after = flip_horizontal(sample)
    check(sample, after)
    assert np.array_equal(after.image.numpy(), np.flip(sample.image.numpy(), 2))
    assert after.scale == (2.0, 3.0)


@given(samples())
def test_vertical(sample: Sample) -> None:
    after = flip_vertical(sample)
    check(sample, after)
    assert np.array_equal(after.image.numpy(), np.flip(sample.image.numpy(), 1))
    assert after.scale == (2.0, 3.0)


@given(samples(square=True))
def test_transpose(sample: Sample) -> None:
    after = transpose(sample)
    check(sample, after)
    assert np.array_equal(after.image.numpy(), sample.image.numpy().transpose(0, 2, 1))
    assert after.scale == (3.0, 2.0)


@pytest.mark.parametrize("transform", [flip_horizontal, flip_vertical, transpose])
def test_applied_twice_it_changes_nothing_and_the_input_is_kept(transform: Transform) -> None:
    sample = painted(6, 6, [(1, 2, 3, 6)])
    image, boxes = sample.image.clone(), sample.targets.boxes.clone()
    twice = transform(transform(sample))
    for result in (sample, twice):
        assert torch.equal(result.image, image)
        assert torch.equal(result.targets.boxes, boxes)
        assert result.scale == (2.0, 3.0)


def test_only_a_square_image_can_be_transposed() -> None:
    with pytest.raises(ValueError, match="4 x 6"):
        transpose(painted(4, 6, []))


@given(samples(), st.integers(0, 2**32))
def test_augmentations_keep_boxes_true_and_sizes_equal(sample: Sample, seed: int) -> None:
    for augment in AUGMENTATIONS.values():
        after = augment(sample, np.random.default_rng(seed))
        check(sample, after)
        assert after.image.shape == sample.image.shape


def test_dihedral_reaches_all_eight_orientations_equally() -> None:
    sample = painted(5, 5, [(0, 1, 1, 2)])
    seen: dict[bytes, int] = {}
    for seed in range(800):
        pixels = (
            random_dihedral(sample, np.random.default_rng(seed))
            .image.contiguous()
            .numpy()
            .tobytes()
        )
        seen[pixels] = seen.get(pixels, 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 60  # 100 expected, standard deviation 9.4


def test_the_flips_of_a_generator_do_not_depend_on_the_shape() -> None:
    for seed in range(30):
        first, second = np.random.default_rng(seed), np.random.default_rng(seed)
        random_dihedral(painted(5, 5, []), first)
        random_dihedral(painted(5, 7, []), second)
        assert first.random() == second.random()


def test_mirror_is_drawn_for_half_of_the_images() -> None:
    sample = painted(5, 5, [(0, 1, 1, 2)])
    mirrored, count = flip_horizontal(sample).image, 0
    for seed in range(800):
        after = random_mirror(sample, np.random.default_rng(seed)).image
        count += torch.equal(after, mirrored)
        assert torch.equal(after, mirrored) or torch.equal(after, sample.image)
    assert 340 < count < 460  # 400 expected, standard deviation 14


def test_dihedral_is_the_draw_of_three_numbers() -> None:
    sample = painted(5, 5, [(0, 1, 1, 2)])
    for seed in range(30):
        expected = sample
        draws = np.random.default_rng(seed).random(3) < 0.5
        for draw, flip in zip(draws, (flip_horizontal, flip_vertical, transpose), strict=True):
            expected = flip(expected) if draw else expected
        found = random_dihedral(sample, np.random.default_rng(seed))
        assert torch.equal(found.image, expected.image)


def test_every_choice_of_a_training_is_there() -> None:
    choices = Training.model_fields["augment"].annotation
    assert set(get_args(choices)) == set(AUGMENTATIONS)


def test_the_extent_stays_with_the_image_and_turns_with_it() -> None:
    """Of a 30 x 20 image padded to 32 x 32."""
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (30.0, 20.0))
    padded = Sample(1, torch.zeros(3, 32, 32, dtype=torch.uint8), targets, (1.0, 1.0))
    assert flip_horizontal(padded).targets.extent == (30.0, 20.0)
    assert flip_vertical(padded).targets.extent == (30.0, 20.0)
    assert transpose(padded).targets.extent == (20.0, 30.0)


# Colours ------------------------------------------------------------------------------------------


@examples(40)
@given(*[st.floats(0.5, 1.5)] * 3, st.integers(0, 99))
def test_colours_are_those_of_another_library(
    brightness: float, contrast: float, saturation: float, seed: int
) -> None:
    """Pillow rounds after each step, and clips, so the pixels are of a middle range."""
    pixels = np.random.default_rng(seed).integers(90, 130, (3, 9, 7), dtype=np.uint8)
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    for kind, factor in (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    ):
        picture = kind(picture).enhance(factor)
    found = recoloured(torch.from_numpy(pixels), brightness, contrast, saturation)
    assert found.dtype == torch.uint8
    expected = np.asarray(picture).transpose(2, 0, 1).astype(int)
    assert np.abs(found.numpy().astype(int) - expected).max() <= 4


def test_factors_of_one_change_nothing_and_pixels_are_clipped() -> None:
    pixels = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
    assert torch.equal(recoloured(pixels, 1, 1, 1), pixels)
    assert recoloured(pixels, 5, 1, 1).max() == 255
    grey = recoloured(pixels, 1, 1, 0)
    assert torch.equal(grey[0], grey[1])
    assert len(set(recoloured(pixels, 1, 0, 1).flatten().tolist())) == 1


@given(samples(), st.integers(0, 2**32), st.floats(0.01, 0.9))
def test_random_colours_keep_boxes_and_padding(sample: Sample, seed: int, strength: float) -> None:
    height, width = sample.image.shape[1:]
    extent = (float(max(1, width - 2)), float(max(1, height - 1)))
    before = replace(sample, targets=replace(sample.targets, extent=extent))
    kept = before.image.clone()
    after = random_colours(before, strength, np.random.default_rng(seed))
    assert after.targets is before.targets
    assert torch.equal(before.image, kept)
    wide, high = map(round, extent)
    assert torch.equal(after.image[:, high:], kept[:, high:])
    assert torch.equal(after.image[:, :, wide:], kept[:, :, wide:])
    factors = np.random.default_rng(seed).uniform(1 - strength, 1 + strength, 3)
    expected = recoloured(kept[:, :high, :wide], *factors.tolist())
    assert torch.equal(after.image[:, :high, :wide], expected)
