"""Training that computes activations again, in parts of a batch or block by block."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.assigners import ASSIGNERS
from detectors.engine import Learner
from detectors.models.backbone_base import Backbone
from detectors.models.parts import synchronise_norms
from detectors.models.resnet import ResNet
from detectors.recomputation import recompute_blocks
from detectors.training import Training
from detectors.world import LocalWorld
from tests.detectors import miniature as mini

EIGHT = mini.batch([3, 0, 2, 0, 0, 0, 1, 4])
"""Eight images, of which one quarter has no objects."""
NORMED = ResNet(depth=18, bn="trained", frozen_stages=0)


def after_a_step(name: str, **changes: Any) -> tuple[dict[str, float], Learner]:
    learner = mini.set_up(name, mini.DESCENT.model_copy(update=changes))
    return mini.train_step(learner, EIGHT, mini.progress(0)), learner


def test_parts_of_a_batch_equal_the_whole_batch(setup: str) -> None:
    """Losses are divided by the positives of all eight images, and matched in all of them."""
    losses, whole = after_a_step(setup)
    found, parts = after_a_step(setup, accumulate=4)
    assert found == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(parts.bare.state_dict(), whole.bare.state_dict(), rtol=0, atol=1e-6)
    assert {b: parts.positives(b) for b in parts.tally} == {
        b: whole.positives(b) for b in whole.tally
    }


@pytest.mark.parametrize(("accumulate", "images"), [(3, [2, 2, 1]), (8, [1] * 5)])
def test_parts_are_as_equal_as_possible(accumulate: int, images: list[int]) -> None:
    learner = mini.set_up("poto", mini.DESCENT.model_copy(update={"accumulate": accumulate}))
    seen: list[int] = []
    learner.bare.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    mini.train_step(learner, mini.UNEVEN, mini.progress(0))
    assert sorted(seen[: len(images)], reverse=True) == images
    assert sorted(seen) == sorted(images * 2), "each part is computed twice"


def kept_bytes(learner: Learner) -> int:
    """Return the bytes that a forward pass keeps for the backward pass."""
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.model(EIGHT.images)
    return total


@pytest.mark.parametrize(
    ("change", "share"), [({"recompute": True}, 0.8), ({"accumulate": 4}, 0.1)]
)
@pytest.mark.parametrize("name", ["dual with both", "queries", "cascade"])
def test_less_is_kept_for_the_backward_pass(
    name: str, change: dict[str, Any], share: float
) -> None:
    saving = mini.set_up(name, mini.DESCENT.model_copy(update=change))
    assert kept_bytes(saving) < share * kept_bytes(mini.set_up(name, mini.DESCENT))


class Normed(nn.Module):
    """A backbone with batch norm and dropout, of which a loss is computed."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.dropout = backbone, nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone(self.backbone.normalise(images))
        return torch.stack([self.dropout(each).square().mean() for each in maps]).sum()


def test_blocks_give_the_same_gradients_statistics_and_random_numbers() -> None:
    """In every bit, also of a copy; the copy has its own weights."""
    images = torch.randint(256, (2, 3, 64, 64)).to(torch.uint8)
    torch.manual_seed(0)
    plain = Normed(NORMED.build())
    again = deepcopy(plain)
    assert recompute_blocks(again) == 8
    copied = deepcopy(again)
    again_unused = deepcopy(again.state_dict())
    numbers = []
    for model in (plain, copied):
        torch.manual_seed(1)
        for _ in range(2):
            torch.autograd.backward(model(images))
        numbers.append(torch.rand(3))
    assert torch.equal(*numbers)
    torch.testing.assert_close(copied.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert plain.state_dict()["backbone.layer4.1.bn2.num_batches_tracked"] == 2
    for (name, mine), theirs in zip(copied.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0, msg=name)
    torch.testing.assert_close(again.state_dict(), again_unused, rtol=0, atol=0)


@pytest.mark.parametrize(("options", "blocks"), [(mini.SMALL, 5), (mini.SETUPS["queries"][1], 6)])
def test_blocks_of_detectors(options: Any, blocks: int) -> None:
    model = mini.detector(ASSIGNERS["min_cost"](), options)
    assert recompute_blocks(model) == blocks
    assert recompute_blocks(deepcopy(model).requires_grad_(False)) == 0


@pytest.mark.parametrize("name", ["dual with both", "queries", "cascade"])
def test_a_step_is_the_same_with_blocks_that_are_computed_again(name: str) -> None:
    _, plain = after_a_step(name)
    _, again = after_a_step(name, recompute=True)
    torch.testing.assert_close(again.state(), plain.state(), rtol=0, atol=0)


class TestSynchronisedNorms:
    def test_only_norms_that_are_trained_are_replaced(self) -> None:
        backbone = NORMED.build()
        model = nn.ModuleDict({"backbone": backbone, "neck": nn.BatchNorm2d(4)})
        model["still"] = nn.BatchNorm2d(4).eval()
        before = deepcopy(model.state_dict())
        synchronise_norms(model, list(backbone.get_submodule("layer1").modules()))
        kinds = {name: type(m) for name, m in model.named_modules() if "bn1" in name}
        assert kinds["backbone.layer1.0.bn1"] is nn.BatchNorm2d
        assert kinds["backbone.layer2.0.bn1"] is kinds["backbone.bn1"] is nn.SyncBatchNorm
        assert type(model["neck"]) is nn.SyncBatchNorm
        assert type(model["still"]) is nn.BatchNorm2d
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)

    def test_are_refused_without_a_gpu_unless_there_is_one_rank(self) -> None:
        training = mini.BRISK.model_copy(update={"sync_batch_norm": True})
        mini.learner(ASSIGNERS["poto"](), training)
        with pytest.raises(ValueError, match="sync_batch_norm needs GPUs, and the detector is on"):
            mini.learner(ASSIGNERS["poto"](), training, PairWorld())


class PairWorld(LocalWorld):
    """Rank 0 of two."""

    size = 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 9}, r"accumulate must be at most batch \(8\), got 9"),
        ({"recompute": True, "compile": True}, "recompute and compile can't be combined"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training.model_validate(options)
