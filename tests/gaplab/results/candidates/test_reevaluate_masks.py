"""Stored candidates with masks under other protocols, against the masks of the trial's data."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.data.mask_views import ground_truth
from detectors.evaluation.bootstrap import DetectionSets
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.truth import as_candidates
from detectors.structures import Candidates
from detectors.world import LocalWorld
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.records import Claim, Subject
from gaplab.results.candidates.explain import explain
from gaplab.results.candidates.reevaluate import Source, find_sources, reevaluate
from gaplab.results.candidates.truth import TruthOptions
from gaplab.spec.protocols import protocol_key, rule_of
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, experiment_of
from gaplab.storage.candidates import Masked, Part, write_part
from gaplab.storage.filesystem import Storage
from gaplab.storage.matches import read_matches
from tests.builders import MACHINE, METRIC_VALUES, SECTIONS, evaluation_record, make_spec

CONDINST = PROTOCOLS["condinst"]
SETTINGS = SECTIONS | {
    "data": {"name": "shapes", "size": 64, "val_images": 20, "max_side": 40.0, "crowding": 0.0},
    "detector": {"name": "fcos", "masks": {"name": "condinst"}},
    "evaluation": {"protocol": "condinst"},
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def ledger(tmp_path: Path, storage: Storage) -> Iterator[Ledger]:
    """One trial whose candidates are its objects, each twice: with its own mask and a wrong one."""
    sweep = expand(resolve(make_spec(SETTINGS)))
    [trial] = sweep.trials
    truth = ground_truth(experiment_of(trial).data.load("val"), masks=True)
    exact = as_candidates(truth)
    assert exact.masks is not None
    away = replace(exact, masks=exact.masks[torch.arange(len(exact)).roll(1)])
    both = Candidates.join([away, replace(exact, scores=exact.scores * 0.8)])
    part = Part(Subject(trial.id, 1, "o2o", True), truth, 1000, LocalWorld(), Masked.of(CONDINST))
    uri = storage.relative(write_part(storage, part, both))
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.add_sweep(sweep)
        attempt = ledger.start_attempt(Claim(trial.id, sweep.id, machine=MACHINE))
        ledger.record(evaluation_record(trial.id, candidates=uri), attempt)
        yield ledger


def sources(ledger: Ledger, storage: Storage) -> list[Source]:
    (trial,) = ledger.trials(ledger.sweeps()[0].id)
    return find_sources(ledger, storage, [trial], None, None)


def aps(ledger: Ledger, storage: Storage, *protocols: Protocol) -> list[tuple[float, float]]:
    found = reevaluate(ledger, sources(ledger, storage), protocols, storage)
    made = {e.protocol: (e.metrics["ap"] or 0, e.metrics["ap_nms"] or 0) for e in found}
    return [made[protocol_key(each)] for each in protocols]


def test_masks_are_measured_beside_boxes(ledger: Ledger, storage: Storage) -> None:
    """NMS keeps the wrong masks, which have higher scores; as boxes, both are right."""
    loose = CONDINST.model_copy(update={"nms_iou": 1.0})
    [masks, boxes, all_masks] = aps(ledger, storage, CONDINST, PROTOCOLS["o2f"], loose)
    assert boxes[1] == pytest.approx(100)
    assert masks[1] < 30 < masks[0]
    assert all_masks == pytest.approx((masks[0], masks[0]))


def test_the_usual_protocols_and_that_of_the_trial(ledger: Ledger, storage: Storage) -> None:
    usual = [PROTOCOLS["default"], PROTOCOLS["condinst"]]
    found = reevaluate(ledger, sources(ledger, storage), usual, storage, fitting=True)
    assert {each.protocol for each in found} == {"default", "condinst"}
    other = TruthOptions(other=True)
    left = reevaluate(ledger, sources(ledger, storage), usual, storage, other, fitting=True)
    assert {each.protocol for each in left} == {"default"}


def test_the_steps_of_the_gap_of_masks(ledger: Ledger, storage: Storage) -> None:
    (trial,) = ledger.trials(ledger.sweeps()[0].id)
    found = explain(ledger, storage, trial.id, CONDINST, None, None)
    assert found.diagnosis.ap == aps(ledger, storage, CONDINST)[0][0]


def test_matches_of_masks_are_stored_for_intervals_over_images(
    ledger: Ledger, storage: Storage
) -> None:
    [made] = reevaluate(ledger, sources(ledger, storage), [CONDINST], storage)
    _, *columns = read_matches(storage.locate(made.matches))
    whole = DetectionSets.of(columns).average_precision(np.ones((1, 20), dtype=np.int64))[:, 0]
    assert whole == pytest.approx([made.metrics["ap"], made.metrics["ap_nms"]])


def test_evaluations_without_matches_get_them(ledger: Ledger, storage: Storage) -> None:
    """Those of masks that an earlier release wrote. Their metrics stay."""
    [source] = sources(ledger, storage)
    strict = CONDINST.model_copy(update={"nms_iou": 0.7})
    metrics = {**METRIC_VALUES, "duplicates": 1.0, "duplicates_nms": 0.5}
    old = evaluation_record(source.trial.id, metrics=metrics, protocol=protocol_key(strict))
    ledger.record(replace(old, rule=rule_of(strict)), source.evaluation.attempt)
    for _ in range(2):  # the second time nothing is measured
        [found] = reevaluate(ledger, [source], [strict], storage)
        assert found.metrics.items() >= metrics.items()
        info, *_ = read_matches(storage.locate(found.matches))
        assert info.protocol == old.protocol


@pytest.mark.parametrize(
    ("protocol", "options", "line"),
    [
        (CONDINST, TruthOptions(other=True), "--other-truth: is compared without masks; measure"),
        (
            CONDINST.model_copy(update={"score_floor": 0.01}),
            TruthOptions(),
            "only candidates with a score above 0.05 that are among the 1000 best of a level",
        ),
    ],
)
def test_what_has_no_masks_is_refused(
    ledger: Ledger, storage: Storage, protocol: Protocol, options: TruthOptions, line: str
) -> None:
    with pytest.raises(UserError, match=line):
        list(reevaluate(ledger, sources(ledger, storage), [protocol], storage, options))
