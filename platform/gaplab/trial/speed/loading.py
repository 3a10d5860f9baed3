"""Measure how fast training images are loaded, from JPEG files that are generated."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.data import DATASETS
from detectors.data.coco_writer import coco_document
from detectors.data.images import encode
from detectors.data.loader import Batch, Shares
from detectors.data.processes import AHEAD, TrainLoader
from detectors.structures import ImageTruth
from detectors.training import Training
from gaplab.trial.speed.setups import CLASSES
from gaplab.trial.speed.steps import Load, StepBench, noise_objects

PICTURES = 64
"""Largest number of files, beyond those of one batch; they are loaded again and again."""
HEIGHT, WIDTH = 480, 800
"""Of the files, in pixels: resized to 800x1333, they fill it."""


@dataclass(frozen=True)
class LoadingSpeed:
    """The speed of loading JPEG files of 480x800 as training images of the size measured."""

    images_per_second: float
    processes: int
    """Processes that load; 0: the one that trains."""
    images: int
    """Number of images that were timed."""
    trained: str = ""
    """The detector that was then trained on loaded images; empty: none."""
    trained_per_second: float | None = None
    """Images per second of this training."""


class Loading:
    """Training images in a folder, and the loader of one rank."""

    def __init__(self, load: Load, folder: Path, cores: int) -> None:
        gpu = load.device.type == "cuda"
        write_pictures(folder, max(load.batch, min(PICTURES, load.batch * load.steps)))
        section = {"root": str(folder), "height": load.side, "width": load.size[1]}
        options = DATASETS["coco"].model_validate({**section, "val_json": "train.json"})
        training = Training(
            batch=load.batch,
            train_sides=(load.side,),
            train_max_side=load.size[1],
            augment="hflip",
            epochs=10_000,
        )
        shares = Shares(options.load("train"), training, 0, 0, 1)
        self.load, self.processes = load, options.loaders(cores, gpu=gpu)
        self.loader = TrainLoader(shares, self.processes, pinned=gpu)

    def measure(self, trained: StepBench | None = None) -> LoadingSpeed:
        """Measure loading alone, and, if given, the steps of a detector on loaded images."""
        ahead = AHEAD * self.processes
        with closing(self.loader):
            batches = self._batches()
            count = max(self.load.steps, 4 * ahead)
            _take(batches, ahead + 1)
            start = time.perf_counter()
            _take(batches, count)
            images = count * self.load.batch
            found = LoadingSpeed(images / (time.perf_counter() - start), self.processes, images)
            if trained is None:
                return found
            steps, seconds = trained.timed(batches)
        name, speed = f"{trained.name} in {trained.precision}", steps * self.load.batch / seconds
        return LoadingSpeed(found.images_per_second, self.processes, images, name, speed)

    def _batches(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from self.loader.rest_of(epoch)


def write_pictures(folder: Path, count: int) -> None:
    """Write a training split in COCO's format. A file has about as many bytes as one of COCO."""
    rng = torch.Generator().manual_seed(0)
    names = [f"{number}.jpg" for number in range(count)]
    (folder / "images").mkdir()
    for name in names:
        picture = encode(_picture(rng), "jpeg", max(HEIGHT, WIDTH))
        (folder / "images" / name).write_bytes(picture)
    truths = [_truth(number, rng) for number in range(count)]
    classes = [f"class {label}" for label in range(CLASSES)]
    (folder / "train.json").write_text(json.dumps(coco_document(truths, names, classes)))


def _picture(rng: torch.Generator) -> Tensor:
    """Return soft colours with a little noise: [3, HEIGHT, WIDTH] uint8."""
    coarse = 255 * torch.rand(1, 3, HEIGHT // 16, WIDTH // 16, generator=rng)
    smooth = F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic")[0]
    noise = 16 * torch.rand(smooth.shape, generator=rng) - 8
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def _truth(number: int, rng: torch.Generator) -> ImageTruth:
    found = noise_objects((HEIGHT, WIDTH), rng)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    crowd = torch.zeros(len(found), dtype=torch.bool)
    return ImageTruth(number, WIDTH, HEIGHT, found.boxes, found.labels, crowd, sides.prod(1))


def _take(batches: Iterator[Batch], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass
