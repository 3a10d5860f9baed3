"""What a report is made of: which trials, under which protocol, grouped how."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.errors import UserError
from gaplab.records import TrialRecord
from gaplab.results.report.evidence import Evidence, gather, ordered, short, spread
from gaplab.states import TrialState
from gaplab.storage.home import Home
from tests.builders import LedgerBench
from tests.examples import examples
from tests.gaplab.results.report.making import evidence, setting, unfinished


@pytest.fixture
def bench(tmp_path: Path) -> LedgerBench:
    return LedgerBench(Home(tmp_path))


def trial(number: int, alpha: float, seed: int, protocol: str = "default") -> TrialRecord:
    own = {"assignment": {"name": "dual", "alpha": alpha}, "seed": seed}
    measured = {"evaluation": {"protocol": {"preset": protocol}}}
    return LedgerBench.trial(number, **own, **measured)


def gathered(bench: LedgerBench, *names: str, protocol: str | None = None) -> Evidence:
    return gather(bench.ledger, bench.home, names, protocol)


def test_trials_that_differ_in_their_seed_alone_are_one_setting(bench: LedgerBench) -> None:
    trials = [trial(1, 0.2, 0), trial(2, 0.2, 1), trial(3, 0.8, 0)]
    bench.add("s1", *trials, name="alphas")
    for each in trials:
        bench.run(each, "s1", 2, TrialState.SUCCEEDED)
    found = gathered(bench, "alphas")
    assert found.keys == {"assignment.alpha": "alpha"}
    assert {s.cells: [r.trial.id for r in s.runs] for s in found.settings} == {
        ("0.2",): [trials[0].id, trials[1].id],
        ("0.8",): [trials[2].id],
    }
    assert {each.last.epoch for each in found.runs} == {2}
    assert all(e.primary for each in found.runs for e in each.evaluations)
    assert found.identity == "s1"


def test_the_own_protocol_is_used_unless_another_is_named(bench: LedgerBench) -> None:
    own = trial(1, 0.5, 0, "defcn")
    bench.add("s1", own)
    bench.start(own, "s1")
    for protocol in ("default", "defcn", "onenet"):
        bench.epoch(own, 1, protocol)
    bench.end(own, TrialState.SUCCEEDED)
    assert gathered(bench, "s1").protocol == "defcn"
    assert {e.protocol for e in gathered(bench, "s1").runs[0].evaluations} == {"defcn"}
    [named] = gathered(bench, own.id, protocol="onenet").runs
    assert {e.protocol for e in named.evaluations} == {"onenet"}


def test_trials_of_two_protocols_are_refused(bench: LedgerBench) -> None:
    trials = [trial(1, 0.5, 0, "defcn"), trial(2, 0.5, 1, "date")]
    bench.add("s1", *trials)
    with pytest.raises(UserError, match=r"protocols date and defcn.*--protocol"):
        gathered(bench, "s1")


@pytest.mark.parametrize(
    ("protocol", "message"),
    [(None, "none of 1 trial has been evaluated yet"), ("date", "reevaluate s1 --protocol date")],
)
def test_nothing_measured_is_an_error(bench: LedgerBench, protocol: str, message: str) -> None:
    bench.add("s1", trial(1, 0.5, 0))
    with pytest.raises(UserError, match=message):
        gathered(bench, "s1", protocol=protocol)


def test_a_misspelt_protocol_suggests_the_nearest(bench: LedgerBench) -> None:
    bench.add("s1", trial(1, 0.5, 0))
    with pytest.raises(UserError, match=r"defcm: no such protocol.*defcn"):
        gathered(bench, "s1", protocol="defcm")


def test_a_name_that_nothing_has_is_an_error(bench: LedgerBench) -> None:
    bench.add("s1", trial(1, 0.5, 0))
    with pytest.raises(UserError, match="s2"):
        gathered(bench, "s2")


def test_settings_without_finished_trials_are_not_ranked() -> None:
    found = evidence(unfinished(), setting("poto", [31.0, 33.0]))
    assert [each.label for each in found.ranked] == ["poto"]
    assert found.ranked[0].mean("ap") == 32.0
    assert found.states() == {TrialState.RUNNING: 1, TrialState.SUCCEEDED: 2}


@pytest.mark.parametrize(("aps", "known"), [([30.0], False), ([30.0, 31.0], True)])
def test_one_seed_has_no_interval(aps: list[float], known: bool) -> None:
    assert (setting("poto", aps).interval("ap") is not None) is known


@given(st.lists(st.integers(), max_size=20, unique=True), st.integers(1, 9))
@examples(40)
def test_spread_keeps_the_ends_and_the_order(items: list[int], most: int) -> None:
    found = spread(items, most)
    assert len(found) == min(len(items), most)
    assert found == [each for each in items if each in found]
    if items:
        assert found[0] == items[0]
        assert most == 1 or found[-1] == items[-1]


def test_values_are_in_the_order_of_numbers_or_as_given() -> None:
    assert ordered(["0.8", "0.25", "10", "0.8"]) == ["0.25", "0.8", "10"]
    assert ordered(["poto", "0.5", "fcos", "poto"]) == ["poto", "0.5", "fcos"]


def test_long_labels_are_cut() -> None:
    assert short("x" * 22) == "x" * 22
    assert short("x" * 23) == "x" * 21 + "…"
