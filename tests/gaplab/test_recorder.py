"""The driver's pen: every event once in the ledger, before anybody hears of it."""

from pathlib import Path

import pytest

from gaplab.launch.recorder import Recorder
from gaplab.ledger import Ledger
from gaplab.ledger.models import METRICS
from gaplab.records import (
    AttemptEnd,
    ClassRecord,
    Cost,
    Ended,
    EpochDone,
    EvaluationRecord,
    Event,
    Machine,
    Started,
    SweepRecord,
    TrialRecord,
)

TRIAL = TrialRecord("0" * 12, {"seed": 0}, "poto", "o2o", "shapes", 0, 3, 1)
SWEEP = SweepRecord("small-1", "small", "name: small", (TRIAL,))
START = Started(TRIAL.id, Machine("here", "cpu", 1, 0.0), 0)
COST = Cost(2.0, 0.0, 3.0, 400.0)


def epoch(number: int, *measured: int) -> EpochDone:
    evaluations = tuple(
        EvaluationRecord(
            *(TRIAL.id, e, "o2o", True, "default", dict.fromkeys(METRICS, float(e))),
            (ClassRecord("a", 1.0, 2.0, -1.0),),
        )
        for e in measured
    )
    return EpochDone(TRIAL.id, number, 3, {}, evaluations, "uri", COST)


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.add_sweep(SWEEP)
        yield opened


def test_repeated_evaluations_are_kept_once_and_listeners_hear_after_the_ledger(
    ledger: Ledger,
) -> None:
    heard: list[tuple[Event, int]] = []
    recorder = Recorder(
        ledger, SWEEP.id, [lambda e: heard.append((e, len(ledger.evaluations(TRIAL.id))))]
    )
    events = [START, epoch(1, 1), epoch(2, 2), epoch(2, 1, 2)]
    for event in [*events, Ended(TRIAL.id, AttemptEnd("succeeded", "", COST))]:
        recorder.handle(event)
    assert [count for _, count in heard] == [0, 1, 2, 2, 2]
    assert ledger.states([TRIAL.id]) == {TRIAL.id: "succeeded"}


def test_an_interrupt_closes_what_is_open_with_what_it_has_cost(ledger: Ledger) -> None:
    recorder = Recorder(ledger, SWEEP.id, [])
    recorder.handle(START)
    recorder.handle(epoch(1, 1))
    recorder.interrupt("Ctrl-C")
    recorder.interrupt("Ctrl-C")
    (attempt,) = ledger.attempts(TRIAL.id)
    assert (attempt.state, attempt.reason, attempt.cpu_seconds) == ("interrupted", "Ctrl-C", 2.0)


@pytest.mark.parametrize("said", [[], [START]])
def test_a_process_that_dies_is_a_failure_with_its_reason(
    ledger: Ledger, said: list[Event]
) -> None:
    recorder = Recorder(ledger, SWEEP.id, [])
    for event in said:
        recorder.handle(event)
    recorder.lost(TRIAL.id, "its process died: killed")
    (attempt,) = ledger.attempts(TRIAL.id)
    assert (attempt.state, attempt.reason) == ("failed", "its process died: killed")
