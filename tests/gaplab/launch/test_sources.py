"""Trials that start from the weights of another trial, or from a file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.models import DETECTORS
from gaplab.errors import UserError
from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.launch.sources import check_sources, check_weights
from gaplab.ledger import Ledger
from gaplab.records import Ended, EpochDone, Event, TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.models import CheckpointOptions
from gaplab.spec.sweep import expand
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import CheckpointWriter, load_newest
from gaplab.trial.weights import initial_weights

Write = Callable[..., Path]


def record(number: int, init_from: str = "") -> TrialRecord:
    return TrialRecord(
        id=name(number),
        config={"training": {"init_from": init_from}},
        assignment="poto",
        family="o2o",
        dataset="shapes",
        seed=0,
        epochs=1,
        results_version=1,
    )


def name(number: int) -> str:
    return f"{number:012x}"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path}/ledger.db")


def test_missing_parents_and_files_are_reported_together(ledger: Ledger, tmp_path: Path) -> None:
    there = tmp_path / "there.pth"
    there.touch()
    trials = [record(1), record(2, name(1)), record(3, name(9)), record(4, "gone.pth")]
    trunk = record(6)
    trunk.config["detector"] = {"backbone": {"weights": "lost.pth"}}
    with ledger, pytest.raises(UserError) as raised:
        check_sources(ledger, [*trials, record(5, str(there)), trunk])
    assert list(raised.value.problems) == [
        f"training.init_from: trial {name(9)} has not succeeded here; run it first",
        "detector.backbone.weights: lost.pth: no such file; "
        "correct the path (relative to the working directory)",
        "training.init_from: gone.pth: no such file; "
        "correct the path (relative to the working directory)",
    ]


def train(spec: Path, home: Path) -> tuple[TrialRecord, list[Event]]:
    (trial,) = expand(load_spec(spec)).trials
    events: list[Event] = []
    run_attempt(trial, Storage(str(home)), events.append, run_in_process)
    return trial, events


def test_a_trial_starts_from_the_average_of_a_finished_one(
    write_spec: Write, tmp_path: Path
) -> None:
    """With a learning rate of nearly 0 its first epoch ends with the weights of the parent."""
    parent, _ = train(write_spec(assignment={"name": "fcos"}), tmp_path)
    given = initial_weights(parent.id, Storage(str(tmp_path)))
    still = {"epochs": 1, "batch": 4, "lr": 1e-12, "ema": 0.0, "init_from": parent.id}
    child, events = train(write_spec(training=still), tmp_path)
    assert any(isinstance(event, EpochDone) for event in events)
    found = initial_weights(child.id, Storage(str(tmp_path)))
    own = ("head.predictors.", "head.scales")
    shared = [key for key in found if not key.startswith(own)]
    assert any(key.startswith("backbone.") for key in shared)
    for key in shared:
        assert torch.allclose(found[key], given[key], atol=1e-6), key


def test_a_file_with_the_same_weights_gives_the_same_result(
    write_spec: Write, tmp_path: Path
) -> None:
    parent, _ = train(write_spec(assignment={"name": "fcos"}), tmp_path)
    path = tmp_path / "fcos.pth"
    torch.save(dict(initial_weights(parent.id, Storage(str(tmp_path)))), path)
    once: dict[str, Any] = {"epochs": 1, "batch": 4}
    ends = []
    for source in (parent.id, str(path)):
        child, _ = train(write_spec(training=once | {"init_from": source}), tmp_path)
        ends.append(initial_weights(child.id, Storage(str(tmp_path))))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_files_of_other_detectors_are_refused_before_anything_runs(
    write_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictors are not compared: the file has those of another number of classes."""
    sections: dict[str, Any] = {"detector": {"name": "fcos", "channels": 16, "tower_convs": 1}}
    small = DETECTORS["fcos"].model_validate(sections["detector"])
    torch.save(small.build(80, ["o2o"]).state_dict(), tmp_path / "small.pth")
    (tmp_path / "broken.pth").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    monkeypatch.chdir(tmp_path)

    def problems(source: str, **more: Any) -> list[str]:
        changed = {**sections, **more, "training": {"epochs": 1, "init_from": source}}
        trials = expand(load_spec(write_spec(**changed))).trials
        try:
            check_weights(trials)
        except UserError as error:
            return list(error.problems)
        return []

    assert problems("small.pth") == []
    for source, more in (
        ("small.pth", {"detector": {"name": "fcos", "channels": 24, "tower_convs": 1}}),
        ("broken.pth", {}),
        ("other.pth", {}),
    ):
        (line,) = problems(source, **more)
        assert line.startswith(f"training.init_from: {source}: ")
        assert line.endswith("; correct `init_from`")


@pytest.mark.parametrize("epoch", [None, 1])
def test_an_unfinished_parent_fails_the_trial_in_one_line(
    write_spec: Write, tmp_path: Path, epoch: int | None
) -> None:
    storage = Storage(str(tmp_path))
    if epoch is not None:
        event = f'{{"epoch": {epoch}, "epochs": 2}}'
        writer = CheckpointWriter(storage, name(7), CheckpointOptions(), 4)
        writer.save({"event": event, "learner": {}}, epoch, 4, 0)
    _, events = train(write_spec(training={"epochs": 1, "init_from": name(7)}), tmp_path)
    last = events[-1]
    assert isinstance(last, Ended)
    assert last.end.state == "failed"
    assert f"training.init_from: trial {name(7)} is not finished in {tmp_path}" in last.end.reason


def test_a_checkpoint_of_an_old_home_gives_the_same_weights(
    write_spec: Write, tmp_path: Path
) -> None:
    parent, _ = train(write_spec(training={"epochs": 1, "batch": 4}), tmp_path)
    storage = Storage(str(tmp_path))
    given, state = initial_weights(parent.id, storage), load_newest(storage, parent.id).state
    assert state is not None
    shutil.rmtree(tmp_path / "trials" / parent.id)
    (tmp_path / "trials" / parent.id).mkdir()
    old = {"event": state["event"], "learner": state["learner"]}
    torch.save(old, tmp_path / "trials" / parent.id / "checkpoint.pt")
    found = initial_weights(parent.id, storage)
    assert found.keys() == given.keys()
    assert all(torch.equal(found[key], given[key]) for key in found)


def test_a_parent_whose_last_checkpoint_is_damaged_is_not_used(
    write_spec: Write, tmp_path: Path
) -> None:
    parent, _ = train(write_spec(training={"epochs": 1, "batch": 4}), tmp_path)
    last = sorted((tmp_path / "trials" / parent.id / "checkpoints").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"not finished in [^\n]+\n.*{last.name}: damaged"):
        initial_weights(parent.id, Storage(str(tmp_path)))
