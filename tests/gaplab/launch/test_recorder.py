"""Every event is written to the ledger once, before listeners receive it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from detectors.evaluation.metrics import ClassGap
from gaplab.launch.recorder import Recorder
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS
from gaplab.records import (
    AttemptEnd,
    Claim,
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
from gaplab.states import TrialState

TRIAL = TrialRecord("0" * 12, {"seed": 0}, "poto", "o2o", "shapes", 0, 3, 1)
SWEEP = SweepRecord("small-1", "small", "name: small", (TRIAL,))
START = Started(TRIAL.id, Machine("here", "cpu", 1, 0.0), 0)
COST = Cost(2.0, 0.0, 3.0, 400.0)
SUCCESS = Ended(TRIAL.id, AttemptEnd(TrialState.SUCCEEDED, "", COST))
DEAD = AttemptEnd(TrialState.FAILED, "its process died: killed", Cost(), "lost")


def epoch(number: int, *measured: int, cost: Cost = COST) -> EpochDone:
    evaluations = tuple(
        EvaluationRecord(
            *(TRIAL.id, e, "o2o", True, "default", dict.fromkeys(METRICS, float(e))),
            (ClassGap("a", 1.0, 2.0, -1.0),),
        )
        for e in measured
    )
    return EpochDone(TRIAL.id, number, 3, {}, evaluations, "uri", cost)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.add_sweep(SWEEP)
        yield opened


def claim(ledger: Ledger, recorder: Recorder) -> int:
    attempt = ledger.start_attempt(Claim(TRIAL.id, SWEEP.id))
    recorder.add(attempt, TRIAL.id)
    return attempt


def test_evaluations_are_stored_once_and_listeners_are_called_afterwards(
    ledger: Ledger,
) -> None:
    received: list[tuple[Event, int]] = []
    recorder = Recorder(ledger, [lambda e: received.append((e, len(ledger.evaluations(TRIAL.id))))])
    attempt = claim(ledger, recorder)
    events: list[Event] = [START, epoch(1, 1), epoch(2, 2), epoch(2, 1, 2), SUCCESS]
    assert [recorder.handle(attempt, event) for event in events] == [True] * 5
    assert received == list(zip(events, [0, 1, 2, 2, 2], strict=True))
    assert ledger.states([TRIAL.id]) == {TRIAL.id: "succeeded"}
    [found] = ledger.attempts(TRIAL.id)
    assert (found.node, found.state, found.wall_seconds) == ("here", "succeeded", 3.0)


def test_open_attempts_and_their_nodes(ledger: Ledger) -> None:
    recorder = Recorder(ledger, [])
    attempt = claim(ledger, recorder)
    assert (recorder.open, recorder.nodes) == ({attempt: TRIAL.id}, {})
    recorder.handle(attempt, START)
    assert recorder.nodes == {attempt: "here"}
    recorder.handle(attempt, SUCCESS)
    assert (recorder.open, recorder.nodes) == ({}, {})


def test_nothing_is_written_or_passed_on_after_the_end(ledger: Ledger) -> None:
    received: list[Event] = []
    recorder = Recorder(ledger, [received.append])
    attempt = claim(ledger, recorder)
    recorder.handle(attempt, SUCCESS)
    for late in (START, epoch(3, 3), SUCCESS, Ended(TRIAL.id, DEAD)):
        assert recorder.handle(attempt, late) is False
    assert recorder.end(attempt, DEAD) is None
    assert received == [SUCCESS]
    assert ledger.evaluations(TRIAL.id) == []
    assert ledger.states([TRIAL.id]) == {TRIAL.id: "succeeded"}


@pytest.mark.parametrize("late", [START, epoch(2, 2), SUCCESS])
def test_an_attempt_of_a_lost_driver_is_dropped(ledger: Ledger, late: Event) -> None:
    received: list[Event] = []
    recorder = Recorder(ledger, [received.append])
    attempt = claim(ledger, recorder)
    recorder.handle(attempt, epoch(1, 1))
    assert ledger.mark_orphaned_lost("its driver is not known") == [TRIAL.id]
    assert recorder.handle(attempt, late) is False
    assert recorder.open == {}
    assert received == [epoch(1, 1)]
    assert [e.epoch for e in ledger.evaluations(TRIAL.id)] == [1]
    assert ledger.states([TRIAL.id]) == {TRIAL.id: "interrupted"}


def test_a_dead_attempt_keeps_its_last_cost(ledger: Ledger) -> None:
    received: list[Event] = []
    recorder = Recorder(ledger, [received.append])
    attempt = claim(ledger, recorder)
    recorder.handle(attempt, epoch(1, 1))
    expected = Ended(TRIAL.id, AttemptEnd(DEAD.state, DEAD.reason, COST, "lost"))
    assert recorder.end(attempt, DEAD) == expected
    assert received[-1] == expected
    [found] = ledger.attempts(TRIAL.id)
    assert (found.state, found.reason, found.fault) == ("failed", DEAD.reason, "lost")
    assert found.cpu_seconds == COST.cpu_seconds


@pytest.mark.parametrize("events", [[], [START]])
def test_an_attempt_that_dies_early_has_no_known_cost(ledger: Ledger, events: list[Event]) -> None:
    recorder = Recorder(ledger, [])
    attempt = claim(ledger, recorder)
    for event in events:
        recorder.handle(attempt, event)
    assert recorder.end(attempt, DEAD) == Ended(TRIAL.id, DEAD)
    assert [a.wall_seconds for a in ledger.attempts(TRIAL.id)] == [0.0]


def test_the_death_of_an_attempt_of_a_lost_driver_is_not_passed_on(ledger: Ledger) -> None:
    recorder = Recorder(ledger, [])
    attempt = claim(ledger, recorder)
    ledger.mark_orphaned_lost("its driver is not known")
    assert recorder.end(attempt, DEAD) is None
    assert recorder.open == {}
    assert ledger.states([TRIAL.id]) == {TRIAL.id: "interrupted"}


def test_an_unknown_attempt(ledger: Ledger) -> None:
    recorder = Recorder(ledger, [])
    assert recorder.handle(7, START) is False
    assert recorder.end(7, DEAD) is None
    recorder.drop(7)


def test_a_reason_cannot_control_a_terminal(ledger: Ledger) -> None:
    received: list[Event] = []
    recorder = Recorder(ledger, [received.append])
    attempt = claim(ledger, recorder)
    recorder.end(
        attempt, AttemptEnd(TrialState.FAILED, "no \x1b[2Jimage\n \u202egpj.a", Cost(), "input")
    )
    [event], expected = received, r"no \x1b[2Jimage \u202egpj.a"
    assert isinstance(event, Ended)
    assert event.end.reason == ledger.attempts(TRIAL.id)[0].reason == expected
