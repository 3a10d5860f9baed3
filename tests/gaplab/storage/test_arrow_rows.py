"""JSON text in columns is converted as Python's json module reads it, row by row."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gaplab.storage.arrow_rows import (
    exploded,
    joined,
    regrouped,
    sliced,
    table_of_rows,
    with_column,
    with_numbers,
    without_empty,
)
from gaplab.storage.parquet import Column

NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)
NAMES = st.sampled_from(["ap_small", "mMR %", "a.b", 'é"\\', "2020-01-01"])
OBJECTS = st.lists(st.dictionaries(NAMES, NUMBERS), max_size=6)
CLASSES = st.fixed_dictionaries(
    {"name": st.text(max_size=5) | st.just("2020-01-01"), "ap": NUMBERS},
    optional={"other": st.booleans()},
)
KEY = {"id": Column("int64"), "json": Column("text")}


def texts(values: list[Any], indent: int | None) -> list[tuple[int, str]]:
    return [(at, json.dumps(value, indent=indent)) for at, value in enumerate(values)]


@given(OBJECTS, st.sampled_from([None, 1]))
def test_numbers(objects: list[dict[str, float | None]], indent: int | None) -> None:
    found = with_numbers(table_of_rows(KEY, texts(objects, indent)), "json").to_pylist()
    names = {name for each in objects for name in each}
    assert found == [
        {"id": at, **{name: each.get(name) for name in names}} for at, each in enumerate(objects)
    ]


@given(st.lists(st.lists(CLASSES, max_size=3), max_size=4), st.sampled_from([None, 1]))
def test_exploded(arrays: list[list[dict[str, Any]]], indent: int | None) -> None:
    fields = {"name": Column("text"), "ap": Column("float64", null=True)}
    found = exploded(table_of_rows(KEY, texts(arrays, indent)), "json", fields)
    assert found.to_pylist() == [
        {"id": at, "name": each["name"], "ap": each["ap"]}
        for at, array in enumerate(arrays)
        for each in array
    ]


def test_a_key_that_is_a_column_already_is_skipped() -> None:
    table = table_of_rows(
        {"ap": Column("float64"), "json": Column("text")}, [(1.5, '{"ap": null}')]
    )
    assert with_numbers(table, "json").to_pydict() == {"ap": [1.5]}


@given(st.lists(st.integers(0, 4), max_size=8), st.integers(1, 5))
def test_regrouped(sizes: list[int], least: int) -> None:
    column = {"id": Column("int64")}
    tables = [table_of_rows(column, [(at,)] * size) for at, size in enumerate(sizes)]
    groups = list(regrouped(tables, least))
    whole = [at for at, size in enumerate(sizes) for _ in range(size)]
    assert [each for group in groups for each in group["id"].to_pylist()] == whole
    assert all(len(group) >= least for group in groups[:-1])
    parts = list(sliced(joined([table_of_rows(column, []), *tables]), least))
    assert [each for part in parts for each in part["id"].to_pylist()] == whole
    assert all(len(part) == least for part in parts[:-1])


def test_missing_columns_and_values() -> None:
    one = table_of_rows({"a": Column("int64"), "b": Column("text", null=True)}, [(1, None)])
    two = with_column(table_of_rows({"a": Column("int64")}, [(2,)]), "c", Column("text"), ["x"])
    assert without_empty(one, ["a", "b"]).to_pydict() == {"a": [1]}
    assert without_empty(one, ["a"]).column_names == ["a", "b"]
    assert joined([one, two]).to_pydict() == {"a": [1, 2], "b": [None, None], "c": [None, "x"]}
