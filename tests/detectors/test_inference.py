from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.assigners import ASSIGNERS
from detectors.inference import Halted, NonFinitePredictionsError, CandidateRequest, predict
from detectors.models.onenet import OneNetOptions
from detectors.structures import Candidates

IMAGES = 5
DUAL = ASSIGNERS["dual"]()


class Rendezvous:
    """Rank `rank` of `size` threads. One that does not come leaves the others with an error."""

    def __init__(self, rank: int, told: list[Tensor], barrier: Barrier) -> None:
        self.rank, self.size = rank, barrier.parties
        self.told, self.barrier = told, barrier

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        self.told.append(value)
        self.barrier.wait(timeout=60)
        assert len(self.told) == self.size, "all_reduce_mean was called more than once"
        return torch.stack(self.told).mean(dim=0)

    def gather(self, value: Any) -> list[Any]:
        raise NotImplementedError


def on_ranks(size: int, work: Callable[[Rendezvous], Any]) -> list[Any]:
    """What every rank returns, or the ValueError that it raises."""

    def outcome(rank: int) -> Any:
        try:
            return work(Rendezvous(rank, told, barrier))
        except ValueError as error:
            return error

    told: list[Tensor] = []
    barrier = Barrier(size)
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(outcome, range(size)))


def assert_same(a: Candidates, b: Candidates) -> None:
    for name, column in vars(a).items():
        assert torch.equal(column, getattr(b, name)), name


def assert_together(ranks: list[dict[str, Candidates]], alone: dict[str, Candidates]) -> None:
    """Every image on one rank only, and all of them what one rank alone finds."""
    for branch in ("o2o", "o2m"):
        images = [set(rank[branch].image.tolist()) for rank in ranks]
        assert images == [set(range(IMAGES)[r :: len(ranks)]) for r in range(len(ranks))]
        assert_same(Candidates.join([rank[branch] for rank in ranks]), alone[branch])


@pytest.mark.parametrize("size", [1, 2, 3, 7])  # 7: two ranks get no image at all
def test_every_image_once_and_the_same_for_any_number_of_ranks(mini: ModuleType, size: int) -> None:
    model = mini.detector(DUAL)  # one for all threads: drawing it isn't thread-safe
    ranks = on_ranks(size, lambda world: mini.predicted(world, model))
    assert all(list(rank) == ["o2o", "o2m"] for rank in ranks)
    alone = mini.predicted(mini.LocalWorld())
    assert len(alone["o2o"].image.unique()) == IMAGES
    assert_together(ranks, alone)


def test_two_real_ranks_find_what_one_finds(
    mini: ModuleType, two_ranks: list[dict[str, Any]]
) -> None:
    assert_together([rank["predicted"] for rank in two_ranks], mini.predicted(mini.LocalWorld()))


class TestNotFinite:
    @pytest.mark.parametrize(("size", "rank", "images"), [(2, 1, [1, 3]), (3, 0, [0, 3])])
    def test_on_one_rank_stops_them_all(
        self, mini: ModuleType, size: int, rank: int, images: list[int]
    ) -> None:
        models = [mini.broken() if r == rank else mini.detector(DUAL) for r in range(size)]

        def work(world: Rendezvous) -> Any:
            return mini.predicted(world, models[world.rank], batch=2)

        for r, error in enumerate(on_ranks(size, work)):
            assert isinstance(error, ValueError)
            at_fault = f"images {images} are not finite" in str(error)
            assert at_fault == (r == rank)
            assert ("of another worker are not finite" in str(error)) == (r != rank)
            assert "lower lr" in str(error)

    def test_in_a_late_batch_of_one_rank(self, mini: ModuleType) -> None:
        """The others have fewer images, or more; all wait for each other once, at the end."""

        model = mini.detector(DUAL)

        def work(world: Rendezvous) -> Any:
            return mini.predicted(world, FailsAt(model, call=2) if world.rank == 0 else model)

        errors = on_ranks(4, work)
        assert all(isinstance(error, ValueError) for error in errors)
        assert "logits of images [4] are not finite" in str(errors[0])

    def test_on_one_of_two_real_ranks(self, two_ranks: list[dict[str, Any]]) -> None:
        first, last = (rank["unpredictable"] for rank in two_ranks)
        assert "predictions of another worker are not finite" in first
        assert "boxes of images [1] are not finite" in last

    def test_without_other_ranks(self, mini: ModuleType) -> None:
        with pytest.raises(ValueError, match=r"boxes of images \[0, 1\] are not finite"):
            mini.predicted(mini.LocalWorld(), mini.broken(), batch=2)


class FailsAt(nn.Module):
    """A detector whose logits are NaN at call number `call`."""

    def __init__(self, model: nn.Module, call: int) -> None:
        super().__init__()
        self.model, self.left = model, call

    def forward(self, images: Tensor, branches: Any) -> Any:
        self.left -= 1
        output = self.model(images, branches=branches)
        for (predictions,) in output.branches.values():
            predictions.logits.mul_(torch.nan if self.left == 0 else 1)
        return output


def test_candidates_are_the_models_best_pairs_in_original_pixels(mini: ModuleType) -> None:
    """The best pairs of each level, by an argsort over all of them."""
    model, data = mini.detector(ASSIGNERS["poto"]()), mini.SHAPES.load("val")
    found = predict(model, data, CandidateRequest(["o2o"], 7, batch=2), mini.LocalWorld())["o2o"]
    assert sorted(set(found.image.tolist())) == list(range(len(data)))
    assert (found.image.diff() >= 0).all()
    for index in range(len(data)):
        candidates = found.take(found.image == index)
        with torch.no_grad():
            output = model(data[index].image[None])
        scores = output.branches["o2o"][0].logits[0].sigmoid()
        for level in range(2):
            mine = candidates.levels == level
            own = scores[output.points["o2o"].level == level].flatten()
            best = own.sort(descending=True).values[:7]
            torch.testing.assert_close(candidates.scores[mine], best, rtol=1e-4, atol=1e-6)
            assert set(candidates.strides[mine].tolist()) == {model.strides[level]}
        assert (candidates.boxes >= 0).all()
        assert (candidates.boxes <= mini.SIDE).all()
        assert (candidates.scores.diff() <= 0).all()


def test_centerness_has_its_share_in_the_scores(mini: ModuleType) -> None:
    options = mini.SMALL.model_copy(update={"centerness": True})
    torch.manual_seed(0)
    model, data = options.build(mini.CLASSES, ("o2m",)), mini.SHAPES.load("val")
    found = predict(model, data, CandidateRequest(["o2m"], 5), mini.LocalWorld())["o2m"].scores
    with torch.no_grad():
        model.get_parameter("head.predictors.o2m.centerness.bias").fill_(-8)
    lower = predict(model, data, CandidateRequest(["o2m"], 5), mini.LocalWorld())["o2m"].scores
    share = (torch.tensor(-8.0).sigmoid() / torch.tensor(0.0).sigmoid()).sqrt()
    torch.testing.assert_close(lower / found, share.expand(len(found)), rtol=0.05, atol=0)


def test_a_cascade_predicts_with_its_head_that_counts(mini: ModuleType) -> None:
    options = OneNetOptions(backbone=mini.SMALL.backbone, channels=16, heads=2)
    torch.manual_seed(0)
    model, data = options.build(mini.CLASSES, ("o2o",)), mini.SHAPES.load("val")
    found = predict(model, data, CandidateRequest(["o2o"], mini.TOPK), mini.LocalWorld())["o2o"]
    torch.nn.init.normal_(model.get_parameter("head.stages.1.weight"))
    assert_same(
        predict(model, data, CandidateRequest(["o2o"], mini.TOPK), mini.LocalWorld())["o2o"], found
    )


def test_size_of_the_batch_does_not_matter(mini: ModuleType) -> None:
    def found(batch: int) -> Candidates:
        candidates: Candidates = mini.predicted(mini.LocalWorld(), batch=batch)["o2o"]
        return candidates

    for batch in (3, 16):
        assert torch.equal(found(batch).image, found(1).image)
        torch.testing.assert_close(found(batch).scores, found(1).scores, rtol=1e-4, atol=1e-6)


def test_weights_are_neither_changed_nor_given_gradients(mini: ModuleType) -> None:
    model = mini.detector(ASSIGNERS["poto"]()).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = predict(
        model, mini.SHAPES.load("val"), CandidateRequest(["o2o"], mini.TOPK), mini.LocalWorld()
    )
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(column.requires_grad for column in vars(found["o2o"]).values())


def test_averaged_weights_can_predict(mini: ModuleType) -> None:
    learner = mini.learner(DUAL, mini.DESCENT)
    data, world = mini.SHAPES.load("val"), mini.LocalWorld()
    averaged = predict(learner.averaged, data, CandidateRequest(["o2o"], mini.TOPK), world)["o2o"]
    assert_same(
        averaged, predict(learner.bare, data, CandidateRequest(["o2o"], mini.TOPK), world)["o2o"]
    )


class TestHalt:
    """Five images, one at a time."""

    def seen(self, mini: ModuleType, world: Any, halt_at: int) -> int:
        """How many batches a rank sees that is asked to halt after `halt_at` of them."""
        looks: list[int] = []

        def halt() -> bool:
            looks.append(1)
            return len(looks) >= halt_at

        data, wanted = mini.SHAPES.load("val"), CandidateRequest(["o2o"], 5, batch=1)
        try:
            predict(mini.detector(ASSIGNERS["poto"]()), data, wanted, world, halt)
        except Halted:
            return len(looks)
        raise AssertionError("it went on to the end")

    @pytest.mark.parametrize("at", [1, 3, 5])
    def test_breaks_off_after_the_batch(self, mini: ModuleType, at: int) -> None:
        assert self.seen(mini, mini.LocalWorld(), at) == at

    def test_is_shared_by_all_ranks_at_the_end(self, mini: ModuleType) -> None:
        """Nobody asks this rank, but the other one has halted: its own images come first."""
        assert self.seen(mini, OtherRank([0.0, 1.0]), 99) == 3

    def test_an_error_elsewhere_goes_first(self, mini: ModuleType) -> None:
        with pytest.raises(NonFinitePredictionsError, match="of another worker are not finite"):
            self.seen(mini, OtherRank([1.0, 1.0]), 1)


class OtherRank:
    """Rank 0 of two; what the other says of problems and halting is given."""

    rank, size = 0, 2

    def __init__(self, says: list[float]) -> None:
        self._says = torch.tensor(says)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return (value + self._says) / 2

    def gather(self, value: Any) -> list[Any]:
        return [value]
