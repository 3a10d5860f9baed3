"""Speed of loading training images at 800x1333, compared with Pillow alone in the same run.

`pytest -s tests/benchmarks/test_loading.py` prints a table. A core loads at least 0.9 times as fast
as a loop that decodes and resizes; two processes load at least 1.8 times as fast as one, which
needs three idle cores. Beside a device whose step takes 40 ms, the loop should take little more.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from PIL import Image, ImageFile
from rich.console import Console
from rich.table import Table

from detectors.data.loader import Batch, Shares
from detectors.data.processes import TrainLoader
from detectors.training import Training
from tests.photographs import Photograph, image_of, written

IMAGES, BATCH, ROUNDS = 64, 2, 5
BLOCK = ImageFile.MAXBLOCK
"""Pillow's own, which `TrainLoader` changes."""
STEP = 0.04
"""Seconds of a simulated step of the device, which needs no core."""
TRAINING = Training(batch=BATCH, train_sides=(800,), augment="hflip", epochs=100)


def write_picture(path: Path, seed: int) -> None:
    """Write a JPEG of 640x480 with as many bytes as one of COCO (about 90 kB)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)).astype(int)
    pixels = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG", quality=90)


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shares, list[Path]]:
    root = tmp_path_factory.mktemp("pictures")
    objects = tuple(("cat", (8.0 * i, 9.0 * i, 50 + 20.0 * i, 40 + 30.0 * i)) for i in range(7))
    pictures = [Photograph(f"p{i}", (640, 480), objects) for i in range(IMAGES)]
    size = {"height": 800, "width": 1333, "portrait": "turn", "cache_mib": 0}
    options = written("coco", root, {"train": pictures, "val": pictures[:1]}, **size)
    paths = [image_of(root, picture.name) for picture in pictures]
    for seed, path in enumerate(paths):
        write_picture(path, seed)
    return Shares(options.load("train"), TRAINING, 0, 0, 1), paths


def bare(paths: list[Path]) -> None:
    """Decode and resize each file, as short as it can be written, with Pillow's own settings."""
    ImageFile.MAXBLOCK = BLOCK
    for path in paths:
        with Image.open(path) as image:
            np.array(image.convert("RGB").resize((1067, 800), Image.Resampling.BILINEAR))


def loaded(shares: Shares) -> None:
    """Load an epoch in this process."""
    use(TrainLoader(shares).rest_of(0))


def use(batches: Iterator[Batch]) -> None:
    """Load batches and keep none, as a training does."""
    deque(batches, maxlen=0)


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of a run."""
    start = clock()
    run()
    return clock() - start


def of_processes(shares: Shares, processes: int) -> float:
    """Return the images per second of so many processes, once they run."""
    loader = TrainLoader(shares, processes)
    epochs = iter(range(100))
    use(loader.rest_of(next(epochs)))
    clock = time.perf_counter
    found = min(seconds(lambda: use(loader.rest_of(next(epochs))), clock) for _ in range(ROUNDS))
    loader.close()
    return IMAGES / found


def step_seconds(shares: Shares, processes: int) -> float:
    """Return the mean seconds of a step beside the simulated device."""
    loader = TrainLoader(shares, processes)

    def steps(batches: Iterator[Batch]) -> float:
        start = time.perf_counter()
        for _ in batches:
            time.sleep(STEP)
        return (time.perf_counter() - start) / shares.steps

    steps(loader.rest_of(0))
    found = min(steps(loader.rest_of(1 + number)) for number in range(ROUNDS))
    loader.close()
    return found


@pytest.mark.timeout(1800)
def test_speed_of_loading(shares: tuple[Shares, list[Path]]) -> None:
    batches, paths = shares
    clock = time.process_time
    rounds = [
        (seconds(lambda: bare(paths), clock), seconds(lambda: loaded(batches), clock))
        for _ in range(2 * ROUNDS)  # they alternate, so that other load affects both
    ]
    alone, here = (IMAGES / median(column) for column in zip(*rounds, strict=True))
    share = median(bare / own for bare, own in rounds)
    one, two = (of_processes(batches, processes) for processes in (1, 2))
    steps = {processes: step_seconds(batches, processes) for processes in (0, 1, 2)}
    table = Table("", "images/s", "ratio")
    table.add_row("Pillow alone, per core", f"{alone:.1f}", "1.00")
    table.add_row("in the worker, per core", f"{here:.1f}", f"{share:.2f}")
    table.add_row("1 process", f"{one:.1f}", "1.00")
    table.add_row("2 processes", f"{two:.1f}", f"{two / one:.2f}")
    for processes, step in steps.items():
        name = f"step of {STEP * 1e3:.0f} ms, {processes} processes"
        table.add_row(name, f"{BATCH / step:.1f}", f"{step * 1e3:.1f} ms")
    Console().print(table)
    assert share > 0.9
    if len(os.sched_getaffinity(0)) > 2:
        assert two > 1.8 * one
        assert steps[2] < 1.1 * STEP
