"""TIDE's error types and the calibration error against plain loops."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.evaluation.coco import ErrorTypes, calibration_error, error_types
from detectors.evaluation.matching import Matching, match
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from tests.detectors.evaluation import cases, pycoco
from tests.examples import FUZZ

FALSE = ("location", "class", "duplicate", "background", "both")
BOX = [10.0, 10.0, 50.0, 50.0]


def type_of(row: int, found: Candidates, truth: GroundTruth, result: Matching) -> str:
    """Return the type of a false positive, in the order in which tidecv tests for them."""
    position = int(result.detection[row])
    used = set(result.object[result.matches.hit[0]].tolist())
    best = dict.fromkeys(("own", "other", "used"), 0.0)
    for k, box in enumerate(truth.boxes.tolist()):
        if truth.image[k] != found.image[position]:
            continue
        overlap = cases.iou(found.boxes[position].tolist(), box)
        kind = "own" if truth.labels[k] == found.labels[position] else "other"
        best[kind] = max(best[kind], overlap)
        if kind == "own" and k in used:
            best["used"] = max(best["used"], overlap)
    if 0.1 <= best["own"] <= 0.5:
        return "location"
    if best["other"] >= 0.5:
        return "class"
    if best["used"] >= 0.5:
        return "duplicate"
    return "background" if max(best.values()) <= 0.1 else "both"


def ap50(found: Candidates, truth: GroundTruth) -> float:
    value = pycoco.metrics_of(found, truth, 100).values["ap50"]
    assert value is not None
    return 100 * value


def test_random_data_sets_equal_plain_loops() -> None:
    """The gain of duplicates is that of AP50 after they are removed."""
    for seed in range(200 if FUZZ else 10):
        found, truth = cases.random_case(seed)
        truth = replace(truth, crowd=torch.zeros_like(truth.crowd))
        (errors,) = error_types([found], truth, 100)
        result = match(found, truth, 100)
        wrong = np.flatnonzero(~(result.matches.hit[0] | result.matches.ignored[0]))
        types = {row: type_of(int(row), found, truth, result) for row in wrong}
        counts = Counter(types.values())
        assert {name: errors.counts[name] for name in FALSE} == {n: counts[n] for n in FALSE}
        keep = torch.ones(len(found), dtype=torch.bool)
        keep[[int(result.detection[r]) for r, name in types.items() if name == "duplicate"]] = False
        gain = ap50(found.take(keep), truth) - ap50(found, truth)
        assert errors.gains["duplicate"] == pytest.approx(gain, abs=1e-9), seed


def test_every_type_once() -> None:
    objects = cases.grid(4, 40.0) + 10
    truth = GroundTruth.of([cases.image_truth(1, objects, [0, 0, 1, 0])], "ab")
    right, moved, other = (objects[k].tolist() for k in range(3))
    moved = [moved[0] + 25, moved[1], moved[2] + 25, moved[3]]
    found = cases.candidates(
        [right, right, moved, other, [500, 400, 540, 440]], [0.9, 0.8, 0.7, 0.6, 0.5]
    )
    (errors,) = error_types([found], truth, 100)
    assert errors.counts == {
        "duplicate": 1,
        "class": 1,
        "location": 1,
        "both": 0,
        "background": 1,
        "missed": 1,
    }


def test_several_columns_equal_each_alone() -> None:
    found, truth = cases.random_case(5)
    columns = [found, found.take(torch.arange(0, len(found), 2))]
    assert error_types(columns, truth, 100) == [error_types([c], truth, 100)[0] for c in columns]


def test_no_detections() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [BOX])], ["cell"])
    (errors,) = error_types([Candidates.none()], truth, 100)
    nothing = dict.fromkeys([*FALSE, "missed"], 0)
    assert errors == ErrorTypes(errors.gains, nothing | {"missed": 1})
    assert errors.gains == pytest.approx({**nothing, "missed": errors.gains["missed"]})
    assert calibration_error(match(Candidates.none(), truth, 100).matches) is None


def test_calibration_error_is_that_of_plain_loops() -> None:
    for seed in range(8):
        matches = match(*cases.random_case(seed), 100).matches
        bins: dict[int, list[tuple[float, bool]]] = {}
        columns = matches.score.tolist(), matches.hit[0].tolist(), matches.ignored[0].tolist()
        for score, hit, ignored in zip(*columns, strict=True):
            if not ignored:
                bins.setdefault(min(int(score * 10), 9), []).append((score, hit))
        total = sum(map(len, bins.values()))
        expected = sum(
            abs(sum(score for score, _ in held) - sum(hit for _, hit in held)) / total
            for held in bins.values()
        )
        assert calibration_error(matches) == pytest.approx(100 * expected, abs=1e-4)


def test_scores_that_tell_the_share_of_right_detections_are_calibrated() -> None:
    truth = GroundTruth.of([cases.image_truth(1, cases.grid(4))], "a")
    boxes = torch.cat([cases.grid(1), cases.grid(3) + 200])
    for score, error in ((0.25, 0), (0.75, 50)):
        found = cases.candidates(boxes, score)
        assert calibration_error(match(found, truth, 100).matches) == pytest.approx(error)


def test_all_detections_are_ignored() -> None:
    truth = GroundTruth.of(
        [cases.image_truth(1, [BOX, [90, 90, 99, 99]], crowd=[True, False])], "a"
    )
    assert calibration_error(match(cases.candidates([BOX], 0.5), truth, 100).matches) is None
