"""Finished trials are trained once more, with real training and a real ledger, without Ray."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gaplab.errors import StorageError, UserError
from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.launch.recorder import Recorder
from gaplab.launch.rerun import match_trials, rerun
from gaplab.ledger import Ledger
from gaplab.records import Claim, Event, SweepRecord, TrialRecord
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
def test_trials_are_found_by_the_start_of_their_id(
    names: list[str], found: tuple[str, ...]
) -> None:
    assert tuple(match_trials(names, IDS)) == found


def test_every_name_that_matches_no_trial_or_several_is_reported() -> None:
    with pytest.raises(UserError) as error:
        match_trials(["aa", "bb33", "cc"], IDS)
    assert str(error.value).splitlines() == [
        "--rerun aa: matches aa11, aa22; give the id of one trial, or `all`",
        "--rerun cc: matches no trial of this sweep; give the id of one trial, or `all`",
    ]


class Bench:
    """A sweep of two trials, trained in this process."""

    def __init__(self, sweep: SweepRecord, ledger: Ledger, home: Path) -> None:
        self.sweep, self.ledger, self.storage = sweep, ledger, Storage(str(home))
        self.recorder = Recorder(ledger, ())
        ledger.add_sweep(sweep)

    def train(self, trial: TrialRecord) -> None:
        number = self.ledger.start_attempt(Claim(trial.id, self.sweep.id))
        self.recorder.add(number, trial.id)
        run_attempt(trial, self.storage, lambda event: self.record(number, event), run_in_process)

    def record(self, number: int, event: Event) -> None:
        assert self.recorder.handle(number, event)


@pytest.fixture
def bench(write_spec: Callable[..., Path], tmp_path: Path) -> Iterator[Bench]:
    sweep = expand(load_spec(write_spec(grid={"seed": [0, 1]})))
    with Ledger.open(f"sqlite:///{tmp_path}/home/ledger.db") as ledger:
        yield Bench(sweep, ledger, tmp_path / "home")


def test_a_finished_trial_is_trained_from_the_start_and_its_results_are_kept(bench: Bench) -> None:
    first, second = bench.sweep.trials
    bench.train(first)
    before, state = bench.ledger.evaluations(first.id), load_newest(bench.storage, first.id)
    dump = before[-1].candidates

    assert rerun(bench.ledger, bench.storage, [first.id, second.id]) == [first.id]
    assert bench.ledger.unfinished(bench.sweep) == (first, second)
    assert bench.ledger.evaluations(first.id) == []
    assert load_newest(bench.storage, first.id).state is None
    [old] = bench.ledger.attempts(first.id)
    assert old.state == "succeeded"
    aside = f"trials/{first.id}/replaced/attempt=0001"
    kept = json.loads(bench.storage.read(f"{aside}/evaluations.json"))
    assert [(e["epoch"], e["metrics"]) for e in kept] == [(e.epoch, e.metrics) for e in before]
    assert kept[-1]["candidates"] == dump.replace(f"trials/{first.id}", aside)
    folder = Path(bench.storage.uri)
    assert (folder / kept[-1]["candidates"]).is_dir()
    assert (folder / kept[-1]["matches"]).is_file()
    assert bench.storage.names(dump) == []
    weights = state.uri.replace(f"trials/{first.id}", aside)
    assert Path(weights).exists()

    bench.train(first)
    again = bench.ledger.evaluations(first.id)
    assert [(e.epoch, e.metrics) for e in again] == [(e.epoch, e.metrics) for e in before]
    assert [a.state for a in bench.ledger.attempts(first.id)] == ["succeeded", "succeeded"]
    assert bench.ledger.attempts(first.id)[1].wall_seconds
    assert load_newest(bench.storage, first.id).state is not None

    assert rerun(bench.ledger, bench.storage, [first.id]) == [first.id]
    assert Path(weights).exists()
    assert bench.storage.names(f"trials/{first.id}/replaced/attempt=0002") == ["evaluations.json"]


def test_trials_that_have_not_succeeded_are_left_alone(bench: Bench) -> None:
    first, second = (trial.id for trial in bench.sweep.trials)
    number = bench.ledger.start_attempt(Claim(first, bench.sweep.id))
    assert rerun(bench.ledger, bench.storage, [first, second, "unknown"]) == []
    assert rerun(bench.ledger, bench.storage, []) == []
    assert not bench.ledger.rerun(first)
    assert bench.ledger.states([first, second]) == {first: "running", second: "waiting"}
    assert bench.ledger.attempts(first)[0].id == number
    assert bench.storage.below("trials") == []


def test_an_interrupted_rerun_is_completed_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.sweep.trials[0]
    bench.train(first)
    before = bench.ledger.evaluations(first.id)
    files = bench.storage.below(f"trials/{first.id}")
    moves, move = 0, Storage.move

    def fail(storage: Storage, name: str, new: str) -> None:
        nonlocal moves
        moves += 1
        if moves == 3:
            raise StorageError("the disk can't be reached")
        move(storage, name, new)

    monkeypatch.setattr(Storage, "move", fail)
    with pytest.raises(StorageError):
        rerun(bench.ledger, bench.storage, [first.id])
    assert bench.ledger.states([first.id]) == {first.id: "succeeded"}
    assert bench.ledger.evaluations(first.id) == before
    assert rerun(bench.ledger, bench.storage, [first.id]) == [first.id]
    kept = bench.storage.below(f"trials/{first.id}/replaced/attempt=0001")
    assert kept == sorted([*files, "evaluations.json"])
