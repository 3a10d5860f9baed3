from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.data.base import Dataset
from detectors.data.loader import train_batches
from detectors.data.mixing import mixup, mosaic
from detectors.data.samples import Samples
from detectors.data.shapes import Shapes
from detectors.structures import Sample, Targets
from detectors.training import Training
from tests.photographs import Photograph, written

Box = tuple[int, int, int, int]
SHAPES = Shapes(size=64, train_images=12, min_objects=3, max_side=40.0)


def painted(height: int, width: int, boxes: Sequence[Box], id_: int = 7) -> Sample:
    """At most three objects; channel k is the mask of object k."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[channel, y1:y2, x1:x2] = 200
    rows = torch.tensor([*boxes], dtype=torch.float32).reshape(-1, 4)
    extent = (float(width), float(height))
    return Sample(id_, image, Targets(rows, torch.arange(len(boxes)), extent), (2.0, 3.0))


@st.composite
def samples(draw: st.DrawFn, most: int = 12) -> Sample:
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
    return painted(height, width, boxes)


def box_of(mask: torch.Tensor) -> list[float]:
    ys, xs = mask.nonzero(as_tuple=True)
    return [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


# Mosaic and mixup ---------------------------------------------------------------------------------


@given(st.lists(samples(), min_size=4, max_size=4))
def test_boxes_of_a_mosaic_cover_the_same_pixels(tiles: list[Sample]) -> None:
    found = mosaic(tiles, (12, 12))
    assert found.image.shape == (3, 24, 24)
    assert (found.image_id, found.scale, found.targets.extent) == (7, (2.0, 3.0), (24, 24))
    boxes, labels = iter(found.targets.boxes.tolist()), iter(found.targets.labels.tolist())
    used = torch.zeros(24, 24, dtype=torch.bool)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, 2)
        cell = torch.zeros(24, 24, dtype=torch.bool)
        cell[12 * row : 12 * row + 12, 12 * column : 12 * column + 12] = True
        high, wide = tile.image.shape[1:]
        part = found.image.permute(1, 2, 0)[cell].reshape(12, 12, 3).permute(2, 0, 1)
        rows = slice(0, high) if row else slice(12 - high, 12)
        columns = slice(0, wide) if column else slice(12 - wide, 12)
        assert torch.equal(part[:, rows, columns], tile.image)
        used[12 * row : 12 * row + 12, 12 * column : 12 * column + 12][rows, columns] = True
        for channel in range(len(tile.targets)):
            assert next(boxes) == box_of((found.image[channel] == 200) & cell)
            assert next(labels) == channel
    assert next(boxes, None) is next(labels, None) is None
    assert (found.image[:, ~used] == 114).all()


@given(samples(), samples(), st.floats(0.1, 0.9))
def test_boxes_of_a_mixup_cover_the_same_pixels(one: Sample, other: Sample, share: float) -> None:
    found = mixup(one, other, share)
    sizes = np.array([each.image.shape for each in (one, other)])
    assert found.image.shape == tuple(sizes.max(axis=0))
    expected = np.zeros(found.image.shape)
    for each, weight in ((one, share), (other, 1 - share)):
        padded = np.full(found.image.shape, 114.0)
        padded[:, : each.image.shape[1], : each.image.shape[2]] = each.image.numpy()
        expected += weight * padded
    assert np.abs(found.image.numpy() - expected).max() <= 0.51
    assert found.targets.extent == (sizes[:, 2].max(), sizes[:, 1].max())
    both = [*one.targets.boxes.tolist(), *other.targets.boxes.tolist()]
    assert found.targets.boxes.tolist() == both
    assert found.targets.labels.tolist() == [*range(len(one.targets)), *range(len(other.targets))]


def test_a_mixup_of_whole_inputs_is_a_whole_input() -> None:
    whole = SHAPES.load("train")[0]
    assert mixup(whole, painted(64, 64, []), 0.5).targets.extent is None


# Of a training ------------------------------------------------------------------------------------


def draws(data: Dataset, training: Training, epoch: int, count: int = 200) -> list[Sample]:
    made = Samples(data, training)
    return [made.draw(i % len(data), epoch, np.random.default_rng(i)) for i in range(count)]


def of(**options: Any) -> Training:
    return Training(augment="none", **options)


@pytest.mark.parametrize("option", ["mosaic", "mixup"])
def test_the_option_is_a_probability(option: str) -> None:
    data = SHAPES.load("train")
    changed = 0
    for number, sample in enumerate(draws(data, of(**{option: 0.5}), 0)):
        changed += not torch.equal(sample.image, data[number % 12].image)
        assert sample.image.shape == (3, 64, 64)
        assert sample.image_id == number % 12
    assert 70 < changed < 130  # 100 expected, standard deviation 7


def test_images_are_mixed_in_the_first_epochs_only() -> None:
    data = SHAPES.load("train")
    training = Training(augment="none", mosaic=1.0, mixup=1.0, mix_until=0.5, epochs=4)
    for epoch, mixed in enumerate((True, True, False, False)):
        for number, sample in enumerate(draws(data, training, epoch, 6)):
            same = torch.equal(sample.image, data[number].image)
            assert same != mixed


CASES: list[tuple[dict[str, float], int]] = [({"mosaic": 1.0}, 4), ({"mixup": 1.0}, 2), ({}, 1)]


def test_mosaic_and_mixup_add_objects() -> None:
    data = SHAPES.load("train")
    mean = sum(len(data[i].targets) for i in range(12)) / 12
    for options, factor in CASES:
        found = draws(data, of(**options), 0)
        assert sum(len(s.targets) for s in found) / 200 == pytest.approx(factor * mean, rel=0.1)


def test_a_mosaic_of_photographs_has_the_size_that_was_drawn(tmp_path: Path) -> None:
    pictures = [
        Photograph(f"p{i}", (160 - 20 * i, 100), (("cat", (10, 20, 50, 60)),)) for i in range(4)
    ]
    data = written("coco", tmp_path, {"train": pictures, "val": pictures[:1]}).load("train")
    training = Training(batch=4, train_sides=(64,), augment="hflip", colour=0.2, mosaic=1.0)
    (batch,) = train_batches(data, training, 0, 0, 0, 1)
    for targets, id_ in zip(batch.targets, batch.image_ids, strict=True):
        width = round((160 - 20 * (id_ - 1)) * 0.64)
        extent = [*(targets.extent or ())]
        assert extent == [width // 2 * 2, 64]
        assert len(targets) == 4
        assert (targets.boxes[:, 2:] <= targets.boxes.new_tensor(extent) + 1e-3).all()
    (again,) = train_batches(data, training, 0, 0, 0, 1)
    assert torch.equal(again.images, batch.images)
