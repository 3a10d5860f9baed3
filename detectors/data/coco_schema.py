"""The images, annotations and categories of a COCO JSON file, as they are written.

Each of `Image` and `Annotation` has a stricter class that is tried first. What only the wider one
accepts was refused or read in another way by versions of gaplab before 0.3 (see `LATER_RULES`).
"""

import math
from typing import Annotated, Any

from annotated_types import Ge, Gt, Len, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

RULES, LATER_RULES = 1, 2
"""Which rules a file needs to be read. The first ones are those of gaplab before 0.3: every image
has a name and a size, every annotation an id and a box, integers have no point, `ignore` is 0."""


URL = "coco_url"


def whole(value: Any) -> Any:
    """Return a float that is exactly an integer as one; other values unchanged."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if exact else value


def _no_bbox(value: Any) -> Any:
    return None if value == [] else value


Size = Annotated[int, Gt(0)]
ImageId = Annotated[int, Ge(-(2**63)), Lt(2**63)]
"""Ids are stored in files and tables as integers of 64 bits."""
Numbers = Annotated[list[float], Len(4, 4)]
Flag = Annotated[int, Field(strict=False, ge=0, le=1)]
NoFlag = Annotated[int, Field(strict=False, ge=0, le=0)]
Whole = BeforeValidator(whole)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Image(_Strict):
    """An entry of `images`."""

    id: Annotated[ImageId, Whole]
    file_name: Annotated[str, Len(1)]
    width: Annotated[Size | None, Whole] = None
    height: Annotated[Size | None, Whole] = None
    """The size of the picture, if the file has none."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, raw: Any) -> Any:
        """Name an image without `file_name` by the last folder and name of its `coco_url`."""
        if not isinstance(raw, dict) or "file_name" in raw or not isinstance(raw.get(URL), str):
            return raw
        return {**raw, "file_name": "/".join(raw[URL].split("/")[-2:])}

    @property
    def is_sized(self) -> bool:
        """Whether width and height are known."""
        return self.width is not None and self.height is not None

    @property
    def bounds(self) -> tuple[float, float]:
        """Width and height; infinity where unknown."""
        return self.width or math.inf, self.height or math.inf


class StrictImage(Image):
    """An image as the first rules require it."""

    id: ImageId
    width: Size
    height: Size

    @model_validator(mode="before")
    @classmethod
    def _named(cls, raw: Any) -> Any:
        return raw


class Annotation(_Strict):
    """An entry of `annotations`."""

    id: Annotated[int | None, Whole] = None
    image_id: Annotated[int, Whole]
    category_id: Annotated[int, Whole]
    bbox: Annotated[Numbers | None, BeforeValidator(_no_bbox)] = None
    area: float | None = None
    iscrowd: Flag = 0
    ignore: Flag = 0
    segmentation: Any = None


class StrictAnnotation(Annotation):
    """An annotation as the first rules require it."""

    id: int
    image_id: int
    category_id: int
    bbox: Numbers
    ignore: NoFlag = 0


class Category(_Strict):
    """An entry of `categories`."""

    id: Annotated[int, Whole]
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
    """Without control characters, because it is printed and used in names of metrics."""
    supercategory: Any = None


class Document(_Strict):
    """A whole file; images and annotations are validated one by one."""

    images: Annotated[list[Any], Len(1)]
    annotations: list[Any]
    categories: Annotated[list[Category], Len(1)]
