"""Keep what was read from large annotation files in Arrow files, which processes map to memory.

A file has one row per image. Its name is the SHA-256 of the annotations and of the code that read
them. It ends with the SHA-256 of what is before.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.data import coco_index, crowdhuman_index
from detectors.data.cache import code_digest, stored
from detectors.data.entries import Entries, Ints, Texts
from detectors.data.problems import Problems

LEAST_BYTES = 1 << 23
"""Smaller annotation files are read by every process itself."""
_OBJECT = ("box", "area", "label", "crowd", "place")
"""What the file has of each object."""
_META = b"gaplab"
_END = hashlib.sha256().digest_size


def stored_index(path: Path) -> coco_index.Index:
    """Return the content of a COCO file, as `read_index` does. Raises DataError, OSError."""
    if path.stat().st_size < LEAST_BYTES:
        return coco_index.read_index(path)
    content = content_digest(path)
    start = f"{path}: "

    def read(file: Path) -> coco_index.Index | None:
        found = _read(file)
        if found is None:
            return None
        entries, meta = found
        return coco_index.Index(
            tuple((id_, name) for id_, name in meta["categories"]),
            entries,
            Problems.loaded(meta["problems"]),
            tuple(start + note for note in meta["notes"]),
            tuple(meta["lost"]),
            meta["rules"],
            content,
        )

    def write(file: Path, index: coco_index.Index) -> bool:
        huge = index.entries.sizes.dtype == np.object_
        if index.content != content or index.unsized or huge:
            return False
        meta = {
            "categories": index.categories,
            "problems": index.problems.dumped(),
            "notes": [note.removeprefix(start) for note in index.notes],
            "lost": index.lost,
            "rules": index.rules,
        }
        return _write(file, index.entries, meta)

    return stored(_name(content), read, partial(coco_index.read_index, path), write)


def stored_people(path: Path) -> crowdhuman_index.Index:
    """Return the content of a file of CrowdHuman; see `stored_index`."""
    if path.stat().st_size < LEAST_BYTES:
        return crowdhuman_index.read_index(path)
    content = content_digest(path)

    def read(file: Path) -> crowdhuman_index.Index | None:
        found = _read(file)
        if found is None:
            return None
        people, meta = found
        return crowdhuman_index.Index(people, Problems.loaded(meta["problems"]), content)

    def write(file: Path, index: crowdhuman_index.Index) -> bool:
        meta = {"problems": index.problems.dumped()}
        return index.content == content and _write(file, index.people, meta)

    return stored(_name(content), read, partial(crowdhuman_index.read_index, path), write)


def _name(content: str) -> str:
    """Return the name of the file for annotations with a SHA-256."""
    return f"{content[:32]}-{code_digest()}.arrow"


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> tuple[Entries, dict[str, Any]] | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    batch = read_batch(path)
    return batch and (_entries(batch), json.loads(batch.schema.metadata[_META]))


def read_batch(path: Path) -> Any:
    """Return the table that `write_batch` wrote; None if there is none, or it is damaged."""
    try:
        with pa.memory_map(str(path)) as file:
            held = file.read_buffer()
    except (OSError, pa.ArrowException):
        return None
    body = held[:-_END]
    if hashlib.sha256(body).digest() != held[-_END:].to_pybytes():
        return None
    return pa.ipc.open_file(pa.BufferReader(body)).get_batch(0)


def _write(path: Path, entries: Entries, meta: dict[str, Any]) -> bool:
    write_batch(path, _batch(entries).replace_schema_metadata({_META: json.dumps(meta)}))
    return True


def write_batch(path: Path, batch: Any) -> None:
    """Write a table and its SHA-256 to a new file. Raises OSError."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with path.open("r+b") as body:
        body.write(hashlib.file_digest(body, "sha256").digest())


def _batch(entries: Entries) -> pa.RecordBatch:
    """Return one row per image, with a list of its objects."""
    objects = (
        _pairs(entries.boxes),
        _numbers(entries.areas),
        _numbers(entries.labels),
        _numbers(entries.crowd.view(np.uint8)),
        strings_of(entries.places),
    )
    nested = pa.StructArray.from_arrays(objects, _OBJECT)
    images = {
        "image_id": _numbers(entries.image_ids),
        "file_name": strings_of(entries.names),
        "size": _pairs(entries.sizes),
        "objects": pa.LargeListArray.from_arrays(_numbers(entries.first), nested),
    }
    return pa.RecordBatch.from_arrays([*images.values()], [*images])


def _entries(batch: pa.RecordBatch) -> Entries:
    """Return the images, without copying them."""
    objects = batch["objects"]
    box, area, label, crowd, place = map(objects.values.field, _OBJECT)
    return Entries(
        names=texts_of(batch["file_name"]),
        image_ids=_held(batch["image_id"], np.int64),
        sizes=_held(batch["size"].values, np.int64).reshape(-1, 2),
        first=_held(objects.offsets, np.int64),
        boxes=_held(box.values, np.float64).reshape(-1, 4),
        areas=_held(area, np.float64),
        labels=_held(label, np.int64),
        crowd=_held(crowd, np.uint8).view(np.bool_),
        places=texts_of(place),
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


def strings_of(strings: Sequence[str]) -> Any:
    """Return strings as a column."""
    ends, data = _as_texts(strings)
    return pa.LargeStringArray.from_buffers(len(strings), pa.py_buffer(ends), pa.py_buffer(data))


def _as_texts(strings: Sequence[str]) -> tuple[Ints, NDArray[np.uint8]]:
    """Return where each string ends, and all of them in UTF-8; see `Texts`."""
    texts = strings if isinstance(strings, Texts) else Texts.of(strings)
    return texts.ends, texts.data


def texts_of(strings: Any) -> Texts:
    """Return a column of strings without copying them."""
    _, ends, data = strings.buffers()
    whole = np.frombuffer(ends, dtype=np.int64, count=len(strings) + 1)
    return Texts(whole, np.frombuffer(data or b"", dtype=np.uint8))
