"""Data sets in the layout of Ultralytics YOLO: a data.yaml, and a text file of labels per image."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from detectors.data.base import Split
from detectors.data.records import Index, Listing, Listings, Recorded
from detectors.data.yolo_files import find_files, read_config
from detectors.data.yolo_index import read_labels
from detectors.options import NOT_IDENTITY


class Yolo(Recorded):
    """Photographs with boxes, in the layout of Ultralytics YOLO.

    `train` and `val` in data.yaml each name a folder of images, a .txt file that lists images, or
    several of them; `path`, if it exists here, is the folder that they start from, otherwise that
    of data.yaml. The labels of images/a.jpg are in labels/a.txt, one line per object: the class and
    either centre x, centre y, width and height, or the corners of a polygon, of which the box is
    used; all as fractions of the image. An image without a label file has no objects.

    Labels are in the order of `names`. Samples are in the order of the names of the images, which
    are numbered from 1. The area of an object is that of its box.
    """

    name: Literal["yolo"] = "yolo"
    data_yaml: str = Field("data.yaml", json_schema_extra=NOT_IDENTITY)
    """The file with the names of classes and the places of the splits, relative to `root`. All
    images must be below `root`."""

    def find(self, splits: Sequence[Split]) -> dict[Split, Listing]:
        """See `Recorded.find`."""
        return find_files(self.folder, self.data_yaml, splits)

    def read(self, listings: Listings) -> dict[Split, Index]:
        """See `Recorded.read`."""
        config = read_config(self.folder / self.data_yaml)
        return {split: read_labels(each, config) for split, each in listings.items()}
