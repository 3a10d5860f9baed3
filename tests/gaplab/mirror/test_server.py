"""A real server of MLflow for the mirror, queried by HTTP and shown in a browser."""

import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.mirror import server
from gaplab.mirror.server import running_server
from gaplab.storage.home import Home
from tests.builders import LedgerBench
from tests.gaplab.mirror.mlflow_runs import damage_database

pytestmark = [
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.timeout(1800),
]


CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


START_UI = """
import sys
from gaplab.cli import main
from gaplab.mirror import server
server._START_SECONDS = 1e9  # how long a test waits does not depend on the machine's speed
main()
"""
START_FAKE_UI = """
import sys
from contextlib import nullcontext
from gaplab.cli import main
from gaplab.mirror import server
page = "import http.server as h; Page = type('Page', (h.BaseHTTPRequestHandler,), {'do_GET': "
page += "lambda self: (self.send_response(200), self.end_headers())}); import sys; "
page += "h.HTTPServer(('127.0.0.1', int(sys.argv[2])), Page).serve_forever()"
server._command = lambda home, port: [sys.executable, "-c", page, "--port", str(port)]
server.exclusive_access = nullcontext
server._START_SECONDS = 1e9
main()
"""
"""Starts `gaplab ui` with a small web server in place of MLflow's."""
OWN_SETTINGS = {
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////nowhere/mlflow.db",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9/",
    "MLFLOW_STATIC_PREFIX": "/elsewhere",
}
"""A person's settings of MLflow, which the server must ignore."""


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a test waits for a server does not depend on the machine's speed."""
    monkeypatch.setattr(server, "_START_SECONDS", math.inf)


@dataclass(frozen=True)
class Served:
    """A ledger, and the URLs that `gaplab ui` printed."""

    ledger: Ledger
    url: str
    link: str


def ask(url: str, body: dict[str, Any] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request) as response:
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


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Served]:
    """Two sweeps, mirrored and served by `gaplab ui` in spite of a person's settings of MLflow."""
    home = Home(tmp_path_factory.mktemp("served") / "home").create()
    shutil.copy(mlflow_database, home.path)
    bench, port = LedgerBench(home), free_port()
    bench.asha()
    bench.small()
    words = ["ui", "paper", "--home", str(home.path), "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "GAPLAB_LEDGER"} | OWN_SETTINGS
    ui = subprocess.Popen(
        [sys.executable, "-c", START_UI, *words], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert ui.stdout is not None
        link = ui.stdout.readline().removeprefix("MLflow: ").strip()
        assert ui.stdout.readline() == "Stop it with Ctrl-C.\n"
        assert len(group_of(port)) >= 2
        yield Served(bench.ledger, f"http://127.0.0.1:{port}", link)
    finally:
        ui.terminate()
        ui.communicate()
        bench.ledger.close()
    assert ui.returncode == 128 + signal.SIGTERM
    wait_until(lambda: not group_of(port))


def runs_of(served: Served, name: str) -> list[dict[str, Any]]:
    """Ask the server for the runs of trials in an experiment."""
    api = f"{served.url}/api/2.0/mlflow"
    named = json.loads(ask(f"{api}/experiments/get-by-name?experiment_name={name}"))
    experiment = named["experiment"]["experiment_id"]
    query = {"experiment_ids": [experiment], "filter": "tags.`gaplab.kind` = 'trial'"}
    found: list[dict[str, Any]] = json.loads(ask(f"{api}/runs/search", query))["runs"]
    return found


def info_by_trial(served: Served, name: str) -> dict[str, dict[str, Any]]:
    return {
        tag["value"]: run["info"]
        for run in runs_of(served, name)
        for tag in run["data"]["tags"]
        if tag["key"] == "gaplab.trial"
    }


def test_the_link_leads_to_the_runs_of_the_sweep(served: Served) -> None:
    [experiment] = {run["info"]["experiment_id"] for run in runs_of(served, "paper")}
    path = f"/#/experiments/{experiment}/runs?workflowType=machine_learning"
    assert served.link.startswith(served.url + path)


@pytest.mark.parametrize(
    ("name", "sweep"), [("paper", "paper-00000001"), ("asha", "asha-00000001")]
)
def test_statuses_follow_the_states_of_trials(served: Served, name: str, sweep: str) -> None:
    statuses = {"succeeded": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
    trials = served.ledger.trials(sweep)
    assert {key: info["status"] for key, info in info_by_trial(served, name).items()} == {
        trial.id: statuses[trial.state] for trial in trials
    }


def test_the_server_returns_what_the_ledger_holds(served: Served) -> None:
    found = info_by_trial(served, "paper")
    for trial in served.ledger.trials("paper-00000001"):
        run = found[trial.id]["run_id"]
        for primary, key in ((True, "gap"), (False, "o2m.ap_nms")):
            query = urlencode({"run_id": run, "metric_key": key})
            history = f"{served.url}/api/2.0/mlflow/metrics/get-history?{query}"
            points = json.loads(ask(history))["metrics"]
            wanted = {
                each.epoch: each.metrics[key.rpartition(".")[2]]
                for each in served.ledger.evaluations(trial.id)
                if each.primary == primary
            }
            assert {int(m["step"]): m["value"] for m in points} == wanted
        table = ask(f"{served.url}/get-artifact?path=per_class.json&run_uuid={run}")
        assert [row[0] for row in json.loads(table)["data"]] == ["circle", "star"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_the_link_shows_the_table_of_runs(served: Served) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            page.set_default_timeout(0)  # no limit
            outside: list[str] = []
            page.on("request", lambda r: outside.append(r.url) if served.url not in r.url else None)
            page.goto(served.link)
            last: dict[str, Mapping[str, float | None]] = {}
            for trial in served.ledger.trials("paper-00000001"):
                page.get_by_role("link", name=f"dual seed={trial.seed}").wait_for()
                own = [e for e in served.ledger.evaluations(trial.id) if e.primary]
                last[trial.id] = own[-1].metrics
            for column in ("gap", "ap", "ap_nms", "gaplab.assignment", "seed"):
                page.get_by_role("columnheader", name=column, exact=True).first.wait_for()
            if shot := os.environ.get("GAPLAB_TEST_SCREENSHOT"):
                page.screenshot(path=shot)
            text = page.inner_text("body")
        finally:
            browser.close()
    for metrics in last.values():
        assert f"{metrics['gap']:.3f}"[:-1] in text
    assert outside == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_the_server_ends_with_the_command(
    bench: LedgerBench, number: signal.Signals, code: int
) -> None:
    port = free_port()
    words = ["ui", "--home", str(bench.home.path), "--port", str(port)]
    line = [sys.executable, "-c", START_FAKE_UI, *words]
    environment = {k: v for k, v in os.environ.items() if k != "GAPLAB_LEDGER"}
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        assert ui.stdout.readline() == f"MLflow: http://127.0.0.1:{port}/#/experiments\n"
        assert ui.stdout.readline() == "Stop it with Ctrl-C.\n"
        assert len(group_of(port)) >= 2
        ui.send_signal(number)
        ui.communicate()  # it writes a last line, so its output must stay open
    assert ui.returncode == code
    wait_until(lambda: group_of(port) in ([], [ui.pid]))


def test_a_port_in_use_is_an_error(bench: LedgerBench) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"--port {port}: can't be used .*another --port"),
            running_server(bench.home, port),
        ):
            pass


def test_the_error_of_a_server_that_dies_is_shown(bench: LedgerBench) -> None:
    with closing(sqlite3.connect(bench.home.path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    port = free_port()
    with (
        pytest.raises(UserError, match=r"ended at once: .*out-of-date database schema") as raised,
        running_server(bench.home, port),
    ):
        pass
    assert str(bench.home.path / "mlflow-server.log") in str(raised.value)
    wait_until(lambda: not group_of(port))


def test_a_file_that_is_not_a_database_is_an_error(bench: LedgerBench) -> None:
    damage_database(bench.home.path / "mlflow.db")
    with (
        pytest.raises(UserError, match="file is not a database"),
        running_server(bench.home, free_port()),
    ):
        pass
