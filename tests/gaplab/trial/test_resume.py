"""A trial that is stopped anywhere, any number of times, ends with the same bits."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import gaplab.trial.run
from detectors.evaluation.metrics import POSITIVES
from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.records import Ended, EpochDone, Event, StepDone, TrialRecord
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import load_newest
from gaplab.trial.control import Stop
from tests.examples import examples

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
Ranks = Callable[[Path, Path], list[dict[str, Any]]]
PROGRAM = Path(__file__).with_name("resuming.py")


@pytest.fixture(scope="module")
def resuming(load: Callable[[Path], ModuleType]) -> ModuleType:
    """`resuming.py`: a trial that is stopped and resumed."""
    return load(PROGRAM)


@pytest.fixture
def trial(resuming: ModuleType, write_spec: Write) -> TrialRecord:
    """Three epochs of four steps, evaluated after the second and the third in one batch."""
    found: TrialRecord = resuming.only_trial(write_spec(evaluation={"every": 2}))
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    with TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture(scope="module")
def undisturbed(resuming: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ends of undisturbed trials, by id; `whole` adds them."""
    return {}


def whole(resuming: ModuleType, trial: TrialRecord, known: dict[str, Any]) -> tuple[Any, Any]:
    if trial.id not in known:
        with TemporaryDirectory() as made:
            course = resuming.attempts(trial, Path(made), [None])
            known[trial.id] = course, resuming.saved(trial, Path(made))
    course, state = known[trial.id]
    return course, state


def test_a_trial_stopped_anywhere_ends_with_the_same_bits(
    resuming: ModuleType, trial: TrialRecord, undisturbed: dict[str, Any]
) -> None:
    """`order` is called 14 times: for 12 steps and 2 evaluations. Compared are weights, average,
    optimiser, evaluations, mean losses and positives.
    """
    expected, end = whole(resuming, trial, undisturbed)

    @examples(4)
    @given(st.lists(st.integers(1, 9), max_size=4))
    @example([1, 1, 1, 1, 1])
    @example([8, 1, 1, 4])
    def check(calls: list[int]) -> None:
        with TemporaryDirectory() as made:
            course = resuming.attempts(trial, Path(made), [*calls, None])
            torch.testing.assert_close(resuming.saved(trial, Path(made)), end, rtol=0, atol=0)
            assert course.evaluations == expected.evaluations
            assert course.losses == expected.losses
            assert course.positives == expected.positives
            assert all(stopped.stop == resuming.CANCELLED for stopped in course.stops)
            assert all(stopped.cost.wall_seconds > 0 for stopped in course.stops)
            assert all(start.notes == () for start in course.starts)

    check()


def test_random_numbers_are_restored(
    resuming: ModuleType, trial: TrialRecord, home: Path, undisturbed: dict[str, Any]
) -> None:
    """The test above would fail if random numbers were not restored."""
    _, end = whole(resuming, trial, undisturbed)
    resuming.attempts(trial, home, [2])
    found = load_newest(Storage(str(home)), trial.id)
    assert found.state is not None
    before = found.state["middle"]["ranks"][0]
    assert before["model"]["norm.running_mean"].abs().max() > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectors.midway._set_random", lambda *_: None)
        resuming.attempts(trial, home, [None])
    changed = resuming.saved(trial, home)["learner"]["model"]
    assert not all(torch.equal(changed[key], end["learner"]["model"][key]) for key in changed)


def test_batches_before_the_stop_are_not_loaded_again(
    resuming: ModuleType, trial: TrialRecord, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resuming.attempts(trial, home, [3])
    loaded: list[int] = []
    shares = resuming.run_trial.__globals__["Shares"]
    load = shares.__getitem__

    def counting(self: Any, number: int) -> Any:
        loaded.append(number)
        return load(self, number)

    monkeypatch.setattr(shares, "__getitem__", counting)
    resuming.attempts(trial, home, [1])
    assert loaded == [3], "the last batch of the epoch"


def test_the_first_event_repeats_the_losses_of_all_epochs(
    resuming: ModuleType, trial: TrialRecord, home: Path
) -> None:
    """So that losses whose event was lost with its driver are stored after all."""
    before = resuming.attempts(trial, home, [10])
    assert list(before.losses) == [1, 2]
    after = resuming.attempts(trial, home, [None])
    assert after.repeated == before.losses
    assert after.repeated_positives == before.positives
    assert set(before.positives[2]) == {f"o2o.{name}" for name in POSITIVES}


def test_no_step_is_lost_by_an_order_during_an_evaluation(
    resuming: ModuleType, trial: TrialRecord, home: Path
) -> None:
    """Calls 1 to 8 follow steps, the 9th is in the evaluation."""
    course = resuming.attempts(trial, home, [9])
    assert len(course.stops) == 1
    assert list(course.losses) == [1], "the second epoch has not ended before it is evaluated"
    found = load_newest(Storage(str(home)), trial.id)
    assert found.state is not None
    assert found.state["learner"]["step"] == 8
    after = resuming.StopAfter(None)
    resuming.attempts(trial, home, [None], control=lambda _: after)
    assert after.called == 1 + 4 + 1, "both evaluations, and the steps of the third epoch"
    assert after.beats == after.called
    shown = [(each.epoch, each.step, each.steps) for each in after.steps]
    assert shown == [(3, step, 4) for step in (1, 2, 3, 4)]


def test_the_rule_ends_a_trial_after_its_checkpoint(
    resuming: ModuleType, trial: TrialRecord, home: Path
) -> None:
    asked: list[EpochDone] = []

    class Rule(resuming.StopAfter):  # type: ignore[name-defined, misc]
        def may_continue(self, done: EpochDone) -> bool:
            asked.append(done)
            return False

    course = resuming.attempts(trial, home, [None], control=lambda _: Rule())
    (stopped,) = course.stops
    assert stopped.stop == Stop(TrialState.STOPPED, "the stopping rule ended it after epoch 2 of 3")
    assert [done.epoch for done in asked] == [2], "not after the first, which isn't evaluated"
    assert len(asked[0].evaluations) == 1
    assert list(course.losses) == [1, 2], "the event of the epoch came before"
    again = resuming.attempts(trial, home, [None], control=lambda _: Rule())
    assert [start.epoch for start in again.starts] == [2]
    assert again.stops == []
    assert len(asked) == 1, "nor after the last"


def test_orders_reach_the_attempt_as_its_end(trial: TrialRecord, home: Path) -> None:
    class Cancel:
        def order(self) -> Stop:
            return Stop(TrialState.CANCELLED, "cancelled by a user")

        def beat(self) -> None: ...

        def report(self, step: StepDone) -> None: ...

        def may_continue(self, done: EpochDone) -> bool:
            return True

    events: list[Event] = []
    run_attempt(trial, Storage(str(home)), events.append, run_in_process, Cancel())
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert (ended.end.state, ended.end.reason) == ("cancelled", "cancelled by a user")
    assert ended.end.fault == ""
    assert ended.end.cost.cpu_seconds > 0


class TestDamage:
    def files(self, trial: TrialRecord, home: Path) -> list[Path]:
        return sorted((home / "trials" / trial.id / "checkpoints").iterdir())

    def test_the_one_before_is_used_and_a_note_says_so(
        self, resuming: ModuleType, trial: TrialRecord, home: Path, undisturbed: dict[str, Any]
    ) -> None:
        expected, end = whole(resuming, trial, undisturbed)
        resuming.attempts(trial, home, [7])
        first, last = self.files(trial, home)
        last.write_bytes(last.read_bytes()[:-100])
        course = resuming.attempts(trial, home, [None])
        (start,) = course.starts
        assert start.epoch == 1
        assert len(start.notes) == 2
        assert start.notes[0].startswith(f"{last.relative_to(home)}: damaged checkpoint")
        assert start.notes[1] == f"continuing from {first.relative_to(home)}"
        assert course.evaluations == expected.evaluations
        torch.testing.assert_close(resuming.saved(trial, home), end, rtol=0, atol=0)
        assert last not in self.files(trial, home)

    def test_without_any_the_trial_starts_from_zero(
        self, resuming: ModuleType, trial: TrialRecord, home: Path, undisturbed: dict[str, Any]
    ) -> None:
        _, end = whole(resuming, trial, undisturbed)
        resuming.attempts(trial, home, [7])
        for path in self.files(trial, home):
            path.write_bytes(b"")
        (start,) = (course := resuming.attempts(trial, home, [None])).starts
        assert start.epoch == 0
        assert start.notes[-1] == "no undamaged checkpoint is left: starting from epoch 0"
        assert list(course.losses) == [1, 2, 3]
        torch.testing.assert_close(resuming.saved(trial, home), end, rtol=0, atol=0)


def test_a_checkpoint_of_an_old_home_is_resumed(
    resuming: ModuleType, trial: TrialRecord, home: Path, undisturbed: dict[str, Any]
) -> None:
    """It holds the event and the learner after a whole epoch, and nothing else."""
    _, end = whole(resuming, trial, undisturbed)
    resuming.attempts(trial, home, [5])
    (path, *_) = TestDamage().files(trial, home)
    state = torch.load(path, weights_only=True)
    assert state["middle"] is None
    folder = path.parent
    for each in folder.iterdir():
        each.unlink()
    old = {"event": state["event"], "learner": state["learner"]}
    torch.save(old, folder.parent / "checkpoint.pt")
    (start,) = resuming.attempts(trial, home, [None]).starts
    assert start.epoch == 1
    torch.testing.assert_close(resuming.saved(trial, home), end, rtol=0, atol=0)
    assert not (folder.parent / "checkpoint.pt").exists()


class TestRetention:
    def kept(
        self, resuming: ModuleType, write_spec: Write, home: Path, **checkpoints: Any
    ) -> list[tuple[int, int]]:
        """Return epoch and step of the checkpoints left after five epochs of four steps.

        Epochs 2, 4 and 5 are evaluated, and the AP is highest after epoch 2.
        """
        training = {"epochs": 5, "batch": 4}
        spec = write_spec(training=training, evaluation={"every": 2}, checkpoints=checkpoints)
        trial = resuming.only_trial(spec)
        resuming.attempts(trial, home, [None])
        names = [path.name for path in TestDamage().files(trial, home)]
        return [(int(name[6:10]), int(name[16:23])) for name in names]

    @pytest.fixture(autouse=True)
    def aps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The APs of epochs 2, 4 and 5; those of the other branch don't count."""
        values = {2: 30.0, 4: 20.0, 5: 30.0}

        def best(history: Any) -> int:
            changed = [
                type(each)(**{**vars(each), "metrics": {"ap": values[each.epoch]}})
                for each in history
            ]
            other = [
                type(e)(**{**vars(e), "primary": False, "metrics": {"ap": 99}}) for e in changed
            ]
            return int(real([*other, *changed]))

        real = gaplab.trial.run._best_epoch
        monkeypatch.setattr(gaplab.trial.run, "_best_epoch", best)

    def test_the_last_two_and_the_best_epoch(
        self, resuming: ModuleType, write_spec: Write, home: Path
    ) -> None:
        assert self.kept(resuming, write_spec, home) == [(2, 8), (4, 20), (5, 20)]

    def test_the_last_alone(self, resuming: ModuleType, write_spec: Write, home: Path) -> None:
        assert self.kept(resuming, write_spec, home, last=1, best=False) == [(5, 20)]

    def test_every_third(self, resuming: ModuleType, write_spec: Write, home: Path) -> None:
        found = self.kept(resuming, write_spec, home, last=1, best=False, every=3)
        assert found == [(3, 12), (5, 20)]

    def test_by_the_clock(
        self,
        resuming: ModuleType,
        write_spec: Write,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The clock advances by one second at each look, so one is due after so many steps."""
        ticks = count()
        monkeypatch.setattr("gaplab.trial.run.time.monotonic", lambda: float(next(ticks)))
        found = self.kept(resuming, write_spec, home, last=99, best=False, minutes=2 / 60)
        ends = {(epoch, 4 * epoch) for epoch in range(1, 6)}
        before_evaluation = {(1, 8), (3, 16), (4, 20)}
        assert {*ends, *before_evaluation} < set(found)
        middle = set(found) - ends - before_evaluation
        assert middle
        assert all(4 * epoch < step < 4 * epoch + 4 for epoch, step in middle)


@pytest.fixture(scope="module")
def two_ranks(
    small: dict[str, Any], run_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """What `resuming.main` has saved in each of two real processes of one gloo group."""
    folder = tmp_path_factory.mktemp("ranks")
    pair = small | {"training": small["training"] | {"epochs": 2}}
    (folder / "small.yaml").write_text(yaml.safe_dump(pair))
    return folder, run_ranks(PROGRAM, folder)


class TestTwoWorkers:
    def test_end_with_the_same_bits(self, two_ranks: tuple[Path, list[dict[str, Any]]]) -> None:
        _, (first, second) = two_ranks
        torch.testing.assert_close(
            first["stopped"]["state"], first["whole"]["state"], rtol=0, atol=0
        )
        for rank in (first, second):
            assert rank["stopped"]["losses"] == rank["whole"]["losses"]
            assert rank["stopped"]["positives"] == rank["whole"]["positives"] != {}
        assert first["stopped"]["evaluations"] == first["whole"]["evaluations"]
        assert first["whole"]["evaluations"].keys() == {(1, "o2o"), (2, "o2o")}
        assert second["whole"]["evaluations"] == {}, "rank 0 alone evaluates"

    def test_stop_together_though_only_one_gets_the_order(
        self, two_ranks: tuple[Path, list[dict[str, Any]]]
    ) -> None:
        _, ranks = two_ranks
        assert [rank["whole"]["stops"] for rank in ranks] == [[], []]
        assert [stop.reason for stop in ranks[0]["stopped"]["stops"]] == ["enough"] * 4
        other = "another worker received an order to stop"
        assert [stop.reason for stop in ranks[1]["stopped"]["stops"]] == [other, "enough"] * 2
        assert [rank["stopped"]["epochs"] for rank in ranks] == [[0, 0, 0, 0, 1]] * 2

    def test_their_stopped_trial_is_resumed_by_one_with_a_note(
        self, resuming: ModuleType, two_ranks: tuple[Path, list[dict[str, Any]]]
    ) -> None:
        folder, ranks = two_ranks
        trial = resuming.only_trial(folder / "small.yaml")
        state = ranks[0]["left"]["state"]
        held = [rank["model"]["norm.running_mean"] for rank in state["middle"]["ranks"]]
        assert not torch.equal(held[0], held[1]), "they had different images"
        course = resuming.attempts(trial, folder / "left", [None])
        (start,) = course.starts
        assert len(start.notes) == 1
        assert "in the middle of an epoch with 1 instead of 2 workers" in start.notes[0]
        assert list(course.losses) == [1, 2]
        assert resuming.saved(trial, folder / "left")["learner"]["step"] == 8
