"""Measure `gaplab measure` on files of the size of COCO, in processes, beside its peers.

- Results of 5,000 images, 80 classes and 500,000 boxes in COCO's JSON: time and memory of the whole
  process, imports, NMS, intervals and report included.
- 20 million boxes in Parquet, which are streamed.
- The same JSON through pycocotools and hotcoco alone, and through faster-coco-eval where it is
  installed: reading and one evaluation, without NMS, intervals and report.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

IMAGES, OBJECTS, CLASSES = 5000, 7, 80
SECONDS, MEBIBYTES = 10, 2048
ROWS, STREAM_SECONDS = 20_000_000, 120
_PEERS = {
    "pycocotools": "from pycocotools.coco import COCO; from pycocotools.cocoeval import COCOeval",
    "hotcoco": "from hotcoco import COCO, COCOeval",
    "faster_coco_eval": "from faster_coco_eval import COCO, COCOeval_faster as COCOeval",
}
_PEAK = """
import atexit, pathlib, sys
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(*(l for l in status.read_text().splitlines() if "VmHWM" in l)))
"""
_GAPLAB = """
import runpy
runpy.run_module("gaplab", run_name="__main__", alter_sys=True)
"""
_EVALUATE = """
import sys
{imports}
truth = COCO(sys.argv[1])
found = COCOeval(truth, truth.{load}(sys.argv[2]), "bbox")
found.evaluate()
found.accumulate()
found.summarize()
print("AP", float(found.stats[0]))
"""


@dataclass(frozen=True)
class Used:
    """What a process used."""

    seconds: float
    cpu_seconds: float
    mebibytes: float
    output: str


def run(code: str, *words: object) -> Used:
    """Run Python code in a process of its own, with one thread per operation.

    The peak of the memory is that of /proc: wait4 would return the parent's if that is higher.
    """
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _PEAK + code, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    assert process.returncode == 0, output
    output, _, peak = output.rpartition("VmHWM:")
    return Used(seconds, used.ru_utime + used.ru_stime, int(peak.split()[0]) / 1024, output)


def make_objects(random: np.random.Generator) -> tuple[Any, Any]:
    """Draw boxes xywh [images, objects, 4] and their classes."""
    corners = random.random((IMAGES, OBJECTS, 2)) * 500
    sides = 30 + random.random((IMAGES, OBJECTS, 2)) * 100
    return np.concatenate([corners, sides], axis=2).round(2), random.integers(
        CLASSES, size=(IMAGES, OBJECTS)
    )


def make_detections(
    random: np.random.Generator, boxes: Any, labels: Any, count: int
) -> tuple[Any, Any, Any]:
    """Draw `count` noisy copies of the objects of each image: boxes, classes and scores."""
    image = np.arange(len(boxes))[:, None]
    which = random.integers(OBJECTS, size=(len(boxes), count))
    other = random.integers(CLASSES, size=which.shape)
    label = np.where(random.random(which.shape) < 0.1, other, labels[image, which])
    moved = boxes[image, which] + random.normal(0, 4, (*which.shape, 4))
    moved[..., 2:] = np.maximum(moved[..., 2:], 1)
    return moved.round(2), label, random.random(which.shape).round(5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write annotations, and 500,000 results in COCO's JSON."""
    folder, random = tmp_path_factory.mktemp("measure"), np.random.default_rng(0)
    boxes, labels = make_objects(random)
    images = [
        {"id": i + 1, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in range(IMAGES)
    ]
    rows = zip(boxes.reshape(-1, 4).tolist(), labels.ravel().tolist(), strict=True)
    annotations = [
        {
            "id": n + 1,
            "image_id": n // OBJECTS + 1,
            "category_id": label + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (box, label) in enumerate(rows)
    ]
    categories = [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(truth))
    found, label, score = make_detections(random, boxes, labels, 100)
    columns = found.reshape(-1, 4).tolist(), label.ravel().tolist(), score.ravel().tolist()
    results = [
        {"image_id": n // 100 + 1, "category_id": k + 1, "bbox": box, "score": s}
        for n, (box, k, s) in enumerate(zip(*columns, strict=True))
    ]
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "truth.json", folder / "results.json"


@pytest.fixture(scope="module")
def measured(files: tuple[Path, Path]) -> Used:
    truth, results = files
    return run(_GAPLAB, "measure", results, truth, "--json", "--protocol", "{clip: never}")


@pytest.mark.timeout(1800)
def test_half_a_million_boxes_in_json(measured: Used) -> None:
    found = json.loads(measured.output)
    sys.stdout.write(
        f"\ngaplab measure, {IMAGES} images, {found['detections']} boxes, JSON, whole process: "
        f"{measured.seconds:.1f} s ({measured.cpu_seconds:.1f} s of CPU), "
        f"{measured.mebibytes:.0f} MiB\n"
    )
    assert found["detections"] == 500_000
    assert found["verdict"] == "yes"
    assert measured.seconds < SECONDS
    assert measured.mebibytes < MEBIBYTES


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("peer", _PEERS)
def test_peers_on_the_same_file(files: tuple[Path, Path], measured: Used, peer: str) -> None:
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    load = "load_res" if peer == "hotcoco" else "loadRes"
    used = run(_EVALUATE.format(imports=_PEERS[peer], load=load), *files)
    [line] = [each for each in used.output.splitlines() if each.startswith("AP ")]
    sys.stdout.write(
        f"\n{peer}: reading and one evaluation in {used.seconds:.1f} s "
        f"({used.cpu_seconds:.1f} s of CPU), {used.mebibytes:.0f} MiB; gaplab measure takes "
        f"{measured.cpu_seconds / used.cpu_seconds:.2f} times its CPU time\n"
    )
    ap = json.loads(measured.output)["ap"] / 100
    assert float(line.split()[-1]) == pytest.approx(ap, abs=1e-6)


def batches(random: np.random.Generator, boxes: Any, labels: Any) -> Iterator[pa.RecordBatch]:
    """Yield the rows of 50 images at a time."""
    count, together = ROWS // IMAGES, 50
    for start in range(0, IMAGES, together):
        own = slice(start, start + together)
        found, label, score = make_detections(random, boxes[own], labels[own], count)
        corners = found.reshape(-1, 4).astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        ids = np.repeat(np.arange(start + 1, start + together + 1), count)
        columns = [ids, label.ravel() + 1, score.ravel().astype(np.float32), *corners.T]
        names = ["image_id", "category_id", "score", "x1", "y1", "x2", "y2"]
        yield pa.RecordBatch.from_arrays([pa.array(each) for each in columns], names=names)


@pytest.mark.timeout(3600)
def test_twenty_million_boxes_in_parquet(files: tuple[Path, Path], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    boxes, labels = make_objects(random)
    parts = batches(random, boxes, labels)
    first = next(parts)
    with pq.ParquetWriter(tmp_path / "results.parquet", first.schema) as writer:
        writer.write_batch(first)
        for part in parts:
            writer.write_batch(part)
    used = run(_GAPLAB, "measure", tmp_path / "results.parquet", files[0], "--json")
    found = json.loads(used.output)
    sys.stdout.write(
        f"\ngaplab measure, {found['detections']} boxes, Parquet, whole process: "
        f"{used.seconds:.1f} s ({used.cpu_seconds:.1f} s of CPU), {used.mebibytes:.0f} MiB\n"
    )
    assert found["detections"] == ROWS
    assert used.seconds < STREAM_SECONDS
    assert used.mebibytes < MEBIBYTES
