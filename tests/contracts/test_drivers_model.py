"""Random sequences of what drivers do to a ledger, compared with a model in memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.ledger.views import DriverView
from gaplab.records import Claim
from gaplab.states import ENDS, TrialState
from tests.builders import (
    attempt_end,
    driver_record,
    epoch_done,
    evaluation_record,
    sweep_record,
    trial_record,
)

TRIALS, DRIVERS = ("t1", "t2"), ("d1", "d2", "d3")


@dataclass
class ModelAttempt:
    """What the ledger must hold of an attempt."""

    id: int
    driver: str
    state: TrialState = TrialState.RUNNING


class Drivers(RuleBasedStateMachine):
    """Drivers that claim, record, end, renew their leases or not, and mark each other as lost."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger.open(self.url)
        self.sweep = f"s{uuid4().hex}"
        self.names = {each: f"{self.sweep}-{each}" for each in (*TRIALS, *DRIVERS)}
        trials = (trial_record(self.names[each]) for each in TRIALS)
        self.ledger.add_sweep(sweep_record(self.sweep, *trials))
        for each in DRIVERS:
            self.ledger.add_driver(driver_record(self.names[each], self.sweep), 60.0)
        self.model: dict[str, list[ModelAttempt]] = {each: [] for each in TRIALS}
        self.evaluated: dict[tuple[str, int], int] = {}
        self.views: dict[str, DriverView] = {}
        self.renewed: set[str] = set()
        self.ended: set[str] = set()

    def teardown(self) -> None:
        for each in DRIVERS:
            self.ledger.end_driver(self.names[each])
        self.ledger.mark_orphaned_lost("the test is over")
        self.ledger.close()

    def attempts(self) -> Iterator[ModelAttempt]:
        return (each for attempts in self.model.values() for each in attempts)

    @rule(which=st.sampled_from(TRIALS), driver=st.sampled_from(DRIVERS))
    def claim(self, which: str, driver: str) -> None:
        claim = Claim(self.names[which], self.sweep, self.names[driver])
        state = self.model[which][-1].state if self.model[which] else TrialState.WAITING
        if state.retryable:
            self.model[which].append(ModelAttempt(self.ledger.start_attempt(claim), driver))
        else:
            with pytest.raises(ClaimError) as error:
                self.ledger.start_attempt(claim)
            assert error.value.state == state

    @precondition(lambda self: any(self.attempts()))
    @rule(data=st.data(), epoch=st.integers(1, 2))
    def record(self, data: st.DataObject, epoch: int) -> None:
        which = data.draw(st.sampled_from([t for t in TRIALS if self.model[t]]))
        attempt = data.draw(st.sampled_from(self.model[which]))
        name = self.names[which]
        done = epoch_done(name, epoch, evaluation_record(name, epoch))
        if attempt.state == TrialState.RUNNING:
            self.ledger.record_epoch(done, attempt.id)
            self.evaluated.setdefault((which, epoch), attempt.id)
        else:
            with pytest.raises(ClaimError) as error:
                self.ledger.record_epoch(done, attempt.id)
            assert error.value.state == attempt.state

    @precondition(lambda self: any(self.attempts()))
    @rule(data=st.data(), state=st.sampled_from(ENDS))
    def end(self, data: st.DataObject, state: TrialState) -> None:
        attempt = data.draw(st.sampled_from(list(self.attempts())))
        if attempt.state in (TrialState.RUNNING, state):
            self.ledger.end_attempt(attempt.id, attempt_end(state))
            attempt.state = state
        else:
            with pytest.raises(ClaimError) as error:
                self.ledger.end_attempt(attempt.id, attempt_end(state))
            assert error.value.state == attempt.state

    @rule(driver=st.sampled_from(DRIVERS))
    def look(self, driver: str) -> None:
        for each in self.ledger.drivers(self.sweep):
            if each.id == self.names[driver]:
                self.views[driver] = each
                self.renewed.discard(driver)

    @rule(driver=st.sampled_from(DRIVERS))
    def renew_lease(self, driver: str) -> None:
        held = self.ledger.renew_lease(self.names[driver], 60.0, 1, "")
        mine = (a for a in self.attempts() if a.driver == driver)
        assert held == {a.id for a in mine if a.state == TrialState.RUNNING}
        self.renewed.add(driver)
        self.ended.discard(driver)

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def mark_lost(self, data: st.DataObject) -> None:
        driver = data.draw(st.sampled_from(sorted(self.views)))
        if driver in self.renewed:
            assert self.ledger.mark_lost(self.views[driver], "silent") == []
        else:
            wanted = self.interrupt(lambda each: each == driver)
            assert self.ledger.mark_lost(self.views[driver], "silent") == wanted
            self.ended.add(driver)

    @rule(driver=st.sampled_from(DRIVERS))
    def end_driver(self, driver: str) -> None:
        self.ledger.end_driver(self.names[driver])
        self.ended.add(driver)

    @rule()
    def mark_orphaned_lost(self) -> None:
        wanted = self.interrupt(lambda each: each in self.ended)
        assert self.ledger.mark_orphaned_lost("not known") == wanted

    def interrupt(self, chosen: Callable[[str], bool]) -> list[str]:
        """Interrupt the running attempts of chosen drivers in the model. Returns their trials."""
        found = []
        for name, attempts in self.model.items():
            for each in attempts:
                if each.state == TrialState.RUNNING and chosen(each.driver):
                    each.state = TrialState.INTERRUPTED
                    found.append(self.names[name])
        return sorted(found)

    @invariant()
    def equals_the_model(self) -> None:
        for name, attempts in self.model.items():
            trial = self.names[name]
            found = self.ledger.attempts(trial)
            assert [(a.id, a.state) for a in found] == [(a.id, a.state) for a in attempts]
            assert [a.number for a in found] == list(range(1, len(found) + 1))
            assert sum(a.state == TrialState.RUNNING for a in found) <= 1
            assert TrialState.SUCCEEDED not in [a.state for a in found[:-1]]
            state = attempts[-1].state if attempts else TrialState.WAITING
            assert self.ledger.states([trial]) == {trial: state}
            kept = {(name, e.epoch): e.attempt for e in self.ledger.evaluations(trial)}
            assert kept == {key: value for key, value in self.evaluated.items() if key[0] == name}


def test_drivers_behave_like_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    Drivers.url = f"sqlite:///{tmp_path_factory.mktemp('model')}/ledger.db"
    run_state_machine_as_test(Drivers, settings=settings(max_examples=15, stateful_step_count=20))
