"""Images and categories are matched by id or name, in the numberings that tools write."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gaplab.storage.detections.matching import (
    COCO_IDS,
    match_categories,
    match_images,
    match_labels,
)
from tests.gaplab.storage.detections.inputs import annotations

TRUTH = annotations(3)  # ids 10, 20, 30; names a/000010.jpg, ...
COCO = annotations(1, {id_: f"class {id_}" for id_ in COCO_IDS})
CONTIGUOUS = annotations(1, {id_: f"class {id_}" for id_ in range(1, 81)})
FROM_0 = annotations(1, {id_: f"class {id_}" for id_ in range(80)})


@pytest.mark.parametrize(
    "spelled",
    [
        lambda id_: id_,
        lambda id_: str(id_),
        lambda id_: f"a/{id_:06d}.jpg",
        lambda id_: f"a\\{id_:06d}.jpg",
        lambda id_: f"./a/{id_:06d}.jpg",
        lambda id_: f"/data/val/{id_:06d}.jpg",
        lambda id_: f"{id_:06d}.jpg",
        lambda id_: f"a/{id_:06d}",
        lambda id_: f"{id_:06d}",
        lambda id_: f"b/{id_:06d}.png",
    ],
)
def test_images_by_id_or_name(spelled: Callable[[int], Any]) -> None:
    keys = [spelled(id_) for id_ in (30, 10, 70)]
    assert match_images(keys, TRUTH).positions.tolist() == [2, 0, -1]


def test_numbers_in_file_names_are_used_if_they_are_no_ids() -> None:
    truth = replace(TRUTH, truth=replace(TRUTH.truth, image_ids=(7, 8, 9)))
    found = match_images([20, 10], truth)
    assert found.positions.tolist() == [1, 0]
    assert not found.usual
    assert match_images([8, 7], truth).usual


def test_names_that_repeat_without_folders_are_unknown() -> None:
    truth = replace(TRUTH, names=("a/1.jpg", "b/1.jpg", "b/2.jpg"))
    assert match_images(["1.jpg", "2.jpg"], truth).positions.tolist() == [-1, 2]
    assert match_images(["a/1.jpg", "b/1.jpg"], truth).positions.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("truth", "keys", "usual"),
    [
        (COCO, COCO_IDS, True),
        (COCO, range(80), False),
        (COCO, range(1, 81), False),
        (CONTIGUOUS, range(1, 81), True),
        (CONTIGUOUS, range(80), False),
        (CONTIGUOUS, COCO_IDS, False),
        (FROM_0, range(80), True),
        (FROM_0, range(1, 81), False),
        (FROM_0, COCO_IDS, False),
    ],
)
def test_numberings_of_coco(truth: Any, keys: Sequence[int], usual: bool) -> None:
    found = match_categories([*keys], truth, "auto")
    assert found.positions.tolist() == [*range(80)]
    assert found.usual == usual


@pytest.mark.parametrize(
    ("keys", "positions"),
    [
        (["person", "été", "car"], [0, 2, -1]),
        (["Person", "Traffic_Light"], [0, 1]),
        (["2", "9", "1"], [0, 2, -1]),
        ([9, 2, 1], [2, 0, -1]),
    ],
)
def test_categories_by_id_or_name(keys: list[int | str], positions: list[int]) -> None:
    assert match_categories(keys, annotations(), "auto").positions.tolist() == positions


def test_a_numbering_can_be_named() -> None:
    keys: list[int | str] = [2, 5]
    assert match_categories(keys, annotations(), "id").positions.tolist() == [0, 1]
    assert match_categories(keys, annotations(), "index").positions.tolist() == [2, -1]
    assert match_categories(keys, annotations(), "index1").positions.tolist() == [1, -1]


def test_one_more_category_is_unknown() -> None:
    found = match_categories([2, 5, 9, 0], annotations(), "auto")
    assert found.positions.tolist() == [0, 1, 2, -1]
    assert found.usual


def test_labels_are_positions() -> None:
    assert match_labels([0, 2, 5], annotations(), "auto").positions.tolist() == [0, 2, -1]
    assert match_labels([2, 5], annotations(), "id").positions.tolist() == [0, 1]
