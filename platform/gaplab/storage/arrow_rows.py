"""Arrow tables from rows of a database, some of whose columns are JSON text.

Nothing is converted row by row in Python: JSON is parsed by Arrow, a whole column at a time.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from gaplab.storage.parquet import Column, Table, Values, table_of

_LIST = "list"


def table_of_rows(columns: Mapping[str, Column], rows: Sequence[Sequence[Any]]) -> Table:
    """Return the table of rows whose values are in the order of `columns`."""
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    group: dict[str, Values] = dict(zip(columns, values, strict=True))
    return table_of(columns, [group])


def with_numbers(table: Table, name: str) -> Table:
    """Replace a column of JSON objects by a column of floats for each of their keys.

    A value that is null or missing in an object is missing in its row.
    """
    found = _parsed(table[name]) if len(table) else table.select([])
    rest = table.drop_columns([name])
    for key in found.column_names:
        if key in rest.column_names:  # measured, but undefined
            continue
        rest = rest.append_column(
            pa.field(key, pa.float64()), found[key].cast(pa.float64(), safe=False)
        )
    return rest


def exploded(table: Table, name: str, columns: Mapping[str, Column]) -> Table:
    """Replace a column of JSON arrays by the fields of their objects: one row per object.

    Args:
        table: the other columns; their values are repeated.
        name: the column of arrays.
        columns: the fields of an object. Other fields are ignored.
    """
    fields = table_of(columns, []).schema
    lists = pa.list_(pa.struct([pa.field(each.name, each.type) for each in fields]))
    texts = pc.binary_join_element_wise(f'{{"{_LIST}":', table[name], "}", "")
    schema = pa.schema([(_LIST, lists)])
    found = _parsed(texts, schema) if len(texts) else schema.empty_table()
    arrays = found[_LIST].combine_chunks()
    objects = pc.list_flatten(arrays)
    repeated = table.drop_columns([name]).take(pc.list_parent_indices(arrays))
    for field in fields:
        repeated = repeated.append_column(field, objects.field(field.name))
    return repeated


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of all tables; values of a column that a table lacks are missing."""
    return pa.concat_tables(tables, promote_options="default")


def regrouped(tables: Iterable[Table], rows: int) -> Iterator[Table]:
    """Join successive tables to tables of at least so many rows; the last one may have fewer."""
    held: list[Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= rows:
            yield joined(held)
            held = []
    if held:
        yield joined(held)


def sliced(table: Table, rows: int) -> Iterator[Table]:
    """Yield successive parts of a table with so many rows; the last one may have fewer."""
    for start in range(0, len(table), rows):
        yield table.slice(start, rows)


def with_column(table: Table, name: str, column: Column, values: Values) -> Table:
    """Return the table with one more column."""
    return table.append_column(name, table_of({name: column}, [{name: values}])[name])


def without_empty(table: Table, names: Collection[str]) -> Table:
    """Return the table without those of the columns in which every value is missing."""
    held = [n for n in table.column_names if n in names and table[n].null_count == len(table)]
    return table.drop_columns(held)


def _parsed(texts: pa.ChunkedArray, schema: pa.Schema | None = None) -> Table:
    """Return a row for each text, a JSON object, with a column for each key or those of `schema`.

    Raises:
        ValueError: a text is not exactly one JSON object.
    """
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts.combine_chunks())
    data = pc.binary_join(whole, "\n")[0].as_buffer()
    unexpected = "infer" if schema is None else "ignore"
    found = pj.read_json(
        pa.BufferReader(data),
        # One block, so that types are inferred from all rows.
        pj.ReadOptions(block_size=data.size + 1, use_threads=False),
        pj.ParseOptions(schema, newlines_in_values=True, unexpected_field_behavior=unexpected),
    )
    if len(found) != len(texts):
        raise ValueError(f"{len(texts)} texts hold {len(found)} JSON objects")
    return found
