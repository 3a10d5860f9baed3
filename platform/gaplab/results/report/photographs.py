"""Some validation images: the objects, and the detections without NMS and with NMS side by side."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from detectors.data.images import encode
from detectors.evaluation.claims import claims
from detectors.evaluation.truth import GroundTruth
from detectors.rle import decode
from detectors.structures import Candidates, Sample
from gaplab.formatting import plural, printable
from gaplab.results.report.figure import COLORS
from gaplab.results.report.html import captioned, join, legend, missing, panels, paragraph
from gaplab.results.report.stored import Archive, Shown

THRESHOLD = 0.3
"""Detections with a lower score are not drawn."""
_IMAGES, _SETTINGS = 3, 5
"""Number of images and of settings that are drawn."""
_LONGEST = 800
"""Pixels of the longer side of an image in the report."""
_MOST_BOXES = 300
"""Number of boxes in one picture."""


@dataclass(frozen=True)
class Kind:
    """What a box is, and how it is drawn: differs by colour and by dash."""

    name: str
    color: str
    dash: str = ""
    width: float = 2.4


@dataclass(frozen=True, eq=False)
class Mark:
    """What is drawn of an object or a detection.

    Attributes:
        kind: what it is.
        text: a description.
        box: [4] xyxy in pixels of the original image.
        mask: [height, width] bool of the original image; None: it has none.
    """

    kind: Kind
    text: str
    box: Tensor
    mask: Tensor | None = None


OBJECT = Kind("object", COLORS[0])
FOUND = Kind("finds an object", COLORS[2])
DUPLICATE = Kind("duplicate of a better detection", COLORS[1], "5 2", 2.2)
NOTHING = Kind("no object of its class there", COLORS[6], "1.5 2", 1.8)


def build(archive: Archive) -> Markup:
    """Return, for each image, the objects and one pair of pictures per setting."""
    shown, problems = archive.alike(_SETTINGS)
    truth, data = shown[0].stored.truth, archive.dataset(shown[0].run)
    content = [_legend(), paragraph(_note(), "note"), missing(problems)]
    return join(content + [_image(data[index], index, truth, shown) for index in images_of(truth)])


def images_of(truth: GroundTruth, most: int = _IMAGES) -> list[int]:
    """Return the images to draw: the one with the most objects, and some with fewer, but any."""
    counts = torch.bincount(truth.image, minlength=len(truth)).numpy()
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    step = max(1, len(order) // (most + 1))
    return order[::step][:most]


def _note() -> str:
    return (
        f"Detections with a score of at least {THRESHOLD}. A detection finds an object of its "
        "class if it overlaps it with an IoU of at least 0.5 and no better one does. The images "
        "are those with the most objects, then some with fewer. Masks of detectors that predict "
        "them are tinted; whether a detection finds an object is decided by its box."
    )


def _legend() -> Markup:
    kinds = (OBJECT, FOUND, DUPLICATE, NOTHING)
    return legend((_swatch(kind), kind.name) for kind in kinds)


def _swatch(kind: Kind) -> Markup:
    line = '<line x1="0" y1="6" x2="36" y2="6" stroke="{}" stroke-width="3" stroke-dasharray="{}"/>'
    return Markup(f'<svg class="key" viewBox="0 0 36 12" aria-hidden="true">{line}</svg>').format(
        kind.color, kind.dash
    )


def _image(sample: Sample, index: int, truth: GroundTruth, shown: Sequence[Shown]) -> Markup:
    name = f"photo-{index}"
    objects = torch.nonzero((truth.image == index) & ~truth.crowd)[:, 0]
    masks: Sequence[Tensor | None] = [None] * len(objects)
    if truth.masks is not None:
        masks = [*decode(truth.masks[objects], truth.sizes[index])]
    own = [
        Mark(OBJECT, truth.classes[truth.labels[i]], truth.boxes[i], mask)
        for i, mask in zip(objects, masks, strict=True)
    ]
    figures = [captioned(picture(sample, name, own), plural(len(own), "object"))]
    for each in shown:
        label, stored = each.setting.label, each.stored
        both = [marks_of(found, stored.truth, index) for found in (stored.without, stored.with_nms)]
        pair = join(picture(sample, name, marks) for marks in both)
        counts = f"{len(both[0])} without NMS, {len(both[1])} with NMS"
        figures.append(
            captioned(Markup('<div class="pair">{}</div>').format(pair), f"{label}: {counts}")
        )
    head = Markup("<h3>Image {}</h3>\n").format(sample.image_id)
    return head + photo(sample, name) + panels(figures, "pictures")


def marks_of(detections: Candidates, truth: GroundTruth, index: int) -> list[Mark]:
    """Return the detections of one image above the threshold, by falling score."""
    here = (detections.image == index) & (detections.scores >= THRESHOLD)
    own = detections.take(here)
    claim = claims(own, truth).numpy()
    first = np.zeros(len(claim), dtype=bool)
    first[np.unique(claim, return_index=True)[1]] = True
    kinds = np.where(claim < 0, 2, np.where(first, 0, 1))
    names = (FOUND, DUPLICATE, NOTHING)
    masks: Sequence[Tensor | None] = [None] * len(own)
    if own.masks is not None and bool(own.masks.held.all()):
        masks = [*decode(own.masks, truth.sizes[index])]
    columns = (kinds, own.labels.tolist(), own.scores.tolist(), own.boxes, masks)
    return [
        Mark(names[kind], f"{truth.classes[label]} {score:.2f}", box, mask)
        for kind, label, score, box, mask in zip(*columns, strict=True)
    ]


def photo(sample: Sample, name: str) -> Markup:
    """Return the pixels of an image, hidden, for any number of pictures that use them."""
    height, width = sample.image.shape[1:]
    return Markup(
        '<svg class="hidden" aria-hidden="true"><defs><image id="{}" width="{}" height="{}" '
        'href="{}"/></defs></svg>\n'
    ).format(name, width, height, data_uri(sample.image, "jpeg"))


def data_uri(image: Tensor, kind: str) -> str:
    """Return an image [3, H, W] uint8 RGB, or RGBA with 4 channels, as a URI of its bytes."""
    content = encode(image, "png" if kind == "png" else "jpeg", _LONGEST)
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def picture(sample: Sample, name: str, marks: Sequence[Mark]) -> Markup:
    """Return a picture of an image with the boxes of marks, on a tint of their masks."""
    height, width = sample.image.shape[1:]
    shown = marks[:_MOST_BOXES]
    drawn = _tint(sample, shown) + join(_box(sample, each) for each in shown)
    return Markup(
        '<svg class="picture" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<use href="#{}"/>{}</svg>'
    ).format(width, height, f"{len(marks)} boxes", name, drawn)


def _tint(sample: Sample, marks: Sequence[Mark]) -> Markup:
    """Return an image with the masks of marks in the colours of their kinds, the best one on top.

    Its edges are those of the original image, of which the sample may have a padded copy.
    """
    held = [(each.mask, each.kind.color) for each in marks if each.mask is not None]
    if not held:
        return Markup("")
    height, width = held[0][0].shape
    tint = torch.zeros(4, height, width, dtype=torch.uint8)
    for mask, color in reversed(held):
        red, green, blue = bytes.fromhex(color.removeprefix("#"))
        tint[:, mask] = torch.tensor([red, green, blue, 255], dtype=torch.uint8)[:, None]
    across, down = sample.scale
    return Markup(
        '<image class="mask" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none" href="{}"/>'
    ).format(width * across, height * down, data_uri(tint, "png"))


def _box(sample: Sample, mark: Mark) -> Markup:
    """Return a rectangle on a wider white one, so that it is seen on any photograph."""
    kind, box = mark.kind, mark.box
    x1, y1, x2, y2 = (box * box.new_tensor(sample.scale * 2)).tolist()
    shape = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"').format(
        x1, y1, x2 - x1, y2 - y1
    )
    return Markup(
        '{0} class="halo" stroke-width="{4}"/>{0} stroke="{1}" stroke-dasharray="{2}" '
        'stroke-width="{3}"><title>{5}</title></rect>'
    ).format(
        *(shape, kind.color, kind.dash, kind.width, kind.width + 1),
        printable(f"{mark.text}, {kind.name}"),
    )
