import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from gaplab.compare import compare
from gaplab.leaderboard import LeaderboardRow
from gaplab.tables import (
    LEADERBOARD_COLUMNS,
    compare_table,
    leaderboard_table,
    to_csv,
    to_json,
)

ROW = LeaderboardRow(
    trial="0123456789ab",
    sweep="one-11",
    sweep_name="one",
    assignment="poto",
    family="o2o",
    dataset="shapes",
    seed=0,
    state="succeeded",
    epoch=12,
    epochs=12,
    branch="o2o",
    protocol="default",
    ap=30.123456,
    ap_nms=31.0,
    gap=-0.876544,
    ap50=50.0,
    ap50_nms=51.0,
    ap75=20.0,
    ap75_nms=21.0,
    ar=45.25,
    ar_nms=45.250001,
    ar_gap=-0.000001,
    results_version=1,
    config={"assignment": {"name": "poto", "alpha": 0.00001}, "list": [1, 2]},
    stale=False,
    chosen="last",
)
RUNNING = replace(ROW, trial="1", seed=1, epoch=3, state="running")
STALE = replace(ROW, trial="2", seed=2, results_version=0, stale=True, gap=0.04)
WIDEST = replace(
    ROW,
    assignment="a_rather_long_name_of_an_assignment",
    dataset="crowdhuman-visible",
    seed=123456,
    epoch=150,
    epochs=300,
    ap=100.0,
    ap_nms=100.0,
    gap=-100.0,
    ar=100.0,
)


def drawn(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in text.splitlines()) <= width
    return text


class TestJson:
    def test_leaderboard(self) -> None:
        [found] = json.loads(to_json([ROW]))
        assert tuple(found) == LEADERBOARD_COLUMNS
        assert found["trial"] == "0123456789ab"
        assert (found["ap"], found["gap"], found["ar_nms"]) == (30.1235, -0.8765, 45.25)
        assert str(found["ar_gap"]) == "0.0"
        assert (found["stale"], found["seed"], found["state"]) == (False, 0, "succeeded")

    def test_compare(self) -> None:
        rows = [ROW, replace(ROW, seed=1, ap=31.123456), RUNNING]
        [found] = json.loads(to_json(compare(rows, ["assignment.alpha", "list"])))
        assert list(found)[:4] == ["assignment.alpha", "list", "dataset", "protocol"]
        assert (found["assignment.alpha"], found["list"]) == (0.00001, [1, 2])
        assert (found["n"], found["seeds"], found["unfinished"], found["epoch"]) == (2, 2, 1, 12)
        stats = (found["ap_mean"], found["ap_std"], found["ap_to_best"])
        assert stats == (30.6235, 0.7071, 0.0)

    def test_nothing_finished(self) -> None:
        [found] = json.loads(to_json(compare([RUNNING], ["assignment"])))
        assert found["ap_mean"] is found["gap_std"] is found["epoch"] is None

    def test_empty_and_unicode(self) -> None:
        assert json.loads(to_json([])) == []
        assert "größe ☃" in to_json([replace(ROW, sweep_name="größe ☃")])


class TestCsv:
    def read(self, text: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(text)))

    def test_leaderboard(self) -> None:
        text = to_csv([ROW, replace(STALE, sweep_name='a "b", ü\nc')])
        assert text.splitlines()[0] == ",".join(LEADERBOARD_COLUMNS)
        first, second = self.read(text)
        assert (first["ap"], first["gap"], first["stale"]) == ("30.1235", "-0.8765", "false")
        assert (second["sweep_name"], second["stale"]) == ('a "b", ü\nc', "true")

    def test_says_what_json_says(self) -> None:
        rows = [ROW, RUNNING, STALE, WIDEST]
        for each in (rows, compare(rows, ["seed", "list"])):
            for line, found in zip(self.read(to_csv(each)), json.loads(to_json(each)), strict=True):
                for key, value in found.items():
                    if value is None:
                        assert line[key] == ""
                    else:
                        assert line[key] == (value if isinstance(value, str) else json.dumps(value))

    def test_empty(self) -> None:
        assert to_csv([]) == ",".join(LEADERBOARD_COLUMNS) + "\n"
        assert to_csv([], ["assignment", "n"]) == "assignment,n\n"


class TestLeaderboardTable:
    def test_one_line_a_trial(self) -> None:
        text = drawn(leaderboard_table([ROW, RUNNING, STALE]), 80)
        lines = [re.sub(r" +", " ", line.strip()) for line in text.splitlines()]
        assert lines[4:7] == [
            "01234567 poto 0 12/12 30.1 31.0 -0.9 45.2",
            "1 poto 1 3/12 30.1 31.0 -0.9 45.2 running",
            "2 poto 2 12/12 30.1 31.0 +0.0 45.2 stale",
        ]
        assert "protocol default; data set shapes" in text

    def test_columns_that_say_nothing_go(self) -> None:
        assert "note" not in drawn(leaderboard_table([ROW]), 80)
        two = drawn(leaderboard_table([ROW, replace(ROW, dataset="cells")]), 80)
        assert "cells" in two
        assert "data set" not in two

    @pytest.mark.parametrize("width", [80, 120])
    def test_numbers_are_never_cut(self, width: int) -> None:
        text = drawn(leaderboard_table([WIDEST, RUNNING, STALE]), width)
        assert re.search(r"123456 +150/300 +100\.0 +100\.0 +-100\.0 +100\.0", text)
        assert "…" not in text

    def test_long_names_are_whole_where_there_is_room(self) -> None:
        text = drawn(leaderboard_table([replace(WIDEST, dataset="cells"), RUNNING]), 120)
        assert "a_rather_long_name_of_an_assignment" in text

    def test_names_are_not_markup(self) -> None:
        text = drawn(leaderboard_table([replace(ROW, assignment="[red]x[/]")]), 80)
        assert "[red]x[/]" in text

    def test_empty(self) -> None:
        assert "nothing yet" in drawn(leaderboard_table([]), 80)


class TestCompareTable:
    def test_one_line_a_group(self) -> None:
        rows = [ROW, replace(ROW, seed=1, ap=31.123456), RUNNING]
        rows += [replace(ROW, assignment="fcos", ap=20.0, gap=-11.0)]
        text = drawn(compare_table(compare(rows, ["assignment"])), 80)
        lines = [re.sub(r" +", " ", line.strip()) for line in text.splitlines()]
        assert lines[4:6] == [
            "poto 12/12 2 30.6±0.7 31.0±0.0 -0.9±0.0 45.2±0.0 +0.0 1",
            "fcos 12/12 1 20.0 31.0 -11.0 45.2 -10.6",
        ]

    def test_two_protocols_are_told_apart(self) -> None:
        rows = [ROW, replace(ROW, protocol="defcn")]
        text = drawn(compare_table(compare(rows, ["assignment"])), 80)
        assert re.search(r"poto +default +12/12 +1", text)
        assert re.search(r"poto +defcn +12/12 +1", text)

    def test_nothing_finished(self) -> None:
        text = drawn(compare_table(compare([RUNNING], ["assignment"])), 80)
        assert re.search(r"poto +- +0 +- +- +- +- +- +1", text)

    @pytest.mark.parametrize("width", [80, 120])
    def test_numbers_are_never_cut(self, width: int) -> None:
        rows: list[Any] = [replace(WIDEST, ap=0.0, seed=0), WIDEST, RUNNING, STALE]
        text = drawn(compare_table(compare(rows, ["assignment", "assignment.alpha"])), width)
        assert re.search(r"150/300 +2 +50\.0±70\.7 +100\.0±0\.0 +-100\.0±0\.0 +100\.0±0\.0", text)
        assert "…" not in text

    def test_values_are_not_markup(self) -> None:
        rows = [replace(ROW, config={"path": "[bold]x"})]
        assert "[bold]x" in drawn(compare_table(compare(rows, ["path"])), 80)

    def test_empty(self) -> None:
        assert "nothing yet" in drawn(compare_table([]), 80)
