"""One trial: train, evaluate, remember. No scheduler, database or tracker in here."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from pydantic import TypeAdapter
from torch import nn

from detectors import midway
from detectors.data.base import Dataset
from detectors.data.loader import train_batches
from detectors.engine import Learner, train_epoch
from detectors.inference import Halted
from detectors.models.extractor import load_extractor
from detectors.structures import Progress
from detectors.world import World, seed_torch
from gaplab.errors import StorageError, UserError
from gaplab.records import Cost, EpochDone, EvaluationRecord, Event, Machine, Started, TrialRecord
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import experiment_of
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import Found, Keeper, newest
from gaplab.trial.control import FREE, Control, Stop, Stopped, agreed, first_of
from gaplab.trial.evaluate import Evaluator
from gaplab.trial.provenance import surroundings
from gaplab.trial.weights import initial_weights

_EVENT = TypeAdapter(EpochDone)


@dataclass(frozen=True)
class Place:
    """Where a trial runs: its process group, device and storage, what wraps a model there, and
    what it listens to.
    """

    world: World
    device: torch.device
    storage: Storage
    machine: Machine
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    control: Control = FREE


def run_trial(trial: TrialRecord, place: Place, emit: Callable[[Event], None]) -> None:
    """Train `trial` from its last checkpoint to its last epoch; `emit` is called on every rank.

    A checkpoint is saved before each evaluation, and after each epoch, of which an EpochDone is
    emitted then. It remembers all evaluations, and a resumed trial repeats them first: an event
    that got lost with a dead process is said again. Raises DataError, NonFiniteLossError,
    NonFinitePredictionsError and UserError, and Stopped on every rank after an order to stop.
    """
    run = _Run(trial, place)
    about = surroundings(run.experiment, place.device)
    emit(Started(trial.id, place.machine, run.epoch, about, run.notes))
    if run.epoch:
        emit(run.said_again())
    while run.epoch < run.experiment.training.epochs:
        losses = run.train_epoch()
        evaluations = run.evaluate() if run.evaluator.due(run.epoch) else ()
        done = run.finish_epoch(losses, evaluations)
        emit(done)
        run.ask_the_rule(done)


def last_words(trial: TrialRecord, storage: Storage) -> EpochDone:
    """The event of the newest whole checkpoint of `trial`, with every evaluation so far.

    Raises UserError where there is no checkpoint.
    """
    found = newest(storage, trial.id)
    if found.state is None:
        raise UserError(f"{storage.uri}: no checkpoint of trial {trial.id} there", *found.notes)
    return _event_of(found)


class _Run:
    """A trial in memory on one rank."""

    def __init__(self, trial: TrialRecord, place: Place) -> None:
        self.trial, self.place = trial, place
        self.experiment = experiment_of(trial)
        self.meter = Meter(place.world, place.machine)
        torch.set_num_threads(self.experiment.resources.cpus_per_worker)
        self.train_data = self.experiment.data.load("train")
        val_data = self.experiment.data.load("val")
        self.evaluator = Evaluator(trial.id, self.experiment, val_data, place.world, place.storage)
        self.learner = _learner(self.experiment, self.train_data, place)
        self.steps = len(self.train_data) // self.experiment.training.batch
        self.keeper = Keeper(place.storage, trial.id, self.experiment.checkpoints, self.steps)
        self.saved = time.monotonic()
        self.epoch = 0
        self.history: tuple[EvaluationRecord, ...] = ()
        self.middle: Mapping[str, Any] | None = None
        self.notes = self._restore()

    def said_again(self) -> EpochDone:
        """The event of the last whole epoch, with all evaluations so far. All ranks must call."""
        epochs, cost = self.experiment.training.epochs, self.meter.read()
        return EpochDone(self.trial.id, self.epoch, epochs, {}, self.history, self.uri, cost)

    def train_epoch(self) -> dict[str, float]:
        """The mean losses of the epoch, whose rest is trained. Raises Stopped."""
        training, world = self.experiment.training, self.place.world
        batches = train_batches(
            self.train_data, training, self.experiment.seed, self.epoch, world.rank, world.size
        )
        steps = self.steps * training.epochs
        progress = Progress(self.learner.step, steps, self.epoch, training.epochs)
        seed_torch(self.experiment.seed, self.epoch, world.rank)
        if self.middle is not None:
            midway.load(self.learner, self.middle)
            self.middle = None
        left = batches.after(self.learner.batches)
        losses = train_epoch(self.learner, left, progress, self._after_step)
        self.epoch += 1
        return losses

    def evaluate(self) -> tuple[EvaluationRecord, ...]:
        """New evaluations, one a branch, on rank 0; none elsewhere. All ranks must call this."""
        taught = {branch: self.learner.positives(branch) for branch in self.evaluator.branches}
        model = self.learner.averaged.module
        try:
            return self.evaluator.evaluate(model, self.epoch, taught, self._halt)
        except Halted:
            self._stop(self.place.control.order())

    def finish_epoch(
        self, losses: dict[str, float], evaluations: tuple[EvaluationRecord, ...]
    ) -> EpochDone:
        """Save a checkpoint, on rank 0; the event to emit. All ranks must call this."""
        epochs, cost = self.experiment.training.epochs, self.meter.read()
        self.history += evaluations
        self._save(None, cost)
        return EpochDone(self.trial.id, self.epoch, epochs, losses, evaluations, self.uri, cost)

    def ask_the_rule(self, done: EpochDone) -> None:
        """Raise Stopped where the sweep's stopping rule ends the trial. All ranks must call."""
        if done.epoch == done.epochs or not self.evaluator.due(done.epoch):
            return
        world = self.place.world
        ended = world.rank == 0 and not self.place.control.may_go_on(done)
        if any(agreed(world, self.place.device, ended)):
            reason = f"the stopping rule ended it after epoch {done.epoch} of {done.epochs}"
            raise Stopped(Stop(TrialState.STOPPED, reason), self.meter.read())

    def _after_step(self) -> None:
        """Listen, and save where that is due. All ranks do the same."""
        self.place.control.beat()
        stop = self.place.control.order()
        told = agreed(self.place.world, self.place.device, stop is not None, self._save_is_due())
        if any(told):
            self._save(midway.state_of(self.learner), Cost())
        if told[0]:
            self._stop(stop)

    def _halt(self) -> bool:
        """Whether to break off an evaluation; before it, everything was saved."""
        self.place.control.beat()
        return self.place.control.order() is not None

    def _stop(self, stop: Stop | None) -> NoReturn:
        raise Stopped(first_of(self.place.world, stop), self.meter.read())

    def _save_is_due(self) -> bool:
        """In the middle of an epoch when time is up, and at its end before an evaluation."""
        if self.learner.batches == self.steps:
            return self.evaluator.due(self.epoch + 1)
        minutes = self.experiment.checkpoints.minutes
        return minutes is not None and time.monotonic() - self.saved >= 60 * minutes

    def _save(self, middle: Mapping[str, Any] | None, cost: Cost) -> None:
        """Save a checkpoint, on rank 0. middle: see `midway.state_of`."""
        self.saved = time.monotonic()
        if self.place.world.rank:
            return
        epochs = self.experiment.training.epochs
        event = EpochDone(self.trial.id, self.epoch, epochs, {}, self.history, "", cost)
        state = {
            "event": _EVENT.dump_json(event).decode(),
            "learner": self.learner.state(),
            "middle": middle,
        }
        self.uri = self.keeper.save(state, self.epoch, self.learner.step, _best(self.history))

    def _restore(self) -> tuple[str, ...]:
        """Go on from the newest whole checkpoint; what a person should know about it."""
        world, found = self.place.world, newest(self.place.storage, self.trial.id)
        self.uri, self.keeper.damaged = found.uri, found.damaged
        if found.state is not None:
            self.learner.load(found.state["learner"])
            event = _event_of(found)
            self.epoch, self.history = event.epoch, event.evaluations
            self.middle = found.state.get("middle")
        _check_agreement(self.learner.step, self.place)
        if self.middle is None or midway.exact(self.middle, world):
            return found.notes
        was = len(self.middle["ranks"])
        return (
            *found.notes,
            f"{found.uri}: going on in the middle of an epoch with {world.size} workers instead of "
            f"{was}: the rest of it is not exactly what it would have been",
        )


def _check_agreement(step: int, place: Place) -> None:
    """Raise StorageError on all ranks unless all of them go on from the same step."""
    if place.world.size == 1:
        return
    mine = torch.tensor(float(step), dtype=torch.float64, device=place.device)
    differs = bool(place.world.all_reduce_mean(mine) != mine)
    if any(agreed(place.world, place.device, differs)):
        raise StorageError(
            f"{place.storage.uri}: workers found different checkpoints, this one of step {step}; "
            "give all of them the same folder"
        )


def _event_of(found: Found) -> EpochDone:
    state = found.state or {}
    return replace(_EVENT.validate_json(state["event"]), checkpoint=found.uri)


def _best(history: Sequence[EvaluationRecord]) -> int:
    """The epoch of the highest AP on the branch kept at inference, the first of equals; 0: none."""
    aps = [(each.metrics["ap"], -each.epoch) for each in history if each.primary]
    known = [(ap, epoch) for ap, epoch in aps if ap is not None]
    return -max(known)[1] if known else 0


def _learner(experiment: Experiment, data: Dataset, place: Place) -> Learner:
    torch.manual_seed(experiment.seed)
    strategy = experiment.assignment
    detector = experiment.detector.build(len(data.classes), tuple(strategy.branches()))
    if source := experiment.training.init_from:
        load_extractor(detector, initial_weights(source, place.storage), source)
    detector = detector.to(place.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Learner.create(place.wrap(detector), strategy, experiment.training, place.world)


class Meter:
    """Counts from its creation; one on every rank."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._world, self._machine = world, machine
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Cost so far on rank 0 (elsewhere meaningless); must be called by all ranks.

        CPU seconds are summed over ranks, memory is the largest rank's peak resident set. GPU
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
