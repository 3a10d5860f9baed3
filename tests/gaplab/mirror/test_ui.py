"""A real server of MLflow over the mirror, asked by HTTP and looked at in a browser."""

import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from gaplab.errors import UserError
from gaplab.mirror.replay import Mirror
from gaplab.mirror.server import running_server

pytestmark = [
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.timeout(240),
]

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def ask(url: str, body: dict[str, Any] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=60) as response:
        return str(response.read().decode())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def group_of(port: int) -> list[int]:
    """Ids of this machine's processes that serve MLflow at `port`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--port" in words and str(port).encode() in words:
            found.append(int(folder.name))
    return found


@pytest.fixture
def served(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The small ledger, mirrored and served, in spite of a person's own settings of MLflow."""
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:////nowhere/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_STATIC_PREFIX", "/elsewhere")
    bench.small()
    bench.mirror = Mirror(bench.home)
    bench.mirror.replay(bench.ledger, "paper-00000001")
    port = free_port()
    with running_server(bench.home, port) as bench.url:
        assert len(group_of(port)) >= 2
        yield bench
    assert group_of(port) == []


def test_the_server_tells_what_the_ledger_holds(served: Any) -> None:
    api = f"{served.url}/api/2.0/mlflow"
    named = json.loads(ask(f"{api}/experiments/get-by-name?experiment_name=paper"))
    experiment = named["experiment"]["experiment_id"]
    link = served.mirror.link(served.url, "paper")
    assert link.startswith(f"{served.url}/#/experiments/{experiment}/runs?workflowType=")
    query = {"experiment_ids": [experiment], "filter": "tags.`gaplab.kind` = 'trial'"}
    runs = json.loads(ask(f"{api}/runs/search", query))["runs"]
    found = {
        tag["value"]: run["info"]
        for run in runs
        for tag in run["data"]["tags"]
        if tag["key"] == "gaplab.trial"
    }
    states = {"succeeded": "FINISHED", "failed": "FAILED"}
    trials = served.ledger.trials("paper-00000001")
    assert {key: info["status"] for key, info in found.items()} == {
        trial.id: states[trial.state] for trial in trials
    }
    for trial in trials:
        run = found[trial.id]["run_id"]
        for primary, key in ((True, "gap"), (False, "o2m/ap_nms")):
            query_string = urlencode({"run_id": run, "metric_key": key})
            answer = json.loads(ask(f"{api}/metrics/get-history?{query_string}"))
            wanted = {
                each.epoch: each.metrics[key.rpartition("/")[2]]
                for each in served.ledger.evaluations(trial.id)
                if each.primary == primary
            }
            assert {int(m["step"]): m["value"] for m in answer["metrics"]} == wanted
        table = ask(f"{served.url}/get-artifact?path=per_class.json&run_uuid={run}")
        assert [row[0] for row in json.loads(table)["data"]] == ["circle", "star"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_a_person_lands_in_the_table_of_runs(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            page.set_default_timeout(90_000)
            outside: list[str] = []
            page.on("request", lambda r: outside.append(r.url) if served.url not in r.url else None)
            page.goto(served.mirror.link(served.url, "paper"))
            last = {}
            for trial in served.ledger.trials("paper-00000001"):
                page.get_by_role("link", name=f"dual-seed{trial.seed}-{trial.id[:8]}").wait_for()
                own = [e for e in served.ledger.evaluations(trial.id) if e.primary]
                last[trial.id] = own[-1].metrics
            for column in ("gap", "ap", "ap_nms", "ar_gap", "gaplab.assignment", "seed"):
                page.get_by_role("columnheader", name=column, exact=True).first.wait_for()
            if shot := os.environ.get("GAPLAB_TEST_SCREENSHOT"):
                page.screenshot(path=shot)
            text = page.inner_text("body")
        finally:
            browser.close()
    for metrics in last.values():
        assert f"{metrics['gap']:.3f}"[:-1] in text
    assert outside == []


def test_an_empty_home_has_pages_too(bench: Any) -> None:
    with running_server(bench.home, free_port()) as url:
        assert Mirror(bench.home).link(url, None) == f"{url}/#/experiments"
        assert Mirror(bench.home).link(url, "nothing") == f"{url}/#/experiments"
        assert "<title>MLflow</title>" in ask(url)


def test_a_taken_port_is_named(bench: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"--port {port}: can't be used .*another --port"),
            running_server(bench.home, port),
        ):
            pass


def test_a_server_that_dies_is_quoted(bench: Any) -> None:
    with closing(sqlite3.connect(bench.home.path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    port = free_port()
    with (
        pytest.raises(UserError, match=r"ended at once: .*out-of-date database schema") as raised,
        running_server(bench.home, port),
    ):
        pass
    assert str(bench.home.path / "mlflow-server.log") in str(raised.value)
    assert group_of(port) == []


def test_a_file_that_is_no_database_is_named(bench: Any) -> None:
    (bench.home.path / "mlflow.db").write_bytes(b"this is no database, " * 100)
    with (
        pytest.raises(UserError, match="file is not a database"),
        running_server(bench.home, free_port()),
    ):
        pass
