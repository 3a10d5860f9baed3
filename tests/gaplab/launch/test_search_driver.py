"""A search adds trials to its sweep while the sweep runs, with one driver and with two."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gaplab.launch.search import Proposals, open_search, with_proposed
from gaplab.launch.stopping import Judge, SweepStopping
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS
from gaplab.records import AttemptEnd, Claim, Cost, EpochDone, EvaluationRecord, SweepRecord
from gaplab.spec.files import load_spec
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.search import StopOptions
from gaplab.spec.settings import changes
from gaplab.spec.sweep import expand
from gaplab.states import TrialState
from gaplab.trial.control import Stop

Write = Callable[..., Path]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def spec(write_spec: Write) -> Spec:
    """Three samples, each crossed with two seeds. The first is in the sweep from the start, and the
    others are drawn at random, since no sample has ended.
    """
    space = {"assignment.alpha": {"low": 0.2, "high": 0.8}}
    search = {"method": "optuna", "trials": 3, "startup": 1, "space": space}
    return load_spec(write_spec(search=search, grid={"seed": [0, 1]})).spec


def proposals_of(ledger: Ledger, spec: Spec, messages: list[str] | None = None) -> Proposals:
    sweep, search = expand(resolve(spec)), open_search(spec)
    ledger.add_sweep(sweep)
    assert search is not None
    known = ledger.stored_sweep(sweep.id).trials
    return Proposals(
        ledger, sweep.id, search, known, (messages if messages is not None else []).append
    )


def ids(trials: Any) -> list[str]:
    return [trial.id for trial in trials]


def test_one_driver_adds_samples_until_there_are_enough(ledger: Ledger, spec: Spec) -> None:
    proposals, given = proposals_of(ledger, spec), ids(ledger.stored_sweep().trials)
    assert len(given) == 2
    while not proposals.finished:
        given += ids(proposals.next_trials())
    assert len(given) == len(set(given)) == 3 * 2
    assert given == ids(ledger.stored_sweep().trials)
    alphas = [trial.config["assignment"]["alpha"] for trial in ledger.stored_sweep().trials]
    assert len(set(alphas)) == 3
    assert proposals.next_trials() == []


def test_two_drivers_get_the_same_trials(ledger: Ledger, spec: Spec) -> None:
    one, two = proposals_of(ledger, spec), proposals_of(ledger, spec)
    first = ids(one.next_trials())
    assert ids(two.next_trials()) == first
    second = ids(two.next_trials())
    assert not {*first} & {*second}
    assert ids(one.next_trials()) == second
    third = proposals_of(ledger, spec)  # as after a resume
    assert third.next_trials() == []
    assert third.finished
    assert len(ledger.stored_sweep().trials) == 6


def test_settings_of_a_search_apply_to_proposed_trials(
    ledger: Ledger, write_spec: Write, spec: Spec
) -> None:
    proposals = proposals_of(ledger, spec)
    while not proposals.finished:
        proposals.next_trials()
    before = ledger.stored_sweep()
    edited = spec.model_copy(update={"base": spec.base | {"resources": {"workers": 2}}})
    sweep = with_proposed(expand(resolve(edited)), before, ledger)
    assert ids(sweep.trials) == ids(before.trials)
    assert changes(before, sweep) == ["resources.workers: 1 -> 2"], "in all six"
    ledger.add_sweep(sweep)
    workers = [trial.config["resources"]["workers"] for trial in ledger.stored_sweep().trials]
    assert workers == [2] * 6


def test_of_two_proposals_at_the_same_moment_one_is_added(
    ledger: Ledger, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = proposals_of(ledger, spec), proposals_of(ledger, spec)
    extend = Ledger.extend_sweep

    def late(self: Ledger, *given: Any) -> bool:
        monkeypatch.setattr(Ledger, "extend_sweep", extend)
        two.next_trials()  # after the first driver has read the sweep, before it adds to it
        return extend(self, *given)

    monkeypatch.setattr(Ledger, "extend_sweep", late)
    assert one.next_trials() == []
    assert ids(one.next_trials()) == ids(ledger.stored_sweep().trials)[2:]
    assert len(ledger.stored_sweep().trials) == 4


def test_messages_are_passed_on_once(ledger: Ledger, write_spec: Write) -> None:
    space = {"assignment.alpha": {"choices": [0.2, 0.8]}}
    search = {"method": "optuna", "trials": 9, "startup": 100, "space": space}
    messages: list[str] = []
    proposals = proposals_of(ledger, load_spec(write_spec(search=search)).spec, messages)
    for _ in range(5):
        proposals.next_trials()
    assert proposals.finished
    assert messages == ["search: the space has only 2 different samples; no more are proposed"]


def test_the_stopping_rule_reads_evaluations_of_other_drivers(
    ledger: Ledger, write_spec: Write
) -> None:
    sweep = expand(load_spec(write_spec(grid={"seed": [0, 1, 2]})))
    ledger.add_sweep(sweep)
    rule = StopOptions(rule="asha", after=1, keep=2)
    stopping, now = SweepStopping(ledger, sweep.id, Judge(rule), lambda: now[0]), [0.0]
    first, second, third = (
        done(trial, ap) for trial, ap in zip(sweep.trials, (9, 5, 1), strict=True)
    )
    assert stopping.reason(first) == ""
    record(ledger, sweep, second)
    now[0] = 60.0
    assert "epoch 1" in stopping.reason(third)


def done(trial: Any, ap: float) -> EpochDone:
    metrics = dict.fromkeys(METRICS, float(ap))
    found = EvaluationRecord(trial.id, 1, "o2o", True, "default", metrics, ())
    return EpochDone(trial.id, 1, 3, {"loss": 1.0}, (found,), "", Cost())


def record(ledger: Ledger, sweep: SweepRecord, event: EpochDone) -> None:
    attempt = ledger.start_attempt(Claim(event.trial, sweep.id))
    ledger.record_epoch(event, attempt)
    ledger.end_attempt(
        attempt, AttemptEnd(TrialState.INTERRUPTED, Stop(TrialState.INTERRUPTED, "").reason, Cost())
    )
