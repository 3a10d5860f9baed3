"""Names of image files as tools and systems write them. Names outside: tests/test_security.py."""

import json
import os
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detectors.data.base import DataError
from detectors.data.coco import Coco
from detectors.data.names import Finder

COMPOSED, DECOMPOSED = (normalize(form, "Zoë é.jpg") for form in ("NFC", "NFD"))
MIXED = COMPOSED[:4] + DECOMPOSED[5:]
SPELLINGS = [
    ("a.jpg", "a.jpg"),
    ("./a.jpg", "a.jpg"),
    (".//sub/./a.jpg", "sub/a.jpg"),
    ("sub/../a.jpg", "a.jpg"),
    ("../images/a.jpg", "a.jpg"),
    ("../more/a.jpg", "../more/a.jpg"),
    ("sub\\a.jpg", "sub/a.jpg"),
    (".\\sub\\more\\a.jpg", "sub/more/a.jpg"),
    ("..\\more\\a.jpg", "../more/a.jpg"),
    ("my%20photo.jpg", "my photo.jpg"),
    ("sub%5Ca.jpg", "sub/a.jpg"),
    ("sub\\my%20photo.jpg", "sub/my photo.jpg"),
    ("Zo%C3%AB%20%C3%A9.jpg", COMPOSED),
    (COMPOSED, DECOMPOSED),
    (DECOMPOSED, COMPOSED),
    (COMPOSED, MIXED),
    (f"{COMPOSED}/{DECOMPOSED}", f"{DECOMPOSED}/{COMPOSED}"),
    (f"sub\\{COMPOSED}", f"sub/{DECOMPOSED}"),
    (f"../{COMPOSED}", f"../{DECOMPOSED}"),
]
"""The name in the annotation file, and the path of the file below the folder."""


def coco(root: Path, name: str, path: str) -> Coco:
    """Write a data set of a picture that its file calls `name`."""
    (root / "images" / "sub").mkdir(parents=True)
    file = root / "images" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), "red").save(root / "images" / "other.jpg")
    Image.new("RGB", (64, 48), "white").save(file)
    document = {
        "images": [{"id": 1, "file_name": name, "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(json.dumps(document))
    return Coco(root=str(root), height=48, width=64)


@pytest.mark.parametrize(("name", "path"), SPELLINGS)
def test_a_picture_is_found(tmp_path: Path, name: str, path: str) -> None:
    options = coco(tmp_path, name, path)
    for split in ("train", "val"):
        assert options.load(split)[0].image.float().mean() > 250
    assert len(options.fingerprint()) == 64


def test_an_absolute_name_inside_the_folder(tmp_path: Path) -> None:
    options = coco(tmp_path, str(tmp_path / "images" / "a.jpg"), "a.jpg")
    assert options.load("train")[0].image.float().mean() > 250


@pytest.mark.parametrize("name", ["sub\\a.jpg", "my%20photo.jpg", COMPOSED, DECOMPOSED])
def test_a_file_of_exactly_the_name_comes_first(tmp_path: Path, name: str) -> None:
    for form in (name, name.replace("\\", "/"), "my photo.jpg", COMPOSED, DECOMPOSED):
        (tmp_path / form).parent.mkdir(exist_ok=True)
        (tmp_path / form).touch()
    assert Finder(tmp_path, tmp_path).find(name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["A.jpg", "a.jpeg", "", ".", "sub", "x\0.jpg", "\ud800.jpg", "é" * 5000, "%00", "%FF"]
)
def test_other_names_are_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "sub").mkdir()
    finder = Finder(tmp_path, tmp_path)
    assert finder.find(name) is None
    assert not finder.is_outside(name)


@pytest.mark.parametrize("folder", ["nothing", "a.jpg"])
def test_a_folder_that_cannot_be_listed(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a.jpg").touch()
    assert Finder(tmp_path / folder, tmp_path).find("é.jpg") is None


def test_a_folder_is_listed_once_and_only_for_names_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    names = [f"é{number}.jpg" for number in range(20)]
    for name in names:
        (tmp_path / normalize("NFD", name)).touch()

    def listdir(path: Path) -> list[str]:
        listed.append(path)
        return [entry.name for entry in os.scandir(path)]

    monkeypatch.setattr("detectors.data.names.os.listdir", listdir)
    finder = Finder(tmp_path, tmp_path)
    assert finder.find(normalize("NFD", names[0])) is not None
    assert [finder.find(f"{number}.jpg") for number in range(20)] == [None] * 20
    assert listed == []
    assert None not in [finder.find(normalize("NFC", name)) for name in names]
    assert listed == [tmp_path]


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_the_message_names_the_folder_and_the_option(tmp_path: Path, on_bad: str) -> None:
    options = coco(tmp_path, "a.jpg", "b.jpg").model_copy(update={"on_bad": on_bad})
    with pytest.raises(DataError) as caught:
        options.load("train")
    folder = tmp_path / "images"
    expected = f"image files missing in {folder} (train_images): 1 (a.jpg)"
    assert any(expected in problem for problem in caught.value.problems)
    if on_bad == "refuse":
        assert "correct their names or `train_images`, or set" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("a.jpg", "a.jpg/b.jpg", "a.jpg: a folder"),
        ("a.jpg", "a.JPG", "a.jpg: found as a.JPG"),
        ("sub/a.jpg", "sub/A.jpg", "sub/a.jpg: found as A.jpg"),
        ("sub\\a.jpg", "sub/A.jpg", "sub\\a.jpg: found as A.jpg"),
        ("images/a.jpg", "a.jpg", "images/a.jpg: found in {root}"),
        ("a.jpg", "sub/a.jpg", "a.jpg"),
    ],
)
def test_the_message_says_what_there_is_instead(
    tmp_path: Path, name: str, path: str, expected: str
) -> None:
    options = coco(tmp_path, name, path)
    for use in (options.fingerprint, lambda: options.load("train")):
        with pytest.raises(DataError) as caught:
            use()
        assert f"(train_images): 1 ({expected.format(root=tmp_path)}): " in caught.value.problems[0]


def test_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.jpg")
    finder = Finder(tmp_path, tmp_path)
    assert finder.find("link.jpg") is None
    assert finder.alternative("link.jpg") == "a broken link"
    assert finder.find("pipe.jpg") is None
    assert finder.alternative("pipe.jpg") == "no regular file"


def test_nothing_outside_is_mentioned(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "a.jpg").touch()
    assert Finder(tmp_path / "data" / "images", tmp_path / "data").alternative("../a.jpg") == ""


PARTS = st.lists(st.sampled_from(["a", "é", "..", ".", "%2e%2e", "%2F", "\\", "/", "..\\"]))


@given(PARTS, st.sampled_from(["", "/", "./", "\\"]))
def test_what_is_found_is_inside_the_data_set(parts: list[str], start: str) -> None:
    """Every path exists here, so the first form inside is the answer."""
    root = Path("/data/set")
    finder = Finder(root / "images", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectors.data.names.os.path.isfile", lambda path: True)
        found = finder.find(start + "/".join(parts))
    if found is None:
        assert finder.is_outside(start + "/".join(parts))
    else:
        assert Path(os.path.normpath(found)).is_relative_to(root)
