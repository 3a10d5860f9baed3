"""Refuse JSON that does not fit into memory before it is read."""

from pathlib import Path

import psutil

from detectors.data.json_text import GZIP
from gaplab.errors import UserError

PER_BYTE = 7
"""Bytes of memory per byte of JSON while detections are read and measured (6.8 were measured, with
100 bytes per detection)."""
PER_BYTE_OF_TRUTH = 6
"""The same for annotations in COCO's format (2.2 were measured with polygons, 5.3 without)."""
PER_BYTE_OF_FOLDER = 12
"""The same for JSON in a folder whose data set is recognised, for which objects are created."""
_MODULO = 1 << 32
_RATIO = 2
"""Smallest factor by which gzip compresses JSON: digits alone give 2.4."""
_LARGE = 1 << 28
"""Bytes of a compressed file from which that factor is used. Smaller ones can hold 4 GiB of JSON
only if they are compressed by a factor of 16."""
CONTAINER = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Files of a container's limit, of what is used, and of what of it can be freed: versions 2 and 1
of control groups."""


def check_detections(path: Path) -> None:
    """Raise UserError if the detections of a JSON file need more memory than there is."""
    _check(path, PER_BYTE, "write the detections as Parquet, which is read in parts")


def check_annotations(path: Path, in_folder: bool = False) -> None:
    """Raise UserError if the annotations of a JSON file need more memory than there is.

    Args:
        path: the file.
        in_folder: whether the data set of its folder must be recognised.
    """
    remedy = "leave out `segmentation`, and the images and annotations that are not measured"
    if in_folder:
        _check(path, PER_BYTE_OF_FOLDER, f"name one file of annotations, or {remedy}")
    else:
        _check(path, PER_BYTE_OF_TRUTH, remedy)


def _check(path: Path, per_byte: int, remedy: str) -> None:
    size, free = json_bytes(path), available_memory()
    if per_byte * size > free:
        raise UserError(
            f"{path}: {_gigabytes(size)} of JSON need about {_gigabytes(per_byte * size)} of "
            f"memory, and {_gigabytes(free)} are free; {remedy}"
        )


def available_memory(container: Path = CONTAINER) -> int:
    """Return the number of bytes that can be used: of the machine, and of the container's limit.

    Args:
        container: the folder of the container's control group.
    """
    free = int(psutil.virtual_memory().available)
    for limit, used, details, freeable in _LIMITS:
        try:
            most, now = (int((container / name).read_text()) for name in (limit, used))
            rows = (line.split() for line in (container / details).read_text().splitlines())
            cached = next((int(value) for name, value in rows if name == freeable), 0)
        except (OSError, ValueError):  # no such version, or no limit
            continue
        free = min(free, most - now + cached)
    return max(0, free)


def json_bytes(path: Path) -> int:
    """Return the number of bytes of JSON.

    For a file that is compressed by gzip, the last four bytes hold the length modulo 4 GiB. Of the
    lengths that they allow, it is the smallest one that the size of the file allows, too.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < 18 or file.read(len(GZIP)) != GZIP:
            return size
        file.seek(-4, 2)
        length = int.from_bytes(file.read(4), "little")
    least = 0 if size < _LARGE else _RATIO * size
    return length + _MODULO * max(0, -(-(least - length) // _MODULO))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
