import copy
import hashlib
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from detectors.data import shapes as shapes_module
from detectors.data.base import Dataset
from detectors.data.shapes import Shapes, ShapesDataset, draw
from detectors.data.shapes_draw import render
from detectors.data.shapes_layout import Box, Thing, fill, layout
from tests.examples import examples

GOLDEN = "e75669e353b297b99183ca14fee1a82b8346432acd30f8ca6e525ef298b412e8"


def digest(dataset: Dataset, indices: list[int]) -> str:
    """Hash of pixels, boxes and labels, in the order of indices, whatever the order of drawing."""
    samples = {index: dataset[index] for index in indices}
    digest = hashlib.sha256()
    for index in sorted(samples):
        sample = samples[index]
        for tensor in (sample.image, sample.targets.boxes, sample.targets.labels):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def iou(a: list[float], b: list[float]) -> float:
    """IoU by counting the pixels of integer boxes."""
    pixels_a = {(x, y) for x in range(int(a[0]), int(a[2])) for y in range(int(a[1]), int(a[3]))}
    pixels_b = {(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))}
    return len(pixels_a & pixels_b) / len(pixels_a | pixels_b)


def layouts(options: Shapes, images: int) -> list[list[Thing]]:
    return [layout(options, np.random.default_rng([1, index])) for index in range(images)]


def share_overlapping(images: list[list[Thing]], least: float) -> float:
    """Share of objects that have an IoU above `least` with another one of their image."""
    found = [
        any(other is not thing and fast_iou(thing.box, other.box) > least for other in things)
        for things in images
        for thing in things
    ]
    return sum(found) / len(found)


def fast_iou(a: Box, b: Box) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(0, width) * max(0, height)
    area_a, area_b = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return shared / (area_a + area_b - shared)


@st.composite
def any_options(draw_: st.DrawFn) -> Shapes:
    size = draw_(st.integers(32, 80))
    sides = sorted(draw_(st.tuples(*[st.floats(6, size)] * 2)))
    counts = sorted(draw_(st.tuples(*[st.integers(0, 8)] * 2)))
    return Shapes(
        size=size,
        classes=draw_(st.integers(1, 4)),
        min_side=sides[0],
        max_side=sides[1],
        min_objects=counts[0],
        max_objects=counts[1],
        crowding=draw_(st.floats(0, 1)),
        max_overlap=draw_(st.floats(0, 0.9)),
        clutter=draw_(st.integers(0, 4)),
        noise=draw_(st.floats(0, 0.2)),
        contrast=draw_(st.floats(0.1, 0.5)),
        hue_jitter=draw_(st.floats(0, 1)),
    )


@examples(40)
@given(any_options(), st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_every_image_keeps_the_rules(options: Shapes, seed: int, index: int) -> None:
    sample = draw(options, seed, index)
    boxes, labels = sample.targets.boxes, sample.targets.labels
    assert sample.image.shape == (3, options.size, options.size)
    assert sample.image.dtype == torch.uint8
    assert sample.image_id == index
    assert sample.scale == (1.0, 1.0)
    assert boxes.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert boxes.shape == (len(labels), 4)
    assert len(labels) <= options.max_objects
    assert len(labels) >= min(1, options.min_objects)
    assert all(0 <= label < options.classes for label in labels.tolist())
    assert ((boxes[:, :2] >= 0) & (boxes[:, 2:] <= options.size)).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    rows = boxes.tolist()
    for first, box in enumerate(rows):
        for other in rows[:first]:
            assert iou(box, other) <= options.max_overlap + 1e-12


@examples(25)
@given(any_options(), st.integers(0, 10**6))
def test_objects_stay_visible(options: Shapes, index: int) -> None:
    things = layout(options, np.random.default_rng([1, index]))
    owner = np.full((options.size, options.size), -1)
    for position, thing in enumerate(things):
        owner[thing.mask] = position
    for position, thing in enumerate(things):
        assert (owner == position).sum() >= 0.3 * thing.mask.sum() - 1e-9
        longest = max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
        assert longest <= options.max_side + 1


@pytest.mark.parametrize("index", range(8))
def test_a_box_is_tight_to_what_is_drawn(index: int) -> None:
    options = Shapes(noise=0, contrast=0.5, clutter=0, min_objects=1, max_objects=1)
    rng = np.random.default_rng([3, index])
    things = layout(options, rng)
    without = render(options, [], copy.deepcopy(rng))
    changed = (render(options, things, rng) != without).any(axis=0)
    xs, ys = np.flatnonzero(changed.any(axis=0)), np.flatnonzero(changed.any(axis=1))
    assert things[0].box == (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)


coordinate = st.integers(-3 * 64, 12 * 64)


@examples(40)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9))
def test_fill_is_the_even_odd_rule(corners: list[tuple[int, int]]) -> None:
    size = 8
    mask = fill(np.array(corners) / 64, size)
    exact = [(Fraction(x, 64), Fraction(y, 64)) for x, y in corners]
    edges = list(zip(exact, [*exact[1:], exact[0]], strict=True))
    for row in range(size):
        for column in range(size):
            x, y = column + Fraction(1, 2), row + Fraction(1, 2)
            left = [
                x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                for (x0, y0), (x1, y1) in edges
                if (y0 <= y) != (y1 <= y)
            ]
            assert mask[row, column] == (sum(at <= x for at in left) % 2 == 1)


def test_images_do_not_depend_on_process_or_order() -> None:
    code = (
        "import hashlib; from detectors.data.shapes import Shapes\n"
        "data = Shapes(seed=5).load('train'); h = hashlib.sha256()\n"
        "samples = [data[i] for i in range(6)]\n"
        "for s in samples:\n"
        "    for t in (s.image, s.targets.boxes, s.targets.labels): h.update(t.numpy().tobytes())\n"
        "print(h.hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert digest(Shapes(seed=5).load("train"), [4, 0, 5, 2, 1, 3]) == fresh.stdout.strip()


def test_the_generator_version_goes_up_when_images_change() -> None:
    assert shapes_module.GENERATOR_VERSION == 1
    assert digest(Shapes().load("train"), [0, 1, 2]) == GOLDEN


def test_validation_uses_the_next_seed() -> None:
    val, next_train = Shapes(seed=7).load("val"), Shapes(seed=8).load("train")
    assert digest(val, [0, 1]) == digest(next_train, [0, 1])
    assert digest(val, [0, 1]) != digest(Shapes(seed=7).load("train"), [0, 1])


def test_equal_options_share_one_copy() -> None:
    first, second = Shapes(seed=11).load("val"), Shapes(seed=11).load("val")
    assert first[3] is second[3]
    assert Shapes(seed=12).load("val")[3] is not first[3]


def test_appearance_does_not_move_objects() -> None:
    plain = Shapes().load("train")
    other = Shapes(noise=0.2, contrast=0.2, clutter=0, hue_jitter=0.1).load("train")
    for index in range(10):
        assert torch.equal(plain[index].targets.boxes, other[index].targets.boxes)
        assert not torch.equal(plain[index].image, other[index].image)


def hue_errors(options: Shapes, images: int) -> NDArray[np.float64]:
    """Return hue minus hue of the class, in distances between classes, of the only objects."""
    errors = []
    for index in range(images):
        rng = np.random.default_rng([5, index])
        things = layout(options, rng)
        pixels = render(options, things, rng)[:, things[0].mask].T / 255
        red, green, blue = pixels[pixels.sum(axis=1).argmax()]  # not in a dark stripe
        # rgb = 0.5 + contrast * cos(angle + (0, 1, 2) * 2 pi / 3)
        angle = np.arctan2((blue - green) / np.sqrt(3), red - 0.5)
        turn = angle / (2 * np.pi) - things[0].label / options.classes
        errors.append((turn - np.rint(turn)) * options.classes)
    return np.array(errors)


@pytest.mark.parametrize("jitter", [0.0, 0.15, 0.35])
def test_hues_deviate_from_those_of_the_classes(jitter: float) -> None:
    one = {"min_objects": 1, "max_objects": 1, "noise": 0.0, "clutter": 0, "size": 64}
    options = Shapes.model_validate({**one, "max_side": 40.0, "hue_jitter": jitter})
    errors = hue_errors(options, 300)
    assert errors.mean() == pytest.approx(0, abs=0.06)
    assert errors.std() == pytest.approx(jitter, abs=0.03)


def test_crowding_makes_objects_overlap() -> None:
    apart, some, full = (layouts(Shapes(crowding=c), 80) for c in (0.0, 0.35, 1.0))
    assert share_overlapping(apart, 0.1) + 0.1 < share_overlapping(some, 0.1)
    assert share_overlapping(some, 0.1) + 0.2 < share_overlapping(full, 0.1)
    assert share_overlapping(full, 0.3) > 2 * share_overlapping(apart, 0.3)


def test_seven_of_ten_crowded_objects_take_the_class_of_their_neighbour() -> None:
    pairs = layouts(Shapes(crowding=1, min_objects=2, max_objects=2), 200)
    same = [things[0].label == things[1].label for things in pairs if len(things) == 2]
    assert 0.68 < np.mean(same) < 0.87  # 0.7 + 0.3 / 4, standard deviation 0.03


def test_most_of_an_object_is_inside_the_image() -> None:
    sides = [
        max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
        for things in layouts(Shapes(crowding=1, min_side=40, max_side=40), 100)
        for thing in things
    ]
    assert min(sides) >= 0.7 * 40 - 1
    assert min(sides) < 35  # some are truncated
    assert max(sides) <= 41


def test_the_default_recipe_has_the_statistics_it_was_chosen_for() -> None:
    images = layouts(Shapes(), 300)
    things = [thing for image in images for thing in image]
    sides = [max(t.box[2] - t.box[0], t.box[3] - t.box[1]) for t in things]
    assert 3.8 < len(things) / 300 < 4.2
    assert np.bincount([t.label for t in things]).min() > 0.22 * len(things)
    p5, p50, p95 = np.percentile(sides, [5, 50, 95])
    assert (9 <= p5 <= 12, 18 <= p50 <= 24, 43 <= p95 <= 53) == (True, True, True)
    assert 0.05 < share_overlapping(images, 0.3) < 0.11
    assert 0.002 < share_overlapping(images, 0.5) < 0.02


def test_an_image_may_be_empty() -> None:
    data = ShapesDataset(Shapes(min_objects=0, max_objects=0, val_images=2), "val")
    assert len(data) == 2
    assert data[1].targets.boxes.shape == (0, 4)
    truth = data.truth()[1]
    assert truth.boxes.shape == (0, 4)
    assert [len(t) for t in (truth.labels, truth.crowd, truth.area)] == [0, 0, 0]


def test_ground_truth_equals_the_targets_of_samples() -> None:
    data = Shapes(val_images=5, classes=2).load("val")
    assert data.classes == ("ellipse", "rectangle")
    assert data.notes == ()
    for index, truth in enumerate(data.truth()):
        boxes = data[index].targets.boxes
        assert truth.image_id == index
        assert (truth.width, truth.height) == (96, 96)
        assert torch.equal(truth.boxes, boxes)
        assert torch.equal(truth.labels, data[index].targets.labels)
        assert not truth.crowd.any()
        sides = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes.tolist()]
        assert truth.area.tolist() == pytest.approx(sides)


@pytest.mark.parametrize("index", [-1, 1000])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match="of 1000"):
        Shapes().load("train")[index]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_objects": 5, "max_objects": 3}, r"min_objects \(5\).*max_objects \(3\)"),
        ({"min_side": 40.0, "max_side": 20.0}, r"min_side \(40.0\).*max_side \(20.0\)"),
        ({"size": 48}, r"max_side \(56.0\).*size \(48\)"),
        ({"classes": 5}, "classes"),
        ({"noise": float("nan")}, "noise"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_invalid_options_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Shapes.model_validate(wrong)


CHANGES = {
    "size": 64, "train_images": 10, "val_images": 10, "classes": 3, "min_objects": 1,
    "max_objects": 7, "min_side": 8, "max_side": 40, "crowding": 0.5, "max_overlap": 0.4,
    "clutter": 0, "noise": 0.1, "contrast": 0.3, "hue_jitter": 0.1, "seed": 2,
}  # fmt: skip


def test_the_fingerprint_depends_on_the_meaning_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(CHANGES) == set(Shapes.model_fields) - {"name"}
    prints = {Shapes.model_validate({name: value}).fingerprint() for name, value in CHANGES.items()}
    assert len(prints | {Shapes().fingerprint()}) == len(CHANGES) + 1
    assert (
        Shapes(seed=1).fingerprint()
        == Shapes(noise=0.03).fingerprint()
        == (Shapes.model_validate({"max_side": 56}).fingerprint())
    )
    before = Shapes().fingerprint()
    monkeypatch.setattr(shapes_module, "GENERATOR_VERSION", 99)
    assert Shapes().fingerprint() != before
