"""JSON that does not fit into memory is refused before it is read."""

import gzip
import json
from pathlib import Path

import psutil
import pytest

from detectors.data.json_text import GZIP
from gaplab.errors import UserError
from gaplab.results.measurement.inputs import InputOptions, read_truth
from gaplab.storage.detections import memory, open_detections
from gaplab.storage.detections.memory import (
    PER_BYTE,
    PER_BYTE_OF_FOLDER,
    available_memory,
    check_annotations,
    check_detections,
    json_bytes,
)
from tests.gaplab.storage.detections.inputs import annotations, results

FREE = 100_000


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: FREE)


def written(path: Path, size: int) -> Path:
    """Write results with blanks at the end, so that they have `size` bytes of JSON."""
    text = json.dumps(results(annotations(), (2, 1, 1, 1))).encode().ljust(size)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_file_that_needs_too_much_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, FREE // PER_BYTE)
    assert open_detections(path, annotations()).findings.rows == 5
    written(path, FREE // PER_BYTE + 1)
    with pytest.raises(UserError) as caught:
        open_detections(path, annotations())
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: 0.0 GB of JSON need about 0.0 GB of memory")
    assert problem.endswith("write the detections as Parquet, which is read in parts")


def test_three_gigabytes(tmp_path: Path) -> None:
    """Nothing of the file is read, so its content does not matter."""
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(UserError, match=r"3\.0 GB of JSON need about 21\.0 GB of memory"):
        check_detections(path)
    with pytest.raises(UserError, match=r"about 18\.0 GB .* leave out `segmentation`"):
        read_truth(path, InputOptions())


def test_annotations_in_a_folder_are_refused_before_they_are_recognised(tmp_path: Path) -> None:
    for name in ("train", "val"):
        path = tmp_path / "annotations" / f"instances_{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not JSON".ljust(FREE // PER_BYTE_OF_FOLDER + 1))
    with pytest.raises(
        UserError, match=r"instances_train\.json: .* of JSON need about .* name one file"
    ):
        read_truth(tmp_path, InputOptions())


@pytest.mark.parametrize(
    ("packed", "length", "whole"),
    [
        (100, 300, 300),
        (100, 2, 2),
        (1 << 29, 3 << 29, 3 << 29),
        (1 << 29, 1 << 29, (1 << 29) + (1 << 32)),
        (3 << 30, 1 << 20, (1 << 20) + (2 << 32)),
    ],
)
def test_the_length_in_a_gzip_file_is_completed(
    tmp_path: Path, packed: int, length: int, whole: int
) -> None:
    """The file holds it modulo 4 GiB. Nothing else of the file is read."""
    path = tmp_path / "a.json.gz"
    with path.open("wb") as file:
        file.write(GZIP)
        file.truncate(packed - 4)
        file.seek(packed - 4)
        file.write(length.to_bytes(4, "little"))
    assert json_bytes(path) == whole


def test_short_and_empty_files_are_left_to_the_parser(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"", b"[]", gzip.compress(b"")[:8]):
        path.write_bytes(content)
        check_detections(path)
        check_annotations(path)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": ""}, None),
        ({"memory.max": "1000", "memory.current": "300", "memory.stat": "anon 1"}, 700),
        (
            {"memory.max": "1000", "memory.current": "300", "memory.stat": "inactive_file 200"},
            900,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "1200",
                "memory/memory.stat": "total_inactive_file 50",
            },
            0,
        ),
    ],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, files: dict[str, str], free: int | None
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    machine = psutil.virtual_memory().total
    found = available_memory(tmp_path)
    assert found == free if free is not None else 0 < found <= machine
