"""Masks as run-length encodings, compared with plain loops over pixels and with pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as pycoco

from detectors.rle import Rles, decode, encode, of_segmentation, overlap
from tests.examples import examples


@st.composite
def bitmaps(draw: st.DrawFn) -> torch.Tensor:
    number, height, width = (
        draw(st.integers(0, 4)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 9)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return torch.rand(number, height, width, generator=generator) < density


@examples(60)
@given(bitmaps())
def test_decoding_returns_what_was_encoded(masks: torch.Tensor) -> None:
    number, height, width = masks.shape
    rles = encode(masks)
    assert len(rles) == number
    assert rles.held.all(), "also a mask without a pixel is a mask"
    assert torch.equal(decode(rles, (width, height)), masks)
    for counts, mask in zip(rles.counts, masks, strict=True):
        own = pycoco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert own == {"size": [height, width], "counts": counts}


@examples(60)
@given(bitmaps(), st.integers(0, 2**31))
def test_overlap_is_that_of_counted_pixels(masks: torch.Tensor, seed: int) -> None:
    number, height, width = masks.shape
    others = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) < 0.6
    crowd = np.array([False, True, False])
    found = overlap(encode(masks), encode(others), crowd, (width, height))
    assert found.shape == (number, 3)
    for i, mask in enumerate(masks):
        for j, other in enumerate(others):
            common = int((mask & other).sum())
            whole = int(mask.sum()) if crowd[j] else int((mask | other).sum())
            assert found[i, j] == pytest.approx(common / whole if common else 0, abs=1e-12)


def test_rows_without_a_mask() -> None:
    masks = encode(torch.ones(1, 2, 3, dtype=torch.bool))
    joined = Rles.join([Rles.none(2), masks])
    assert joined.held.tolist() == [False, False, True]
    assert len(Rles.join([])) == 0
    assert decode(joined[joined.held], (3, 2)).all()
    assert joined[torch.tensor([2, 0])].held.tolist() == [True, False]
    with pytest.raises(ValueError, match="without a mask"):
        decode(joined, (3, 2))


def test_segmentations_of_all_forms() -> None:
    square = torch.zeros(1, 6, 8, dtype=torch.bool)
    square[0, 1:3, 2:5] = True
    (counts,) = encode(square).counts
    runs = [13, 2, 4, 2, 4, 2, 21]  # column after column
    polygon = [2, 1, 5, 1, 5, 3, 2, 3]
    size = (8, 6)
    assert of_segmentation([polygon], size) == counts
    assert of_segmentation({"size": [6, 8], "counts": runs}, size) == counts
    assert of_segmentation({"size": [6, 8], "counts": counts.decode()}, size) == counts
    both = decode(Rles.of([of_segmentation([polygon, [6, 4, 30, 4, 30, 9, 6, 9]], size)]), size)
    square[0, 4:, 6:] = True
    assert torch.equal(both, square), "the union of polygons, without what lies outside the image"
