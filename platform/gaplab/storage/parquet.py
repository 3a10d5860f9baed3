"""Parquet files of typed columns and a JSON document; the only place that reads or writes them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from gaplab.errors import UserError
from gaplab.storage.filesystem import Storage, reason

Kind = Literal[
    "int16", "int32", "int64", "uint16", "float32", "float64", "bool", "text", "category", "time"
]
_TYPES: dict[Kind, pa.DataType] = {
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint16": pa.uint16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "category": pa.dictionary(pa.int32(), pa.string()),
    "time": pa.timestamp("us", tz="UTC"),
}
_KEY = "gaplab"
"""Where the document stands in the footer's metadata."""

T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """A column's type. A `time` is an aware datetime; `category` is text with few distinct values.

    null: values may be absent. varied: hardly any value occurs twice, as in measured numbers.
    """

    kind: Kind
    null: bool = False
    varied: bool = False


@dataclass(frozen=True)
class Category:
    """Values of a `category` column. codes: [M] int32, each an index into `names`."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]


Values = NDArray[Any] | Category | Sequence[Any]
"""Of one column. In a sequence None is an absent value, in an array of floats NaN (if `null`)."""


@dataclass(frozen=True)
class Layout:
    """What files of one kind are: their name, their columns, and what to do about a damaged one.

    A reader refuses files of a higher `version` than its own.
    """

    name: str
    version: int
    columns: Mapping[str, Column]
    remedy: str


class Written(NamedTuple):
    """A file that was written, and how many rows it has."""

    uri: str
    rows: int


def write_table(
    storage: Storage,
    name: str,
    layout: Layout,
    document: Mapping[str, Any],
    groups: Iterable[Mapping[str, Values]],
) -> Written:
    """Write each of `groups` as a row group (empty ones aren't) under `name`.

    `document` is plain JSON, kept in the footer. Raises UserError if the file can't be written, of
    which nothing stays behind then.
    """
    schema, rows = _schema(layout), 0
    varied = [name for name, column in layout.columns.items() if column.varied]
    options = {
        "use_dictionary": [name for name in layout.columns if name not in varied],
        "use_byte_stream_split": varied,
    }
    with (
        storage.writing(name) as stream,
        pq.ParquetWriter(
            stream, schema, compression="zstd", write_page_checksum=True, **options
        ) as writer,
    ):
        for group in groups:
            table = _table(group, schema)
            rows += len(table)
            if len(table):
                writer.write_table(table, row_group_size=len(table))
        about = {**document, "format": layout.name, "version": layout.version, "rows": rows}
        writer.add_key_value_metadata({_KEY: json.dumps(about)})
    return Written(f"{storage.uri}/{name}", rows)


class Reader:
    """An open file. Its methods raise UserError naming the file where it is damaged."""

    def __init__(self, file: pq.ParquetFile, uri: str, layout: Layout) -> None:
        self._file, self._uri, self._layout = file, uri, layout
        self._document = _document(file, uri, layout)
        _check_columns(file, uri, layout)
        if (rows := file.metadata.num_rows) != self._document["rows"]:
            raise UserError(
                f"{uri}: holds {rows} rows, was written with {self._document['rows']}; "
                f"{layout.remedy}"
            )

    def document(self, record: type[T]) -> T:
        """The footer's document as a `record`, a dataclass; keys that it hasn't are left out."""
        try:
            return TypeAdapter(record).validate_python(self._document)
        except ValidationError as error:
            keys = sorted({".".join(map(str, each["loc"])) for each in error.errors()})
            raise UserError(
                f"{self._uri}: missing or wrong in the footer: {', '.join(keys[:5])}; "
                f"{self._layout.remedy}"
            ) from error

    def __len__(self) -> int:
        """Number of row groups."""
        return int(self._file.num_row_groups)

    def group(self, index: int) -> dict[str, Any]:
        """Row group `index`: an array, or a Category, for every column of the layout."""
        with _readable(f"{self._uri}: row group {index}", self._layout):
            table = self._file.read_row_group(index, columns=list(self._layout.columns))
            table.validate(full=True)
            return {name: _values(table[name]) for name in self._layout.columns}


@contextmanager
def reading(storage: Storage, name: str, layout: Layout) -> Iterator[Reader]:
    """The file `name` of `layout`, of which only the footer has been read.

    Raises UserError where it isn't there, damaged, or something else.
    """
    uri = f"{storage.uri}/{name}".removesuffix("/")
    with _readable(uri, layout):
        stream = storage.open(name)
    with stream:
        with _readable(uri, layout):
            file = pq.ParquetFile(stream, page_checksum_verification=True)
        yield Reader(file, uri, layout)


@contextmanager
def _readable(where: str, layout: Layout) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file; {layout.remedy}") from error
    except PermissionError as error:
        raise UserError(f"{where}: no permission to read it; allow reading") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{where}: damaged ({reason(error)}); {layout.remedy}") from error


def _schema(layout: Layout) -> pa.Schema:
    return pa.schema(
        [pa.field(name, _TYPES[c.kind], nullable=c.null) for name, c in layout.columns.items()]
    )


def _table(group: Mapping[str, Values], schema: pa.Schema) -> pa.Table:
    columns = [_array(group[field.name], field) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _array(values: Values, field: pa.Field) -> pa.Array:
    if isinstance(values, Category):
        codes = pa.array(values.codes, pa.int32())
        return pa.DictionaryArray.from_arrays(codes, pa.array(values.names, pa.string()))
    return pa.array(values, field.type, from_pandas=field.nullable)


def _values(column: pa.ChunkedArray) -> Any:
    if not pa.types.is_dictionary(column.type):
        return column.to_numpy()
    whole = column.unify_dictionaries().combine_chunks()
    return Category(whole.indices.to_numpy(), tuple(whole.dictionary.to_pylist()))


def _document(file: pq.ParquetFile, uri: str, layout: Layout) -> dict[str, Any]:
    """The footer's document. Raises UserError unless it is one of this layout and version."""
    try:
        found = json.loads((file.metadata.metadata or {})[_KEY.encode()])
        kind, version, _ = found["format"], int(found["version"]), int(found["rows"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{uri}: Parquet, but gaplab's metadata is missing; give a file of {layout.name} that "
            "gaplab wrote"
        ) from error
    if kind != layout.name:
        raise UserError(f"{uri}: holds {kind}; give a file of {layout.name}")
    if version > layout.version:
        raise UserError(
            f"{uri}: version {version} of {layout.name}, but this gaplab reads up to "
            f"{layout.version}; update gaplab"
        )
    return dict(found)


def _check_columns(file: pq.ParquetFile, uri: str, layout: Layout) -> None:
    """Raise UserError with every column that is missing or of another type; more are welcome."""
    schema, problems = file.schema_arrow, []
    for field in _schema(layout):
        if (count := schema.names.count(field.name)) != 1:
            problems.append(f"{count or 'no'} columns {field.name}")
        elif not (there := schema.field(field.name)).equals(field):
            null = "" if there.nullable == field.nullable else " with absent values"
            problems.append(f"column {field.name} is {there.type}{null}, not {field.type}")
    if problems:
        raise UserError(f"{uri}: {', '.join(problems)}; {layout.remedy}")
