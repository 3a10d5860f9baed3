"""Evaluations and the rules of their protocols: on SQLite and on a real PostgreSQL."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from detectors.evaluation.metrics import ClassGap
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS, PLAIN_EVALUATION, RowFilter
from gaplab.records import EvaluationRecord
from gaplab.states import TrialState
from tests.builders import (
    CROWD_VALUES,
    METRIC_VALUES,
    RULE,
    attempt_end,
    epoch_done,
    evaluation_record,
)


class TestEvaluations:
    def test_round_trip(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        classes = (ClassGap("größe ☃", 1 / 3, 2 / 3, -1 / 3), ClassGap("b", None, None, None))
        metrics = {name: value / 7 for name, value in METRIC_VALUES.items()}
        wanted = evaluation_record(
            classes=classes,
            metrics=metrics,
            branch="o2m",
            primary=False,
            candidates="s3://b/ü",
            matches="file:///m ☃",
            rule=RULE,
        )
        assert ledger.record(wanted, attempt) is True
        [found] = ledger.evaluations("t1")
        assert found.attempt == attempt
        assert {key: vars(found)[key] for key in vars(wanted)} == vars(wanted)

    def test_plain_rows(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        metrics = {name: value / 7 for name, value in METRIC_VALUES.items()}
        classes = (ClassGap("größe ☃", 1 / 3, 2 / 3, -1 / 3), ClassGap("b", None, None, None))
        ledger.record(evaluation_record(metrics=metrics, classes=classes, matches="m"), attempt)
        [[row]] = ledger.plain_evaluations()
        [found] = ledger.evaluations("t1")
        values = dict(zip(PLAIN_EVALUATION, row, strict=True))
        assert values.pop("created_at") == f"{found.created_at:%Y-%m-%d %H:%M:%S.%f}"
        assert json.loads(values.pop("more")) == {
            name: value for name, value in metrics.items() if name not in METRICS
        }
        assert {name: values.pop(name) for name in METRICS} == {
            name: metrics.get(name) for name in METRICS
        }
        key = {"trial_id": "t1", "epoch": found.epoch, "branch": "o2o", "protocol": "default"}
        others = {"is_primary": True, "attempt_id": attempt, "candidates": None, "matches": "m"}
        assert values == key | {"truth": ""} | others
        [[row]] = ledger.plain_classes()
        assert tuple(row[:-1]) == (*key.values(), "")
        assert json.loads(row[-1]) == [vars(each) for each in classes]
        assert list(ledger.plain_evaluations("unknown")) == []
        assert list(ledger.plain_classes("unknown")) == []

    @pytest.mark.parametrize(
        "metrics",
        [
            {"ap": 1.0, "ap_nms": 2.0, "gap": -1.0},
            CROWD_VALUES,
            {
                **METRIC_VALUES,
                "ap_small": None,
                "ap_small_nms": None,
                "ar@1": 1 / 3,
                "größe ☃": 1e-300,
            },
            {**METRIC_VALUES, "ar": None, "ar_gap": None},
            {"ap": 0, "ap_nms": 1, "gap": -1, "trial_id": 3.5, "more": 0.0},
        ],
    )
    def test_any_metrics_are_returned_unchanged(
        self, started: tuple[Ledger, int], metrics: dict[str, float | None]
    ) -> None:
        ledger, attempt = started
        ledger.record(evaluation_record(metrics=metrics), attempt)
        [found], [row] = ledger.evaluations("t1"), ledger.rows(RowFilter())
        assert found.metrics == metrics
        assert {name: getattr(row, name) for name in METRICS} == {
            name: metrics.get(name) for name in METRICS
        }
        others = {name: value for name, value in metrics.items() if name not in METRICS}
        assert {name: row.more[name] for name in others} == others

    def test_evaluations_against_other_truth_are_apart(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        own, digests = evaluation_record(), ("0123456789ab", "ba9876543210")
        others = [
            evaluation_record(truth=each, metrics={**METRIC_VALUES, "ap": 1.0}) for each in digests
        ]
        assert all(ledger.record(each, attempt) for each in (*others, own))
        assert not any(ledger.record(each, attempt) for each in (*others, own))
        assert [e.truth for e in ledger.evaluations("t1")] == [""]
        assert [e.truth for e in ledger.evaluations("t1", None)] == ["", *digests]
        [found] = ledger.evaluations("t1", digests[1])
        assert (found.truth, found.metrics) == (digests[1], others[1].metrics)
        assert list(ledger.all_evaluations()) == ledger.evaluations("t1")
        assert list(ledger.all_evaluations(truth=None)) == ledger.evaluations("t1", None)
        assert ledger.truths() == list(digests)

    def test_uris_are_set_in_the_row_of_their_truth(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        for truth in ("", "0123456789ab"):
            ledger.record(evaluation_record(truth=truth), attempt)
        ledger.record(evaluation_record(truth="0123456789ab", matches="m"), attempt)
        assert [e.matches for e in ledger.evaluations("t1", None)] == ["", "m"]

    def test_a_rerun_deletes_the_evaluations_against_any_truth(
        self, started: tuple[Ledger, int]
    ) -> None:
        ledger, attempt = started
        for truth in ("", "0123456789ab"):
            ledger.record(evaluation_record(truth=truth), attempt)
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        assert ledger.rerun("t1")
        assert ledger.evaluations("t1", None) == []

    def test_the_first_evaluation_stays(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        assert ledger.record(evaluation_record(), attempt)
        before = ledger.evaluations("t1")
        changed = {name: value + 1 for name, value in METRIC_VALUES.items()}
        for _ in range(3):
            assert ledger.record(evaluation_record(metrics=changed, classes=()), attempt) is False
        assert ledger.evaluations("t1") == before

    def test_epoch_branch_and_protocol_are_the_key(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        records = [
            evaluation_record(epoch=epoch, branch=branch, protocol=protocol)
            for epoch in (2, 1)
            for branch in ("o2o", "o2m")
            for protocol in ("defcn", "default")
        ]
        assert all(ledger.record(each, attempt) for each in records)
        found = [(each.epoch, each.branch, each.protocol) for each in ledger.evaluations("t1")]
        assert found == sorted((each.epoch, each.branch, each.protocol) for each in records)

    def test_one_row_from_many_connections(self, started: tuple[Ledger, int], url: str) -> None:
        ledger, attempt = started
        records = [
            evaluation_record(epoch=number % 5, metrics=dict.fromkeys(METRICS, float(number)))
            for number in range(100)
        ]
        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            jobs = [
                pool.submit((ledger, other)[number % 2].record, each, attempt)
                for number, each in enumerate(records)
            ]
            new = [each for each, job in zip(records, jobs, strict=True) if job.result()]
        found = ledger.evaluations("t1")
        assert sorted(each.epoch for each in new) == [0, 1, 2, 3, 4]
        assert {each.epoch: each.metrics for each in found} == {e.epoch: e.metrics for e in new}
        assert len(found) == 5

    def test_a_value_that_is_not_finite_is_refused(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match="trial t1, epoch 1: not finite: gap"):
                ledger.record(evaluation_record(metrics={**METRIC_VALUES, "gap": value}), attempt)
            with pytest.raises(ValueError, match="not finite: ar1"):
                ledger.record(evaluation_record(metrics={**METRIC_VALUES, "ar1": value}), attempt)
            with pytest.raises(ValueError, match="class a: not finite: ap_nms"):
                ledger.record(
                    evaluation_record(classes=(ClassGap("a", None, value, 0.0),)), attempt
                )
        assert ledger.evaluations("t1") == []

    def test_ap_and_gap_are_required(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        for metrics in ({**METRIC_VALUES, "ap": None, "gap": None}, {"ap_nms": 1.0, "ar": 2.0}):
            with pytest.raises(ValueError, match="trial t1, epoch 1: no value for ap, gap"):
                ledger.record(evaluation_record(metrics=metrics), attempt)
        assert ledger.evaluations("t1") == []

    def test_empty_uris_are_set_once(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record(evaluation_record(), attempt)
        ledger.record(evaluation_record(epoch=2), attempt)
        other = {name: value + 1 for name, value in METRIC_VALUES.items()}
        for candidates, matches, wanted in (
            ("", "", ("", "")),
            ("c1", "", ("c1", "")),
            ("c2", "m1", ("c1", "m1")),
            ("", "m2", ("c1", "m1")),
            ("", "", ("c1", "m1")),
        ):
            again = evaluation_record(
                metrics=other, classes=(), candidates=candidates, matches=matches
            )
            assert ledger.record(again, attempt) is False
            found, untouched = ledger.evaluations("t1")
            assert (found.candidates, found.matches, found.metrics) == (*wanted, METRIC_VALUES)
            assert (untouched.candidates, untouched.matches) == ("", "")

    def test_metrics_of_later_releases_are_added_once(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        stored = {**METRIC_VALUES, "ap75": None, "ap_small": None}
        ledger.record(evaluation_record(metrics=stored), attempt)
        for number in (1.0, 2.0):
            later = dict.fromkeys((*stored, "duplicates"), number) | {"mmr": None}
            assert ledger.record(evaluation_record(metrics=later), attempt) is False
            [found] = ledger.evaluations("t1")
            assert found.metrics == {**stored, "duplicates": 1.0, "mmr": None}

    def test_the_attempt_must_be_one_of_the_trial(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        for identity, number in (("t2", attempt), ("t1", attempt + 1), ("t9", attempt)):
            with pytest.raises(
                ValueError, match=f"attempt {number} is not one of trial {identity}"
            ):
                ledger.record(evaluation_record(identity), number)

    def test_a_new_protocol_after_the_end(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        assert ledger.record(evaluation_record(protocol="defcn"), attempt)
        assert ledger.states(["t1"]) == {"t1": "succeeded"}


class TestProtocols:
    def test_the_first_rule_is_kept(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record(evaluation_record(), attempt)
        assert ledger.protocols() == {}
        ledger.record(evaluation_record(epoch=2, rule=RULE), attempt)
        ledger.record(evaluation_record(epoch=3, rule=dict(reversed(RULE.items()))), attempt)
        ledger.record(evaluation_record(epoch=4), attempt)
        ledger.record(evaluation_record(protocol="a", rule={"nms_iou": 0.5}), attempt)
        assert ledger.protocols() == {"a": {"nms_iou": 0.5}, "default": RULE}
        assert list(ledger.protocols()) == ["a", "default"]
        assert [e.rule for e in ledger.evaluations("t1")] == [{"nms_iou": 0.5}, *[RULE] * 4]

    def test_a_name_never_has_two_meanings(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record(evaluation_record(rule=RULE), attempt)
        for other in (RULE | {"nms_iou": 0.5}, RULE | {"new": 1}, {"nms_iou": 0.6}):
            for epoch in (1, 2):
                with pytest.raises(ValueError, match="protocol default is in the ledger with ano"):
                    ledger.record(evaluation_record(epoch=epoch, rule=other), attempt)
        with pytest.raises(ValueError, match="not JSON compliant"):
            ledger.record(evaluation_record(protocol="b", rule={"nms_iou": math.nan}), attempt)
        assert ledger.protocols() == {"default": RULE}
        assert [e.epoch for e in ledger.evaluations("t1")] == [1]

    def test_a_rule_is_stored_with_its_evaluation_or_not_at_all(
        self, started: tuple[Ledger, int]
    ) -> None:
        ledger, attempt = started
        with pytest.raises(ValueError, match="is not one of trial t2"):
            ledger.record(evaluation_record("t2", rule=RULE), attempt)
        assert ledger.protocols() == {}

    def test_many_connections_agree_on_one_rule(
        self, started: tuple[Ledger, int], url: str
    ) -> None:
        ledger, attempt = started
        records = [evaluation_record(epoch=n, rule={"nms_iou": n % 4 / 4}) for n in range(80)]

        def kept(number: int, each: EvaluationRecord) -> bool:
            try:
                return (ledger, other)[number // 4 % 2].record(each, attempt)
            except ValueError:
                return False

        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            told = list(pool.map(kept, range(80), records))
        [rule] = ledger.protocols().values()
        assert told == [each.rule == rule for each in records]
        assert len(ledger.evaluations("t1")) == 20

    def test_a_driver_and_a_reevaluation_side_by_side(
        self, started: tuple[Ledger, int], url: str
    ) -> None:
        """Both write the same new protocols and URIs, in opposite orders."""
        ledger, attempt = started
        every = [
            evaluation_record(
                epoch=epoch, protocol=protocol, rule={"name": protocol}, candidates="c"
            )
            for epoch in range(5)
            for protocol in "abcdefgh"
        ]
        done = epoch_done("t1", 5, *every, checkpoint="")
        back = replace(done, evaluations=tuple(reversed(every)))
        with Ledger.open(url) as other, ThreadPoolExecutor(2) as pool:
            one = pool.submit(ledger.record_epoch, done, attempt)
            two = pool.submit(other.record_epoch, back, attempt)
            one.result(), two.result()
        assert len(ledger.evaluations("t1")) == len(every)
        assert list(ledger.protocols()) == list("abcdefgh")


class TestLosses:
    def test_they_are_stored_once_and_deleted_by_a_rerun(self, started: tuple[Ledger, int]) -> None:
        """A repeated event changes nothing, and a repetition adds the epochs that were missed."""
        ledger, attempt = started
        first, second = {"o2o.cls": 1 / 3, "größe ☃": 1e-300}, {"o2o.cls": 0.25}
        for _ in range(2):
            ledger.record_epoch(epoch_done("t1", 2, losses=second), attempt)
        assert ledger.losses("t1") == {2: second}
        assert ledger.losses("t2") == {}
        repetition = {1: first, 2: {"o2o.cls": 9.0}}
        ledger.record_epoch(epoch_done("t1", 2, earlier=repetition), attempt)
        assert ledger.losses("t1") == {1: first, 2: second}
        assert [(row.trial, row.epoch) for row in ledger.all_losses()] == [("t1", 1), ("t1", 2)]
        assert list(ledger.all_losses(sweep="s9")) == []
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        assert ledger.rerun("t1")
        assert ledger.losses("t1") == {}

    def test_positives_are_stored_with_them(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        first, second = {"o2o.rank": 1.5}, {"o2o.rank": 1 / 3, "o2m.score": 1e-300}
        done = epoch_done("t1", 2, losses={"o2o.cls": 0.5}, positives=second)
        ledger.record_epoch(done, attempt)
        assert ledger.positives("t1") == {2: second}
        losses = {epoch: {"o2o.cls": 9.0} for epoch in (1, 2, 3)}
        missed = {1: first, 2: first, 3: {}}
        repetition = epoch_done("t1", 3, earlier=losses, earlier_positives=missed)
        ledger.record_epoch(repetition, attempt)
        assert ledger.positives("t1") == {1: first, 2: second}
        found = {row.epoch: row.positives for row in ledger.all_losses(trial="t1")}
        assert found == {1: first, 2: second, 3: {}}
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        assert ledger.rerun("t1")
        assert ledger.positives("t1") == {}

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_positives_that_are_not_finite_store_nothing(
        self, started: tuple[Ledger, int], value: float
    ) -> None:
        ledger, attempt = started
        done = epoch_done("t1", 1, losses={"o2o.cls": 1.0}, positives={"o2o.rank": value})
        with pytest.raises(
            ValueError, match=r"positives of epoch 1 of trial t1: not finite: o2o\.rank"
        ):
            ledger.record_epoch(done, attempt)
        assert ledger.losses("t1") == {}

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite_stores_nothing(
        self, started: tuple[Ledger, int], value: float
    ) -> None:
        ledger, attempt = started
        done = epoch_done("t1", 1, evaluation_record(), losses={"o2o.cls": value})
        with pytest.raises(
            ValueError, match=r"losses of epoch 1 of trial t1: not finite: o2o\.cls"
        ):
            ledger.record_epoch(done, attempt)
        assert ledger.losses("t1") == {}
        assert ledger.evaluations("t1") == []
