"""Data sets in the layout of Pascal VOC: an XML file per image, and text files of the splits."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from detectors.data.base import Split
from detectors.data.records import Index, Listing, Listings, Recorded
from detectors.data.voc_index import ClassName, VocFolders, find_files, read_xml
from detectors.options import NOT_IDENTITY


class Voc(Recorded):
    """Photographs with boxes, in the layout of Pascal VOC.

    A split is a text file of names, one per line; the image `name` has the file name.jpg (or
    another suffix) in `images`, and name.xml in `annotations`. Samples are in the order of the
    names, which are numbered from 1. The area of an object is that of its box.

    Objects marked `difficult` are crowd regions of the ground truth: detections on them are ignored
    and they are not part of the training targets. VOC's own evaluation ignores them, too, but
    compares with the IoU, where crowd regions are compared with the part of the detection inside.
    """

    name: Literal["voc"] = "voc"
    train_list: str = Field("ImageSets/Main/train.txt", json_schema_extra=NOT_IDENTITY)
    """File of the names of the training split, relative to `root`; or a folder with its images and
    XML files side by side; empty: all XML files in `annotations`."""
    val_list: str = Field("ImageSets/Main/val.txt", json_schema_extra=NOT_IDENTITY)
    """File of the names of the validation split, relative to `root`, or a folder."""
    annotations: str = Field("Annotations", json_schema_extra=NOT_IDENTITY)
    """Folder of the XML files, relative to `root`."""
    images: str = Field("JPEGImages", json_schema_extra=NOT_IDENTITY)
    """Folder of the images, relative to `root`."""
    classes: tuple[ClassName, ...] = Field((), strict=False)
    """Names of the classes in label order; empty: all names in the XML files, sorted."""
    first_pixel: Annotated[int, Field(ge=0, le=1)] = 1
    """Coordinate of the leftmost and topmost pixel. 1: as in VOC, where a box contains the pixels
    xmin to xmax, so it extends from xmin - 1 to xmax. 0: as most tools write XML files; a box
    extends from xmin to xmax."""

    @field_validator("classes")
    @classmethod
    def _differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := sorted({name for name in classes if classes.count(name) > 1}):
            raise ValueError(f"names repeat: {', '.join(repeated)}")
        return classes

    def find(self, splits: Sequence[Split]) -> dict[Split, Listing]:
        """See `Recorded.find`."""
        lists = {"train": self.train_list, "val": self.val_list}
        folders = VocFolders.of(self.folder, self.annotations, self.images)
        return find_files(folders, {split: lists[split] for split in splits})

    def read(self, listings: Listings) -> dict[Split, Index]:
        """See `Recorded.read`."""
        return read_xml(listings, self.classes, self.first_pixel)
