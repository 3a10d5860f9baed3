import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.data.base import DataError
from detectors.data.photos import Photos
from detectors.data.problems import Problems
from detectors.data.records import Listing
from detectors.data.yolo import Yolo
from detectors.data.yolo_files import Config, label_name
from detectors.data.yolo_index import read_labels
from tests.examples import examples
from tests.photographs import CLASSES, image_of, save, splits, written, yolo_line


def yolo(root: Path, **options: Any) -> Photos:
    if root.is_dir() and any(root.iterdir()):
        return Yolo(root=str(root), **options)
    return written("yolo", root, **options)


def config(root: Path, text: str) -> None:
    (root / "data.yaml").write_text(text)


def refused(options: Photos) -> list[str]:
    with pytest.raises(DataError) as caught:
        options.load("train")
    with pytest.raises(DataError):
        options.fingerprint()
    return caught.value.problems


NAMES = "names: [cat, dog, hen]\n"

# The layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        NAMES + "train: images/train\nval: images/val\n",
        NAMES + "path: .\ntrain: images/train\nval: images/val\ntest: images/none\n",
        "path: ../{root}\ntrain: images/train\nval: images/val\nnames: {{2: hen, 0: cat, 1: dog}}",
        "nc: 3\n" + NAMES + "train: [images/train]\nval: [images/val]\n",
        NAMES + "train: ../images/train\nval: ../images/val\n",  # as Roboflow writes it
        NAMES + "train: images\\train\nval: ..\\images\\val\n",
        NAMES + "train: train.txt\nval: [val.txt]\n",
        NAMES + "train: train.txt\nval: images/val\nkpt_shape: [0, 3]\n",
    ],
)
def test_every_form_of_data_yaml_gives_the_same_data(tmp_path: Path, text: str) -> None:
    usual, other = yolo(tmp_path / "usual"), yolo(tmp_path / "other")
    config(tmp_path / "other", text.format(root="other"))
    for split, photographs in splits().items():
        lines = "".join(f"./images/{split}/{each.name}.jpg\n" for each in photographs)
        (tmp_path / "other" / f"{split}.txt").write_text(f"{lines}\n")
    assert other.load("train").classes == CLASSES
    for one, two in zip(usual.load("train").truth(), other.load("train").truth(), strict=True):
        assert one.boxes.tolist() == two.boxes.tolist()
    assert usual.fingerprint() == other.fingerprint()


def test_a_list_of_images_written_on_windows(tmp_path: Path) -> None:
    usual, other = yolo(tmp_path / "usual"), yolo(tmp_path / "other")
    config(tmp_path / "other", NAMES + "train: train.txt\nval: val.txt\n")
    for split, photographs in splits().items():
        lines = "".join(f".\\images\\{split}\\{each.name}.jpg\r\n" for each in photographs)
        (tmp_path / "other" / f"{split}.txt").write_bytes(lines.encode())
    for one, two in zip(usual.load("train").truth(), other.load("train").truth(), strict=True):
        assert one.boxes.tolist() == two.boxes.tolist()
    assert usual.fingerprint() == other.fingerprint()


def test_a_path_of_another_machine_is_noted(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    config(tmp_path, NAMES + "path: /content/pets\ntrain: images/train\nval: images/val\n")
    notes = options.load("val").notes
    assert notes == (
        f"{tmp_path / 'data.yaml'}: path /content/pets is not a folder here; its own folder is "
        "used",
    )


def test_names_are_text(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    config(tmp_path, "names: [no, 1, 1.0]\ntrain: images/train\nval: images/val\n")
    assert options.load("train").classes == ("no", "1", "1.0")


def test_an_image_without_a_label_file_has_no_objects(tmp_path: Path) -> None:
    data = yolo(tmp_path).load("train")
    assert len(data[2].targets) == 0
    (note,) = data.notes
    assert note.endswith(
        "kept, without objects, images without a label file: 1 (images/train/b4.jpg)"
    )
    (tmp_path / "labels" / "train" / "b4.txt").write_text("\n")
    assert yolo(tmp_path, cache_mib=3).load("train").notes == ()


def test_a_label_file_without_an_image_is_noted(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    (tmp_path / "labels" / "val" / "gone.txt").write_text("0 .5 .5 .1 .1\n")
    (tmp_path / "labels" / "val" / "classes.txt").write_text("cat\n")
    (note,) = options.load("val").notes
    assert note.endswith("left out label files without an image: 1 (labels/val/gone.txt)")


def test_labels_beside_the_images(tmp_path: Path) -> None:
    usual = yolo(tmp_path / "usual").load("train").truth()
    options = yolo(tmp_path / "other")
    root = tmp_path / "other"
    for split in ("train", "val"):
        shutil.copytree(root / "labels" / split, root / split)
        shutil.copytree(root / "images" / split, root / split, dirs_exist_ok=True)
    config(root, NAMES + "train: train\nval: val\n")
    for one, two in zip(usual, options.load("train").truth(), strict=True):
        assert one.boxes.tolist() == two.boxes.tolist()


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.b.png", "train/labels/a.b.txt"),
        ("images/images/images.jpg", "images/labels/images.txt"),
        ("my images/a.jpg", "my images/a.txt"),
        ("a.jpg", "a.txt"),
    ],
)
def test_where_labels_are(image: str, label: str) -> None:
    assert label_name(image) == label


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["must be a mapping with the keys names, train and val"]),
        ("[1, 2]", ["must be a mapping with the keys names, train and val"]),
        (NAMES + "nc: x\ntrain: {a: b}\nval: b", ["nc must be the number", "train must be a fold"]),
        (NAMES + "kpt_shape: 3\npath: []\ntrain: a", ["kpt_shape must be two", "path must be a"]),
        ("names: [", ["not YAML"]),
        ("nc: 3\n", ["names must be a list of names", "train must be a folder"]),
        (NAMES + "train: images/train\n", ["val: is missing; add it, or set val_fraction"]),
        (NAMES + "train:\nval: ''\n", ["train: is missing", "val: is missing"]),
        ("names: []\ntrain: a\nval: b", ["names must be"]),
        ('names: ["a\\u001b[2J"]\ntrain: a\nval: b', ["names must be"]),
        (NAMES + "nc: 4\ntrain: a\nval: b", ["nc is 4, but there are 3 names"]),
        ("names: [a, b, a]\ntrain: a\nval: b", ["names repeat: a; give every class"]),
        ("names: {1: a, 2: b}\ntrain: a\nval: b", ["keys must be 0 to 1, got 1, 2"]),
        (
            NAMES + "train: images/nowhere\nval: nowhere.txt\n",
            ["images/nowhere: no such folder or file", "nowhere.txt: no such folder or file"],
        ),
        (NAMES + "train: [images/train, x, y]\nval: images/val\n", ["/x: no such", "/y: no such"]),
        (NAMES + "train: ../outside\nval: images/val\n", ["is outside of"]),
        (NAMES + "train: labels\nval: labels\n", ["train: no label file, and no image"]),
    ],
)
def test_a_wrong_data_yaml(tmp_path: Path, text: str, messages: list[str]) -> None:
    options = yolo(tmp_path / "data", on_bad="skip")
    (tmp_path / "outside").mkdir()
    config(tmp_path / "data", text)
    problems = refused(options)
    for message in messages:
        assert any(message in problem for problem in problems), message
    assert all(str(tmp_path) in problem for problem in problems)


def test_labels_in_another_folder_are_missed(tmp_path: Path) -> None:
    options = yolo(tmp_path, on_bad="skip")
    (tmp_path / "labels").rename(tmp_path / "annotations")
    problems = refused(options)
    assert len(problems) == 2
    assert f"train: no label file, such as {tmp_path}/labels/train/a1.txt" in problems[0]


def test_a_missing_data_yaml(tmp_path: Path) -> None:
    (problem,) = refused(yolo(tmp_path, data_yaml="coco8.yaml"))
    assert "coco8.yaml: No such file or directory; correct `data_yaml`" in problem


def test_a_list_of_missing_images(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    config(tmp_path, NAMES + "train: train.txt\nval: images/val\n")
    lines = ["images/train/a1.jpg", "images/train/a2.jpg", "images/train/gone.jpg"]
    (tmp_path / "train.txt").write_text("\n".join([*lines, lines[0]]))
    problems = refused(options)
    assert "(root): 1 (images/train/gone.jpg): add them" in str(problems)
    with pytest.raises(DataError, match=r"images listed before: 1 \(images/train/a1\.jpg\)"):
        options.load("train")
    skipping = options.model_copy(update={"on_bad": "skip"})
    assert [truth.image_id for truth in skipping.load("train").truth()] == [1, 2]


# Labels -------------------------------------------------------------------------------------------


def labels(tmp_path: Path, *lines: str, keypoints: int = 0) -> tuple[list[Any], Problems]:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    listing = Listing(tmp_path / "data.yaml", ("a.jpg",), (path,))
    found = read_labels(listing, Config(listing.where, CLASSES, {}, "", keypoints))
    return list(found.records[0].boxes), found.problems


def test_the_box_of_a_polygon(tmp_path: Path) -> None:
    (box, other), problems = labels(
        tmp_path, "1 0.25 0.5 0.75 0.125 0.5 1", "", "2.0 0.1 0.2 0.3 0.2 0.3 0.5 0.1 0.5"
    )
    assert not problems
    assert (box.label, box.xyxy) == (1, (0.25, 0.125, 0.75, 1))
    assert (other.label, other.xyxy) == (2, (0.1, 0.2, 0.3, 0.5))
    assert other.place.endswith("a.txt:3")


def test_keypoints_follow_the_box(tmp_path: Path) -> None:
    (box,), problems = labels(tmp_path, "0 0.5 0.5 0.25 0.5 7 8 2 9 9 0", keypoints=6)
    assert not problems
    assert box.xyxy == (0.375, 0.25, 0.625, 0.75)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "not YOLO labels: 1 (PLACE: 4 values)"),
        ("0", "not YOLO labels: 1 (PLACE: 1 values)"),
        ("0 0.5 0.5 0.1 0.1 0.9", "not YOLO labels: 1 (PLACE: 6 values)"),
        ("0 0.5 0.5 0.1 0.1 0.9 0.1 0.2", "not YOLO labels: 1 (PLACE: 8 values)"),
        ("dog 0.5 0.5 0.1 0.1", "not YOLO labels: 1 (PLACE: not all are numbers)"),
        ("0,0.5,0.5,0.1,0.1", "not YOLO labels: 1 (PLACE: not all are numbers)"),
        ("0.5 0.5 0.5 0.1 0.1", "not YOLO labels: 1 (PLACE: class 0.5 is not an integer)"),
        ("nan 0.5 0.5 0.1 0.1", "not YOLO labels: 1 (PLACE: class nan is not an integer)"),
        ("3 0.5 0.5 0.1 0.1", "unknown category id: 1 (PLACE: 3)"),
        ("-1 0.5 0.5 0.1 0.1", "unknown category id: 1 (PLACE: -1)"),
        ("0 20 16 10 10", "coordinates above 1: 1 (PLACE): divide pixels by"),
        ("0 0.5 0.5 0.1 1.02", "coordinates above 1: 1 (PLACE)"),
    ],
)
def test_a_wrong_line(tmp_path: Path, line: str, message: str) -> None:
    found, problems = labels(tmp_path, "0 0.5 0.5 0.5 0.5", line)
    assert len(found) == 1
    (refusal,) = problems.refusals("data.yaml")
    place = f"{tmp_path.name}/a.txt:2"
    assert message.replace("PLACE", place) in refusal


def test_a_label_file_that_is_not_text(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a1.txt").write_bytes(b"\xff\xfe0\x00")
    with pytest.raises(DataError, match=r"not YOLO labels: 1 \(train/a1\.txt: not text in UTF-8"):
        options.load("train")


sides = st.integers(1, 5000)


@examples(50)
@given(st.data(), sides, sides)
def test_a_box_survives_being_written_as_fractions(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, width: int, height: int
) -> None:
    x = sorted(data.draw(st.lists(st.floats(0, width), min_size=2, max_size=2)))
    y = sorted(data.draw(st.lists(st.floats(0, height), min_size=2, max_size=2)))
    line = yolo_line("dog", (x[0], y[0], x[1], y[1]), (width, height))
    (box,), problems = labels(tmp_path_factory.mktemp("labels"), line)
    assert not problems
    x1, y1, x2, y2 = box.xyxy
    scaled = [x1 * width, y1 * height, x2 * width, y2 * height]
    assert scaled == pytest.approx([x[0], y[0], x[1], y[1]], abs=1e-9)


def test_a_class_that_is_added_changes_the_fingerprint(tmp_path: Path) -> None:
    before = yolo(tmp_path / "a").fingerprint()
    options = yolo(tmp_path / "b")
    config(tmp_path / "b", "names: [cat, dog, hen, owl]\ntrain: images/train\nval: images/val\n")
    assert options.fingerprint() != before


def test_formats_that_pillow_lacks_are_not_left_out_without_a_word(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    save(tmp_path / "images" / "train" / "x.jpg", (9, 9))
    image_of(tmp_path, "x").rename(tmp_path / "images" / "train" / "x.JPG")
    (tmp_path / "images" / "train" / "z.heic").write_bytes(b"a picture of a telephone")
    (tmp_path / "images" / "train" / "notes.md").write_text("no picture")
    with pytest.raises(DataError, match=r"unreadable: 1 \(images/train/z\.heic: "):
        options.load("train")
    skipping = options.model_copy(update={"on_bad": "skip"})
    assert len(skipping.load("train")) == 4


def test_a_circle_of_links_is_followed_once(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    (tmp_path / "images" / "train" / "again").symlink_to(tmp_path / "images" / "train")
    assert len(options.load("train")) == 3


def test_a_label_that_is_added_is_read(tmp_path: Path) -> None:
    options = yolo(tmp_path)
    before = options.fingerprint()
    assert len(options.load("train").truth()[2].boxes) == 0
    (tmp_path / "labels" / "train" / "b4.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert options.load("train").truth()[2].boxes.tolist() == [[12.5, 20, 37.5, 60]]
    assert options.fingerprint() != before
