"""Test a learner that is interrupted in the middle of an epoch, and one that continues it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors import midway
from detectors.assigners import ASSIGNERS
from detectors.engine import Learner, train_epoch
from tests.detectors import miniature as mini

pytestmark = pytest.mark.slow

COUNTS = ([2, 0], [1, 3], [0, 0], [4, 1])
BATCHES = [mini.batch(counts, seed=n) for n, counts in enumerate(COUNTS)]


class StoppedError(Exception): ...


def interruption(learner: Learner, batches: int) -> Callable[[], None]:
    """Return a callback that raises after `batches` batches."""

    def after() -> None:
        if learner.batches == batches:
            raise StoppedError

    return after


@cache
def uninterrupted(setup: str) -> tuple[Learner, dict[str, float]]:
    """Train an epoch without interruption; return the learner and its mean losses."""
    learner = mini.set_up(setup, mini.BRISK)
    return learner, train_epoch(learner, BATCHES, mini.progress(0))


def test_every_setup_continues_exactly(setup: str) -> None:
    check_continues(setup, 2)


@pytest.mark.parametrize("at", [1, 3, 4])
@pytest.mark.parametrize("name", ["o2f", "dual with both", "cascade"])
def test_continues_exactly_after_any_batch(name: str, at: int) -> None:
    check_continues(name, at)


def check_continues(setup: str, at: int) -> None:
    """Interrupt an epoch after `at` of its four batches, and continue it from its saved state."""
    first, second = (mini.set_up(setup, mini.BRISK) for _ in range(2))
    straight, expected = uninterrupted(setup)
    with pytest.raises(StoppedError):
        train_epoch(first, BATCHES, mini.progress(0), interruption(first, at))
    state = mini.saved_and_loaded({"learner": first.state(), "middle": midway.state_of(first)})
    second.load(state["learner"])
    assert midway.exact(state["middle"], second.world)
    midway.load(second, state["middle"])
    assert (second.batches, second.step) == (at, at)
    assert train_epoch(second, BATCHES[at:], mini.progress(0)) == expected
    torch.testing.assert_close(second.state(), straight.state(), rtol=0, atol=0)
    torch.testing.assert_close(second.tally, straight.tally, rtol=0, atol=0)
    assert second.scores() == straight.scores() != {}
    assert second.batches == straight.batches == 0


def test_mean_losses_are_those_of_the_steps() -> None:
    learner, again = (mini.learner(ASSIGNERS["poto"](), mini.BRISK) for _ in range(2))
    found = train_epoch(learner, BATCHES, mini.progress(0))
    steps = mini.steps(again, 0, 4)
    for name, value in found.items():
        assert value == pytest.approx(sum(parts[name] for parts in steps) / 4)


def test_the_next_epoch_counts_from_zero() -> None:
    learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK)
    train_epoch(learner, BATCHES, mini.progress(0))
    train_epoch(learner, BATCHES[:1], mini.progress(4))
    assert learner.tally["o2o"][2] == 2, "the objects of one batch"
    assert train_epoch(learner, [], mini.progress(5)) == {}


class Ranks:
    """Rank `rank` of `size` that gathers the given values of the other ranks."""

    def __init__(self, rank: int, size: int, others: list[Any]) -> None:
        self.rank, self.size, self._others = rank, size, others

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return value.detach()

    def gather(self, value: Any) -> list[Any]:
        return [] if self.rank else [value, *self._others]


class TestRanks:
    """Each rank has its own random numbers, statistics and counts."""

    def learner(self, rank: int, size: int, others: list[Any]) -> Learner:
        model = mini.detector(ASSIGNERS["poto"]())
        model.add_module("norm", torch.nn.BatchNorm2d(2))
        world = Ranks(rank, size, others)
        made = mini.learner(ASSIGNERS["poto"](), mini.BRISK, world, model)
        for number, module in enumerate((made.bare, made.averaged.module)):
            module.get_buffer("norm.running_mean").fill_(10.0 * rank + number + 1)
        made.tally = {"o2o": torch.full((3,), float(rank), dtype=torch.float64)}
        made.measured = {"o2o": torch.full((8,), float(rank), dtype=torch.float64)}
        made.batches, made.sums = 2, {"o2o.cls": 1.5}
        torch.manual_seed(rank)
        return made

    def state(self) -> Any:
        own = midway._own(self.learner(1, 2, []))
        state = midway.state_of(self.learner(0, 2, [own]))
        assert midway.state_of(self.learner(1, 2, [])) is None
        return mini.saved_and_loaded(state)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_get_their_own_state_back(self, rank: int) -> None:
        state, learner = self.state(), self.learner(1 - rank, 2, [])
        learner.world = Ranks(rank, 2, [])
        assert midway.exact(state, learner.world)
        midway.load(learner, state)
        assert learner.bare.get_buffer("norm.running_mean").tolist() == [10 * rank + 1] * 2
        averaged = learner.averaged.module.get_buffer("norm.running_mean")
        assert averaged.tolist() == [10 * rank + 2] * 2
        assert learner.tally["o2o"].tolist() == [rank] * 3
        assert learner.measured["o2o"].tolist() == [rank] * 8
        drawn = torch.rand(3)
        torch.manual_seed(rank)
        assert torch.equal(drawn, torch.rand(3))

    @pytest.mark.parametrize(("rank", "size"), [(0, 1), (2, 3)])
    def test_of_another_number_get_the_state_of_rank_0(self, rank: int, size: int) -> None:
        state, learner = self.state(), self.learner(rank, size, [])
        assert not midway.exact(state, learner.world)
        torch.manual_seed(99)
        midway.load(learner, state)
        assert learner.bare.get_buffer("norm.running_mean").tolist() == [1, 1]
        assert learner.tally["o2o"].tolist() == [0] * 3
        assert learner.measured["o2o"].tolist() == [0] * 8
        assert (learner.batches, learner.sums) == (2, {"o2o.cls": 1.5})
        drawn = torch.rand(3)
        torch.manual_seed(99)
        assert torch.equal(drawn, torch.rand(3)), "each rank keeps its own"
