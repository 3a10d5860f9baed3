import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.evaluation import bootstrap, curves
from detectors.evaluation.bootstrap import (
    DetectionSets,
    Replicates,
    draws,
    interval,
    replicates,
)
from detectors.evaluation.matches import Matches
from detectors.evaluation.matching import coco_matches
from tests.detectors.evaluation import cases
from tests.examples import examples

SIDE = 10.0
Box = tuple[float, float, float, float]
"""x, y, width, height."""
Object = tuple[Box, int, bool]
"""Box, label, and whether it is a crowd region."""
Detection = tuple[Box, int, float]
"""Box, label, score."""


@dataclass(frozen=True)
class Image:
    """The objects and the detections of one image."""

    objects: list[Object] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)


def random_images(rng: np.random.Generator, images: int, classes: int) -> list[Image]:
    """Draw images with objects and detections; many have none.

    Scores are multiples of 0.05, so they are equal across images; within an image they differ.
    """
    made = []
    for _ in range(images):
        objects = [random_object(rng, classes) for _ in range(rng.choice([0, 1, 3]))]
        found = [(shifted(rng, box), label) for box, label, _ in objects for _ in range(2)]
        found += [random_object(rng, classes)[:2] for _ in range(rng.integers(3))]
        scores = rng.permutation(np.arange(1, 20) / 20)[: len(found)].tolist()
        detections = [(*each, score) for each, score in zip(found, scores, strict=True)]
        made.append(Image(objects, [each for each in detections if rng.random() < 0.8]))
    return made


def random_object(rng: np.random.Generator, classes: int) -> Object:
    x, y = (rng.integers(0, 4, 2) * SIDE).tolist()
    return (x, y, SIDE, SIDE), int(rng.integers(classes)), bool(rng.random() < 0.15)


def shifted(rng: np.random.Generator, box: Box) -> Box:
    return (box[0] + float(rng.choice([0, 0.5, 2, 4])), *box[1:])


def annotations(rows: Sequence[tuple[int, Object | Detection]]) -> list[dict[str, Any]]:
    """Build COCO annotations or results of objects or detections with their image ids."""
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": label,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": int(last) if isinstance(last, bool) else 0,
            "score": last,
        }
        for number, (image_id, (box, label, last)) in enumerate(rows, start=1)
    ]


def evaluated(images: Sequence[Image], classes: int) -> COCOeval:
    """Evaluate images with pycocotools, with ids in order and without ranges of area."""
    numbered = list(enumerate(images, start=1))
    objects = annotations([(i, each) for i, image in numbered for each in image.objects])
    detections = annotations([(i, each) for i, image in numbered for each in image.detections])
    with contextlib.redirect_stdout(io.StringIO()):
        both = [coco(len(images), classes, rows) for rows in (objects, detections)]
        evaluator = COCOeval(*both, "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [100]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def coco(images: int, classes: int, rows: list[dict[str, Any]]) -> COCO:
    made = COCO()
    made.dataset = {
        "images": [{"id": i + 1, "width": 50, "height": 50} for i in range(images)],
        "categories": [{"id": k, "name": str(k)} for k in range(classes)],
        "annotations": rows,
    }
    made.createIndex()
    return made


def ap_of(evaluator: COCOeval) -> float:
    """Compute the AP in percent points; NaN without objects."""
    precision = evaluator.eval["precision"]
    return float(100 * precision[precision > -1].mean() if (precision > -1).any() else np.nan)


def matches_of(images: Sequence[Image], classes: int) -> Matches:
    """Read the matches of detections and objects from pycocotools."""
    evaluator = evaluated(images, classes)
    parts = [
        (i, k, each)
        for k in range(classes)
        for i in range(len(images))
        if (each := evaluator.evalImgs[k * len(images) + i]) is not None
    ]
    counts = [len(each["dtScores"]) for _, _, each in parts]
    none = np.zeros((10, 0), dtype=bool)
    ignored = np.hstack([none, *(each["dtIgnore"].astype(bool) for _, _, each in parts)])
    matched = np.hstack([none, *(each["dtMatches"] > 0 for _, _, each in parts)])
    objects = [
        (i, label)
        for i, image in enumerate(images)
        for _, label, crowd in image.objects
        if not crowd
    ]
    columns = np.array(objects, dtype=np.int64).reshape(-1, 2).T
    return Matches(
        images=len(images),
        classes=classes,
        image=np.repeat(np.array([i for i, _, _ in parts], dtype=np.int64), counts),
        label=np.repeat(np.array([k for _, k, _ in parts], dtype=np.int64), counts),
        score=np.array([score for _, _, each in parts for score in each["dtScores"]], dtype=float),
        hit=matched & ~ignored,
        ignored=ignored,
        object_image=columns[0],
        object_label=columns[1],
    )


def synthetic(rng: np.random.Generator, images: int, quality: float) -> Matches:
    """Draw matches of one class: an object is found with probability `quality`.

    There is one wrong detection per object.
    """
    objects = rng.poisson(2, images)
    image = np.repeat(np.arange(images), objects)
    found = rng.random(len(image)) < quality
    rows = np.concatenate([image[found], image])
    right = np.arange(len(rows)) < found.sum()
    order = np.argsort(rows, kind="stable")
    score = np.where(right, rng.beta(3, 2, len(rows)), rng.beta(2, 3, len(rows)))
    hit = np.tile(right[order], (2, 1))
    zeros = np.zeros(len(rows), dtype=np.int64)
    label = np.zeros(len(image), dtype=np.int64)
    return Matches(
        images, 1, rows[order], zeros, score[order], hit, np.zeros_like(hit), image, label
    )


CASES = [(seed, 1 + seed % 7, (1, 2, 4)[seed % 3]) for seed in range(14)]


@pytest.mark.parametrize(("seed", "images", "classes"), CASES)
def test_each_image_once_is_the_data_set(
    monkeypatch: pytest.MonkeyPatch, seed: int, images: int, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    made = random_images(rng, images, classes)
    made[0].objects.append(((0, 0, SIDE, SIDE), 0, False))
    matches = matches_of(made, classes)
    monkeypatch.setattr(bootstrap, "draws", lambda *_: [np.ones(images, dtype=np.int64)])
    found = replicates(matches, matches, 1)
    assert found.ap == found.ap_nms == pytest.approx(ap_of(evaluated(made, classes)), abs=1e-9)


def test_ties_within_an_image_are_broken_by_order() -> None:
    box = (0, 0, SIDE, SIDE)
    wrong = (30, 30, SIDE, SIDE)
    for first, second in ((box, wrong), (wrong, box)):
        made = [Image([(box, 0, False)], [(first, 0, 0.5), (second, 0, 0.5)])]
        matches = matches_of(made, 1)
        [found] = replicates(matches, matches, 1).ap
        assert found == pytest.approx(ap_of(evaluated(made, 1)))
        assert found == pytest.approx(100 if first == box else 50)


def test_ties_across_images_are_broken_by_order() -> None:
    """This is the order of rows (of image ids), not that of the images' indices."""
    hit = np.array([[True, False]])
    nothing = np.zeros(2, dtype=np.int64)
    for indices in ([0, 1], [1, 0]):
        image = np.array(indices)
        matches = Matches(
            2, 1, image, nothing, np.full(2, 0.5), hit, ~hit & hit, image[:1], nothing[:1]
        )
        found = replicates(matches, matches, 20).ap
        for ap, weights in zip(found, draws(2, 20, 0), strict=True):
            assert ap == pytest.approx(100 if weights[indices[0]] else np.nan, nan_ok=True)


@pytest.mark.parametrize(("seed", "images", "classes"), CASES)
def test_equals_pycocotools_on_the_resampled_data_set(seed: int, images: int, classes: int) -> None:
    rng = np.random.default_rng(100 + seed)
    without = random_images(rng, images, classes)
    without[0].objects.append(((0, 0, SIDE, SIDE), 0, False))
    with_ = [replace(image, detections=image.detections[::2]) for image in without]
    found = replicates(matches_of(without, classes), matches_of(with_, classes), 5, seed)
    for r, weights in enumerate(draws(images, 5, seed)):
        assert weights.sum() == images
        for made, values in ((without, found.ap), (with_, found.ap_nms)):
            copies = [image for image, w in zip(made, weights, strict=True) for _ in range(w)]
            expected = ap_of(evaluated(copies, classes))
            assert values[r] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert found.gap == pytest.approx(found.ap - found.ap_nms, nan_ok=True)


@examples(50)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 3))
def test_equals_pycocotools_for_any_data_set(seed: int, images: int, classes: int) -> None:
    made = random_images(np.random.default_rng(seed), images, classes)
    matches = matches_of(made, classes)
    if not len(matches.object_image):
        with pytest.raises(ValueError, match=f"no object in {images} images"):
            replicates(matches, matches)
        return
    [found] = replicates(matches, matches, 1, seed).ap
    [weights] = draws(images, 1, seed)
    copies = [image for image, w in zip(made, weights, strict=True) for _ in range(w)]
    assert found == pytest.approx(ap_of(evaluated(copies, classes)), abs=1e-9, nan_ok=True)


def test_all_trials_on_the_same_images_have_the_same_resamples() -> None:
    one, other = (synthetic(np.random.default_rng(s), 30, 0.5) for s in (1, 2))
    other = replace(other, object_image=one.object_image, object_label=one.object_label)
    assert np.array_equal(
        replicates(one, one, 9, seed=4).ap, replicates(one, replace(one), 9, seed=4).ap_nms
    )
    assert np.array_equal(list(draws(30, 5, 4)), list(draws(30, 9, 4))[:5])
    assert not np.array_equal(list(draws(30, 5, 4)), list(draws(30, 5, 5)))


def test_nothing_detected_and_nothing_hit() -> None:
    matches = synthetic(np.random.default_rng(0), 5, 0.5)
    missed = replace(matches, hit=np.zeros_like(matches.hit))
    empty = replace(
        matches,
        image=matches.image[:0],
        label=matches.label[:0],
        score=matches.score[:0],
        hit=matches.hit[:, :0],
        ignored=matches.ignored[:, :0],
    )
    found = replicates(missed, empty, 8)
    assert found.ap.tolist() == found.ap_nms.tolist() == [0.0] * 8


def test_a_class_without_objects_does_not_count() -> None:
    matches = synthetic(np.random.default_rng(0), 5, 0.5)
    more = replace(matches, classes=3)
    wrong = np.zeros((2, 2), dtype=bool)
    more = replace(
        more,
        image=np.append(more.image, [1, 2]),
        label=np.append(more.label, [1, 2]),
        score=np.append(more.score, [0.9, 0.9]),
        hit=np.hstack([more.hit, wrong]),
        ignored=np.hstack([more.ignored, wrong]),
    )
    assert replicates(more, more, 8).ap == pytest.approx(replicates(matches, matches, 8).ap)


def test_a_resample_without_objects_is_undefined() -> None:
    matches = synthetic(np.random.default_rng(0), 4, 1.0)
    only = replace(matches, object_image=np.array([2]), object_label=np.array([0]))
    only = replace(only, hit=only.hit & (np.cumsum(only.image == 2) == 1) & (only.image == 2))
    found = replicates(only, only, 40)
    missing = np.array([weights[2] == 0 for weights in draws(4, 40, 0)])
    assert missing.any()
    assert np.array_equal(np.isnan(found.ap), missing)
    assert np.isfinite(interval(found.ap)).all()


def test_what_cannot_be_resampled_is_rejected() -> None:
    matches = synthetic(np.random.default_rng(0), 4, 0.5)
    with pytest.raises(ValueError, match=r"\(4, 1, 2, .*\(5, 1, 2, .* can't be paired"):
        replicates(matches, replace(matches, images=5))
    with pytest.raises(ValueError, match="resamples 0: must be at least 1"):
        replicates(matches, matches, 0)


def test_interval() -> None:
    values = np.append(np.arange(101.0), np.nan)
    assert interval(values) == pytest.approx((2.5, 97.5))
    assert interval(values, 0.5) == pytest.approx((25.0, 75.0))
    assert interval(np.array([7.0])) == (7.0, 7.0)
    assert interval(values, around=20.0) == pytest.approx((-27.5, 67.5))
    assert interval(np.array([7.0]), around=3.0) == (3.0, 3.0)


def test_an_interval_around_the_value_contains_it_where_resamples_are_biased() -> None:
    """Of few objects per class, resamples have equal ones several times."""
    matches = coco_matches(*cases.random_case(3, images=30), 100)
    found = replicates(matches, matches, 200).ap
    [[value]] = DetectionSets.of([matches]).average_precision(np.ones((1, 30), dtype=bool))
    low, high = interval(found, around=value)
    assert low < value < high
    assert high - low == pytest.approx(np.subtract(*interval(found)[::-1]))


def test_gap_is_without_nms_minus_with_nms() -> None:
    found = Replicates(np.array([1.0, 2.0]), np.array([3.0, 1.0]))
    assert found.gap.tolist() == [-2.0, 1.0]


def test_intervals_cover_the_truth() -> None:
    """Of 80 intervals of 95 %, at least 85 % contain the AP of a large data set."""
    rng = np.random.default_rng(0)
    population = synthetic(rng, 60_000, 0.6)
    [truth] = replicates(population, population, 1).ap
    covered = 0
    for _ in range(80):
        sample = synthetic(rng, 150, 0.6)
        low, high = interval(replicates(sample, sample, 100).ap)
        covered += low <= truth <= high
    assert 68 <= covered < 80


def test_the_result_does_not_depend_on_how_the_work_is_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matches = matches_of(random_images(np.random.default_rng(7), 12, 3), 3)
    whole = replicates(matches, matches, 20)
    monkeypatch.setattr(curves, "_PART", 1)
    monkeypatch.setattr(bootstrap, "_RESAMPLES", (3, 3))
    divided = replicates(matches, matches, 20)
    assert divided.ap == pytest.approx(whole.ap, abs=1e-12)
    assert divided.ap_nms == pytest.approx(whole.ap, abs=1e-12)
