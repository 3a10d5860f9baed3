"""Tables on terminals of every width: a number appears whole, or its column is named as left out.

The properties are checked on every table that a command prints; `test_every_table_is_checked` looks
for others.
"""

import ast
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import gaplab
import gaplab.cli
from detectors.cost import ModelCost
from detectors.data.base import Split
from detectors.data.summary import Counts
from detectors.engine import PARTS
from detectors.evaluation.crowding import Crowding
from detectors.evaluation.diagnosis import Diagnosis, Duplicates, GapStep
from detectors.evaluation.metrics import POSITIVES, ClassGap
from detectors.evaluation.score_gap import ScoreGap
from gaplab.cli import use
from gaplab.cli.bench import steps_table
from gaplab.cli.evaluate import print_explanation, protocols_table, reevaluations_table
from gaplab.cli.jobs import print_status
from gaplab.cli.live_table import LiveTable
from gaplab.cli.perceptron import outcome_table
from gaplab.cli.plan import Plan, print_models, print_plan
from gaplab.cli.render import measurements
from gaplab.cli.render.comparison import compare_table, curves_table, effects_table
from gaplab.cli.render.datasets import class_table, crowding_table, split_table
from gaplab.cli.render.tables import leaderboard_table
from gaplab.cli.render.tabular import (
    Column,
    PlainTable,
    fitted,
    number,
    plain_table,
    text,
    width_of,
)
from gaplab.cli.render.terminal import FULL, PlainConsole
from gaplab.cli.show import (
    SweepDetails,
    TrialDetails,
    _print_measurements,
    print_details,
    print_sweeps,
)
from gaplab.cli.table import PaperTable, _coverage_table, output_of
from gaplab.launch.costs import DetectorCost, Estimate
from gaplab.ledger.views import MeasurementView, SweepView
from gaplab.records import Cost, EpochDone, Started, StepDone, TrialRecord
from gaplab.results.candidates.explain import Explanation
from gaplab.results.comparison.compare import Group, Stat, compare
from gaplab.results.comparison.effects import main_effects
from gaplab.results.intervals import Difference, Interval
from gaplab.results.measurement.heads import compare_heads
from gaplab.results.measurement.measure import Measured
from gaplab.results.papers.coverage import Kind, PublishedTable
from gaplab.results.papers.paper_table import Line, PaperRow
from gaplab.results.papers.perceptron import METRICS as PERCEPTRON_METRICS
from gaplab.results.papers.perceptron import Outcome
from gaplab.results.status import Running, Status
from gaplab.spec.models import Reading
from gaplab.spec.varied import varied_keys
from gaplab.states import TrialState
from gaplab.trial.speed.loading import LoadingSpeed
from gaplab.trial.speed.machine import MachineSpeed
from gaplab.trial.speed.steps import Load, StepSpeed
from tests.builders import (
    MACHINE,
    NOW,
    attempt_view,
    evaluation_record,
    evaluation_view,
    leaderboard_row,
    measurement_record,
    sweep_record,
    trial_record,
    trial_view,
)
from tests.examples import examples
from tests.gaplab.results.measurement.foreign import write_foreign

ROOT = Path(gaplab.cli.__file__).parent
NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.])")
FRACTION = re.compile(r"\S*/\S*")


@dataclass(frozen=True)
class Draw:
    """What tables show: a word without digits, four numbers, and a whole number."""

    word: str
    numbers: tuple[float, float, float, float]
    whole: int

    def metrics(self, *names: str) -> dict[str, Any]:
        return {name: self.numbers[i % 4] for i, name in enumerate(names)}


class Recorder(PlainConsole):
    """A console that collects the tables printed to it."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=FULL)
        self.tables: list[PlainTable] = []

    def print(self, *objects: Any, **settings: Any) -> None:
        self.tables += [each for each in objects if isinstance(each, PlainTable)]


def printed(page: Callable[[Recorder], None]) -> list[PlainTable]:
    recorder = Recorder()
    page(recorder)
    return recorder.tables


COCO = ("ap", "ap_nms", "gap", "ar", "ar_nms", "ap_small", "ap_small_nms", "ap_small_gap")
CROWD = ("ap", "ap_nms", "gap", "mmr", "mmr_nms", "recall", "recall_nms")


def leaderboards(d: Draw) -> list[PlainTable]:
    rows = [
        leaderboard_row(
            "abcdefab",
            assignment=d.word,
            dataset=data,
            seed=d.whole,
            epoch=d.whole,
            epochs=d.whole + 1,
            stale=True,
            more=d.metrics("mmr", "recall", "positives_per_object"),
            **d.metrics("ap", "ap_nms", "gap", "ar"),
        )
        for data in ("shapes", d.word)
    ]
    return [leaderboard_table(rows, ["positives_per_object", "ap_small"])]


def comparisons(d: Draw) -> list[PlainTable]:
    spread = Interval(min(d.numbers), max(d.numbers))
    stats: dict[Any, Stat] = {
        name: Stat(value, abs(value), spread, Difference(value, spread))
        for name, value in zip(("ap", "ap_nms", "gap", "ar"), d.numbers, strict=False)
    }
    group = Group(
        keys={"assignment": d.word, "training.learning_rate": d.numbers[0]},
        dataset=d.word,
        protocol="default",
        epoch=d.whole,
        epochs=d.whole,
        results_version=1,
        stale=True,
        trials=(leaderboard_row(),) * 3,
        unfinished=d.whole,
        stats=stats,
        over="seeds",
        to_baseline_over="images",
    )
    both = [group, replace(group, dataset="other")]
    return [compare_table(both), curves_table(both, "gap")]


def grids(d: Draw) -> list[PlainTable]:
    rows = [
        leaderboard_row(
            assignment=f"{d.word}{i % 2}",
            seed=i,
            ap=value,
            config={"lr": d.numbers[i // 2], "assignment": {"name": d.word}},
        )
        for i, value in enumerate(d.numbers)
    ]
    return [effects_table(grid) for grid in main_effects(compare(rows, ["assignment", "lr"]))]


def results(d: Draw) -> list[PlainTable]:
    return leaderboards(d) + comparisons(d)


def sweep(d: Draw) -> SweepView:
    counts = dict.fromkeys(TrialState, d.whole)
    return SweepView(id=d.word, name="s", spec="name: s\n", created_at=NOW, counts=counts)


def sweeps(d: Draw) -> list[PlainTable]:
    trials = [trial_view("abcdefab", assignment=d.word, seed=d.whole, epochs=d.whole)]
    return [
        *printed(lambda console: print_sweeps([sweep(d)], console)),
        *printed(lambda console: print_details(SweepDetails(sweep(d), trials), console)),
    ]


def trials(d: Draw) -> list[PlainTable]:
    classes = [ClassGap(d.word, *d.numbers[:3]), ClassGap("star", None, None, None)]
    seconds: dict[str, Any] = dict.fromkeys(
        ("wall_seconds", "cpu_seconds", "gpu_seconds"), float(d.whole)
    )
    code = {"commit": "abcdefab", "dirty": True, "sources": "a"}
    attempts = [
        attempt_view(
            number=d.whole,
            node=d.word,
            device=d.word,
            peak_memory_mib=abs(d.numbers[0]),
            provenance={"code": code},
            **seconds,
        )
    ]
    found = [
        evaluation_view(epoch=d.whole, metrics=d.metrics(*COCO), classes=classes),
        evaluation_view(epoch=d.whole, protocol="crowdhuman", metrics=d.metrics(*CROWD)),
    ]
    config = {"evaluation": {"protocol": {"preset": "default"}}}
    losses = {d.whole: {"o2o.cls": d.numbers[0], "total": d.numbers[1]}}
    positives = {d.whole: {f"o2o.{name}": abs(d.numbers[0]) for name in POSITIVES}}
    whole = attempts, found, losses, positives
    details = TrialDetails(trial_view("abcdefab", config=config), *whole)
    return printed(lambda console: print_details(details, console))


def papers(d: Draw) -> list[PlainTable]:
    row = leaderboard_row("abcdefab", **d.metrics("ap", "ap_nms", "gap"))
    theirs = {"ap": d.numbers[0], "ap_nms": d.numbers[-1]}
    lines = [
        Line(
            d.word,
            Reading(),
            (protocol,),
            (trial_record("abcdefab"),),
            PaperRow(id="a", row=d.word, metrics=theirs),
            (row,),
        )
        for protocol in ("default", "defcn")
    ]
    made = PaperTable(lines, ("ap", "ap_nms", "gap"), True, ("ar", "recall_nms"))
    return [*output_of(made).tables]


def coverages(d: Draw) -> list[PlainTable]:
    kinds: dict[str, Kind] = {d.word: "trained", "other": "left out"}
    return [_coverage_table([PublishedTable(d.word, "T1", kinds, (d.word,), (d.word, "x"))])]


def swept(d: Draw) -> list[TrialRecord]:
    """Return two trials that differ in a number and in a text."""
    values: list[dict[str, Any]] = [
        {"name": d.word, "option": d.whole, "words": d.word},
        {"name": d.word, "option": 0, "words": None},
    ]
    configs = [{"assignment": each, "seed": d.whole} for each in values]
    changes = {"assignment": d.word, "seed": d.whole, "epochs": d.whole}
    return [trial_record(f"abcdefa{n}", config=c, **changes) for n, c in enumerate(configs)]


def plans(d: Draw) -> list[PlainTable]:
    plan = Plan(sweep_record("s", *swept(d)), {}, Estimate(1, 1, 1, 0, 0, 0, 0))
    return printed(lambda console: print_plan(plan, console, 20))


def models(d: Draw) -> list[PlainTable]:
    cost = ModelCost(d.whole, d.whole, d.whole * 12345)
    line = DetectorCost((d.word,), d.word, (800, 1280), cost, cost)
    return printed(lambda console: print_models([line], console))


def statuses(d: Draw) -> list[PlainTable]:
    trials = [trial_view(**vars(each)) for each in swept(d)]
    attempt = attempt_view(number=d.whole, node=d.word)
    evaluation = evaluation_view(metrics=d.metrics("ap", "gap"))
    running = tuple(Running(each, attempt, evaluation) for each in trials)
    varied = tuple(varied_keys(each.config for each in trials))
    found = Status(sweep(d), NOW, (), running, (), "", varied=varied)
    return printed(lambda console: print_status(found, console, json=False))


def live(d: Draw) -> list[PlainTable]:
    first, trial = swept(d)
    table = LiveTable([first, trial], Recorder())
    table(Started(trial.id, MACHINE, 0))
    table.add_steps([StepDone(trial.id, 1, 1, d.whole + 1, abs(d.numbers[0]))])
    evaluation = evaluation_record(trial.id, metrics=d.metrics("ap", "ap_nms", "gap"))
    table(EpochDone(trial.id, 1, d.whole, {}, (evaluation,), "", Cost()))
    return [table.table()]


def explanations(d: Draw) -> list[PlainTable]:
    first = abs(d.numbers[0])
    steps = tuple(GapStep(d.word, each, each) for each in d.numbers)
    gap = ScoreGap(1, 0.5, None, None, 0.5, (), (d.whole, 0, 1))
    diagnosis = Diagnosis(
        gap, (Duplicates(0.5, first, first),), first, first, steps, d.whole % 2 == 0
    )
    found = Explanation("abcdefab", "a", "b", 1, "o2o", "default", {}, None, diagnosis)
    return printed(lambda console: print_explanation(found, console))


def reevaluations(d: Draw) -> list[PlainTable]:
    found = [evaluation_view("abcdefab", n, metrics=d.metrics(*CROWD)) for n in (1, d.whole + 2)]
    return [reevaluations_table(found, {"abcdefab": d.word})]


def datasets(d: Draw) -> list[PlainTable]:
    n = d.whole
    counts = Counts(n, n, n, n, n, n, n, {d.word: n, "other": 1})
    splits: dict[Split, Counts] = {"train": counts, "val": counts}
    iou = {0.1: abs(d.numbers[0]), 0.5: 1.0}
    crowded: dict[Split, Crowding] = {"train": Crowding(iou, abs(d.numbers[0]))}
    return [split_table(splits), class_table(splits), crowding_table(crowded, 0.6)]


def protocols(d: Draw) -> list[PlainTable]:
    whole = {"nms_iou": round(abs(d.numbers[0]), 2), "max_dets": d.whole % 10**6}
    return [protocols_table({"default": whole, d.word: {**whole, "max_dets": 1}})]


@cache
def two_heads() -> tuple[Measured, Measured]:
    """Two real measurements: many numbers of every kind that the tables show."""
    with TemporaryDirectory() as folder:
        files = write_foreign(Path(folder))
        first, second = (
            gaplab.measure(path, files.truth, resamples=10) for path in (files.o2m, files.o2o)
        )
    return first, second


def measured_pages(d: Draw) -> list[PlainTable]:
    first, second = two_heads()
    gap = replace(first.summary.gap, metrics=d.metrics(*first.summary.gap.metrics))
    drawn = replace(first, summary=replace(first.summary, gap=gap))
    reports = [measurements.metrics_table(drawn), measurements.protocols_table([drawn, second])]
    heads = measurements.heads_table(compare_heads(first, second))
    return [*reports, *measurements.tables(second), heads]


def stored_measurements(d: Draw) -> list[PlainTable]:
    record = measurement_record(name=d.word, metrics=d.metrics("ap", "ap_nms", "gap", "ar"))
    view = MeasurementView(**vars(record), created_at=NOW)
    return printed(lambda console: _print_measurements([view, view], console, json=False))


def pictures(d: Draw) -> list[PlainTable]:
    boxes = range(d.whole % 10**6)
    found: Any = [SimpleNamespace(path=d.word, without=boxes, with_nms=boxes[:1])]

    def page(console: Recorder) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(use, "open_console", lambda: console)
            use._print_counts(found, None, 0, ())

    return printed(page)


def perceptrons(d: Draw) -> list[PlainTable]:
    course: Any = None
    outcome = Outcome(course, d.metrics(*PERCEPTRON_METRICS))
    return [outcome_table({"row": {0: outcome}, "other": {0: outcome}})]


def speeds(d: Draw) -> list[PlainTable]:
    def step(precision: str, share: float | None) -> StepSpeed:
        parts = dict.fromkeys(PARTS, 0.2)
        return StepSpeed(
            d.word,
            precision,
            True,
            d.numbers[0],
            2,
            parts,
            1,
            {},
            d.whole,
            d.numbers[1],
            share,
            9.0,
        )

    steps = (step("fp32", None), step("bf16", None), step("bf16", 0.4))
    loading = LoadingSpeed(d.numbers[2], 0, d.whole)
    return [steps_table(MachineSpeed(Load(torch.device("cpu")), steps, loading, {}))]


TABLES: dict[str, Callable[[Draw], list[PlainTable]]] = {
    "bench.steps_table": speeds,
    "datasets.split_table": datasets,
    "datasets.class_table": datasets,
    "datasets.crowding_table": datasets,
    "evaluate.protocols_table": protocols,
    "evaluate.reevaluations_table": reevaluations,
    "evaluate._steps": explanations,
    "score_gap._histogram": explanations,
    "evaluate._duplicates": explanations,
    "jobs._running": statuses,
    "measurements.metrics_table": measured_pages,
    "measurements.thresholds_table": measured_pages,
    "measurements.errors_table": measured_pages,
    "measurements.crowding_table": measured_pages,
    "measurements.protocols_table": measured_pages,
    "measurements.heads_table": measured_pages,
    "show._print_measurements": stored_measurements,
    "varied.trial_table": plans,
    "plan.print_models": models,
    "show.print_sweeps": sweeps,
    "attempts._attempts": trials,
    "show._evaluations": trials,
    "show._print_metrics": trials,
    "show._classes": trials,
    "show._losses": trials,
    "show._positives": trials,
    "table.output_of": papers,
    "table._coverage_table": coverages,
    "comparison.effects_table": grids,
    "tables.captioned": results,
    "use._print_counts": pictures,
    "perceptron.outcome_table": perceptrons,
    "live_table._of": live,
}
"""Every function of a command that makes a table -> the tables of the page that it is part of."""
PAGES = {page.__name__: page for page in TABLES.values()}
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
words = st.text(st.characters(categories=("L", "M", "S", "P"), exclude_characters="/"), min_size=1)
draws = st.builds(
    Draw,
    word=words | st.sampled_from(["a" * 64, "long words " * 9, "自転車と自動車", "שלום", "[red]"]),
    numbers=st.tuples(*[st.floats(-100, 100)] * 4),
    whole=st.integers(1, 10**12) | st.just(2**63),
)
widths = st.integers(1, 200)


def test_every_table_is_checked() -> None:
    made = {
        f"{path.stem}.{function.name}"
        for path in ROOT.rglob("*.py")
        if path.stem != "tabular"
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("plain_table", "PlainTable")
    }
    assert made == TABLES.keys()


def test_only_two_modules_use_the_tables_and_consoles_of_rich() -> None:
    tables = {path.stem for path in ROOT.rglob("*.py") if "rich.table" in path.read_text()}
    made = re.compile(r"\bConsole\(")
    consoles = {path.stem for path in ROOT.rglob("*.py") if made.search(path.read_text())}
    assert (tables, consoles) == ({"tabular"}, {"progress"})


def lines_of(table: PlainTable, width: int, **settings: Any) -> list[str]:
    file = io.StringIO()
    PlainConsole(file=file, width=width, **settings).print(table)
    lines = file.getvalue().splitlines()
    assert all(cell_len(line) <= max(width, 2) for line in lines)  # a wide character needs two
    return lines


def split(lines: list[str]) -> tuple[list[str], set[str]]:
    """Return the lines of the rows, and the names of the columns left out, without blanks."""
    start = next((n for n, line in enumerate(lines) if "──" in line), -1)
    whole = "".join("".join(lines).split())
    _, _, note = whole.partition("noroomfor:")
    names = note.partition(";toseethem:")[0]
    end = next((n for n in range(start + 1, len(lines)) if not lines[n].strip()), len(lines))
    return (lines[start + 1 : end] if start >= 0 else []), set(names.split(",")) - {""}


def numbers_in(texts: Sequence[str]) -> Counter[str]:
    return Counter(number for text in texts for number in NUMBER.findall(text))


def check(table: PlainTable, width: int) -> None:
    """Check that the rows have all numbers of the columns that are not named, and no others."""
    bare = replace(table, title="", caption="")
    rows, named = split(lines_of(bare, width))
    names = {"".join(str(column).split()) for column in table.columns}
    assert named <= names
    kept = [c for c in table.columns if "".join(str(c).split()) not in named]
    assert numbers_in(rows) == numbers_in([cell for column in kept for cell in column.cells])
    assert bool(rows) == bool(kept)


@each_page
@examples(40)
@given(draw=draws, width=widths)
def test_numbers_are_whole_or_their_column_is_named(
    page: Callable[[Draw], list[PlainTable]], draw: Draw, width: int
) -> None:
    for table in page(draw):
        check(table, width)


@each_page
@examples(10)
@given(draw=draws)
def test_what_is_no_terminal_gets_everything_on_one_line_per_row(
    page: Callable[[Draw], list[PlainTable]], draw: Draw
) -> None:
    for table in page(draw):
        rows, named = split(lines_of(table, FULL))
        assert named == set()
        assert len(rows) == len(table.columns[0].cells)
        for column in table.columns:
            for line, cell in zip(rows, column.cells, strict=True):
                assert cell in line


cells = st.sampled_from(["-", "18.3", "-0.3", "12/12", "37.0±11.9", "+1.2 [-2.0, +3.0]*", ""])
columns = st.builds(
    Column,
    heading=st.text("ab._ ", min_size=1, max_size=20),
    numeric=st.just(True),
    rank=st.integers(0, 2),
    marks=st.sampled_from([(), (" [", "±")]),
    cells=st.lists(cells, min_size=2, max_size=2),
)


@examples(50)
@given(found=st.lists(columns, min_size=1, max_size=12), width=widths)
def test_columns_fit_and_keep_their_order(found: list[Column], width: int) -> None:
    found = [replace(column, name=str(n)) for n, column in enumerate(found)]
    kept, gap, left_out = fitted(found, width)
    assert not kept or width_of(kept, gap, 8) <= width
    for part in (kept, left_out):
        assert [int(each.name) for each in part] == sorted(int(each.name) for each in part)
    assert len(kept) + len(left_out) == len(found)
    for each in kept:
        whole = found[int(each.name)]
        unbroken = [cell.replace("\n[", " [").replace("\n", "") for cell in each.cells]
        assert unbroken == whole.cells
    if kept and left_out:
        assert kept[0].name == "0"
        assert max(c.rank for c in kept[1:] or kept) <= min(c.rank for c in left_out)


def test_cells_are_stacked_before_columns_are_left_out() -> None:
    spread = Column("AP NMS", True, cells=["37.0±11.9", "5.0±0.1"], marks=("±",))
    table = PlainTable([text("key", ["a", "b"]), spread, number("n", ["3", "3"], rank=2)])
    shown = ["\n".join(line.strip() for line in lines_of(table, width)) for width in (30, 16, 12)]
    assert "AP NMS" in shown[0]
    assert "37.0±11.9" in shown[0]
    assert [name in shown[1] for name in ("AP NMS", "37.0±11.9", "±11.9", "no room")] == [
        *(False, False, True, False)
    ]
    assert "noroomfor:n;" in "".join(shown[2].split())


def test_text_is_kept_in_columns_of_eight_characters_before_others_are_left_out() -> None:
    table = PlainTable([text("name", ["twelve chars"]), number("n", ["123456"])])
    assert len(split(lines_of(table, 17))[0]) == 2
    assert split(lines_of(table, 16))[1] == {"n"}


HOSTILE = {
    "markup": ("[red]x[/] [link=x]", "[red]x[/] [link=x]"),
    "emoji code": (":bug: :thumbs_up:", ":bug: :thumbs_up:"),
    "control characters": ("a\x1b[31m\r\x08\x07\tb", r"a\x1b[31m\r\x08\x07\tb"),
    "line breaks": ("a\nb\u2028c\x85", r"a\nb\u2028c\x85"),
    "hidden direction": ("a\u202eb\u2066", r"a\u202eb\u2066"),
    "lone surrogate": ("a\udc80", r"a\udc80"),
    "wide": ("自転車🚲", "自転車🚲"),
    "combined": ("e\u0301", "e\u0301"),
}


@pytest.mark.parametrize(("name", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_names_are_shown_as_they_are(name: str, shown: str) -> None:
    table = plain_table([text("class"), number("AP")], [[name, "1.0"], ["x", "22.0"]])
    lines = [line.rstrip() for line in lines_of(table, 80) if line.strip()]
    assert [line.split("  ")[0].strip() for line in lines] == [
        "class",
        lines[1].strip(),
        shown,
        "x",
    ]
    assert len({cell_len(line) for line in lines[2:]}) == 1, "numbers are aligned"
    file = io.StringIO()
    PlainConsole(file=file, width=80).print(f"{name}|")
    assert file.getvalue() == "\n".join(shown.replace(r"\n", "\n").split("\n")) + "|\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_numbers_beside_names_from_right_to_left_keep_their_places(terminal: bool) -> None:
    """A terminal needs a mark before each number; a script must not get any."""
    table = plain_table([text("class"), number("AP")], [["שלום", "1.0"], ["x", "22.0"]])
    lines = lines_of(table, 80, force_terminal=terminal, color_system=None)
    rows = [line for line in lines if re.search(r"\d", line)]
    assert [bool(re.search("\u200e\\d", row)) for row in rows] == [terminal, terminal]
    assert len({cell_len(row) for row in rows}) == 1, "the mark takes no space"


def test_a_table_without_rows_or_without_width_is_no_error() -> None:
    empty = plain_table([text("class"), number("AP")], [])
    assert "class" in lines_of(empty, 80)[1]
    assert split(lines_of(empty, 1)) == ([], {"class", "AP"})
