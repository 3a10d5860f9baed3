"""The progress of a sweep as a live table, plain lines and JSON lines."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gaplab.cli.live_table import LiveTable
from gaplab.cli.render.terminal import PlainConsole
from gaplab.cli.watch import SILENCE, JsonLines, Lines, Progress
from gaplab.events import from_text
from gaplab.records import (
    Cost,
    Ended,
    EpochDone,
    EvaluationRecord,
    Event,
    Started,
    StepDone,
    TrialRecord,
)
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
    assert row.numbers() == ("40.0", "50.0", "-10.0")


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


def screen(
    trials: Sequence[TrialRecord], events: Sequence[Event], height: int, width: int = 80
) -> str:
    console = PlainConsole(file=io.StringIO(), width=width, height=height)
    table = LiveTable(trials, console)
    for event in events:
        table(event)
    with console.capture() as shown:
        console.print(table.view())
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
    assert sum(t.id[:8] in shown for t in trials) == 5
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
    live = LiveTable(trials, console)
    table = live.table()
    shown = len(table.columns[0].cells)
    assert len(console.render_lines(live.view())) < height or shown == 1
    assert table.title == f"0 of 50 trials done, {50 - shown} not shown"


def test_control_characters_are_escaped_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines([trial()]) as lines:
        lines(ended(trial(), TrialState.FAILED, "\x1b[31mred\r"))
    assert capsys.readouterr().out.endswith(r"failed: \x1b[31mred\r" + "\n")


def swept() -> list[TrialRecord]:
    """Return trials of POTO with two values of alpha and of O2F with two of k, two seeds each."""
    assignments: list[dict[str, Any]] = [
        *({"name": "poto", "alpha": alpha} for alpha in (0.25, 0.5)),
        *({"name": "o2f", "k": k, "note": "\x1b[2J"} for k in (3, 11)),
    ]
    return [
        replace(
            trial(2 * number + seed),
            seed=seed,
            assignment=each["name"],
            config={"assignment": each, "seed": seed},
        )
        for number, each in enumerate(assignments)
        for seed in (0, 1)
    ]


def cells(shown: str, of: TrialRecord) -> list[str]:
    """Return the words in the line of a trial."""
    [line] = [line for line in shown.splitlines() if of.id[:8] in line]
    return line.split()


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_shows_what_was_swept(width: int) -> None:
    trials = swept()
    shown = screen(trials, [started(trials[0]), epoch_done(trials[0], 1, 1.0, 40.0)], 40, width)
    heads = next(line.split() for line in shown.splitlines() if "assignment" in line)
    assert heads[:5] == ["trial", "assignment", "alpha", "k", "seed"]
    assert cells(shown, trials[3])[:4] == [trials[3].id[:8], "poto", "0.5", "1"]
    assert cells(shown, trials[7])[:4] == [trials[7].id[:8], "o2f", "11", "1"]
    assert {"40.0", "-10.0"} <= set(cells(shown, trials[0]))
    assert "\x1b" not in shown


def test_keys_of_trials_that_are_already_done_are_shown_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trials = swept()
    console = PlainConsole(file=io.StringIO(), width=80, height=40)
    table = LiveTable(trials[-1:], console, sweep=trials).table()
    assert [str(each) for each in table.columns[1:4]] == ["assignment", "alpha", "k"]
    with Lines(trials[-1:], sweep=trials) as lines:
        lines(started(trials[-1]))
    assert capsys.readouterr().out.startswith(f"{trials[-1].id} o2f k=11 seed 1: started")


def test_trials_of_a_search_add_columns() -> None:
    trials = swept()
    table = LiveTable(trials[:1], PlainConsole(file=io.StringIO(), width=160, height=40))
    assert "alpha" not in [str(each) for each in table.table().columns]
    table.add(trials[1:4])
    assert "alpha" in [str(each) for each in table.table().columns]


def step(of: TrialRecord, epoch: int, number: int, loss: float = 1.5) -> StepDone:
    return StepDone(of.id, epoch, number, 20, loss)


def test_steps_and_losses_of_running_trials() -> None:
    one, other = trial(1), trial(2)
    table = LiveTable([one, other], PlainConsole(file=io.StringIO(), width=160, height=40))
    for event in (started(one), epoch_done(one, 1, 1.0)):
        table(event)
    late, unknown = step(one, 1, 20), step(trial(3), 1, 1)
    table.add_steps([late, unknown, step(other, 1, 5)])
    assert table._rows[one.id].cells()[2:4] == ("", ""), "that epoch has ended"
    assert table._rows[other.id].cells()[2:4] == ("", ""), "it has not started"
    table.add_steps([step(one, 2, 5)])
    assert table._rows[one.id].cells()[2:4] == ("5/20", "1.5")
    table(ended(one))
    assert table._rows[one.id].cells()[2:4] == ("", "")


def test_steps_are_lines_after_a_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """So that the log of an epoch of many hours shows that it goes on."""
    one, clock = trial(), Clock()
    lines = Lines([one], clock)

    def after(seconds: float, shown: StepDone) -> list[str]:
        clock.seconds += seconds
        lines.add_steps([step(trial(3), 1, 1), shown])
        return capsys.readouterr().out.splitlines()

    lines(started(one))
    capsys.readouterr()
    name = f"{one.id} poto seed 0"
    assert after(SILENCE - 1, step(one, 1, 1)) == []
    assert after(1, step(one, 1, 2)) == [f"{name}: epoch 1/10, step 2/20, 16 h 30 min left"]
    assert after(SILENCE - 1, step(one, 1, 3)) == []
    lines(epoch_done(one, 1, wall=SILENCE))
    capsys.readouterr()
    assert after(SILENCE - 1, step(one, 2, 1)) == []
    assert after(1, step(one, 1, 20)) == [], "that epoch has ended"
    assert len(after(0, step(one, 2, 2))) == 1
    lines(ended(one))
    capsys.readouterr()
    assert after(SILENCE, step(one, 2, 3)) == []


def test_before_the_first_epoch_ends_its_steps_say_how_long_the_trial_takes() -> None:
    clock = Clock()
    row = Progress(trial(epochs=3), clock)
    row.update(started(row.trial))
    clock.seconds = 5.0
    row.update_step(step(row.trial, 1, 10))
    assert row.seconds_left() == pytest.approx(5.0 / 0.5 * 2.5)


def test_the_time_left_of_a_sweep() -> None:
    """Two of ten epochs took eight seconds, so the six that are left of 2 x 5 take 32."""
    clock = Clock()
    trials = [trial(n, epochs=5) for n in (1, 2)]
    console = PlainConsole(file=io.StringIO(), width=80, height=40)
    table = LiveTable(trials, console, clock)
    assert table.seconds_left() is None
    table(started(trials[0], epoch=2))
    assert table.seconds_left() is None
    clock.seconds = 8.0
    table(epoch_done(trials[0], 3, 8.0))
    table.add_steps([step(trials[0], 4, 20)])
    assert table.seconds_left() == pytest.approx(8.0 / 2 * 6)
    for one in trials:
        table(ended(one))
    assert table.seconds_left() == 0.0


@pytest.mark.parametrize("done", [0, 1, 2])
def test_the_table_stays_if_trials_are_left(done: int) -> None:
    trials = [trial(n) for n in (1, 2)]
    file = io.StringIO()
    console = PlainConsole(file=file, width=80, height=40, force_terminal=True)
    with LiveTable(trials, console) as table:
        for one in trials[:done]:
            table(ended(one))
        file.truncate(file.seek(0))
    erased = file.getvalue().endswith("\x1b[2K")
    assert erased == (done == 2)


@pytest.mark.parametrize("colours", [True, False])
def test_colours_can_be_switched_off(colours: bool) -> None:
    file = io.StringIO()
    console = PlainConsole(
        file=file, width=80, force_terminal=True, color_system="standard", no_color=not colours
    )
    table = LiveTable([trial()], console)
    table(ended(trial()))
    console.print(table.view())
    assert ("\x1b[32msucceeded" in file.getvalue()) == colours
