"""What is refused before a sweep starts: settings that need more images than the data has."""

from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.records import TrialRecord
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, foreseen, inspect_data
from tests.builders import SECTIONS, make_spec
from tests.gaplab.spec.specs import coco

SHAPES = {"name": "shapes", "train_images": 6, "val_images": 2}


def trials(data: dict[str, Any], **keys: Any) -> tuple[TrialRecord, ...]:
    return expand(resolve(make_spec(SECTIONS | {"data": data}, **keys))).trials


def refused(found: tuple[TrialRecord, ...]) -> list[str]:
    with pytest.raises(UserError) as caught:
        inspect_data(found)
    return list(caught.value.problems)


def settings(batch: int, workers: int) -> dict[str, Any]:
    return {"grid": {"training.batch": [batch], "resources.workers": [workers]}}


@pytest.mark.parametrize(("batch", "workers"), [(6, 2), (1, 1), (6, 1)])
def test_as_many_images_as_needed_are_enough(batch: int, workers: int) -> None:
    found = trials(SHAPES, **settings(batch, workers))
    assert inspect_data(found) == []
    assert foreseen(found) == ()


@pytest.mark.parametrize(
    ("batch", "workers", "lines"),
    [
        (7, 1, ["training.batch: 7 is more than the 6 training images of shapes"]),
        (6, 3, ["resources.workers: 3 is more than the 2 validation images of shapes"]),
        (
            8,
            7,
            [
                "training.batch: 8 is more than the 6 training images of shapes",
                "resources.workers: 7 is more than the 6 training images of shapes",
                "resources.workers: 7 is more than the 2 validation images of shapes",
            ],
        ),
    ],
)
def test_too_few_images_are_refused(batch: int, workers: int, lines: list[str]) -> None:
    found = trials(SHAPES, **settings(batch, workers))
    expected = [f"{line}; lower it, or add images" for line in lines]
    assert refused(found) == expected
    assert foreseen(found) == tuple(expected)


def test_every_setting_of_a_grid_is_checked_once() -> None:
    keys = {"training.batch": [2, 7, 9], "seed": [0, 1], "training.lr": [0.1, 0.2]}
    found = trials(SHAPES, grid=keys)
    assert [line.split()[1] for line in refused(found)] == ["7", "9"]


def test_data_and_settings_are_reported_together(tmp_path: Path) -> None:
    """A file with one image per split, of which validation has no object."""
    data = coco(tmp_path / "a")
    val = tmp_path / "a" / "val.json"
    val.write_text(val.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    found = trials(data, **settings(4, 1))
    crowd, batch = refused(found)
    assert crowd.startswith(
        f"{val}: no object (images: 1, annotations: 1, all of them crowd regions)"
    )
    assert batch.startswith("training.batch: 4 is more than the 1 training image of a; ")
    assert sorted(foreseen(found)) == sorted([crowd, batch])


def test_images_that_are_skipped_do_not_count(tmp_path: Path) -> None:
    data = coco(tmp_path / "a") | {"on_bad": "skip"}
    found = trials(data, **settings(1, 1))
    assert foreseen(found) == ()
    (tmp_path / "a" / "images" / "1.png").write_bytes(b"")
    assert "no image is left to use" in refused(found)[0]


def test_nothing_is_foreseen_of_data_that_cannot_be_read(tmp_path: Path) -> None:
    data = coco(tmp_path / "a")
    found = trials(data, **settings(4, 1))
    (tmp_path / "a" / "train.json").unlink()
    assert foreseen(found) == ()
    assert "no such file" in refused(found)[0]
    assert inspect_data([]) == []
    assert foreseen([]) == ()


def test_segmentations_that_can_not_be_used_are_refused_for_masks(tmp_path: Path) -> None:
    """The files have none. Trials without masks don't need them."""
    data = coco(tmp_path)
    settings = {"grid": {"training.batch": [1], "detector.masks": [None, {"name": "condinst"}]}}
    plain, masked = trials(data, **settings)
    inspect_data([plain])
    (line,) = refused((plain, masked))
    assert "1 annotations without segmentation, or with one that is not sound (1); correct" in line
