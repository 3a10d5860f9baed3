"""Measure time and memory of 1,000 resamples of an evaluation of COCO's size, in a process."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from detectors.evaluation.bootstrap import replicates
from detectors.evaluation.matches import Matches

IMAGES, CLASSES, DETECTIONS, OBJECTS, RESAMPLES = 5000, 80, 50, 8, 1000
SECONDS, MEBIBYTES = 60, 4096


def make_matches(seed: int, images: int = IMAGES) -> Matches:
    """Draw matches in which 7 of 10 objects are found at IoU 0.5, and fewer at higher ones."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), OBJECTS)
    objects = np.random.default_rng(0).integers(CLASSES, size=len(owner))
    image = np.repeat(np.arange(images), DETECTIONS)
    label = random.integers(CLASSES, size=len(image))
    found = random.random((images, DETECTIONS)) < 0.7 * OBJECTS / DETECTIONS
    rank = np.arange(len(owner)).reshape(images, OBJECTS)[:, 0].repeat(DETECTIONS)
    own = objects[rank + random.integers(OBJECTS, size=len(image))]
    label = np.where(found.ravel(), own, label)
    limit = random.random(len(image))
    hit = found.ravel() & (np.linspace(0, 0.9, 10)[:, None] < limit)
    order = np.lexsort((image, label))
    score = random.random(len(image)) * 0.5 + 0.5 * found.ravel()
    return Matches(
        images=images,
        classes=CLASSES,
        image=image[order],
        label=label[order],
        score=score[order],
        hit=hit[:, order],
        ignored=np.zeros_like(hit),
        object_image=owner,
        object_label=objects,
    )


def peak_mebibytes() -> float:
    """Return the peak of this process; getrusage would return the parent's if that is higher."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def measure() -> dict[str, float]:
    without, with_nms = make_matches(1), make_matches(2)
    start = time.perf_counter()
    found = replicates(without, with_nms, RESAMPLES)
    seconds = time.perf_counter() - start
    peak = peak_mebibytes()
    return {"seconds": seconds, "mebibytes": peak, "spread": float(found.gap.std())}


def test_a_thousand_resamples_of_five_thousand_images() -> None:
    path = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    sys.stdout.write(
        f"\n{RESAMPLES} resamples of {IMAGES} images x {DETECTIONS} detections, {CLASSES} classes, "
        f"both columns: {found['seconds']:.1f} s, {found['mebibytes']:.0f} MiB\n"
    )
    assert found["spread"] > 0
    assert found["seconds"] < SECONDS
    assert found["mebibytes"] < MEBIBYTES


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure()))
