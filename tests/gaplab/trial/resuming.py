"""A trial whose detector draws random numbers and keeps running statistics, broken off by orders
after so many looks, and gone on with. Run as a program it is one of several ranks of a gloo group.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detectors.world import LocalWorld, TorchWorld, World
from gaplab.records import EpochDone, Event, Machine, Started, TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import load_newest
from gaplab.trial.control import Stop, Stopped
from gaplab.trial.run import TrialContext, run_trial

MACHINE = Machine("here", "cpu", 1, 0.0)
RUNS: dict[str, list[int | None]] = {"whole": [None], "broken": [2, 3, 1, 3, None], "left": [2]}
"""What befalls the ranks' trial of two epochs, each of four steps and an evaluation: nothing; an
order after the second step, one during the evaluation, one there again, one in the second epoch;
and one after the second step, with nobody to go on."""
CANCELLED = Stop(TrialState.CANCELLED, "enough")


class Restless(nn.Module):
    """A detector behind noise and a norm that remembers: both differ from rank to rank."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor, **more: Any) -> Any:
        seen = self.norm(images.float() / 255)
        if self.training:
            seen = seen + 0.1 * torch.randn_like(seen)
        return self.inner(128 + 64 * seen, **more)


@dataclass
class After:
    """Orders a stop at the look of this number; never where there is none."""

    looks: int | None = None
    stop: Stop = CANCELLED
    looked: int = 0
    beats: int = 0

    def order(self) -> Stop | None:
        self.looked += 1
        return self.stop if self.looks is not None and self.looked >= self.looks else None

    def beat(self) -> None:
        self.beats += 1

    def may_continue(self, done: EpochDone) -> bool:
        return True


@dataclass
class Told:
    """What one trial said over all its attempts, and how each ended."""

    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    evaluations: dict[tuple[int, str], Any] = field(default_factory=dict)
    starts: list[Started] = field(default_factory=list)
    stops: list[Stopped] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self.starts.append(event)
        if isinstance(event, EpochDone):
            if event.losses:
                assert event.epoch not in self.losses, "an epoch is finished once"
                self.losses[event.epoch] = event.losses
            for each in event.evaluations:
                plain = replace(each, candidates="", matches="")
                assert self.evaluations.setdefault((each.epoch, each.branch), plain) == plain


def place_of(world: World, home: Path, control: Any) -> TrialContext:
    def wrap(module: nn.Module) -> nn.Module:
        restless = Restless(module)
        return DistributedDataParallel(restless) if world.size > 1 else restless

    return TrialContext(world, torch.device("cpu"), Storage(str(home)), MACHINE, wrap, control)


def attempts(
    trial: TrialRecord,
    home: Path,
    looks: Iterable[int | None],
    world: World | None = None,
    control: Callable[[int | None], Any] = After,
) -> Told:
    """One attempt for each of `looks`, until the trial is finished."""
    told = Told()
    for each in looks:
        place = place_of(world or LocalWorld(), home, control(each))
        try:
            run_trial(trial, place, told.hear)
            return told
        except Stopped as stopped:
            told.stops.append(stopped)
    return told


def saved(trial: TrialRecord, home: Path) -> dict[str, Any]:
    """What the last checkpoint holds, but for costs and addresses."""
    state = load_newest(Storage(str(home)), trial.id).state
    assert state is not None
    return {"learner": state["learner"], "middle": state["middle"]}


def only_trial(spec: Path) -> TrialRecord:
    (trial,) = expand(load_spec(spec)).trials
    return trial


def main(rank: int, size: int, folder: Path) -> None:
    """Undisturbed, and broken off by orders that only one rank hears each time."""
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=size)
    torch.set_num_threads(1)
    trial, found = only_trial(folder / "small.yaml"), {}
    for name, looks in RUNS.items():
        heard = [each if number % 2 == rank else None for number, each in enumerate(looks)]
        told = attempts(trial, folder / name, heard, TorchWorld())
        dist.barrier()
        state = saved(trial, folder / name)
        found[name] = {
            "state": state,
            "losses": told.losses,
            "evaluations": told.evaluations,
            "stops": [stopped.stop for stopped in told.stops],
            "epochs": [start.epoch for start in told.starts],
        }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
