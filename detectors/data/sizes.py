"""How large images get, in pixels: fitted into a box, turned or not, and padded."""

PAD = 114
"""Grey level of the padding, close to the mean of photographs."""

MULTIPLE = 32
"""Sides are padded to a multiple of this where images have sizes of their own."""


def fitted_size(
    original_width: int, original_height: int, height: float, width: float
) -> tuple[int, int]:
    """(width, height) of the largest image of that aspect inside height x width, rounded."""
    factor = min(width / original_width, height / original_height)
    return max(1, round(original_width * factor)), max(1, round(original_height * factor))


def turned_size(
    original_width: int, original_height: int, shorter: float, longer: float
) -> tuple[int, int]:
    """(width, height) of the largest image of that aspect, rounded, with these limits on its sides.

    The rule of detectron's code: the shorter side becomes `shorter`, or less where the longer one
    would exceed `longer`, whichever way the image stands.
    """
    if original_width >= original_height:
        return fitted_size(original_width, original_height, shorter, longer)
    return fitted_size(original_width, original_height, longer, shorter)


def rounded_up(side: int) -> int:
    """The next multiple of 32."""
    return -(-side // MULTIPLE) * MULTIPLE
