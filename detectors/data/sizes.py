"""Compute the sizes of resized and padded images, in pixels."""

PAD = 114
"""Grey level of the padding, close to the mean of photographs."""

MULTIPLE = 32
"""Sides are padded to a multiple of this, if images have different sizes."""


def fitted_size(
    original_width: int, original_height: int, height: float, width: float
) -> tuple[int, int]:
    """Return (width, height) of the largest image with this aspect inside height x width."""
    factor = min(width / original_width, height / original_height)
    return max(1, round(original_width * factor)), max(1, round(original_height * factor))


def turned_size(
    original_width: int, original_height: int, shorter: float, longer: float
) -> tuple[int, int]:
    """Return (width, height) of the largest image with this aspect and these limits of its sides.

    The rule of Detectron: the shorter side becomes `shorter`, or less if the longer side would
    exceed `longer`, for landscape and portrait images.
    """
    if original_width >= original_height:
        return fitted_size(original_width, original_height, shorter, longer)
    return fitted_size(original_width, original_height, longer, shorter)


def rounded_up(side: int) -> int:
    """Return the next multiple of 32."""
    return -(-side // MULTIPLE) * MULTIPLE
