"""Run one trial in one process group: train, evaluate, save. No scheduler, database or tracker.

`run_trial` runs on every rank. `TrialContext` holds what differs between the ways to run a trial,
and `CostMeter` measures what an attempt costs.
"""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import TypeAdapter
from torch import nn

from detectors import midway
from detectors.data.base import DataError, Dataset
from detectors.data.loader import Shares
from detectors.data.mask_views import segmented
from detectors.data.processes import TrainLoader
from detectors.engine import Learner, train_epoch
from detectors.inference import Halted
from detectors.memory_format import memory_format
from detectors.models.extractor import load_extractor
from detectors.structures import Progress
from detectors.world import World, seed_torch
from gaplab.errors import StorageError, UserError
from gaplab.formatting import plural
from gaplab.records import (
    Cost,
    EpochDone,
    EvaluationRecord,
    Event,
    Machine,
    Started,
    StepDone,
    TrialRecord,
)
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import check_unchanged, experiment_of
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage, stored_path
from gaplab.trial.checkpoints import CheckpointWriter, LoadedCheckpoint, load_newest
from gaplab.trial.control import NO_CONTROL, Control, Stop, Stopped, any_rank, first_order
from gaplab.trial.evaluate import Evaluator
from gaplab.trial.provenance import worker_provenance
from gaplab.trial.weights import initial_weights

_EVENT = TypeAdapter(EpochDone)


@dataclass(frozen=True)
class TrialContext:
    """Where and how one rank runs a trial.

    Attributes:
        world: its process group.
        device: where tensors are.
        storage: where files go.
        machine: what the ledger stores about the place.
        wrap: wraps the model, for example for distributed training.
        control: gives orders to stop.
    """

    world: World
    device: torch.device
    storage: Storage
    machine: Machine
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    control: Control = NO_CONTROL


def run_trial(trial: TrialRecord, context: TrialContext, emit: Callable[[Event], None]) -> None:
    """Train `trial` from its last checkpoint to its last epoch. All ranks must call this.

    A checkpoint is saved before each evaluation and after each epoch; then an `EpochDone` is
    emitted. The checkpoint holds all that was measured so far, and a resumed trial emits it first:
    an event that was lost with a dead process is replayed.

    Args:
        trial: the trial.
        context: what this rank works with.
        emit: called with every event, on every rank.

    Raises:
        Stopped: on every rank, after an order to stop.
        DataError, NonFiniteLossError, NonFinitePredictionsError, UserError: if the trial can't be
            trained.
    """
    run = _TrialRun(trial, context)
    classes = len(run.train_data.classes)
    provenance = worker_provenance(run.experiment, context.device, classes)
    emit(Started(trial.id, context.machine, run.epoch, provenance, run.notes))
    if run.epoch:
        emit(run.replayed_event())
    with closing(run.loader):
        while run.epoch < run.experiment.training.epochs:
            losses = run.train_epoch()
            evaluations = run.evaluate() if run.evaluator.due(run.epoch) else ()
            done = run.finish_epoch(losses, evaluations)
            emit(done)
            run.apply_stopping_rule(done)


def final_event(trial: TrialRecord, storage: Storage) -> EpochDone:
    """Return the event of the newest undamaged checkpoint of `trial`, with all it has measured.

    Raises:
        UserError: if there is no checkpoint.
    """
    found = load_newest(storage, trial.id)
    if found.state is None:
        raise UserError(f"{storage.uri}: no checkpoint of trial {trial.id} there", *found.notes)
    return _event_of(found, storage)


class _TrialRun:
    """A trial in memory on one rank."""

    def __init__(self, trial: TrialRecord, context: TrialContext) -> None:
        world, storage = context.world, context.storage
        self.trial, self.context = trial, context
        self.experiment = experiment_of(trial)
        self.meter = CostMeter(world, context.machine)
        torch.set_num_threads(self.experiment.resources.cpus_per_worker)
        self.train_data = self.experiment.data.load("train")
        val_data = self.experiment.data.load("val")
        check_unchanged([trial])  # the data may have changed since the sweep started
        self.evaluator = Evaluator(trial.id, self.experiment, val_data, world, storage)
        self.learner = _learner(self.experiment, self.train_data, context)
        self.loader = _loader(self.experiment, self.train_data, context)
        self.steps = self.loader.shares.steps
        options = self.experiment.checkpoints
        self.writer = CheckpointWriter(storage, trial.id, options, self.steps)
        self.saved_at = time.monotonic()
        self.epoch = 0
        self.history: tuple[EvaluationRecord, ...] = ()
        self.losses: dict[int, dict[str, float]] = {}
        self.positives: dict[int, dict[str, float]] = {}
        self.middle: Mapping[str, Any] | None = None
        self.notes = (*self.loader.notes, *self._restore())

    def replayed_event(self) -> EpochDone:
        """Return the event of the last whole epoch, with all evaluations. All ranks must call."""
        return self._repetition(self.uri, self.meter.read())

    def train_epoch(self) -> dict[str, float]:
        """Train the rest of an epoch and return the mean losses over the whole epoch.

        Raises:
            Stopped: after an order to stop.
        """
        training, world = self.experiment.training, self.context.world
        steps = self.steps * training.epochs
        progress = Progress(self.learner.step, steps, self.epoch, training.epochs)
        seed_torch(self.experiment.seed, self.epoch, world.rank)
        if self.middle is not None:
            midway.load(self.learner, self.middle)
            self.middle = None
        rest = self.loader.rest_of(self.epoch, self.learner.batches)
        losses = train_epoch(self.learner, rest, progress, self._after_step)
        self.epoch += 1
        return losses

    def evaluate(self) -> tuple[EvaluationRecord, ...]:
        """Return one new evaluation per branch on rank 0, none elsewhere. All ranks must call."""
        branches = self.evaluator.branches
        positives = {branch: self.learner.positives(branch) for branch in branches}
        model = self.learner.averaged.module
        try:
            return self.evaluator.evaluate(model, self.epoch, positives, self._halt)
        except Halted:
            self._stop(self.context.control.order())

    def finish_epoch(
        self, losses: dict[str, float], evaluations: tuple[EvaluationRecord, ...]
    ) -> EpochDone:
        """Save a checkpoint, on rank 0, and return the event to emit. All ranks must call this."""
        epochs, cost = self.experiment.training.epochs, self.meter.read()
        self.history += evaluations
        self.losses[self.epoch] = losses
        self.positives[self.epoch] = positives = self.learner.scores()
        self._save(None, cost)
        return EpochDone(
            self.trial.id, self.epoch, epochs, losses, evaluations, self.uri, cost, positives
        )

    def apply_stopping_rule(self, done: EpochDone) -> None:
        """Raise Stopped if the sweep's stopping rule ends the trial. All ranks must call this."""
        if done.epoch == done.epochs or not self.evaluator.due(done.epoch):
            return
        world = self.context.world
        ended = world.rank == 0 and not self.context.control.may_continue(done)
        if any(any_rank(world, self.context.device, ended)):
            reason = f"the stopping rule ended it after epoch {done.epoch} of {done.epochs}"
            raise Stopped(Stop(TrialState.STOPPED, reason), self.meter.read())

    def _after_step(self) -> None:
        """Obey an order and save if a checkpoint is due. All ranks do the same.

        On a GPU only after a step whose losses were read, because to agree waits for the device.
        """
        self.context.control.beat()
        if self.learner.batches == self.steps:
            self.learner.read_losses()
        if self.learner.unread:
            return
        if self.context.world.rank == 0:
            self._report_step()
        stop = self.context.control.order()
        stopping, saving = any_rank(
            self.context.world, self.context.device, stop is not None, self._save_is_due()
        )
        if stopping or saving:
            self._save(midway.state_of(self.learner), Cost())
        if stopping:
            self._stop(stop)

    def _report_step(self) -> None:
        done = self.learner.batches
        loss = sum(self.learner.sums.values()) / done
        step = StepDone(self.trial.id, self.epoch + 1, done, self.steps, loss)
        self.context.control.report(step)

    def _halt(self) -> bool:
        """Return whether to break off an evaluation; everything was saved before it began."""
        self.context.control.beat()
        return self.context.control.order() is not None

    def _stop(self, stop: Stop | None) -> NoReturn:
        raise Stopped(first_order(self.context.world, stop), self.meter.read())

    def _save_is_due(self) -> bool:
        """Return whether to save now: after some minutes, and before an evaluation."""
        if self.learner.batches == self.steps:
            return self.evaluator.due(self.epoch + 1)
        minutes = self.experiment.checkpoints.minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def _save(self, middle: Mapping[str, Any] | None, cost: Cost) -> None:
        """Save a checkpoint, on rank 0; `middle` as from `midway.state_of`, None between epochs."""
        self.saved_at = time.monotonic()
        if self.context.world.rank:
            return
        state = {
            "event": _EVENT.dump_json(self._repetition("", cost)).decode(),
            "learner": self.learner.state(),
            "middle": middle,
        }
        best = _best_epoch(self.history)
        uri = self.writer.save(state, self.epoch, self.learner.step, best)
        self.uri = self.context.storage.relative(uri)

    def _repetition(self, checkpoint: str, cost: Cost) -> EpochDone:
        """Return the event that repeats what all epochs so far have measured."""
        return EpochDone(
            trial=self.trial.id,
            epoch=self.epoch,
            epochs=self.experiment.training.epochs,
            losses={},
            evaluations=self.history,
            checkpoint=checkpoint,
            cost=cost,
            earlier=dict(self.losses),
            earlier_positives=dict(self.positives),
        )

    def _restore(self) -> tuple[str, ...]:
        """Load the newest undamaged checkpoint and return notes about it, one line each."""
        world, storage = self.context.world, self.context.storage
        found = load_newest(storage, self.trial.id)
        self.uri, self.writer.damaged = storage.relative(found.uri), found.damaged
        if found.state is not None:
            self.learner.load(found.state["learner"])
            event = _event_of(found, storage)
            self.epoch, self.history = event.epoch, event.evaluations
            self.losses = dict(event.earlier)
            self.positives = dict(event.earlier_positives)
            self.middle = found.state.get("middle")
        _check_agreement(self.learner.step, self.context)
        if self.middle is None or midway.exact(self.middle, world):
            return found.notes
        before = plural(len(self.middle["ranks"]), "worker")
        return (
            *found.notes,
            f"{self.uri}: continuing in the middle of an epoch with {world.size} instead of "
            f"{before}: the rest of the epoch differs slightly from what it would have been",
        )


def _check_agreement(step: int, context: TrialContext) -> None:
    """Raise StorageError on all ranks unless all of them continue from the same step."""
    if context.world.size == 1:
        return
    own = torch.tensor(float(step), dtype=torch.float64, device=context.device)
    differs = bool(context.world.all_reduce_mean(own) != own)
    if any(any_rank(context.world, context.device, differs)):
        raise StorageError(
            f"{context.storage.uri}: workers found different checkpoints, this one found step "
            f"{step}; give all of them the same folder"
        )


def _event_of(found: LoadedCheckpoint, storage: Storage) -> EpochDone:
    """Return the event in a checkpoint, which may have been written in another folder."""
    state = found.state or {}
    event = _EVENT.validate_json(state["event"])
    evaluations = tuple(
        replace(
            each,
            candidates=stored_path(each.candidates, each.trial),
            matches=stored_path(each.matches, each.trial),
        )
        for each in event.evaluations
    )
    return replace(event, evaluations=evaluations, checkpoint=storage.relative(found.uri))


def _best_epoch(history: Sequence[EvaluationRecord]) -> int:
    """Return the epoch of the highest AP on the branch kept at inference; 0 if there is none.

    The first of equal ones.
    """
    aps = [(each.metrics["ap"], -each.epoch) for each in history if each.primary]
    known = [(ap, epoch) for ap, epoch in aps if ap is not None]
    return -max(known)[1] if known else 0


def _loader(experiment: Experiment, data: Dataset, context: TrialContext) -> TrainLoader:
    world, gpu = context.world, context.device.type == "cuda"
    processes = experiment.data.loaders(experiment.resources.cpus_per_worker, gpu=gpu)
    masks = experiment.detector.segments
    if problems := segmented(data).mask_problems() if masks else []:
        raise DataError(problems)
    shares = Shares(data, experiment.training, experiment.seed, world.rank, world.size, masks=masks)
    return TrainLoader(shares, processes, pinned=gpu)


def _learner(experiment: Experiment, data: Dataset, context: TrialContext) -> Learner:
    torch.manual_seed(experiment.seed)
    strategy, training = experiment.assignment, experiment.training
    if context.device.type == "cuda":  # to compare algorithms pays where inputs have few sizes
        torch.backends.cudnn.benchmark = not training.train_sides
    detector = experiment.detector.build(len(data.classes), tuple(strategy.branches()))
    if source := training.init_from:
        weights = initial_weights(source, context.storage)
        load_extractor(detector, weights, source, training.freeze)
    expected = experiment.data.expected()
    kind = memory_format(context.device, expected.height, expected.width)
    detector = detector.to(context.device).to(memory_format=kind)  # type: ignore[call-overload]
    return Learner.create(detector, strategy, training, context.world, context.wrap)


RESET_PEAK = "5"
"""What, written to Linux's clear_refs, sets the peak resident set to the current one."""


class CostMeter:
    """Measures the cost of an attempt since the meter was made; every rank has one."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._world, self._machine = world, machine
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        with suppress(OSError):  # the process may have trained another trial, which needed more
            Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")

    def read(self) -> Cost:
        """Return the cost so far on rank 0, no meaningful value elsewhere. All ranks must call.

        CPU seconds are summed over ranks, memory is the peak resident set of the largest rank. GPU
        seconds are wall time times the GPUs held, busy or not.
        """
        wall = time.perf_counter() - self._wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ranks = self._world.gather((time.process_time() - self._cpu, peak)) or [(0.0, 0.0)]
        return Cost(
            cpu_seconds=sum(cpu for cpu, _ in ranks),
            gpu_seconds=wall * self._machine.gpus,
            wall_seconds=wall,
            peak_memory_mib=max(memory for _, memory in ranks),
        )
