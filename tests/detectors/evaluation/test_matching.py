from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.matching import THRESHOLDS, match
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from tests.detectors.evaluation import cases, grids, pycoco
from tests.detectors.evaluation.grids import make, objects
from tests.examples import examples

rows = st.lists(grids.row, min_size=1, max_size=40)


def pairs_of_pycocotools(found: Candidates, truth: GroundTruth, most: int) -> list[dict[int, int]]:
    """Return, per threshold, the object or region that each matched detection is matched to."""
    results = pycoco.results_of(found, truth.image_ids)
    for position, row in enumerate(results):
        row["position"] = position
    kept = pycoco.best_of_each_class(results, most)
    evaluator = pycoco.evaluated(pycoco.dataset(truth), kept, 100)
    position_of = {row["id"]: row["position"] for row in kept}
    everything = [e for e in evaluator.evalImgs if e and e["aRng"] == evaluator.params.areaRng[0]]
    return [
        {
            position_of[detection]: int(target) - 1
            for e in everything
            for detection, target in zip(e["dtIds"], e["dtMatches"][threshold], strict=True)
            if target
        }
        for threshold in range(len(THRESHOLDS))
    ]


@examples(60)
@given(rows, objects, st.sampled_from([1, 3, 100]))
def test_pairs_are_those_of_pycocotools(rows: list[Any], objects: list[Any], max_dets: int) -> None:
    """On a grid of few cells many overlaps are equal, and equal to a threshold."""
    found, truth = make(rows, objects)
    result = match(found, truth, max_dets)
    expected = pairs_of_pycocotools(found, truth, max_dets)
    pairs = zip(result.detection.tolist(), result.object.tolist(), strict=True)
    assert {detection: target for detection, target in pairs if target >= 0} == expected[0]
    for hit, ignored, theirs in zip(
        result.matches.hit, result.matches.ignored, expected, strict=True
    ):
        assert set(result.detection[hit | ignored].tolist()) == set(theirs)


def test_rows_are_aligned_with_the_detections() -> None:
    found, truth = cases.random_case(3)
    result = match(found, truth, 100)
    order = result.detection
    assert sorted(order.tolist()) == list(range(len(found)))
    assert (result.matches.image == found.image.numpy()[order]).all()
    assert (result.matches.label == found.labels.numpy()[order]).all()
    crowd = truth.crowd.numpy()
    matched = result.object >= 0
    assert ((matched & ~crowd[result.object]) == result.matches.hit[0]).all()
    assert ((matched & crowd[result.object]) == result.matches.ignored[0]).all()


def test_pairs_are_split_into_chunks_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    found, truth = cases.random_case(4, images=12)
    whole = match(found, truth, 100)
    monkeypatch.setattr("detectors.evaluation.matching._PAIRS", 3)
    split = match(found, truth, 100)
    assert (split.object == whole.object).all()
    assert (split.matches.hit == whole.matches.hit).all()


def test_nothing_overlaps() -> None:
    truth = GroundTruth.of([cases.image_truth(1, [[0, 0, 4, 4]])], "ab")
    for found in (
        Candidates.none(),
        cases.candidates([[9, 9, 12, 12]], 0.5),
        cases.candidates([[0, 0, 4, 4]], 0.5, labels=1),
    ):
        assert (match(found, truth, 100).object == -1).all()
        assert not match(found, truth, 100).matches.hit.any()
