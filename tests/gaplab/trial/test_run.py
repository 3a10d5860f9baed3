"""A trial in this process: its events and checkpoints, and that a killed one resumes exactly."""

import contextlib
import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.data.base import DataError
from detectors.engine import NonFiniteLossError
from detectors.inference import NonFinitePredictionsError
from gaplab.errors import StorageError, UserError
from gaplab.events import from_text, to_text
from gaplab.launch.attempt import LostError, fault_of, run_attempt, run_in_process
from gaplab.records import (
    AttemptEnd,
    Cost,
    Ended,
    EpochDone,
    EvaluationRecord,
    Event,
    Started,
    TrialRecord,
)
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand, experiment_of
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import load_newest
from gaplab.trial.control import Stop, Stopped
from gaplab.trial.run import final_event
from tests.gaplab.spec.specs import coco

Write = Callable[..., Path]


class Killed(BaseException):
    """Stands for SIGKILL: no handler catches it."""


def only_trial(spec: Path) -> TrialRecord:
    (trial,) = expand(load_spec(spec)).trials
    return trial


def run(trial: TrialRecord, home: Path, stop_after: int | None = None) -> list[Event]:
    """Run one attempt, which dies just after it emits epoch `stop_after`; return its events."""
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(from_text(to_text(event)))
        if isinstance(event, EpochDone) and event.epoch == stop_after:
            raise Killed

    with contextlib.suppress(Killed):
        run_attempt(trial, Storage(str(home)), emit, run_in_process)
    return events


def evaluations(events: list[Event]) -> dict[tuple[int, str], EvaluationRecord]:
    found = [e for event in events if isinstance(event, EpochDone) for e in event.evaluations]
    return {(e.epoch, e.branch): e for e in found}


def weights(trial: TrialRecord, home: Path) -> dict[str, torch.Tensor]:
    state = load_newest(Storage(str(home)), trial.id).state
    assert state is not None
    learner = state["learner"]
    return {
        f"{part}.{name}": tensor
        for part in ("model", "averaged")
        for name, tensor in learner[part].items()
    }


def test_events_of_an_undisturbed_trial(write_spec: Write, tmp_path: Path) -> None:
    trial = only_trial(write_spec(evaluation={"every": 2}))
    events = run(trial, tmp_path / "home")
    assert [type(e).__name__ for e in events] == ["Started", *["EpochDone"] * 3, "Ended"]
    done = [e for e in events if isinstance(e, EpochDone)]
    assert [e.epoch for e in done] == [1, 2, 3]
    assert [len(e.evaluations) for e in done] == [0, 1, 1], "every second epoch, and the last"
    assert set(done[0].losses) == {"o2o.cls", "o2o.box"}
    walls = [e.cost.wall_seconds for e in done]
    assert 0 < walls[0] < walls[1] < walls[2]
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert (ended.end.state, ended.end.reason) == ("succeeded", "")
    assert ended.end.cost == done[-1].cost


def test_dual_is_evaluated_on_both_branches_and_the_first_is_primary(
    write_spec: Write, tmp_path: Path
) -> None:
    trial = only_trial(write_spec(assignment={"name": "dual"}, training={"epochs": 1, "batch": 4}))
    found = evaluations(run(trial, tmp_path / "home"))
    assert {branch: e.primary for (_, branch), e in found.items()} == {"o2o": True, "o2m": False}


@pytest.mark.parametrize("name", ["poto", "o2f", "dual"])
def test_a_killed_trial_ends_with_the_same_bits(
    write_spec: Write, tmp_path: Path, name: str
) -> None:
    trial = only_trial(write_spec(assignment={"name": name}))
    whole = run(trial, tmp_path / "whole")
    first = run(trial, tmp_path / "killed", stop_after=1)
    second = run(trial, tmp_path / "killed", stop_after=2)
    third = run(trial, tmp_path / "killed")
    assert [e.epoch for e in (second[0], third[0]) if isinstance(e, Started)] == [1, 2]
    expected = evaluations(whole)
    assert evaluations(first + second + third) == expected
    again = evaluations(third)
    assert again == expected, "a resumed attempt replays all evaluations"
    parts = [sorted((tmp_path / folder).rglob("*.parquet")) for folder in ("killed", "whole")]
    assert len(parts[0]) == 2 * len(experiment_of(trial).assignment.branches())
    assert [p.read_bytes() for p in parts[0]] == [p.read_bytes() for p in parts[1]]
    mine, theirs = (weights(trial, tmp_path / folder) for folder in ("killed", "whole"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("earlier", [False, True], ids=["this version", "absolute paths"])
def test_a_trial_is_resumed_in_a_moved_home(
    write_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """Its checkpoint holds evaluations, whose paths were absolute in earlier versions."""
    trial = only_trial(write_spec(evaluation={"candidates": "every"}))
    with monkeypatch.context() as patch:
        if earlier:
            patch.setattr(Storage, "relative", lambda self, uri: uri)
        before = evaluations(run(trial, tmp_path / "old", stop_after=1))
    assert all(Path(e.candidates).is_absolute() == earlier for e in before.values())
    (tmp_path / "old").rename(tmp_path / "new")
    events = run(trial, tmp_path / "new")
    found = evaluations(events)
    assert len(found) == 3
    for each in found.values():
        assert each.candidates == f"trials/{trial.id}/candidates/epoch={each.epoch}/branch=o2o"
        assert (tmp_path / "new" / each.candidates).is_dir()
        assert (tmp_path / "new" / each.matches).is_file()
    checkpoints = [e.checkpoint for e in events if isinstance(e, EpochDone)]
    assert all(each.startswith(f"trials/{trial.id}/checkpoints/") for each in checkpoints)
    assert not (tmp_path / "old").exists()


def test_two_seeds_differ(write_spec: Write, tmp_path: Path) -> None:
    short = {"epochs": 1, "batch": 4}
    trials = [only_trial(write_spec(seed=seed, training=short)) for seed in (0, 1)]
    losses = []
    for trial in trials:
        losses += [e.losses for e in run(trial, tmp_path / "h") if isinstance(e, EpochDone)]
    assert trials[0].id != trials[1].id
    assert losses[0] != losses[1]


def test_a_loss_that_explodes_names_step_and_parts(write_spec: Write, tmp_path: Path) -> None:
    training = {"epochs": 3, "batch": 4, "lr": 1e30, "clip_norm": 0.0, "warmup_steps": 0}
    events = run(only_trial(write_spec(training=training)), tmp_path / "home")
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert ended.end.state == "failed"
    assert "loss is not finite at step " in ended.end.reason
    assert "o2o.cls=" in ended.end.reason
    assert "o2o.box=" in ended.end.reason
    assert "\n" not in ended.end.reason


def end_of(trial: TrialRecord, home: Path, error: Exception | None) -> AttemptEnd:
    """Return the end of an attempt whose body raises `error`."""

    def body(*_: object) -> None:
        if error is not None:
            raise error

    events: list[Event] = []
    run_attempt(trial, Storage(str(home)), events.append, body)
    (ended,) = events
    assert isinstance(ended, Ended)
    return ended.end


def test_the_traceback_of_an_unexpected_error_is_stored(write_spec: Write, tmp_path: Path) -> None:
    trial = only_trial(write_spec())
    end = end_of(trial, tmp_path, ZeroDivisionError("by zero"))
    name = f"trials/{trial.id}/traceback.txt"
    assert end.reason == f"ZeroDivisionError: by zero (traceback in {name} of the home folder)"
    assert end.fault == "error"
    assert "raise error" in (tmp_path / name).read_text()


def test_a_traceback_that_cannot_be_written_does_not_hide_the_reason(
    write_spec: Write, tmp_path: Path
) -> None:
    (tmp_path / "trials").write_text("a file where a folder should be")

    def body(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    events: list[Event] = []
    storage = Storage(str(tmp_path))
    storage.names = lambda folder: []  # type: ignore[method-assign]
    run_attempt(only_trial(write_spec()), storage, events.append, body)
    (ended,) = events
    assert isinstance(ended, Ended)
    assert ended.end.reason.startswith("ZeroDivisionError: by zero (no traceback: ")
    assert (ended.end.state, ended.end.fault) == ("failed", "error")


@pytest.mark.parametrize(
    "error",
    [
        DataError(["a", "b"]),
        NonFiniteLossError("a; b"),
        NonFinitePredictionsError("a; b"),
        UserError("a; b"),
    ],
)
def test_an_expected_error_is_one_line(write_spec: Write, tmp_path: Path, error: Exception) -> None:
    end = end_of(only_trial(write_spec()), tmp_path, error)
    assert (end.state, end.reason, end.fault) == ("failed", "a; b", "input")
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (StorageError("full"), "storage"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (OSError(errno.EROFS, "Read-only file system"), "storage"),
        (OSError(errno.ENOENT, "No such file"), "error"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("shapes differ"), "error"),
        (KeyError("x"), "error"),
    ],
)
def test_faults(error: Exception, fault: str) -> None:
    assert fault_of(error) == fault


def test_an_allocation_that_really_fails(write_spec: Write, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8)
    assert end_of(only_trial(write_spec()), tmp_path, raised.value).fault == "memory"


def test_an_order_is_not_a_failure(write_spec: Write, tmp_path: Path) -> None:
    cost = Cost(1.0, 2.0, 3.0, 4.0)
    error = Stopped(Stop(TrialState.CANCELLED, "cancelled by a user"), cost)
    end = end_of(only_trial(write_spec()), tmp_path, error)
    assert end == AttemptEnd(TrialState.CANCELLED, "cancelled by a user", cost)
    assert end_of(only_trial(write_spec()), tmp_path, None) == AttemptEnd(
        TrialState.SUCCEEDED, "", Cost()
    )


def test_a_lost_process_is_not_an_unexpected_error(write_spec: Write, tmp_path: Path) -> None:
    end = end_of(only_trial(write_spec()), tmp_path, LostError("The actor died.\nexit code 137"))
    assert (end.state, end.fault) == ("failed", "lost")
    assert end.reason.endswith("exit code 137")


@pytest.mark.parametrize(
    "error", [DataError(["a", "b"]), UserError("a", "b"), StorageError("a", "b")]
)
def test_errors_can_be_pickled(error: Any) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_the_final_event_without_a_checkpoint(write_spec: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint of trial \w+ there"):
        final_event(only_trial(write_spec()), Storage(str(tmp_path)))


@pytest.mark.parametrize("before_epoch", [0, 1])
def test_data_that_changed_since_the_sweep_started(
    small: dict[str, Any], write_spec: Write, tmp_path: Path, before_epoch: int
) -> None:
    """The trial's id says which data it has: it is not trained on other data, nor continued."""
    data = coco(tmp_path / "data")
    trial = only_trial(write_spec(data=data, training=small["training"] | {"batch": 1}))
    if before_epoch:
        run(trial, tmp_path / "home", stop_after=before_epoch)
    path = tmp_path / "data" / "val.json"
    path.write_text(path.read_text().replace("[4, 4, 20, 20]", "[5, 4, 20, 20]"))
    [ended] = run(trial, tmp_path / "home")
    assert isinstance(ended, Ended)
    assert (ended.end.state, ended.end.fault) == (TrialState.FAILED, "input")
    assert ended.end.reason.startswith(f"trial {trial.id}: data has changed since the sweep was pl")
