"""`gaplab data`: folders and specs are checked and converted, without training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detectors.data import DATASETS
from gaplab.spec.yaml_text import parse_yaml
from tests.photographs import WRITERS, changed, image_of, written

Gaplab = Callable[..., str]


def section(output: str) -> dict[str, Any]:
    """The data section at the end of what a command printed."""
    found: dict[str, Any] = parse_yaml(output[output.index("\ndata:\n") :])["data"]
    return found


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


@pytest.mark.parametrize("name", [*WRITERS, "crowdhuman"])
def test_a_folder_is_checked(gaplab: Gaplab, tmp_path: Path, name: str) -> None:
    written(name, tmp_path / "pets")
    output = gaplab("data", "check", tmp_path / "pets")
    assert ["train", "3", "1", "3", "0", "2", "1", "0"] in rows(output)
    assert ["val", "2", "0", "4", "0", "4", "0", "0"] in rows(output)
    classes = {"person": ("3", "4")} if name == "crowdhuman" else {"cat": ("1", "2")}
    for label, counts in classes.items():
        assert [label, *counts] in rows(output)
    printed = section(output)
    assert printed["planned_images"] == 3
    assert len(DATASETS[name].model_validate(printed).load("val")) == 2


def test_problems_are_printed_after_the_counts(gaplab: Gaplab, tmp_path: Path) -> None:
    written("coco", tmp_path, changed(a2=[("dog", (4, 6, 4, 36))]))
    image_of(tmp_path, "c1").unlink()
    error = gaplab("data", "check", tmp_path, code=2)
    first, second = error.splitlines()
    assert first.startswith(f"gaplab: {tmp_path / 'train.json'}: boxes without width or height: 1")
    assert second.startswith(f"gaplab: {tmp_path / 'val.json'}: image files missing")


def test_what_is_skipped_is_noted(gaplab: Gaplab, tmp_path: Path) -> None:
    written("coco", tmp_path, changed(a2=[("dog", (4, 6, 4, 36))]))
    output = gaplab("data", "check", tmp_path, "--set", "data.on_bad=skip")
    assert f"note: {tmp_path / 'train.json'}: left out boxes without width" in output
    assert section(output)["on_bad"] == "skip"


def test_json(gaplab: Gaplab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written("voc", tmp_path)
    (found,) = json.loads(gaplab("data", "check", tmp_path, "--json"))
    assert found["data"]["name"] == "voc"
    assert found["splits"]["train"]["classes"] == {"cat": 1, "dog": 1, "hen": 1}
    assert (found["notes"], found["problems"]) == ([], [])


def test_json_with_problems(gaplab: Gaplab, tmp_path: Path) -> None:
    written("yolo", tmp_path)
    image_of(tmp_path, "c1").write_text("no image")
    assert gaplab("data", "check", tmp_path, "--json", code=2) == ""


def test_a_spec_is_checked(gaplab: Gaplab, tmp_path: Path) -> None:
    written("coco", tmp_path / "pets")
    spec = {
        "name": "both",
        "data": {"name": "coco", "root": str(tmp_path / "pets"), "title": "Pets"},
        "detector": {"name": "fcos"},
        "assignment": {"name": "poto"},
        "grid": {"data.height": [96, 128], "seed": [0, 1]},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    found = json.loads(gaplab("data", "check", path, "--json"))
    assert [each["data"]["height"] for each in found] == [96, 128]
    assert [each["splits"]["val"]["images"] for each in found] == [2, 2]
    one = json.loads(gaplab("data", "check", path, "--set", "data.height=64", "--json"))
    assert [each["data"]["height"] for each in one] == [64]
    error = gaplab("data", "convert", path, tmp_path / "new", code=2)
    assert "has several data sets (Pets, Pets); choose one with --set" in error


def test_a_data_yaml_is_checked(gaplab: Gaplab, tmp_path: Path) -> None:
    written("yolo", tmp_path)
    printed = section(gaplab("data", "check", tmp_path / "data.yaml"))
    assert (printed["name"], printed["root"]) == ("yolo", str(tmp_path))


def test_drawn_images_are_checked_but_not_converted(gaplab: Gaplab, tmp_path: Path) -> None:
    spec = {
        "name": "drawn",
        "data": {"name": "shapes", "size": 64, "max_side": 40.0, "train_images": 4},
        "detector": {"name": "fcos"},
        "assignment": {"name": "poto"},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert section(gaplab("data", "check", path))["train_images"] == 4
    error = gaplab("data", "convert", path, tmp_path / "new", code=2)
    assert "has no image files to convert" in error


@pytest.mark.parametrize("name", WRITERS)
def test_a_converted_folder_is_recognised(gaplab: Gaplab, tmp_path: Path, name: str) -> None:
    written(name, tmp_path / "old")
    output = gaplab("data", "convert", tmp_path / "old", tmp_path / "new")
    assert f"{tmp_path / 'new' / 'train.json'}: 3 images" in output
    printed = section(output)
    assert len(DATASETS["coco"].model_validate(printed).load("val")) == 2
    (found,) = json.loads(gaplab("data", "check", tmp_path / "new", "--json"))
    assert found["data"] == {**printed, "planned_images": 3, "planned_classes": 3}


def test_what_is_done_with_exif_orientations_is_kept(gaplab: Gaplab, tmp_path: Path) -> None:
    written("coco", tmp_path / "old")
    words = ("data", "convert", tmp_path / "old", tmp_path / "new")
    assert section(gaplab(*words, "--set", "data.exif=ignore"))["exif"] == "ignore"


def test_one_split_is_divided(gaplab: Gaplab, tmp_path: Path) -> None:
    objects = changed(b4=[("hen", (1, 1, 9, 9))])
    written("coco", tmp_path / "old", {"train": objects["train"]})
    printed = section(gaplab("data", "check", tmp_path / "old"))
    assert (printed["val_fraction"], printed["planned_images"]) == (0.2, 2)
    gaplab("data", "convert", tmp_path / "old", tmp_path / "new")
    (found,) = json.loads(gaplab("data", "check", tmp_path / "new", "--json"))
    assert [found["splits"][split]["images"] for split in ("train", "val")] == [2, 1]


def test_a_data_set_with_problems_is_not_converted(gaplab: Gaplab, tmp_path: Path) -> None:
    written("coco", tmp_path / "old", changed(a2=[("dog", (4, 6, 4, 36))]))
    words = ("data", "convert", tmp_path / "old", tmp_path / "new")
    assert "boxes without width or height" in gaplab(*words, code=2)
    assert {path.name for path in tmp_path.iterdir()} == {"old"}
    gaplab(*words, "--set", "data.on_bad=skip", "--copy")
    assert not image_of(tmp_path / "new", "a2").is_symlink()
    assert "new: already exists" in gaplab(*words, "--set", "data.on_bad=skip", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere: no such folder"),
        (("nowhere.yaml",), "nowhere.yaml: No such file"),
        (("empty",), "empty: no data set is recognised here; looked for data.yaml (YOLO)"),
        (("pets", "--as", "voc"), "pets: no data set is recognised here"),
        (("both",), "both: has several data sets (crowdhuman; coco"),
        (("pets", "--profile", "paper"), "pets: --profile needs a spec"),
        (("pets", "--set", "seed=1"), "--set seed: only keys of `data` can be set for a folder"),
        (
            ("pets", "--set", "data.hight=64"),
            '--set data.hight: unknown key; did you mean "height"',
        ),
        (("pets", "--set", "data.height=1"), "--set data.height: "),
    ],
)
def test_wrong_input(
    gaplab: Gaplab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    written("coco", tmp_path / "pets")
    written("coco", tmp_path / "both")
    written("crowdhuman", tmp_path / "both")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    error = gaplab("data", "check", *words, code=2)
    assert message in error
    assert len(error.splitlines()) == 1


def test_one_of_several_formats_is_chosen(gaplab: Gaplab, tmp_path: Path) -> None:
    written("coco", tmp_path)
    written("crowdhuman", tmp_path)
    assert section(gaplab("data", "check", tmp_path, "--as", "coco"))["name"] == "coco"


def test_many_classes_are_cut(gaplab: Gaplab, tmp_path: Path) -> None:
    written("coco", tmp_path)
    for split in ("train", "val"):
        path = tmp_path / f"{split}.json"
        document = json.loads(path.read_text())
        document["categories"] += [{"id": 100 + i, "name": f"more{i}"} for i in range(30)]
        path.write_text(json.dumps(document))
    output = gaplab("data", "check", tmp_path)
    assert "the first 20 of 33 classes; --json lists all" in " ".join(output.split())
    assert "more16" in output
    assert "more17" not in output
