"""Read detections in Parquet files with one row per box, also many more than fit into memory.

The columns of images and categories are read first. Then rows come in parts of whole images: file
by file if the rows of every image are together, otherwise in several passes, each for some images.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gaplab.errors import UserError
from gaplab.storage.detections.columns import Columns, find_columns
from gaplab.storage.detections.rows import (
    BoxForm,
    Floats,
    Ints,
    KeyTable,
    Rows,
    Source,
    joined,
    key_of,
)
from gaplab.storage.filesystem import reason

_BATCH = 1 << 17
PART = 1 << 20
"""Number of rows after which a part ends, at the end of an image."""


class ParquetSource(Source):
    """Detections in Parquet files. See `Source`.

    Args:
        where: the file or folder, for messages.
        paths: the files, in order.
        form: how boxes are written; None: as the names of the columns say.

    Raises:
        UserError: a file can't be read, or lacks a column; also from `parts`.
    """

    def __init__(self, where: str, paths: Sequence[Path], form: BoxForm | None = None) -> None:
        self.where, self._paths = where, paths
        self.notes: tuple[str, ...] = ()
        self._columns = self._common(form)
        self.form = self._columns.form
        self._images, self._categories = KeyTable(), KeyTable()
        self._counts = np.zeros(0, dtype=np.int64)
        self._together = self._scan()
        self.images, self.categories = tuple(self._images), tuple(self._categories)

    def parts(self) -> Iterator[Rows]:
        """See `Source.parts`."""
        yield from self._in_order() if self._together else self._by_images()

    def _common(self, form: BoxForm | None) -> Columns:
        """Return the columns. Raises UserError unless all files have them."""
        found, problems = list[Columns](), list[str]()
        for path in self._paths:
            try:
                with _opened(path) as file:
                    found.append(find_columns(str(path), file.schema_arrow.names, form))
            except UserError as error:
                problems += error.problems
        problems += [
            f"{path}: has other columns than {self._paths[0]}; give all files the same"
            for path, columns in zip(self._paths, found, strict=False)
            if not problems and columns != found[0]
        ]
        if problems:
            raise UserError(*problems)
        return found[0]

    def _scan(self) -> bool:
        """Read all ids, count the rows of images, return whether those of each are together."""
        runs, last, total = 0, -1, list[Ints]()
        for batch in self._batches([self._columns.image, self._columns.category]):
            image = self._codes(batch, self._columns.image, self._images)
            self._codes(batch, self._columns.category, self._categories)
            if len(image):
                runs += int(np.count_nonzero(np.diff(image))) + int(image[0] != last)
                last = int(image[-1])
                total.append(np.bincount(image))
        self._counts = np.zeros(len(self._images), dtype=np.int64)
        for part in total:
            self._counts[: len(part)] += part
        if not len(self._counts):
            raise UserError(f"{self.where}: no rows: no detection to measure")
        return runs == len(self._counts)

    def _in_order(self) -> Iterator[Rows]:
        held = list[Rows]()
        for rows in self._rows():
            held.append(rows)
            if sum(map(len, held)) < PART:
                continue
            whole = joined(held)
            ready = whole.image != whole.image[-1]
            if ready.any():
                yield whole.take(ready)
            held = [whole.take(~ready)]
        yield joined(held)

    def _by_images(self) -> Iterator[Rows]:
        """Read the files again for each group of images."""
        group = np.cumsum(self._counts) // (4 * PART)
        for number in np.unique(group):
            wanted = group == number
            yield joined([rows.take(wanted[rows.image]) for rows in self._rows()])

    def _rows(self) -> Iterator[Rows]:
        columns = self._columns
        for batch in self._batches(columns.names()):
            yield Rows(
                self._codes(batch, columns.image, self._images),
                self._codes(batch, columns.category, self._categories),
                self._boxes(batch),
                _numbers(batch[columns.score], self.where, columns.score),
            )

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        for path in self._paths:
            with _opened(path) as file:
                batches = file.iter_batches(_BATCH, columns=names, use_threads=False)
                while (batch := _next(path, batches)) is not None:
                    yield batch

    def _codes(self, batch: pa.RecordBatch, name: str, table: KeyTable) -> Ints:
        """Return the number of each key. Raises UserError for keys that are no ids or names."""
        column = batch[name]
        if column.null_count:
            raise UserError(f"{self.where}: column {name}: {column.null_count} values are missing")
        encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        keys = [key_of(each) for each in encoded.dictionary.to_pylist()]
        if wrong := [each for each in keys if each is None]:
            raise UserError(
                f"{self.where}: column {name}: {len(wrong)} values are no ids or names; "
                "write integers or text"
            )
        # An unused entry of the dictionary gets no number, because it is in no row.
        indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        used, inverse = np.unique(indices, return_inverse=True)
        return table.codes(keys[i] for i in used)[inverse]

    def _boxes(self, batch: pa.RecordBatch) -> Floats:
        names = self._columns.box
        if len(names) == 4:
            sides = [_numbers(batch[name], self.where, name) for name in names]
            return np.stack(sides, axis=1)
        column = batch[names[0]]
        lengths = pc.list_value_length(column)
        if column.null_count or not pc.all(pc.equal(lengths, 4)).as_py():
            raise UserError(f"{self.where}: column {names[0]}: must be lists of 4 numbers")
        return _numbers(pc.list_flatten(column), self.where, names[0]).reshape(-1, 4)


def _numbers(column: Any, where: str, name: str) -> Floats:
    """Return numbers as they are stored, missing ones as NaN: float32, or else float64."""
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise UserError(f"{where}: column {name} is {kind}, not numbers")
    dtype = np.float32 if kind in (pa.float32(), pa.float16()) else np.float64
    values: Floats = column.to_numpy(zero_copy_only=False).astype(dtype)
    return values


def _next(path: Path, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged ({reason(error)}); export it again") from None


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a Parquet file ({reason(error)}); export it again") from None
    with file:
        yield file
