"""Data sets of every format, written as COCO files, and their counts."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO

from detectors.data.base import DataError, Split
from detectors.data.coco import Coco
from detectors.data.coco_writer import write_coco
from detectors.data.photos import PhotoDataset, Photos
from detectors.data.recognise import recognise
from detectors.data.shapes import Shapes
from detectors.data.summary import Counts, count, summarise
from tests.photographs import WRITERS, changed, image_of, splits, written

SPLITS: tuple[Split, Split] = ("train", "val")
each_format = pytest.mark.parametrize("name", [*WRITERS, "crowdhuman"])


def loaded(options: Photos) -> dict[Split, PhotoDataset]:
    found = {split: options.load(split) for split in SPLITS}
    return {split: data for split, data in found.items() if isinstance(data, PhotoDataset)}


def reread(folder: Path) -> Coco:
    places = {f"{split}_images": f"images/{split}" for split in SPLITS}
    return Coco.model_validate({"root": str(folder), "height": 96, "width": 128, **places})


@each_format
@pytest.mark.parametrize("copy", [False, True])
def test_a_written_data_set_is_the_same(tmp_path: Path, name: str, copy: bool) -> None:
    data = loaded(written(name, tmp_path / "old"))
    write_coco(data, tmp_path / "deep" / "new", copy=copy)
    again = reread(tmp_path / "deep" / "new")
    for split in SPLITS:
        old, new = data[split], again.load(split)
        assert new.classes == old.classes
        for one, other in zip(old.truth(), new.truth(), strict=True):
            assert (one.image_id, one.width, one.height) == (
                other.image_id,
                other.width,
                other.height,
            )
            assert torch.allclose(one.boxes, other.boxes, rtol=0, atol=1e-9)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.area, other.area)
            assert torch.equal(one.crowd, other.crowd)
        assert all(torch.equal(old[i].image, new[i].image) for i in range(len(old)))
    links = [path.is_symlink() for path in (tmp_path / "deep" / "new").rglob("*.jpg")]
    assert links == [not copy] * 5
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]


@each_format
def test_other_tools_read_it(tmp_path: Path, name: str) -> None:
    data = loaded(written(name, tmp_path / "old"))
    write_coco(data, tmp_path / "new", copy=False)
    for split in SPLITS:
        with redirect_stdout(StringIO()):
            read = COCO(str(tmp_path / "new" / f"{split}.json"))
        for truth in data[split].truth():
            (image,) = read.loadImgs(truth.image_id)
            assert (image["width"], image["height"]) == (truth.width, truth.height)
            assert (tmp_path / "new" / "images" / split / image["file_name"]).is_file()
            found = read.loadAnns(read.getAnnIds(truth.image_id))
            assert [each["area"] for each in found] == truth.area.tolist()
            names = [read.loadCats(each["category_id"])[0]["name"] for each in found]
            assert names == [data[split].classes[label] for label in truth.labels]


def test_real_photographs_are_recognised_and_written(bccd: Path, tmp_path: Path) -> None:
    (section,) = recognise(bccd)
    options = Coco.model_validate({**section, "height": 240, "width": 320, "verify": "header"})
    found = summarise(options)
    assert found.problems == ()
    for split in SPLITS:
        raw = json.loads((bccd / f"{split}.json").read_text())
        counts = found.splits[split]
        assert (counts.images, counts.objects) == (len(raw["images"]), len(raw["annotations"]))
        assert counts.small + counts.medium + counts.large == counts.objects
    data = loaded(options)
    write_coco(data, tmp_path / "new", copy=False)
    again = reread(tmp_path / "new").model_copy(update={"height": 240, "width": 320})
    old, new = data["val"], again.load("val")
    assert all(
        torch.allclose(one.boxes, other.boxes, rtol=0, atol=1e-9)
        for one, other in zip(old.truth(), new.truth(), strict=True)
    )
    assert torch.equal(old[0].image, new[0].image)


def test_crowd_regions_and_areas_are_kept(tmp_path: Path) -> None:
    options = written("coco", tmp_path / "old")
    path = tmp_path / "old" / "train.json"
    document = json.loads(path.read_text())
    document["annotations"][0] |= {"iscrowd": 1, "area": 7.25}
    path.write_text(json.dumps(document))
    write_coco(loaded(options), tmp_path / "new", copy=False)
    truth = reread(tmp_path / "new").load("train").truth()[0]
    assert truth.crowd.tolist() == [True, False]
    assert truth.area[0] == 7.25


def test_images_of_one_name_in_several_folders(tmp_path: Path) -> None:
    options = written("coco", tmp_path / "old")
    root = tmp_path / "old"
    document = json.loads((root / "train.json").read_text())
    for i, image in enumerate(document["images"]):
        new = root / "images" / f"camera{i}" / "shot.jpg"
        new.parent.mkdir()
        (root / "images" / image["file_name"]).rename(new)
        image["file_name"] = f"camera{i}/shot.jpg"
    (root / "train.json").write_text(json.dumps(document))
    data = loaded(options)
    write_coco(data, tmp_path / "new", copy=False)
    new_data = reread(tmp_path / "new").load("train")
    assert all(torch.equal(data["train"][i].image, new_data[i].image) for i in range(3))


@pytest.mark.parametrize("existing", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, existing: str) -> None:
    data = loaded(written("coco", tmp_path / "old"))
    target = tmp_path / "new"
    held = target if existing == "file" else target / "precious.txt"
    held.parent.mkdir(exist_ok=True)
    held.write_text("precious")
    with pytest.raises(DataError, match="new: already exists; name a folder that does not"):
        write_coco(data, target, copy=False)
    assert held.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write_coco(loaded(written("coco", tmp_path / "old")), tmp_path / "new", copy=False)
    assert len(reread(tmp_path / "new").load("train")) == 3


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    options = written("coco", tmp_path / "old")
    data = loaded(options)
    image_of(tmp_path / "old", "c2").unlink()  # the last image of the last split
    with pytest.raises(DataError, match=r"new: can't be written \(No such file or directory\)"):
        write_coco(data, tmp_path / "new", copy=True)
    assert {path.name for path in tmp_path.iterdir()} == {"old"}


# Counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_counts(tmp_path: Path, name: str) -> None:
    found = summarise(written(name, tmp_path))
    assert found.splits["train"] == Counts(
        3, 1, 3, 0, small=2, medium=1, large=0, classes={"cat": 1, "dog": 1, "hen": 1}
    )
    assert found.splits["val"] == Counts(
        2, 0, 4, 0, small=4, medium=0, large=0, classes={"cat": 2, "dog": 1, "hen": 1}
    )
    assert found.problems == ()


def test_counts_do_not_take_crowd_regions_for_objects(tmp_path: Path) -> None:
    options = written("coco", tmp_path)
    document = json.loads((tmp_path / "train.json").read_text())
    document["annotations"][2] |= {"iscrowd": 1}
    document["annotations"][1] |= {"area": 96.0**2 + 1}
    (tmp_path / "train.json").write_text(json.dumps(document))
    found = count(options.load("train"))
    assert (found.images, found.empty, found.objects, found.crowd) == (3, 2, 2, 1)
    assert (found.small, found.medium, found.large) == (0, 1, 1)


def test_problems_of_both_splits_and_counts_of_the_rest(tmp_path: Path) -> None:
    objects = {"a2": [("dog", (4.0, 6.0, 4.0, 36.0)), ("cat", (1.0, 1.0, 9.0, 9.0))]}
    options = written("coco", tmp_path, changed(**objects))
    image_of(tmp_path, "c1").unlink()
    found = summarise(options)
    assert len(found.problems) == 2
    assert "width or height" in found.problems[0]
    assert "val.json: image files missing" in found.problems[1]
    assert [found.splits[split].images for split in SPLITS] == [3, 1]
    assert found.splits["train"].classes["dog"] == 0


def test_a_data_set_that_can_not_be_read_has_no_counts(tmp_path: Path) -> None:
    found = summarise(Coco(root=str(tmp_path / "nowhere")))
    assert found.splits == {}
    assert len(found.problems) == 1


def test_drawn_images_are_counted() -> None:
    found = summarise(Shapes(size=64, train_images=3, val_images=2, max_side=40.0))
    assert [found.splits[split].images for split in SPLITS] == [3, 2]


def test_every_split_has_a_photograph() -> None:
    assert [len(each) for each in splits().values()] == [3, 2]
