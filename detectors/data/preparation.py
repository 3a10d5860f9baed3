"""How a picture becomes the input of a detector: the same way in training and in use."""

from typing import Any, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from detectors.data.images import fitted_pixels, to_rgb
from detectors.data.orientation import Exif, Size
from detectors.options import Options


class Prepared(NamedTuple):
    """A picture as input of a detector.

    Attributes:
        image: [3, height, width] uint8 RGB, padded at the right and bottom.
        scale: (x, y) factors from pixels of the picture to pixels of `image`.
        size: (width, height) of the picture in pixels, upright if its orientation is applied.
    """

    image: Tensor
    scale: tuple[float, float]
    size: Size


class Preparation(Options):
    """The options of a data set that apply to any picture; see `detectors.data.photos.Photos`."""

    height: int = Field(ge=1)
    """Height of the input, in pixels."""
    width: int = Field(ge=1)
    """Width of the input, in pixels."""
    portrait: Literal["fit", "turn"] = "fit"
    """Whether the picture is fitted into `height` x `width`, or these limit its sides."""
    exif: Exif = "apply"
    """Whether the EXIF orientation is applied."""

    def __call__(self, picture: Any) -> Prepared:
        """Resize and pad a picture: a path, an image of Pillow or an array of uint8.

        Raises:
            ImageError: the picture can't be used; see `detectors.data.images.to_rgb`.
        """
        rgb = to_rgb(picture, self.exif)
        turn = self.portrait == "turn"
        image, scale = fitted_pixels(rgb, self.height, self.width, turn=turn)
        return Prepared(image, scale, rgb.size)
