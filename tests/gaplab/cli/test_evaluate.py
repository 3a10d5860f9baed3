"""`gaplab reevaluate`, `explain`, `protocols` and `export` on a trained trial."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from sqlalchemy import text

from detectors.evaluation.metrics import DUPLICATES
from detectors.evaluation.protocol import PROTOCOLS
from gaplab.cli.evaluate import USUAL
from gaplab.ledger import Ledger
from gaplab.results.candidates.reevaluate import find_sources, find_trials, reevaluate
from gaplab.spec.protocols import parse_protocol, protocol_key, rule_of
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home

Gaplab = Callable[..., str]


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder to write to."""
    return Path(shutil.copytree(trained, tmp_path / "home"))


@pytest.fixture
def ids(home: Path) -> dict[str, str]:
    with Ledger.open(Home(home).ledger_url) as ledger:
        return {trial.assignment: trial.id for trial in ledger.all_trials()}


def evaluations(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_every_preset_of_a_paper_is_measured_once(gaplab: Gaplab, ids: Any) -> None:
    found = evaluations(gaplab("reevaluate", ids["dual"], "--json"))
    keys = {(e["branch"], e["protocol"]) for e in found}
    assert keys == {(branch, p) for branch in ("o2o", "o2m") for p in USUAL}
    assert len(found) == len(keys)
    assert {e["epoch"] for e in found} == {2}
    assert evaluations(gaplab("reevaluate", ids["dual"], "--json")) == found
    crowd = next(e for e in found if e["protocol"] == "crowdhuman" and e["branch"] == "o2o")
    assert {"ap", "ap_nms", "gap", "mmr", "mmr_nms", "recall"} <= crowd["metrics"].keys()
    assert crowd["metrics"]["positives_per_object"] == pytest.approx(1.0)
    assert "ar" not in crowd["metrics"]


def test_candidates_give_the_same_numbers_as_training(gaplab: Gaplab, ids: Any, home: Path) -> None:
    """A protocol with the same effect and another name gives exactly the same numbers."""
    with Ledger.open(Home(home).ledger_url) as ledger:
        own = {e.branch: e for e in ledger.evaluations(ids["dual"]) if e.epoch == 2}
    same = evaluations(
        gaplab("reevaluate", ids["dual"], "--json", "--protocol", "{pre_nms_topk: 301}")
    )
    assert {e["branch"]: e["metrics"] for e in same} == {b: e.metrics for b, e in own.items()}
    assert all(e["protocol"].startswith("custom-") for e in same)


def test_metrics_that_an_earlier_release_did_not_measure_are_added(
    gaplab: Gaplab, ids: Any, home: Path
) -> None:
    with Ledger.open(Home(home).ledger_url) as ledger:
        before = ledger.evaluations(ids["dual"])
        with ledger._writing.begin() as connection:
            for name in DUPLICATES:
                connection.execute(
                    text("UPDATE evaluation SET more = json_remove(more, :path)"),
                    {"path": f"$.{name}"},
                )
        gaplab("reevaluate", ids["dual"], "--protocol", "default")
        after = ledger.evaluations(ids["dual"])
    assert [each.metrics.keys() >= set(DUPLICATES) for each in after] == [
        each.epoch == 2
        for each in before  # the epoch whose candidates are stored
    ]
    assert [each for each in after if each.epoch == 2] == [e for e in before if e.epoch == 2]


def test_the_protocol_of_the_trial_is_measured_with_the_usual_ones(home: Path, ids: Any) -> None:
    own, storage = parse_protocol("{nms_iou: 0.55}"), Storage(str(home))
    with Ledger.open(Home(home).ledger_url) as ledger:
        trials = find_trials(ledger, [ids["dual"]])
        [source] = find_sources(ledger, storage, trials, None, "o2o")
        evaluation = replace(source.evaluation, protocol=protocol_key(own), rule=rule_of(own))
        source = replace(source, evaluation=evaluation)
        for fitting, expected in ((True, {protocol_key(own), "onenet"}), (False, {"onenet"})):
            given = (ledger, [source], [PROTOCOLS["onenet"]], storage)
            found = reevaluate(*given, fitting=fitting)
            assert {each.protocol for each in found} == expected


def say_kept(folder: Path, topk: int) -> None:
    """Make the candidates of a trial say that `topk` per level and image were kept."""
    for part in folder.rglob("part-*.parquet"):
        footer = json.loads(pq.read_metadata(part).metadata[b"gaplab"]) | {"topk": topk}
        table = pq.read_table(part)
        pq.write_table(table.replace_schema_metadata({"gaplab": json.dumps(footer)}), part)


def test_complete_candidates_serve_every_number_of_them(
    gaplab: Gaplab, ids: Any, home: Path
) -> None:
    say_kept(home / "trials" / ids["dual"], 5000)  # no level has more than 1,000
    rules = [f"{{pre_nms_topk: {most}}}" for most in (1000, 30_000)]
    named = [word for rule in rules for word in ("--protocol", rule)]
    found = evaluations(gaplab("reevaluate", ids["dual"], "--branch", "o2o", "--json", *named))
    some, every = (each["metrics"] for each in found)
    assert some == every


def test_cut_candidates_are_refused_where_more_are_needed(
    gaplab: Gaplab, ids: Any, home: Path
) -> None:
    say_kept(home / "trials" / ids["dual"], 5)
    words = ("reevaluate", ids["dual"], "--branch", "o2o", "--protocol", "{pre_nms_topk: 6}")
    [line] = gaplab(*words, code=2).splitlines()
    without = gaplab("reevaluate", ids["dual"], "--branch", "o2o", code=2)
    assert "lower pre_nms_topk" in without  # no usual protocol is served
    assert "holds only the 5 best candidates of a level, protocol custom-" in line


def test_new_protocols_reach_leaderboard_and_protocols(gaplab: Gaplab, ids: Any) -> None:
    rule = "{suppression: max_filter, spatial_range: 3, level_range: 1}"
    [only] = evaluations(
        gaplab("reevaluate", ids["dual"][:6], "--branch", "o2o", "--json", "--protocol", rule)
    )
    key = only["protocol"]
    [row] = json.loads(gaplab("leaderboard", "--protocol", key, "--json"))
    assert (row["trial"], row["ap"]) == (ids["dual"], pytest.approx(only["metrics"]["ap"]))
    lines = [line.strip() for line in gaplab("protocols").splitlines()]
    line = next(line for line in lines if line.startswith(key))
    assert yaml.safe_load(line.removeprefix(key)) == yaml.safe_load(rule)
    assert json.loads(gaplab("protocols", "--json"))[key]["spatial_range"] == 3


def test_progress_on_a_terminal_leaves_standard_output_alone(
    gaplab: Gaplab, ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `gaplab reevaluate TRIAL --json > FILE`, where only standard error is a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    found = evaluations(gaplab("reevaluate", ids["dual"], "--json", "--protocol", "onenet"))
    assert {e["branch"] for e in found} == {"o2o", "o2m"}


def test_table_of_new_evaluations(gaplab: Gaplab, ids: Any) -> None:
    output = gaplab("reevaluate", ids["dual"], "--protocol", "onenet", "--protocol", "crowdhuman")
    assert sum(" crowdhuman " in line for line in output.splitlines()) == 2
    assert "Copy new evaluations to MLflow with: gaplab mirror" in output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "trial 'nothing': not in the ledger"),
        (["DUAL", "--protocol", "onenett"], "unknown"),
        (["DUAL", "--protocol", "{nms_iou: 3}"], "nms_iou"),
        (
            ["DUAL", "--epoch", "1"],
            "no candidates of epoch 1 are stored; stored are those of epoch 2",
        ),
        (["DUAL", "--branch", "o2f"], "no candidates of branch o2f are stored"),
        (["POTO"], "no candidates are stored; its state is succeeded; candidates are written"),
        (["DUAL", "--protocol", "{suppression: max_filter}"], "max_filter needs one, such as 3"),
    ],
)
def test_wrong_input_is_one_line(
    gaplab: Gaplab, ids: Any, words: list[str], line: str, home: Path
) -> None:
    words = [ids.get(word.lower(), word) for word in words]
    output = gaplab("reevaluate", *words, code=2)
    assert line in output
    assert len(output.splitlines()) == (2 if words == ["nothing"] else 1)
    with Ledger.open(Home(home).ledger_url) as ledger:
        assert {e.protocol for e in ledger.all_evaluations()} == {"default"}


class TestCandidatesOfOlderVersions:
    """They are clipped, and hold no numbers of points per level."""

    @pytest.fixture(autouse=True)
    def _aged(self, home: Path, ids: Any) -> None:
        for part in (home / "trials" / ids["dual"]).rglob("part-*.parquet"):
            footer = json.loads(pq.read_metadata(part).metadata[b"gaplab"]) | {"version": 2}
            table = pq.read_table(part).drop_columns(["level_points"])
            pq.write_table(table.replace_schema_metadata({"gaplab": json.dumps(footer)}), part)

    @pytest.mark.parametrize(
        ("words", "refused"),
        [
            (["reevaluate", "DUAL", "--branch", "o2o", "--protocol", "onenet"], "onenet"),
            (["explain", "DUAL", "--protocol", "crowdhuman"], "crowdhuman"),
        ],
    )
    def test_are_refused_where_a_protocol_needs_more(
        self, gaplab: Gaplab, ids: Any, words: list[str], refused: str
    ) -> None:
        [line] = gaplab(*(ids.get(w.lower(), w) for w in words), code=2).splitlines()
        assert f"which does not serve protocol {refused}; train the trial again, or set" in line

    def test_are_left_out_where_no_protocol_was_chosen(self, gaplab: Gaplab, ids: Any) -> None:
        output = gaplab("reevaluate", ids["dual"])
        names = "defcn (2 of 2), onenet (2 of 2), crowdhuman (2 of 2), centernet (2 of 2)"
        assert f"lack what the protocol needs: {names}; name it with --protocol" in output
        assert output.count(" o2f ") == 2

    def test_serve_the_others(self, gaplab: Gaplab, ids: Any) -> None:
        words = ("--branch", "o2o", "--json", "--protocol")
        new = "{preset: defcn, clip: before, cap_at_points: false}"
        found = [
            evaluations(gaplab("reevaluate", ids["dual"], *words, name))[0]["metrics"]
            for name in ("o2f", new)
        ]
        assert found[0] == found[1]


def test_damaged_candidates_are_named_before_anything_is_measured(
    gaplab: Gaplab, ids: Any, home: Path
) -> None:
    part = next((home / "trials" / ids["dual"]).rglob("branch=o2o/part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    output = gaplab("reevaluate", ids["dual"], code=2)
    assert part.name in output
    assert "damaged" in output
    with Ledger.open(Home(home).ledger_url) as ledger:
        assert {e.protocol for e in ledger.all_evaluations()} == {"default"}


def test_explain(gaplab: Gaplab, ids: Any) -> None:
    found = json.loads(gaplab("explain", ids["dual"], "--json"))
    assert (found["trial"], found["branch"], found["epoch"]) == (ids["dual"], "o2o", 2)
    gap = found["diagnosis"]["score_gap"]
    assert sum(gap["histogram"]) == round(gap["objects"] * (1 - gap["unclaimed"]))
    assert [d["recall"] for d in found["diagnosis"]["duplicates"]] == [0.25, 0.5, 0.75, 0.9]
    output = gaplab("explain", ids["dual"], "--branch", "o2m")
    for part in ("branch o2m", "positive points per object", "adjacent levels", "duplicates"):
        assert part in output
    assert "no candidates" in gaplab("explain", ids["poto"], code=2)


def test_export(gaplab: Gaplab, ids: Any, tmp_path: Path) -> None:
    output = gaplab("export", tmp_path / "out")
    assert "evaluations.parquet" in output
    table = pq.read_table(tmp_path / "out" / "evaluations.parquet").to_pylist()
    assert {row["trial"] for row in table} == set(ids.values())
    trials = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert {row["config.assignment.name"] for row in trials} == {"dual", "poto"}
    assert "--force" in gaplab("export", tmp_path / "out", code=2)
