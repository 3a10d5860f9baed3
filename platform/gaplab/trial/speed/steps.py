"""Measure training steps on images of noise: the engine's own step, with its clock read."""

import itertools
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from detectors import build_detector
from detectors.data.loader import Batch
from detectors.data.sizes import rounded_up
from detectors.engine import PARTS, Learner, NonFiniteLossError, train_step
from detectors.memory_format import memory_format
from detectors.structures import Progress, Targets
from detectors.synchronisations import count_synchronisations
from detectors.world import LocalWorld
from gaplab.errors import UserError
from gaplab.formatting import one_line, plural
from gaplab.trial.speed.peaks import peak_of
from gaplab.trial.speed.setups import CLASSES, SETUPS, Setup

OBJECTS = 7
"""Per image, as in COCO."""


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        device: where.
        side: shorter side of the images in pixels; the longer one is 5/3 of it (800x1333).
        batch: images per step.
        steps: number of steps that are timed.
        seconds: fewer steps are timed, at least two, if they take longer than this.
    """

    device: torch.device
    side: int = 800
    batch: int = 8
    steps: int = 20
    seconds: float = 30.0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels, before padding."""
        return self.side, self.side * 5 // 3


@dataclass(frozen=True)
class StepSpeed:
    """The speed of one detector with one precision."""

    name: str
    precision: str
    compiled: bool
    images_per_second: float
    steps: int
    """Number of steps that were timed."""
    parts: dict[str, float]
    """Part of a step (`engine.PARTS`) -> its share of the time, in [0, 1]."""
    synchronisations: int
    """Where a step waits for the device, without reading the losses every `log_every` steps."""
    waits: dict[str, int]
    """The same by operation and function."""
    flops: int
    """Floating-point operations per step of convolutions and matrix products, forward and
    backward: two per multiply-add."""
    teraflops: float
    """Of these per second."""
    peak_share: float | None
    """`teraflops` as a share of the peak in bf16; None in fp32, or if the peak is unknown."""
    memory_mib: float
    """Peak memory: of the GPU for these steps, or of the process so far on a CPU."""


class Clock:
    """Adds up the seconds of each part of steps, measured on the device. It is `Learner.mark`."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._stamps = list[tuple[str, Any]]()

    def __call__(self, part: str) -> None:
        """Note the end of a part; an empty name is the beginning of a step."""
        now: Any = time.perf_counter()
        if self._gpu:
            now = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            now.record()
        self._stamps.append((part, now))

    def shares(self) -> dict[str, float]:
        """Return the share of every part; the device must have finished."""
        found = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in itertools.pairwise(self._stamps):
            if part:
                found[part] += before.elapsed_time(after) if self._gpu else after - before
        total = sum(found.values())
        return {part: value / total for part, value in found.items()}


class StepBench:
    """The learner of one setup, which is measured."""

    def __init__(
        self,
        name: str,
        precision: str,
        load: Load,
        setup: Setup | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        chosen = setup or SETUPS[name]
        self.name, self.precision, self.load, self.compiled = name, precision, load, compiled
        self._setup = chosen
        detector = build_detector(chosen.options(), chosen.strategy(), CLASSES)
        kind = memory_format(load.device, *load.size)
        detector = detector.to(load.device).to(memory_format=kind)  # type: ignore[call-overload]
        recipe = chosen.recipe(load.batch, precision, compiled=compiled)
        self.learner = Learner.create(detector, chosen.strategy(), recipe, LocalWorld())

    def measure(self) -> StepSpeed:
        """Measure steps on one batch that is in memory, after three to warm up.

        Synchronisations and operations of a compiled detector are counted in one that is not
        compiled: operators can't be counted in compiled code.
        """
        batch, clock = noise_batch(self.load), Clock(self.load.device)
        plain = self
        if self.compiled:
            plain = StepBench(self.name, self.precision, self.load, self._setup)
        waits, flops = plain._counted(batch)
        del plain
        self._warm_up(batch)
        if self.load.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.load.device)
        before, self.learner.mark = self.learner.mark, clock
        steps, seconds = self.timed(itertools.repeat(batch))
        self.learner.mark = before
        teraflops = steps * flops / seconds / 1e12
        return StepSpeed(
            name=self.name,
            precision=self.precision,
            compiled=self.compiled,
            images_per_second=steps * self.load.batch / seconds,
            steps=steps,
            parts=clock.shares(),
            synchronisations=waits.total(),
            waits=dict(waits),
            flops=flops,
            teraflops=teraflops,
            peak_share=self._peak_share(teraflops),
            memory_mib=_peak_memory(self.load.device),
        )

    def timed(self, batches: Iterable[Batch]) -> tuple[int, float]:
        """Time steps on `batches`: their number, and the seconds in total."""

        def step(batch: Batch) -> None:
            self.learner.mark("")
            self._step(batch)

        with explained(f"{self.name} in {self.precision}", self.load):
            return timed(step, batches, self.load)

    def _counted(self, batch: Batch) -> tuple[Counter[str], int]:
        """Return the synchronisations and the floating-point operations of a step."""
        with explained(f"{self.name} in {self.precision}", self.load):
            usual, self.learner.log_every = self.learner.log_every, sys.maxsize
            self._step(batch)
            with count_synchronisations() as waits:
                self._step(batch)
            with FlopCounterMode(display=False) as counter:
                self._step(batch)
            self.learner.log_every = usual
            self.learner.read_losses()
            return waits, counter.get_total_flops()

    def _warm_up(self, batch: Batch) -> None:
        """Compile the detector, if it is to be."""
        with explained(f"{self.name} in {self.precision}", self.load):
            for _ in range(3 if self.compiled else 0):
                self._step(batch)

    def _step(self, batch: Batch) -> None:
        train_step(self.learner, batch, Progress(self.learner.step, 1_000_000, 0, 1))
        self.learner.batches += 1

    def _peak_share(self, teraflops: float) -> float | None:
        if self.load.device.type != "cuda" or self.precision != "bf16":
            return None
        peak = peak_of(torch.cuda.get_device_name(self.load.device))
        return teraflops / peak if peak else None


def timed(step: Callable[[Any], None], batches: Iterable[Any], load: Load) -> tuple[int, float]:
    """Time `step` on `load.steps` batches, or fewer if it is slow.

    Returns:
        The number of steps, at least two, and the seconds until the device has finished them.
    """
    wait(load.device)
    start, done = time.perf_counter(), 0
    for batch in itertools.islice(batches, load.steps):
        step(batch)
        done += 1
        if done >= 2 and time.perf_counter() - start > load.seconds:
            break
    wait(load.device)
    return done, time.perf_counter() - start


def noise_batch(load: Load) -> Batch:
    """Return images of noise with boxes of many sizes, padded as in a training."""
    rng = torch.Generator().manual_seed(0)
    height, width = (rounded_up(side) for side in load.size)
    shape = (load.batch, height, width, 3)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng).permute(0, 3, 1, 2)
    targets = tuple(noise_objects(load.size, rng) for _ in range(load.batch))
    batch = Batch(images, targets, tuple(range(load.batch)), ((1.0, 1.0),) * load.batch)
    return batch.pin_memory() if load.device.type == "cuda" else batch


def noise_objects(size: tuple[int, int], rng: torch.Generator) -> Targets:
    """Return OBJECTS boxes in an image of `size`, with sides of 1/32 to 2/3 of its shorter one."""
    height, width = size
    share = torch.exp(torch.empty(OBJECTS, 2).uniform_(-3.4, -0.4, generator=rng))
    sides = share * min(size)
    corner = torch.rand(OBJECTS, 2, generator=rng) * (torch.tensor([width, height]) - sides)
    labels = torch.randint(CLASSES, (OBJECTS,), generator=rng)
    return Targets(torch.cat([corner, corner + sides], dim=1), labels, (width, height))


@contextmanager
def explained(what: str, load: Load) -> Iterator[None]:
    """Raise UserError where memory is short, a loss is not finite, or nothing can be compiled."""
    try:
        yield
    except NonFiniteLossError as error:
        raise UserError(f"{what}: {error}") from error
    except RuntimeError as error:  # that of a GPU is one, too
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = one_line(str(error))[:200]
            raise UserError(
                f"{what}: can't be compiled ({reason}); leave out --compile, or install a C++ "
                "compiler and, for a GPU, Triton"
            ) from error
        full = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
        high, wide = load.size
        raise UserError(
            f"{what}: memory is too small for {plural(load.batch, 'image')} of {high}x{wide} on "
            f"{load.device}; lower --batch or --side"
        ) from error


def wait(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
