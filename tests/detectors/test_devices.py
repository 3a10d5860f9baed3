"""A training step on the device `meta`, whose tensors have shapes but no values.

Without a GPU, this shows that a step makes every tensor on the device of the weights.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from detectors import engine
from detectors.assigners import matching
from detectors.engine import train_step
from detectors.structures import Assignment, TargetBatch
from detectors.training import Training
from tests.detectors import miniature as mini

COPIES = ("_to_copy", "copy_")


class SameDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operators, other than copies, of tensors on different devices; numbers may be mixed.

    Most kernels refuse that themselves, but on `meta`, indexing and scattering do not.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = _pytree.tree_leaves((args, kwargs))
        devices = {x.device.type for x in given if isinstance(x, Tensor) and x.ndim}
        if func.overloadpacket.__name__ not in COPIES:
            assert len(devices) <= 1, f"{func} of tensors on {devices}"
        return func(*args, **(kwargs or {}))


def located(assignment: Assignment) -> Assignment:
    """Stand for the positive points, three in each image: to find them needs values."""
    images = len(assignment.object)
    image = torch.zeros(3 * images, dtype=torch.int64, device=assignment.object.device)
    return replace(assignment, index=(image, image.cumsum(0)), counts=(3,) * images)


def matched(value_BGN: Tensor, targets: TargetBatch, solve: object) -> Assignment:
    """Stand for an exact matching, which is made on the host."""
    nobody = torch.zeros_like(value_BGN[:, 0], dtype=torch.int64) - 1
    return Assignment(nobody, (nobody >= 0).float())


def optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Create one that is not fused, since no fused one exists for `meta`."""
    groups = [{"params": list(model.parameters()), "share": 1.0}]
    return torch.optim.SGD(groups, lr=training.lr)


def test_a_step_makes_all_tensors_on_the_device_of_the_weights(setup: str) -> None:
    """This is a step in which the scores of positive points are measured."""
    strategy, options = mini.SETUPS[setup]
    model = mini.detector(strategy, options).to("meta")
    with (
        mock.patch.object(Assignment, "located", located),
        mock.patch.object(matching, "_assignment", matched),
        mock.patch.object(engine, "make_optimizer", optimizer),
    ):
        learner = mini.learner(strategy, mini.BRISK, model=model)
        learner.log_every = 9
        with SameDevice():
            parts = train_step(learner, mini.batch([3, 0]), mini.progress(0))
    made = [*parts.values(), *learner.tally.values(), *learner.measured.values()]
    made += [p.grad for p in model.parameters() if p.grad is not None]
    assert {each.device.type for each in made} == {"meta"}
    assert learner.measured


def test_other_devices_are_noticed() -> None:
    values = torch.zeros(3, device="meta")
    with SameDevice(), pytest.raises(AssertionError, match="tensors on"):
        values.gather(0, torch.tensor([0, 2]))
