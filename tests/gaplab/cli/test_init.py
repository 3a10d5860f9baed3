"""`gaplab init`: a folder of photographs is described, and a spec for it is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from gaplab.spec.files import load_spec
from gaplab.spec.yaml_text import parse_yaml
from tests.photographs import WRITERS, changed, image_of, written

Gaplab = Callable[..., str]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: str) -> dict[str, Any]:
    return TypeAdapter(dict[str, Any]).validate_python(parse_yaml(Path(path).read_text()))


@pytest.mark.parametrize("name", [*WRITERS, "crowdhuman"])
def test_a_written_spec_can_be_planned(gaplab: Gaplab, name: str) -> None:
    written(name, Path("Our Pets"))
    output = gaplab("init", "Our Pets")
    rows = [line.split() for line in output.splitlines()]
    assert ["train", "3", "1", "3", "0", "2", "1", "0"] in rows
    # two of four objects overlap, and NMS removes one of them: of three classes, or of one
    ceiling = "75.0" if name == "crowdhuman" else "83.3"
    assert ["val", "50.0", "50.0", "50.0", ceiling] in rows
    assert output.endswith("  gaplab run our-pets.yaml\n")
    spec = read("our-pets.yaml")
    assert spec["name"] == "our-pets"
    assert (spec["data"]["name"], spec["data"]["root"]) == (name, str(Path("Our Pets").absolute()))
    planned = gaplab("plan", "our-pets.yaml")
    assert "4 trials: 0 already in the ledger, 4 to run" in planned
    assert [v.sections["data"].value.load("val") for v in load_spec("our-pets.yaml").variants]


def test_the_input_has_the_aspect_ratio_of_the_pictures(gaplab: Gaplab) -> None:
    wide = {
        split: [type(p)(p.name, (128, 64), (("cat", (8, 8, 40, 40)),)) for p in photographs]
        for split, photographs in changed().items()
    }
    written("coco", Path("pets"), wide)
    output = gaplab("init", "pets")
    assert "pictures: 128x64; input of the detector: 128x64, in which a tenth of" in output
    data = read("pets.yaml")["data"]
    assert (data["width"], data["height"], data["planned_images"]) == (128, 64, 3)
    gaplab("init", "pets", "--side", "96", "-o", "small.yaml")
    data = read("small.yaml")["data"]
    assert (data["width"], data["height"]) == (96, 48)


def test_upright_and_wide_pictures(gaplab: Gaplab) -> None:
    written("coco", Path("pets"))
    gaplab("init", "pets")
    data = read("pets.yaml")["data"]
    assert (data["portrait"], data["width"], data["height"]) == ("turn", 64, 48)


def test_json(gaplab: Gaplab) -> None:
    written("voc", Path("pets"))
    found = json.loads(gaplab("init", "pets", "--json"))
    assert found["spec"] == "pets.yaml"
    assert found["data"] == read("pets.yaml")["data"]
    assert found["crowding"]["val"]["above"] == {"0.1": 0.5, "0.3": 0.5, "0.5": 0.5}
    assert found["splits"]["train"]["classes"] == {"cat": 1, "dog": 1, "hen": 1}


def test_a_data_yaml(gaplab: Gaplab) -> None:
    written("yolo", Path("pets"))
    gaplab("init", "pets/data.yaml")
    assert read("pets.yaml")["data"]["name"] == "yolo"


@pytest.mark.parametrize("folder", [".", "images/.."])
def test_the_name_is_that_of_the_folder_itself(
    gaplab: Gaplab, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    written("coco", Path("pets"))
    monkeypatch.chdir("pets")
    gaplab("init", folder, "-o", "../here.yaml")
    assert read("../here.yaml")["name"] == "pets"


def test_what_is_skipped_is_noted_and_kept_in_the_spec(gaplab: Gaplab) -> None:
    written("coco", Path("pets"), changed(a2=[("dog", (4, 6, 4, 36))]))
    output = gaplab("init", "pets", "--set", "data.on_bad=skip")
    assert "left out boxes without width" in output
    assert read("pets.yaml")["data"]["on_bad"] == "skip"


def test_an_existing_file_is_kept(gaplab: Gaplab) -> None:
    written("coco", Path("pets"))
    Path("pets.yaml").write_text("mine")
    assert gaplab("init", "pets", code=2) == (
        "gaplab: pets.yaml: already exists; remove it, or name another file with -o\n"
    )
    assert Path("pets.yaml").read_text() == "mine"
    gaplab("init", "pets", "-o", "other.yaml")
    assert read("other.yaml")["name"] == "pets"


HOSTILE = "a'\"; DROP TABLE trial; --\nname: x\x1b[31m <b>"


def test_hostile_names_stay_text(gaplab: Gaplab) -> None:
    folder = Path(HOSTILE.replace("/", ""))
    written("coco", folder)
    for split in ("train", "val"):
        document = json.loads((folder / f"{split}.json").read_text())
        for each in document["categories"]:
            each["name"] += "'\"; DROP TABLE trial; -- <b> # [red]"
        (folder / f"{split}.json").write_text(json.dumps(document))
    output = gaplab("init", folder)
    assert "\x1b" not in output
    assert "\nname: x" not in output
    (path,) = Path().glob("*.yaml")
    assert path.name == "a-drop-table-trial-name-x-31m-b.yaml"
    spec = read(path.name)
    assert spec["name"] == path.stem
    assert spec["data"]["root"] == str(folder.absolute())
    assert "4 to run" in gaplab("plan", path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere: no such folder"),
        (("nowhere.yaml",), "nowhere.yaml: is neither the folder of a data set nor a data.yaml"),
        (("empty",), "empty: no data set is recognised here; looked for data.yaml (YOLO)"),
        (("both",), "both: has several data sets (crowdhuman; coco"),
        (("labels",), "labels: has labels of YOLO, but no data.yaml"),
        (("pets", "--as", "voc"), "pets: no data set is recognised here"),
        (("pets", "-o", "no/where.yaml"), "no/where.yaml: its folder does not exist"),
        (("pets", "-o", "x" * 300), "free space or allow writing there, or use another folder"),
        (("pets", "--set", "data.width=64"), "--set data.width: the input keeps the aspect ratio"),
        (("pets", "--set", "seed=1"), "--set seed: only keys of `data` can be set"),
        (("broken",), "broken/val.json: image files missing"),
    ],
)
def test_wrong_input_is_one_line(gaplab: Gaplab, words: tuple[str, ...], message: str) -> None:
    for folder in ("pets", "both", "broken"):
        written("coco", Path(folder))
    written("crowdhuman", Path("both"))
    image_of(Path("broken"), "c1").unlink()
    Path("empty").mkdir()
    Path("labels/labels").mkdir(parents=True)
    Path("labels/labels/a.txt").write_text("0 .5 .5 .1 .1\n")
    error = gaplab("init", *words, code=2)
    assert message in error
    assert len(error.splitlines()) == 1
    assert not [*Path().glob("*.yaml")]
