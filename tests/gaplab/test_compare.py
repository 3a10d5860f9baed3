import statistics
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.compare import METRICS, Group, compare
from gaplab.errors import UserError
from gaplab.leaderboard import LeaderboardRow


def row(assignment: str = "poto", seed: int = 0, alpha: float | None = 0.8, **changes) -> Any:
    ap, ap_nms = changes.pop("ap", 30.0), changes.pop("ap_nms", 31.0)
    options = {"name": assignment} | ({} if alpha is None else {"alpha": alpha})
    epochs = changes.get("epochs", 12)
    values = {
        "trial": "t",
        "sweep": "s",
        "sweep_name": "s",
        "assignment": assignment,
        "family": "o2o",
        "dataset": "shapes",
        "seed": seed,
        "state": "succeeded",
        "epoch": epochs,
        "epochs": epochs,
        "branch": "o2o",
        "protocol": "default",
        "results_version": 1,
        "stale": False,
        "chosen": "last",
        "config": {"assignment": options, "training": {"epochs": epochs}, "seed": seed},
    }
    numbers = dict.fromkeys(("ap50", "ap50_nms", "ap75", "ap75_nms", "ar_nms", "ar_gap"), 0.0)
    numbers |= {"ap": ap, "ap_nms": ap_nms, "gap": ap - ap_nms, "ar": ap + 20}
    return LeaderboardRow(**{**values, **numbers, **changes})


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
    assert (second.stats["ap"].to_best, second.stats["ap_nms"].to_best) == (-21.5, 9.0)
    assert {stat.to_best for stat in first.stats.values()} == {0.0}


def test_the_metric_decides_who_is_best() -> None:
    rows = [row(ap=30.0), row("fcos", ap=10.0, ap_nms=40.0)]
    first, second = compare(rows, ["assignment"], "ap_nms")
    assert first.keys == {"assignment": "fcos"}
    assert (first.stats["ap"].to_best, second.stats["ap"].to_best) == (0.0, 20.0)


def test_seeds_are_distinct_ones() -> None:
    [group] = compare([row(seed=0), row(seed=0), row(seed=1)], ["assignment"])
    assert (group.n, group.seeds) == (3, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cells"},
        {"protocol": "defcn"},
        {"epoch": 6},
        {"epochs": 24},
        {"results_version": 0, "stale": True},
        {"chosen": "best"},
    ],
)
def test_unlike_measurements_are_never_mixed(other: dict[str, Any]) -> None:
    groups = compare([row(ap=30.0), row(ap=10.0, seed=1, **other)], ["assignment"])
    assert [group.n for group in groups] == [1, 1]
    assert [group.stats["ap"].to_best for group in groups] == [0.0, 0.0]
    assert {group.stale for group in groups} == {False, other.get("stale", False)}


def test_branches_of_different_assignments_meet() -> None:
    groups = compare([row(ap=30.0), row("fcos", ap=28.0, branch="o2m")], ["assignment"])
    assert [group.stats["ap"].to_best for group in groups] == [0.0, -2.0]


def test_schedules_meet_when_compared_by() -> None:
    rows = [row(ap=30.0), row(ap=32.0, epochs=24)]
    for key in ("epochs", "training.epochs"):
        groups = compare(rows, [key])
        assert [group.keys for group in groups] == [{key: 24}, {key: 12}]
        assert [group.stats["ap"].to_best for group in groups] == [0.0, -2.0]


def test_best_epochs_are_one_group() -> None:
    rows = [row(seed=seed, epoch=epoch, chosen="best") for seed, epoch in ((0, 7), (1, 11))]
    [group] = compare(rows, ["assignment"])
    assert (group.n, group.epoch, group.epochs) == (2, "best", 12)


def test_unfinished_trials_are_left_out_and_counted() -> None:
    unfinished = [
        row(seed=seed, ap=99.0, epoch=3, state=state)
        for seed, state in enumerate(("running", "failed", "interrupted", "waiting"))
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
        state=st.sampled_from(["succeeded", "succeeded", "running"]),
        epochs=st.sampled_from([12, 24]),
    ),
    max_size=25,
)


@given(ROWS, st.sampled_from(METRICS))
def test_against_a_plain_loop(rows: list[LeaderboardRow], metric: Any) -> None:
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
        best = max((g.stats[metric].mean for g in peers if g.stats), default=None)
        if group.stats:
            assert group.stats[metric].to_best == pytest.approx(group.stats[metric].mean - best)


def check(group: Group, finished: list[LeaderboardRow], total: int) -> None:
    assert (group.n, group.unfinished) == (len(finished), total - len(finished))
    for metric in METRICS if finished else ():
        values = [getattr(each, metric) for each in finished]
        assert group.stats[metric].mean == pytest.approx(statistics.mean(values))
        if len(values) > 1:
            assert group.stats[metric].std == pytest.approx(statistics.stdev(values), abs=1e-9)
        else:
            assert group.stats[metric].std is None
