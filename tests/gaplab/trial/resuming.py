"""A trial that is stopped by orders and resumed. Its detector draws random numbers and has running
statistics. `main` is one of several ranks of a gloo group.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detectors.world import LocalWorld, TorchWorld, World
from gaplab.records import EpochDone, Event, Machine, Started, StepDone, TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import load_newest
from gaplab.trial.control import Stop, Stopped
from gaplab.trial.run import TrialContext, run_trial

MACHINE = Machine("here", "cpu", 1, 0.0)
RUNS: dict[str, list[int | None]] = {"whole": [None], "stopped": [2, 3, 1, 3, None], "left": [2]}
"""When attempts at the trial of two epochs, each of four steps and an evaluation, get an order:
never; after the second step, twice during the evaluation, and in the second epoch; after the second
step, without another attempt."""
CANCELLED = Stop(TrialState.CANCELLED, "enough")


class NoisyDetector(nn.Module):
    """A detector behind noise and a norm with running statistics; both differ between ranks."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor, **more: Any) -> Any:
        inputs = self.norm(images.float() / 255)
        if self.training:
            inputs = inputs + 0.1 * torch.randn_like(inputs)
        return self.inner(128 + 64 * inputs, **more)


@dataclass
class StopAfter:
    """Gives an order at call number `calls` of `order`; never if that is None."""

    calls: int | None = None
    stop: Stop = CANCELLED
    called: int = 0
    beats: int = 0
    steps: list[StepDone] = field(default_factory=list)

    def order(self) -> Stop | None:
        self.called += 1
        return self.stop if self.calls is not None and self.called >= self.calls else None

    def beat(self) -> None:
        self.beats += 1

    def report(self, step: StepDone) -> None:
        self.steps.append(step)

    def may_continue(self, done: EpochDone) -> bool:
        return True


@dataclass
class Course:
    """The events of one trial over all its attempts, and the orders that ended them."""

    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    repeated: dict[int, dict[str, float]] = field(default_factory=dict)
    positives: dict[int, dict[str, float]] = field(default_factory=dict)
    repeated_positives: dict[int, dict[str, float]] = field(default_factory=dict)
    evaluations: dict[tuple[int, str], Any] = field(default_factory=dict)
    starts: list[Started] = field(default_factory=list)
    stops: list[Stopped] = field(default_factory=list)

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self.starts.append(event)
        if isinstance(event, EpochDone):
            if event.losses:
                assert event.epoch not in self.losses, "an epoch is finished once"
                self.losses[event.epoch] = event.losses
                self.positives[event.epoch] = event.positives
            else:
                self.repeated = event.earlier
                self.repeated_positives = event.earlier_positives
            for each in event.evaluations:
                plain = replace(each, candidates="", matches="")
                assert self.evaluations.setdefault((each.epoch, each.branch), plain) == plain


def context_of(world: World, home: Path, control: Any) -> TrialContext:
    def wrap(module: nn.Module) -> nn.Module:
        noisy = NoisyDetector(module)
        return DistributedDataParallel(noisy) if world.size > 1 else noisy

    return TrialContext(world, torch.device("cpu"), Storage(str(home)), MACHINE, wrap, control)


def attempts(
    trial: TrialRecord,
    home: Path,
    calls: Iterable[int | None],
    world: World | None = None,
    control: Callable[[int | None], Any] = StopAfter,
) -> Course:
    """Make one attempt for each of `calls`, see `StopAfter`, until the trial is finished."""
    course = Course()
    for each in calls:
        context = context_of(world or LocalWorld(), home, control(each))
        try:
            run_trial(trial, context, course.add)
            return course
        except Stopped as stopped:
            course.stops.append(stopped)
    return course


def saved(trial: TrialRecord, home: Path) -> dict[str, Any]:
    """Return what the last checkpoint holds, without costs and URIs."""
    state = load_newest(Storage(str(home)), trial.id).state
    assert state is not None
    return {"learner": state["learner"], "middle": state["middle"]}


def only_trial(spec: Path) -> TrialRecord:
    (trial,) = expand(load_spec(spec)).trials
    return trial


def main(rank: int, size: int, folder: Path) -> None:
    """Run the trial undisturbed, and stopped by orders that only one rank gets each time."""
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=size)
    torch.set_num_threads(1)
    trial, found = only_trial(folder / "small.yaml"), {}
    for name, calls in RUNS.items():
        own = [each if number % 2 == rank else None for number, each in enumerate(calls)]
        course = attempts(trial, folder / name, own, TorchWorld())
        dist.barrier()
        state = saved(trial, folder / name)
        found[name] = {
            "state": state,
            "losses": course.losses,
            "positives": course.positives,
            "evaluations": course.evaluations,
            "stops": [stopped.stop for stopped in course.stops],
            "epochs": [start.epoch for start in course.starts],
        }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
