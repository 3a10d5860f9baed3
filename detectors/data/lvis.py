"""LVIS: COCO's images with objects of more than a thousand classes."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.data.coco import CocoFiles
from detectors.options import NOT_IDENTITY


class Lvis(CocoFiles):
    """Photographs with boxes, from the JSON files of LVIS. They are read as those of `coco`.

    An image is named by the last folder and name of its `coco_url`, such as val2017/1.jpg. The
    validation split of LVIS also has images of train2017.

    AP is COCO's AP over all classes, not that of LVIS: `neg_category_ids` and
    `not_exhaustive_category_ids` are not used, so a detection of a class that was not annotated in
    its image is a false positive, and training takes it for background. Such an AP is lower than
    one of LVIS's evaluation and can only be compared with others of gaplab.
    """

    name: Literal["lvis"] = "lvis"
    train_json: str = Field("lvis_v1_train.json", json_schema_extra=NOT_IDENTITY)
    """File of the training split, relative to `root`."""
    val_json: str = Field("lvis_v1_val.json", json_schema_extra=NOT_IDENTITY)
    """File of the validation split, relative to `root`."""
    train_images: str = Field(".", json_schema_extra=NOT_IDENTITY)
    """Folder that holds the folder train2017, relative to `root`."""
    val_images: str = Field(".", json_schema_extra=NOT_IDENTITY)
    """Folder that holds the folders of the validation images, relative to `root`."""
    planned_classes: int = Field(1203, ge=1, json_schema_extra=NOT_IDENTITY)
    """See `Photos`."""
    val_note: ClassVar[str] = (
        "AP is COCO's over all classes, not LVIS's: a class that was not annotated in an image "
        "counts as absent from it"
    )
