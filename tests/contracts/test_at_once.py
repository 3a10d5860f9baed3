"""Claims with a limit on the running trials of a sweep: on SQLite and on a real PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError, LimitError
from gaplab.ledger.views import TrialView
from gaplab.records import Claim
from gaplab.states import TrialState
from tests.builders import attempt_end, driver_record, sweep_record, trial_record
from tests.examples import examples

STOPPED = attempt_end(TrialState.INTERRUPTED)


def running(ledger: Ledger, sweep: str) -> list[TrialView]:
    return [each for each in ledger.trials(sweep) if each.state == TrialState.RUNNING]


def test_a_claim_beyond_the_limit_changes_nothing(two: Ledger) -> None:
    first = Claim("t1", "s1", "d1", at_once=2)
    attempt = two.start_attempt(first)
    two.start_attempt(Claim("t2", "s1", "d2", at_once=2))
    with pytest.raises(LimitError, match="trial t3 can't start: 2 of sweep s1 are running") as e:
        two.start_attempt(Claim("t3", "s1", "d1", at_once=2))
    assert e.value.state == TrialState.WAITING
    assert two.states(["t3"]) == {"t3": TrialState.WAITING}
    assert two.attempts("t3") == []
    assert two.start_attempt(first) == attempt, "a repetition is accepted"
    two.end_attempt(attempt, STOPPED)
    two.start_attempt(Claim("t3", "s1", "d1", at_once=2))


def test_trials_that_another_sweep_runs_do_not_count(two: Ledger) -> None:
    two.start_attempt(Claim("t1", "s2", "d1"))
    two.start_attempt(Claim("t2", "s1", "d1", at_once=1))
    with pytest.raises(LimitError):
        two.start_attempt(Claim("t3", "s1", "d1", at_once=1))
    two.start_attempt(Claim("t3", "s1", "d1"))


def test_trials_of_a_driver_that_is_lost_do_not_count(two: Ledger) -> None:
    two.start_attempt(Claim("t1", "s1", "d1", at_once=1))
    two.mark_lost(two.drivers()[0], "it died")
    two.start_attempt(Claim("t2", "s1", "d2", at_once=1))


@settings(examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["claim", "end"]), st.integers(1, 4)),
        max_size=25,
    )
)
def test_any_order_of_claims_and_ends(ledger: Ledger, steps: list[tuple[int, str, int]]) -> None:
    """Compared with a set of running trials."""
    sweep = uuid4().hex
    names = [f"{sweep}-{number}" for number in range(5)]
    ledger.add_sweep(sweep_record(sweep, *(trial_record(each) for each in names)))
    model: dict[str, int] = {}
    for number, step, limit in steps:
        name = names[number]
        if step == "end":
            if (attempt := model.pop(name, None)) is not None:
                ledger.end_attempt(attempt, STOPPED)
            continue
        claim = Claim(name, sweep, at_once=limit)
        if name not in model and len(model) < limit:
            model[name] = ledger.start_attempt(claim)
        else:
            with pytest.raises(ClaimError) as raised:
                ledger.start_attempt(claim)
            assert isinstance(raised.value, LimitError) == (name not in model)
        assert {each.id for each in running(ledger, sweep)} == set(model)


def test_drivers_that_claim_at_the_same_time(ledger: Ledger, url: str) -> None:
    """Every driver claims and ends trials; none may ever see more than two running."""
    drivers, limit = 4, 2
    trials = [f"t{number}" for number in range(drivers)]
    ledger.add_sweep(sweep_record("s1", *(trial_record(each) for each in trials)))
    together = Barrier(drivers)

    def drive(number: int) -> int:
        try:
            return claim_often(number)
        except BaseException:  # the others must not wait for ever
            together.abort()
            raise

    def claim_often(number: int) -> int:
        """Claim as often as the others, each time together with them; return the successes."""
        started = 0
        with Ledger.open(url) as own:
            own.add_driver(driver_record(f"d{number}", "s1"), 60.0)
            for _ in range(10):
                together.wait()
                try:
                    attempt = own.start_attempt(
                        Claim(trials[number], "s1", f"d{number}", at_once=limit)
                    )
                except LimitError:
                    attempt = None
                together.wait()
                assert len(running(own, "s1")) == limit, "as many as may, and no more"
                together.wait()
                if attempt is not None:
                    started += 1
                    own.end_attempt(attempt, STOPPED)
        return started

    with ThreadPoolExecutor(drivers) as pool:
        assert sum(pool.map(drive, range(drivers))) == 10 * limit
