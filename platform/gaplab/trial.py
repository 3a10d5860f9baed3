"""One trial: train, evaluate, remember. No scheduler, database or tracker in here."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from pydantic import TypeAdapter
from torch import nn

from detectors.data.base import Dataset
from detectors.data.loader import train_batches
from detectors.engine import Learner, train_epoch
from detectors.models.extractor import load_extractor
from detectors.structures import Progress
from detectors.world import World, seed_torch
from gaplab.errors import UserError
from gaplab.evaluation import Evaluator
from gaplab.inherit import initial_weights
from gaplab.meter import Meter
from gaplab.records import (
    EpochDone,
    EvaluationRecord,
    Event,
    Machine,
    Started,
    TrialRecord,
)
from gaplab.spec import Experiment
from gaplab.storage import Storage, checkpoint_name
from gaplab.sweep import experiment_of

_EVENT = TypeAdapter(EpochDone)


@dataclass(frozen=True)
class Place:
    """Where a trial runs: its process group, device and storage, and what wraps a model there."""

    world: World
    device: torch.device
    storage: Storage
    machine: Machine
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module


def run_trial(trial: TrialRecord, place: Place, emit: Callable[[Event], None]) -> None:
    """Train `trial` from its last checkpoint to its last epoch; `emit` is called on every rank.

    After each epoch the checkpoint is replaced and then an EpochDone emitted. The checkpoint
    remembers all evaluations, and a resumed trial repeats them first: an event that got lost with
    a dead process is said again. Raises DataError, NonFiniteLossError, UserError.
    """
    run = _Run(trial, place)
    emit(Started(trial.id, place.machine, run.epoch))
    if run.epoch:
        emit(last_words(trial, place.storage))
    while run.epoch < run.experiment.training.epochs:
        losses = run.train_epoch()
        evaluations = run.evaluate() if run.evaluator.due(run.epoch) else ()
        emit(run.finish_epoch(losses, evaluations))


def last_words(trial: TrialRecord, storage: Storage) -> EpochDone:
    """The event of the last checkpoint of `trial`, with every evaluation so far.

    Raises UserError where there is no checkpoint.
    """
    state = storage.load(checkpoint_name(trial.id))
    if state is None:
        raise UserError(f"{storage.uri}/{checkpoint_name(trial.id)}: no checkpoint there")
    return _EVENT.validate_json(state["event"])


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
        self.epoch = 0
        self.history: tuple[EvaluationRecord, ...] = ()
        self._restore()

    def train_epoch(self) -> dict[str, float]:
        training, world = self.experiment.training, self.place.world
        steps = len(self.train_data) // training.batch * training.epochs
        batches = train_batches(
            self.train_data, training, self.experiment.seed, self.epoch, world.rank, world.size
        )
        progress = Progress(self.learner.step, steps, self.epoch, training.epochs)
        seed_torch(self.experiment.seed, self.epoch, world.rank)
        losses = train_epoch(self.learner, batches, progress)
        self.epoch += 1
        return losses

    def evaluate(self) -> tuple[EvaluationRecord, ...]:
        """New evaluations, one a branch, on rank 0; none elsewhere. All ranks must call this."""
        taught = {branch: self.learner.positives(branch) for branch in self.evaluator.branches}
        return self.evaluator.evaluate(self.learner.averaged.module, self.epoch, taught)

    def finish_epoch(
        self, losses: dict[str, float], evaluations: tuple[EvaluationRecord, ...]
    ) -> EpochDone:
        """Replace the checkpoint, on rank 0; the event to emit. All ranks must call this."""
        uri = f"{self.place.storage.uri}/{checkpoint_name(self.trial.id)}"
        epochs, cost = self.experiment.training.epochs, self.meter.read()
        self.history += evaluations
        event = EpochDone(self.trial.id, self.epoch, epochs, losses, evaluations, uri, cost)
        if self.place.world.rank == 0:
            said = _EVENT.dump_json(replace(event, losses={}, evaluations=self.history)).decode()
            state = {"event": said, "learner": self.learner.state()}
            self.place.storage.save(checkpoint_name(self.trial.id), state)
        return event

    def _restore(self) -> None:
        state = self.place.storage.load(checkpoint_name(self.trial.id))
        if state is not None:
            self.learner.load(state["learner"])
            event = _EVENT.validate_json(state["event"])
            self.epoch, self.history = event.epoch, event.evaluations


def _learner(experiment: Experiment, data: Dataset, place: Place) -> Learner:
    torch.manual_seed(experiment.seed)
    strategy = experiment.assignment
    detector = experiment.detector.build(len(data.classes), tuple(strategy.branches()))
    if source := experiment.training.init_from:
        load_extractor(detector, initial_weights(source, place.storage), source)
    detector = detector.to(place.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Learner.create(place.wrap(detector), strategy, experiment.training, place.world)
