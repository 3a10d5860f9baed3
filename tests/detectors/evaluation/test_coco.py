import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectors.evaluation.coco import coco_metrics
from detectors.evaluation.matches import Matches
from detectors.evaluation.matching import coco_matches
from detectors.evaluation.metrics import Metrics
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import select
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth
from tests.detectors.evaluation import cases, pycoco
from tests.examples import FUZZ

SIZES = ("small", "medium", "large")
AP, AR = (tuple(f"{metric}_{size}" for size in SIZES) for metric in ("ap", "ar"))
NAMES = ["ap", "ap50", "ap75", *AP, "ar1", "ar10", "ar", *AR]
BOX = [10.0, 10.0, 50.0, 50.0]


def known(value: float | None) -> float:
    """Return a metric that is not None."""
    assert value is not None
    return value


@pytest.mark.parametrize("max_dets", [1, 5, 100, 300])
def test_random_data_sets_equal_pycocotools(max_dets: int) -> None:
    aps = []
    for seed in range(max_dets, max_dets + (200 if FUZZ else 20)):
        found, truth = cases.random_case(seed)
        (metrics,) = coco_metrics([found], truth, max_dets)
        assert pycoco.differences(metrics, pycoco.metrics_of(found, truth, max_dets)) == {}, seed
        assert list(metrics.values) == NAMES
        aps.append(known(metrics.values["ap"]))
    assert min(aps) >= 0
    assert 0.1 < np.mean(aps) < 0.9


@pytest.mark.parametrize(
    "ids",
    [
        range(1, 9),
        range(2**53, 2**53 + 8),
        range(2**62 + 1, 2**62 + 9),
        sorted(hash((7, n)) >> 1 for n in range(8)),
        range(-8, 0),
        [-(2**63), -(2**62), -1, 0, 1, 2**53 + 1, 2**62, 2**63 - 1],
    ],
    ids=["usual", "above 2^53", "above 2^62", "hashes", "negative", "the whole range"],
)
def test_image_ids_do_not_change_the_metrics(ids: Sequence[int]) -> None:
    """Ids of 64 bits are no floats, and may be negative."""
    found, truth = cases.random_case(3)
    positions = replace(truth, image_ids=tuple(range(len(truth))))
    renamed = replace(truth, image_ids=tuple(ids))
    assert coco_metrics([found], renamed, 100) == coco_metrics([found], positions, 100)
    for name, column in vars(coco_matches(found, positions, 100)).items():
        np.testing.assert_array_equal(getattr(coco_matches(found, renamed, 100), name), column)


@pytest.mark.parametrize("max_dets", [1, 5, 20, 100, 300])
def test_more_detections_of_a_class_than_the_limit(max_dets: int) -> None:
    rng = np.random.default_rng(max_dets)
    boxes = cases.random_boxes(rng, 40)
    truth = GroundTruth.of([cases.image_truth(2, boxes), cases.image_truth(1, boxes + 5)], "a")
    noisy = np.tile(boxes, (20, 1)) + rng.normal(0, 3, (800, 4))
    scores, image = rng.integers(1, 200, 800) / 200, np.arange(800) % 2
    found = cases.candidates(noisy, scores, image=image)
    (metrics,) = coco_metrics([found], truth, max_dets)
    assert pycoco.differences(metrics, pycoco.metrics_of(found, truth, max_dets)) == {}
    ar1, ar10, ar = (known(metrics.values[name]) for name in ("ar1", "ar10", "ar"))
    assert ar1 <= ar10 <= ar
    assert ar != coco_metrics([found], truth, 50)[0].values["ar"]


@pytest.fixture(scope="module")
def photographs(bccd: Path) -> tuple[Candidates, GroundTruth]:
    """Build three noisy copies of every blood cell of the validation split."""
    data = json.loads((bccd / "val.json").read_text())
    truth = GroundTruth.of(
        [real_truth(data, image) for image in data["images"]],
        [category["name"] for category in data["categories"]],
    )
    rng, count = np.random.default_rng(0), 3 * len(truth.labels)
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).repeat(3, 2)
    noise = torch.as_tensor(rng.normal(0, 0.07, (count, 4))).clamp(-0.3, 0.3)
    scores, image = rng.integers(1, 50, count) / 50, truth.image.repeat(3)
    boxes, labels = truth.boxes.repeat(3, 1) + sides * noise, truth.labels.repeat(3)
    return cases.candidates(boxes, scores, labels, image), truth


def real_truth(data: dict[str, Any], image: dict[str, Any]) -> ImageTruth:
    own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in own)]
    labels, crowd = [a["category_id"] - 1 for a in own], [bool(a["iscrowd"]) for a in own]
    area = torch.tensor([a["area"] for a in own], dtype=torch.float64)
    return cases.image_truth(image["id"], boxes, labels, crowd, area)


@pytest.mark.parametrize("max_dets", [1, 5, 100, 300])
@pytest.mark.parametrize("suppress", [False, True])
def test_a_real_annotation_file_equals_pycocotools(
    photographs: tuple[Candidates, GroundTruth], suppress: bool, max_dets: int
) -> None:
    dump, truth = photographs
    found = select(dump, Protocol(max_dets=max_dets), truth.sizes, suppress)
    (metrics,) = coco_metrics([found], truth, max_dets)
    assert pycoco.differences(metrics, pycoco.metrics_of(found, truth, max_dets)) == {}
    assert 0.01 < known(metrics.values["ap"]) < 0.9


def test_several_columns_equal_each_alone() -> None:
    found, truth = cases.random_case(5)
    columns = [found, found.take(torch.arange(0, len(found), 2)), Candidates.none(), found]
    together = coco_metrics(columns, truth, 100)
    assert together == [coco_metrics([each], truth, 100)[0] for each in columns]
    assert together[0] == together[3] != together[1]
    assert coco_metrics([], truth, 100) == []


def test_a_perfect_detection_scores_one_and_absent_sizes_are_none() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [BOX])], "ab")
    (metrics,) = coco_metrics([cases.candidates([BOX], 0.3)], truth, 100)
    absent = {"ap_small", "ap_large", "ar_small", "ar_large"}
    expected = Metrics({name: None if name in absent else 1 for name in NAMES}, (1, None))
    assert pycoco.differences(metrics, expected) == {}


def test_no_detections_score_zero() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [BOX]), cases.image_truth(2, [])], ["cell"])
    (metrics,) = coco_metrics([Candidates.none()], truth, 100)
    assert (metrics.values["ap"], metrics.values["ar"], metrics.per_class) == (0, 0, (0,))


def ap_of(
    boxes: cases.Values, scores: cases.Values, truth: Sequence[ImageTruth], image: cases.Values = 0
) -> float:
    """Compute the AP of detections of a single class."""
    found = cases.candidates(boxes, scores, image=image)
    return known(coco_metrics([found], GroundTruth.of(truth, ["cell"]), 100)[0].values["ap"])


def test_detections_in_an_image_without_objects_are_false_positives() -> None:
    truth = [cases.image_truth(1, [BOX]), cases.image_truth(2, [])]
    assert ap_of([BOX, BOX], [0.5, 0.9], truth, image=[0, 1]) == pytest.approx(0.5)


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong() -> None:
    crowd, inside = [100.0, 100.0, 300.0, 300.0], [150.0, 150.0, 180.0, 180.0]
    truth = [cases.image_truth(1, [BOX, crowd], crowd=[False, True])]
    assert ap_of([inside, BOX], [0.9, 0.5], truth) == pytest.approx(1)


def test_a_degenerate_detection_is_a_false_positive() -> None:
    inverted = [50.0, 10.0, 10.0, 50.0]
    assert ap_of([inverted, BOX], [0.9, 0.5], [cases.image_truth(1, [BOX])]) == (pytest.approx(0.5))


def test_size_depends_on_the_annotated_area_not_on_the_box() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [BOX], area=[900.0])], ["cell"])
    (metrics,) = coco_metrics([cases.candidates([BOX], 0.5)], truth, 100)
    expected = {"ap_small": 1, "ar_small": 1, "ap_medium": None}
    assert {name: metrics.values[name] for name in expected} == pytest.approx(expected)


def test_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    found, truth = cases.random_case(3)
    coco_metrics([found], truth, 100)
    coco_matches(found, truth, 100)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("evaluate", [lambda c, *a: coco_metrics([c], *a), coco_matches])
def test_ground_truth_without_objects_is_rejected(
    evaluate: Callable[[Candidates, GroundTruth, int], object],
) -> None:
    found = cases.candidates([BOX], 0.5)
    for truth in ([cases.image_truth(1, [])], [cases.image_truth(1, [BOX], crowd=True)]):
        with pytest.raises(ValueError, match="no object in 1 images"):
            evaluate(found, GroundTruth.of(truth, ["cell"]), 100)


def ap_from(matches: Matches, label: int, threshold: int) -> float | None:
    """Compute COCO's AP of one class from the matches, at 101 recall levels one by one."""
    objects = sum(each == label for each in matches.object_label.tolist())
    if not objects:
        return None
    rows = zip(
        matches.label.tolist(),
        matches.score.tolist(),
        matches.hit[threshold].tolist(),
        matches.ignored[threshold].tolist(),
        strict=True,
    )
    own = [(score, hit) for each, score, hit, ignored in rows if each == label and not ignored]
    right = 0
    curve: list[tuple[float, float]] = []
    for rank, (_, hit) in enumerate(sorted(own, key=lambda row: -row[0]), start=1):
        right += hit
        curve.append((right / objects, right / rank))
    levels = np.linspace(0, 1, 101).tolist()
    return sum(max((p for r, p in curve if r >= level), default=0.0) for level in levels) / 101


class TestMatches:
    @pytest.mark.parametrize("max_dets", [2, 100])
    def test_give_the_same_ap(self, max_dets: int) -> None:
        for seed in range(8):
            found, truth = cases.random_case(seed)
            (metrics,) = coco_metrics([found], truth, max_dets)
            matches = coco_matches(found, truth, max_dets)
            for label, expected in enumerate(metrics.per_class):
                aps = [ap_from(matches, label, threshold) for threshold in range(10)]
                valid = [ap for ap in aps if ap is not None]
                assert len(valid) == (0 if expected is None else 10)
                assert expected is None or np.mean(valid) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("max_dets", [2, 100])
    def test_are_those_of_pycocotools(self, max_dets: int) -> None:
        for seed in range(20, 40):
            found, truth = cases.random_case(seed)
            results = pycoco.results_of(found, truth.image_ids)
            results = pycoco.best_of_each_class(results, max_dets)
            evaluator = pycoco.evaluated(pycoco.dataset(truth), results, 100)
            images = evaluator.evalImgs[: len(truth) * len(truth.classes) * 4]
            everything = [e for e in images if e and e["aRng"] == evaluator.params.areaRng[0]]
            expected = [
                (e["category_id"] - 1, e["image_id"], score, ((m > 0) & ~i).tolist(), i.tolist())
                for e in everything
                for score, m, i in zip(
                    e["dtScores"], e["dtMatches"].T, e["dtIgnore"].T.astype(bool), strict=True
                )
            ]
            matches = coco_matches(found, truth, max_dets)
            assert matches.label.tolist() == [row[0] for row in expected]
            assert [truth.image_ids[i] for i in matches.image] == [row[1] for row in expected]
            assert matches.score.tolist() == [row[2] for row in expected]
            assert matches.hit.T.tolist() == [row[3] for row in expected]
            assert matches.ignored.T.tolist() == [row[4] for row in expected]

    def test_columns(self) -> None:
        """Image ids fall while indices rise. The crowd region is not an object."""
        far = [200.0, 200.0, 240.0, 240.0]
        truth = [
            cases.image_truth(30, [BOX, far], [1, 0]),
            cases.image_truth(20, []),
            cases.image_truth(10, [BOX, far], [1, 1], [False, True]),
        ]
        found = cases.candidates(
            [BOX, far, BOX, BOX, far], [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 1], [0, 0, 1, 2, 2]
        )
        matches = coco_matches(found, GroundTruth.of(truth, "abc"), 100)
        assert (matches.images, matches.classes) == (3, 3)
        assert matches.label.tolist() == [0, 1, 1, 1, 1]
        assert matches.image.tolist() == [0, 2, 2, 1, 0]
        assert matches.score.tolist() == pytest.approx([0.8, 0.6, 0.5, 0.7, 0.9])
        assert (matches.hit == [[True, True, False, False, True]] * 10).all()
        assert (matches.ignored == [[False, False, True, False, False]] * 10).all()
        assert matches.object_image.tolist() == [0, 0, 2]
        assert matches.object_label.tolist() == [1, 0, 1]
        for column in (matches.image, matches.label, matches.object_image, matches.object_label):
            assert column.dtype == np.int64
        assert matches.score.dtype == np.float64
        assert matches.hit.dtype == matches.ignored.dtype == bool

    def test_of_no_detections(self) -> None:
        truth = GroundTruth.of([cases.image_truth(1, [BOX]), cases.image_truth(2, [])], ["cell"])
        matches = coco_matches(Candidates.none(), truth, 100)
        assert matches.hit.shape == matches.ignored.shape == (10, 0)
        assert len(matches.image) == len(matches.label) == len(matches.score) == 0
        assert matches.object_image.tolist() == matches.object_label.tolist() == [0]

    def test_only_the_best_per_class_and_image_are_kept(self) -> None:
        truth = GroundTruth.of([cases.image_truth(1, cases.grid(4))], "ab")
        found = cases.candidates(cases.grid(4), [0.1, 0.4, 0.3, 0.2], [0, 0, 0, 1])
        matches = coco_matches(found, truth, 2)
        assert matches.score.tolist() == pytest.approx([0.4, 0.3, 0.2])
        assert matches.label.tolist() == [0, 0, 1]
        assert len(matches.object_image) == 4
