"""Rows of results in SQL, against Python: on SQLite and on a real PostgreSQL."""

import random
from dataclasses import replace
from statistics import mean, stdev
from typing import Any, Literal, get_args

import pytest

from detectors.assigners.base import Branch
from gaplab.errors import UserError
from gaplab.identity import canonical
from gaplab.ledger import Ledger
from gaplab.ledger.conditions import BRANCHES, GFLOPS, MORE
from gaplab.ledger.expression import parse
from gaplab.ledger.selection import default_order
from gaplab.ledger.views import METRICS, EvaluationView, GpuHours, Order, RowFilter
from gaplab.records import Claim, Cost, EvaluationRecord, Started, TrialRecord
from gaplab.results.comparison.columns import COMPUTED, with_columns
from gaplab.results.comparison.leaderboard import leaderboard, plain_row
from gaplab.states import TrialState
from tests.builders import (
    MACHINE,
    METRIC_VALUES,
    attempt_end,
    epoch_done,
    evaluation_record,
    measurement_record,
    sweep_record,
    trial_record,
)

ALPHAS: tuple[Any, ...] = (
    0.25,
    0.5,
    1,
    None,
    True,
    "0.5",
    "größe ☃'; DROP TABLE trial; --",
    [1, 2],
)
"""Values of the same key, of every type that JSON has."""


def trials() -> list[TrialRecord]:
    return [
        trial_record(
            f"t{at}",
            config={
                "assignment": {"name": "poto", "alpha": alpha} if at else {"name": "fcos"},
                "data": {"classes": list(range(300)), "option": {}},
                "seed": at % 3,
            },
            assignment="poto" if at else "fcos",
            seed=at % 3,
        )
        for at, alpha in enumerate(ALPHAS)
    ]


def evaluations() -> list[EvaluationRecord]:
    """Three epochs of every trial, of one also other branches and truth, in a random order."""
    random.seed(5)
    found = [
        evaluation_record(
            trial.id,
            epoch,
            branch=branch,
            primary=branch == "o2o",
            truth=truth,
            metrics={
                **METRIC_VALUES,
                "ap": float(random.randint(0, 4)),
                "ar": None if at % 2 else 60.0 + at,
                "ap_small": random.random(),
            },
        )
        for at, trial in enumerate(trials())
        for epoch in (1, 2, 3)
        for branch in (("o2o", "o2m") if at == 1 else ("o2o",))
        for truth in (("", "0123456789ab") if at == 1 else ("",))
    ]
    random.shuffle(found)
    return found


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger.add_sweep(sweep_record("s1", *trials()))
    attempts = {
        trial.id: ledger.start_attempt(Claim(trial.id, "s1", machine=MACHINE)) for trial in trials()
    }
    for trial, parameters in (("t1", 2_000_000), ("t2", 3_000_000)):
        started = Started(trial, MACHINE, 0, {"detector": {"parameters": parameters}})
        ledger.begin_attempt(attempts[trial], started)
    found = evaluations()
    for each in [*found, *found[:5]]:  # some once more, as after an unknown outcome
        ledger.record(each, attempts[each.trial])
    for at, attempt in enumerate(attempts.values()):
        if at != 3:
            end = attempt_end(TrialState.SUCCEEDED, cost=Cost(gpu_seconds=3600.0 * at))
            ledger.end_attempt(attempt, end)
    return ledger


def chosen(ledger: Ledger, rule: str, branch: str = "o2o") -> dict[str, EvaluationView]:
    """Choose evaluations in Python."""
    found: dict[str, EvaluationView] = {}
    for each in ledger.all_evaluations():
        if each.branch == branch:
            before = found.get(each.trial)
            last = before is None or each.epoch > before.epoch
            ap, old = each.metrics["ap"], before and before.metrics["ap"]
            assert ap is not None
            better = old is None or (ap, each.epoch) > (old, before.epoch if before else 0)
            if last if rule == "last" else better:
                found[each.trial] = each
    return found


CONDITIONS = [
    ("assignment.alpha == 0.5", {"t1"}),
    ("alpha == 0.5", {"t1"}),
    ("assignment.alpha=0.5", {"t1", "t5"}),
    ("alpha in (0.5, 1, 7)", {"t1", "t2"}),
    ("alpha == true", {"t4"}),
    ("alpha == null", {"t3"}),
    ('alpha == "0.5"', {"t5"}),
    ("alpha == [1, 2]", {"t7"}),
    ('alpha == "größe ☃\'; DROP TABLE trial; --"', {"t6"}),
    ("alpha < 1", {"t1"}),
    ("0.4 < alpha <= 1", {"t1", "t2"}),
    ("alpha != 0.5", {"t2", "t3", "t4", "t5", "t6", "t7"}),
    ("not alpha == 0.5", {"t0", "t2", "t3", "t4", "t5", "t6", "t7"}),
    ("alpha not in (0.5, 1)", {"t3", "t4", "t5", "t6", "t7"}),
    ('assignment == "fcos" or (seed == 1 and not alpha == true)', {"t0", "t1", "t7"}),
    ("seed in [0, 99999999999999999999999]", {"t0", "t3", "t6"}),
    ("seed < 1e30 and ar > 0", {"t0", "t2", "t4", "t6"}),
    ("not ar > 0", {"t1", "t3", "t5", "t7"}),
    ("ap > ap", set()),
    ("ap_nms >= ap_nms and trial == 't2'", {"t2"}),
    ('state != "succeeded"', {"t3"}),
    ("gpu_hours >= 6", {"t6", "t7"}),
    ("parameters > 2e6", {"t2"}),
    ("parameters > 0", {"t1", "t2"}),
    ("attempts == 1", {f"t{at}" for at in range(len(ALPHAS))}),
    (f"data.classes={list(range(300))}", {f"t{at}" for at in range(len(ALPHAS))}),
    ("data.option={}", {f"t{at}" for at in range(len(ALPHAS))}),
    ("data.option=[]", set()),
    ("ap_small >= 0 and ap_small < 0", set()),
]


def with_every_column(ledger: Ledger) -> None:
    """Add trials whose evaluations have every metric, or lack some, and epochs with positives."""
    random.seed(6)
    names = [each for each in MORE if each not in METRICS]
    records = [trial_record(f"u{at}", config={"seed": at}, seed=at) for at in range(4)]
    ledger.add_sweep(sweep_record("s2", *records))
    for at, trial in enumerate(records):
        attempt = ledger.start_attempt(Claim(trial.id, "s2", machine=MACHINE))
        detector = {"detector": {"parameters": random.randint(1, 9)}} if at else {}
        ledger.begin_attempt(attempt, Started(trial.id, MACHINE, 0, detector))
        for epoch in (1, 2, 3):
            for branch in ("o2m", "o2f"):
                metrics: dict[str, float | None] = {n: random.uniform(0, 9) for n in METRICS}
                metrics |= {n: random.randint(0, 2) if at else None for n in names[at:]}
                made = evaluation_record(
                    trial.id, epoch, branch=branch, primary=branch == "o2f", metrics=metrics
                )
                ledger.record(made, attempt)
            positives = {f"{branch}.score_gap": random.random() for branch in ("o2m", "o2f")[at:]}
            done = epoch_done(trial.id, epoch, losses={"o2f.cls": 1.0}, positives=positives)
            ledger.record_epoch(done, attempt)
        cost = Cost(at, at / 2, 3 - at, 7.0 * at)
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED, cost=cost))


class TestRows:
    def test_every_column_sorts_and_filters_as_it_is_shown(self, ledger: Ledger) -> None:
        with_every_column(ledger)
        for branch in ("o2m", "o2f"):
            wanted = RowFilter(branch=branch)
            rows = leaderboard(ledger, branch=branch)
            for name in (*METRICS, *MORE, *(each for each in COMPUTED if each != GFLOPS)):
                shown = with_columns(ledger, rows, [name], wanted)
                value = {row.trial: plain_row(row, ())[name] for row in shown}
                ap = {row.trial: row.ap for row in shown}
                order = default_order(name)
                sign = -1 if order.descending else 1
                known = {key: each for key, each in value.items() if each is not None}
                best = sorted(known, key=lambda key: (sign * known[key], -ap[key], key))
                best += sorted(value.keys() - known, key=lambda key: (-ap[key], key))
                ordered = ledger.rows(replace(wanted, order=order))
                assert [row.trial for row in ordered] == best, name
                limit = sorted(known.values())[len(known) // 2] if known else 0
                where = (parse(f"{name} >= {limit!r}"),)
                found = {row.trial for row in ledger.rows(replace(wanted, where=where))}
                assert found == {key for key, each in known.items() if each >= limit}, name

    @pytest.mark.parametrize(
        "wanted",
        [
            RowFilter(order=Order(GFLOPS)),
            RowFilter(where=(parse("gflops < 3"),)),
            RowFilter(pareto=("ap", GFLOPS), order=Order("ap")),
        ],
    )
    def test_a_column_that_the_database_lacks_is_refused_with_the_others(
        self, filled: Ledger, wanted: RowFilter
    ) -> None:
        with pytest.raises(UserError) as error:
            filled.rows(wanted)
        [line] = error.value.problems
        assert line.startswith("gflops: is computed for the rows shown, so nothing can be sorted")
        for name in ("ap", "duplicates", "gpu_hours", "parameters", "epochs_to_90", "score_gap"):
            assert name in line

    @pytest.mark.parametrize("rule", ["last", "best"])
    def test_chosen_evaluations(self, filled: Ledger, rule: Any) -> None:
        for branch in ("o2o", "o2m"):
            expected = chosen(filled, rule, branch)
            rows = filled.rows(RowFilter(epoch=rule, branch=branch))
            assert {r.trial: (r.epoch, r.ap, r.ar, r.more["ap_small"]) for r in rows} == {
                key: (e.epoch, *(e.metrics[n] for n in ("ap", "ar", "ap_small")))
                for key, e in expected.items()
            }

    def test_conditions(self, filled: Ledger) -> None:
        for text, expected in CONDITIONS:
            wanted = RowFilter(where=(parse(text),), order=Order("trial", False))
            found = [row.trial for row in filled.rows(wanted)]
            assert found == sorted(expected), text
            assert filled.count_rows(wanted) == len(expected), text

    def test_order_and_top(self, filled: Ledger) -> None:
        every = chosen(filled, "last")
        best = sorted(every, key=lambda key: (-(every[key].metrics["ap"] or 0), key))
        for top in (None, 1, 3, 99):
            rows = filled.rows(RowFilter(order=Order("ap"), top=top))
            assert [row.trial for row in rows] == best[:top]
        assert filled.count_rows(RowFilter(top=1)) == len(every)
        least = [row.trial for row in filled.rows(RowFilter(order=Order("ar", False)))]
        assert least[:4] == ["t0", "t2", "t4", "t6"]  # trials without AR come last
        small = [row.more["ap_small"] for row in filled.rows(RowFilter(order=Order("ap_small")))]
        assert small == sorted(filter(None, small), reverse=True)
        with pytest.raises(UserError, match="apx: no such key; did you mean ap"):
            filled.rows(RowFilter(order=Order("apx")))

    def test_pareto(self, filled: Ledger) -> None:
        rows = filled.rows(RowFilter())
        cost = {trial.id: at if at != 3 else None for at, trial in enumerate(trials())}
        points = {row.trial: (row.ap, cost[row.trial]) for row in rows}
        known = {key: (ap, hours) for key, (ap, hours) in points.items() if hours is not None}
        expected = {
            key
            for key, (ap, hours) in known.items()
            if not any(a >= ap and h <= hours for k, (a, h) in known.items() if k != key)
        }
        found = filled.rows(RowFilter(pareto=("ap", "gpu_hours"), order=Order("ap"), top=50))
        assert {row.trial for row in found} == expected

    def test_within_gpu_hours(self, filled: Ledger) -> None:
        rows = filled.rows(RowFilter(epoch=GpuHours(2.0), order=Order("trial", False)))
        assert {row.trial: row.epoch for row in rows} == {
            "t0": 3,
            "t1": 3,
            "t2": 3,
            "t3": 3,  # it is running, and its cost is not known yet
            "t4": 1,
            "t5": 1,
            "t6": 1,
        }

    def test_groups(self, filled: Ledger) -> None:
        found = filled.groups(RowFilter(), ["assignment", "seed"])
        rows = filled.rows(RowFilter())
        assert sum(each.trials for each in found) == len(rows)
        for each in found:
            key = (each.keys["assignment"], each.keys["seed"])
            aps = [row.ap for row in rows if (row.assignment, row.seed) == key]
            average, std = each.stats["ap"]
            assert average == pytest.approx(mean(aps))
            assert std == (pytest.approx(stdev(aps), abs=1e-6) if len(aps) > 1 else None)
            assert each.unfinished == sum(
                row.state != "succeeded" for row in rows if (row.assignment, row.seed) == key
            )
        means = [each.stats["ap"][0] for each in found]
        assert means == sorted(means, reverse=True)
        both = filled.groups(RowFilter(), ["assignment", "alpha", "assignment.name", "seed"])
        assert [each.trials for each in both] == [1] * len(rows)
        assert {each.keys["assignment"] for each in both} == {"poto", "fcos"}
        assert all(each.keys["assignment"] == each.keys["assignment.name"] for each in both)
        by_alpha = filled.groups(RowFilter(), ["alpha"])
        values = [str(each.keys["alpha"]) for each in by_alpha]
        assert sorted(values) == sorted(map(str, (None, *ALPHAS[1:])))  # t0 has no alpha

    def test_sections(self, filled: Ledger) -> None:
        found = filled.sections(RowFilter())
        expected = [{"assignment": trial.config["assignment"]} for trial in trials()]
        assert list(found) == ["assignment"]
        texts = [
            sorted(canonical(each) for each in side) for side in (found["assignment"], expected)
        ]
        assert texts[0] == texts[1]
        assert filled.sections(RowFilter(trials=("t1",))) == {}

    @pytest.mark.parametrize("epoch", ["last", "best"])
    def test_sections_of_all_are_those_of_a_condition_that_always_holds(
        self, filled: Ledger, epoch: Literal["last", "best"]
    ) -> None:
        """They are read by two different queries."""
        every = filled.sections(RowFilter(epoch=epoch))
        assert every
        assert every == filled.sections(RowFilter(epoch=epoch, where=(parse("epoch >= 0"),)))
        assert filled.sections(RowFilter(epoch=epoch, protocol="onenet")) == {}

    def test_unknown_names_are_all_listed(self, filled: Ledger) -> None:
        where = (parse('assignment.alhpa == 1 and (sede < 3 or state == "x")'), parse("nmae=3"))
        with pytest.raises(UserError) as error:
            filled.rows(RowFilter(where=where))
        first, second, third = error.value.problems
        assert first.startswith("assignment.alhpa: no such key; did you mean assignment.alpha")
        assert "-->assignment.alhpa<-- == 1 and (sede" in first
        assert second.startswith("sede: no such key; did you mean seed")
        assert third.startswith("nmae: no such key")

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ('ap > "a"', '-->ap<-- > "a": ap is compared with a number by >'),
            ('assignment < "a"', "assignment is text, which has no order by <"),
            ("ap > alpha", "only two metrics are compared"),
            ('alpha > "a"', "alpha is compared with a number"),
        ],
    )
    def test_values_of_the_wrong_type(self, filled: Ledger, text: str, part: str) -> None:
        with pytest.raises(UserError) as error:
            filled.rows(RowFilter(where=(parse(text),)))
        assert part in str(error.value)


def test_all_branches_have_a_score_gap() -> None:
    assert get_args(Branch) == BRANCHES


def test_a_rerun_forgets_what_was_chosen(filled: Ledger) -> None:
    assert filled.rerun("t1")
    assert "t1" not in {row.trial for row in filled.rows(RowFilter())}
    attempt = filled.start_attempt(Claim("t1", "s1", machine=MACHINE))
    again = evaluation_record("t1", 1, metrics={**METRIC_VALUES, "ap": 0.5})
    filled.record_epoch(epoch_done("t1", 1, again), attempt)
    [row] = filled.rows(RowFilter(trials=("t1",), epoch="best"))
    assert (row.epoch, row.ap) == (1, 0.5)


def test_measurements_are_sorted_among_trials(filled: Ledger) -> None:
    for ap in (90.0, 3.5):
        metrics = {**METRIC_VALUES, "ap": ap, "ap_small": 1.0}
        source = {"detections": f"{ap}.json"}
        filled.add_measurement(measurement_record(metrics=metrics, family="yolo", source=source))
    rows = filled.rows(RowFilter(order=Order("ap")))
    aps = [row.ap for row in rows]
    assert aps == sorted(aps, reverse=True)
    [row] = [row for row in rows if row.trial == "m1"]
    assert (row.ap, row.more["ap_small"], row.epochs) == (3.5, 1.0, 0)
    small = filled.rows(RowFilter(order=Order("ap_small"), top=1))
    assert small == [row]  # the others are below 1
    [same] = filled.rows(RowFilter(where=(parse('source.detections == "3.5.json"'),)))
    assert same == row
    assert filled.rows(RowFilter(where=(parse('source.detections == "90.0.json"'),))) == []
