from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.assigners import ASSIGNERS
from detectors.engine import Learner, assign, train_epoch, train_step
from detectors.evaluation.metrics import POSITIVES
from detectors.memory_format import to_device
from detectors.positives import EVERY, means, measure
from tests.detectors import miniature as mini
from tests.detectors.batching import packed

each_strategy = pytest.mark.parametrize("name", ASSIGNERS)


@dataclass
class Twin:
    """One of two ranks; the other one has the value `other`."""

    other: Tensor
    rank: int = 0
    size: int = 2

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return (value + self.other) / 2

    def gather(self, value: Any) -> list[Any]:
        raise NotImplementedError


class TestPositives:
    @pytest.mark.parametrize(
        ("mine", "other", "expected"),
        [
            ([6, 1, 4], [0, 0, 0], (1.5, 0.25)),
            ([6, 1, 4], [4, 4, 6], (1.0, 0.5)),
            ([0, 0, 0], [5, 0, 1], (5.0, 0.0)),
            ([0, 3, 3], [0, 1, 1], (0.0, 1.0)),
            ([0, 0, 0], [0, 0, 0], (0.0, 0.0)),
        ],
    )
    def test_are_counted_per_object_of_all_ranks(
        self, mine: list[float], other: list[float], expected: tuple[float, float]
    ) -> None:
        world = Twin(torch.tensor(other, dtype=torch.float64))
        learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK, world)
        learner.tally["o2o"] = torch.tensor(mine, dtype=torch.float64)
        assert learner.positives("o2o") == expected

    def test_are_those_of_the_assignments_trained_with(self, setup: str) -> None:
        """Count them per object, in all cascaded heads, before the step changes the weights.

        Positives of an auxiliary assignment are not counted.
        """
        strategy, counts = mini.SETUPS[setup][0], (3, 0, 1)
        batch = mini.batch(counts)
        learner = mini.set_up(setup, mini.BRISK)
        output = deepcopy(learner.bare).train()(to_device(batch.images, torch.device("cpu")))
        expected = {}
        for branch, supervision in strategy.branches().items():
            each = []
            for predictions in output.branches[branch]:
                (found,) = assign(
                    supervision.assigner,
                    output.points[branch],
                    [predictions],
                    packed(*batch.targets),
                    mini.progress(0),
                )
                owners = zip(found.object.tolist(), counts, strict=True)
                each += [owner.count(g) for owner, count in owners for g in range(count)]
            expected[branch] = sum(each) / len(each), each.count(0) / len(each)
        train_step(learner, batch, mini.progress(0))
        assert {branch: learner.positives(branch) for branch in expected} == expected
        assert expected[next(iter(expected))][0] > 0

    def test_of_one_to_one_are_one_per_object_in_all_steps(self) -> None:
        learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK)
        mini.steps(learner, 0, 4)
        assert learner.positives("o2o") == (1.0, 0.0)
        assert learner.tally["o2o"].tolist() == [11.0, 0.0, 11.0]

    @each_strategy
    def test_are_counted_from_zero_in_every_epoch(self, name: str) -> None:
        many, one, none = mini.batch([4, 3]), mini.batch([1], seed=5), mini.batch([0, 0])
        learner = mini.learner(ASSIGNERS[name](), mini.BRISK)
        branches = list(ASSIGNERS[name]().branches())
        objects = []
        for n, batches in enumerate([[many, one], [one], [none], [many]]):
            train_epoch(learner, batches, mini.progress(2 * n))
            objects.append([learner.tally[branch][2].item() for branch in branches])
            if not objects[-1][0]:
                assert [learner.positives(b) for b in branches] == [(0.0, 0.0)] * len(branches)
        assert objects == [[n] * len(branches) for n in (8, 1, 0, 7)]


class TestScores:
    """Scores and ranks of the positives, see `tests/detectors/test_positives.py`."""

    def sums(self, learner: Learner, counts: list[int], seed: int) -> dict[str, Tensor]:
        """Measure a batch with the learner's weights, per branch over all cascaded heads."""
        batch = mini.batch(counts, seed)
        output = deepcopy(learner.bare).train()(to_device(batch.images, torch.device("cpu")))
        targets, found = packed(*batch.targets), dict[str, Tensor]()
        for branch, supervision in learner.strategy.branches().items():
            points, now = output.points[branch], replace(mini.progress(0), step=learner.step)
            heads = []
            for x in output.branches[branch]:
                (own,) = assign(supervision.assigner, points, [x], targets, now)
                heads.append(measure(points, x, own, targets))
            found[branch] = torch.stack(heads).sum(0)
        return found

    def test_are_those_before_every_fourth_step_of_the_epoch(self, setup: str) -> None:
        learner, counts = mini.set_up(setup, mini.BRISK), [[3, 0, 1], [2, 1], [0], [1], [4, 2], [1]]
        batches = [mini.batch(each, seed) for seed, each in enumerate(counts)]
        expected = []

        def after() -> None:
            if learner.batches == EVERY:
                expected.append(self.sums(learner, counts[EVERY], EVERY))

        expected.append(self.sums(learner, counts[0], 0))
        train_epoch(learner, batches, mini.progress(0), after)
        assert learner.scores() == {
            f"{branch}.{name}": pytest.approx(value)
            for branch in learner.strategy.branches()
            for name, value in means(expected[0][branch] + expected[1][branch]).items()
        }
        assert len(learner.scores()) == len(POSITIVES) * len(learner.strategy.branches())

    def test_are_those_of_all_ranks(self) -> None:
        learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK)
        mine, other = (self.sums(learner, [n + 1, 3], n)["o2o"] for n in range(2))
        learner.world, learner.measured["o2o"] = Twin(other), mine
        expected = {f"o2o.{name}": value for name, value in means(mine + other).items()}
        assert learner.scores() == pytest.approx(expected)

    @each_strategy
    def test_are_missing_without_objects_and_begin_again_in_every_epoch(self, name: str) -> None:
        learner = mini.learner(ASSIGNERS[name](), mini.BRISK)
        assert learner.scores() == {}
        train_epoch(learner, [mini.batch([4, 3])], mini.progress(0))
        assert {key.split(".")[0] for key in learner.scores()} == set(learner.strategy.branches())
        train_epoch(learner, [mini.batch([0, 0])], mini.progress(2))
        assert learner.scores() == {}

    def test_do_not_change_the_training(self) -> None:
        """A learner that measures no batch has the same losses and weights."""
        first, second = (mini.learner(ASSIGNERS["dual"](), mini.BRISK) for _ in range(2))
        second.batches = 1
        assert mini.steps(first, 0, 3) == mini.steps(second, 0, 3)
        torch.testing.assert_close(first.state(), second.state(), rtol=0, atol=0)
        assert first.measured
        assert not second.measured
