"""Boxes of segmentations, compared with pycocotools."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as pycoco

from detectors.data.masks import extent
from tests.examples import examples


def bitmap(seed: int, height: int, width: int, density: float) -> NDArray[np.uint8]:
    """Draw a mask; runs of one to several columns occur."""
    rng = np.random.default_rng(seed)
    return np.asfortranarray((rng.random((height, width)) < density).astype(np.uint8))


def run_lengths(mask: NDArray[np.uint8]) -> list[int]:
    """Return the uncompressed counts: columns one after the other, starting with zeros."""
    counts, last = [0], 0
    for value in mask.T.reshape(-1).tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


@examples(200)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.003, 0.05, 0.5, 1.0]),
)
def test_the_box_of_an_rle_is_that_of_pycocotools(
    seed: int, height: int, width: int, density: float
) -> None:
    mask = bitmap(seed, height, width, density)
    encoded = pycoco.encode(mask)
    expected = pycoco.toBbox(encoded).tolist()
    size = [height, width]
    assert list(extent({"size": size, "counts": encoded["counts"].decode()})) == expected
    assert list(extent({"size": size, "counts": run_lengths(mask)})) == expected


def test_large_counts() -> None:
    mask = np.zeros((3000, 2000), dtype=np.uint8, order="F")
    mask[2900:2950, 100:1900] = 1
    encoded = pycoco.encode(mask)
    found = extent({"size": [3000, 2000], "counts": encoded["counts"].decode()})
    assert found == (100, 2900, 1800, 50)


@given(
    st.lists(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 2), min_size=3, max_size=9), min_size=1)
)
def test_the_box_of_polygons_holds_all_points(polygons: list[list[tuple[float, float]]]) -> None:
    x, y, w, h = extent([[value for point in each for value in point] for each in polygons])
    points = np.array([point for each in polygons for point in each])
    assert [x, y] == points.min(axis=0).tolist()
    assert [w, h] == np.ptp(points, axis=0).tolist()


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        {},
        "polygon",
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, True]],
        [1, 2, 3, 4, 5, 6],
        {"size": [4, 4]},
        {"counts": [16]},
        {"size": [4, 4], "counts": [15]},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4, 4], "counts": [16.0]},
        {"size": [4], "counts": [16]},
        {"size": [4, True], "counts": [4]},
        {"size": [2**40, 2**40], "counts": [2**80]},
        {"size": [4, 4], "counts": "P" * 50},
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": "o" * 100},
        {"size": [4, 4], "counts": {}},
    ],
)
def test_other_segmentations_are_refused(segmentation: Any) -> None:
    with pytest.raises(ValueError, match="must be polygons with at least 3 points, or an RLE"):
        extent(segmentation)
