import statistics
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.bootstrap import Replicates
from gaplab.errors import UserError
from gaplab.results.comparison.compare import Group, compare
from gaplab.results.comparison.effects import in_words
from gaplab.results.comparison.leaderboard import LeaderboardRow
from gaplab.results.intervals import METRICS, Difference, Metric, Resampled
from gaplab.results.verdicts import holm
from gaplab.states import TrialState
from tests.builders import leaderboard_row


def row(
    assignment: str = "poto", seed: int = 0, alpha: float | None = 0.8, **changes: Any
) -> LeaderboardRow:
    """Build the row of a finished trial of 12 epochs, apart from `changes`."""
    options: dict[str, Any] = {"name": assignment} | ({} if alpha is None else {"alpha": alpha})
    epochs, ap = changes.get("epochs", 12), changes.get("ap", 30.0)
    values = {
        "assignment": assignment,
        "seed": seed,
        "epoch": epochs,
        "epochs": epochs,
        "ar": ap + 20,
        "config": {"assignment": options, "training": {"epochs": epochs}, "seed": seed},
    }
    return leaderboard_row(**{**values, **changes})


def to_baseline(group: Group) -> dict[str, float]:
    return {
        metric: stat.to_baseline.mean for metric, stat in group.stats.items() if stat.to_baseline
    }


def difference_to_baseline(group: Group, metric: Metric = "ap") -> Difference:
    found = group.stats[metric].to_baseline
    assert found is not None
    return found


def test_means_and_spreads() -> None:
    rows = [row(seed=0, ap=30.0), row(seed=1, ap=33.0), row("fcos", ap=10.0, ap_nms=40.0)]
    first, second = compare(rows, ["assignment"])
    assert (first.keys, first.n, first.seeds) == ({"assignment": "poto"}, 2, 2)
    assert first.stats["ap"].mean == 31.5
    assert first.stats["ap"].std == pytest.approx(4.5**0.5)
    assert first.stats["gap"].mean == 0.5
    assert (second.keys, second.n, second.seeds) == ({"assignment": "fcos"}, 1, 1)
    assert second.stats["gap"].mean == -30.0
    assert second.stats["gap"].std is None
    assert to_baseline(first) == {"ap": 0.0, "ap_nms": 0.0, "gap": 0.0, "ar": 0.0}
    # FCOS has seed 0 alone, so it is compared to that trial of POTO, not to the mean
    assert to_baseline(second) == {"ap": -20.0, "ap_nms": 9.0, "gap": -29.0, "ar": -20.0}


def test_the_metric_decides_which_group_is_best() -> None:
    rows = [row(ap=30.0), row("fcos", ap=10.0, ap_nms=40.0)]
    first, second = compare(rows, ["assignment"], "ap_nms")
    assert first.keys == {"assignment": "fcos"}
    assert (to_baseline(first)["ap"], to_baseline(second)["ap"]) == (0.0, 20.0)


def test_seeds_counts_distinct_seeds() -> None:
    [group] = compare([row(seed=0), row(seed=0), row(seed=1)], ["assignment"])
    assert (group.n, group.seeds) == (3, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cells"},
        {"protocol": "defcn"},
        {"truth": "0123456789ab"},
        {"epoch": 6},
        {"epochs": 24},
        {"results_version": 0, "stale": True},
        {"chosen": "best"},
    ],
)
def test_different_measurements_are_never_mixed(other: dict[str, Any]) -> None:
    groups = compare([row(ap=30.0), row(ap=10.0, seed=1, **other)], ["assignment"])
    assert [group.n for group in groups] == [1, 1]
    assert [to_baseline(group)["ap"] for group in groups] == [0.0, 0.0]
    assert {group.stale for group in groups} == {False, other.get("stale", False)}


def test_branches_of_different_assignments_are_compared() -> None:
    groups = compare([row(ap=30.0), row("fcos", ap=28.0, branch="o2m")], ["assignment"])
    assert [to_baseline(group)["ap"] for group in groups] == [0.0, -2.0]


def test_schedules_are_compared_when_grouped_by_epochs() -> None:
    rows = [row(ap=30.0), row(ap=32.0, epochs=24)]
    for key in ("epochs", "training.epochs"):
        groups = compare(rows, [key])
        assert [group.keys for group in groups] == [{key: 24}, {key: 12}]
        assert [to_baseline(group)["ap"] for group in groups] == [0.0, -2.0]


def test_best_epochs_are_one_group() -> None:
    rows = [row(seed=seed, epoch=epoch, chosen="best") for seed, epoch in ((0, 7), (1, 11))]
    [group] = compare(rows, ["assignment"])
    assert (group.n, group.epoch, group.epochs) == (2, "best", 12)


def test_unfinished_trials_are_left_out_and_counted() -> None:
    unfinished = [
        row(seed=seed, ap=99.0, epoch=3, state=state)
        for seed, state in enumerate(
            (TrialState.RUNNING, TrialState.FAILED, TrialState.INTERRUPTED, TrialState.WAITING)
        )
    ]
    [group] = compare([row(seed=9), *unfinished], ["assignment"])
    assert (group.n, group.seeds, group.unfinished, group.epoch) == (1, 1, 4, 12)
    assert group.stats["ap"].mean == 30.0
    [group] = compare(unfinished, ["assignment"])
    assert (group.n, group.seeds, group.unfinished, group.epoch) == (0, 0, 4, None)
    assert group.stats == {}


def test_any_key_of_the_spec() -> None:
    rows = [row(alpha=0.5, ap=31.0), row(alpha=0.8), row("fcos", alpha=None, ap=1.0)]
    groups = compare(rows, ["assignment.alpha", "seed"])
    assert [group.keys for group in groups] == [
        {"assignment.alpha": 0.5, "seed": 0},
        {"assignment.alpha": 0.8, "seed": 0},
        {"assignment.alpha": None, "seed": 0},
    ]


def test_lists_and_booleans_are_values() -> None:
    def with_option(value: object) -> LeaderboardRow:
        return row(config={"option": value})

    rows = [with_option(value) for value in ([1, 2], [2, 1], True, 1)]
    assert [group.n for group in compare(rows, ["option"])] == [1, 1, 1, 1]


def test_one_key_may_be_given_as_text() -> None:
    rows = [row(), row("fcos", ap=20.0)]
    assert compare(rows, "assignment") == compare(rows) == compare(rows, ["assignment"])


def test_unknown_keys() -> None:
    with pytest.raises(UserError) as error:
        compare([row()], ["assignment.alpah", "seed", "nonsense"])
    assert len(error.value.problems) == 2
    assert error.value.problems[0].startswith("assignment.alpah: no such key; did you mean")


def test_empty() -> None:
    assert compare([], ["assignment"]) == compare([], ["anything"]) == []


ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from(["poto", "fcos", "date"]),
        st.integers(0, 3),
        st.sampled_from([None, 0.5, 0.8]),
        ap=st.floats(0, 100),
        ap_nms=st.floats(0, 100),
        dataset=st.sampled_from(["shapes", "cells"]),
        protocol=st.sampled_from(["default", "defcn"]),
        state=st.sampled_from(["succeeded", TrialState.SUCCEEDED, "running"]),
        epochs=st.sampled_from([12, 24]),
    ),
    max_size=25,
)


@given(ROWS, st.sampled_from(METRICS))
def test_against_a_plain_loop(rows: list[LeaderboardRow], metric: Metric) -> None:
    has_alpha = any("alpha" in each.config["assignment"] for each in rows)
    by = ["assignment", "assignment.alpha"] if has_alpha else ["assignment"]
    cells: dict[Any, list[LeaderboardRow]] = defaultdict(list)
    for each in rows:
        options = each.config["assignment"]
        key = (each.dataset, each.protocol, each.epochs, each.assignment)
        cells[(*key, *((options.get("alpha"),) if has_alpha else ()))].append(each)
    groups = compare(rows[::-1], by, metric)
    found = {(g.dataset, g.protocol, g.epochs, *g.keys.values()): g for g in groups}
    assert len(found) == len(groups)
    assert found.keys() == cells.keys()
    for key, members in cells.items():
        check(found[key], [m for m in members if m.state == "succeeded"], len(members))
    for group in groups:
        peers = [
            g
            for key, g in found.items()
            if key[:3] == (group.dataset, group.protocol, group.epochs)
        ]
        if group.stats:
            best = max((g for g in peers if g.stats), key=lambda g: g.stats[metric].mean)
            expected = difference(group, best, metric)
            found_difference = difference_to_baseline(group, metric)
            assert found_difference.mean == pytest.approx(expected, abs=1e-9)


def difference(group: Group, best: Group, metric: Metric) -> float:
    """The mean over shared seeds if each seed occurs once, else the difference of means."""
    pairs = [(a, b) for a in group.trials for b in best.trials if a.seed == b.seed]
    repeats = any(g.seeds < g.n for g in (group, best))
    if not pairs or repeats:
        pairs = [(a, b) for a in group.trials for b in best.trials]
    differences: list[float] = [getattr(a, metric) - getattr(b, metric) for a, b in pairs]
    return statistics.mean(differences)


def check(group: Group, finished: list[LeaderboardRow], total: int) -> None:
    assert (group.n, group.unfinished) == (len(finished), total - len(finished))
    for metric in METRICS if finished else ():
        values = [getattr(each, metric) for each in finished]
        assert group.stats[metric].mean == pytest.approx(statistics.mean(values))
        if len(values) > 1:
            assert group.stats[metric].std == pytest.approx(statistics.stdev(values), abs=1e-9)
        else:
            assert group.stats[metric].std is None


class TestIntervals:
    """Intervals of trials whose replicates are their AP plus known noise."""

    noise = np.linspace(-2, 2, 41)
    images = 20

    def resampled(self, row: LeaderboardRow) -> Resampled | None:
        """All trials have the same noise, which cancels in differences, except for FCOS."""
        self.resampled_trials.append(row.trial)
        own = self.noise[::-1] if row.assignment == "fcos" else self.noise
        if not row.matches:
            return None
        return Resampled(row.matches, self.images, Replicates(row.ap + own, row.ap_nms + 0 * own))

    def compare(self, *rows: LeaderboardRow, metric: Metric = "ap") -> list[Group]:
        self.resampled_trials: list[str] = []
        return compare(rows, ["assignment"], metric, self.resampled)

    def test_over_seeds(self) -> None:
        aps = {"poto": [30.0, 33.0, 31.0], "fcos": [20.0, 21.0, 23.5]}
        rows = [
            row(name, seed, ap=ap) for name, each in aps.items() for seed, ap in enumerate(each)
        ]
        best, other = self.compare(*rows)
        assert (best.over, best.to_baseline_over, best.pairs) == ("seeds", None, 0)
        assert (other.over, other.to_baseline_over, other.pairs) == ("seeds", "seeds", 3)
        scipys = scipy.stats.t.interval(0.95, 2, *mean_and_error(aps["fcos"]))
        assert other.stats["ap"].interval == pytest.approx(scipys)
        expected = scipy.stats.ttest_rel(aps["fcos"], aps["poto"])
        found = difference_to_baseline(other)
        assert found.p == pytest.approx(expected.pvalue)
        assert found.interval == pytest.approx(expected.confidence_interval())
        own = difference_to_baseline(best)
        assert (own.interval, own.p) == (None, None)
        assert self.resampled_trials == []

    def test_seeds_are_paired_where_both_have_them(self) -> None:
        rows = [row(seed=seed, ap=30.0 + seed) for seed in (0, 1, 2, 7)]
        rows += [row("fcos", seed, ap=20.0 + 3 * seed) for seed in (1, 2, 4)]
        _, other = self.compare(*rows)
        expected = scipy.stats.ttest_rel([23.0, 26.0], [31.0, 32.0])
        found = difference_to_baseline(other)
        assert (found.mean, other.pairs) == (-7.0, 2)
        assert found.interval == pytest.approx(expected.confidence_interval())
        assert found.p == pytest.approx(expected.pvalue)

    @pytest.mark.parametrize("seed", [0, 5])
    def test_intervals_of_single_trials_are_over_images(self, seed: int) -> None:
        rows = [row(matches="a"), row("date", seed, ap=25.0, matches="a")]
        best, other = self.compare(*rows)
        assert (best.over, other.over, other.to_baseline_over, other.pairs) == ("images",) * 3 + (
            1,
        )
        assert best.stats["ap"].interval == pytest.approx((28.1, 31.9))
        assert best.stats["ap_nms"].interval == pytest.approx((31.0, 31.0))
        assert best.stats["gap"].interval == pytest.approx((-2.9, 0.9))
        assert best.stats["ar"].interval is None
        found = difference_to_baseline(other)
        assert (found.mean, found.p) == (-5.0, None)
        assert found.interval == pytest.approx((-5.0, -5.0))
        assert difference_to_baseline(other, "ar").mean == -5.0
        assert difference_to_baseline(other, "ar").interval is None

    def test_both_trials_are_measured_on_the_same_resamples(self) -> None:
        _, other = self.compare(row(matches="a"), row("fcos", ap=25.0, matches="a"))
        assert difference_to_baseline(other).interval == pytest.approx((-8.8, -1.2))

    def test_the_interval_for_one_shared_seed_is_over_images(self) -> None:
        rows = [row(seed=seed, ap=30.0 + seed, matches="a", trial=f"p{seed}") for seed in range(3)]
        _, other = self.compare(*rows, row("date", 1, ap=25.0, matches="a", trial="d1"))
        assert (difference_to_baseline(other).mean, other.to_baseline_over) == (-6.0, "images")
        assert difference_to_baseline(other).interval == pytest.approx((-6.0, -6.0))
        assert set(self.resampled_trials) == {"p1", "d1"}

    @pytest.mark.parametrize("matches", ["", "b"])
    def test_no_interval_without_matches_or_for_other_images(self, matches: str) -> None:
        best, other = self.compare(row(matches="a"), row("date", ap=25.0, matches=matches))
        assert (best.over, other.over) == ("images", "images" if matches else None)
        assert (other.to_baseline_over, other.pairs) == (None, 1)
        assert to_baseline(other)["ap"] == -5.0
        assert all(difference_to_baseline(other, metric).interval is None for metric in other.stats)

    @pytest.mark.parametrize("images", [1, 2, 6, 19])
    def test_no_interval_over_few_images(self, images: int) -> None:
        self.images = images
        best, other = self.compare(row(matches="a"), row("fcos", ap=25.0, matches="a"))
        assert (best.over, other.over, other.to_baseline_over, other.pairs) == (None, None, None, 1)
        assert all(
            stat.interval is None for group in (best, other) for stat in group.stats.values()
        )
        assert difference_to_baseline(other) == Difference(-5.0)

    def test_no_interval_over_seeds_with_equal_values(self) -> None:
        rows = [row(seed=seed, ap=1.0, ap_nms=2.0) for seed in (0, 1)]
        rows += [row("fcos", seed, ap=0.0, ap_nms=0.0) for seed in (0, 1)]
        best, other = self.compare(*rows)
        assert (best.over, other.over, other.to_baseline_over, other.pairs) == (None, None, None, 2)
        assert best.stats["ap"].interval is None
        assert difference_to_baseline(other) == Difference(-1.0)

    def test_no_shared_seed(self) -> None:
        rows = [row(seed=seed, ap=30.0 + seed, matches="a") for seed in (0, 1)]
        rows += [row("fcos", seed, ap=20.0 + seed, matches="a") for seed in (2, 3)]
        _, other = self.compare(*rows)
        assert (other.over, other.to_baseline_over, other.pairs) == ("seeds", None, 0)
        assert difference_to_baseline(other).interval is None
        assert to_baseline(other)["ap"] == -8.0

    def test_trials_that_differ_in_more_than_their_seed(self) -> None:
        rows = [row(alpha=alpha, ap=30.0, matches="a") for alpha in (0.5, 0.8)]
        rows += [row("fcos", ap=20.0, matches="a")]
        best, other = self.compare(*rows)
        assert (best.over, other.to_baseline_over, other.pairs) == (None, None, 0)
        assert best.stats["ap"].interval is None
        assert to_baseline(other)["ap"] == -10.0

    def test_unfinished_trials_are_not_resampled(self) -> None:
        [group] = self.compare(row(state=TrialState.RUNNING, matches="a"))
        assert (group.over, self.resampled_trials) == (None, [])


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), scipy.stats.sem(values)


def test_a_metric_that_some_trials_lack() -> None:
    rows = [row(ap=30.0, ar=None), row("fcos", ap=20.0, ar=None), row("fcos", 1, ap=20.0)]
    for group in compare(rows, ["assignment"]):
        assert set(group.stats) == {"ap", "ap_nms", "gap"}
    [group] = compare([row(ar=None)], ["assignment"], "ar")
    assert group.stats["ap"].to_baseline is None


class TestBaselines:
    """A grid of POTO with three values of alpha, and FCOS, over three seeds."""

    aps = (("poto", 0.2, 30.0), ("poto", 0.5, 33.0), ("poto", 0.8, 31.0), ("fcos", None, 10.0))
    noise = (0.0, 0.3, -0.4)

    def rows(self) -> list[LeaderboardRow]:
        return [
            row(name, seed, alpha, ap=ap + noise * (1 + i), trial=f"{i}{seed}")
            for i, (name, alpha, ap) in enumerate(self.aps)
            for seed, noise in enumerate(self.noise)
        ]

    def against(self, *to: str, by: tuple[str, ...] | None = None) -> dict[Any, Any]:
        """Return the baseline's label per group."""
        return {
            tuple(group.keys.values()): group.baseline and tuple(group.baseline.values())
            for group in compare(self.rows(), by, to=to)
        }

    def test_the_best_group_by_default(self) -> None:
        assert set(self.against().values()) == {("poto", 0.5)}

    @pytest.mark.parametrize("to", ["fcos", "assignment=fcos", "alpha="])
    def test_one_group(self, to: str) -> None:
        assert set(self.against(to).values()) == {("fcos", None)}

    @pytest.mark.parametrize("to", [("0.2",), ("alpha=0.2",), ("assignment.alpha=2e-1", "poto")])
    def test_a_value_of_one_of_the_keys(self, to: tuple[str, ...]) -> None:
        assert set(self.against(*to).values()) == {("poto", 0.2)}

    def test_the_counterpart_if_several_match(self) -> None:
        found = self.against("seed=1", by=("assignment.alpha", "seed"))
        assert found[0.2, 0] == found[0.2, 1] == found[0.2, 2] == (0.2, 1)
        assert found[0.5, 2] == (0.5, 1)
        found = self.against("poto")
        assert found["poto", 0.8] == ("poto", 0.8)

    def test_a_name_of_an_assignment_is_no_other_value(self) -> None:
        rows = [row("mixture", config={"aux": "fcos"}), row("fcos", config={"aux": None}, ap=9.0)]
        assert [group.baseline for group in compare(rows, ["assignment", "aux"], to="fcos")] == [
            {"assignment": "fcos", "aux": None}
        ] * 2

    def test_keys_that_a_counterpart_lacks_do_not_count(self) -> None:
        rows = [
            row(
                name,
                alpha=alpha,
                ap=ap,
                config={"assignment": {"name": name, "alpha": alpha}, "lr": lr},
            )
            for name, alpha, lr, ap in (
                *(("poto", 0.5, 1, 30.0), ("poto", 0.8, 2, 31.0), ("fcos", None, 1, 10.0)),
                *(("fcos", None, 2, 12.0), ("fcos", None, 3, 9.0), ("poto", 0.5, 4, 20.0)),
            )
        ]
        groups = compare(rows, ["assignment", "assignment.alpha", "lr"], to="fcos")
        found = {tuple(group.keys.values()): group.baseline for group in groups}
        for alpha, lr in ((0.5, 1), (0.8, 2)):
            wanted = {"assignment": "fcos", "assignment.alpha": None, "lr": lr}
            assert found["poto", alpha, lr] == wanted
        assert found["poto", 0.5, 4] is None
        [alone] = [group for group in groups if group.keys["lr"] == 4]
        assert in_words(alone, "ap") == "no counterpart"

    def test_differences_are_to_the_baseline(self) -> None:
        for group in compare(self.rows(), to="fcos"):
            mine = [each.ap for each in group.trials]
            theirs = [10.0 + 4 * noise for noise in self.noise]
            found = difference_to_baseline(group)
            if group.keys["assignment"] == "poto":
                expected = scipy.stats.ttest_rel(mine, theirs)
                assert found.mean == pytest.approx(np.mean(mine) - np.mean(theirs))
                assert found.p == pytest.approx(expected.pvalue)

    def test_p_values_are_corrected_for_the_number_of_differences(self) -> None:
        groups = compare(self.rows())
        found = [difference_to_baseline(group) for group in groups]
        raw = [each.p for each in found if each.p is not None]
        assert len(raw) == 3
        assert [each.corrected for each in found if each.p is not None] == holm(raw)
        assert found[0].corrected is None

    @pytest.mark.parametrize(
        ("to", "line"),
        [
            ("alpah=0.5", "alpah: no such key; did you mean alpha?"),
            ("alpha=0.6", "--to alpha=0.6: no finished group; did you mean alpha=0."),
            ("'; DROP TABLE trial", "--to '; DROP TABLE trial: no finished group; there are "),
        ],
    )
    def test_a_baseline_that_is_none(self, to: str, line: str) -> None:
        with pytest.raises(UserError) as error:
            compare(self.rows(), to=to)
        [problem] = error.value.problems
        assert problem.startswith(line)

    def test_no_rows(self) -> None:
        assert compare([], to="poto") == []


def test_groups_differ_in_all_keys_but_the_seed_by_default() -> None:
    rows = [row(seed=seed, alpha=alpha) for seed in (0, 1) for alpha in (0.2, 0.5)]
    assert [group.keys for group in compare(rows)] == [
        {"assignment.alpha": 0.2},
        {"assignment.alpha": 0.5},
    ]
    rows += [row("fcos", alpha=None, epochs=24), row(dataset="cells", alpha=0.9)]
    assert list(compare(rows)[0].keys) == ["assignment", "assignment.alpha", "epochs"]
    measured = row(epochs=0, epoch=0, assignment="export", config={"source": {"file": "x"}})
    assert list(compare([rows[0], measured])[0].keys) == ["assignment"]
