"""Finished trials trained once more: real trainings, a real ledger, no Ray."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gaplab.errors import StorageError, UserError
from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.launch.recorder import Recorder
from gaplab.launch.rerun import match_trials, rerun
from gaplab.ledger import Ledger
from gaplab.records import Claim, SweepRecord, TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import load_newest

IDS = ("aa11", "aa22", "bb33")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["all"], IDS),
        (["aa1"], ("aa11",)),
        (["b", "aa22", "bb33"], ("bb33", "aa22")),
        ([], ()),
    ],
)
def test_names_of_trials(names: list[str], found: tuple[str, ...]) -> None:
    assert tuple(match_trials(names, IDS)) == found


def test_names_that_fit_none_or_several_are_all_told() -> None:
    with pytest.raises(UserError) as error:
        match_trials(["aa", "bb33", "cc"], IDS)
    assert str(error.value).splitlines() == [
        "--rerun aa: matches aa11, aa22; give the id of one trial, or `all`",
        "--rerun cc: matches no trial of this sweep; give the id of one trial, or `all`",
    ]


class Room:
    """A sweep of two trials, trained in this process."""

    def __init__(self, sweep: SweepRecord, ledger: Ledger, home: Path) -> None:
        self.sweep, self.ledger, self.storage = sweep, ledger, Storage(str(home))
        self.recorder = Recorder(ledger, ())
        ledger.add_sweep(sweep)

    def train(self, trial: TrialRecord) -> None:
        number = self.ledger.start_attempt(Claim(trial.id, self.sweep.id))
        self.recorder.add(number, trial.id)
        run_attempt(trial, self.storage, lambda event: self.hear(number, event), run_in_process)

    def hear(self, number: int, event: object) -> None:
        assert self.recorder.handle(number, event)  # type: ignore[arg-type]


@pytest.fixture
def room(write_spec: Callable[..., Path], tmp_path: Path) -> Iterator[Room]:
    sweep = expand(load_spec(write_spec(grid={"seed": [0, 1]})))
    with Ledger.open(f"sqlite:///{tmp_path}/home/ledger.db") as ledger:
        yield Room(sweep, ledger, tmp_path / "home")


def test_a_finished_trial_is_trained_from_the_start_and_its_past_kept(room: Room) -> None:
    first, second = room.sweep.trials
    room.train(first)
    before, state = room.ledger.evaluations(first.id), load_newest(room.storage, first.id)
    dump = before[-1].candidates

    assert rerun(room.ledger, room.storage, [first.id, second.id]) == [first.id]
    assert room.ledger.unfinished(room.sweep) == (first, second)
    assert room.ledger.evaluations(first.id) == []
    assert load_newest(room.storage, first.id).state is None
    [old] = room.ledger.attempts(first.id)
    assert old.state == "succeeded"
    aside = f"trials/{first.id}/replaced/attempt=0001"
    kept = json.loads(room.storage.read(f"{aside}/evaluations.json"))
    assert [(e["epoch"], e["metrics"]) for e in kept] == [(e.epoch, e.metrics) for e in before]
    assert kept[-1]["candidates"] == dump.replace(f"trials/{first.id}", aside)
    assert Path(kept[-1]["candidates"]).exists()
    assert Path(kept[-1]["matches"]).exists()
    assert not Path(dump).exists() or not list(Path(dump).iterdir())
    weights = state.uri.replace(f"trials/{first.id}", aside)
    assert Path(weights).exists()

    room.train(first)
    again = room.ledger.evaluations(first.id)
    assert [(e.epoch, e.metrics) for e in again] == [(e.epoch, e.metrics) for e in before]
    assert [a.state for a in room.ledger.attempts(first.id)] == ["succeeded", "succeeded"]
    assert room.ledger.attempts(first.id)[1].wall_seconds
    assert load_newest(room.storage, first.id).state is not None

    assert rerun(room.ledger, room.storage, [first.id]) == [first.id]
    assert Path(weights).exists()
    assert room.storage.names(f"trials/{first.id}/replaced/attempt=0002") == ["evaluations.json"]


def test_what_has_not_succeeded_is_left_alone(room: Room) -> None:
    first, second = (trial.id for trial in room.sweep.trials)
    number = room.ledger.start_attempt(Claim(first, room.sweep.id))
    assert rerun(room.ledger, room.storage, [first, second, "unknown"]) == []
    assert rerun(room.ledger, room.storage, []) == []
    assert not room.ledger.rerun(first)
    assert room.ledger.states([first, second]) == {first: "running", second: "waiting"}
    assert room.ledger.attempts(first)[0].id == number
    assert room.storage.below("trials") == []


def test_broken_off_it_is_completed_when_asked_once_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = room.sweep.trials[0]
    room.train(first)
    before = room.ledger.evaluations(first.id)
    files = room.storage.below(f"trials/{first.id}")
    moves, move = 0, Storage.move

    def fail(storage: Storage, name: str, new: str) -> None:
        nonlocal moves
        moves += 1
        if moves == 3:
            raise StorageError("the disk is away")
        move(storage, name, new)

    monkeypatch.setattr(Storage, "move", fail)
    with pytest.raises(StorageError):
        rerun(room.ledger, room.storage, [first.id])
    assert room.ledger.states([first.id]) == {first.id: "succeeded"}
    assert room.ledger.evaluations(first.id) == before
    assert rerun(room.ledger, room.storage, [first.id]) == [first.id]
    kept = room.storage.below(f"trials/{first.id}/replaced/attempt=0001")
    assert kept == sorted([*files, "evaluations.json"])
