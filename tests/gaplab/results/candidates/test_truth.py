"""Which ground truth belongs to a trial: by fingerprint, or by the id of trials without one."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.records import TrialRecord
from gaplab.results.candidates.truth import OWN, Truth, TruthOptions, load_truths
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, experiment_of
from tests.builders import SECTIONS, make_spec
from tests.gaplab.spec.specs import coco

OTHER = TruthOptions(other=True)


def trials(*data: dict[str, Any], **grid: Sequence[Any]) -> tuple[TrialRecord, ...]:
    return expand(resolve(make_spec(SECTIONS, grid={"data": list(data), **grid}))).trials


def fingerprint(trial: TrialRecord) -> str:
    return experiment_of(trial).data.fingerprint()


def load(options: TruthOptions, *pairs: tuple[TrialRecord, str]) -> dict[str, Truth]:
    return load_truths(pairs, options)


def refused(options: TruthOptions, *pairs: tuple[TrialRecord, str]) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        load(options, *pairs)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def move_the_box(root: Path) -> None:
    path = root / "val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("known", [True, False], ids=["fingerprint", "id"])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_unchanged_data(tmp_path: Path, known: bool, version: int) -> None:
    """Also of a trial of another version of the training code, which changes only its id."""
    [trial] = trials(coco(tmp_path / "a"))
    pairs = [(trial, fingerprint(trial) if known else "")]
    if version != trial.results_version and known:
        pairs = [(replace(trial, results_version=version), pairs[0][1])]
    found = load(OWN, *pairs)
    assert found.keys() == {trial.id}
    assert found[trial.id].digest == ""
    assert found[trial.id].data.boxes.tolist() == [[4, 4, 24, 24]]
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = TruthOptions((f"data.root={tmp_path / 'b'}",))
    assert load(moved, *pairs)[trial.id].digest == ""
    compared = load(replace(moved, other=True), *pairs)[trial.id]
    assert compared.digest == compared.data.digest()[:12]


@pytest.mark.parametrize("known", [True, False], ids=["fingerprint", "id"])
def test_changed_data(tmp_path: Path, known: bool) -> None:
    [trial] = trials(coco(tmp_path / "a"))
    pair = (trial, fingerprint(trial) if known else "")
    move_the_box(tmp_path / "a")
    assert refused(OWN, pair) == (
        f"trial {trial.id}: {tmp_path}/a/val.json, the training split or an image has changed "
        "since training; restore the data, give the folder that has it with --set "
        "data.root=FOLDER, or measure against it as other ground truth with --other-truth",
    )
    found = load(OTHER, pair)[trial.id]
    assert found.digest == found.data.digest()[:12]
    assert found.data.boxes.tolist() == [[5, 4, 25, 24]]


def test_all_problems_at_once_and_one_line_per_data_set(tmp_path: Path) -> None:
    photographs = [coco(tmp_path / name, 16 * n) for n, name in enumerate("abc")]
    found = trials(*photographs, {"name": "shapes"}, seed=[0, 1, 2, 3, 4])
    pairs = [(each, "") for each in found]
    move_the_box(tmp_path / "b")
    (tmp_path / "c" / "val.json").unlink()
    missing, changed = refused(OWN, *pairs)
    assert missing == (
        f"{tmp_path}/c/val.json: no such file; correct `val_json`; if the data has moved, give its "
        "folder with --set data.root=FOLDER"
    )
    own = [each.id for each in found if each.config["data"].get("root") == f"{tmp_path}/b"]
    assert changed.startswith(
        f"5 trials ({own[0]}, {own[1]}, {own[2]}, ...): {tmp_path}/b/val.json"
    )
    kept = [pair for pair in pairs if pair[0].config["data"].get("root") != f"{tmp_path}/c"]
    assert len({truth.digest for truth in load(OTHER, *kept).values()}) == 3  # a, b and shapes


def test_an_option_that_changes_the_truth_needs_other_truth(tmp_path: Path) -> None:
    [trial] = trials({"name": "shapes"})
    settings = ("data.seed=5", "data.val_images=7")
    assert refused(TruthOptions(settings), (trial, "")) == tuple(
        f"--set {key}: trial {trial.id} was trained with another value; leave it out, or measure "
        "against other ground truth with --other-truth"
        for key in ("data.seed", "data.val_images")
    )
    found = load(TruthOptions(settings, other=True), (trial, ""))[trial.id]
    assert (len(found.digest), len(found.data)) == (12, 7)
    same = TruthOptions((f"data.seed={trial.config['data']['seed']}",))
    assert load(same, (trial, ""))[trial.id].digest == ""


def test_other_truth_needs_no_training_images(tmp_path: Path) -> None:
    [trial] = trials(coco(tmp_path / "a"))
    shutil.move(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "images" / "1.png").unlink()
    moved = TruthOptions((f"data.root={tmp_path / 'b'}",))
    [problem] = refused(moved, (trial, ""))
    assert problem.startswith(f"{tmp_path}/b/train.json: ")
    assert "1.png" in problem
    assert load(replace(moved, other=True), (trial, ""))[trial.id].digest


def test_no_trials() -> None:
    assert load(OWN) == {}
