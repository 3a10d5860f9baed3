"""Collect the boxes of a file in any order, and sort them by image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detectors.data.entries import Box, Entries, Flags, Floats, Ints, Texts, whole_numbers


class Rows(NamedTuple):
    """N boxes."""

    positions: Ints
    """[N], their positions in the file."""
    images: Ints
    """[N], the ids of their images."""
    boxes: Floats
    """[N, 4] xyxy."""
    areas: Floats
    labels: Ints
    crowd: Flags
    ids: Ints
    """[N], their ids, which name them in messages."""


class EntryBuilder:
    """The boxes of a file."""

    def __init__(self) -> None:
        self._rows: list[Rows] = []
        self._single: list[tuple[int, int, Box]] = []

    def add(self, position: int, image_id: int, box: Box) -> None:
        """Add one box."""
        self._single.append((position, image_id, box))

    def add_rows(self, rows: Rows) -> None:
        """Add boxes."""
        self._rows.append(rows)

    def entries(
        self, image_ids: Sequence[int], names: Sequence[str], sizes: Sequence[tuple[int, int]]
    ) -> Entries:
        """Return the images with their boxes in the order of the file.

        Args:
            image_ids: ids of the images, sorted. Every box must belong to one of them.
            names: file name of each.
            sizes: (width, height) of each.
        """
        single = self._as_rows()
        every = [*self._rows, single]
        ids = np.array(image_ids, dtype=np.int64)
        image = np.searchsorted(ids, np.concatenate([rows.images for rows in every]))
        order = np.lexsort((np.concatenate([rows.positions for rows in every]), image))
        places = [str(id_) for rows in self._rows for id_ in rows.ids.tolist()]
        places += [box.place for _, _, box in self._single]
        return Entries(
            names=Texts.of(names),
            image_ids=ids,
            sizes=whole_numbers(sizes).reshape(-1, 2),
            first=np.searchsorted(image[order], np.arange(len(ids) + 1)),
            boxes=np.concatenate([rows.boxes for rows in every])[order],
            areas=np.concatenate([rows.areas for rows in every])[order],
            labels=np.concatenate([rows.labels for rows in every])[order],
            crowd=np.concatenate([rows.crowd for rows in every])[order],
            places=Texts.of([places[row] for row in order.tolist()]),
        )

    def _as_rows(self) -> Rows:
        """Return the boxes that were added one by one, without ids."""
        boxes = [box for _, _, box in self._single]
        none = np.zeros(len(boxes), dtype=np.int64)
        return Rows(
            np.array([position for position, _, _ in self._single], dtype=np.int64),
            np.array([image for _, image, _ in self._single], dtype=np.int64),
            np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4),
            np.array([box.area for box in boxes], dtype=np.float64),
            np.array([box.label for box in boxes], dtype=np.int64),
            np.array([box.crowd for box in boxes], dtype=np.bool_),
            none,
        )
