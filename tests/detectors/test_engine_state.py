from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detectors.assigners import ASSIGNERS
from detectors.engine import train_epoch
from detectors.optimizer import RunningAverage, make_optimizer
from detectors.training import Training, lr_factor
from tests.detectors import miniature as mini


class TestResume:
    """Two steps and two after a reload equal four steps."""

    def test_every_setup(self, setup: str) -> None:
        assert_resumes(setup, mini.BRISK)

    @pytest.mark.parametrize(
        "changes",
        [
            {"optimizer": "sgd"},
            {"backbone_lr": 0.1},
            {"precision": "bf16"},
            {"ema": 0.0},
            {"accumulate": 2},
            {"recompute": True},
        ],
    )
    def test_every_kind_of_training(self, changes: dict[str, Any]) -> None:
        assert_resumes("dual with both", mini.BRISK.model_copy(update=changes))


def assert_resumes(setup: str, training: Training) -> None:
    uninterrupted, interrupted, resumed = (mini.set_up(setup, training) for _ in range(3))
    expected = mini.steps(uninterrupted, 0, 4)
    found = mini.steps(interrupted, 0, 2)
    with torch.no_grad():
        for weight in resumed.bare.parameters():
            weight.normal_()
    resumed.load(mini.saved_and_loaded(interrupted.state()))
    found += mini.steps(resumed, 2, 4)
    assert found == expected
    torch.testing.assert_close(resumed.state(), uninterrupted.state(), rtol=0, atol=0)
    assert resumed.step == 4


class TestState:
    def test_names_do_not_contain_the_wrapper(self) -> None:
        strategy = ASSIGNERS["poto"]()
        bare = mini.learner(strategy, mini.BRISK)
        wrapped = mini.learner(strategy, mini.BRISK, model=Wrapper(mini.detector(strategy)))
        assert isinstance(wrapped.model, Wrapper)
        assert wrapped.bare is wrapped.model.module
        mini.steps(bare, 0, 1)
        mini.steps(wrapped, 0, 1)
        torch.testing.assert_close(wrapped.state(), bare.state(), rtol=0, atol=0)

    def test_of_another_detector_is_refused(self) -> None:
        dual = mini.learner(ASSIGNERS["dual"](), mini.BRISK).state()
        with pytest.raises(RuntimeError, match=r"predictors\.o2m"):
            mini.learner(ASSIGNERS["poto"](), mini.BRISK).load(dual)


class Wrapper(nn.Module):
    """A wrapper with the structure of DDP."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        return self.module(images)


class TestAverage:
    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.998])
    def test_equals_its_recursive_definition(self, decay: float) -> None:
        learner = mini.learner(ASSIGNERS["fcos"](), mini.BRISK.model_copy(update={"ema": decay}))
        expected: dict[str, Tensor] = {}
        for n in range(6):
            mini.steps(learner, n, n + 1)
            kept = min(decay, (1 + n) / (10 + n)) if n else 0.0
            for name, weight in learner.bare.named_parameters():
                old = expected.get(name, torch.zeros_like(weight, dtype=torch.float64))
                expected[name] = kept * old + (1 - kept) * weight.detach().double()
        learner.averaged.refresh()
        for name, weight in learner.averaged.module.named_parameters():
            torch.testing.assert_close(weight.double(), expected[name], rtol=1e-5, atol=1e-7)

    def test_without_decay_it_equals_the_weights(self) -> None:
        learner = mini.learner(ASSIGNERS["fcos"](), mini.BRISK.model_copy(update={"ema": 0.0}))
        mini.steps(learner, 0, 3)
        learner.state()
        torch.testing.assert_close(
            learner.averaged.module.state_dict(), learner.bare.state_dict(), rtol=0, atol=0
        )

    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.998])
    def test_equals_that_of_pytorch_in_every_bit(self, decay: float) -> None:
        """Of weights that two layers share, statistics and counters, also after a conversion."""

        @torch.no_grad()
        def ramped(averaged: Any, current: Any, count: Any) -> None:
            weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, weight)
            else:
                torch._foreach_copy_(averaged, current)

        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, bias=False))
        model.get_submodule("2").weight = model.get_parameter("0.weight")
        ours = RunningAverage(model, decay)
        theirs = AveragedModel(model, multi_avg_fn=ramped, use_buffers=True)
        for step in range(6):
            if step == 3:
                for module in (model, ours, theirs):
                    module.double()
            model(torch.randn(4, 3, 5, 5, dtype=model.get_parameter("0.weight").dtype))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter))
            ours.update_parameters(model)
            theirs.update_parameters(model)
            ours.refresh()
            torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)

    def test_is_not_trained(self) -> None:
        learner = mini.learner(ASSIGNERS["fcos"](), mini.BRISK)
        mini.steps(learner, 0, 1)
        assert not any(p.requires_grad for p in learner.averaged.parameters())
        assert not learner.averaged.module.training
        assert learner.bare.training


class TestOptimizer:
    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 2))
        model.get_parameter("2.bias").requires_grad_(False)
        return model

    @pytest.mark.parametrize("kind", ["adamw", "sgd"])
    def test_only_matrices_decay_and_frozen_parameters_are_left_out(self, kind: str) -> None:
        training = Training.model_validate({"optimizer": kind, "weight_decay": 0.3, "lr": 0.1})
        model = self.model()
        groups = make_optimizer(model, training).param_groups
        decayed = {id(p) for g in groups if g["weight_decay"] == 0.3 for p in g["params"]}
        free = {id(p) for g in groups if g["weight_decay"] == 0.0 for p in g["params"]}
        names = {id(p): name for name, p in model.named_parameters()}
        assert {names[i] for i in decayed} == {"0.weight", "2.weight"}
        assert {names[i] for i in free} == {"0.bias", "1.weight", "1.bias"}
        assert {g["lr"] for g in groups} == {0.1}

    def test_norms_biases_and_position_tables_have_their_own_weight_decay(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8)
        )
        for name in ("relative_position_bias_table", "pos_embed"):
            model[0].register_parameter(name, nn.Parameter(torch.zeros(4, 4)))
        model[0].register_parameter("scale", nn.Parameter(torch.ones(5)))
        training = Training(weight_decay=0.3, weight_decay_norm=0.2, weight_decay_bias=0.1)
        groups = make_optimizer(model, training).param_groups
        decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
        assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
            "0.weight": 0.3,
            "0.bias": 0.1,
            "0.scale": 0.1,
            "0.relative_position_bias_table": 0.0,
            "0.pos_embed": 0.0,
            **{f"{n}.{kind}": 0.2 for n in (1, 2, 3) for kind in ("weight", "bias")},
        }

    def test_kind_and_momentum(self) -> None:
        sgd = make_optimizer(self.model(), Training(optimizer="sgd", momentum=0.7))
        assert isinstance(sgd, torch.optim.SGD)
        assert {group["momentum"] for group in sgd.param_groups} == {0.7}
        adamw = make_optimizer(self.model(), Training(optimizer="adamw"))
        assert isinstance(adamw, torch.optim.AdamW)

    def test_learning_rate_of_the_backbone_is_a_share_of_the_others(self) -> None:
        """It applies to every parameter below `backbone.`, decaying or not, at every step."""
        training = mini.BRISK.model_copy(update={"backbone_lr": 0.1})
        learner = mini.learner(ASSIGNERS["dual"](), training)
        names = {id(p): name for name, p in learner.bare.named_parameters()}
        for n in range(3):
            mini.steps(learner, n, n + 1)
            rates = {
                names[id(p)]: group["lr"]
                for group in learner.optimizer.param_groups
                for p in group["params"]
            }
            assert rates.keys() == set(names.values())
            for name, rate in rates.items():
                share = 0.1 if name.startswith("backbone.") else 1.0
                assert rate == pytest.approx(training.lr * lr_factor(training, n, 8) * share)

    def test_a_backbone_of_rate_zero_does_not_change(self) -> None:
        frozen = mini.DESCENT.model_copy(update={"backbone_lr": 0.0})
        learner = mini.learner(ASSIGNERS["poto"](), frozen)
        before = {name: p.detach().clone() for name, p in learner.bare.named_parameters()}
        mini.steps(learner, 0, 2)
        for name, parameter in learner.bare.named_parameters():
            assert torch.equal(parameter, before[name]) == name.startswith("backbone."), name


class PairWorld:
    """Rank 0 of two. All values of the other rank are 10, and its loss parts are the same."""

    rank, size = 0, 2

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return (value + 10) / 2

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


def test_ranks_share_their_running_statistics_after_an_epoch() -> None:
    """This holds for the trained weights and for their average; counters stay integers."""
    learner = mini.learner(ASSIGNERS["poto"](), mini.BRISK, PairWorld(), normed())
    before = {name: buffer.clone() for name, buffer in learner.bare.named_buffers()}
    train_epoch(learner, [], mini.progress(0))
    for name, buffer in learner.bare.named_buffers():
        shared = (before[name] + 10) / 2 if buffer.is_floating_point() else before[name]
        assert torch.equal(buffer, shared), name
    averaged = dict(learner.averaged.module.named_buffers())
    assert all(torch.equal(averaged[name], b) for name, b in learner.bare.named_buffers())
    assert any(name.endswith("running_mean") for name in before)


def normed() -> nn.Module:
    """Build a detector that contains a batch norm."""
    model = mini.detector(ASSIGNERS["poto"]())
    model.add_module("norm", nn.BatchNorm2d(4))
    return model
