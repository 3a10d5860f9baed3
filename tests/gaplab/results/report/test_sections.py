"""Sections of a report that the ledger alone gives, and the page around them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.results.report import answer, cost, epochs, factors, grids
from gaplab.results.report.evidence import Missing, Setting
from gaplab.results.report.write import SECTIONS, page
from gaplab.states import TrialState
from tests.examples import examples
from tests.gaplab.results.report.making import Tree, evidence, run, setting, unfinished

GRID = evidence(
    *(
        setting(f"poto {alpha} {prior}", [ap, ap + 2.0], [alpha, prior])
        for ap, (alpha, prior) in enumerate(
            [("0.8", "box"), ("0.2", "box"), ("0.8", "none"), ("0.2", "none")], start=30
        )
    ),
    keys={"assignment.alpha": "alpha", "assignment.prior": "prior"},
)
STOPPED = Setting("a", ("a",), (run(trial={"state": TrialState.STOPPED}),))
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "--> ]]> </svg></style>",
    "$x_{1}$ & \\frac{",
    "{label} {0} %s",
    "\x1b[31mred",
)
"""Names from outside that must stay text."""


def text_of(html: str) -> str:
    """The text of a piece of HTML, with single spaces."""
    return " ".join(Tree(html).text.split())


class TestAnswer:
    def test_the_best_setting_and_the_one_that_needs_nms_most(self) -> None:
        needy = Setting("fcos", ("fcos",), (run("fcos", ap=20.0, metrics={"gap": -9.5}),))
        said = text_of(answer.sentence(evidence(setting("poto", [31.0]), needy)))
        assert said == (
            "On shapes, poto has the highest AP without NMS of 2 settings: 31.0 without and 32.0 "
            "with NMS (gap -1.0); fcos needs NMS most: 20.0 without and 21.0 with NMS (gap -9.5)."
        )

    def test_one_setting_has_no_rival(self) -> None:
        assert "settings" not in answer.sentence(evidence(setting("poto"), unfinished()))

    def test_no_finished_trial_is_no_answer(self) -> None:
        assert "no answer" in answer.sentence(evidence(unfinished()))

    def test_an_interval_needs_several_seeds(self) -> None:
        gaps = [run("poto", seed, metrics={"gap": gap}) for seed, gap in enumerate((-1.0, -2.0))]
        assert "95 % interval" in answer.sentence(evidence(Setting("poto", ("poto",), tuple(gaps))))
        assert "95 %" not in answer.sentence(evidence(setting("poto")))

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ([setting("poto"), unfinished()], "1 of 2 trials have not finished (1 running)"),
            ([STOPPED], "1 of 1 trial were stopped early"),
            ([setting("poto")], "One seed per setting"),
            ([setting("poto", [30.0, 31.0])], "t intervals of the mean over seeds"),
            ([Setting("a", ("a",), (run(evaluations=()),))], "1 finished trial not measured"),
            ([setting("poto")], "older version of the training code"),
        ],
    )
    def test_limits_are_said(self, settings: list[Setting], said: str) -> None:
        assert said in " ".join(map(text_of, answer.limits(evidence(*settings))))

    def test_duplicates_are_a_column_where_they_were_measured(self) -> None:
        other = Setting("fcos", ("fcos",), (run("fcos", metrics={"duplicates": 2.345}),))
        found = evidence(setting("poto"), other)
        for make in (answer.build, answer.trials):
            said = text_of(make(found))
            assert "AR gapduplicates" in said
            assert "+2.02.35" in said
            assert "+2.0-" in said
            assert "duplicates" not in text_of(make(evidence(setting("poto")))).lower()

    def test_every_setting_and_trial_has_a_row(self) -> None:
        found = evidence(setting("poto", [30.0, 31.0]), unfinished())
        rows = [Tree(make(found)).tags.count("tr") - 1 for make in (answer.build, answer.trials)]
        assert rows == [2, 3]


class TestEpochs:
    def test_a_figure_per_metric_and_loss(self) -> None:
        html = epochs.build(evidence(setting("poto", [30.0, 31.0]), setting("fcos")))
        titles = re.findall(r'aria-label="([^"]+)"', html)
        assert titles == ["NMS gap", "AP without NMS", "AP with NMS", "loss o2o.cls"]

    def test_one_epoch_is_no_curve(self) -> None:
        last = run().evaluations[-1:]
        html = epochs.build(evidence(Setting("a", ("a",), (run(evaluations=last),))))
        assert re.findall(r'aria-label="([^"]+)"', html) == ["loss o2o.cls"]
        assert "Only epoch 3 was evaluated" in html
        with pytest.raises(Missing, match=r"no losses of these trials\. Only epoch 3"):
            epochs.build(evidence(Setting("a", ("a",), (run(evaluations=last, losses={}),))))

    def test_missing_losses_are_said(self) -> None:
        html = epochs.build(evidence(Setting("a", ("a",), (run(losses={}),))))
        assert "holds no losses" in html

    def test_nothing_at_all_is_missing(self) -> None:
        with pytest.raises(Missing):
            epochs.build(evidence(Setting("a", ("a",), (run(losses={}, evaluations=()),))))

    def test_means_are_over_epochs_that_all_trials_have(self) -> None:
        assert epochs.mean_curve([{1: 2.0, 2: 4.0}, {2: 6.0, 3: 9.0}]) == {2: 5.0}


class TestCost:
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
    @examples(50)
    def test_no_cheaper_point_surpasses_the_front(self, points: list[tuple[int, int]]) -> None:
        front = cost.pareto([(float(x), float(y)) for x, y in points])
        better = {
            (x, y)
            for x, y in points
            if not any((a <= x and b > y) or (a < x and b >= y) for a, b in points)
        }
        assert set(front) == better
        assert front == sorted(front)

    def test_no_times_are_missing(self) -> None:
        with pytest.raises(Missing):
            cost.build(evidence(Setting("a", ("a",), (run(cpu_seconds=0.0),))))


class TestKeys:
    def test_settings_by_value(self) -> None:
        found = factors.factors_of(GRID)["alpha"]
        assert {value: [s.label for s in held] for value, held in found.items()} == {
            "0.2": ["poto 0.2 box", "poto 0.2 none"],
            "0.8": ["poto 0.8 box", "poto 0.8 none"],
        }
        assert list(found) == ["0.2", "0.8"]

    def test_keys_that_were_varied_together_are_one(self) -> None:
        cells = [("0.2", "0.2"), ("0.8", "0.5"), ("", "")]
        found = evidence(
            *(setting(f"{i}", [30.0], each) for i, each in enumerate(cells)),
            keys={"assignment.t_max": "t_max", "assignment.t_min": "t_min"},
        )
        assert {n: list(held) for n, held in factors.factors_of(found).items()} == {
            "t_max, t_min": ["0.2", "0.8, 0.5"]
        }

    @pytest.mark.parametrize(("values", "drawn"), [(22, 2), (40, 2), (41, 0)])
    def test_what_is_not_drawn_has_no_caption(self, values: int, drawn: int) -> None:
        html = factors.build(evidence(*(setting(f"a{at}") for at in range(values))))
        assert html.count("<figure>") == drawn
        assert ("A dot is a setting" in html, "Not drawn" in html) == (drawn > 0, drawn == 0)
        assert "black line" not in html  # one setting per value
        assert "black line" in factors.build(GRID)

    def test_one_value_is_missing(self) -> None:
        with pytest.raises(Missing):
            factors.build(evidence(setting("poto")))

    def test_a_grid_has_the_mean_of_each_cell(self) -> None:
        assert list(grids.pairs_of(GRID)) == [(0, 1)]
        assert grids.cells_of(GRID, (0, 1), "ap") == {
            ("0.8", "box"): 31.0,
            ("0.2", "box"): 32.0,
            ("0.8", "none"): 33.0,
            ("0.2", "none"): 34.0,
        }

    def test_keys_that_were_varied_together_are_no_grid(self) -> None:
        diagonal = [setting(str(i), [30.0], [str(i), str(i)]) for i in range(4)]
        with pytest.raises(Missing):
            grids.build(evidence(*diagonal, keys=GRID.keys))


@pytest.fixture(scope="module")
def whole() -> Tree:
    """A page whose every name is hostile, of a grid with a trial that is still running."""
    grid = [
        Setting(f"{name} {i}", (name, str(i)), (run(name, ap=30.0 + i),))
        for i, name in enumerate(HOSTILE[:2] * 2)
    ]
    keys = {"a": HOSTILE[2], "b": HOSTILE[3]}
    found = evidence(*grid, unfinished("", ""), title=HOSTILE[0], question=HOSTILE[4], keys=keys)
    return Tree(page(found))


class TestPage:
    def test_names_stay_text(self, whole: Tree) -> None:
        assert whole.balanced
        assert "script" not in whole.tags
        assert [name for name, _ in whole.attributes if name.startswith("on")] == []
        for name in HOSTILE[:5]:
            assert name in whole.text

    def test_nothing_is_loaded_from_elsewhere(self, whole: Tree) -> None:
        assert all(each.startswith(("data:", "#")) for each in whole.all("src") + whole.all("href"))
        assert {"link", "iframe", "object", "form"}.isdisjoint(whole.tags)

    def test_ids_are_unique_and_links_lead_to_them(self, whole: Tree) -> None:
        ids = whole.all("id")
        assert len(ids) == len(set(ids))
        links = [each[1:] for each in whole.all("href") + whole.all("xlink:href")]
        assert set(links) <= {*ids}

    def test_every_section_is_there_and_says_what_it_lacks(self, whole: Tree) -> None:
        assert {section.name for section in SECTIONS} <= set(whole.all("id"))
        assert whole.text.count(": no candidates are stored.") == 20


def test_a_sweep_without_finished_trials_gives_a_page() -> None:
    found = Tree(page(evidence(unfinished())))
    assert found.balanced
    assert "no answer" in found.text
