"""The training loop: learner, epoch and step, on one or several ranks."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from detectors.assigners.base import Assigner, Branch, Strategy, Supervision
from detectors.assigners.groups import assign_groups, joined
from detectors.criterion import Criterion, Loss, Positives, count_positives, of_one_class
from detectors.data.loader import Batch
from detectors.masks import MaskTargets, mask_loss
from detectors.memory_format import to_device
from detectors.models.output import Output
from detectors.models.parts import check_gpu, freeze, synchronise_norms
from detectors.optimizer import RunningAverage, make_optimizer
from detectors.positives import EVERY, means, measure
from detectors.recomputation import InParts, recompute_blocks, unwrapped
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch
from detectors.training import Training, lr_factor
from detectors.world import World

PARTS = ("forward", "assignment", "losses", "backward", "update")
"""The parts of a training step, see `Learner.mark`. `update` is clipping, optimiser and average."""


def _ignore(part: str) -> None:
    """Do nothing at the end of a part of a step."""


class NonFiniteLossError(RuntimeError):
    """A loss is NaN or infinite. The message names step, epoch and every part of the loss."""


@dataclass
class Learner:
    """The state of a training: weights, their average, optimiser and progress in the epoch.

    `model` may be a wrapper (DDP) around the module that is averaged.
    """

    model: nn.Module
    averaged: RunningAverage
    optimizer: torch.optim.Optimizer
    strategy: Strategy
    training: Training
    world: World
    frozen: tuple[nn.Module, ...] = ()
    """The modules of `training.freeze`."""
    log_every: int = 1
    """Losses are read after so many steps."""
    step: int = 0
    batches: int = 0
    """Number of batches done in the current epoch; 0 between epochs."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the global loss parts over these batches, without those that are still unread."""
    unread: list[tuple[Progress, dict[str, Tensor]]] = field(default_factory=list)
    """Global loss parts of the last steps; `read_losses` adds them to `sums`."""
    tally: dict[Branch, Tensor] = field(default_factory=dict)
    """Sums of `criterion.count_positives` on this rank over these batches, by branch."""
    measured: dict[Branch, Tensor] = field(default_factory=dict)
    """Sums of `positives.measure` on this rank over every EVERY-th of these batches, by branch."""
    mark: Callable[[str], None] = _ignore
    """Called with one of PARTS when all its work has been given to the device; benchmarks set it.
    The assignment of an auxiliary loss belongs to `losses`."""

    @classmethod
    def create(
        cls,
        detector: nn.Module,
        strategy: Strategy,
        training: Training,
        world: World,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> "Learner":
        """Create a learner at step 0.

        Args:
            detector: the detector. The parts that `training.freeze` names are frozen here, before
                `wrap`: DDP waits for gradients of all parameters that had one when it was created.
            strategy: the assignment that the detector was built for.
            training: schedule and losses.
            world: the process group.
            wrap: wraps the detector, for example with DDP.

        Raises:
            ValueError: `training.freeze` names an unknown part, or all parts; batch norm can't be
                synchronised on this device.
        """
        frozen = freeze(detector, training.freeze)
        if training.sync_batch_norm and world.size > 1:
            check_gpu(detector)
            synchronise_norms(detector.train(), frozen)
        if training.compile:
            detector.compile()
        if training.recompute:
            recompute_blocks(detector)
        parts = training.accumulate
        model = wrap(InParts(detector, parts) if parts > 1 else detector)
        averaged = RunningAverage(unwrapped(model), training.ema)
        averaged.requires_grad_(False).eval()
        optimizer = make_optimizer(unwrapped(model), training)
        learner = cls(model, averaged, optimizer, strategy, training, world, frozen)
        learner.log_every = 1 if learner.device.type == "cpu" else training.log_every
        learner.train()
        return learner

    def train(self) -> None:
        """Set the model to training mode, except for its frozen parts."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def bare(self) -> nn.Module:
        """The module without wrappers."""
        return unwrapped(self.model)

    def positives(self, branch: Branch) -> tuple[float, float]:
        """Return statistics of the current epoch's assignments. All ranks must call this.

        Returns:
            The mean number of positive points per object, and the fraction in [0, 1] of objects
            without any, over all ranks; (0, 0) if there were no objects.
        """
        positive, unassigned, objects = self._over_ranks(self.tally[branch]).tolist()
        return (positive / objects, unassigned / objects) if objects else (0.0, 0.0)

    def scores(self) -> dict[str, float]:
        """Return scores and ranks of the current epoch's positives. All ranks must call this.

        Returns:
            The means over all ranks of what `positives.measure` sums over the first batch of the
            epoch and every EVERY-th after it, named `branch.quantity`. A branch that had no
            positive points is missing.
        """
        found = {b: means(self._over_ranks(sums)) for b, sums in self.measured.items()}
        return {f"{b}.{name}": value for b, each in found.items() for name, value in each.items()}

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """Return the mean over all ranks of sums on this rank."""
        return self.world.all_reduce_mean(sums.to(self.device))

    def read_losses(self) -> None:
        """Add the losses of the last steps to `sums`; this waits for the device.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; on every rank, and for the first of the
                steps for which it is.
        """
        steps, self.unread = self.unread, []
        if not steps:
            return
        values = torch.stack([torch.stack(list(parts.values())) for _, parts in steps]).tolist()
        for (progress, parts), row in zip(steps, values, strict=True):
            named = dict(zip(parts, row, strict=True))
            _check_finite(named, progress)
            for name, value in named.items():
                self.sums[name] = self.sums.get(name, 0.0) + value

    def state(self) -> dict[str, Any]:
        """Return the state at the end of an epoch for a checkpoint, as tensors and plain values.

        Raises:
            NonFiniteLossError: see `read_losses`.
        """
        self.read_losses()
        self.averaged.refresh()
        return {
            "model": self.bare.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned. Raises RuntimeError if names or shapes differ."""
        self.bare.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train_epoch(
    learner: Learner,
    batches: Iterable[Batch],
    progress: Progress,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train on all batches of an epoch.

    Args:
        learner: the learner. If it was restored in the middle of an epoch (see `midway`), the epoch
            is continued.
        batches: the batches that are left in the epoch.
        progress: the progress at the first of them.
        after_step: called after each step; an exception that it raises ends the epoch early.

    Returns:
        The means of the global loss parts over the steps of the epoch.

    Raises:
        NonFiniteLossError: on every rank, see `Learner.read_losses`.
    """
    learner.train()
    if not learner.batches:
        learner.tally.clear()
        learner.measured.clear()
        learner.sums.clear()
    for batch in batches:
        train_step(learner, batch, replace(progress, step=learner.step))
        learner.batches += 1
        after_step()
    learner.read_losses()
    learner.averaged.refresh()
    _share_buffers(learner)
    done, learner.batches = learner.batches, 0
    return {name: value / done for name, value in learner.sums.items()}


def train_step(learner: Learner, batch: Batch, progress: Progress) -> dict[str, Tensor]:
    """Make one optimiser step on this rank's part of a global batch.

    On a GPU, losses are read after every `training.log_every` steps, because Python otherwise waits
    for the device; elsewhere after each.

    Returns:
        The parts of the loss of the global batch, named `branch.part`, on the device.

    Raises:
        NonFiniteLossError: a loss of this step, or of one since losses were last read, is NaN or
            infinite.
    """
    device, half = learner.device, learner.training.precision == "bf16"
    kind = "cpu" if device.type == "meta" else device.type
    with torch.autocast(kind, torch.bfloat16, enabled=half):
        output = learner.model(to_device(batch.images, device))
    learner.mark("forward")
    targets = TargetBatch.of(batch.targets, device)
    supervisions = learner.strategy.branches()
    masks = MaskTargets.of(batch, device) if output.masks else None
    losses = {
        name: _supervise(learner, output, name, targets, progress, masks) for name in supervisions
    }
    parts = _global_parts(losses, learner.world)
    learner.unread.append((progress, parts))
    if len(learner.unread) >= learner.log_every:
        learner.read_losses()
    weights = learner.strategy.weights(progress)
    total = torch.stack([weights[name] * loss.total() for name, loss in losses.items()]).sum()
    learner.mark("losses")
    _descend(learner, total, progress)
    return parts


def assign(
    assigner: Assigner,
    points: Points,
    heads: Sequence[Predictions],
    targets: TargetBatch,
    progress: Progress,
) -> list[Assignment]:
    """Return the assignments of a batch for each of several heads, with their positive points.

    They are made together, as those of one larger batch, so that Python waits for the device once.
    Groups of points are assigned as if there were no others, see `Points.groups`. If predictions
    of a head are not finite, its assignment is the one for predictions of 0; the loss then raises
    the error.
    """
    finite = [predictions.finite() for predictions in heads]
    if len(heads) == 1:
        return [assign_groups(assigner, points, finite[0], targets, progress).located()]
    together, objects = joined(finite), targets.repeated(len(heads))
    found = assign_groups(assigner, points, together, objects, progress)
    return found.located().split(len(heads))


def _supervise(
    learner: Learner,
    output: Output,
    branch: Branch,
    targets: TargetBatch,
    progress: Progress,
    masks: MaskTargets | None,
) -> Loss:
    """Compute the loss of one branch, summed over its cascaded heads."""
    assigner = learner.strategy.branches()[branch].assigner
    options = learner.training.loss_of(branch, learner.strategy.branches())
    criterion = Criterion(options, learner.world)
    points, heads = output.points[branch], output.branches[branch]
    assignments, losses = assign(assigner, points, heads, targets, progress), []
    learner.mark("assignment")
    for predictions, found in zip(heads, assignments, strict=True):
        learner.tally[branch] = learner.tally.get(branch, 0) + count_positives(found, targets)
        if learner.batches % EVERY == 0:
            sums = measure(points, predictions, found, targets)
            learner.measured[branch] = sums + learner.measured.get(branch, 0)
        loss = criterion.branch_loss(points, predictions, found, targets, assigner.loss)
        if masks is not None:
            features = output.masks[branch]
            mask = mask_loss(criterion, points, predictions, found, features, masks)
            loss = replace(loss, mask=mask)
        losses.append(loss)
    if auxiliary := learner.strategy.auxiliary().get(branch):
        ungated = [predictions.without_gate() for predictions in heads]
        aux = _auxiliary(criterion, auxiliary, points, ungated, targets, progress)
        losses = [replace(loss, aux=each) for loss, each in zip(losses, aux, strict=True)]
    if first := output.proposals.get(branch):
        (at, proposed), objects = first, of_one_class(targets)
        [found] = assign(assigner, at, [proposed], objects, progress)
        losses.append(criterion.branch_loss(at, proposed, found, objects, assigner.loss))
    learner.mark("losses")
    return _sum(losses)


def _auxiliary(
    criterion: Criterion,
    supervision: Supervision,
    points: Points,
    heads: Sequence[Predictions],
    targets: TargetBatch,
    progress: Progress,
) -> list[Tensor]:
    """Compute the auxiliary losses of 003: classification only, with assignments of their own."""
    kind = supervision.assigner.loss
    assignments = assign(supervision.assigner, points, heads, targets, progress)
    return [
        supervision.weight
        * criterion.classification(
            predictions.logits, Positives.of(found, targets), found, targets, kind
        )
        for predictions, found in zip(heads, assignments, strict=True)
    ]


def _share_buffers(learner: Learner) -> None:
    """Average the running statistics over ranks, because each rank saw other images."""
    if learner.world.size == 1:
        return
    for module in (learner.bare, learner.averaged):
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(learner.world.all_reduce_mean(buffer))


def _sum(losses: Sequence[Loss]) -> Loss:
    """Add losses that have the same parts."""
    each = [loss.parts() for loss in losses]
    return Loss(**{name: torch.stack([parts[name] for parts in each]).sum() for name in each[0]})


def _global_parts(losses: Mapping[Branch, Loss], world: World) -> dict[str, Tensor]:
    """Return the means of the parts of the losses over all ranks."""
    named = {
        f"{b}.{part}": value for b, loss in losses.items() for part, value in loss.parts().items()
    }
    means = world.all_reduce_mean(torch.stack(list(named.values())))
    return dict(zip(named, means.unbind(), strict=True))


def _check_finite(parts: Mapping[str, float], progress: Progress) -> None:
    """Raise NonFiniteLossError if a part of the loss of a step is not finite."""
    if not all(map(math.isfinite, parts.values())):
        shown = ", ".join(f"{name}={value:.4g}" for name, value in parts.items())
        raise NonFiniteLossError(
            f"loss is not finite at step {progress.step} (epoch {progress.epoch + 1}): {shown}; "
            "lower training.lr or set training.clip_norm"
        )


def _descend(learner: Learner, total: Tensor, progress: Progress) -> None:
    """Update the weights and their average with the gradients of `total`."""
    training = learner.training
    factor = lr_factor(training, progress.step, progress.steps)
    for group in learner.optimizer.param_groups:
        group["lr"] = training.lr * factor * group["share"]
    learner.optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    learner.mark("backward")
    if training.clip_norm:
        nn.utils.clip_grad_norm_(learner.model.parameters(), training.clip_norm)
    learner.optimizer.step()
    learner.averaged.update_parameters(learner.bare)
    learner.step += 1
    learner.mark("update")
