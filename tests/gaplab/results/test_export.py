"""Exported files hold the contents of the ledger, as pyarrow reads them."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detectors.evaluation.metrics import POSITIVES, ClassGap
from gaplab.cli import main
from gaplab.errors import UserError
from gaplab.ledger import Ledger, streams
from gaplab.records import Claim, EvaluationRecord, TrialRecord
from gaplab.results import export as module
from gaplab.results.export import export
from gaplab.storage.home import Home
from tests.builders import MACHINE, epoch_done, evaluation_record, sweep_record, trial_record

CONFIGS: tuple[dict[str, Any], ...] = (
    {
        "assignment": {"name": "o2f", "k": 9, "alpha": 0.8},
        "seed": 3,
        "data": {"scales": [640, 800], "extra": {}},
        "training": {"lr": 1, "ema": True, "seed": None},
        "mixed": 1,
        "big": 2**70,
    },
    {
        "assignment": {"name": "poto", "alpha": 0.5},
        "seed": 4,
        "data": {"scales": [512], "extra": {}},
        "training": {"lr": 0.5, "ema": False, "seed": None},
        "mixed": "one",
        "big": 1,
    },
)


def trial(index: int) -> TrialRecord:
    config = CONFIGS[index]
    name = config["assignment"]["name"]
    return trial_record(f"{index:012x}", config=config, assignment=name, seed=3 + index)


def evaluation(index: int, epoch: int, **more: float | None) -> EvaluationRecord:
    return evaluation_record(
        f"{index:012x}",
        epoch,
        metrics={"ap": 10.0 * index + epoch, "ap_nms": 50.1, "gap": -1.0 / 3.0, **more},
        classes=(ClassGap("cat", 1.0, 2.0, -1.0), ClassGap("été", None, None, None)),
        candidates=f"/c/{epoch}" if epoch == 2 else "",
        matches=f"/m/{epoch}" if epoch == 2 else "",
        rule={"nms_iou": 0.6} if index else {},
    )


LOSSES: dict[str, Any] = {
    "losses": {"o2o.cls": 0.1, "o2o.box": 1 / 3},
    "positives": {f"o2o.{name}": n / 8 for n, name in enumerate(POSITIVES)},
    "earlier": {1: {"o2o.cls": 0.7}, 3: {"o2o.cls": 0.6}},
    "earlier_positives": {
        1: {f"{branch}.{name}": 2.0 for branch in ("o2o", "o2m") for name in POSITIVES},
        3: {},
    },
    "checkpoint": "",
}


def fill(ledger: Ledger) -> None:
    """Add trial 0 to sweep one and trial 1 to sweep two, with different metrics."""
    for sweep, index in (("one", 0), ("two", 1)):
        record = sweep_record(f"{sweep}-00000001", trial(index), name=sweep)
        ledger.add_sweep(record)
        attempt = ledger.start_attempt(Claim(trial(index).id, record.id, machine=MACHINE))
        if index:
            ledger.record_epoch(epoch_done(trial(1).id, 2, **LOSSES), attempt)
        for epoch in (1, 2):
            more = {"mmr": 40.5, "ap_small": None} if index and epoch == 2 else {"ar": 7.25}
            ledger.record(evaluation(index, epoch, **more), attempt)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    with Ledger.open(Home(tmp_path / "home").ledger_url) as opened:
        fill(opened)
        yield opened


def test_trials(ledger: Ledger, tmp_path: Path) -> None:
    counts = export(ledger, tmp_path / "out")
    assert counts == dict(
        zip((tmp_path / "out" / name for name in module.FILES), (2, 4, 8, 4, 3, 0), strict=True)
    )
    table = pq.read_table(tmp_path / "out/trials.parquet")
    columns = table.to_pydict()
    assert columns["id"] == [trial(0).id, trial(1).id]
    assert columns["assignment"] == columns["config.assignment.name"] == ["o2f", "poto"]
    assert columns["seed"] == columns["config.seed"] == [3, 4]
    assert columns["state"] == ["running", "running"]
    assert [json.loads(text) for text in columns["config"]] == list(CONFIGS)
    assert columns["config.assignment.k"] == [9, None]
    assert columns["config.assignment.alpha"] == [0.8, 0.5]
    assert columns["config.training.lr"] == [1.0, 0.5]
    assert columns["config.training.ema"] == [True, False]
    assert columns["config.training.seed"] == [None, None]
    assert columns["config.data.scales"] == ["[640, 800]", "[512]"]
    assert columns["config.data.extra"] == ["{}", "{}"]
    assert columns["config.mixed"] == ["1", '"one"']
    assert columns["config.big"] == [str(2**70), "1"]
    types = {field.name: field.type for field in table.schema}
    assert types["config.training.lr"] == pa.float64()
    assert types["config.assignment.k"] == types["seed"] == pa.int64()
    assert types["config.training.ema"] == pa.bool_()
    assert types["created_at"] == pa.timestamp("us", "UTC")
    first = columns["created_at"][0]
    assert abs((datetime.now(UTC) - first).total_seconds()) < 3600
    assert first == next(ledger.all_trials()).created_at


def test_evaluations(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/evaluations.parquet")
    columns = table.to_pydict()
    assert columns["trial"] == [trial(0).id] * 2 + [trial(1).id] * 2
    assert columns["epoch"] == [1, 2, 1, 2]
    assert columns["ap"] == [1.0, 2.0, 11.0, 12.0]
    assert columns["gap"] == [-1 / 3] * 4
    assert columns["ar"] == [7.25, 7.25, 7.25, None]
    assert columns["mmr"] == [None, None, None, 40.5]
    assert columns["ap_small"] == [None] * 4
    assert columns["is_primary"] == [True] * 4
    assert columns["candidates"] == [None, "/c/2"] * 2
    assert columns["matches"] == [None, "/m/2"] * 2
    # The rule of a protocol holds for all its evaluations, even if only one was recorded with it.
    assert {json.loads(rule)["nms_iou"] for rule in columns["rule"]} == {0.6}
    times = [each.created_at for each in ledger.all_evaluations()]
    assert columns["created_at"] == times
    metrics = {"ap", "ap_nms", "gap", "ar", "mmr", "ap_small"}
    assert {table.schema.field(name).type for name in metrics} == {pa.float64()}
    own = {"trial", "epoch", "branch", "protocol", "truth", "is_primary", "attempt", "rule"}
    assert set(columns) == metrics | own | {"candidates", "matches", "created_at"}


def test_classes_in_several_row_groups(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_FETCHED", 1)  # evaluations at a time, of two classes each
    monkeypatch.setattr(module, "_ROWS", 3)
    export(ledger, tmp_path / "out")
    path = tmp_path / "out/classes.parquet"
    assert pq.ParquetFile(path).num_row_groups == 2
    assert pq.ParquetFile(tmp_path / "out/evaluations.parquet").num_row_groups == 2
    columns = pq.read_table(path).to_pydict()
    assert columns["class"] == ["cat", "été"] * 4
    assert columns["epoch"] == [1, 1, 2, 2] * 2
    assert columns["ap"] == [1.0, None] * 4
    assert columns["ap_nms"] == [2.0, None] * 4
    assert columns["gap"] == [-1.0, None] * 4


@pytest.mark.parametrize("fetched", [1, 1000])
def test_a_metric_without_a_value_has_a_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: int
) -> None:
    monkeypatch.setattr(streams, "_PLAIN", fetched)
    metrics: list[dict[str, float | None]] = [{"ap50": None}, {"ap75": 1.5}, {"ap75": None}]
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        record = sweep_record("one-00000001", trial(0), name="one")
        ledger.add_sweep(record)
        attempt = ledger.start_attempt(Claim(trial(0).id, record.id, machine=MACHINE))
        for epoch, more in enumerate(metrics, 1):
            ledger.record(evaluation(0, epoch, **more), attempt)
        columns = module.evaluations_table(ledger).to_pydict()
    assert columns["ap50"] == [None, None, None]
    assert columns["ap75"] == [None, 1.5, None]
    assert "ar" not in columns


def test_losses(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path)
    assert pq.read_table(tmp_path / "losses.parquet").to_pylist() == [
        {"trial": trial(1).id, "epoch": epoch, "loss": name, "value": value}
        for epoch, name, value in (
            *((1, "o2o.cls", 0.7), (2, "o2o.cls", 0.1), (2, "o2o.box", 1 / 3)),
            (3, "o2o.cls", 0.6),
        )
    ]


def test_positives(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path)
    key = {"trial": trial(1).id}
    assert pq.read_table(tmp_path / "positives.parquet").to_pylist() == [
        key | {"epoch": 1, "branch": "o2o"} | dict.fromkeys(POSITIVES, 2.0),
        key | {"epoch": 1, "branch": "o2m"} | dict.fromkeys(POSITIVES, 2.0),
        key | {"epoch": 2, "branch": "o2o"} | {n: i / 8 for i, n in enumerate(POSITIVES)},
    ]


def test_one_sweep(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path, "one")
    assert pq.read_table(tmp_path / "trials.parquet")["id"].to_pylist() == [trial(0).id]
    evaluations = pq.read_table(tmp_path / "evaluations.parquet")
    assert evaluations["trial"].to_pylist() == [trial(0).id] * 2
    assert "mmr" not in evaluations.schema.names
    assert pq.read_table(tmp_path / "classes.parquet").num_rows == 4
    assert pq.read_table(tmp_path / "losses.parquet").num_rows == 0
    assert pq.read_table(tmp_path / "positives.parquet").num_rows == 0
    with pytest.raises(UserError, match="nine"):
        export(ledger, tmp_path / "other", "nine")
    assert not (tmp_path / "other").exists()


def test_an_empty_ledger(tmp_path: Path) -> None:
    with Ledger.open(f"sqlite:///{tmp_path / 'empty.db'}") as ledger:
        counts = export(ledger, tmp_path / "out")
    assert list(counts.values()) == [0] * len(module.FILES)
    for name in module.FILES:
        assert pq.read_table(tmp_path / "out" / name).num_rows == 0


def test_existing_files_are_not_replaced_without_force(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "trials.parquet").write_text("mine")
    (tmp_path / "classes.parquet").write_text("mine")
    with pytest.raises(UserError) as error:
        export(ledger, tmp_path)
    assert error.value.problems == tuple(
        f"{tmp_path / name}: already exists; --force replaces it"
        for name in ("trials.parquet", "classes.parquet")
    )
    assert not (tmp_path / "evaluations.parquet").exists()
    assert (tmp_path / "trials.parquet").read_text() == "mine"
    export(ledger, tmp_path, force=True)
    assert pq.read_table(tmp_path / "trials.parquet").num_rows == 2


def test_a_folder_that_cannot_be_created(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/losses\.parquet: can't be written"):
        export(ledger, tmp_path / "file")


@pytest.fixture
def gaplab(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs gaplab: exit code, standard output and standard error."""
    monkeypatch.setenv("GAPLAB_HOME", str(tmp_path / "home"))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gaplab", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return (int(stop.value.code or 0), *capsys.readouterr())

    return run


ROWS = ("1 row", "2 rows", "4 rows", "4 rows", "3 rows", "0 rows")
"""What each file of the sweep `two` has."""


def test_the_command(gaplab: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = tmp_path / "my files"
    lines = [f"{out / name}: {rows}\n" for name, rows in zip(module.FILES, ROWS, strict=True)]
    assert gaplab("export", out, "--sweep", "two") == (0, "".join(lines), "")
    code, said, complaint = gaplab("export", out)
    assert (code, said) == (2, "")
    assert complaint.count("already exists; --force replaces it\n") == len(ROWS)
    assert gaplab("export", out, "--force")[0] == 0
    assert pq.read_table(out / "trials.parquet").num_rows == 2
