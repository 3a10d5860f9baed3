from collections.abc import Callable
from copy import deepcopy
from functools import partialmethod
from math import sqrt

import pytest
import torch
from torch import nn

from detectors import midway
from detectors.assigners import ASSIGNERS
from detectors.assigners.poto import Poto
from detectors.engine import Learner, NonFiniteLossError, assign, train_epoch
from detectors.models.points import pyramid_points
from detectors.structures import Predictions, Progress, Targets
from detectors.training import Training, lr_factor
from tests.detectors import miniature as mini
from tests.detectors.batching import packed

each_strategy = pytest.mark.parametrize("name", ASSIGNERS)


class TestDivergence:
    @each_strategy
    def test_error_names_the_step_and_the_parts_that_are_not_finite(self, name: str) -> None:
        strategy = ASSIGNERS[name]()
        learner = mini.learner(strategy, mini.BRISK)
        mini.steps(learner, 0, 3)
        with torch.no_grad():
            learner.bare.get_parameter("head.towers.shared.cls.0.0.0.weight").fill_(torch.nan)
        before = deepcopy(learner.state())
        with pytest.raises(NonFiniteLossError, match=r"step 3 \(epoch 2\)") as caught:
            mini.steps(learner, 3, 4)
        for branch in strategy.branches():
            assert f"{branch}.cls=nan" in str(caught.value)
            assert f"{branch}.box=" in str(caught.value)
        assert learner.step == 3
        torch.testing.assert_close(learner.state(), before, equal_nan=True, rtol=0, atol=0)

    @pytest.mark.parametrize("read", [Learner.state, midway.state_of])
    def test_is_found_when_losses_are_read_and_names_the_first_step(
        self, read: Callable[[Learner], object]
    ) -> None:
        """Nothing is saved before they are read."""
        learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK)
        learner.log_every = 9
        mini.steps(learner, 0, 1)
        with torch.no_grad():
            learner.bare.get_parameter("head.towers.shared.cls.0.0.0.weight").fill_(torch.nan)
        mini.steps(learner, 1, 4)
        with pytest.raises(NonFiniteLossError, match=r"step 1 \(epoch 1\)"):
            read(learner)

    def test_learning_rate_that_is_much_too_high(self) -> None:
        training = Training(lr=1e30, warmup_steps=0, clip_norm=0)
        with pytest.raises(NonFiniteLossError, match=r"lower training\.lr"):
            mini.steps(mini.learner(ASSIGNERS["poto"](), training), 0, 4)

    @pytest.mark.parametrize("output", ["logits", "boxes"])
    def test_predictions_that_are_not_finite_are_assigned_like_zeros(self, output: str) -> None:
        points = pyramid_points([(2, 2)], [8], torch.device("cpu"))
        predictions = Predictions(
            torch.zeros(2, 4, 1), torch.tensor([0.0, 0, 9, 9]).repeat(2, 4, 1)
        )
        target = Targets(torch.tensor([[1.0, 1.0, 9.0, 9.0]]), torch.tensor([0]))
        objects = packed(target, target)
        zeros = Predictions(torch.zeros(2, 4, 1), torch.zeros(2, 4, 4))
        (expected,) = assign(Poto(), points, [zeros], objects, mini.progress(0))
        getattr(predictions, output)[1, 0, 0] = torch.inf
        (found,) = assign(Poto(), points, [predictions], objects, mini.progress(0))
        assert torch.equal(found.object, expected.object)
        assert found.degree.isfinite().all()


class TestStep:
    def test_gradient_reaches_every_parameter_even_without_objects(self, setup: str) -> None:
        """DDP would wait for ever for a missing gradient."""
        for counts in ([2, 1], [0, 0]):
            learner = mini.set_up(setup, mini.BRISK)
            mini.train_step(learner, mini.batch(counts), mini.progress(0))
            missing = [
                name
                for name, p in learner.bare.named_parameters()
                if p.requires_grad and p.grad is None
            ]
            assert missing == []

    def test_overfits_a_single_batch(self, setup: str) -> None:
        learner = mini.set_up(setup, Training(lr=1e-2, warmup_steps=0, weight_decay=0))
        batch = mini.batch([2, 1])
        parts = [mini.train_step(learner, batch, mini.progress(0, 12)) for _ in range(12)]
        assert sum(parts[-1].values()) < 0.8 * sum(parts[0].values())

    def test_learning_rate_follows_the_schedule(self) -> None:
        learner = mini.learner(ASSIGNERS["fcos"](), mini.BRISK)
        for n in range(4):
            mini.steps(learner, n, n + 1)
            rates = {group["lr"] for group in learner.optimizer.param_groups}
            assert rates == {mini.BRISK.lr * lr_factor(mini.BRISK, n, 8)}
            assert learner.step == n + 1

    def test_gradient_is_clipped_to_its_norm(self) -> None:
        def moved(clip_norm: float) -> float:
            training = mini.DESCENT.model_copy(update={"clip_norm": clip_norm, "lr": 1.0})
            learner = mini.learner(ASSIGNERS["poto"](), training)
            before = [p.detach().clone() for p in learner.bare.parameters()]
            mini.train_step(learner, mini.batch([2, 1]), mini.progress(0))
            pairs = zip(before, learner.bare.parameters(), strict=True)
            return sqrt(sum(float((a - b.detach()).square().sum()) for a, b in pairs))

        assert moved(0.0) > 0.5
        assert moved(0.25) == pytest.approx(0.25, rel=1e-3)


class TestCompile:
    def test_a_compiled_detector_trains_the_same_weights(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The operators are not fused here, so that they round as usual."""
        compiled = partialmethod(nn.Module.compile, backend="eager")
        monkeypatch.setattr(nn.Module, "compile", compiled)
        plain = mini.set_up("dual with both", mini.BRISK)
        other = mini.set_up("dual with both", mini.BRISK.model_copy(update={"compile": True}))
        assert mini.steps(other, 0, 2) == mini.steps(plain, 0, 2)
        torch.testing.assert_close(other.state(), plain.state(), rtol=0, atol=0)
        assert plain.bare._compiled_call_impl is None
        assert other.bare._compiled_call_impl is not None
        assert other.averaged.module._compiled_call_impl is None


class TestEpoch:
    def test_runs_its_steps_and_returns_their_mean(self) -> None:
        batches = [mini.batch([2, 0], seed=n) for n in range(3)]
        by_epoch, by_step = (mini.learner(ASSIGNERS["o2f"](), mini.BRISK) for _ in range(2))
        mini.steps(by_epoch, 0, 4)
        mini.steps(by_step, 0, 4)
        by_epoch.model.eval()
        start = Progress(step=4, steps=8, epoch=1, epochs=2)
        found = train_epoch(by_epoch, iter(batches), start)
        parts = [
            mini.train_step(by_step, b, Progress(4 + n, 8, 1, 2)) for n, b in enumerate(batches)
        ]
        assert by_epoch.model.training
        assert found == {k: pytest.approx(sum(p[k] for p in parts) / 3) for k in parts[0]}
        torch.testing.assert_close(by_epoch.state(), by_step.state(), rtol=0, atol=0)

    @pytest.mark.parametrize("log_every", [2, 3, 100])
    def test_is_the_same_however_often_losses_are_read(self, log_every: int) -> None:
        batches = [mini.batch([2, 0], seed=n) for n in range(4)]
        often, rarely = (mini.learner(ASSIGNERS["dual"](), mini.BRISK) for _ in range(2))
        rarely.log_every = log_every
        start = Progress(step=0, steps=8, epoch=0, epochs=2)
        assert train_epoch(rarely, batches, start) == train_epoch(often, batches, start)
        torch.testing.assert_close(rarely.state(), often.state(), rtol=0, atol=0)
