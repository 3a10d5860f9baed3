"""Leaderboards and comparisons as terminal tables, JSON and CSV."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from detectors.evaluation.bootstrap import Replicates
from gaplab.cli.render.comparison import compare_table
from gaplab.cli.render.formats import Output, csv_text, json_text
from gaplab.cli.render.plain import (
    COMPARE_COLUMNS,
    LEADERBOARD_COLUMNS,
    plain,
)
from gaplab.cli.render.tables import key_column, leaderboard_table
from gaplab.cli.render.tabular import Column, PlainTable
from gaplab.cli.render.terminal import PlainConsole
from gaplab.results.comparison.compare import Group, compare
from gaplab.results.comparison.leaderboard import LeaderboardRow
from gaplab.results.intervals import Resampled
from gaplab.states import TrialState
from tests.builders import leaderboard_row

ROW = leaderboard_row(
    "0123456789ab",
    sweep="one-11",
    sweep_name="one",
    epoch=12,
    epochs=12,
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
    config={"assignment": {"name": "poto", "alpha": 0.00001}, "list": [1, 2]},
)
RUNNING = replace(ROW, trial="1", seed=1, epoch=3, state=TrialState.RUNNING)
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


CROWD = replace(
    ROW,
    ap50=None,
    ap50_nms=None,
    ap75=None,
    ap75_nms=None,
    ar=None,
    ar_nms=None,
    ar_gap=None,
    more={"mmr": 45.67891, "mmr_gap": -0.55, "recall": 98.0, "positives_per_object": None},
)


def resampled(row: LeaderboardRow) -> Resampled:
    noise = np.linspace(-2, 2, 41)
    return Resampled("a", 100, Replicates(row.ap + noise, row.ap_nms - 0.1 * noise))


def drawn(table: PlainTable, width: int) -> str:
    file = io.StringIO()
    PlainConsole(width=width, file=file).print(table)
    text = file.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    return text


def to_json(rows: Sequence[LeaderboardRow | Group]) -> str:
    return json_text(Output([plain(row) for row in rows], []))


def to_csv(rows: Sequence[LeaderboardRow | Group]) -> str:
    return csv_text(Output([plain(row) for row in rows], [], LEADERBOARD_COLUMNS))


class TestJson:
    def test_leaderboard(self) -> None:
        [found] = json.loads(to_json([ROW]))
        assert tuple(found) == (*LEADERBOARD_COLUMNS, "metrics")
        assert found["metrics"] == {}
        assert found["trial"] == "0123456789ab"
        assert (found["ap"], found["gap"], found["ar_nms"]) == (30.123456, -0.876544, 45.250001)
        assert found["ar_gap"] == -0.000001
        assert (found["stale"], found["seed"], found["state"]) == (False, 0, TrialState.SUCCEEDED)

    def test_all_other_metrics(self) -> None:
        [found] = json.loads(to_json([CROWD]))
        assert found["ar"] is found["ap50_nms"] is None
        assert found["metrics"] == {
            "mmr": 45.67891,
            "mmr_gap": -0.55,
            "recall": 98.0,
            "positives_per_object": None,
        }

    def test_compare(self) -> None:
        rows = [ROW, replace(ROW, seed=1, ap=31.123456), RUNNING]
        [found] = json.loads(to_json(compare(rows, ["assignment.alpha", "list"])))
        assert list(found)[:4] == ["assignment.alpha", "list", "dataset", "protocol"]
        assert (found["assignment.alpha"], found["list"]) == (0.00001, [1, 2])
        assert (found["n"], found["seeds"], found["unfinished"], found["epoch"]) == (2, 2, 1, 12)
        stats = (found["ap_mean"], found["ap_std"], found["ap_to_baseline"])
        assert stats == pytest.approx((30.623456, 0.5**0.5, 0.0))
        assert tuple(found)[2:] == COMPARE_COLUMNS
        assert (found["over"], found["to_baseline_over"], found["pairs"]) == ("seeds", None, 0)
        assert (found["ap_low"], found["ap_high"]) == pytest.approx((24.2703, 36.9766), abs=2e-4)
        assert found["ap_to_baseline_low"] is found["ap_to_baseline_p"] is None

    def test_differences(self) -> None:
        rows = [ROW, replace(ROW, seed=1, ap=31.123456)]
        rows += [replace(row, assignment="fcos", ap=row.ap - row.seed) for row in rows]
        _, found = json.loads(to_json(compare(rows, ["assignment"])))
        assert (found["ap_to_baseline"], found["pairs"], found["to_baseline_over"]) == (
            -0.5,
            2,
            "seeds",
        )
        limits = found["ap_to_baseline_low"], found["ap_to_baseline_high"]
        assert limits == pytest.approx((-6.8531, 5.8531), abs=1e-4)
        assert found["ap_to_baseline_p"] == pytest.approx(0.5)

    def test_over_images(self) -> None:
        rows = [ROW, replace(ROW, assignment="fcos", ap=20.0, seed=3)]
        _, found = json.loads(to_json(compare(rows, ["assignment"], "ap", resampled)))
        assert (found["over"], found["to_baseline_over"], found["pairs"]) == ("images", "images", 1)
        assert (found["ap_low"], found["ap_high"]) == pytest.approx((18.1, 21.9))
        limits = found["ap_to_baseline_low"], found["ap_to_baseline_high"]
        assert limits == pytest.approx((-10.123456, -10.123456))
        assert found["ar_low"] is found["ar_to_baseline_low"] is found["ap_to_baseline_p"] is None

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
        assert (first["ap"], first["gap"], first["stale"]) == ("30.123456", "-0.876544", "false")
        assert (second["sweep_name"], second["stale"]) == ('a "b", ü\nc', "true")

    def test_has_the_values_of_json(self) -> None:
        rows = [ROW, RUNNING, STALE, WIDEST, CROWD]
        for each in (rows, compare(rows, ["seed", "list"], "ap", resampled)):
            for line, found in zip(self.read(to_csv(each)), json.loads(to_json(each)), strict=True):
                found |= found.pop("metrics", {})
                for key, value in found.items():
                    if value is None:
                        assert line[key] == ""
                    else:
                        assert line[key] == (value if isinstance(value, str) else json.dumps(value))

    def test_other_metrics_are_columns(self) -> None:
        text = to_csv([ROW, CROWD, replace(ROW, more={"ar1": 3.0, "recall": 4.0})])
        first, second, third = self.read(text)
        more = ("mmr", "mmr_gap", "recall", "positives_per_object", "ar1")
        assert tuple(first) == (*LEADERBOARD_COLUMNS, *more)
        assert [first[name] for name in more] == [""] * 5
        assert [second[name] for name in more] == ["45.67891", "-0.55", "98.0", "", ""]
        assert [third[name] for name in more] == ["", "", "4.0", "", "3.0"]

    def test_empty(self) -> None:
        assert to_csv([]) == ",".join(LEADERBOARD_COLUMNS) + "\n"


class TestLeaderboardTable:
    def test_one_line_per_trial(self) -> None:
        text = drawn(leaderboard_table([ROW, RUNNING, STALE]), 80)
        lines = [re.sub(r" +", " ", line.strip()) for line in text.splitlines()]
        assert lines[4:7] == [
            "01234567 poto 0 12/12 30.1 31.0 -0.9 45.2",
            "1 poto 1 3/12 30.1 31.0 -0.9 45.2 running",
            "2 poto 2 12/12 30.1 31.0 0.0 45.2 stale",
        ]
        assert "protocol default; data set shapes" in text

    def test_columns_without_information_are_left_out(self) -> None:
        assert "note" not in drawn(leaderboard_table([ROW]), 80)
        two = drawn(leaderboard_table([ROW, replace(ROW, dataset="cells")]), 80)
        assert "cells" in two
        assert "data set" not in two

    def test_metrics_of_the_crowd_evaluator(self) -> None:
        text = drawn(leaderboard_table([CROWD]), 80)
        assert re.search(r"gap +mMR +recall", text)
        assert re.search(r"12/12 +30\.1 +31\.0 +-0\.9 +45\.7 +98\.0 *\n", text)
        assert " AR " not in text
        assert not re.search("mMR|recall", drawn(leaderboard_table([ROW]), 80))
        both = drawn(leaderboard_table([ROW, CROWD]), 80)
        assert re.search(r"-0\.9 +45\.2 +- +- *\n.*-0\.9 +- +45\.7 +98\.0 *\n", both)

    def test_any_metric(self) -> None:
        text = drawn(leaderboard_table([CROWD], ["mmr_gap", "ap50", "mmr"]), 100)
        assert re.search(r"recall +mmr_gap +ap50 *\n", text)
        assert re.search(r"98\.0 +-0\.6 +- *\n", text)
        assert re.search(r"45\.2 +50\.0 *\n", drawn(leaderboard_table([ROW], ["ap50"]), 80))

    @pytest.mark.parametrize("width", [80, 120])
    def test_numbers_are_never_cut(self, width: int) -> None:
        text = drawn(leaderboard_table([WIDEST, RUNNING, STALE]), width)
        assert re.search(r"123456 +150/300 +100\.0 +100\.0 +-100\.0 +100\.0", text)
        assert "…" not in text

    def test_long_names_are_not_wrapped_if_they_fit(self) -> None:
        text = drawn(leaderboard_table([replace(WIDEST, dataset="cells"), RUNNING]), 120)
        assert "a_rather_long_name_of_an_assignment" in text

    def test_names_are_not_markup(self) -> None:
        text = drawn(leaderboard_table([replace(ROW, assignment="[red]x[/]")]), 80)
        assert "[red]x[/]" in text

    def test_empty(self) -> None:
        assert "nothing yet" in drawn(leaderboard_table([]), 80)


class TestCompareTable:
    def lines(self, rows: list[LeaderboardRow], width: int = 140, metric: Any = "ap") -> list[str]:
        groups = compare(rows, ["assignment"], metric, resampled)
        text = drawn(compare_table(groups, metric), width)
        return [re.sub(r" +", " ", line.strip()) for line in text.splitlines() if line.strip()]

    def test_over_seeds(self) -> None:
        rows = [ROW, replace(ROW, seed=1, ap=31.123456, gap=-0.976544), RUNNING]
        for row in rows[:2]:
            ap, gap = row.ap - 9.0 - 0.2 * row.seed, -11.0 - 0.2 * row.seed
            rows.append(replace(row, assignment="fcos", ap=ap, gap=gap))
        found = self.lines(rows)
        assert found[3:5] == [
            "poto 12/12 2 30.6±0.7 31.0±0.0 -0.9 [-1.6, -0.3]* 45.2±0.0 0.0 baseline 1",
            "fcos 12/12 2 21.5±0.6 31.0±0.0 -11.1 [-12.4, -9.8]* 45.2±0.0 -9.1 [-10.4, -7.8]* "
            "0.007 worse by 9.1 AP",
        ]
        legend = " ".join(found[5:])
        assert "[95 % interval], * gap: if it excludes 0, difference: if p <= 0.05" in legend
        assert "p: paired t-test over seeds; " in legend
        assert "intervals over seeds" in legend
        assert "left out: unfinished trials" in legend

    def test_over_images(self) -> None:
        rows = [ROW, replace(ROW, assignment="fcos", ap=30.0, gap=-0.5)]
        found = self.lines(rows)
        assert found[3:5] == [
            "poto 12/12 1 30.1 31.0 -0.9 [-3.0, +1.2] 45.2 0.0 baseline",
            "fcos 12/12 1 30.0 31.0 -0.5 [-2.6, +1.6] 45.2 -0.1 [-0.1, -0.1] one seed",
        ]
        assert "intervals over images" in " ".join(found[5:])

    def test_over_one_or_the_other(self) -> None:
        rows = [replace(ROW, ap=40.0, gap=-1.0), replace(ROW, seed=1)]
        found = self.lines([*rows, replace(ROW, assignment="fcos", ap=20.0)])
        assert [line.split()[-1] for line in found[3:5]] == ["seeds", "images"]
        rows += [replace(row, assignment="fcos", seed=row.seed + 1, ap=20.0) for row in rows]
        assert self.lines(rows)[3].endswith(" 0.0 baseline seeds")
        assert self.lines(rows)[4].endswith("one seed seeds, images")

    def test_the_legend_only_explains_what_is_shown(self) -> None:
        text = drawn(compare_table(compare([ROW], ["assignment"])), 100)
        assert not re.search("interval|left out", text)

    def test_difference_in_the_metric_of_the_order(self) -> None:
        rows = [replace(ROW, gap=-1.0), replace(ROW, assignment="fcos", ap=90.0, gap=-9.0)]
        found = self.lines(rows, metric="gap")
        assert found[0] == "AP gap"
        assert found[3].startswith("poto")
        assert "-8.0 [" in found[4]
        assert self.lines(rows, metric="ap_nms")[0] == "AP AP NMS"

    def test_metrics_that_trials_lack(self) -> None:
        found = self.lines([CROWD])
        assert found[3] == "poto 12/12 1 30.1 31.0 -0.9 [-3.0, +1.2] 0.0"
        assert "AR" not in found[1]

    def test_the_quickstart_fits(self) -> None:
        names = ("fcos", "poto", "hungarian", "o2f", "dual")
        for seeds in (1, 3):
            rows = [
                replace(ROW, assignment=name, seed=seed, ap=20.0 + len(name) + seed, gap=-30.0)
                for name in names
                for seed in range(seeds)
            ]
            found = self.lines(rows, width=100)
            assert {line.split()[0] for line in found[3:8]} == set(names)
            assert "[95 % interval]" in found[8]

    def test_two_protocols_are_distinguished(self) -> None:
        rows = [ROW, replace(ROW, protocol="defcn")]
        text = drawn(compare_table(compare(rows, ["assignment"])), 80)
        assert re.search(r"poto +default +12/12 +1", text)
        assert re.search(r"poto +defcn +12/12 +1", text)

    def test_nothing_finished(self) -> None:
        text = drawn(compare_table(compare([RUNNING], ["assignment"])), 80)
        assert re.search(r"poto +- +0 +- +- +- +- +1", text)

    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_numbers_are_never_cut(self, width: int) -> None:
        rows: list[Any] = [replace(WIDEST, ap=0.0, gap=-100.02, seed=0), WIDEST, RUNNING, STALE]
        rows += [replace(row, assignment="fcos", ap=row.ap / 2) for row in rows[:2]]
        groups = compare(rows, ["assignment"])
        text = drawn(compare_table(groups), width)
        spreads = (r"50\.0", "±70\\.7", r"100\.0", r"±0\.0", r"-100\.0", r"\[-100\.1, -99\.9\]\*")
        first = r"150/300 +2" if width > 100 else r" 2 +50\.0"
        for number in (first, *spreads, r"\[-342\.7, \+292\.7\]"):
            assert re.search(number, text), number
        assert "…" not in text

    def test_words_are_whole_in_a_narrow_table(self) -> None:
        rows = [
            replace(ROW, assignment=name, seed=seed, ap=30.0 + noise, dataset="crowdhuman-visible")
            for name, noises in (("poto", (2.0, 1.0, 4.0)), ("fcos", (3.0, -2.0, 1.5)))
            for seed, noise in enumerate(noises)
        ]
        rows += [replace(row, dataset="shapes") for row in rows]
        text = drawn(compare_table(compare(rows, ["assignment"])), 90)
        assert re.search(r" no *\n.* difference *\n.* shown *\n", text)

    def test_values_are_not_markup(self) -> None:
        rows = [replace(ROW, config={"path": "[bold]x"})]
        assert "[bold]x" in drawn(compare_table(compare(rows, ["path"])), 80)

    def test_empty(self) -> None:
        assert "nothing yet" in drawn(compare_table([]), 80)


@pytest.mark.parametrize("values", [[1, 0.5], [3, "", 11], ["", ""]])
def test_numbers_of_a_key_are_aligned_to_the_right(values: list[Any]) -> None:
    assert key_column("k", values) == Column("k", True, False, [str(v) for v in values], 0)


@pytest.mark.parametrize("values", [["a", "b"], [1, "auto"], [[1, 2], ""]])
def test_other_values_of_a_key_are_text(values: list[Any]) -> None:
    cells = [each if isinstance(each, str) else json.dumps(each) for each in values]
    assert key_column("k", values) == Column("k", False, True, cells, 0)
