"""Addresses of ledgers, and databases that are none."""

from pathlib import Path

import pytest

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.migrate import open_engine


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            *("ledger.db", "", " ", "/folder/ledger.db", "host=h user=u password=hunter2"),
            *("mysql://me:hunter2@host/db", "mysql://host/db?password=hunter2", "oracle://x"),
            *("postgresql+nodriver://me:hunter2@h/db", "sqlite+aiosqlite:////x/ledger.db"),
            *("postgresql://me:hunter2@h:port/db", "postgresql://me:hunter2/h/db"),
            *("postgresql://me:x@hunter2@h/db", "postgresql://h/db&user=me&password=hunter2"),
            *("postgresql://host=h password=hunter2", "postgresql://me:hunter2@h"),
            *("postgresql://me@h/?password=hunter2", "postgresql:me:hunter2@h"),
            *("sqlite://", "sqlite:///:memory:", "sqlite:///ledger.db", "sqlite://ledger.db"),
            *("sqlite://x/ledger.db", "sqlite:////x/ledger.db?password=hunter2"),
            *("sqlite:////x/a?b/ledger.db", "sqlite:///file:x.db?mode=memory&uri=true"),
        ],
    )
    def test_other_urls_are_refused_without_their_secrets(self, url: str) -> None:
        with pytest.raises(UserError, match=r"write sqlite:////folder/ledger\.db or post") as error:
            Ledger.open(url)
        assert "hunter2" not in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://me:hunter2@127.0.0.1:1/gaplab",
            "postgres://me:hunter2@127.0.0.1:1/gaplab",
            "postgresql+psycopg://me@127.0.0.1:1/gaplab?password=hunter2",
            "postgresql://me@127.0.0.1:1/gaplab?sslpassword=hunter2&sslmode=disable",
            "postgresql://me@127.0.0.1:1/gaplab?passfile=hunter2",
            "postgresql://me@127.0.0.1:1/gaplab?pasword=hunter2",
            "postgresql://me@127.0.0.1:1/gaplab?password=hunter2&password=hunter2b",
            "postgresql://me:hunter2@127.0.0.1:99999/gaplab",
            f"postgresql://me:hunter2@{'h' * 70}.example/gaplab",
            "postgresql://me@127.0.0.1:1/gaplab?sslmode=hunter2&password=hunter2",
        ],
    )
    def test_an_unreachable_server_without_its_secrets(self, url: str) -> None:
        with pytest.raises(
            UserError, match=r"^ledger postgresql\+psycopg://me.*; give the"
        ) as error:
            Ledger.open(url)
        assert "hunter2" not in str(error.value).replace("sslmode=hunter2", "")
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
