from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.assigners import ASSIGNERS
from detectors.inference import (
    CandidateRequest,
    Halted,
    NonFinitePredictionsError,
    predict,
    predict_batches,
)
from detectors.models.onenet import OneNetOptions
from detectors.structures import Candidates
from detectors.world import LocalWorld, World
from tests.detectors import miniature as mini

DUAL = ASSIGNERS["dual"]()


class ThreadWorld:
    """Rank `rank` of several threads, which wait for each other at a barrier."""

    def __init__(self, rank: int, values: list[Tensor], barrier: Barrier) -> None:
        self.rank, self.size = rank, barrier.parties
        self.values, self.barrier = values, barrier

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        self.values.append(value)
        self.barrier.wait()
        assert len(self.values) == self.size, "all_reduce_mean was called more than once"
        return torch.stack(self.values).mean(dim=0)

    def gather(self, value: Any) -> list[Any]:
        raise NotImplementedError


def on_ranks(size: int, work: Callable[[ThreadWorld], Any]) -> list[Any]:
    """Return the result of every rank, or the ValueError that it raised.

    A rank that ends without a call of `all_reduce_mean` breaks the barrier: the others fail.
    """

    def outcome(rank: int) -> Any:
        try:
            return work(ThreadWorld(rank, values, barrier))
        except ValueError as error:
            return error
        finally:
            if len(values) < size:
                barrier.abort()

    values: list[Tensor] = []
    barrier = Barrier(size)
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(outcome, range(size)))


@pytest.mark.parametrize("size", [1, 2, 3, 7])  # 7: two ranks get no image
def test_every_image_once_and_the_same_for_any_number_of_ranks(size: int) -> None:
    model = mini.detector(DUAL)  # shared: drawing its weights is not thread-safe
    ranks = on_ranks(size, lambda world: mini.predicted(world, model))
    assert all(list(rank) == ["o2o", "o2m"] for rank in ranks)
    alone = mini.predicted(LocalWorld())
    assert set(alone["o2o"].image.tolist()) == set(range(mini.IMAGES))
    mini.assert_together(ranks, alone)


class TestNotFinite:
    @pytest.mark.parametrize(("size", "rank", "images"), [(2, 1, [1, 3]), (3, 0, [0, 3])])
    def test_on_one_rank_stops_all(self, size: int, rank: int, images: list[int]) -> None:
        models = [mini.broken() if r == rank else mini.detector(DUAL) for r in range(size)]

        def work(world: ThreadWorld) -> Any:
            return mini.predicted(world, models[world.rank], batch=2)

        for r, error in enumerate(on_ranks(size, work)):
            assert isinstance(error, ValueError)
            at_fault = f"images {images} are not finite" in str(error)
            assert at_fault == (r == rank)
            assert ("of another worker are not finite" in str(error)) == (r != rank)
            assert "lower lr" in str(error)

    def test_in_a_late_batch_of_one_rank(self) -> None:
        """Ranks have different numbers of images and wait for each other once, at the end."""
        model = mini.detector(DUAL)

        def work(world: ThreadWorld) -> Any:
            return mini.predicted(world, FailsAt(model, call=2) if world.rank == 0 else model)

        errors = on_ranks(4, work)
        assert all(isinstance(error, ValueError) for error in errors)
        assert "logits of images [4] are not finite" in str(errors[0])

    def test_without_other_ranks(self) -> None:
        with pytest.raises(ValueError, match=r"boxes of images \[0, 1\] are not finite"):
            mini.predicted(LocalWorld(), mini.broken(), batch=2)


class FailsAt(nn.Module):
    """A detector whose logits are NaN in call number `call`."""

    def __init__(self, model: nn.Module, call: int) -> None:
        super().__init__()
        self.model, self.left = model, call

    def forward(self, images: Tensor, branches: Any) -> Any:
        self.left -= 1
        output = self.model(images, branches=branches)
        for (predictions,) in output.branches.values():
            predictions.logits.mul_(torch.nan if self.left == 0 else 1)
        return output


def test_a_batch_is_received_once_the_next_one_is_with_the_device() -> None:
    """What the receiver does runs while a GPU computes the next batch."""
    model, data = mini.detector(ASSIGNERS["poto"]()), mini.SHAPES.load("val")
    events: list[str] = []
    received = []

    def receive(branch: str, candidates: Candidates) -> None:
        events.append(branch)
        received.append(candidates)

    model.register_forward_hook(lambda *_: events.append("forward"))
    request = CandidateRequest(["o2o"], mini.TOPK, batch=2)
    predict_batches(model, data, request, LocalWorld(), receive)
    assert events == ["forward", "forward", "o2o", "forward", "o2o", "o2o"]
    assert [sorted(set(some.image.tolist())) for some in received] == [[0, 1], [2, 3], [4]]
    found = predict(model, data, request, LocalWorld())["o2o"]
    mini.assert_same(Candidates.join(received), found)


def test_candidates_are_the_models_best_pairs_in_original_pixels() -> None:
    """Compare them with a sort over all pairs of each level."""
    model, data = mini.detector(ASSIGNERS["poto"]()), mini.SHAPES.load("val")
    found = predict(model, data, CandidateRequest(["o2o"], 7, batch=2), LocalWorld())["o2o"]
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
        assert (candidates.scores.diff() <= 0).all()


def test_centerness_is_part_of_the_scores() -> None:
    options = mini.SMALL.model_copy(update={"centerness": True})
    torch.manual_seed(0)
    model, data = options.build(mini.CLASSES, ("o2m",)), mini.SHAPES.load("val")
    found = predict(model, data, CandidateRequest(["o2m"], 5), LocalWorld())["o2m"].scores
    with torch.no_grad():
        model.get_parameter("head.predictors.o2m.centerness.bias").fill_(-8)
    lower = predict(model, data, CandidateRequest(["o2m"], 5), LocalWorld())["o2m"].scores
    share = (torch.tensor(-8.0).sigmoid() / torch.tensor(0.0).sigmoid()).sqrt()
    torch.testing.assert_close(lower / found, share.expand(len(found)), rtol=0.05, atol=0)


def test_a_cascade_predicts_only_with_its_inference_head() -> None:
    options = OneNetOptions(backbone=mini.SMALL.backbone, channels=16, heads=2)
    torch.manual_seed(0)
    model, data = options.build(mini.CLASSES, ("o2o",)), mini.SHAPES.load("val")
    found = predict(model, data, CandidateRequest(["o2o"], mini.TOPK), LocalWorld())["o2o"]
    torch.nn.init.normal_(model.get_parameter("head.stages.1.weight"))
    mini.assert_same(
        predict(model, data, CandidateRequest(["o2o"], mini.TOPK), LocalWorld())["o2o"], found
    )


def test_candidates_do_not_depend_on_the_batch_size() -> None:
    def found(batch: int) -> Candidates:
        return mini.predicted(LocalWorld(), batch=batch)["o2o"]

    for batch in (3, 16):
        assert torch.equal(found(batch).image, found(1).image)
        torch.testing.assert_close(found(batch).scores, found(1).scores, rtol=1e-4, atol=1e-6)


def test_weights_are_neither_changed_nor_given_gradients() -> None:
    model = mini.detector(ASSIGNERS["poto"]()).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = predict(
        model, mini.SHAPES.load("val"), CandidateRequest(["o2o"], mini.TOPK), LocalWorld()
    )
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    columns = [column for column in vars(found["o2o"]).values() if column is not None]
    assert not any(column.requires_grad for column in columns)


def test_averaged_weights_can_predict() -> None:
    learner = mini.learner(DUAL, mini.DESCENT)
    data, world = mini.SHAPES.load("val"), LocalWorld()
    averaged = predict(learner.averaged, data, CandidateRequest(["o2o"], mini.TOPK), world)["o2o"]
    mini.assert_same(
        averaged, predict(learner.bare, data, CandidateRequest(["o2o"], mini.TOPK), world)["o2o"]
    )


class TestHalt:
    """Five images, in batches of one."""

    def batches_until_halt(self, world: World, halt_at: int) -> int:
        """Count the batches of a rank that is asked to halt after `halt_at` of them."""
        calls: list[int] = []

        def halt() -> bool:
            calls.append(1)
            return len(calls) >= halt_at

        data, request = mini.SHAPES.load("val"), CandidateRequest(["o2o"], 5, batch=1)
        try:
            predict(mini.detector(ASSIGNERS["poto"]()), data, request, world, halt)
        except Halted:
            return len(calls)
        raise AssertionError("predict did not halt")

    @pytest.mark.parametrize("at", [1, 3, 5])
    def test_stops_after_the_batch(self, at: int) -> None:
        assert self.batches_until_halt(LocalWorld(), at) == at

    def test_is_shared_by_all_ranks_at_the_end(self) -> None:
        """This rank was not asked to halt, but the other one was: it finishes its images first."""
        assert self.batches_until_halt(OtherRank([0.0, 1.0]), 99) == 3

    def test_an_error_of_another_rank_takes_precedence(self) -> None:
        with pytest.raises(NonFinitePredictionsError, match="of another worker are not finite"):
            self.batches_until_halt(OtherRank([1.0, 1.0]), 1)


class OtherRank:
    """Rank 0 of two, with given values of the other one: whether it failed, whether it halts."""

    rank, size = 0, 2

    def __init__(self, values: list[float]) -> None:
        self._values = torch.tensor(values)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return (value + self._values) / 2

    def gather(self, value: Any) -> list[Any]:
        return [value]
