"""What commands ask the ledger: everything in it, costs, rows of tables; on both databases."""

from dataclasses import replace
from typing import Any

import pytest

from gaplab.ledger import Ledger, streams
from gaplab.ledger.views import METRICS, CostKey, Coverage, MeanCost, RowFilter
from gaplab.records import AttemptEnd, Claim, Cost, Started
from gaplab.states import TrialState
from tests.builders import (
    CROWD_VALUES,
    MACHINE,
    METRIC_VALUES,
    RULE,
    attempt_end,
    evaluation_record,
    sweep_record,
    trial_record,
)


class TestAllRows:
    @pytest.fixture
    def many(self, ledger: Ledger) -> Ledger:
        """Sweep s1 of 30 trials, the later half also in s2 in reverse; 3 evaluations per trial."""
        trials = [trial_record(f"t{number:02d}", seed=number) for number in range(30)]
        ledger.add_sweep(sweep_record("s1", *trials))
        ledger.add_sweep(sweep_record("s2", *reversed(trials[15:]), name="second"))
        for each in reversed(trials):
            attempt = ledger.start_attempt(Claim(each.id, "s1", machine=MACHINE))
            for epoch in (2, 1):
                ledger.record(evaluation_record(each.id, epoch, rule=RULE), attempt)
            crowd = evaluation_record(
                each.id, 2, protocol="crowd", metrics=CROWD_VALUES, candidates="c"
            )
            ledger.record(crowd, attempt)
        return ledger

    @pytest.fixture(params=[1000, 7])
    def rows_at_once(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "_FETCHED", request.param)

    @pytest.mark.usefixtures("rows_at_once")
    def test_all_sweeps(self, many: Ledger) -> None:
        trials, found = list(many.all_trials()), list(many.all_evaluations())
        assert trials == many.trials("s1")
        assert found == [each for t in trials for each in many.evaluations(t.id)]
        assert len(found) == 90

    @pytest.mark.usefixtures("rows_at_once")
    def test_one_sweep(self, many: Ledger) -> None:
        trials, found = list(many.all_trials("s2")), list(many.all_evaluations("s2"))
        assert trials == many.trials("s2")
        wanted = [each for t in reversed(trials) for each in many.evaluations(t.id)]
        assert found == wanted
        assert len(found) == 45
        assert list(many.all_trials("s")) == []
        assert list(many.all_evaluations("second")) == []

    def test_writing_while_reading(self, many: Ledger, url: str) -> None:
        """All rows come from one snapshot; a slow reader does not block writers."""
        reading = many.all_evaluations()
        first = next(reading)
        with Ledger.open(url) as other:
            attempt = other.attempts("t29")[0].id
            assert other.record(evaluation_record("t29", 9), attempt)
        assert len([first, *reading]) == 90
        assert len(list(many.all_evaluations())) == 91

    def test_reading_may_stop_early(self, many: Ledger) -> None:
        for _ in range(30):
            assert next(many.all_trials()).id == "t00"
            assert next(many.all_evaluations("s2")).trial == "t15"


class TestQuestions:
    def test_costs_are_means_of_whole_trials(self, ledger: Ledger) -> None:
        trials = [trial_record(f"t{n}", seed=n, epochs=12) for n in range(3)]
        ledger.add_sweep(sweep_record("s1", *trials, trial_record("u", epochs=3)))
        for identity, wall in (("t0", 10.0), ("t1", 30.0), ("u", 4.0)):
            attempt = ledger.start_attempt(Claim(identity, "s1", machine=MACHINE))
            ledger.end_attempt(
                attempt, AttemptEnd(TrialState.SUCCEEDED, "", Cost(2 * wall, wall / 2, wall))
            )
        resumed = attempt_end(TrialState.SUCCEEDED, cost=Cost(wall_seconds=1.0))  # only a part
        for end in (attempt_end(TrialState.FAILED), resumed):
            ledger.end_attempt(ledger.start_attempt(Claim("t2", "s1", machine=MACHINE)), end)
        assert ledger.costs() == {
            CostKey("shapes", "poto", 12): MeanCost(20.0, 40.0, 10.0, 2),
            CostKey("shapes", "poto", 3): MeanCost(4.0, 8.0, 2.0, 1),
        }

    @pytest.fixture
    def measured(self, started: tuple[Ledger, int]) -> Ledger:
        """t1: four epochs, two branches, default and defcn; t2: one epoch; s2 holds t1, too."""
        ledger, first = started
        ledger.add_sweep(sweep_record("s2", trial_record("t1"), name="second"))
        second = ledger.start_attempt(Claim("t2", "s1", machine=MACHINE))
        for epoch, ap in ((1, 5.0), (2, 9.0), (3, 9.0), (4, 7.0)):
            for branch in ("o2o", "o2m"):
                metrics = {**METRIC_VALUES, "ap": ap}
                each = evaluation_record(epoch=epoch, metrics=metrics, branch=branch)
                ledger.record(replace(each, primary=branch == "o2o"), first)
        ledger.record(evaluation_record(protocol="defcn", epoch=4), first)
        ledger.record(evaluation_record("t2"), second)
        uris: Any = {"candidates": "file:///c", "matches": "file:///m"}
        ledger.record(
            evaluation_record("t2", protocol="crowd", metrics=CROWD_VALUES, **uris), second
        )
        return ledger

    def test_rows(self, measured: Ledger) -> None:
        t1, t2 = ("t1", "s2", 4, "o2o"), ("t2", "s1", 1, "o2o")
        for wanted, found in (
            (RowFilter(), [t1, t2]),
            (RowFilter(epoch="best"), [("t1", "s2", 3, "o2o"), t2]),
            (RowFilter(epoch=2), [("t1", "s2", 2, "o2o")]),
            (RowFilter(branch="o2m"), [("t1", "s2", 4, "o2m")]),
            (RowFilter(protocol="defcn"), [t1]),
            (RowFilter(sweep="s1"), [("t1", "s1", 4, "o2o"), t2]),
            (RowFilter(sweep="s2", assignment="poto", dataset="shapes"), [t1]),
            (RowFilter(dataset="coco"), []),
            (RowFilter(assignment="fcos"), []),
            (RowFilter(protocol="o2f"), []),
            (RowFilter(protocol="crowd"), [("t2", "s1", 1, "o2o")]),
            (RowFilter(trials=("t2", "t9")), [t2]),
            (RowFilter(trials=("t1", "t2"), sweep="s2"), [t1]),
            (RowFilter(trials=()), []),
        ):
            rows = measured.rows(wanted)
            assert sorted((row.trial, row.sweep, row.epoch, row.branch) for row in rows) == found
            assert {row.protocol for row in rows} <= {wanted.protocol}

    def test_other_truth_is_returned_on_request_only(self, measured: Ledger) -> None:
        """It has an epoch and a protocol of its own, and the highest AP."""
        before = {
            wanted: (measured.rows(wanted), measured.coverage(wanted))
            for wanted in (RowFilter(), RowFilter(epoch="best"), RowFilter(branch="o2o"))
        }
        other, attempt = "0123456789ab", measured.attempts("t1")[0].id
        metrics = {**METRIC_VALUES, "ap": 99.0}
        for protocol in ("default", "onenet"):
            each = evaluation_record(epoch=9, protocol=protocol, metrics=metrics, truth=other)
            measured.record(each, attempt)
        for wanted, found in before.items():
            assert (measured.rows(wanted), measured.coverage(wanted)) == found
            [row] = measured.rows(replace(wanted, truth=other))
            assert (row.trial, row.epoch, row.ap, row.truth) == ("t1", 9, 99.0, other)
        assert measured.rows(RowFilter(protocol="onenet")) == []
        assert measured.coverage(RowFilter(truth=other)) == [
            Coverage("default", "o2o", 9, 9),
            Coverage("onenet", "o2o", 9, 9),
        ]

    def test_the_fields_of_a_row(self, measured: Ledger) -> None:
        [row] = measured.rows(RowFilter(epoch=2))
        about = (row.sweep_name, row.assignment, row.family, row.dataset, row.seed, row.state)
        assert about == ("second", "poto", "o2o", "shapes", 0, "running")
        assert (row.epochs, row.results_version, row.config) == (3, 1, trial_record("t1").config)
        assert {name: getattr(row, name) for name in METRICS} == {**METRIC_VALUES, "ap": 9.0}

    @pytest.mark.parametrize(
        ("device", "provenance", "expected"),
        [
            ("cpu", {"torch": {"cpu_capability": "AVX2"}}, "AVX2"),
            ("H200", {"torch": {"cpu_capability": "AVX2"}}, ""),
            ("cpu", {"torch": {}}, ""),
            ("cpu", {}, ""),
        ],
    )
    def test_vector_instructions(
        self, ledger: Ledger, device: str, provenance: dict[str, Any], expected: str
    ) -> None:
        ledger.add_sweep(sweep_record("s1", trial_record()))
        attempt = ledger.start_attempt(Claim("t1", "s1"))
        machine = replace(MACHINE, device=device)
        ledger.begin_attempt(attempt, Started("t1", machine, 0, provenance))
        ledger.record(evaluation_record(), attempt)
        assert [row.instructions for row in ledger.rows(RowFilter())] == [expected]

    def test_a_row_of_another_evaluator(self, measured: Ledger) -> None:
        [row] = measured.rows(RowFilter(protocol="crowd"))
        assert (row.ap, row.ap_nms, row.gap) == (1.0, 2.5, -1.5)
        assert {getattr(row, name) for name in METRICS[3:]} == {None}
        assert row.more == {
            name: value for name, value in CROWD_VALUES.items() if name not in METRICS
        }
        assert (row.candidates, row.matches) == ("file:///c", "file:///m")
        [row] = measured.rows(RowFilter(epoch=2))
        assert (row.more, row.candidates, row.matches) == ({}, "", "")

    def test_coverage(self, measured: Ledger) -> None:
        default = [Coverage("default", "o2m", 1, 4), Coverage("default", "o2o", 1, 4)]
        crowd, defcn = Coverage("crowd", "o2o", 1, 1), Coverage("defcn", "o2o", 4, 4)
        assert measured.coverage(RowFilter()) == [crowd, *default, defcn]
        assert measured.coverage(RowFilter(sweep="s2", epoch=9, protocol="x")) == [
            *default,
            Coverage("defcn", "o2o", 4, 4),
        ]
        assert measured.coverage(RowFilter(dataset="coco")) == []
        assert measured.coverage(RowFilter(trials=("t1",))) == [*default, defcn]
        assert measured.coverage(RowFilter(trials=())) == []
