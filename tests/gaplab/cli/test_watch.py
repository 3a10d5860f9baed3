"""What a person sees while a sweep runs."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from gaplab.cli.watch import JsonLines, Lines, LiveTable, Row
from gaplab.events import from_text
from gaplab.records import (
    AttemptEnd,
    Cost,
    Ended,
    EpochDone,
    EvaluationRecord,
    Event,
    Machine,
    Started,
    TrialRecord,
)
from gaplab.states import TrialState


def trial(number: int = 1, epochs: int = 10) -> TrialRecord:
    return TrialRecord(f"{number:012x}", {}, "poto", "o2o", "shapes", 0, epochs, 1)


def started(of: TrialRecord, epoch: int = 0) -> Started:
    return Started(of.id, Machine("here", "cpu", 1, 0.0), epoch)


def epoch_done(of: TrialRecord, epoch: int, wall: float, ap: float | None = None) -> EpochDone:
    metrics = {"ap": ap, "ap_nms": 50.0, "gap": ap - 50.0} if ap is not None else {}
    evaluation = EvaluationRecord(of.id, epoch, "o2o", True, "default", metrics, ())
    said = (evaluation,) if ap is not None else ()
    return EpochDone(of.id, epoch, of.epochs, {"o2o.cls": 1.0}, said, "uri", Cost(0, 0, wall, 0))


def ended(of: TrialRecord, state: str = TrialState.SUCCEEDED, reason: str = "") -> Ended:
    return Ended(of.id, AttemptEnd(state, reason, Cost()))  # type: ignore[arg-type]


def test_time_left_counts_only_this_attempt() -> None:
    row = Row(trial())
    row.hear(started(row.trial, epoch=4))
    assert row.seconds_left() is None
    row.hear(epoch_done(row.trial, 6, wall=20.0))
    assert row.seconds_left() == pytest.approx(40.0, abs=1.0)
    row.hear(epoch_done(row.trial, 7, wall=22.0))
    assert row.seconds_left() == pytest.approx(6.0, abs=1.0), "the first epoch loads the data"
    row.hear(ended(row.trial))
    assert row.seconds_left() is None


def test_the_other_branch_of_dual_is_not_shown() -> None:
    row = Row(trial())
    row.hear(started(row.trial))
    done = epoch_done(row.trial, 1, 1.0, ap=40.0)
    other = EvaluationRecord(row.trial.id, 1, "o2m", False, "default", {"ap": 1.0}, ())
    row.hear(EpochDone(**{**vars(done), "evaluations": (*done.evaluations, other)}))
    assert row.cells()[4:7] == ("40.0", "50.0", "-10.0")


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    one = trial()
    with Lines([one]) as lines:
        for event in history(one):
            lines(event)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{one.id} poto seed 0: started on here (cpu)"
    assert said[1] == f"{one.id} poto seed 0: epoch 1/10, 1 min 30 s left"
    assert said[2].startswith(
        f"{one.id} poto seed 0: epoch 2/10, AP 40.0, with NMS 50.0, gap -10.0"
    )
    assert said[3] == f"{one.id} poto seed 0: failed: why"


def test_json_lines_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    events = history(trial())
    with JsonLines() as lines:
        for event in events:
            lines(event)
    assert [from_text(line) for line in capsys.readouterr().out.splitlines()] == events


def history(of: TrialRecord) -> list[Event]:
    return [
        started(of),
        epoch_done(of, 1, wall=10.0),
        epoch_done(of, 2, wall=20.0, ap=40.0),
        ended(of, TrialState.FAILED, "why"),
    ]


def screen(trials: Sequence[TrialRecord], events: Sequence[Event], height: int) -> str:
    console = Console(file=io.StringIO(), width=80, height=height)
    table = LiveTable(trials, console)
    for event in events:
        table(event)
    with console.capture() as shown:
        console.print(table.table())
    return shown.get()


def test_the_table_shows_every_trial_while_there_is_room() -> None:
    trials = [trial(n) for n in range(3)]
    shown = screen(trials, history(trials[0]), height=40)
    assert "1 of 3 trials done" in shown
    assert all(t.id in shown for t in trials)


def test_in_a_low_window_running_trials_come_first() -> None:
    trials = [trial(n) for n in range(50)]
    shown = screen(trials, [started(trials[49])], height=12)
    assert trials[49].id in shown
    assert sum(t.id in shown for t in trials) == 6
    assert len(shown.splitlines()) <= 12


def test_notes_on_a_start_reach_the_person(capsys: pytest.CaptureFixture[str]) -> None:
    notes = ("a: damaged checkpoint, passed over", "going on from b [not markup]")
    event = replace(started(trial(), epoch=4), notes=notes)
    with Lines([trial()]) as lines:
        lines(event)
    said = capsys.readouterr().out
    assert "resumed after epoch 4 on here (cpu); a: damaged" in said
    assert said.endswith("; going on from b [not markup]\n")
    screen = io.StringIO()
    with LiveTable([trial()], Console(file=screen, width=120)) as table:
        table(event)
    assert f"{trial().id}: going on from b [not markup]" in screen.getvalue()


@pytest.mark.parametrize(
    "state",
    [TrialState.PREEMPTED, TrialState.CANCELLED, TrialState.STOPPED, TrialState.INTERRUPTED],
)
def test_every_end_has_its_place_in_the_table(state: str) -> None:
    trials = [trial(number) for number in range(1, 30)]
    table = LiveTable(trials, Console(file=io.StringIO(), width=120, height=10))
    table(ended(trials[-1], state, "why"))
    screen = io.StringIO()
    Console(file=screen, width=120).print(table.table())
    assert trials[-1].id in screen.getvalue(), "before those that wait"
    assert state in screen.getvalue()
