import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.padding import padded, rank_in_group

counts_of_images = st.lists(st.integers(0, 9), max_size=12)


@given(counts_of_images, st.integers(0, 40))
def test_every_index_is_once_in_the_row_of_its_image(counts: list[int], cells: int) -> None:
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    chunks = list(padded(image, len(counts), cells))
    rows = [row for chunk in chunks for row in chunk.tolist()]
    expected = [[n for n, i in enumerate(image.tolist()) if i == k] for k in range(len(counts))]
    assert [[n for n in row if n >= 0] for row in rows] == [row for row in expected if row]
    for chunk in chunks:
        assert chunk.dtype == torch.int64
        assert chunk.numel() <= cells or len(chunk) == 1
        assert (chunk >= 0).sum(dim=1).max() == chunk.shape[1]
        assert ((chunk[:, 1:] < 0) | (chunk[:, :-1] >= 0)).all()  # -1 at the end only


def test_no_images_and_trailing_images_without_candidates() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert list(padded(none, 0, 100)) == []
    assert list(padded(none, 3, 100)) == []
    (only,) = padded(torch.tensor([1, 1]), 5, 100)
    assert only.tolist() == [[0, 1]]


def test_chunks_are_as_large_as_allowed() -> None:
    image = torch.arange(10).repeat_interleave(4)
    assert [len(chunk) for chunk in padded(image, 10, 12)] == [3, 3, 3, 1]
    assert [len(chunk) for chunk in padded(image, 10, 11)] == [2] * 5
    assert [len(chunk) for chunk in padded(image, 10, 1000)] == [10]


@given(st.lists(st.integers(0, 5), max_size=30))
def test_rank_in_group_counts_the_earlier_ones(group: list[int]) -> None:
    rank = rank_in_group(torch.tensor(group, dtype=torch.int64))
    assert rank.dtype == torch.int64
    assert rank.tolist() == [group[:n].count(g) for n, g in enumerate(group)]
