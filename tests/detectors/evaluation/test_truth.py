from dataclasses import replace
from typing import Any

import pytest
import torch

from detectors.evaluation.truth import GroundTruth
from tests.detectors.evaluation import cases

BOX = [10.0, 20.0, 50.0, 40.0]


def test_columns_are_in_the_order_of_images() -> None:
    images = [
        cases.image_truth(9, [BOX, [0.0, 0.0, 5.0, 5.0]], [1, 0], [False, True]),
        cases.image_truth(4, []),
        cases.image_truth(7, [BOX], 2, area=[12.5]),
    ]
    truth = GroundTruth.of(images, "abc")
    assert len(truth) == 3
    assert truth.image_ids == (9, 4, 7)
    assert truth.sizes == ((640, 480),) * 3
    assert truth.classes == ("a", "b", "c")
    assert truth.image.tolist() == [0, 0, 2]
    assert truth.boxes.tolist() == [BOX, [0.0, 0.0, 5.0, 5.0], BOX]
    assert truth.labels.tolist() == [1, 0, 2]
    assert truth.crowd.tolist() == [False, True, False]
    assert truth.area.tolist() == [800.0, 25.0, 12.5]


def test_images_without_any_object() -> None:
    truth = GroundTruth.of([cases.image_truth(n, []) for n in range(3)], ["cell"])
    assert len(truth) == 3
    assert truth.boxes.shape == (0, 4)
    assert truth.image.dtype == truth.labels.dtype == torch.int64
    assert truth.crowd.dtype == torch.bool


def test_no_images_and_repeated_ids_are_rejected() -> None:
    with pytest.raises(ValueError, match="no image in the ground truth"):
        GroundTruth.of([], ["cell"])
    with pytest.raises(ValueError, match="image ids repeat"):
        GroundTruth.of([cases.image_truth(1, [BOX]), cases.image_truth(1, [])], ["cell"])


def small(**changes: Any) -> GroundTruth:
    images = [cases.image_truth(9, [BOX, [0.0, 0.0, 5.0, 5.0]], [1, 0]), cases.image_truth(4, [])]
    return replace(GroundTruth.of(images, "ab"), **changes)


def test_equal_ground_truth_has_an_equal_digest() -> None:
    assert small().digest() == small().digest()
    assert len(small().digest()) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"image_ids": (9, 5)},
        {"sizes": ((640, 480), (641, 480))},
        {"classes": ("a", "c")},
        {"image": torch.tensor([0, 1])},
        {"boxes": torch.tensor([BOX, [0.0, 0.0, 5.0, 5.00001]])},
        {"labels": torch.tensor([1, 1])},
        {"crowd": torch.tensor([False, True])},
        {"area": torch.tensor([800.0, 24.0])},
    ],
    ids=str,
)
def test_the_digest_depends_on_every_column(changes: dict[str, Any]) -> None:
    assert small(**changes).digest() != small().digest()


def test_the_digest_of_images_without_objects_depends_on_their_number() -> None:
    one, two = (
        GroundTruth.of([cases.image_truth(n, []) for n in range(count)], "a") for count in (1, 2)
    )
    assert one.digest() != two.digest()
