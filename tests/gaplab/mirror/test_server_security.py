"""MLflow's programs serve this machine only and run nothing from the home folder."""

import http.client
import math
import shlex
import socket
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from gaplab.cli.doctor.network import listeners
from gaplab.mirror import server
from gaplab.mirror.database import exclusive_access
from gaplab.mirror.replay import Mirror
from gaplab.mirror.server import running_server
from gaplab.storage.home import Home

pytestmark = [
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

PLANTED = ("mlflow", "uvicorn", "fastapi", "alembic", "sqlalchemy", "usercustomize")
SECRET = uuid4().hex

INTERPRETER = """#!/bin/sh
# Python with the same options, but a program that looks where modules would come from.
while [ "$1" != -m ]; do options="$options $1"; shift; done
for last; do :; done
exec {python} $options -c {program} {home} "${{last#sqlite:///}}"
"""
PROGRAM = f"""
import importlib.util, sqlite3, sys
home, database = sys.argv[1:]
found = [importlib.util.find_spec(name) for name in {PLANTED!r}]
if any(spec is not None and str(spec.origin).startswith(home) for spec in found):
    sys.exit("a module would come from the home folder")
tables = "CREATE TABLE experiments (artifact_location); CREATE TABLE runs (artifact_uri)"
sqlite3.connect(database).executescript(tables).close()
"""


def plant(folder: Path, ran: Path) -> None:
    """Write modules that record their import into `ran` and then fail."""
    for module in PLANTED:
        code = f"open({str(ran)!r}, 'a').write('{module} ')\nraise SystemExit(3)\n"
        (folder / f"{module}.py").write_text(code)


EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"


def answer(port: int, path: str, host: str) -> tuple[int, str]:
    """Send a request with this Host header; return the status code and the text."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_the_server_of_an_empty_home_is_local_and_imports_nothing_from_it(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaks: ModuleType
) -> None:
    """One start for all assertions, because it takes many seconds."""
    monkeypatch.setattr(server, "_START_SECONDS", math.inf)
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    plant(bench.home.path, tmp_path / "ran")
    monkeypatch.chdir(bench.home.path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running_server(bench.home, port) as url:
        assert {each.host for each in listeners() or () if each.port == port} == {"127.0.0.1"}
        own = f"127.0.0.1:{port}"
        assert [answer(port, EXPERIMENT, host)[0] for host in (own, "evil.example")] == [200, 403]
        assert "<title>MLflow</title>" in answer(port, "/", own)[1]
        for sweep in (None, bench.ledger.sweep(bench.add("s", name="nothing"))):
            assert Mirror(bench.home).link(url, sweep) == f"{url}/#/experiments"
        leaks.assert_no_secret_in_argv(SECRET)
    assert not (tmp_path / "ran").exists()
    leaks.assert_no_secret(SECRET, bench.home.path)


def test_creating_the_database_imports_nothing_from_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command, folder and environment are the real ones; MLflow's migrations are not run."""
    home = Home(tmp_path / "home").create()
    plant(home.path, tmp_path / "ran")
    words = {"python": sys.executable, "program": PROGRAM, "home": str(home.path)}
    stand_in = tmp_path / "python"
    stand_in.write_text(INTERPRETER.format(**{k: shlex.quote(v) for k, v in words.items()}))
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.chdir(home.path)
    with exclusive_access(home):
        assert (home.path / "mlflow.db").exists()
    assert not (tmp_path / "ran").exists()
