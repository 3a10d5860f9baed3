"""Attempts, what they record epoch by epoch, and how they end: on SQLite and on PostgreSQL."""

import math
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.ledger.views import METRICS
from gaplab.records import AttemptEnd, Claim, Cost
from gaplab.states import TrialState
from tests.builders import (
    MACHINE,
    METRIC_VALUES,
    checkpoints,
    epoch_done,
    evaluation_record,
    sweep_record,
    trial_record,
)

SUCCESS = AttemptEnd(TrialState.SUCCEEDED, "", Cost(20.0, 0.0, 10.0, 512.0))
FAILURE = AttemptEnd(TrialState.FAILED, "loss is not finite", Cost(1.0, 0.5, 2.0, 100.0))


class TestAttempts:
    def test_start(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        [view] = ledger.attempts("t1")
        assert (view.id, view.number, view.state, view.sweep) == (attempt, 1, "running", "s1")
        assert (view.node, view.device, view.workers, view.gpus) == ("node-1", "cpu", 2, 0.0)
        assert view.ended_at is None
        assert view.wall_seconds is None
        assert ledger.states(["t1", "t2"]) == {"t1": "running", "t2": "waiting"}

    def test_fail_try_again_succeed(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, FAILURE)
        assert ledger.states(["t1"]) == {"t1": "failed"}
        ledger.end_attempt(ledger.start_attempt(Claim("t1", "s1", machine=MACHINE)), SUCCESS)
        first, second = ledger.attempts("t1")
        assert (first.number, first.state, first.reason) == (1, "failed", "loss is not finite")
        assert (first.cpu_seconds, first.gpu_seconds, first.wall_seconds) == (1.0, 0.5, 2.0)
        assert (second.number, second.state, second.peak_memory_mib) == (2, "succeeded", 512.0)
        assert second.ended_at is not None
        assert first.started_at <= second.started_at <= second.ended_at
        assert ledger.states(["t1"]) == {"t1": "succeeded"}

    def test_running_succeeded_unknown_or_foreign_can_not_start(
        self, started: tuple[Ledger, int]
    ) -> None:
        ledger, attempt = started
        with pytest.raises(ValueError, match="trial t1 can't start: it is running"):
            ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))
        ledger.end_attempt(attempt, SUCCESS)
        with pytest.raises(ValueError, match="trial t1 can't start: it is succeeded"):
            ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))
        with pytest.raises(ValueError, match="trial t9 can't start: it is not in the ledger"):
            ledger.start_attempt(Claim("t9", "s1", machine=MACHINE))
        with pytest.raises(ValueError, match="trial t2 can't start: it is not in sweep s9"):
            ledger.start_attempt(Claim("t2", "s9", machine=MACHINE))
        assert ledger.states(["t2"]) == {"t2": "waiting"}
        assert len(ledger.attempts("t1")) == 1

    def test_only_one_of_many_claims_a_trial(self, url: str, ledger: Ledger) -> None:
        ledger.add_sweep(sweep_record("s1", trial_record("t1")))

        def claim(each: Ledger) -> int:
            try:
                return each.start_attempt(Claim("t1", "s1", machine=MACHINE))
            except ValueError:
                return 0

        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            claims = list(pool.map(claim, [ledger, other] * 8))
        assert sorted(claims)[:-1] == [0] * 15
        assert [view.id for view in ledger.attempts("t1")] == [max(claims)]

    def test_end_again(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, SUCCESS)
        before = ledger.attempts("t1")
        ledger.end_attempt(attempt, replace(SUCCESS, cost=Cost()))
        assert ledger.attempts("t1") == before
        with pytest.raises(ValueError, match="can't end as failed: it is succeeded"):
            ledger.end_attempt(attempt, FAILURE)
        with pytest.raises(ValueError, match="can't end as failed: it is not in the ledger"):
            ledger.end_attempt(attempt + 1, FAILURE)
        assert ledger.states(["t1"]) == {"t1": "succeeded"}

    def test_costs_must_be_finite(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        with pytest.raises(ValueError, match="not finite: gpu_seconds, wall_seconds"):
            ledger.end_attempt(
                attempt, replace(SUCCESS, cost=Cost(gpu_seconds=math.inf, wall_seconds=math.nan))
            )
        assert ledger.states(["t1"]) == {"t1": "running"}

    def test_any_reason_becomes_one_line(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, replace(FAILURE, reason="CUDA\n error\0\udcff  ☃\n"))
        assert ledger.attempts("t1")[0].reason == r"CUDA error\x00\udcff ☃"


class TestCheckpoints:
    def test_each_epoch_has_one(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record_epoch(epoch_done("t1", 2, checkpoint="s3://bucket/ü/2"), attempt)
        ledger.record_epoch(epoch_done("t1", 1, checkpoint="file:///1"), attempt)
        assert checkpoints(ledger, "t1") == {1: "file:///1", 2: "s3://bucket/ü/2"}
        assert checkpoints(ledger, "t2") == {}

    def test_the_newest_uri_of_an_epoch_replaces_earlier_ones(
        self, started: tuple[Ledger, int]
    ) -> None:
        ledger, attempt = started
        for uri in ("a", "b", "b"):
            ledger.record_epoch(epoch_done("t1", 2, checkpoint=uri), attempt)
        assert checkpoints(ledger, "t1") == {2: "b"}

    def test_an_unknown_trial_is_refused(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        with pytest.raises(ValueError, match="trial t9 is not in the ledger"):
            ledger.record_epoch(epoch_done("t9", 1, checkpoint="a"), attempt)


class TestEpochs:
    def test_evaluations_and_checkpoint(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        both = (evaluation_record(), evaluation_record(branch="o2m", primary=False))
        ledger.record_epoch(epoch_done("t1", 1, *both), attempt)
        ledger.record_epoch(epoch_done("t1", 2), attempt)
        assert [(e.epoch, e.branch) for e in ledger.evaluations("t1")] == [(1, "o2m"), (1, "o2o")]
        assert checkpoints(ledger, "t1") == {1: "file:///1", 2: "file:///2"}

    def test_a_resumed_trial_repeats_its_evaluations(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record_epoch(epoch_done("t1", 1, evaluation_record(epoch=1)), attempt)
        ledger.end_attempt(attempt, FAILURE)
        second = ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))
        again = epoch_done("t1", 2, evaluation_record(epoch=1), evaluation_record(epoch=2))
        for _ in range(2):
            ledger.record_epoch(again, second)
        found = [(each.epoch, each.attempt) for each in ledger.evaluations("t1")]
        assert found == [(1, attempt), (2, second)]

    def test_rerunning_a_finished_trial(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.add_sweep(sweep_record("s2", trial_record("t3")))
        other = ledger.start_attempt(Claim("t3", "s2"))
        ledger.record_epoch(epoch_done("t3", 1, evaluation_record("t3")), other)
        ledger.record_epoch(epoch_done("t1", 12, evaluation_record(epoch=12)), attempt)
        assert not ledger.rerun("t1")  # it runs
        ledger.end_attempt(attempt, SUCCESS)
        assert ledger.rerun("t1")
        assert not ledger.rerun("t1")
        assert not ledger.rerun("t9")
        assert ledger.states(["t1", "t3"]) == {"t1": "waiting", "t3": "running"}
        assert (ledger.evaluations("t1"), checkpoints(ledger, "t1")) == ([], {})
        assert (len(ledger.evaluations("t3")), len(checkpoints(ledger, "t3"))) == (1, 1)
        with pytest.raises(ClaimError, match="has ended: it is succeeded"):
            ledger.record_epoch(epoch_done("t1", 12, evaluation_record(epoch=12)), attempt)
        second = ledger.start_attempt(Claim("t1", "s1", after=attempt))
        ledger.record_epoch(epoch_done("t1", 1, evaluation_record()), second)
        assert [(e.epoch, e.attempt) for e in ledger.evaluations("t1")] == [(1, second)]
        assert [a.state for a in ledger.attempts("t1")] == ["succeeded", "running"]

    def test_all_or_nothing(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        bad = evaluation_record(branch="o2m", metrics={**METRIC_VALUES, "ap": math.nan})
        with pytest.raises(ValueError, match="not finite: ap"):
            ledger.record_epoch(epoch_done("t1", 1, evaluation_record(), bad), attempt)
        assert ledger.evaluations("t1") == []
        assert checkpoints(ledger, "t1") == {}


_WRITER = """
import sys
from gaplab.ledger.repository import Ledger
from gaplab.records import EvaluationRecord
from detectors.evaluation.metrics import ClassGap
ledger = Ledger.open(sys.argv[1])
classes = tuple(ClassGap(f"class {n}", 1.0, 1.0, 0.0) for n in range(50))
for epoch in range(1_000_000):
    metrics = dict.fromkeys(sys.argv[3].split(), float(epoch))
    ledger.record(EvaluationRecord("t1", epoch, "o2o", True, "default", metrics, classes),
                  int(sys.argv[2]))
    print(epoch, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_stored(
    started: tuple[Ledger, int], url: str
) -> None:
    ledger, attempt = started
    arguments = [sys.executable, "-c", _WRITER, url, str(attempt), " ".join(METRICS)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        stored = 50 + len([line for line in writer.stdout.read().split("\n")[:-1] if line])
    found = ledger.evaluations("t1")
    assert stored <= len(found) <= stored + 1
    assert [each.epoch for each in found] == list(range(len(found)))
    assert all(set(each.metrics.values()) == {float(each.epoch)} for each in found)
    assert all(len(each.classes) == 50 for each in found)
    assert ledger.mark_orphaned_lost("driver died") == ["t1"]
