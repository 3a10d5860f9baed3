"""Draw the detections of a picture: several panels side by side, with classes and scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont

from detectors.rle import decode
from detectors.trained import Detections
from gaplab.formatting import one_line

COLOURS = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
"""The palette of Okabe and Ito, which colour-blind people can tell apart; one for each class."""
SHORTEST, LONGEST = 640, 1280
"""Limits of the longer side of a panel in pixels: other pictures are enlarged or reduced."""
_TINT = 0.45
"""Share of the colour of a mask in the pixels that it covers."""
_NAME = 24
"""Maximum number of characters of a class name."""
_INK, _PAPER = (17, 17, 17), (255, 255, 255)

Rectangle = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Panel:
    """One of the panels: a title and the detections that it shows."""

    title: str
    detections: Detections


def side_by_side(picture: Image.Image, panels: Sequence[Panel], caption: str = "") -> Image.Image:
    """Draw panels of one picture side by side, each with its title and its number of boxes.

    Every box is drawn. A label that would cover another one is left out, the one with the lower
    score; so crowded pictures have boxes without labels.

    Args:
        picture: the picture, RGB and upright.
        panels: what is drawn (at least one).
        caption: a line below the panels.
    """
    factor = _factor(picture.size)
    size = [max(1, round(side * factor)) for side in picture.size]
    font = ImageFont.load_default(max(14, round(max(size) / 50)))
    bar, gap = round(1.8 * _size("Ag", font)[1]), 8
    width, height = max(size[0], 5 * bar), max(size[1], 3 * bar)  # narrow pictures have labels, too
    scaled = Image.new("RGB", (width, height), _PAPER)
    scaled.paste(picture.resize((size[0], size[1]), Image.Resampling.LANCZOS))
    each = max(width, *(_size(_heading(panel), font)[0] for panel in panels))
    whole = (len(panels) * (each + gap) - gap, height + bar * (2 if caption else 1))
    canvas = Image.new("RGB", whole, _PAPER)
    text = ImageDraw.Draw(canvas)
    for i, panel in enumerate(panels):
        left = i * (each + gap)
        text.text((left + 2, bar / 2), _heading(panel), _INK, font, anchor="lm")
        canvas.paste(_drawn(scaled, panel.detections, factor, font), (left, bar))
    text.text((2, whole[1] - bar / 2), one_line(caption), _INK, font, anchor="lm")
    return canvas


def _heading(panel: Panel) -> str:
    count = len(panel.detections)
    return f"{one_line(panel.title)}: {count} {'box' if count == 1 else 'boxes'}"


def _factor(size: tuple[int, int]) -> float:
    """Return the factor that brings the longer side within the limits."""
    longer = max(size)
    return min(max(longer, SHORTEST), LONGEST) / longer


def _drawn(picture: Image.Image, found: Detections, factor: float, font: Font) -> Image.Image:
    """Draw masks and boxes, the best ones last, then labels, the best ones first."""
    panel = _tinted(picture, found, factor)
    draw, line = ImageDraw.Draw(panel), max(3, round(max(picture.size) / 250))
    boxes: list[Rectangle] = [(a, b, c, d) for a, b, c, d in (found.boxes * factor).tolist()]
    colours = [COLOURS[label % len(COLOURS)] for label in found.labels.tolist()]
    for box, colour in reversed([*zip(boxes, colours, strict=True)]):
        draw.rectangle(_sound(box), outline=_INK, width=line + 1)
        draw.rectangle(_sound(box), outline=colour, width=line)
    taken = list[Rectangle]()
    names = [one_line(name)[:_NAME] for name in found.names]
    for box, colour, name, score in zip(boxes, colours, names, found.scores.tolist(), strict=True):
        label = f"{name} {score:.2f}"
        place = _free_place(box, _size(label, font), panel.size, taken)
        if place is not None:
            taken.append(place)
            draw.rectangle(place, fill=colour)
            draw.text(
                (place[0] + 2, (place[1] + place[3]) / 2), label, _on(colour), font, anchor="lm"
            )
    return panel


def _tinted(picture: Image.Image, found: Detections, factor: float) -> Image.Image:
    """Return a copy with the masks of detections in the colours of their boxes, the best on top."""
    tint = picture.copy()
    if found.masks is None:
        return tint
    size = [max(1, round(side * factor)) for side in found.size]
    for row in reversed(range(len(found))):
        [mask] = decode(found.masks[torch.tensor([row])], found.size)
        shape = Image.fromarray(mask.numpy()).resize((size[0], size[1]), Image.Resampling.NEAREST)
        tint.paste(COLOURS[int(found.labels[row]) % len(COLOURS)], (0, 0), shape)
    return Image.blend(picture, tint, _TINT)


def _sound(box: Rectangle) -> Rectangle:
    """Return a box whose corners are in order, also after rounding."""
    return (box[0], box[1], max(box[0], box[2]), max(box[1], box[3]))


def _free_place(
    box: Rectangle, size: tuple[int, int], within: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """Return where a label of `size` fits at a box without covering others; None if nowhere."""
    for left, top in _corners(box, size):
        x = min(max(0.0, left), max(0.0, within[0] - size[0]))
        y = min(max(0.0, top), max(0.0, within[1] - size[1]))
        place = (x, y, x + size[0], y + size[1])
        if not any(_overlap(place, other) for other in taken):
            return place
    return None


def _corners(box: Rectangle, size: tuple[int, int]) -> Iterator[tuple[float, float]]:
    """Yield where a label may begin: above the box, below it, and inside of it."""
    for left in (box[0], box[2] - size[0]):
        for top in (box[1] - size[1], box[3], box[1], box[3] - size[1]):
            yield left, top


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _size(text: str, font: Font) -> tuple[int, int]:
    """Return width and height of a label with its margin."""
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ag|")
    return round(right - left) + 5, round(bottom - top) + 6


def _on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever is easier to read on a colour."""
    red, green, blue = colour
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 100 else _PAPER
