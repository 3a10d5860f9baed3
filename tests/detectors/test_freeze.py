"""Parts of a detector that are not trained (`training.freeze`; 000 Observation 4.1)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.assigners import ASSIGNERS
from detectors.engine import train_epoch
from detectors.models.extractor import load_extractor
from detectors.models.fcos import FcosOptions
from detectors.models.gates import MaxFilter
from detectors.models.parts import check_freeze, freeze, parts_of, within
from detectors.models.resnet import ResNet
from detectors.models.weights import WeightsError
from detectors.training import Training
from tests.detectors import miniature as mini

LOCATION = ("box_predictor", "box_tower", "scales")
FROZEN = mini.BRISK.model_copy(update={"freeze": LOCATION, "weight_decay": 0.5})


def copied(of: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in of.state_dict().items()}


def moved(before: dict[str, Tensor], of: nn.Module) -> set[str]:
    """Return the names of what has changed in any bit."""
    return {key for key, value in of.state_dict().items() if not torch.equal(value, before[key])}


class TestParts:
    def test_every_parameter_is_in_one_part(self, setup: str) -> None:
        detector = mini.detector(*mini.SETUPS[setup])
        parts = parts_of(detector)
        for name, _ in detector.named_parameters():
            assert sum(within(name, each) for each in parts.values()) == 1, name
        for names in parts.values():
            for name in names:
                assert name in dict(detector.named_modules()) | dict(detector.named_parameters())

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("poto", {"scales", "cls_tower", "box_tower", "cls_predictor", "box_predictor"}),
            ("cascade", {"stages", "cls_predictor", "box_predictor"}),
            (
                "dual with both",
                {
                    *("scales", "cls_tower", "box_tower", "cls_predictor", "box_predictor"),
                    *("gate_predictor", "centerness_predictor"),
                },
            ),
        ],
    )
    def test_names(self, name: str, expected: set[str]) -> None:
        found = parts_of(mini.detector(*mini.SETUPS[name]))
        assert set(found) == {"backbone", "neck"} | expected

    def test_all_branches_are_in_the_same_part(self) -> None:
        detector = mini.detector(*mini.SETUPS["dual with anchors"])
        assert parts_of(detector)["box_tower"] == ["head.towers.o2o.box", "head.towers.o2m.box"]


class TestWrongParts:
    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            (("box_towr",), r"^unknown part box_towr; choose from backbone, neck, scales, cls_t"),
            (("a", "neck", "head.scales"), r"^unknown parts a, head\.scales; choose from backbone"),
            (("gate_predictor",), r"^unknown part gate_predictor; choose from .*, box_predictor$"),
        ],
    )
    def test_are_named_with_those_that_exist(self, parts: tuple[str, ...], message: str) -> None:
        detector = mini.detector(ASSIGNERS["poto"]())
        for call in (
            lambda: freeze(detector, parts),
            lambda: check_freeze(mini.SMALL, ("o2o",), parts),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        assert all(p.requires_grad for p in detector.parameters())

    def test_something_must_be_left_to_train(self) -> None:
        every = tuple(parts_of(mini.detector(ASSIGNERS["poto"]())))
        with pytest.raises(ValueError, match="leaves nothing to train; name fewer parts"):
            check_freeze(mini.SMALL, ("o2o",), every)

    def test_are_found_without_the_weights_of_the_backbone(self) -> None:
        """And without drawing random numbers of the training."""
        options = FcosOptions(backbone=ResNet(depth=18, weights="not-here.pth"))
        state = torch.get_rng_state()
        check_freeze(options, ("o2o",), ("backbone",))
        with pytest.raises(ValueError, match="unknown part x"):
            check_freeze(options, ("o2o",), ("x",))
        assert torch.equal(torch.get_rng_state(), state)


class TestTraining:
    def test_only_the_other_parts_change_in_any_bit(self, setup: str) -> None:
        """With weight decay. The average, too, keeps the bits of the frozen weights."""
        parts = ("box_predictor", "neck")
        training = mini.BRISK.model_copy(update={"freeze": parts, "weight_decay": 0.5})
        learner = mini.set_up(setup, training)
        before, names = copied(learner.bare), parts_of(learner.bare)
        frozen = {key for key in before if any(within(key, names[part]) for part in parts)}
        trainable = {n for n, p in learner.bare.named_parameters() if p.requires_grad}
        mini.steps(learner, 0, 4)
        assert moved(before, learner.bare) == trainable
        assert moved(before, learner.averaged.module) == trainable
        assert frozen
        assert not frozen & trainable

    @pytest.mark.parametrize("kind", ["adamw", "sgd"])
    def test_the_optimiser_does_not_hold_them(self, kind: str) -> None:
        training = FROZEN.model_copy(update={"optimizer": kind})
        learner = mini.learner(ASSIGNERS["poto"](), training)
        held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
        names = parts_of(learner.bare)
        for name, parameter in learner.bare.named_parameters():
            left_out = any(within(name, names[part]) for part in LOCATION)
            assert (id(parameter) in held) != left_out, name

    def test_the_rest_is_trained_as_before(self) -> None:
        """In one step, freezing the box predictor has no influence on other parts."""
        free = mini.learner(ASSIGNERS["fcos"](), mini.DESCENT.model_copy(update={"clip_norm": 0}))
        training = free.training.model_copy(update={"freeze": ("box_predictor",)})
        frozen = mini.learner(ASSIGNERS["fcos"](), training)
        before = copied(free.bare)
        assert mini.steps(free, 0, 1) == mini.steps(frozen, 0, 1)
        differs = moved(copied(free.bare), frozen.bare)
        assert differs == {"head.predictors.o2m.box.weight", "head.predictors.o2m.box.bias"}
        assert moved(before, frozen.bare).isdisjoint(differs)

    def test_running_statistics_stay(self) -> None:
        """In the frozen backbone, while those of the neck are updated; also in the next epoch."""
        model = mini.detector(ASSIGNERS["poto"]())
        for part in (model.backbone, model.neck):
            part.add_module("norm", nn.BatchNorm2d(3))
            part.register_forward_pre_hook(normalise_first)
        training = mini.BRISK.model_copy(update={"freeze": ("backbone",)})
        learner = mini.learner(ASSIGNERS["poto"](), training, model=model)
        before = copied(learner.bare)
        for epoch in range(2):
            train_epoch(learner, [mini.batch([2, 1], epoch)], mini.progress(2 * epoch))
        changed = {key for key in moved(before, learner.bare) if "running" in key}
        assert changed == {"neck.norm.running_mean", "neck.norm.running_var"}
        assert not any(
            key.startswith("backbone.") for key in moved(before, learner.averaged.module)
        )

    def test_a_resumed_training_continues_exactly(self) -> None:
        straight, first, second = (mini.learner(ASSIGNERS["dual"](), FROZEN) for _ in range(3))
        expected = mini.steps(straight, 0, 4)
        found = mini.steps(first, 0, 2)
        second.load(mini.saved_and_loaded(first.state()))
        assert found + mini.steps(second, 2, 4) == expected
        torch.testing.assert_close(second.state(), straight.state(), rtol=0, atol=0)

    def test_nothing_is_frozen_by_default(self) -> None:
        learner = mini.learner(ASSIGNERS["poto"](), Training())
        assert learner.frozen == ()
        assert all(p.requires_grad for p in learner.bare.parameters())


def normalise_first(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Send the first three channels of the (finest) input through the module's norm."""
    (given,) = inputs
    finest = given if isinstance(given, Tensor) else given[0]
    mixed = torch.cat([module.get_submodule("norm")(finest[:, :3]), finest[:, 3:]], 1)
    return (mixed,) if isinstance(given, Tensor) else ([mixed, *given[1:]],)


class TestInitialisation:
    """With `init_from`, frozen predictors have the weights of the source, too."""

    def test_frozen_predictors_are_copied(self) -> None:
        source, detector = (self.built(seed) for seed in (0, 1))
        before = copied(detector)
        load_extractor(detector, source.state_dict(), "there", LOCATION)
        given = source.state_dict()
        others = ("head.predictors.o2o.cls", "head.predictors.o2o.gate")
        kept = {key for key in before if key.startswith(others)}
        assert moved(given, detector) <= kept
        assert moved(before, detector).isdisjoint(kept)

    def test_a_source_without_them_is_refused(self) -> None:
        source = FcosOptions().build(3, ("o2m",))
        detector = self.built(1)
        before = copied(detector)
        with pytest.raises(WeightsError, match=r"missing head\.predictors\.o2o\.box\.weight"):
            load_extractor(detector, source.state_dict(), "there", LOCATION)
        assert not moved(before, detector)

    def built(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return FcosOptions(gate=MaxFilter()).build(3, ("o2o",))


class TestOption:
    def test_the_order_is_irrelevant(self) -> None:
        parts = ["scales", "box_tower", "scales"]
        assert Training.model_validate({"freeze": parts}).freeze == ("box_tower", "scales")

    def test_can_be_read_back(self) -> None:
        assert Training.model_validate_json(FROZEN.model_dump_json()) == FROZEN
