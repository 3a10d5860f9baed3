"""Stored candidates whose ground truth was edited, or whose data has moved.

A trial is trained on photographs; then its candidates are replaced by those of a detector that
finds every object exactly: AP is 100, and lower only if the ground truth is not what it was.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from detectors.data.shapes import Shapes
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from detectors.world import LocalWorld
from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.launch.recorder import Recorder
from gaplab.ledger import Ledger
from gaplab.mirror.content import trial_content
from gaplab.records import Claim, Event
from gaplab.results.candidates.reevaluate import find_sources
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand, experiment_of
from gaplab.storage.candidates import Part, write_part
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home

Gaplab = Callable[..., str]
IMAGES = {"train": 4, "val": 24}


def write_photographs(root: Path) -> None:
    """Write drawn images and their objects as a data set of photographs in COCO's format."""
    (root / "images").mkdir(parents=True)
    options = Shapes(size=64, max_side=40.0, train_images=IMAGES["train"], val_images=IMAGES["val"])
    for split in ("train", "val"):
        data, first = options.load(split), 1 if split == "train" else 101
        images, annotations = [], list[dict[str, Any]]()
        for index, truth in enumerate(data.truth()):
            name = f"{first + index}.png"
            Image.fromarray(data[index].image.permute(1, 2, 0).numpy()).save(root / "images" / name)
            images.append({"id": first + index, "file_name": name, "width": 64, "height": 64})
            for (x1, y1, x2, y2), label in zip(truth.boxes.tolist(), truth.labels, strict=True):
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                about = {"image_id": first + index, "category_id": int(label) + 1, "iscrowd": 0}
                annotations.append(box | about | {"id": len(annotations) + 1})
        names = [{"id": i, "name": name} for i, name in enumerate(data.classes, start=1)]
        content = {"images": images, "annotations": annotations, "categories": names}
        (root / f"{split}.json").write_text(json.dumps(content))


def every(root: Path, step: int, to: str = "val.json") -> None:
    """Keep every `step`-th annotation of the validation split in the file `to`."""
    content = json.loads((root / "val.json").read_text())
    content["annotations"] = content["annotations"][::step]
    (root / to).write_text(json.dumps(content))


def exact(truth: GroundTruth) -> Candidates:
    """Return one candidate per object, with its box and class."""
    ones = torch.ones(len(truth.labels))
    points = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    own = (truth.image, truth.boxes, ones * 0.9, truth.labels)
    level = truth.labels * 0
    return Candidates(*own, level, points, ones * 8, level + 64)


@pytest.fixture(scope="module")
def trained(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, and a home with one trial on them whose candidates are exact."""
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder / "data")
    data = {"name": "coco", "root": str(folder / "data"), "height": 64, "width": 64}
    training = {"epochs": 1, "batch": 4, "warmup_steps": 1}
    (folder / "tiny.yaml").write_text(json.dumps(small | {"data": data, "training": training}))
    sweep, home = expand(load_spec(folder / "tiny.yaml")), Home(folder / "home")
    [trial] = sweep.trials
    with Ledger.open(home.ledger_url) as ledger:
        ledger.add_sweep(sweep)
        number, recorder = ledger.start_attempt(Claim(trial.id, sweep.id)), Recorder(ledger, [])
        recorder.add(number, trial.id)
        storage = Storage(str(home.path))

        def emit(event: Event) -> None:
            recorder.handle(number, event)

        run_attempt(trial, storage, emit, run_in_process)
        [source] = find_sources(ledger, storage, ledger.trials(sweep.id), None, None)
        val = experiment_of(trial).data.load("val")
        truth = GroundTruth.of(val.truth(), val.classes)
        write_part(storage, Part(source.subject, truth, 1000, LocalWorld()), exact(truth))
    return folder


@pytest.fixture
def data(trained: Path) -> Path:
    return trained / "data"


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of the home, to write to."""
    return Path(shutil.copytree(trained / "home", tmp_path / "home"))


@pytest.fixture
def trial(home: Path) -> str:
    with Ledger.open(Home(home).ledger_url) as ledger:
        [found] = ledger.all_trials()
        return found.id


@contextmanager
def edited(root: Path, name: str, edit: Callable[[Path], object]) -> Iterator[None]:
    """Edit a file of the data in place, and restore it afterwards."""
    before = (root / name).read_bytes()
    try:
        edit(root)
        yield
    finally:
        (root / name).write_bytes(before)


def numbers(output: str) -> list[tuple[str, float]]:
    """Return the ground truth and AP of each evaluation in JSON lines."""
    found = [json.loads(line) for line in output.splitlines()]
    return [(each["truth"], round(each["metrics"]["ap"], 6)) for each in found]


def stored(home: Path) -> set[tuple[str, str]]:
    """Return protocol and ground truth of all evaluations."""
    with Ledger.open(Home(home).ledger_url) as ledger:
        return {(e.protocol, e.truth) for e in ledger.all_evaluations(truth=None)}


def move_an_object(root: Path) -> None:
    """Move one box of the validation split by half a pixel."""
    content = json.loads((root / "val.json").read_text())
    content["annotations"][0]["bbox"][0] += 0.5
    (root / "val.json").write_text(json.dumps(content))


def append_a_line(root: Path) -> None:
    """Append a line to the annotations of the training split."""
    with (root / "train.json").open("a") as file:
        file.write("\n")


EDITS = {
    "annotations deleted": ("val.json", lambda root: every(root, 10)),
    "an object moved": ("val.json", move_an_object),
    "training split": ("train.json", append_a_line),
}
"""The file that is edited, and how."""
COMMANDS = (["reevaluate", "--protocol", "onenet"], ["explain"])


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_data_is_refused(
    gaplab: Gaplab, home: Path, data: Path, trial: str, edit: str, words: list[str]
) -> None:
    name, change = EDITS[edit]
    with edited(data, name, change):
        error = gaplab(*words, trial, code=2)
    assert error == (
        f"gaplab: trial {trial}: {data}/val.json, the training split or an image has changed since "
        "training; restore the data, give the folder that has it with --set data.root=FOLDER, or "
        "measure against it as other ground truth with --other-truth\n"
    )
    assert stored(home) == {("default", "")}


def test_restored_data_is_measured(gaplab: Gaplab, data: Path, trial: str) -> None:
    with edited(data, *EDITS["annotations deleted"]):
        gaplab("reevaluate", trial, "--protocol", "onenet", code=2)
    found = numbers(gaplab("reevaluate", trial, "--protocol", "onenet", "--json"))
    assert found == [("", 100.0)]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_moved_data_is_found(
    gaplab: Gaplab, data: Path, trial: str, tmp_path: Path, words: list[str]
) -> None:
    """Also under other names of its files: paths are no part of the data."""
    moved = tmp_path / "moved"
    data.rename(moved)
    try:
        line = f"gaplab: {data}: no such folder; set `root` to the data set's folder; if the data"
        error = gaplab(*words, trial, code=2)
        assert error == f"{line} has moved, give its folder with --set data.root=FOLDER\n"
        (moved / "val.json").rename(moved / "check.json")
        place = ["--set", f"data.root={moved}", "--set", "data.val_json=check.json"]
        found = json.loads(gaplab(*words, trial, *place, "--json"))
        (moved / "check.json").rename(moved / "val.json")
    finally:
        moved.rename(data)
    assert found["truth"] == ""
    assert (found["metrics"] if "metrics" in found else found["diagnosis"])["ap"] == 100.0


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("training.epochs=3", "--set training.epochs: only keys of data can be set here"),
        ("data", "--set data: must be key=value"),
        ("data={name: shapes}", "--set data: only keys of data can be set here"),
        ("data.rooot=x", "--set data.rooot: "),
        ("data.cache_mib=many", "--set data.cache_mib: must be an integer"),
        ("data.height=96", "--set data.height: trial ID was trained with another value"),
        ("data.root=OTHER", "trial ID: OTHER/val.json, the training split or an image has changed"),
        ("data.val_json=gone.json", "DATA/gone.json: no such file; correct `val_json`"),
    ],
)
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_wrong_settings(
    gaplab: Gaplab,
    home: Path,
    data: Path,
    trial: str,
    tmp_path: Path,
    words: list[str],
    setting: str,
    line: str,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    every(other, 2)
    names = {"OTHER": str(other), "DATA": str(data), "ID": trial}
    for short, long in names.items():
        setting, line = setting.replace(short, long), line.replace(short, long)
    error = gaplab(*words, trial, "--set", setting, code=2)
    assert error.startswith(f"gaplab: {line}")
    assert error.count("\n") == 1
    assert stored(home) == {("default", "")}


def test_other_truth_is_another_row(gaplab: Gaplab, home: Path, data: Path, trial: str) -> None:
    """Edit the ground truth, be refused, measure against it on purpose, and have both rows."""
    words = ["reevaluate", trial, "--protocol", "onenet", "--json"]
    with edited(data, *EDITS["annotations deleted"]):
        assert "has changed since training" in gaplab(*words, code=2)
        [(truth, ap)] = numbers(gaplab(*words, "--other-truth"))
        assert numbers(gaplab(*words, "--other-truth")) == [(truth, ap)]
    assert len(truth) == 12
    assert 0 < ap < 50
    assert numbers(gaplab(*words)) == [("", 100.0)]
    assert stored(home) == {("default", ""), ("onenet", ""), ("onenet", truth)}
    [(own, ap)] = numbers(gaplab(*words, "--other-truth"))  # the trial's own, compared by content
    assert (len(own), own == truth, ap) == (12, False, 100.0)


@pytest.fixture
def both(gaplab: Gaplab, data: Path, trial: str) -> tuple[str, float]:
    """Measure under `onenet` against both ground truths. Returns digest and AP of the other one."""
    words = ["reevaluate", trial, "--protocol", "onenet", "--json"]
    gaplab(*words)
    with edited(data, *EDITS["annotations deleted"]):
        [found] = numbers(gaplab(*words, "--other-truth"))
    return found


def test_results_against_other_truth_are_shown_on_request(
    gaplab: Gaplab, both: tuple[str, float]
) -> None:
    truth, ap = both
    words = ["--protocol", "onenet", "--json"]
    [row] = json.loads(gaplab("leaderboard", *words))
    assert (row["ap"], row["truth"]) == (100.0, "")
    [row] = json.loads(gaplab("leaderboard", *words, "--truth", truth[:5]))
    assert (row["ap"], row["truth"]) == (pytest.approx(ap), truth)
    table = gaplab("leaderboard", "--protocol", "onenet", "--truth", truth)
    assert f"ground truth {truth}" in " ".join(table.split())
    [group] = json.loads(gaplab("compare", *words, "--truth", truth))
    found = group["ap_mean"], group["truth"], group["over"]
    assert found == (pytest.approx(ap), truth, "images")
    assert group["ap_low"] < ap < group["ap_high"] < 90
    [group] = json.loads(gaplab("compare", *words))
    assert (group["ap_mean"], group["ap_low"], group["truth"]) == (100.0, 100.0, "")


def test_both_are_listed(
    gaplab: Gaplab, home: Path, trial: str, both: tuple[str, float], tmp_path: Path
) -> None:
    truth, _ = both
    shown = [line.split() for line in gaplab("show", trial).splitlines() if " onenet " in line]
    assert [words[3] for words in shown] == ["own", truth]
    listed = json.loads(gaplab("show", trial, "--json"))["evaluations"]
    assert [each["truth"] for each in listed] == ["", "", truth]
    gaplab("export", tmp_path / "out")
    for name in ("evaluations", "classes"):
        table = pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist()
        assert {(e["protocol"], e["truth"]) for e in table} == stored(home)


def test_the_mirror_has_only_the_trials_own(
    home: Path, trial: str, both: tuple[str, float]
) -> None:
    with Ledger.open(Home(home).ledger_url) as ledger:
        [found] = ledger.all_trials()
        content = trial_content("s", found, ledger.attempts(trial), ledger.evaluations(trial))
    assert [p.value for p in content.points if p.key == "onenet.ap"] == [100.0]


def test_other_truth_at_another_place(
    gaplab: Gaplab, data: Path, trial: str, tmp_path: Path
) -> None:
    """A corrected file beside the original; equal content has the same digest anywhere."""
    words = ["reevaluate", trial, "--protocol", "onenet", "--other-truth"]
    shutil.copytree(data, tmp_path / "copy")
    every(tmp_path / "copy", 2, "corrected.json")
    place = ["--set", f"data.root={tmp_path / 'copy'}", "--set", "data.val_json=corrected.json"]
    [(truth, ap)] = numbers(gaplab(*words, *place, "--json"))
    assert truth
    assert 40 < ap < 60
    every(data, 2, "corrected.json")
    again = [*words, "--set", "data.val_json=corrected.json"]
    assert numbers(gaplab(*again, "--json")) == [(truth, ap)]
    output = gaplab(*again)
    assert output.splitlines()[-1].startswith(
        "Measured against other ground truth. Show the results with: gaplab leaderboard --truth "
        f"{truth}"
    )
    (data / "corrected.json").unlink()
    explained = json.loads(
        gaplab("explain", trial, "--protocol=onenet", *words[4:], *place, "--json")
    )
    assert (explained["truth"], explained["diagnosis"]["ap"]) == (truth, pytest.approx(ap))
    output = gaplab("explain", trial, "--other-truth", *place)
    assert f"ground truth {truth}" in " ".join(output.split())


def test_other_truth_needs_the_same_images_and_classes(
    gaplab: Gaplab, data: Path, trial: str
) -> None:
    for name in ("train.json", "val.json"):
        text = (data / name).read_text().replace('"ellipse"', '"ring"')
        (data / f"renamed-{name}").write_text(text)
    place = [x for k in ("train", "val") for x in ("--set", f"data.{k}_json=renamed-{k}.json")]
    error = gaplab("reevaluate", trial, *place, "--other-truth", code=2)
    assert "belongs to another data set (classes only in the dump: ellipse; classes only" in error
    assert error.count("\n") == 1


def test_an_unknown_truth(gaplab: Gaplab, trial: str) -> None:
    for command in ("leaderboard", "compare"):
        error = gaplab(command, "--truth", "abc", code=2)
        assert error.startswith("gaplab: --truth abc: the digest of one other ground truth is need")
        assert error.count("\n") == 1
