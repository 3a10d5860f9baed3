import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detectors.data import DATASETS
from detectors.data.base import DataError
from detectors.data.entries import Box, Entries
from detectors.data.entries import Image as Listed
from detectors.data.images import ImageError, shown_pixels
from detectors.data.photos import Cache, PhotoDataset, Photos
from detectors.data.rescaling import draw_view, seen
from detectors.data.sizes import turned_size
from detectors.data.views import View, Viewable
from detectors.structures import Sample, Targets
from detectors.training import Training
from tests.examples import examples
from tests.photographs import Photograph, image_of, written

CROPPING = Training(train_sides=(400, 640), crop=True)


def loaded(root: Path, **options: Any) -> PhotoDataset:
    data = written("coco", root, **options).load("train")
    assert isinstance(data, PhotoDataset)
    return data


@st.composite
def views(draw: st.DrawFn) -> View:
    """A crop of an image of 8 to 90 pixels at any size."""
    sides = st.integers(8, 90)
    original, enlarged = (draw(sides), draw(sides)), (draw(sides), draw(sides))
    x1, y1 = draw(st.integers(0, enlarged[0] - 1)), draw(st.integers(0, enlarged[1] - 1))
    x2 = draw(st.integers(x1 + 1, enlarged[0]))
    y2 = draw(st.integers(y1 + 1, enlarged[1]))
    return View(original, enlarged, (x1, y1, x2, y2), (draw(sides), draw(sides)))


# Pixels and boxes ---------------------------------------------------------------------------------


@given(views())
def test_the_source_of_a_view_is_inside_the_image(view: View) -> None:
    x1, y1, x2, y2 = view.source
    assert 0 <= x1 < x2 <= view.original[0]
    assert 0 <= y1 < y2 <= view.original[1]
    x, y = view.scale
    assert (x2 - x1) * x == pytest.approx(view.size[0])
    assert (y2 - y1) * y == pytest.approx(view.size[1])


@examples(60)
@given(views(), st.data())
def test_boxes_cover_the_same_pixels(view: View, data: st.DataObject) -> None:
    """Of a rising grey, as far as the nearest pixels tell."""
    width, height = view.original
    x1 = data.draw(st.floats(0, width - 2))
    x2 = data.draw(st.floats(x1 + 1, width))
    box = np.array([[x1, 0.0, x2, height]])
    left, _, right, _ = view.source
    targets = view.targets(box, np.array([5]))
    seen_part = min(x2, right) - max(x1, left)
    if not len(targets):
        assert seen_part * view.enlarged[0] / width < 2e-3
        return
    assert targets.labels.tolist() == [5]
    assert [*(targets.extent or ())] == [*view.size]
    start, _, end, bottom = targets.boxes[0].tolist()
    assert start == pytest.approx((max(x1, left) - left) * view.scale[0], abs=1e-3)
    assert end - start == pytest.approx(seen_part * view.scale[0], abs=1e-3)
    assert bottom == pytest.approx(view.size[1], abs=1e-3)


def test_one_resizing_shows_what_two_show() -> None:
    """Smooth pixels of a view are those of the same image resized, cropped and resized."""
    rows, columns = np.mgrid[0:300, 0:400]
    smooth = np.stack([columns * 0.6, rows * 0.8, (rows + columns) * 0.3]).astype(np.uint8)
    rgb = Image.fromarray(smooth.transpose(1, 2, 0))
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    sample = Sample(1, torch.from_numpy(smooth), none, (1.0, 1.0))
    for seed in range(6):
        view = draw_view((400, 300), CROPPING, np.random.default_rng(seed))
        once, twice = shown_pixels(rgb, view), seen(sample, view).image
        assert once.shape == twice.shape
        assert (once.int() - twice.int()).abs().max() <= 3


def test_an_image_of_another_size_is_refused() -> None:
    view = View.whole((40, 30), (80, 60))
    with pytest.raises(ImageError, match="30x40 pixels, not 40x30"):
        shown_pixels(Image.new("RGB", (30, 40)), view)


# Data sets of photographs -------------------------------------------------------------------------


def test_a_view_is_one_resizing_of_the_file(tmp_path: Path) -> None:
    data = loaded(tmp_path)
    assert isinstance(data, Viewable)
    assert data.sizes.tolist() == [[40, 30], [64, 48], [50, 80]]
    original = Image.open(image_of(tmp_path, "a2"))
    for size in ((64, 48), (100, 75), (20, 15)):
        sample = data.view(1, View.whole((64, 48), size))
        expected = np.asarray(original.resize(size, Image.Resampling.BILINEAR))
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), expected)
        x, y = sample.scale
        assert (x, y) == (size[0] / 64, size[1] / 48)
        assert sample.targets.boxes.tolist() == [pytest.approx([4 * x, 6 * y, 25 * x, 36 * y])]
        assert sample.image_id == data[1].image_id


def test_originals_are_kept_within_the_memory_for_them(tmp_path: Path) -> None:
    image = Photograph("a", (640, 480), (("cat", (1, 2, 300, 400)),))
    other = Photograph("b", (64, 48), (("dog", (4, 6, 25, 36)),))
    splits = {"train": [image, other], "val": [other]}
    found = written("coco", tmp_path, splits, cache_mib=1).load("train")
    assert isinstance(found, PhotoDataset)
    small, large = View.whole((64, 48), (32, 24)), View.whole((640, 480), (320, 240))
    first = [found.view(0, large).image, found.view(1, small).image]
    for name in ("a", "b"):
        image_of(tmp_path, name).unlink()
    assert torch.equal(found.view(1, small).image, first[1])
    with pytest.raises(DataError, match=r"a\.jpg: "):
        found.view(0, large)


def test_processes_share_the_memory_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    class Info:
        num_workers = 4

    alone, together = Cache(1), Cache(1)
    alone.put("original", 0, "kept", 2**19)
    monkeypatch.setattr("detectors.data.photos.get_worker_info", Info)
    together.put("original", 0, "too large", 2**19)
    together.put("original", 1, "kept", 2**18)
    together.put("original", 2, "no room", 1)
    assert alone.get("original", 0) == "kept"
    assert [together.get("original", i) for i in range(3)] == [None, "kept", None]
    assert together.get("fitted", 1) is None


def test_a_copy_for_another_process_has_no_images(tmp_path: Path) -> None:
    data = loaded(tmp_path)
    before = len(pickle.dumps(data))
    sample = data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) == before
    assert torch.equal(copy[0].image, sample.image)
    assert copy.classes == data.classes
    assert copy.paths() == data.paths()


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 cut off", b"text"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    data = loaded(tmp_path, verify="header")
    image_of(tmp_path, "a2").write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.view(1, View.whole((64, 48), (64, 48)))
    (line,) = caught.value.problems
    assert line.startswith(f"{image_of(tmp_path, 'a2')}: ")
    assert "\n" not in line


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
@pytest.mark.parametrize("verify", ["header", "decode"])
def test_the_remedy_for_a_damaged_file_is_one_that_helps(
    tmp_path: Path, on_bad: str, verify: str
) -> None:
    """Where all images are decoded before, only one that has changed since can be damaged."""
    data = loaded(tmp_path, verify=verify, on_bad=on_bad)
    path = image_of(tmp_path, "a2")
    path.write_bytes(path.read_bytes()[:-40])
    helps = "set verify to decode" if (on_bad, verify) == ("skip", "header") else "replace them"
    with pytest.raises(DataError, match=f"a2.jpg: .*; {helps}"):
        data[1]
    with pytest.raises(DataError, match=f"a2.jpg: .*; {helps}"):
        data.view(1, View.whole((64, 48), (64, 48)))


# Processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "gpu", "expected"),
    [("auto", False, 0), ("auto", True, 6), (0, True, 0), (3, False, 3), (3, True, 3)],
)
def test_the_number_of_processes(workers: object, gpu: bool, expected: int) -> None:
    options = _options(workers=workers)
    assert options.loaders(6, gpu=gpu) == expected


@pytest.mark.parametrize("workers", [-1, 257, 1.5, True, "many", None])
def test_other_numbers_of_processes_are_refused(workers: object) -> None:
    with pytest.raises(ValueError, match="must be auto or an integer from 0 to 256"):
        _options(workers=workers)


def _options(**options: object) -> Photos:
    made = DATASETS["coco"].model_validate({"root": "somewhere", **options})
    assert isinstance(made, Photos)
    return made


def test_sides_of_a_view_are_those_of_the_training() -> None:
    training = Training(train_sides=(480, 640), train_max_side=700)
    for seed in range(8):
        view = draw_view((640, 480), training, np.random.default_rng(seed))
        assert not view.crops
        assert view.size in [turned_size(640, 480, side, 700) for side in (480, 640)]


def test_objects_of_an_image_are_its_truth_without_crowds() -> None:
    boxes = [Box(f"{i}", (i, 1, i + 2, 9), 16, i, i % 2 == 1) for i in range(5)]
    entries = Entries.of([Listed("a", 1, (9, 9), boxes[:3]), Listed("b", 2, (9, 9), boxes[3:])])
    for index, entry in enumerate(entries):
        found, labels = entries.objects(index)
        assert found.tolist() == entry.truth.boxes[~entry.truth.crowd].tolist()
        assert labels.tolist() == entry.truth.labels[~entry.truth.crowd].tolist()
        assert found.base is None  # a copy, also of a file that is mapped to memory
