"""A learner broken off in the middle of an epoch, and one that goes on for it."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors import midway
from detectors.assigners import ASSIGNERS
from detectors.engine import Learner, train_epoch


class BrokenOffError(Exception): ...


def broken_off_after(learner: Learner, batches: int) -> Any:
    def after() -> None:
        if learner.batches == batches:
            raise BrokenOffError

    return after


def batches_of(mini: ModuleType) -> list[Any]:
    return [mini.batch(counts, seed=n) for n, counts in enumerate([[2, 0], [1, 3], [0, 0], [4, 1]])]


@pytest.mark.parametrize("at", [1, 2, 4])
def test_goes_on_exactly(mini: ModuleType, setup: str, at: int) -> None:
    straight, first, second = (mini.set_up(setup, mini.BRISK) for _ in range(3))
    batches = batches_of(mini)
    expected = train_epoch(straight, batches, mini.progress(0))
    with pytest.raises(BrokenOffError):
        train_epoch(first, batches, mini.progress(0), broken_off_after(first, at))
    state = mini.travelled({"learner": first.state(), "middle": midway.state_of(first)})
    second.load(state["learner"])
    assert midway.exact(state["middle"], second.world)
    midway.load(second, state["middle"])
    assert (second.batches, second.step) == (at, at)
    assert train_epoch(second, batches[at:], mini.progress(0)) == expected
    torch.testing.assert_close(second.state(), straight.state(), rtol=0, atol=0)
    torch.testing.assert_close(second.tally, straight.tally, rtol=0, atol=0)
    assert second.batches == straight.batches == 0


def test_mean_losses_are_those_of_the_steps(mini: ModuleType) -> None:
    learner, again = (mini.learner(ASSIGNERS["poto"](), mini.BRISK) for _ in range(2))
    found = train_epoch(learner, batches_of(mini), mini.progress(0))
    steps = mini.steps(again, 0, 4)
    for name, value in found.items():
        assert value == pytest.approx(sum(parts[name] for parts in steps) / 4)


def test_the_next_epoch_counts_anew(mini: ModuleType) -> None:
    learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK)
    train_epoch(learner, batches_of(mini), mini.progress(0))
    train_epoch(learner, batches_of(mini)[:1], mini.progress(4))
    assert learner.tally["o2o"][2] == 2, "the objects of one batch"
    assert train_epoch(learner, [], mini.progress(5)) == {}


class Ranks:
    """Rank `rank` of `size`, which gathers what it was given of the others."""

    def __init__(self, rank: int, size: int, others: list[Any]) -> None:
        self.rank, self.size, self._others = rank, size, others

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return value.detach()

    def gather(self, value: Any) -> list[Any]:
        return [] if self.rank else [value, *self._others]


class TestRanks:
    """Each has random numbers, statistics and counts of its own."""

    def learner(self, mini: ModuleType, rank: int, size: int, others: list[Any]) -> Learner:
        model = mini.detector(ASSIGNERS["poto"]())
        model.add_module("norm", torch.nn.BatchNorm2d(2))
        world = Ranks(rank, size, others)
        made: Learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK, world, model)
        for number, module in enumerate((made.bare, made.averaged.module)):
            module.get_buffer("norm.running_mean").fill_(10.0 * rank + number + 1)
        made.tally = {"o2o": torch.full((3,), float(rank), dtype=torch.float64)}
        made.batches, made.sums = 2, {"o2o.cls": 1.5}
        torch.manual_seed(rank)
        return made

    def state(self, mini: ModuleType) -> Any:
        own = midway._own(self.learner(mini, 1, 2, []))
        state = midway.state_of(self.learner(mini, 0, 2, [own]))
        assert midway.state_of(self.learner(mini, 1, 2, [])) is None
        return mini.travelled(state)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_get_their_own_back(self, mini: ModuleType, rank: int) -> None:
        state, learner = self.state(mini), self.learner(mini, 1 - rank, 2, [])
        learner.world.rank = rank
        assert midway.exact(state, learner.world)
        midway.load(learner, state)
        assert learner.bare.get_buffer("norm.running_mean").tolist() == [10 * rank + 1] * 2
        averaged = learner.averaged.module.get_buffer("norm.running_mean")
        assert averaged.tolist() == [10 * rank + 2] * 2
        assert learner.tally["o2o"].tolist() == [rank] * 3
        drawn = torch.rand(3)
        torch.manual_seed(rank)
        assert torch.equal(drawn, torch.rand(3))

    @pytest.mark.parametrize(("rank", "size"), [(0, 1), (2, 3)])
    def test_of_another_number_get_those_of_rank_0(
        self, mini: ModuleType, rank: int, size: int
    ) -> None:
        state, learner = self.state(mini), self.learner(mini, rank, size, [])
        assert not midway.exact(state, learner.world)
        torch.manual_seed(99)
        midway.load(learner, state)
        assert learner.bare.get_buffer("norm.running_mean").tolist() == [1, 1]
        assert learner.tally["o2o"].tolist() == [0] * 3
        assert (learner.batches, learner.sums) == (2, {"o2o.cls": 1.5})
        drawn = torch.rand(3)
        torch.manual_seed(99)
        assert torch.equal(drawn, torch.rand(3)), "each rank keeps its own"
