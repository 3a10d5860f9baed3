"""Sweeps, their trials, and how a person finds them: on SQLite and on a real PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import RowFilter
from gaplab.records import CancelRequest
from gaplab.states import TrialState
from tests.builders import attempt_end, sweep_record, trial_record


class TestEmptyLedger:
    def test_every_query_is_empty(self, ledger: Ledger) -> None:
        assert ledger.sweeps() == []
        assert ledger.states([]) == ledger.states(["t1"]) == {}
        assert ledger.trials("s1") == []
        assert ledger.attempts("t1") == []
        assert ledger.evaluations("t1") == []
        assert list(ledger.all_trials()) == list(ledger.all_trials("s1")) == []
        assert list(ledger.all_evaluations()) == list(ledger.all_evaluations("s1")) == []
        assert ledger.protocols() == {}
        assert ledger.mark_orphaned_lost("driver died") == []
        assert ledger.drivers() == ledger.drivers("s1") == []
        assert ledger.cancelled("s1", "d1") == CancelRequest()
        assert ledger.costs() == {}
        assert ledger.rows(RowFilter()) == []
        assert ledger.coverage(RowFilter()) == []

    def test_a_sweep_without_trials(self, ledger: Ledger) -> None:
        ledger.add_sweep(sweep_record("s1"))
        assert ledger.sweep("s1").total == 0
        assert ledger.sweeps()[0].counts[TrialState.WAITING] == 0

    def test_unknown_ids_are_user_errors(self, ledger: Ledger) -> None:
        for find in (ledger.sweep, ledger.find_sweep, ledger.find_trial):
            with pytest.raises(UserError, match="'abc': not in the ledger"):
                find("abc")


class TestSweeps:
    def test_round_trip(self, ledger: Ledger) -> None:
        config = {"a": [1, 2.5, None, True], "ü": {"b": "日本 ☃ '\"%"}, "big": 2**53}
        first = trial_record("t2", seed=2**40, config=config, dataset="Zellen-ß", results_version=3)
        before = datetime.now(UTC)
        ledger.add_sweep(
            sweep_record("s1", first, trial_record("t1"), name="größe ☃", spec="ü: 1\n")
        )
        found = ledger.sweep("s1")
        assert (found.name, found.spec, found.total) == ("größe ☃", "ü: 1\n", 2)
        assert before <= found.created_at <= datetime.now(UTC)
        assert found.created_at.utcoffset() == timedelta(0)
        views = ledger.trials("s1")
        assert [view.id for view in views] == ["t2", "t1"]
        assert {**vars(views[0]), "state": 0, "created_at": 0} == {
            **vars(first),
            "state": 0,
            "created_at": 0,
        }
        assert ledger.find_trial("t2") == views[0]

    def test_adding_again_changes_nothing(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        before = (ledger.sweeps(), ledger.trials("s1"))
        ledger.add_sweep(sweep_record("s1", trial_record("t1"), trial_record("t2", seed=1)))
        assert (ledger.sweeps(), ledger.trials("s1")) == before

    def test_a_trial_of_two_sweeps_keeps_its_row(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        other = sweep_record("s2", trial_record("t3"), trial_record("t1"), name="second")
        ledger.add_sweep(other)
        assert [(v.id, v.state) for v in ledger.trials("s2")] == [
            ("t3", "waiting"),
            ("t1", "succeeded"),
        ]
        assert ledger.trials("s2")[1].config == trial_record("t1").config
        assert [each.id for each in ledger.sweeps()] == ["s2", "s1"]
        assert ledger.sweep("s2").counts == dict.fromkeys(TrialState, 0) | {
            "waiting": 1,
            "succeeded": 1,
        }

    def test_the_same_id_with_other_trials_is_refused(self, started: tuple[Ledger, int]) -> None:
        ledger, _ = started
        with pytest.raises(ValueError, match="sweep s1 is in the ledger with other trials"):
            ledger.add_sweep(sweep_record("s1", trial_record("t1"), trial_record("t9")))
        assert ledger.states(["t9"]) == {}

    def test_two_drivers_add_the_same_trials(self, url: str, ledger: Ledger) -> None:
        trials = [trial_record(f"t{number}") for number in range(300)]
        with Ledger.open(url) as other, ThreadPoolExecutor(2) as pool:
            one = pool.submit(ledger.add_sweep, sweep_record("s1", *trials))
            two = pool.submit(other.add_sweep, sweep_record("s2", *reversed(trials)))
            one.result(), two.result()
        assert [each.total for each in ledger.sweeps()] == [300, 300]

    def test_states_of_more_trials_than_one_statement_can_name(self, ledger: Ledger) -> None:
        ids = [f"t{number}" for number in range(40_000)]
        ledger.add_sweep(sweep_record("s1", *(trial_record(each) for each in ids[:3])))
        assert ledger.states(ids) == dict.fromkeys(ids[:3], "waiting")


class TestFinding:
    @pytest.fixture(autouse=True)
    def _sweeps(self, ledger: Ledger) -> None:
        trials = (trial_record("f00d"), trial_record("f0_x"))
        ledger.add_sweep(sweep_record("aa11", *trials, name="table-3"))
        ledger.add_sweep(sweep_record("aa22", trial_record("beef"), name="table-3"))
        ledger.add_sweep(sweep_record("b%33", name="Größe"))

    def test_a_sweep_by_name_or_id(self, ledger: Ledger) -> None:
        for wanted, found in (
            ("aa1", "aa11"),
            ("aa11", "aa11"),
            ("table-3", "aa22"),
            ("Größe", "b%33"),
            ("b%", "b%33"),
        ):
            assert ledger.find_sweep(wanted).id == found

    def test_no_or_several_sweeps(self, ledger: Ledger) -> None:
        for wanted, message in (
            ("aa", "'aa': several ids begin with it (aa11, aa22); type more of the id"),
            ("tabel-3", "'tabel-3': not in the ledger; did you mean table-3?"),
            ("%", "'%': not in the ledger; there are Größe, aa11, aa22, b%33, table-3"),
            ("", "'': not in the ledger; there are Größe, aa11, aa22, b%33, table-3"),
        ):
            with pytest.raises(UserError) as error:
                ledger.find_sweep(wanted)
            assert str(error.value) == f"sweep {message}"

    def test_a_trial_by_the_start_of_its_id(self, ledger: Ledger) -> None:
        assert ledger.find_trial("be").id == "beef"
        assert ledger.find_trial("f0_").id == "f0_x"
        with pytest.raises(UserError, match=r"several ids begin with it \(f00d, f0_x\)"):
            ledger.find_trial("f0")
        with pytest.raises(UserError, match="did you mean beef"):
            ledger.find_trial("beff")


class TestStoredSweep:
    def test_it_equals_what_was_added(self, ledger: Ledger) -> None:
        with pytest.raises(UserError, match="none in the ledger yet"):
            ledger.stored_sweep()
        first = sweep_record("s1", trial_record("t2"), trial_record("t1", seed=3), name="one")
        second = sweep_record("s2", trial_record("t9"), name="two")
        ledger.add_sweep(first)
        ledger.add_sweep(second)
        assert ledger.stored_sweep() == second
        assert ledger.stored_sweep("one") == ledger.stored_sweep("s1") == first
        with pytest.raises(UserError, match="did you mean two"):
            ledger.stored_sweep("tow")
