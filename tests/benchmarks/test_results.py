"""The speed of questions about results. `pytest -s tests/benchmarks/test_results.py` prints tables.

The ledger is filled inside the database. GAPLAB_BENCH_TRIALS sets the number of trials; values of
80 classes are stored for the last of 12 epochs only, since no question here reads them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, insert, text

from gaplab.formatting import flat
from gaplab.ledger import Ledger
from gaplab.ledger.expression import parse
from gaplab.ledger.models import Setting, Sweep
from gaplab.ledger.settings import number, section_id, setting_value
from gaplab.ledger.views import METRICS, Order, RowFilter
from gaplab.results.export import _evaluations, _write
from gaplab.storage.filesystem import Storage
from tests.builders import NOW

TRIALS, EPOCHS, CLASSES = int(os.environ.get("GAPLAB_BENCH_TRIALS", "100000")), 12, 80
NAMES = ("poto", "o2f", "fcos", "mixture")
ALPHAS = [step / 10 for step in range(10)]
RATES = [0.001 * step for step in range(1, 11)]
SIZES = ("ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar_small", "ar_medium", "ar_large")
MORE = {f"{name}{kind}": 30.123456789 for name in SIZES for kind in ("", "_nms", "_gap")}
CELLS = [
    {"name": f"class {at}", "ap": 30.123456789, "ap_nms": 31.123456789, "gap": -1.0}
    for at in range(CLASSES)
]
QUESTIONS: dict[str, RowFilter] = {
    "top 20 with two filters": RowFilter(
        where=(parse("alpha == 0.5"), parse("ap > 35")), order=Order("gap"), top=20
    ),
    "top 20 of all": RowFilter(order=Order("ap"), top=20),
    "paper table of 60 trials": RowFilter(trials=tuple(str(10**11 + at) for at in range(60))),
}

GROUPS: dict[str, tuple[RowFilter, str]] = {
    "mean and deviation over seeds, one assignment and rate": (
        RowFilter(where=(parse('assignment.name == "poto" and training.lr == 0.001'),)),
        "assignment.alpha",
    ),
    "mean and deviation over all trials by assignment": (RowFilter(), "assignment"),
}
"""Question -> the filter, and the key by which its trials are grouped."""


def configs() -> list[dict[str, Any]]:
    """Return a configuration of the usual size for each assignment, alpha and learning rate."""
    return [
        {
            "assignment": {"name": name, "alpha": alpha, "prior": "center", "radius": 1.5},
            "data": {"name": "shapes", **{f"option_{at}": at for at in range(14)}},
            "detector": {"name": "fcos", **{f"option_{at}": at for at in range(20)}},
            "training": {"lr": rate, "epochs": EPOCHS, **{f"option_{at}": at for at in range(30)}},
            "evaluation": {"every": 1, "protocol": {"preset": "default", "nms_iou": 0.6}},
        }
        for name in NAMES
        for alpha in ALPHAS
        for rate in RATES
    ]


def fill(connection: Connection, trials: int) -> None:
    """Insert trials, their attempts, evaluations and settings: seeds of each configuration."""
    key = {"id": "s1", "name": "s1", "spec": "name: s1\n", "created_at": NOW}
    connection.execute(insert(Sweep), [key])
    connection.execute(text("CREATE TEMPORARY TABLE combo (c INTEGER, config TEXT, name TEXT)"))
    connection.execute(text("CREATE TEMPORARY TABLE part (c INTEGER, name TEXT, section TEXT)"))
    settings: dict[str, tuple[str, Any]] = {}
    for at, config in enumerate(configs()):
        row = {"c": at, "config": json.dumps(config), "name": config["assignment"]["name"]}
        connection.execute(text("INSERT INTO combo VALUES (:c, :config, :name)"), row)
        for name, value in config.items():
            section = section_id(name, value)
            settings[section] = (name, value)
            part = {"c": at, "name": name, "section": section}
            connection.execute(text("INSERT INTO part VALUES (:c, :name, :section)"), part)
    rows = [
        {"section_id": section, "key": each, "value": setting_value(v), "number": number(v)}
        for section, (name, value) in settings.items()
        for each, v in flat({name: value}).items()
    ]
    connection.execute(insert(Setting), rows)
    values = {"trials": trials, "combos": len(configs()), "now": "2026-01-02 03:04:05.000678"}
    values |= {"more": json.dumps(MORE), "classes": json.dumps(CELLS), "epochs": EPOCHS}
    true = "1" if connection.dialect.name == "sqlite" else "true"
    for statement in _statements(true, connection.dialect.name):
        names = {name for name in values if f":{name}" in statement}
        connection.execute(text(statement), {name: values[name] for name in names})


def _statements(true: str, dialect: str) -> list[str]:
    """Return the statements that fill the tables from `combo` and `part`."""
    document, at = ("", "") if dialect == "sqlite" else ("::json", "::timestamptz")
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {})"
    metrics, key = ", ".join(METRICS), "trial_id, epoch, branch, protocol, truth"
    ap = "((CAST(substr(t.id, 4) AS INTEGER) * 7919 + e.i * 31) % 5000) / 100.0"
    some = ", ".join("30.5" for _ in METRICS[3:])
    return [
        "INSERT INTO trial (id, config, assignment, family, dataset, seed, epochs, "
        "results_version, state, created_at) "
        f"{numbers.format('CAST(:trials AS INTEGER)')} SELECT CAST(100000000000 + n.i AS TEXT), "
        f"combo.config{document}, combo.name, 'o2o', 'shapes', n.i / CAST(:combos AS INTEGER), 12, "
        f"2, 'succeeded', CAST(:now AS TEXT){at} FROM n JOIN combo ON combo.c = n.i % "
        "CAST(:combos AS INTEGER)",
        "INSERT INTO sweep_trial (sweep_id, trial_id, position) SELECT 's1', id, 0 FROM trial",
        "INSERT INTO attempt (trial_id, sweep_id, number, state, reason, started_at, node, device, "
        "workers, gpus, cpu_seconds, gpu_seconds, wall_seconds, driver, token, fault, notes, "
        f"provenance) SELECT id, 's1', 1, 'succeeded', '', CAST(:now AS TEXT){at}, 'n', 'cpu', 1, "
        "1, 60, seed + 60, 60, 'd', id, '', '[]', '{}' FROM trial",
        "INSERT INTO trial_section (trial_id, name, section_id) SELECT t.id, part.name, "
        "part.section FROM trial AS t JOIN part ON part.c = "
        "(CAST(substr(t.id, 4) AS INTEGER)) % CAST(:combos AS INTEGER)",
        f"INSERT INTO evaluation ({key}, attempt_id, is_primary, {metrics}, more, candidates, "
        f"matches, created_at) {numbers.format('CAST(:epochs AS INTEGER)')} SELECT t.id, e.i + 1, "
        f"'o2o', 'default', '', a.id, {true}, {ap}, {ap} + 1.5, -1.5, {some}, "
        f"CAST(:more AS TEXT){document}, 'c', 'm', CAST(:now AS TEXT){at} FROM trial AS t "
        "JOIN attempt AS a ON a.trial_id = t.id CROSS JOIN n AS e",
        f"INSERT INTO evaluation_classes ({key}, classes) SELECT {key}, CAST(:classes AS TEXT)"
        f"{document} FROM evaluation WHERE epoch = CAST(:epochs AS INTEGER)",
        *(
            f"INSERT INTO chosen_evaluation ({key}, is_primary, {metrics}, chosen, assignment, "
            "family, dataset, seed, epochs, results_version) SELECT "
            f"{', '.join(f'e.{name}' for name in key.split(', '))}, e.is_primary, "
            f"{', '.join(f'e.{name}' for name in METRICS)}, '{rule}', t.assignment, t.family, "
            "t.dataset, t.seed, t.epochs, t.results_version FROM evaluation AS e JOIN trial AS t "
            "ON t.id = e.trial_id WHERE e.epoch = CAST(:epochs AS INTEGER)"
            for rule in ("last", "best")
        ),
        "ANALYZE",
    ]


def percentile(action: Callable[[], Any], times: int = 20) -> float:
    """Return the 95th percentile of the milliseconds that an action takes, once it is warm."""
    action()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(1000 * (time.perf_counter() - start))
    return sorted(found)[int(0.95 * times) - 1]


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_questions(
    ledger_url: Callable[[str], str], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ledger_url(database)
    table = Table("what", "value", title=f"{TRIALS} trials x {EPOCHS} epochs, {database}")
    with Ledger.open(url) as ledger:
        start = time.perf_counter()
        with ledger._writing.begin() as connection:
            fill(connection, TRIALS)
        table.add_row("filling", f"{time.perf_counter() - start:.0f} s")
        took = {}
        for name, wanted in QUESTIONS.items():
            took[name] = percentile(lambda wanted=wanted: ledger.rows(wanted))  # type: ignore[misc]
        for name, (wanted, key) in GROUPS.items():
            took[name] = percentile(lambda w=wanted, k=key: ledger.groups(w, [k]), 5)  # type: ignore[misc]
        for name, value in took.items():
            table.add_row(f"{name}, p95", f"{value:.1f} ms")
        start = time.perf_counter()
        every = len(ledger.rows(RowFilter(where=(parse("alpha == 0.5"),))))
        whole = 1000 * (time.perf_counter() - start)
        table.add_row(f"all {every} rows of one alpha", f"{whole:.0f} ms")
        wall, cpu = export_seconds(ledger, tmp_path)
        table.add_row("export of a million evaluations", f"{wall:.1f} s, {cpu:.1f} CPU s")
        plans = [(name, explained(ledger, wanted)) for name, wanted in QUESTIONS.items()]
        for name, (wanted, key) in GROUPS.items():
            plans.append((name, explained(ledger, wanted, key)))
    monkeypatch.setenv("GAPLAB_LEDGER", url)
    for words in (["--help"], ["leaderboard"], ["leaderboard", "--where", "alpha == 0.5"]):
        seconds, mib = command(words, tmp_path)
        table.add_row(f"gaplab {' '.join(words)}", f"{seconds:.2f} CPU s, {mib:.0f} MiB")
        assert mib < 300
    Console(width=120).print(table)
    for name, plan in plans:
        Console(width=160).print(f"{database}, {name}:\n{plan}\n")
    assert took["top 20 with two filters"] < whole
    assert cpu < 10  # of two cores in five seconds


def export_seconds(ledger: Ledger, folder: Path) -> tuple[float, float]:
    """Return the seconds and CPU seconds in which a million evaluations become Parquet."""
    start, used = time.perf_counter(), time.process_time()
    columns, groups = _evaluations(ledger, None, None)
    rows = _write(Storage(str(folder)), "evaluations", columns, groups)
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    return wall * 1e6 / rows, cpu * 1e6 / rows


def explained(ledger: Ledger, wanted: RowFilter, key: str = "") -> str:
    """Return the database's plan for the query of a filter, of its groups if there is a key."""
    from gaplab.ledger.selection import Selection

    with ledger._engine.connect() as connection:
        selection = Selection(connection, wanted)
        query = selection.grouping([key]).query() if key else selection._page().element
        compiled = query.compile(connection, compile_kwargs={"render_postcompile": True})
        prefix = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
        found = connection.exec_driver_sql(prefix + str(compiled), _values(compiled)).all()
    return "\n".join(str(row[-1]) for row in found)


def _values(compiled: Any) -> Any:
    values = compiled.params
    return values if not compiled.positional else tuple(values[n] for n in compiled.positiontup)


def command(words: list[str], home: Path) -> tuple[float, float]:
    """Run a command. Returns its CPU seconds and its largest memory in MiB."""
    code = (
        "import sys\nfrom gaplab.cli import main\nsys.argv[0] = 'gaplab'\ntry:\n    main()\n"
        "finally:\n    lines = open('/proc/self/status').readlines()\n"
        "    print(next(each for each in lines if each.startswith('VmHWM')), file=sys.stderr)"
    )
    options = ["--home", str(home)] if words != ["--help"] else []
    before = os.times()
    run = [sys.executable, "-c", code, *words, *options]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    after = os.times()
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    return seconds, int(done.stderr.split("VmHWM:")[1].split()[0]) / 1024
