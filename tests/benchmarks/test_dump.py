"""Measure re-evaluation of a large dump; its memory must not grow with the dump."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detectors.evaluation.protocol import PROTOCOLS
from detectors.evaluation.selection import concatenate, select_both
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from detectors.world import LocalWorld
from gaplab.records import Subject
from gaplab.storage.candidates import Dump, Part, write_part
from gaplab.storage.filesystem import Storage
from gaplab.trial.evaluate import make_evaluation

IMAGES, CANDIDATES, OBJECTS, CLASSES = 5000, 1000, 8, 80
LEVELS = 5
SECONDS, MEBIBYTES = 60, 2048


def make_truth(images: int) -> GroundTruth:
    torch.manual_seed(0)
    corners = torch.rand(images * OBJECTS, 2) * 500
    boxes = torch.cat([corners, corners + 30 + torch.rand(len(corners), 2) * 100], dim=1)
    return GroundTruth(
        image_ids=tuple(range(1, images + 1)),
        sizes=((640, 640),) * images,
        classes=tuple(f"class {k}" for k in range(CLASSES)),
        image=torch.arange(images).repeat_interleave(OBJECTS),
        boxes=boxes,
        labels=torch.randint(CLASSES, (len(boxes),)),
        crowd=torch.zeros(len(boxes), dtype=torch.bool),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(dim=1),
    )


def make_candidates(truth: GroundTruth) -> Candidates:
    """Draw noisy copies of the objects of each image, by falling score; most scores are low."""
    image = torch.arange(len(truth)).repeat_interleave(CANDIDATES)
    object_ = image * OBJECTS + torch.randint(OBJECTS, (len(image),))
    scores = torch.rand(len(truth), CANDIDATES).pow(4).sort(dim=1, descending=True).values
    return Candidates(
        image=image,
        boxes=truth.boxes[object_] + torch.randn(len(image), 4) * 6,
        scores=scores.flatten(),
        labels=truth.labels[object_],
        levels=torch.randint(LEVELS, (len(image),)),
        points=torch.rand(len(image), 2) * 640,
        strides=torch.full((len(image),), 8.0),
        level_points=torch.full((len(image),), 6400),
    )


def write(home: Path, images: int) -> str:
    truth = make_truth(images)
    part = Part(Subject("trial", 1, "o2o", True), truth, 1000, LocalWorld())
    return write_part(Storage(str(home)), part, make_candidates(truth))


def peak_mebibytes() -> float:
    """Return the peak of this process; getrusage would return the parent's if that is higher."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def reevaluate(uri: str, images: int) -> dict[str, float | None]:
    """Re-evaluate the dump under `defcn`; return time, memory and metrics."""
    torch.set_num_threads(1)
    truth, protocol = make_truth(images), PROTOCOLS["defcn"]
    start = time.perf_counter()
    chunks = Dump.open(uri).stream(truth.image_ids, truth.classes)
    found = concatenate([select_both(chunk, protocol, truth.sizes) for chunk in chunks])
    metrics = make_evaluation(Subject("trial", 1, "o2o", True), found, truth, protocol, {}).metrics
    seconds = time.perf_counter() - start
    peak = peak_mebibytes()
    return {"seconds": seconds, "mebibytes": peak, "ap": metrics["ap"], "ap_nms": metrics["ap_nms"]}


def in_a_process_of_its_own(uri: str, images: int) -> dict[str, float]:
    """Measure in a new process, because peak memory belongs to a process."""
    command = [sys.executable, __file__, uri, str(images)]
    env_path = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env_path, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_five_million_candidates_under_another_protocol(tmp_path: Path) -> None:
    start = time.perf_counter()
    uri = write(tmp_path, IMAGES)
    writing = time.perf_counter() - start
    found = in_a_process_of_its_own(uri, IMAGES)
    tenth = in_a_process_of_its_own(write(tmp_path / "tenth", IMAGES // 10), IMAGES // 10)
    sys.stdout.write(
        f"\n{IMAGES * CANDIDATES:,} candidates: made and written in {writing:.1f} s, re-evaluated "
        f"in {found['seconds']:.1f} s; peak memory {found['mebibytes']:.0f} MiB, with a tenth of "
        f"them {tenth['mebibytes']:.0f} MiB\n"
    )
    assert found["seconds"] < SECONDS
    assert found["mebibytes"] < MEBIBYTES


def test_a_streamed_dump_gives_what_the_whole_gives(tmp_path: Path) -> None:
    # Not imported in the process whose memory is measured.
    from tests.detectors.evaluation.cases import measure_gap

    uri = write(tmp_path, 200)
    truth = make_truth(200)
    whole = measure_gap(make_candidates(truth), truth, PROTOCOLS["defcn"]).metrics
    found = reevaluate(uri, 200)
    assert [found["ap"], found["ap_nms"]] == pytest.approx([whole["ap"], whole["ap_nms"]])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(reevaluate(sys.argv[1], int(sys.argv[2]))))
