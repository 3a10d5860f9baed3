"""The progress of a sweep as a live table, plain lines and JSON lines."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest

from gaplab.cli.render.terminal import PlainConsole
from gaplab.cli.watch import JsonLines, Lines, LiveTable, Progress
from gaplab.events import from_text
from gaplab.records import Cost, Ended, EpochDone, EvaluationRecord, Event, Started, TrialRecord
from gaplab.states import TrialState
from tests.builders import MACHINE, attempt_end, evaluation_record, trial_record


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def trial(number: int = 1, epochs: int = 10) -> TrialRecord:
    return trial_record(f"{number:08x}0000", epochs=epochs)


def started(of: TrialRecord, epoch: int = 0) -> Started:
    return Started(of.id, MACHINE, epoch)


def epoch_done(of: TrialRecord, epoch: int, wall: float, ap: float | None = None) -> EpochDone:
    evaluations: tuple[EvaluationRecord, ...] = ()
    if ap is not None:
        metrics = {"ap": ap, "ap_nms": 50.0, "gap": ap - 50.0}
        evaluations = (evaluation_record(of.id, epoch, metrics=metrics),)
    cost = Cost(0, 0, wall, 0)
    return EpochDone(of.id, epoch, of.epochs, {"o2o.cls": 1.0}, evaluations, "uri", cost)


def ended(of: TrialRecord, state: TrialState = TrialState.SUCCEEDED, reason: str = "") -> Ended:
    return Ended(of.id, attempt_end(state, reason))


def test_time_left_counts_only_this_attempt() -> None:
    row = Progress(trial(), Clock())
    row.update(started(row.trial, epoch=4))
    assert row.seconds_left() is None
    row.update(epoch_done(row.trial, 6, wall=20.0))
    assert row.seconds_left() == pytest.approx(40.0)
    row.update(epoch_done(row.trial, 7, wall=22.0))
    assert row.seconds_left() == pytest.approx(6.0), "the first epoch loads the data"
    row.update(ended(row.trial))
    assert row.seconds_left() is None


def test_time_left_decreases_between_events() -> None:
    clock = Clock()
    row = Progress(trial(), clock)
    row.update(started(row.trial))
    row.update(epoch_done(row.trial, 1, wall=10.0))
    assert row.seconds_left() == pytest.approx(90.0)
    clock.seconds = 30.0
    assert row.seconds_left() == pytest.approx(60.0)
    clock.seconds = 1000.0
    assert row.seconds_left() == 0.0


def test_the_second_branch_is_not_shown() -> None:
    row = Progress(trial())
    row.update(started(row.trial))
    done = epoch_done(row.trial, 1, 1.0, ap=40.0)
    other = evaluation_record(row.trial.id, branch="o2m", primary=False, metrics={"ap": 1.0})
    row.update(replace(done, evaluations=(*done.evaluations, other)))
    assert row.cells()[4:7] == ("40.0", "50.0", "-10.0")


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    one = trial()
    with Lines([one], Clock()) as lines:
        for event in history(one):
            lines(event)
    name = f"{one.id} poto seed 0"
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: started on {MACHINE.node} (cpu)",
        f"{name}: epoch 1/10, 1 min 30 s left",
        f"{name}: epoch 2/10, AP 40.0, with NMS 50.0, gap -10.0, 1 min 20 s left",
        f"{name}: failed: why",
    ]


def test_replayed_evaluations_are_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines([trial()]) as lines:
        lines(replace(epoch_done(trial(), 1, 1.0, ap=40.0), losses={}))
    assert capsys.readouterr().out == ""


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
    console = PlainConsole(file=io.StringIO(), width=80, height=height)
    table = LiveTable(trials, console)
    for event in events:
        table(event)
    with console.capture() as shown:
        console.print(table.table())
    return shown.get()


def test_the_table_shows_every_trial_if_they_fit() -> None:
    trials = [trial(n) for n in range(3)]
    shown = screen(trials, history(trials[0]), height=40)
    assert "1 of 3 trials done" in shown
    assert all(t.id[:8] in shown for t in trials)
    assert "1 of 1 trial done" in screen(trials[:1], history(trials[0]), height=40)


def test_in_a_low_window_running_trials_come_first() -> None:
    trials = [trial(n) for n in range(50)]
    shown = screen(trials, [started(trials[49])], height=12)
    assert trials[49].id[:8] in shown
    assert sum(t.id[:8] in shown for t in trials) == 6
    assert len(shown.splitlines()) <= 12


def test_notes_on_a_start_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    notes = ("a: damaged checkpoint, passed over", "continuing from b [not markup]")
    event = replace(started(trial(), epoch=4), notes=notes)
    with Lines([trial()]) as lines:
        lines(event)
    output = capsys.readouterr().out
    assert f"resumed after epoch 4 on {MACHINE.node} (cpu); a: damaged" in output
    assert output.endswith("; continuing from b [not markup]\n")
    file = io.StringIO()
    with LiveTable([trial()], PlainConsole(file=file, width=120)) as table:
        table(event)
    assert f"{trial().id}: continuing from b [not markup]" in file.getvalue()


@pytest.mark.parametrize(
    "state",
    [TrialState.PREEMPTED, TrialState.CANCELLED, TrialState.STOPPED, TrialState.INTERRUPTED],
)
def test_ended_trials_are_shown_before_waiting_ones(state: TrialState) -> None:
    trials = [trial(number) for number in range(1, 30)]
    shown = screen(trials, [ended(trials[-1], state, "why")], height=10)
    assert trials[-1].id[:8] in shown
    assert state in shown


@pytest.mark.parametrize("width", [20, 45, 80])
@pytest.mark.parametrize("height", [8, 12, 30])
def test_the_table_fits_the_screen(width: int, height: int) -> None:
    """Long names take several lines; the title says how many trials are not shown."""
    trials = [replace(trial(n), assignment="a name of many words " * 5) for n in range(50)]
    console = PlainConsole(file=io.StringIO(), width=width, height=height)
    table = LiveTable(trials, console).table()
    shown = len(table.columns[0].cells)
    assert len(console.render_lines(table)) < height or shown == 1
    assert table.title == f"0 of 50 trials done, {50 - shown} not shown"


def test_control_characters_are_escaped_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines([trial()]) as lines:
        lines(ended(trial(), TrialState.FAILED, "\x1b[31mred\r"))
    assert capsys.readouterr().out.endswith(r"failed: \x1b[31mred\r" + "\n")
