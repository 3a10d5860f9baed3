"""Settings of sweeps and attempts: what is no part of a trial's id. On SQLite and PostgreSQL."""

from dataclasses import replace
from typing import Any

from gaplab.ledger import Ledger
from gaplab.ledger.views import RowFilter
from gaplab.records import Claim, SweepRecord, TrialRecord
from gaplab.states import TrialState
from tests.builders import attempt_end, evaluation_record, sweep_record, trial_record


def trial(identity: str = "t1", **resources: Any) -> TrialRecord:
    return trial_record(identity, config={"seed": 0, "resources": {"workers": 1} | resources})


def sweep(identity: str, *trials: TrialRecord, at_once: int = 2) -> SweepRecord:
    return sweep_record(identity, *trials, spec=f"run: {{at_once: {at_once}}}\n")


def test_a_second_run_replaces_settings(ledger: Ledger) -> None:
    ledger.add_sweep(sweep("s1", trial("t1"), trial("t2")))
    edited = sweep("s1", trial("t1", workers=4), trial("t2"), at_once=4)
    ledger.add_sweep(edited)
    assert ledger.stored_sweep() == ledger.known_sweep("s1") == edited
    assert ledger.sweep("s1").spec == edited.spec
    assert ledger.find_trial("t1").config == edited.trials[0].config
    assert [each.record() for each in ledger.all_trials()] == list(edited.trials)
    back = sweep("s1", trial("t1"), trial("t2"))
    ledger.add_sweep(back)
    assert ledger.stored_sweep() == back
    assert ledger.known_sweep("s9") is None


def test_a_part_of_the_trials_may_be_given(ledger: Ledger) -> None:
    """The trials of a search are not all in its spec."""
    ledger.add_sweep(sweep("s1", trial("t1")))
    assert ledger.extend_sweep("s1", ["t1"], [trial("t2", workers=3)])
    ledger.add_sweep(sweep("s1", trial("t1", workers=2)))
    workers = [each.config["resources"]["workers"] for each in ledger.trials("s1")]
    assert workers == [2, 3]


def test_a_sweep_that_was_read_reverts_nothing(ledger: Ledger) -> None:
    """One driver resumes while another one runs an edited spec."""
    ledger.add_sweep(sweep("s1", trial()))
    resumed = ledger.stored_sweep()
    ledger.add_sweep(edited := sweep("s1", trial(workers=4), at_once=4))
    ledger.add_sweep(resumed)
    assert ledger.stored_sweep() == edited


def test_each_sweep_keeps_its_settings_of_a_shared_trial(ledger: Ledger) -> None:
    ledger.add_sweep(first := sweep("s1", trial()))
    ledger.add_sweep(second := sweep("s2", trial(workers=2), trial("t2")))
    assert ledger.stored_sweep("s1") == first
    assert ledger.stored_sweep("s2") == second
    ledger.add_sweep(edited := sweep("s1", trial(workers=8)))
    assert ledger.stored_sweep("s1") == edited
    assert ledger.stored_sweep("s2") == second
    assert ledger.find_trial("t1").config == second.trials[0].config, "of the newest sweep"


def test_an_extension_keeps_the_settings_of_its_sweep(ledger: Ledger) -> None:
    ledger.add_sweep(sweep("s1", trial()))
    ledger.add_sweep(sweep("s2", trial("t2")))
    assert ledger.extend_sweep("s2", ["t2"], [trial(workers=4)])
    assert ledger.trials("s2")[1].record() == trial(workers=4)
    assert ledger.trials("s1")[0].record() == trial()


def test_an_attempt_keeps_what_it_ran_with(ledger: Ledger) -> None:
    ledger.add_sweep(sweep("s1", trial()))
    for workers in (1, 4):
        claim = Claim("t1", "s1", config=trial(workers=workers).config)
        attempt = ledger.start_attempt(claim)
        assert ledger.start_attempt(claim) == attempt
        ledger.record(evaluation_record("t1", workers), attempt)
        ledger.end_attempt(attempt, attempt_end(TrialState.FAILED))
    last = ledger.start_attempt(Claim("t1", "s1"))
    ledger.end_attempt(last, attempt_end(TrialState.SUCCEEDED))
    ledger.add_sweep(sweep("s1", trial(workers=9)))
    tried = [each.config["resources"]["workers"] for each in ledger.attempts("t1")]
    assert tried == [1, 4, 1]
    for epoch in (1, 4):
        for wanted in (None, "s1"):
            [row] = ledger.rows(RowFilter(epoch=epoch, sweep=wanted))
            assert row.config["resources"]["workers"] == epoch, "as it was measured"


def test_results_stay_under_one_name_of_a_protocol(ledger: Ledger) -> None:
    """Protocols with other names may have equal values, so they lead to the same trial."""

    def named(preset: str, every: int) -> TrialRecord:
        evaluation = {"every": every, "protocol": {"preset": preset, "nms_iou": 0.6}}
        return trial_record(config={"evaluation": evaluation})

    ledger.add_sweep(sweep("s1", named("defcn", 1)))
    ledger.add_sweep(sweep("s1", named("o2f", 2)))
    ledger.add_sweep(sweep("s2", named("o2f", 3)))
    attempt = ledger.start_attempt(Claim("t1", "s1", config=named("o2f", 4).config))
    found = [ledger.trials("s1")[0], ledger.trials("s2")[0]]
    assert [each.protocol for each in found] == ["defcn", "defcn"]
    assert [each.config["evaluation"]["every"] for each in found] == [2, 3]
    [tried] = ledger.attempts("t1")
    assert (tried.id, tried.config) == (attempt, named("defcn", 4).config)


def test_more_trials_than_one_statement_can_name(ledger: Ledger) -> None:
    trials = [trial(f"t{number:05d}") for number in range(6000)]
    ledger.add_sweep(sweep("s1", *trials))
    edited = [replace(each, config={"seed": 1}) for each in trials[::2]]
    ledger.add_sweep(sweep("s1", *edited))
    assert [each.record() for each in ledger.trials("s1")] == [
        edited[index // 2] if index % 2 == 0 else each for index, each in enumerate(trials)
    ]
