"""Time and memory of reading annotations as large as those of COCO's training split.

`pytest -s tests/benchmarks/test_index.py` prints a table. Each figure is that of a fresh process,
beyond its imports.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

IMAGES, OBJECTS = 118_287, 860_001
SMALLER = 10  # times; for the comparison with objects instead of columns

PROGRAM = """
import json, sys, time
from pathlib import Path
from detectors.data import coco_index, index_file
path, way = Path(sys.argv[1]), sys.argv[2]
def peak():  # that of `getrusage` is at least that of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
index_file.LEAST_BYTES = 0
if way == "objects":
    coco_index.divided = lambda text, key: []
base, start, cpu = peak(), time.perf_counter(), time.process_time()
read = coco_index.read_index if way == "objects" else index_file.stored_index
index = read(path)
found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - start}
found |= {"peak": peak(), "base": base, "images": len(index.entries)}
print(json.dumps(found | {"objects": len(index.entries.areas)}))
"""


def write_annotations(path: Path, images: int, objects: int) -> None:
    """Write a file like COCO's: polygons of 47 numbers on average, ids with gaps, some crowds."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(23.5, 500).clip(3)
    polygons = [json.dumps([rng.uniform(0, 400, 2 * n).round(2).tolist()]) for n in counts]
    sizes = np.array([(640, 480), (480, 640), (640, 427), (500, 375)])[rng.integers(4, size=images)]
    ids = rng.choice(600_000, size=images, replace=False)
    image = rng.integers(images, size=objects)
    x_y = (rng.uniform(0, 0.6, (objects, 2)) * sizes[image]).round(2)
    w_h = (rng.uniform(0.02, 0.4, (objects, 2)) * sizes[image]).round(2)
    shape, crowd = rng.integers(len(polygons), size=objects), rng.random(objects) < 0.01
    categories = rng.permutation(np.arange(1, 91))[:80]
    category = categories[rng.integers(80, size=objects)]
    rows = zip(shape, image, x_y.tolist(), w_h.tolist(), category, crowd, strict=True)
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        file.write(",".join(_image(int(i), *size) for i, size in zip(ids, sizes, strict=True)))
        file.write('], "annotations": [')
        for number, (polygon, at, (x, y), (w, h), class_, crowded) in enumerate(rows):
            file.write(
                f'{"," if number else ""}{{"segmentation": {polygons[polygon]},"area": '
                f'{w * h * 0.6:.4f},"iscrowd": {int(crowded)},"image_id": {ids[at]},"bbox": '
                f'[{x},{y},{w},{h}],"category_id": {class_},"id": {900100000000 + number}}}'
            )
        names = ({"supercategory": "x", "id": int(c), "name": f"class {c}"} for c in categories)
        file.write(f'], "categories": {json.dumps([*names])}}}')


def _image(id_: int, width: int, height: int) -> str:
    name = f"{id_:012}.jpg"
    return (
        f'{{"license": 3,"file_name": "{name}","coco_url": "http://localhost/images/of/train2017/'
        f'{name}","height": {height},"width": {width},"date_captured": "2013-11-14 11:18:45",'
        f'"flickr_url": "http://localhost/photographs/8186/8119368305_4e622c8349_z.jpg",'
        f'"id": {id_}}}'
    )


def measured(path: Path, way: str, cache: Path) -> dict[str, Any]:
    """Return CPU and wall seconds, and the peak memory in MB, of a fresh process."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GAPLAB_CACHE": str(cache)}
    line = [sys.executable, "-c", PROGRAM, str(path), way]
    done = subprocess.run(line, env=env, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def report(rows: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    table = Table("", "file MB", "CPU s", "wall s", "peak MB", "beyond imports MB")
    for name, (path, row) in rows.items():
        size = f"{path.stat().st_size / 1e6:.0f}"
        extra = row["peak"] - row["base"]
        cells = (f"{row['cpu']:.2f}", f"{row['wall']:.2f}", f"{row['peak']:.0f}", f"{extra:.0f}")
        table.add_row(name, size, *cells)
    Console().print(table)


@pytest.mark.timeout(3600)
def test_annotations_of_the_size_of_coco(tmp_path: Path) -> None:
    whole, part, cache = tmp_path / "whole.json", tmp_path / "part.json", tmp_path / "cache"
    write_annotations(whole, IMAGES, OBJECTS)
    write_annotations(part, IMAGES // SMALLER, OBJECTS // SMALLER)
    ways = {
        "first process": (whole, measured(whole, "stored", cache)),
        "later process": (whole, measured(whole, "stored", cache)),
        "in columns": (part, measured(part, "stored", cache)),
        "as objects": (part, measured(part, "objects", cache)),
    }
    report(ways)
    (_, first), (_, later), (_, columns), (_, objects) = ways.values()
    assert (first["images"], first["objects"]) == (IMAGES, OBJECTS)
    size = whole.stat().st_size / 2**20
    assert first["peak"] - first["base"] < 2.5 * size
    assert later["peak"] - later["base"] < size / 3
    assert later["cpu"] < first["cpu"] / 5
    assert objects["cpu"] > 1.5 * columns["cpu"]
    assert objects["peak"] - objects["base"] > 2 * (columns["peak"] - columns["base"])
