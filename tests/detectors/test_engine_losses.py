"""Test which loss trains which branch, with which weight."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Strategy
from detectors.engine import Learner
from detectors.losses import LossOptions
from detectors.models.gates import Centerness, MaxFilter
from detectors.training import Training
from tests.detectors import miniature as mini

DUAL, MIXTURE = ASSIGNERS["dual"](), ASSIGNERS["mixture"]()


def step(of: Learner) -> dict[str, float]:
    return mini.train_step(of, mini.batch([2, 1]), mini.progress(0))


def training(**changes: Any) -> Training:
    """Configure plain gradient descent with other losses and no clipping."""
    return mini.DESCENT.model_copy(update={"clip_norm": 0.0} | changes)


def gradients(of: Learner) -> dict[str, Tensor]:
    found = of.bare.named_parameters()
    return {name: p.grad.clone() for name, p in found if p.grad is not None}


def test_parts_are_named_by_branch_and_are_the_losses_before_the_step(setup: str) -> None:
    strategy, options = mini.SETUPS[setup]
    first, again = (step(mini.set_up(setup, mini.BRISK)) for _ in range(2))
    expected = []
    for branch in strategy.branches():
        predicted = branch == "o2m" and getattr(options, "centerness", False)
        optional = {"centerness": predicted and setup != "dual with anchors"}
        optional["aux"] = branch in strategy.auxiliary()
        optional["mask"] = options.segments
        parts = ["cls", "box", *(part for part, there in optional.items() if there)]
        expected += [f"{branch}.{part}" for part in parts]
    assert list(first) == expected
    assert first == again
    assert all(value >= 0 for value in first.values())


def test_a_step_descends_the_sum_of_the_parts_times_the_weight_of_their_branch() -> None:
    """A tiny step changes the loss by the squared norm of the gradient times the learning rate."""
    strategy = ASSIGNERS["dual"].model_validate({"lambda_o2o": 0.5, "lambda_o2m": 3.0})
    options = mini.SMALL.model_copy(update={"centerness": True})
    loss = LossOptions(l1_weight=2.0)
    rate = 1e-4

    def total(parts: dict[str, float]) -> float:
        return sum((0.5 if n.startswith("o2o") else 3.0) * part for n, part in parts.items())

    model = mini.detector(strategy, options)
    of = mini.learner(strategy, training(loss=loss, lr=rate), model=model)
    before = step(of)
    norm = sum(float(g.square().sum()) for g in gradients(of).values())
    assert {"o2o.cls", "o2o.box", "o2o.l1", "o2m.centerness"} <= before.keys()
    assert total(before) - total(step(of)) == pytest.approx(rate * norm, rel=0.05)


def test_gradients_are_linear_in_the_weights_of_branches_and_parts() -> None:
    def found(cls: float, box: float, o2o: float, o2m: float) -> dict[str, Tensor]:
        loss = LossOptions(cls_weight=cls, box_weight=box)
        strategy = ASSIGNERS["dual"].model_validate({"lambda_o2o": o2o, "lambda_o2m": o2m})
        learner = mini.learner(strategy, training(loss=loss))
        step(learner)
        return gradients(learner)

    single = [found(c, 1 - c, o, 1 - o) for c in (1.0, 0.0) for o in (1.0, 0.0)]
    weights = [2.0 * 0.5, 2.0 * 3.0, 7.0 * 0.5, 7.0 * 3.0]
    for name, gradient in found(2.0, 7.0, 0.5, 3.0).items():
        expected = sum(w * each[name] for w, each in zip(weights, single, strict=True))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


OTHER = LossOptions(cls_weight=3.0, box="iou", box_weight=0.5, l1_weight=1.0)


def parts_under(strategy: Strategy, **losses: Any) -> dict[str, float]:
    return step(mini.learner(strategy, training(**losses)))


def test_o2m_loss_has_the_defaults_of_loss_options_and_is_not_set_by_default() -> None:
    assert Training().o2m_loss is None
    assert Training.model_validate({"o2m_loss": {"cls_weight": 2}}).o2m_loss == LossOptions(
        cls_weight=2
    )


def test_o2m_loss_applies_only_to_the_second_branch() -> None:
    plain, other = parts_under(DUAL), parts_under(DUAL, loss=OTHER)
    mixed = parts_under(DUAL, o2m_loss=OTHER)
    assert {n: v for n, v in mixed.items() if n.startswith("o2o")} == {
        n: v for n, v in plain.items() if n.startswith("o2o")
    }
    assert {n: v for n, v in mixed.items() if n.startswith("o2m")} == {
        n: v for n, v in other.items() if n.startswith("o2m")
    }
    assert list(mixed) == ["o2o.cls", "o2o.box", "o2m.cls", "o2m.box", "o2m.l1"]


@pytest.mark.parametrize("name", ["fcos", "poto", "o2f", "hybrid"])
def test_o2m_loss_does_not_apply_to_a_single_branch(name: str) -> None:
    strategy = ASSIGNERS[name]()
    assert parts_under(strategy, o2m_loss=OTHER) == parts_under(strategy)


class TestAuxiliary:
    """The auxiliary loss of 003."""

    @pytest.mark.parametrize("gate", [MaxFilter(), Centerness(convs=1, width=8)])
    def test_trains_only_the_classes_before_the_gate(self, gate: MaxFilter | Centerness) -> None:
        """Its gradient is the difference between the gradients with and without it."""
        options = mini.SMALL.model_copy(update={"gate": gate})

        def found(weight: float) -> dict[str, Tensor]:
            strategy = MIXTURE.model_copy(update={"lambda_aux": weight})
            model = mini.detector(strategy, options)
            learner = mini.learner(strategy, training(), model=model)
            step(learner)
            return gradients(learner)

        without, whole = found(0.0), found(4.0)
        aux = {name: whole[name] - gradient for name, gradient in without.items()}
        private = [name for name in aux if ".gate." in name or ".box." in name or "scales" in name]
        assert len(private) >= 5
        for name, gradient in aux.items():
            size = gradient.abs().max().item()
            assert (size < 1e-6) == (name in private), f"{name} {size}"

    def test_its_part_is_multiplied_by_its_weight(self) -> None:
        one, half = (parts_under(MIXTURE.model_copy(update={"lambda_aux": w})) for w in (1.0, 0.5))
        assert half.pop("o2o.aux") == pytest.approx(one.pop("o2o.aux") / 2)
        assert half == one
        assert parts_under(ASSIGNERS["poto"]()) == one

    def test_without_a_gate_it_is_the_classification_loss_of_its_assigner(self) -> None:
        alone = {"main": {"name": "quality_atss"}, "aux": {"name": "quality_atss"}}
        parts = parts_under(ASSIGNERS["mixture"].model_validate(alone))
        assert parts["o2m.aux"] == pytest.approx(parts["o2m.cls"])


def test_losses_of_cascaded_heads_are_added() -> None:
    """With the same features in every stage, three heads have three times the loss of one."""
    strategy, options = mini.SETUPS["cascade"]

    def found(heads: int) -> tuple[dict[str, float], list[float]]:
        model = mini.detector(strategy, options.model_copy(update={"heads": heads}))
        for name, weight in model.get_submodule("head").named_parameters():
            fill = 0.7 if name.endswith("bias") else 0.0
            nn.init.constant_(weight, fill if "stages" in name else 0.01)
        of = mini.learner(strategy, training(), model=model)
        return step(of), of.tally["o2o"].tolist()

    (three, counts), (one, count) = found(3), found(1)
    assert three == pytest.approx({name: 3 * part for name, part in one.items()})
    assert counts == [3 * n for n in count] == [9.0, 0.0, 9.0]
