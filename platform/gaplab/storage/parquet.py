"""Write and read Parquet files: typed columns, and a JSON document in the footer.

No other module uses Parquet. A `Layout` declares what files of one kind contain; `reading` rejects
every file that is damaged or of another layout.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from gaplab.errors import UserError
from gaplab.storage.filesystem import Storage, reason

Table: TypeAlias = pa.Table
"""A table in memory: `to_pandas()` converts it, as `polars.from_arrow` does."""
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
"""Key of the document in the footer's metadata."""

T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """Type of a column.

    Attributes:
        kind: `time` is an aware datetime, written also from text of a naive one in UTC; `category`
            is text with few distinct values.
        null: whether values may be missing.
        varied: whether most values are different, as measured numbers are. It selects the encoding.
        since: version of the layout that added the column; files of earlier versions lack it.
    """

    kind: Kind
    null: bool = False
    varied: bool = False
    since: int = 1


@dataclass(frozen=True)
class Category:
    """Values of a `category` column.

    Attributes:
        codes: [M] int32, indices into `names`.
        names: the distinct values.
    """

    codes: NDArray[np.int32]
    names: tuple[str, ...]


Values = NDArray[Any] | Category | Sequence[Any]
"""Values of one column. A missing value is None in a sequence and NaN in an array of floats."""


@dataclass(frozen=True)
class Layout:
    """What files of one kind contain.

    Attributes:
        name: name of the kind.
        version: version of the format; files of a higher version are rejected.
        columns: columns by name.
        remedy: end of messages about a damaged file: what the user can do.
    """

    name: str
    version: int
    columns: Mapping[str, Column]
    remedy: str


class Written(NamedTuple):
    """A file that was written: its URI and its number of rows."""

    uri: str
    rows: int


def write_table(
    storage: Storage,
    name: str,
    layout: Layout,
    document: Mapping[str, Any],
    groups: Iterable[Mapping[str, Values] | Table],
) -> Written:
    """Write a Parquet file.

    Args:
        storage: where the file is stored.
        name: its name in the storage.
        layout: its kind.
        document: plain JSON for the footer.
        groups: one row group each: values by name of the column, or a table with at least these
            columns. Empty groups are skipped.

    Raises:
        UserError: if the file can't be written. Nothing is left of it.
    """
    schema, rows = _schema(layout.columns), 0
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


def table_of(
    columns: Mapping[str, Column], groups: Iterable[Mapping[str, Values] | Table]
) -> Table:
    """Return a table in memory with the columns and values of a file."""
    schema = _schema(columns)
    return pa.concat_tables([schema.empty_table(), *(_table(group, schema) for group in groups)])


def plain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of rows of plain JSON; values that a row lacks are missing."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: plain_column([row.get(name) for row in rows]) for name in names}
    values = {name: held for name, (_, held) in found.items()}
    return table_of({name: column for name, (column, _) in found.items()}, [values])


def plain_column(values: Sequence[Any]) -> tuple[Column, Sequence[Any]]:
    """Return the type of a column of plain JSON, and its values; None for a missing one.

    Lists, mappings and values of several types become JSON text, except for integers mixed with
    floats.
    """
    types = {
        str if isinstance(value, str) else type(value) for value in values if value is not None
    }
    if types == {bool}:
        return Column("bool", null=True), values
    if types == {int} and all(v is None or abs(v) < 2**63 for v in values):
        return Column("int64", null=True), values
    if float in types and types <= {int, float} and all(_exact(v) for v in values):
        return Column("float64", null=True), values
    if types == {str}:
        return Column("text", null=True), [None if v is None else str(v) for v in values]
    return Column("text", null=True), [None if v is None else json.dumps(v) for v in values]


def _exact(value: Any) -> bool:
    """Return whether a number can be converted to float64 without loss."""
    return value is None or isinstance(value, float) or abs(value) <= 2**53


class Reader:
    """An open file. Its methods raise UserError if the file is damaged.

    Attributes:
        version: version of the layout with which it was written.
    """

    def __init__(self, file: pq.ParquetFile, uri: str, layout: Layout) -> None:
        self._file, self._uri, self._layout = file, uri, layout
        self._document = _document(file, uri, layout)
        self.version = int(self._document["version"])
        self._columns = {n: c for n, c in layout.columns.items() if c.since <= self.version}
        _check_columns(file, uri, layout, self._columns)
        if (rows := file.metadata.num_rows) != self._document["rows"]:
            raise UserError(
                f"{uri}: has {rows} rows, but was written with {self._document['rows']}; "
                f"{layout.remedy}"
            )

    def document(self, record: type[T]) -> T:
        """Return the footer's document as a dataclass; keys that it doesn't have are ignored."""
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

    def group(self, index: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return a row group: an array, or a Category, for each column.

        Args:
            index: the row group.
            names: the columns; None: all that the file's version has.
        """
        chosen = list(self._columns if names is None else names)
        with _readable(f"{self._uri}: row group {index}", self._layout):
            table = self._file.read_row_group(index, columns=chosen)
            table.validate(full=True)
            return {name: _values(table[name]) for name in chosen}


@contextmanager
def reading(storage: Storage, name: str, layout: Layout) -> Iterator[Reader]:
    """Open a file. Only its footer is read.

    Raises:
        UserError: if the file is missing, damaged, or of another layout.
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
    """Turn errors of reading into UserError; messages start with `where`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file; {layout.remedy}") from error
    except PermissionError as error:
        raise UserError(f"{where}: permission denied; allow reading") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{where}: damaged ({reason(error)}); {layout.remedy}") from error


def _schema(columns: Mapping[str, Column]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, _TYPES[c.kind], nullable=c.null) for name, c in columns.items()]
    )


def _table(group: Mapping[str, Values] | Table, schema: pa.Schema) -> pa.Table:
    if isinstance(group, pa.Table):
        return group.select(schema.names).cast(schema)
    columns = [_array(group[field.name], field) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _array(values: Values, field: pa.Field) -> pa.Array:
    if isinstance(values, Category):
        codes = pa.array(values.codes, pa.int32())
        return pa.DictionaryArray.from_arrays(codes, pa.array(values.names, pa.string()))
    if pa.types.is_timestamp(field.type) and len(values) and isinstance(values[0], str):
        naive = pa.array(values, pa.string()).cast(pa.timestamp(field.type.unit))
        return pc.assume_timezone(naive, field.type.tz)
    return pa.array(values, field.type, from_pandas=field.nullable)


def _values(column: pa.ChunkedArray) -> Any:
    if not pa.types.is_dictionary(column.type):
        return column.to_numpy()
    whole = column.unify_dictionaries().combine_chunks()
    return Category(whole.indices.to_numpy(), tuple(whole.dictionary.to_pylist()))


def _document(file: pq.ParquetFile, uri: str, layout: Layout) -> dict[str, Any]:
    """Return the footer's document. Raises UserError if it is of another layout or version."""
    try:
        found = json.loads((file.metadata.metadata or {})[_KEY.encode()])
        kind, version, _ = found["format"], int(found["version"]), int(found["rows"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{uri}: a Parquet file without gaplab's metadata; give a file of {layout.name} that "
            "gaplab wrote"
        ) from error
    if kind != layout.name:
        raise UserError(f"{uri}: contains {kind}; give a file of {layout.name}")
    if version > layout.version:
        raise UserError(
            f"{uri}: version {version} of {layout.name}, but this gaplab reads up to "
            f"{layout.version}; update gaplab"
        )
    return dict(found)


def _check_columns(
    file: pq.ParquetFile, uri: str, layout: Layout, columns: Mapping[str, Column]
) -> None:
    """Raise UserError with every column that is missing or of another type; extra ones are fine."""
    schema, problems = file.schema_arrow, []
    for field in _schema(columns):
        if (count := schema.names.count(field.name)) != 1:
            problems.append(f"{count} columns {field.name}" if count else f"no column {field.name}")
        elif not (there := schema.field(field.name)).equals(field):
            null = "" if there.nullable == field.nullable else " with missing values"
            problems.append(f"column {field.name} is {there.type}{null}, not {field.type}")
    if problems:
        raise UserError(f"{uri}: {', '.join(problems)}; {layout.remedy}")
