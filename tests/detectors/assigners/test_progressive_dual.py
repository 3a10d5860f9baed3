import pytest
import torch

from detectors.assigners.aligned_dual import TalMany, TalOne
from detectors.assigners.base import Branch
from detectors.assigners.dual import Dual
from detectors.assigners.progressive_dual import ProgressiveDual
from detectors.structures import Progress
from tests.detectors import miniature as mini


@pytest.mark.parametrize("epochs", [1, 2, 5, 12])
def test_weights_are_those_of_the_equation(epochs: int) -> None:
    """They depend on the epoch alone, not on its steps."""
    for epoch in range(epochs):
        share = 1 - epoch / (epochs - 1) if epochs > 1 else 1.0
        expected = 0.1 + 0.7 * max(share, 0)
        for step in (3 * epoch, 3 * epoch + 2):
            found = ProgressiveDual().weights(Progress(step, 3 * epochs, epoch, epochs))
            assert found == pytest.approx({"o2o": 1 - expected, "o2m": expected})


def test_weights_may_change_after_each_step() -> None:
    dual = ProgressiveDual(o2m_first=0.6, o2m_last=0.2, weight_per="step")
    found = [dual.weights(Progress(step, 5, step // 3, 2))["o2m"] for step in range(5)]
    assert found == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2])


def test_branches_are_those_of_the_released_code() -> None:
    one, many = ProgressiveDual().branches().values()
    assert one.assigner == TalOne(alpha=0.5, beta=6.0, topk=7, grow_small=True)
    assert many.assigner == TalMany(alpha=0.5, beta=6.0, topk=10, grow_small=True)
    assert (one.weight, many.weight) == pytest.approx((0.2, 0.8))


def test_the_weights_of_other_strategies_do_not_change() -> None:
    dual = Dual(lambda_o2o=0.5, lambda_o2m=2.0)
    for epoch in range(3):
        assert dual.weights(Progress(epoch, 3, epoch, 3)) == {"o2o": 0.5, "o2m": 2.0}


@pytest.mark.parametrize(("epoch", "trained"), [(0, "o2m"), (1, "o2o")])
def test_a_training_step_uses_the_weights_of_its_epoch(epoch: int, trained: Branch) -> None:
    """A branch with the weight 0 leaves its predictor as it is."""
    learner = mini.learner(ProgressiveDual(o2m_first=1.0, o2m_last=0.0), mini.DESCENT)
    before = {name: each.clone() for name, each in learner.bare.state_dict().items()}
    mini.train_step(learner, mini.batch([3, 2]), Progress(epoch, 2, epoch, 2))
    changed = {
        name.split(".")[2]
        for name, each in learner.bare.state_dict().items()
        if "predictors" in name and not torch.equal(each, before[name])
    }
    assert changed == {trained}
