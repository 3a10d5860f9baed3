"""Parquet files compared with pyarrow's own reader, and every kind of damage."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gaplab.errors import UserError
from gaplab.storage.filesystem import Storage
from gaplab.storage.parquet import Category, Column, Kind, Layout, reading, write_table

Group = Mapping[str, Any]

LAYOUT = Layout(
    "things",
    2,
    {
        "id": Column("int64"),
        "small": Column("int16"),
        "bits": Column("uint16"),
        "score": Column("float32", varied=True),
        "class": Column("category"),
        "maybe": Column("float64", null=True),
    },
    "make it again",
)
KINDS: dict[str, Kind] = {"t": "time", "s": "text", "b": "bool"}
CLASSES = ("cat", "dog", "été")


@dataclass(frozen=True)
class Document:
    sweep: str
    numbers: tuple[int, ...]


@st.composite
def group(draw: st.DrawFn) -> Group:
    rows = draw(st.integers(0, 30))

    def array(dtype: str) -> Any:
        return draw(hnp.arrays(dtype, rows))

    codes = draw(hnp.arrays("int32", rows, elements=st.integers(0, 2)))
    return {
        "id": array("int64"),
        "small": array("int16"),
        "bits": array("uint16"),
        "score": array("float32"),
        "class": Category(codes, CLASSES),
        "maybe": array("float64"),
    }


def example(rows: int, seed: int = 0) -> Group:
    rng = np.random.default_rng(seed)
    return {
        "id": rng.integers(0, 1 << 40, rows),
        "small": rng.integers(0, 9, rows).astype(np.int16),
        "bits": rng.integers(0, 1 << 16, rows).astype(np.uint16),
        "score": rng.random(rows, dtype=np.float32),
        "class": Category(rng.integers(0, 3, rows).astype(np.int32), CLASSES),
        "maybe": np.where(rng.random(rows) < 0.5, np.nan, 1.5),
    }


def write(folder: Path, *groups: Group, document: Mapping[str, Any] | None = None) -> Path:
    storage = Storage(str(folder))
    return Path(write_table(storage, "a/f.parquet", LAYOUT, document or {}, groups).uri)


def read(path: Path, layout: Layout = LAYOUT) -> list[Group]:
    with reading(Storage(str(path.parent)), path.name, layout) as file:
        return [file.group(index) for index in range(len(file))]


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Rewrite a file like another tool that keeps the metadata."""
    kept = {"gaplab": pq.read_metadata(path).metadata[b"gaplab"]}
    pq.write_table(change(pq.read_table(path)).replace_schema_metadata(kept), path, **options)


def rejected(path: Path, layout: Layout = LAYOUT) -> str:
    """Return the one-line message about a file that can't be read."""
    with pytest.raises(UserError) as error:
        read(path, layout)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def texts(column: Category) -> list[str]:
    return [column.names[code] for code in column.codes]


def assert_same(one: Group, other: Group) -> None:
    for name in LAYOUT.columns:
        if name == "class":
            assert texts(one[name]) == texts(other[name])
        elif name == "maybe":
            np.testing.assert_array_equal(one[name], other[name])
        else:
            assert one[name].dtype == other[name].dtype
            assert one[name].tobytes() == other[name].tobytes(), name


class TestRoundTrip:
    @given(groups=st.lists(group(), max_size=3))
    @settings(max_examples=30)
    def test_values_are_equal_bit_for_bit(
        self, tmp_path_factory: pytest.TempPathFactory, groups: list[Group]
    ) -> None:
        path = write(tmp_path_factory.mktemp("p"), *groups)
        filled = [each for each in groups if len(each["id"])]
        back = read(path)
        assert len(back) == len(filled)
        for one, other in zip(back, filled, strict=True):
            assert_same(one, other)

    def test_pyarrow_reads_the_same(self, tmp_path: Path) -> None:
        groups = [example(5, 1), example(3, 2)]
        path = write(tmp_path, *groups)
        file = pq.ParquetFile(path)
        assert [file.metadata.row_group(i).num_rows for i in range(2)] == [5, 3]
        assert {
            file.metadata.row_group(0).column(i).compression for i in range(len(LAYOUT.columns))
        } == {"ZSTD"}
        table = pq.read_table(path)
        assert table["class"].to_pylist() == [t for g in groups for t in texts(g["class"])]
        maybe = np.concatenate([g["maybe"] for g in groups])
        assert table["maybe"].to_pylist() == [None if np.isnan(v) else v for v in maybe]
        for name in ("id", "small", "bits", "score"):
            whole = np.concatenate([g[name] for g in groups])
            assert table[name].to_numpy().tobytes() == whole.tobytes()

    def test_texts_times_and_missing_values(self, tmp_path: Path) -> None:
        columns = {name: Column(kind, null=True) for name, kind in KINDS.items()}
        noon = datetime(2026, 3, 1, 12, 0, 0, 7, tzinfo=timezone(timedelta(hours=5)))
        rows: Group = {"t": [noon, noon], "s": ["é", None], "b": (None, True)}
        layout = Layout("others", 1, columns, "-")
        written = write_table(Storage(str(tmp_path)), "x.parquet", layout, {}, [rows])
        assert written == (f"{tmp_path}/x.parquet", 2)
        table = pq.read_table(tmp_path / "x.parquet")
        assert table.schema.types == [pa.timestamp("us", "UTC"), pa.string(), pa.bool_()]
        assert table.to_pydict() == {
            "t": [noon.astimezone(UTC)] * 2,
            "s": ["é", None],
            "b": [None, True],
        }

    def test_the_document(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(2), document={"sweep": "é", "numbers": [1, 2], "more": None})
        with reading(Storage(str(path.parent)), path.name, LAYOUT) as file:
            assert file.document(Document) == Document("é", (1, 2))
        path = write(tmp_path, example(2), document={"numbers": ["one"]})
        with (
            reading(Storage(str(path.parent)), path.name, LAYOUT) as file,
            pytest.raises(
                UserError, match=r"f\.parquet: missing or wrong in the footer: numbers\.0"
            ),
        ):
            file.document(Document)

    def test_an_empty_table(self, tmp_path: Path) -> None:
        assert read(write(tmp_path)) == []
        assert read(write(tmp_path, example(0))) == []


class TestFailingWrite:
    def groups(self, error: BaseException) -> Iterator[Group]:
        yield example(5)
        raise error

    @pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(28, "full")])
    def test_nothing_is_left(self, tmp_path: Path, error: BaseException) -> None:
        expected = UserError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected):
            write_table(Storage(str(tmp_path)), "f.parquet", LAYOUT, {}, self.groups(error))
        assert list(tmp_path.iterdir()) == []

    def test_the_old_file_is_kept(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(3))
        with pytest.raises(ValueError, match="x"):
            write_table(
                Storage(str(path.parent)), path.name, LAYOUT, {}, self.groups(ValueError("x"))
            )
        assert_same(read(path)[0], example(3))
        assert list(path.parent.iterdir()) == [path]

    def test_a_full_disk(self) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("no /dev/full here")

        class Full(Storage):
            """Writes to a device without free space."""

            def __init__(self, folder: str) -> None:
                super().__init__(folder)
                fs = self._fs

                class Device:
                    def __getattr__(self, name: str) -> Any:
                        return getattr(fs, name)

                    def open_output_stream(self, path: str) -> Any:
                        return pa.OSFile(str(full), "wb")

                    def delete_file(self, path: str) -> None:
                        assert path.endswith(".part")

                self._fs = Device()

        with pytest.raises(UserError, match=r"f\.parquet: can't be written \(.*[Nn]o space left"):
            write_table(Full("/tmp"), "f.parquet", LAYOUT, {}, [example(100_000)])


class TestBadFile:
    def test_missing(self, tmp_path: Path) -> None:
        assert rejected(tmp_path / "no.parquet").endswith(": no such file; make it again")
        (tmp_path / "folder.parquet").mkdir()
        assert "folder.parquet: damaged (" in rejected(tmp_path / "folder.parquet")

    def test_truncated_anywhere(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(40), example(40, 1))
        whole = path.read_bytes()
        for keep in {*range(0, len(whole), 97), *range(9), *(len(whole) - n for n in range(1, 20))}:
            path.write_bytes(whole[:keep])
            assert "f.parquet: damaged (" in rejected(path), keep

    def test_not_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text("id,score\n" * 100)
        assert rejected(path).endswith("; make it again")

    def test_a_damaged_row_group_is_named(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(500), example(500, 1))
        column = pq.ParquetFile(path).metadata.row_group(1).column(3)
        raw = bytearray(path.read_bytes())
        raw[column.data_page_offset + column.total_compressed_size // 2] ^= 1
        path.write_bytes(raw)
        assert ": row group 1: damaged (" in rejected(path)
        with reading(Storage(str(path.parent)), path.name, LAYOUT) as file:
            assert_same(file.group(0), example(500))

    @given(st.data())
    def test_one_wrong_byte_never_changes_the_data(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = write(tmp_path_factory.mktemp("p"), example(60))
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        with contextlib.suppress(UserError):
            assert_same(read(path)[0], example(60))

    def test_a_file_of_another_tool(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"id": [1]}), tmp_path / "f.parquet")
        message = rejected(tmp_path / "f.parquet")
        assert (
            "a Parquet file without gaplab's metadata; give a file of things that gaplab wrote"
            in message
        )

    @pytest.mark.parametrize("document", [b"\xff", b"[]", b"{}", b'{"format": "things"}', b"null"])
    def test_invalid_metadata(self, tmp_path: Path, document: bytes) -> None:
        table = pa.table({"id": [1]}).replace_schema_metadata({"gaplab": document})
        pq.write_table(table, tmp_path / "f.parquet")
        assert "without gaplab's metadata" in rejected(tmp_path / "f.parquet")

    def test_another_kind_or_a_later_version(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(2))
        other = Layout("others", 2, LAYOUT.columns, "-")
        assert rejected(path, other).endswith(": contains things; give a file of others")
        older = Layout("things", 1, LAYOUT.columns, "-")
        assert "version 2 of things, but this gaplab reads up to 1; update" in rejected(path, older)
        newer = Layout("things", 3, LAYOUT.columns, "-")
        assert_same(read(path, newer)[0], example(2))

    def test_all_wrong_columns_are_named(self, tmp_path: Path) -> None:
        def change(table: pa.Table) -> pa.Table:
            table = table.drop_columns(["id"]).append_column("extra", pa.array([0] * 4))
            return table.set_column(0, "small", table["small"].cast(pa.int32()))

        path = write(tmp_path, example(4))
        rewrite(path, change)
        message = rejected(path)
        assert "no column id, column small is int32 with missing values, not int16; make" in message
        assert "extra" not in message

    def test_missing_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(4))
        rewrite(path, lambda table: table.slice(1))
        assert "has 3 rows, but was written with 4; make it again" in rejected(path)

    def test_a_copy_with_the_metadata_can_be_read(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(9))
        rewrite(path, lambda table: table, row_group_size=5, compression="none")
        parts = read(path)
        assert [len(each["id"]) for each in parts] == [5, 4]
        assert texts(parts[0]["class"]) + texts(parts[1]["class"]) == texts(example(9)["class"])

    def test_a_copy_without_the_metadata_is_rejected(self, tmp_path: Path) -> None:
        path = write(tmp_path, example(9))
        pq.write_table(pq.read_table(path), path)
        assert "without gaplab's metadata" in rejected(path)
