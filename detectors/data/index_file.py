"""Keep what was read from a large COCO file in an Arrow file, which all processes map to memory.

The file has one row per image. Its name is the SHA-256 of the annotations and of the code that read
them. It ends with the SHA-256 of what is before.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.data.cache import stored
from detectors.data.coco_index import Index, read_index
from detectors.data.entries import Entries, Ints, Texts
from detectors.data.problems import Problems

LEAST_BYTES = 1 << 23
"""Smaller annotation files are read by every process itself."""
_OBJECT = ("box", "area", "label", "crowd", "place")
"""What the file has of each object."""
_META = b"gaplab"
_END = hashlib.sha256().digest_size


def stored_index(path: Path) -> Index:
    """Return the content of a COCO file, as `read_index` does. Raises DataError, OSError."""
    if path.stat().st_size < LEAST_BYTES:
        return read_index(path)
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    index: Index = stored(
        f"{content[:32]}-{_code()}.arrow",
        partial(_read, where=path, content=content),
        partial(read_index, path),
        partial(_write, where=path, content=content),
    )
    return index


@cache
def _code() -> str:
    """Return a digest of the code that reads data."""
    whole = hashlib.sha256(pa.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def _read(path: Path, where: Path, content: str) -> Index | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    try:
        with pa.memory_map(str(path)) as file:
            held = file.read_buffer()
    except (OSError, pa.ArrowException):
        return None
    body = held[:-_END]
    if hashlib.sha256(body).digest() != held[-_END:].to_pybytes():
        return None
    batch = pa.ipc.open_file(pa.BufferReader(body)).get_batch(0)
    return _index(json.loads(batch.schema.metadata[_META]), _entries(batch), where, content)


def _index(meta: dict[str, Any], entries: Entries, where: Path, content: str) -> Index:
    return Index(
        tuple((id_, name) for id_, name in meta["categories"]),
        entries,
        Problems.loaded(meta["problems"]),
        tuple(f"{where}: {note}" for note in meta["notes"]),
        tuple(meta["lost"]),
        meta["rules"],
        content,
    )


def _write(path: Path, index: Index, where: Path, content: str) -> bool:
    """Write a file. Return False if it would not hold the index, or not that of its name."""
    huge = index.entries.sizes.dtype == np.object_
    if index.content != content or index.unsized or huge:
        return False
    meta = json.dumps(
        {
            "categories": index.categories,
            "problems": index.problems.dumped(),
            "notes": [note.removeprefix(f"{where}: ") for note in index.notes],
            "lost": index.lost,
            "rules": index.rules,
        }
    ).encode()
    batch = _batch(index.entries).replace_schema_metadata({_META: meta})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with path.open("r+b") as body:
        body.write(hashlib.file_digest(body, "sha256").digest())
    return True


def _batch(entries: Entries) -> pa.RecordBatch:
    """Return one row per image, with a list of its objects."""
    objects = (
        _pairs(entries.boxes),
        _numbers(entries.areas),
        _numbers(entries.labels),
        _numbers(entries.crowd.view(np.uint8)),
        _strings(entries.places),
    )
    nested = pa.StructArray.from_arrays(objects, _OBJECT)
    images = {
        "image_id": _numbers(entries.image_ids),
        "file_name": _strings(entries.names),
        "size": _pairs(entries.sizes),
        "objects": pa.LargeListArray.from_arrays(_numbers(entries.first), nested),
    }
    return pa.RecordBatch.from_arrays([*images.values()], [*images])


def _entries(batch: pa.RecordBatch) -> Entries:
    """Return the images, without copying them."""
    objects = batch["objects"]
    box, area, label, crowd, place = map(objects.values.field, _OBJECT)
    return Entries(
        names=_texts(batch["file_name"]),
        image_ids=_held(batch["image_id"], np.int64),
        sizes=_held(batch["size"].values, np.int64).reshape(-1, 2),
        first=_held(objects.offsets, np.int64),
        boxes=_held(box.values, np.float64).reshape(-1, 4),
        areas=_held(area, np.float64),
        labels=_held(label, np.int64),
        crowd=_held(crowd, np.uint8).view(np.bool_),
        places=_texts(place),
    )


def _held(column: pa.Array, dtype: type[np.generic]) -> NDArray[Any]:
    """Return the numbers of a column; `to_numpy` would import pandas."""
    buffer = column.buffers()[1]
    return np.frombuffer(buffer or b"", dtype=dtype, count=len(column))


def _numbers(numbers: NDArray[Any]) -> pa.Array:
    """Return [N] numbers without copying them; `pa.array` would import pandas."""
    type_ = pa.from_numpy_dtype(numbers.dtype)
    return pa.Array.from_buffers(type_, len(numbers), [None, pa.py_buffer(numbers)])


def _pairs(numbers: NDArray[Any]) -> pa.Array:
    """Return [N, K] numbers as N lists."""
    return pa.FixedSizeListArray.from_arrays(_numbers(numbers.ravel()), numbers.shape[1])


def _strings(strings: Sequence[str]) -> pa.Array:
    ends, data = _as_texts(strings)
    return pa.LargeStringArray.from_buffers(len(strings), pa.py_buffer(ends), pa.py_buffer(data))


def _as_texts(strings: Sequence[str]) -> tuple[Ints, NDArray[np.uint8]]:
    """Return where each string ends, and all of them in UTF-8; see `Texts`."""
    texts = strings if isinstance(strings, Texts) else Texts.of(strings)
    return texts.ends, texts.data


def _texts(strings: pa.Array) -> Texts:
    _, ends, data = strings.buffers()
    whole = np.frombuffer(ends, dtype=np.int64, count=len(strings) + 1)
    return Texts(whole, np.frombuffer(data or b"", dtype=np.uint8))
