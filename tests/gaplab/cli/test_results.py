"""`gaplab leaderboard` and `compare` on a ledger of synthetic evaluations with match files."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors import RESULTS_VERSION
from detectors.cost import model_cost
from detectors.evaluation.bootstrap import interval, replicates
from detectors.evaluation.matches import Matches
from detectors.evaluation.metrics import DUPLICATES, TRAINING
from detectors.evaluation.truth import GroundTruth
from detectors.models.fcos import FcosOptions
from detectors.structures import ImageTruth
from gaplab.cli import main
from gaplab.cli.results import Resampling
from gaplab.ledger import Ledger
from gaplab.records import Claim, EvaluationRecord, Started
from gaplab.results.comparison.leaderboard import leaderboard
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from gaplab.storage.matches import write_matches
from tests.builders import (
    MACHINE,
    METRIC_VALUES,
    attempt_end,
    evaluation_record,
    sweep_record,
    trial_record,
)

Gaplab = Callable[..., tuple[str, str]]
IMAGES = 40
COCO = ("ap50", "ap50_nms", "ap75", "ap75_nms", "ar", "ar_nms", "ar_gap", "ap_small")


def truth(first_id: int = 1, count: int = IMAGES, size: float = 9.0) -> GroundTruth:
    """One object in every image."""
    box, none = torch.tensor([[0.0, 0.0, 9.0, size]]), torch.zeros(1, dtype=torch.int64)
    images = [
        ImageTruth(first_id + i, 50, 50, box, none, none.bool(), torch.tensor([81.0]))
        for i in range(count)
    ]
    return GroundTruth.of(images, ["cell"])


def matches(seed: int, quality: float, count: int = IMAGES) -> Matches:
    """Two detections per image; the better one is correct with probability `quality`."""
    rng = np.random.default_rng(seed)
    image, label = np.arange(count), np.zeros(2 * count, dtype=np.int64)
    score = np.sort(rng.random((count, 2)))[:, ::-1].ravel()
    hit = np.stack([rng.random(count) < quality, np.zeros(count, dtype=bool)], axis=1).ravel()
    hits = np.tile(hit, (10, 1))
    return Matches(
        count, 1, np.repeat(image, 2), label, score, hits, hits & False, image, label[:count]
    )


class Bench:
    """A home folder with a ledger, to which a test adds succeeded trials."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self.storage = Storage(str(self.home.path))
        self.ledger = Ledger.open(self.home.ledger_url)
        self.pairs: dict[str, tuple[Matches, Matches]] = {}

    def add(
        self,
        name: str,
        quality: float,
        seed: int = 0,
        first_id: int = 1,
        images: int = IMAGES,
        size: float = 9.0,
        machine: tuple[str, str | None] | None = None,
    ) -> None:
        """Add a trial with a match file, whose AP is that of the matches.

        `machine` is the device of its attempt, with the vector instructions if they are known.
        """
        pair = matches(seed, quality, images), matches(seed + 50, quality, images)
        self.pairs[name] = pair
        ap, ap_nms = (float(replicates(each, each, 200).ap.mean()) for each in pair)
        metrics = {**dict.fromkeys(COCO, 50.0), "ap": ap, "ap_nms": ap_nms, "gap": ap - ap_nms}
        made = evaluation_record(f"{name}{seed}".ljust(12, "x"), 3, metrics=metrics)
        uri = write_matches(self.storage, made, truth(first_id, images, size), *pair)
        self.record(replace(made, matches=self.storage.relative(uri)), name, seed, machine)

    def add_crowd(self, name: str, ap: float) -> None:
        """Add a trial that the crowd evaluator measured."""
        metrics = {"ap": ap, "ap_nms": 40.0, "gap": ap - 40, "mmr": 55.5, "recall": 90.1}
        made = evaluation_record(f"crowd-{name}", 3, protocol="crowdhuman", metrics=metrics)
        self.record(made, name)

    def record(
        self,
        evaluation: EvaluationRecord,
        name: str,
        seed: int = 0,
        machine: tuple[str, str | None] | None = None,
    ) -> None:
        trial = trial_record(
            evaluation.trial,
            config={"assignment": {"name": name}, "seed": seed},
            assignment=name,
            seed=seed,
            results_version=RESULTS_VERSION,
        )
        sweep = sweep_record(f"s-{trial.id}", trial)
        self.ledger.add_sweep(sweep)
        attempt = self.ledger.start_attempt(Claim(trial.id, sweep.id, machine=MACHINE))
        if machine:
            device, instructions = machine
            facts = {"torch": {"cpu_capability": instructions}} if instructions else {}
            started = Started(trial.id, replace(MACHINE, device=device), 0, facts)
            self.ledger.begin_attempt(attempt, started)
        self.ledger.record(evaluation, attempt)
        self.ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("GAPLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    made = Bench(tmp_path / "home")
    yield made
    made.ledger.close()


@pytest.fixture
def gaplab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gaplab:
    """Runs a command line in this process and returns standard output and standard error."""

    def run(*words: object, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["gaplab", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert (stop.value.code or 0) == code, out + err
        return out, err

    return run


def test_differences_over_images(bench: Bench, gaplab: Gaplab) -> None:
    bench.add("poto", 0.9)
    bench.add("fcos", 0.3)
    out, err = gaplab("compare", "--resamples", 200, "--json")
    best, other = json.loads(out)
    assert err == ""
    assert (best["over"], other["to_baseline_over"]) == ("images", "images")
    mine, theirs = (replicates(*bench.pairs[name], 200) for name in ("fcos", "poto"))
    for metric in ("ap", "ap_nms", "gap"):
        low, high = interval(getattr(mine, metric) - getattr(theirs, metric))
        limits = other[f"{metric}_to_baseline_low"], other[f"{metric}_to_baseline_high"]
        assert limits == pytest.approx((low, high), abs=1e-4)
    assert other["ap_to_baseline_high"] < 0
    out, _ = gaplab("compare", "--resamples", 200)
    [line] = [line for line in out.splitlines() if "fcos" in line]
    assert line.rstrip().endswith("one seed")
    assert "*" not in out
    assert "intervals over images" in out


@pytest.mark.parametrize("images", [1, 6, 19])
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_few_images_give_no_interval(
    bench: Bench, gaplab: Gaplab, images: int, form: list[str]
) -> None:
    """The line is on standard error, so that it is in no file."""
    bench.add("poto", 1.0, images=images)
    bench.add("fcos", 0.0, images=images)
    out, err = gaplab("compare", "--resamples", 20, *form)
    assert err == (
        "gaplab: shapes: intervals need at least 20 validation images, "
        f"this data set has {images}\n"
    )
    if not form:
        assert "interval" not in out
        assert not {"*", "["} & set(out)
        return
    rows = json.loads(out) if form == ["--json"] else list(csv.DictReader(io.StringIO(out)))
    limits = {k: v for row in rows for k, v in row.items() if k.endswith(("over", "low", "high"))}
    assert len(limits) == 2 + 4 * 4
    assert set(limits.values()) == {None if form == ["--json"] else ""}
    assert float(rows[1]["ap_to_baseline"]) < -50


def test_no_resamples(bench: Bench, gaplab: Gaplab) -> None:
    bench.add("poto", 0.9)
    out, err = gaplab("compare", "--resamples", 0, "--csv")
    [found] = csv.DictReader(io.StringIO(out))
    assert (err, found["over"], found["gap_low"]) == ("", "", "")
    assert "Invalid value" in gaplab("compare", "--resamples", -1, code=2)[1]


def test_intervals_over_seeds_read_no_matches(
    bench: Bench, gaplab: Gaplab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(uri: str) -> None:
        raise AssertionError(f"read {uri}")

    monkeypatch.setattr("gaplab.storage.matches.read_matches", never)
    for seed in (0, 1):
        bench.add("poto", 0.9, seed)
        bench.add("fcos", 0.3, seed)
    _, other = json.loads(gaplab("compare", "--json")[0])
    assert (other["over"], other["to_baseline_over"], other["pairs"]) == ("seeds", "seeds", 2)


def test_other_images_are_not_paired(bench: Bench, gaplab: Gaplab) -> None:
    bench.add("poto", 0.9)
    bench.add("fcos", 0.3, first_id=7)
    out, err = gaplab("compare", "--resamples", 20, "--json")
    assert [group["to_baseline_over"] for group in json.loads(out)] == [None, None]
    assert err == (
        "gaplab: shapes: trials were measured on 2 different sets of images: "
        "no interval of their differences\n"
    )


def test_other_annotations_are_not_paired(bench: Bench, gaplab: Gaplab) -> None:
    bench.add("poto", 0.9)
    bench.add("fcos", 0.3, size=8.0)
    out, err = gaplab("compare", "--resamples", 20, "--json")
    groups = json.loads(out)
    assert [group["over"] for group in groups] == ["images", "images"]
    assert [group["to_baseline_over"] for group in groups] == [None, None]
    assert err == (
        "gaplab: shapes: trials were measured against different annotations of the same images: no "
        "interval of their differences; measure all of them against one with: gaplab reevaluate "
        "NAME --other-truth\n"
    )


def test_a_missing_match_file(bench: Bench, gaplab: Gaplab) -> None:
    bench.add("poto", 0.9)
    bench.add("fcos", 0.3)
    with Ledger.open(bench.home.ledger_url) as ledger:
        rows = leaderboard(ledger)
    lost = next(row for row in rows if row.assignment == "fcos").matches
    (bench.home.path / lost).unlink()
    out, err = gaplab("compare", "--resamples", 20, "--json")
    assert [group["over"] for group in json.loads(out)] == ["images", None]
    assert err.count("\n") == 1
    assert err.startswith("gaplab: ")
    assert err.endswith("; no interval over images\n")


def test_the_crowd_evaluator_writes_no_matches(bench: Bench, gaplab: Gaplab) -> None:
    bench.add_crowd("poto", 39.0)
    bench.add_crowd("fcos", 20.0)
    out, err = gaplab("compare", "--protocol", "crowdhuman", "--json")
    assert [group["over"] for group in json.loads(out)] == [None, None]
    assert err == (
        "gaplab: 2 trials without a match file (the crowd evaluator writes none): "
        "no interval over images\n"
    )
    out, _ = gaplab("compare", "--protocol", "crowdhuman")
    assert "AR" not in out
    out, _ = gaplab("leaderboard", "--protocol", "crowdhuman")
    assert "mMR" in out
    assert "55.5" in out


def test_any_metric(bench: Bench, gaplab: Gaplab) -> None:
    bench.add("poto", 0.9)
    out, _ = gaplab("leaderboard", "--metric", "ap_small", "--metric", "ap75")
    assert "ap_small" in out
    assert "ap75" in out
    _, err = gaplab("leaderboard", "--metric", "ap_smal", code=2)
    assert err.startswith("gaplab: ap_smal: no such key; did you mean ap_small")


@pytest.mark.parametrize(
    "name", ["parameters", "score_gap", "gflops", "mmr_nms", TRAINING[0], *DUPLICATES]
)
def test_a_column_without_values_is_shown_where_it_was_asked_for(
    bench: Bench, gaplab: Gaplab, name: str
) -> None:
    bench.add("poto", 0.9)
    out, _ = gaplab("leaderboard", "--metric", name, "--assignment", "poto")
    assert name in next(line for line in out.splitlines() if "trial" in line).split()
    out, _ = gaplab("leaderboard", "--metric", name, "--json")
    assert name in {**json.loads(out)[0], **json.loads(out)[0]["metrics"]}
    out, _ = gaplab("compare", "--metric", name)
    assert name in next(line for line in out.splitlines() if "gap" in line).split()
    out, _ = gaplab("compare", "--metric", name, "--csv")
    assert f"{name}_mean" in next(csv.reader(io.StringIO(out)))


def test_further_columns_have_intervals_over_seeds(bench: Bench, gaplab: Gaplab) -> None:
    for seed, value in enumerate((0.5, 0.75, 1.5)):
        made = evaluation_record(f"poto{seed}", 3, metrics={**METRIC_VALUES, "duplicates": value})
        bench.record(made, "poto", seed)
    bench.record(evaluation_record("alone", 3), "o2f")
    out, err = gaplab("compare", "--metric", "duplicates", "--to", "poto", "--json")
    assert err.splitlines()[0] == (
        "gaplab: duplicates: an earlier release did not measure it for 1 row; where candidates are "
        "stored, add it with: gaplab reevaluate s-alone --protocol default"
    )
    found = {group["assignment"]: group for group in json.loads(out)}
    poto = {part: found["poto"][f"duplicates_{part}"] for part in ("mean", "std", "low", "high")}
    mean, std = 2.75 / 3, float(np.std((0.5, 0.75, 1.5), ddof=1))
    half = 4.302652729911275 * std / 3**0.5  # Student's t, two degrees of freedom
    limits = {"low": mean - half, "high": mean + half}
    assert poto == pytest.approx({"mean": mean, "std": std} | limits)
    assert {found["o2f"][f"duplicates_{part}"] for part in poto} == {None}
    out, _ = gaplab("compare", "--metric", "duplicates")
    assert f"0.92 [{mean - half:.2f}, {mean + half:.2f}]" in out
    assert "duplicates: per object found, at score 0.25, IoU 0.5" in " ".join(out.split())
    out, _ = gaplab("leaderboard", "--metric", "duplicates", "--sort", "duplicates", "--csv")
    values = [row["duplicates"] for row in csv.DictReader(io.StringIO(out))]
    assert values == ["0.5", "0.75", "1.5", ""]


def test_a_custom_protocol_has_no_name_to_type(bench: Bench, gaplab: Gaplab) -> None:
    bench.record(evaluation_record("t1", 3, protocol="custom-0123abcd"), "poto")
    words = ("leaderboard", "--protocol", "custom-0123abcd", "--metric", "duplicates_nms")
    _, err = gaplab(*words)
    assert err.endswith("add it with: gaplab reevaluate s-t1\n")


def test_flops_are_those_of_the_detector_at_inference(bench: Bench, gaplab: Gaplab) -> None:
    sections = {
        "data": {"name": "shapes", "size": 64},
        "detector": {"name": "fcos", "channels": 16, "tower_convs": 1},
        "assignment": {"name": "dual"},
    }
    trial = trial_record("t1", config=sections)
    bench.ledger.add_sweep(sweep_record("one", trial))
    attempt = bench.ledger.start_attempt(Claim("t1", "one", machine=MACHINE))
    bench.ledger.record(evaluation_record("t1", 3), attempt)
    bench.ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
    [row] = json.loads(gaplab("leaderboard", "--metric", "gflops", "--json")[0])
    options = FcosOptions(channels=16, tower_convs=1)
    cost = model_cost(options, 4, ["o2o"], (64, 64))
    assert row["metrics"]["gflops"] == cost.multiply_adds / 1e9
    [group] = json.loads(gaplab("compare", "--metric", "gflops", "--json")[0])
    assert group["gflops_mean"] == row["metrics"]["gflops"]


def test_each_trial_is_resampled_and_reported_once(bench: Bench) -> None:
    bench.add("poto", 0.9)
    [row] = leaderboard(bench.ledger)
    reports: list[str] = []
    resampling = Resampling(5, bench.home.path, reports.append)
    assert resampling(row) is resampling(row)
    assert resampling.problems() == []
    assert reports == ["resampling the images of trial poto0xxx"]


def test_slow_resampling_prints_nothing(
    bench: Bench, gaplab: Gaplab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a script reads does not depend on how long the computation takes."""
    bench.add("poto", 0.9)
    hours = count(0, 3600)
    monkeypatch.setattr("time.monotonic", lambda: float(next(hours)))
    assert gaplab("compare", "--resamples", 20, "--json")[1] == ""


def test_no_trials(bench: Bench, gaplab: Gaplab) -> None:
    out, _ = gaplab("compare", "--csv", "--by", "assignment.alpha")
    assert out.startswith("assignment.alpha,dataset,protocol,")


def test_groups_that_mix_vector_instructions(bench: Bench, gaplab: Gaplab) -> None:
    """On a GPU, and where they are not known, instructions are not compared."""
    for seed, (device, instructions) in enumerate(
        [("cpu", "AVX2"), ("cpu", "AVX2"), ("H200", "AVX512"), ("cpu", None)]
    ):
        bench.add("poto", 0.8, seed, machine=(device, instructions))
    bench.add("o2f", 0.8, 0, machine=("cpu", "AVX512"))
    assert "instructions" not in gaplab("compare", "--resamples", 0)[1]
    bench.add("poto", 0.8, 4, machine=("cpu", "AVX512"))
    _, err = gaplab("compare", "--resamples", 0)
    [line] = [each for each in err.splitlines() if "instructions" in each]
    assert line.startswith("gaplab: poto: its trials")
    assert "(AVX2 and AVX512)" in line


@pytest.mark.parametrize("epoch", ["0", "-1", "first", "1.5", "²", str(2**31), "9" * 5000])
@pytest.mark.parametrize("command", ["leaderboard", "compare"])
def test_an_epoch_that_no_trial_has(gaplab: Gaplab, command: str, epoch: str) -> None:
    _, error = gaplab(command, f"--epoch={epoch}", code=2)
    wanted = 'must be "last", "best", a number from 1 to 2147483647, or "gpu-hours=" with a number'
    assert error == f"gaplab: --epoch {epoch}: {wanted}\n"


def test_any_baseline_effects_and_curves(bench: Bench, gaplab: Gaplab) -> None:
    for seed in (0, 1, 2):
        bench.add("poto", 0.9, seed)
        bench.add("fcos", 0.3, seed)
    out, _ = gaplab("compare", "--to", "fcos")
    assert "to fcos" in out
    assert re.search(r"poto .* better by \d+\.\d AP", out)
    assert re.search(r"fcos .* baseline", out)
    rows = json.loads(gaplab("compare", "--to", "assignment=fcos", "--json")[0])
    assert [row["baseline"] for row in rows] == [{"assignment": "fcos"}] * 2
    assert rows[0]["ap_to_baseline_p_holm"] == rows[0]["ap_to_baseline_p"] < 0.05
    key, within = json.loads(gaplab("compare", "--effects", "--json")[0])
    assert (key["key"], key["levels"], within["key"]) == (
        *("assignment", ["fcos", "poto"], "within groups"),
    )
    assert key["ap_share"] + within["ap_share"] == pytest.approx(100)
    assert "assignment explains most of the spread" in gaplab("compare", "--effects")[0]
    curves = json.loads(gaplab("compare", "--over", "epochs", "--json")[0])
    assert [(row["assignment"], row["epoch"], row["n"]) for row in curves] == [
        *(("poto", 3, 3), ("fcos", 3, 3)),
    ]
    out, _ = gaplab("compare", "--over", "epochs")
    assert out.count("by epoch: means over seeds") == 2


@pytest.mark.parametrize(
    "words", [("--effects", "--over", "epochs"), ("--over", "epochs", "--epoch", 3)]
)
def test_views_that_exclude_each_other(bench: Bench, gaplab: Gaplab, words: Sequence[str]) -> None:
    assert "give one of them\n" in gaplab("compare", *words, code=2)[1]


def test_many_keys_share_a_column(bench: Bench, gaplab: Gaplab) -> None:
    """A group has the keys in which it differs from most others; the legend has these."""
    for name, seed in (("poto", 0), ("fcos", 0), ("fcos", 1)):
        bench.add(name, 0.9, seed)
    keys = ("assignment", "seed", "epochs", "family", "dataset")
    words = [word for key in keys for word in ("--by", key)]
    out, _ = gaplab("compare", *words)
    assert re.search(r"^ fcos seed=1 +", out, re.MULTILINE)
    assert re.search(r"^ poto +3/3", out, re.MULTILINE)
    assert "unless named: seed=0, epochs=3, family=o2o, dataset=shapes" in out


def test_a_leaderboard_is_cut_and_says_so(bench: Bench, gaplab: Gaplab) -> None:
    for seed, quality in enumerate((0.3, 0.9, 0.6)):
        bench.add("poto", quality, seed=seed)
    every = json.loads(gaplab("leaderboard", "--json")[0])
    assert [row["ap"] for row in every] == sorted((row["ap"] for row in every), reverse=True)
    out, _ = gaplab("leaderboard", "--top", 1)
    assert "1 of 3 rows, 2 more with --top 0" in out
    where = 'assignment.name == "poto" and seed in (0, 2) and ap > 0'
    cut = json.loads(gaplab("leaderboard", "--top", 1, "--where", where, "--json")[0])
    assert cut == [row for row in every if row["seed"] != 1][:1]
    lowest = json.loads(gaplab("leaderboard", "--pareto", "seed", "ap_nms", "--json")[0])
    assert lowest[0]["seed"] == 1


def test_groups_of_a_leaderboard(bench: Bench, gaplab: Gaplab) -> None:
    for name, seed in (("poto", 0), ("poto", 1), ("fcos", 0)):
        bench.add(name, 0.9, seed=seed)
    out, _ = gaplab("leaderboard", "--group", "assignment", "--json")
    groups = {row["assignment"]: row for row in json.loads(out)}
    rows = json.loads(gaplab("leaderboard", "--json", "--where", "assignment=poto")[0])
    aps = [row["ap"] for row in rows]
    assert (groups["poto"]["trials"], groups["fcos"]["ap_std"]) == (2, None)
    assert groups["poto"]["ap_mean"] == pytest.approx(sum(aps) / 2)
    assert groups["poto"]["ap_std"] == pytest.approx(abs(aps[0] - aps[1]) / 2**0.5)
    out, _ = gaplab("leaderboard", "--group", "assignment")
    assert "poto" in out
    assert "mean±standard deviation over trials" in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--where", "ap > 1 and sede == 1"], "sede: no such key; did you mean seed? (in: ap > 1 "),
        (["--where", "ap >"], "not a condition; write KEY=VALUE"),
        (["--sort", "app"], "app: no such key; did you mean ap"),
        (["--group", "nothing"], "nothing: no such key"),
        (["--pareto", "ap", "coste"], "coste: no such key"),
        (["--metric", "ap_smal"], "ap_smal: no such key; did you mean ap_small"),
        (["--epoch", "gpu-hours=x"], "--epoch gpu-hours=x: must be"),
    ],
)
def test_wrong_names(bench: Bench, gaplab: Gaplab, words: list[str], problem: str) -> None:
    bench.add("poto", 0.9)
    out, err = gaplab("leaderboard", *words, code=2)
    assert out == ""
    assert problem in err


def test_nothing_matches(bench: Bench, gaplab: Gaplab) -> None:
    bench.add("poto", 0.9)
    out, err = gaplab("leaderboard", "--where", "ap > 0", "--where", "seed=7", "--json")
    assert json.loads(out) == []
    assert "no row: seed=7 holds for none of 1 row" in err


def test_a_sweep_has_its_own_protocol(bench: Bench, gaplab: Gaplab) -> None:
    trials = [
        trial_record(f"t{at}", config={"evaluation": {"protocol": {"preset": name}}, "n": at})
        for at, name in enumerate(("onenet", "onenet", "detr"))
    ]
    bench.ledger.add_sweep(sweep_record("one", *trials[:1]))
    bench.ledger.add_sweep(sweep_record("two", *trials[1:]))
    attempt = bench.ledger.start_attempt(Claim(trials[0].id, "one", machine=MACHINE))
    bench.ledger.record(evaluation_record(trials[0].id, 3, protocol="onenet"), attempt)
    out, err = gaplab("leaderboard", "--sweep", "one", "--json")
    assert [row["protocol"] for row in json.loads(out)] == ["onenet"]
    assert "sweep one: 0 of 1 trials have succeeded, 1 running" in err
    _, err = gaplab("leaderboard", "--sweep", "two", code=2)
    assert "evaluated under detr and onenet, which are never mixed; choose one" in err


def test_swept_keys_are_columns(bench: Bench, gaplab: Gaplab) -> None:
    trials = [
        trial_record(f"t{alpha}", config={"assignment": {"name": "poto", "alpha": alpha}})
        for alpha in (0.25, 0.5)
    ]
    bench.ledger.add_sweep(sweep_record("one", *trials))
    for trial in trials:
        attempt = bench.ledger.start_attempt(Claim(trial.id, "one", machine=MACHINE))
        bench.ledger.record(evaluation_record(trial.id, 3), attempt)
    rows = json.loads(gaplab("leaderboard", "--json", "--top", 1)[0])
    assert rows[0]["assignment.alpha"] in (0.25, 0.5)
    out, _ = gaplab("leaderboard", "--metric", "attempts", "--metric", "epochs_to_90")
    header = next(line for line in out.splitlines() if "trial" in line)
    assert header.split()[:3] == ["trial", "assignment", "alpha"]
    assert {"attempts", "epochs_to_90"} <= set(header.split())


def test_compare_uses_the_protocol_of_the_sweep(
    bench: Bench, gaplab: Gaplab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaplab.ledger.Reader.own_protocols", lambda self, sweep: ["crowdhuman"])
    bench.add_crowd("poto", 39.0)
    [group] = json.loads(gaplab("compare", "--sweep", "s-crowd-poto", "--json")[0])
    assert (group["protocol"], group["ap_mean"]) == ("crowdhuman", 39.0)


@pytest.mark.parametrize(
    "words", [["leaderboard"], ["leaderboard", "--group", "seed"], ["compare"]]
)
def test_what_a_selection_lacks_is_written(bench: Bench, gaplab: Gaplab, words: list[str]) -> None:
    bench.add("poto", 0.9)
    waiting = trial_record("late", config={"assignment": {"name": "poto"}, "seed": 1}, seed=1)
    finished = bench.ledger.find_trial("poto0").record()
    bench.ledger.add_sweep(sweep_record("half", finished, waiting))
    half = "gaplab: sweep half: 1 of 2 trials have succeeded, 1 waiting"
    for form in ("--json", "--csv", "--latex"):
        _, err = gaplab(*words, "--sweep", "half", form)
        assert err.splitlines() == [half]
        where = ["--where", "ap > 0", "--where", 'assignment == "x\x1b[31m"']
        _, err = gaplab(*words, "--sweep", "half", *where, form)
        nothing = 'no row: assignment == "x\\x1b[31m" holds for none of 1 row that match the'
        assert err.splitlines()[0].startswith(f"gaplab: {nothing}")
        assert err.splitlines()[1:] == [half]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (
            ["leaderboard", "--group", "seed", "--metric", "ar1"],
            "gaplab compare --by seed --metric",
        ),
        (["leaderboard", "--group", "seed", "--pareto", "ap", "cost"], "leave out --metric and"),
        (["compare", "--effects", "--metric", "ar1"], "--metric ar1: --effects and --over show"),
        (["compare", "--over", "epochs", "--metric", "ar1"], "--metric ar1: --effects and --over"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    bench: Bench, gaplab: Gaplab, words: list[str], part: str
) -> None:
    bench.add("poto", 0.9)
    _, err = gaplab(*words, code=2)
    assert part in err
    assert err.count("\n") == 1
