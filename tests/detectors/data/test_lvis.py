import json
from pathlib import Path

import pytest
import torch

from detectors.data.base import DataError
from detectors.data.coco import Coco
from detectors.data.lvis import Lvis
from tests.photographs import image_of, written


def test_images_are_found_by_the_end_of_their_url(tmp_path: Path) -> None:
    data = written("lvis", tmp_path).load("val")
    assert len(data) == 2
    for index, place in enumerate(("train2017/c1.jpg", "val2017/c2.jpg")):
        assert (tmp_path / place).is_file()
        assert data[index].image_id == index + 1


def test_a_note_says_which_ap_it_is(tmp_path: Path) -> None:
    options = written("lvis", tmp_path)
    assert options.load("train").notes == ()
    (note,) = options.load("val").notes
    assert note.startswith(f"{tmp_path / 'lvis_v1_val.json'}: AP is COCO's over all classes")


def test_a_missing_image_is_named_by_its_folder(tmp_path: Path) -> None:
    options = written("lvis", tmp_path)
    image_of(tmp_path, "a2").unlink()
    with pytest.raises(DataError, match=r"1 \(train2017/a2\.jpg\): add them"):
        options.load("train")


@pytest.mark.parametrize("key", ["coco_url", "file_name"])
def test_an_image_without_a_name(tmp_path: Path, key: str) -> None:
    """A name that is missing or wrong is a problem of the image, whatever else it has."""
    options = written("lvis", tmp_path)
    path = tmp_path / "lvis_v1_train.json"
    document = json.loads(path.read_text())
    document["images"][0][key] = 7
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"not COCO: 1 \(images\[0\]\.file_name: "):
        options.load("train")


def test_coco_reads_the_same_files(tmp_path: Path) -> None:
    lvis = written("lvis", tmp_path).load("train")
    places = {f"{split}_json": f"lvis_v1_{split}.json" for split in ("train", "val")}
    folders = {f"{split}_images": "." for split in ("train", "val")}
    raw = {"root": str(tmp_path), "height": 96, "width": 128, **places, **folders}
    coco = Coco.model_validate(raw).load("train")
    assert all(torch.equal(lvis[i].image, coco[i].image) for i in range(3))


def test_a_name_is_preferred_to_a_url(tmp_path: Path) -> None:
    options = written("lvis", tmp_path)
    path = tmp_path / "lvis_v1_train.json"
    document = json.loads(path.read_text())
    for image in document["images"]:
        image["file_name"] = image["coco_url"][-16:]
        image["coco_url"] = "elsewhere/nothing.jpg"
    path.write_text(json.dumps(document))
    assert len(options.load("train")) == 3


def test_defaults_are_those_of_the_download() -> None:
    options = Lvis(root="lvis")
    assert (options.train_json, options.val_images) == ("lvis_v1_train.json", ".")
