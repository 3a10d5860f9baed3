"""Addresses of ledgers, and databases that are none."""

from pathlib import Path

import pytest

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.migrate import open_engine


class TestUrls:
    @pytest.mark.parametrize(
        "url", ["ledger.db", "", "mysql://host/db", "sqlite://", "sqlite:///:memory:"]
    )
    def test_urls_of_other_databases_are_refused(self, url: str) -> None:
        with pytest.raises(UserError, match=r"write sqlite:////folder/ledger\.db or postgresql"):
            Ledger.open(url)

    def test_an_unreachable_server_without_its_password(self) -> None:
        with pytest.raises(UserError, match="Connection refused") as error:
            Ledger.open("postgresql://me:secret@127.0.0.1:1/gaplab")
        assert "secret" not in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("content", [b"GIF89a" * 1000, b"SQLite format 3\0" + b"\1" * 5000])
    def test_a_file_that_is_not_a_database(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "ledger.db"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"ledger\.db: file is not a database; give the URL"):
            Ledger.open(f"sqlite:///{path}")
        assert path.read_bytes() == content

    def test_a_folder_that_can_t_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="choose a folder you can write to"):
            Ledger.open(f"sqlite:///{tmp_path}/file/ledger.db")


def test_sqlite_settings(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/ledger.db")
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}
