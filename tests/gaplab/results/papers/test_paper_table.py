"""Lines of a paper's table, from a ledger with recorded evaluations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.records import Claim
from gaplab.results.papers.paper_table import (
    TABLE_METRICS,
    Line,
    PaperRow,
    check_metrics,
    plain_line,
    published_metrics,
    read_paper,
    table_lines,
)
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, row_records
from gaplab.states import TrialState
from tests.builders import MACHINE, attempt_end, evaluation_record

EXPERIMENTS = Path(__file__).parents[4] / "experiments"
BASE: dict[str, Any] = {
    "data": {"name": "shapes"},
    "detector": {"name": "fcos"},
    "assignment": {"name": "poto"},
    "training": {"epochs": 3},
}
ROWS: dict[str, Any] = {"b": {"assignment": {"name": "fcos"}}, "a": {}, "same": {}}
SEEDS = {"seed": [0, 1]}


class Bench:
    """A ledger, and the lines of specs with rows."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger.open(url)
        self.attempts: dict[str, int] = {}

    def spec(self, rows: dict[str, Any], **keys: Any) -> Spec:
        found = Spec.model_validate({"name": "test", "base": BASE, "rows": rows, **keys})
        self.sweep = expand(resolve(found))
        self.ledger.add_sweep(self.sweep)
        return found

    def ids(self, spec: Spec, row: str) -> list[str]:
        return [trial.id for trial in row_records(resolve(spec))[row]]

    def measure(self, trial: str, ap: float, ap_nms: float, end: bool = True, **key: Any) -> None:
        """Record one evaluation, by default of the last epoch, primary branch, default protocol."""
        if trial not in self.attempts:
            claim = Claim(trial, self.sweep.id, machine=MACHINE)
            self.attempts[trial] = self.ledger.start_attempt(claim)
        metrics = {"ap": ap, "ap_nms": ap_nms, "gap": ap - ap_nms, **key.pop("more", {})}
        record = evaluation_record(trial, **{"epoch": 3, "metrics": metrics, **key})
        self.ledger.record(record, self.attempts[trial])
        if end:
            self.ledger.end_attempt(self.attempts[trial], attempt_end(TrialState.SUCCEEDED))

    def lines(self, spec: Spec, **paper: dict[str, float]) -> dict[str, Line]:
        rows = {id_: PaperRow(id=id_, row=id_.upper(), metrics=m) for id_, m in paper.items()}
        return {
            line.row: line
            for line in table_lines(spec, row_records(resolve(spec)), rows, self.ledger)
        }


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.ledger.close()


def numbers(line: Line) -> tuple[float | None, ...]:
    return tuple(line.ours(metric) for metric in TABLE_METRICS)


def test_means_over_the_trials_of_a_row_in_the_order_of_the_spec(bench: Bench) -> None:
    spec = bench.spec(ROWS, grid=SEEDS)
    first, second = bench.ids(spec, "a")
    bench.measure(first, 30.0, 32.0)
    bench.measure(second, 31.0, 31.5)
    lines = bench.lines(spec, a={"ap": 38.0, "ap_nms": 38.6})
    assert list(lines) == ["b", "a", "same"]
    assert numbers(lines["a"]) == numbers(lines["same"]) == (30.5, 31.75, -1.25)
    assert (len(lines["a"].found), len(lines["a"].trials)) == (2, 2)
    papers = [lines["a"].papers(metric) for metric in TABLE_METRICS]
    assert papers == [38.0, 38.6, -0.6]
    assert lines["same"].papers("ap") is None
    missing = lines["b"]
    assert numbers(missing) == (None, None, None)
    assert list(missing.untrained) == bench.ids(spec, "b")
    assert lines["a"].untrained == lines["a"].unmeasured == missing.unmeasured == ()


def test_a_row_of_which_one_seed_is_measured(bench: Bench) -> None:
    spec = bench.spec(ROWS, grid=SEEDS)
    first, second = bench.ids(spec, "a")
    bench.measure(second, 20.0, 30.0)
    line = bench.lines(spec)["a"]
    assert numbers(line) == (20.0, 30.0, -10.0)
    assert (len(line.found), len(line.trials), line.untrained) == (1, 2, (first,))


def test_a_running_trial_counts_as_untrained(bench: Bench) -> None:
    spec = bench.spec(ROWS)
    (trial,) = bench.ids(spec, "a")
    bench.measure(trial, 10.0, 20.0, epoch=2, end=False)
    line = bench.lines(spec)["a"]
    assert (numbers(line), line.untrained) == ((None, None, None), (trial,))
    bench.measure(trial, 30.0, 31.0)
    assert numbers(bench.lines(spec)["a"]) == (30.0, 31.0, -1.0)


def test_rows_of_one_trial_read_in_different_ways(bench: Bench) -> None:
    rows: dict[str, Any] = {
        "plain": {},
        "defcn": {"read.protocol": "defcn"},
        "local": {"read.protocol": {"spatial_range": 3, "level_range": 0}},
        "o2m": {"read.branch": "o2m"},
        "early": {"read.epoch": 1},
        "all": {"read.epoch": 1, "read.branch": "o2m", "read.protocol": "defcn"},
        "never": {"read.epoch": 2},
    }
    spec = bench.spec(rows)
    (trial,) = bench.ids(spec, "plain")
    local = bench.lines(spec)["local"].protocols[0]
    assert local.startswith("custom-")
    keys: dict[str, dict[str, Any]] = {
        "plain": {},
        "defcn": {"protocol": "defcn"},
        "local": {"protocol": local},
        "o2m": {"branch": "o2m", "primary": False},
        "early": {"epoch": 1},
        "all": {"epoch": 1, "branch": "o2m", "primary": False, "protocol": "defcn"},
    }
    for ap, key in enumerate(keys.values()):
        bench.measure(trial, float(ap), 50.0, end=False, **key)
    bench.measure(trial, 0.0, 50.0)
    lines = bench.lines(spec)
    assert {row: lines[row].ours("ap") for row in keys} == {
        row: float(ap) for ap, row in enumerate(keys)
    }
    never = lines["never"]
    assert (never.found, never.untrained, never.unmeasured) == ((), (), (trial,))


def test_a_given_epoch_is_read_before_training_ends(bench: Bench) -> None:
    spec = bench.spec({"early": {"read.epoch": 1}})
    (trial,) = bench.ids(spec, "early")
    bench.measure(trial, 5.0, 6.0, epoch=1, end=False)
    assert bench.lines(spec)["early"].ours("ap") == 5.0


def test_the_default_is_the_protocol_of_the_trials(bench: Bench) -> None:
    spec = bench.spec({"a": {}, "b": {"evaluation.protocol": "date"}})
    (a,), (b,) = bench.ids(spec, "a"), bench.ids(spec, "b")
    bench.measure(a, 1.0, 2.0)
    bench.measure(b, 3.0, 4.0, protocol="date")
    lines = bench.lines(spec)
    assert {row: line.protocols for row, line in lines.items()} == {
        "a": ("default",),
        "b": ("date",),
    }
    assert (lines["a"].ours("ap"), lines["b"].ours("ap")) == (1.0, 3.0)


def test_protocols_are_never_mixed(bench: Bench) -> None:
    grid = {"evaluation.protocol": ["default", "date"]}
    spec = bench.spec({"a": {}, "b": {"seed": 1}}, grid=grid)
    with pytest.raises(UserError) as caught:
        bench.lines(spec)
    assert caught.value.problems == tuple(
        f"rows.{row}: its trials are measured under default and date; choose one in read.protocol"
        for row in "ab"
    )
    rows = {row: {"seed": i, "read.protocol": "date"} for i, row in enumerate("ab")}
    assert bench.lines(bench.spec(rows, grid=grid))["a"].protocols == ("date",)


def test_a_row_without_trials(bench: Bench) -> None:
    spec = bench.spec({"a": {"seed": 1}, "b": {"seed": 2}}, exclude=[{"seed": 1}])
    line = bench.lines(spec, a={"ap": 1.0})["a"]
    assert (line.trials, line.protocols, line.found, line.untrained) == ((), (), (), ())
    assert plain_line(line, TABLE_METRICS)["protocol"] is None


def test_metrics_are_known_from_the_paper_or_the_ledger(bench: Bench) -> None:
    spec = bench.spec(ROWS, grid=SEEDS)
    lines = [*bench.lines(spec).values()]
    check_metrics(lines, ["anything"])  # nothing is known yet
    first, second = bench.ids(spec, "a")
    bench.measure(first, 30.0, 32.0, more={"mmr": 50.0, "ar": 60.0, "ap_small": None})
    bench.measure(second, 30.0, 32.0, more={"mmr": 52.0})
    found = bench.lines(spec, a={"fps": 9.0, "mmr": 49.0, "mmr_nms": 48.0})
    check_metrics([*found.values()], ["mmr", "fps", "mmr_gap", "ar", "ap75", "ap_small"])
    line = found["a"]
    assert (line.ours("mmr"), line.ours("ar"), line.ours("ap_small")) == (51.0, None, None)
    assert (line.papers("mmr_gap"), line.ours("fps"), line.papers("fps")) == (1.0, None, 9.0)
    with pytest.raises(UserError) as caught:
        check_metrics([*found.values()], ["mmmr", "ap"])
    assert caught.value.problems[0].startswith("mmmr: no such key; did you mean mmr")
    assert len(caught.value.problems) == 1


def test_plain_line(bench: Bench) -> None:
    spec = bench.spec({"a": {"read.branch": "o2o"}, "b": {"seed": 1}}, grid={"training.batch": [4]})
    (trial,), (other,) = bench.ids(spec, "a"), bench.ids(spec, "b")
    bench.measure(trial, 30.123456, 31.0, more={"ar": 60.0})
    lines = bench.lines(spec, a={"ap": 38.0, "ar": 61.5})
    assert plain_line(lines["a"], (*TABLE_METRICS, "ar")) == {
        **{"row": "a", "paper_row": "A", "trials": [trial], "found": 1, "asked": 1},
        **{"protocol": "default", "branch": "o2o", "epoch": 3},
        **{"ap": 30.123456, "paper_ap": 38.0, "ap_nms": 31.0, "paper_ap_nms": None},
        **{"gap": 30.123456 - 31.0, "paper_gap": None, "ar": 60.0, "paper_ar": 61.5},
    }
    empty = plain_line(lines["b"], TABLE_METRICS)
    assert (empty["paper_row"], empty["trials"], empty["found"]) == (None, [other], 0)
    assert empty["branch"] is empty["epoch"] is empty["ap"] is None


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"ap": 1, "ap_nms": 2}, ()),
        ({"ap": 1, "ap50": 2, "ar": 3, "ar_nms": 4}, ("ap50", "ar", "ar_nms")),
        ({"ap_nms": 1, "aps_nms": 2, "apl_nms": 3}, ("ap_small_nms", "ap_large_nms")),
        ({"ap50": 90, "recall": 98, "mmr": 49}, ("mmr", "recall")),  # its AP50 is shown as AP
        ({"ap50_nms": 90, "recall_nms": 95, "mmr_nms": 49}, ("mmr_nms", "recall_nms")),
        ({"recall_nms": 95}, ("recall_nms",)),
        ({"ap": 1, "fps": 80, "params_m": 32}, ()),  # not measured
    ],
)
def test_what_a_paper_publishes_beside_ap(
    bench: Bench, metrics: dict[str, float], expected: tuple[str, ...]
) -> None:
    lines = bench.lines(bench.spec(ROWS), a=metrics)
    assert published_metrics([*lines.values()]) == expected


def test_every_published_number_that_is_measured_is_shown() -> None:
    """AP50 of rows without AP is shown as AP."""
    for row in read_paper(EXPERIMENTS / "paper_results.json").values():
        shown = {row.number(name) for name in (*TABLE_METRICS, *row.published())}
        others = ("fps", "forward_ms", "nms_ms", "params", "gflops", "train_hours")
        measured = [v for name, v in row.metrics.items() if not name.startswith(others)]
        assert shown.issuperset(measured)
