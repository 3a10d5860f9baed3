"""Ledgers that are only read: nothing is created, changed or upgraded, and data is fresh."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gaplab.errors import UserError
from gaplab.ledger import Ledger, Reader
from gaplab.ledger.migrate import MIGRATE, VERSION_TABLE, WRITE, alembic_config, open_engine
from gaplab.ledger.readonly import OutdatedError
from gaplab.records import Claim
from gaplab.states import TrialState
from tests.builders import evaluation_record, sweep_record, trial_record


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of every file in a folder."""
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.iterdir()}


class TestBoth:
    """On SQLite and on a real PostgreSQL."""

    def test_a_reader_sees_what_was_written_and_what_is_written_next(
        self, ledger: Ledger, url: str
    ) -> None:
        with Reader.open(url) as reader:
            assert reader.sweeps() == []
            for number in range(3):
                ledger.add_sweep(sweep_record(f"s{number}", trial_record(f"t{number}")))
                assert len(reader.sweeps()) == number + 1
            assert [each.id for each in reader.all_trials()] == ["t0", "t1", "t2"]
            assert reader.now()

    def test_a_reader_can_t_write(self, ledger: Ledger, url: str) -> None:
        with (
            Ledger.read_only(url) as reader,
            reader._engine.connect() as connection,
            pytest.raises(DBAPIError, match=r"readonly|read-only"),
        ):
            connection.execute(text("DELETE FROM sweep"))

    def test_an_older_ledger_is_not_upgraded(self, url: str) -> None:
        Ledger.open(url).close()
        engine = open_engine(url)
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            command.downgrade(alembic_config(connection), "0004")
        engine.dispose()
        for _ in range(2):
            with pytest.raises(OutdatedError, match=r"of an older gaplab \(version 0004, this"):
                Reader.open(url)
        Ledger.open(url).close()
        Reader.open(url).close()

    def test_a_newer_ledger_is_refused(self, url: str) -> None:
        Ledger.open(url).close()
        engine = open_engine(url)
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        engine.dispose()
        with pytest.raises(UserError, match=r"written by a newer gaplab \(version 9999"):
            Reader.open(url)

    def test_stored_files_are_listed_once(self, ledger: Ledger, url: str) -> None:
        ledger.add_sweep(sweep_record("s1", trial_record("t1")))
        attempt = ledger.start_attempt(Claim("t1", "s1"))
        for protocol in ("default", "onenet"):
            record = evaluation_record(protocol=protocol, candidates="c", matches=f"{protocol}.m")
            ledger.record(record, attempt)
        ledger.record(evaluation_record(epoch=2), attempt)
        with Reader.open(url) as reader:
            assert reader.stored_files() == {"c", "default.m", "onenet.m"}


class TestSqlite:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """The file of a ledger with one sweep, which no program has open."""
        with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
            ledger.add_sweep(sweep_record("s1", trial_record("t1")))
        assert [each.name for each in tmp_path.iterdir()] == ["ledger.db"]
        return tmp_path / "ledger.db"

    def test_nothing_is_left_behind(self, path: Path) -> None:
        before = contents(path.parent)
        with Reader.open(f"sqlite:///{path}") as reader:
            assert len(reader.sweeps()) == 1
            assert len(list(reader.all_trials())) == 1
            assert contents(path.parent) == before
        assert contents(path.parent) == before

    def test_a_folder_without_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"ledger\.db: no such file; correct the URL"):
            Reader.open(f"sqlite:///{tmp_path}/no/ledger.db")
        with pytest.raises(UserError, match=r"ledger\.db: no such file; correct the URL"):
            Ledger.open(f"sqlite:///{tmp_path}/no/ledger.db", create=False)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("content", "what"), [(b"", "holds no ledger"), (b"GIF89a" * 1000, "not a database")]
    )
    def test_a_file_that_is_no_ledger(self, tmp_path: Path, content: bytes, what: str) -> None:
        (tmp_path / "ledger.db").write_bytes(content)
        with pytest.raises(UserError, match=what):
            Reader.open(f"sqlite:///{tmp_path}/ledger.db")
        assert (tmp_path / "ledger.db").read_bytes() == content

    def test_what_a_crashed_program_has_written(self, path: Path, tmp_path: Path) -> None:
        """It leaves the files `-wal` and `-shm`; here they are copied from a living one."""
        copy = tmp_path / "copy"
        with Ledger.open(f"sqlite:///{path}") as ledger:
            ledger.add_sweep(sweep_record("s2", trial_record("t2")))
            copy.mkdir()
            for each in path.parent.glob("ledger.db*"):
                (copy / each.name).write_bytes(each.read_bytes())
        assert len(list(copy.iterdir())) == 3
        with Reader.open(f"sqlite:///{copy}/ledger.db") as reader:
            assert len(reader.sweeps()) == 2

    def test_a_read_is_repeated_if_the_file_changes_meanwhile(self, path: Path) -> None:
        with Reader.open(f"sqlite:///{path}") as reader:
            file, counts = reader._file, list[int]()
            assert file is not None

            def action() -> int:
                with closing(file.connect()) as connection:
                    [count] = connection.execute("SELECT count(*) FROM sweep").fetchone()
                if not counts:  # another program writes, closes the file, and removes its -wal
                    with Ledger.open(f"sqlite:///{path}") as ledger:
                        ledger.add_sweep(sweep_record("s2", trial_record("t2")))
                counts.append(count)
                return int(count)

            assert file.read(action) == 2
            assert counts == [1, 2]

    def test_a_stream_is_not_a_mixture_of_two_states(self, path: Path) -> None:
        with Reader.open(f"sqlite:///{path}") as reader:
            trials = reader.all_trials()
            assert next(trials).id == "t1"
            with Ledger.open(f"sqlite:///{path}") as ledger:
                ledger.add_sweep(sweep_record("s2", trial_record("t2")))
            with pytest.raises(UserError, match="has changed while it was read; run the command"):
                list(trials)

    def test_a_stream_of_a_ledger_that_is_open_elsewhere(self, path: Path) -> None:
        with Ledger.open(f"sqlite:///{path}") as ledger, Reader.open(f"sqlite:///{path}") as reader:
            trials = reader.all_trials()
            assert next(trials).id == "t1"
            ledger.add_sweep(sweep_record("s2", trial_record("t2")))
            assert list(trials) == []
            assert [each.id for each in reader.all_trials()] == ["t1", "t2"]

    def test_a_database_that_is_locked_can_be_read(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with Reader.open(f"sqlite:///{path}") as reader:
                assert len(reader.sweeps()) == 1


def test_an_empty_ledger_in_memory() -> None:
    with Reader.empty() as reader:
        assert (reader.sweeps(), reader.protocols(), reader.costs()) == ([], {}, {})
        assert reader.states(["t1"]) == {}
        sweep = sweep_record("s1", trial_record("t1"))
        assert reader.unfinished(sweep) == reader.unfinished(sweep, {}) == sweep.trials
        assert reader.unfinished(sweep, {"t1": TrialState.SUCCEEDED}) == ()
