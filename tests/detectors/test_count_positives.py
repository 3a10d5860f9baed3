import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.criterion import count_positives
from detectors.structures import Assignment, Targets
from tests.detectors.batching import packed, together


def hand_made(objects: list[int], count: int) -> tuple[Assignment, Targets]:
    """Points assigned to `objects` (-1 for none) of an image that has `count`."""
    owner = torch.tensor(objects, dtype=torch.int64)
    boxes = torch.tensor([0.0, 0.0, 9.0, 9.0]).repeat(count, 1)
    return Assignment(owner, (owner >= 0) * 0.5), Targets(boxes, torch.zeros(count).long())


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([([0, -1, 1, -1], 2)], [2, 0, 2]),
        ([([0, 0, 0, 2], 4)], [4, 2, 4]),
        ([([-1, -1], 3)], [0, 3, 3]),
        ([([-1, -1], 0)], [0, 0, 0]),
        ([([1, 1], 2), ([-1, -1], 0), ([0, 1], 3)], [4, 2, 5]),
        ([([0], 1), ([0], 1)], [2, 0, 2]),  # object 0 of two images are two objects
        ([([], 2)], [0, 2, 2]),
    ],
)
def test_counts_positives_and_objects_without_any(
    images: list[tuple[list[int], int]], expected: list[float]
) -> None:
    pairs = [hand_made(*image) for image in images]
    found = count_positives(together([a for a, _ in pairs]), packed(*(t for _, t in pairs)))
    assert found.tolist() == expected
    assert found.dtype == torch.float64


@st.composite
def images(draw: st.DrawFn) -> tuple[list[int], int]:
    count = draw(st.integers(0, 4))
    return draw(st.lists(st.integers(-1, count - 1), max_size=12)), count


@given(st.lists(images(), min_size=1, max_size=4))
def test_of_a_batch_is_the_sum_over_its_images(batch: list[tuple[list[int], int]]) -> None:
    pairs = [hand_made(*image) for image in batch]
    found = count_positives(
        together([a for a, _ in pairs]), packed(*(t for _, t in pairs))
    ).tolist()
    with_positives = [set(objects) - {-1} for objects, _ in batch]
    assert found == [
        sum(g >= 0 for objects, _ in batch for g in objects),
        sum(count for _, count in batch) - sum(map(len, with_positives)),
        sum(count for _, count in batch),
    ]
