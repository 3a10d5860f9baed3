from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.assigners import ASSIGNERS
from detectors.evaluation.protocol import Protocol
from detectors.inference import predict
from detectors.structures import Candidates


@dataclass
class Turns:
    """Ranks of one world that take turns, the last first; rank 0 comes last and sees all."""

    rank: int
    size: int
    told: list[Any] = field(default_factory=list)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def gather(self, value: Any) -> list[Any]:
        self.told.insert(0, value)
        return self.told if self.rank == 0 else []


def assert_same(a: list[Candidates], b: list[Candidates]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for name in ("boxes", "scores", "labels", "levels"):
            assert torch.equal(getattr(x, name), getattr(y, name))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_image_once_and_the_same_for_any_number_of_ranks(mini: ModuleType, size: int) -> None:
    told: list[Any] = []
    ranks = [mini.predicted(Turns(rank, size, told)) for rank in reversed(range(size))]
    assert ranks[:-1] == [{}] * (size - 1)
    seen = sorted(index for rank in told for index in rank["o2o"])
    assert seen == list(range(5))
    assert list(ranks[-1]) == ["o2o", "o2m"]
    alone = mini.predicted(mini.LocalWorld())
    for branch in ("o2o", "o2m"):
        assert_same(ranks[-1][branch], alone[branch])


def test_two_real_ranks_find_what_one_finds(
    mini: ModuleType, two_ranks: list[dict[str, Any]]
) -> None:
    alone = mini.predicted(mini.LocalWorld())
    assert two_ranks[1]["predicted"] == {}
    for branch in ("o2o", "o2m"):
        assert_same(two_ranks[0]["predicted"][branch], alone[branch])


def test_candidates_are_the_models_best_pairs_in_original_pixels(mini: ModuleType) -> None:
    """The best pairs of each level, by an argsort over all of them."""
    model, data = mini.detector(ASSIGNERS["poto"]()), mini.SHAPES.load("val")
    protocol = Protocol(pre_nms_topk=7)
    found = predict(model, data, ["o2o"], protocol, mini.LocalWorld(), batch=2)["o2o"]
    assert len(found) == len(data)
    for index, candidates in enumerate(found):
        with torch.no_grad():
            output = model(data[index].image[None])
        scores = output.branches["o2o"].logits[0].sigmoid()
        for level in range(2):
            mine = candidates.levels == level
            best = scores[output.points.level == level].flatten().sort(descending=True).values[:7]
            torch.testing.assert_close(candidates.scores[mine], best, rtol=1e-4, atol=1e-6)
        assert (candidates.boxes >= 0).all()
        assert (candidates.boxes <= mini.SIDE).all()
        assert (candidates.scores.diff() <= 0).all()


def test_size_of_the_batch_does_not_matter(mini: ModuleType) -> None:
    model, data = mini.detector(ASSIGNERS["poto"]()), mini.SHAPES.load("val")

    def scores(batch: int) -> Tensor:
        found = predict(model, data, ["o2o"], mini.PROTOCOL, mini.LocalWorld(), batch)["o2o"]
        return torch.stack([candidates.scores for candidates in found])

    for batch in (3, 16):
        torch.testing.assert_close(scores(batch), scores(1), rtol=1e-4, atol=1e-6)


def test_weights_are_neither_changed_nor_given_gradients(mini: ModuleType) -> None:
    model = mini.detector(ASSIGNERS["poto"]()).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = predict(model, mini.SHAPES.load("val"), ["o2o"], mini.PROTOCOL, mini.LocalWorld())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(c.boxes.requires_grad or c.scores.requires_grad for c in found["o2o"])


def test_averaged_weights_can_predict(mini: ModuleType) -> None:
    learner = mini.learner(ASSIGNERS["dual"](), mini.DESCENT)
    data, world = mini.SHAPES.load("val"), mini.LocalWorld()
    averaged = predict(learner.averaged, data, ["o2o"], mini.PROTOCOL, world)["o2o"]
    assert_same(averaged, predict(learner.bare, data, ["o2o"], mini.PROTOCOL, world)["o2o"])


def test_predictions_that_are_not_finite_are_refused_by_image(mini: ModuleType) -> None:
    model = mini.detector(ASSIGNERS["poto"]())
    with torch.no_grad():
        model.head.scales.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"boxes of images \[0, 1\] are not finite"):
        predict(model, mini.SHAPES.load("val"), ["o2o"], mini.PROTOCOL, mini.LocalWorld(), batch=2)
