"""Check rows against annotations: unknown images and categories, wrong numbers, other box forms."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.data.annotations import OnBad
from detectors.data.checks import corners_for_centres, other_form, sides_for_corners
from gaplab.storage.detections.matching import Match
from gaplab.storage.detections.rows import BoxForm, Floats, Key, Rows, Source

_NAMED = 5
_SAMPLE = 200_000
"""Number of boxes from which the form of all boxes is recognised."""
_LARGEST_SLACK = 1e-6
"""A score may exceed 1 by this, through rounding."""

Mask = NDArray[np.bool_]
Doubles = NDArray[np.float64]
_NO_SCORE = "scores that are NaN or infinite"
_NO_BOX = "boxes that are NaN or infinite"
_NEGATIVE = "boxes with a negative width or height"


def wrong_numbers(rows: Rows, form: BoxForm) -> dict[str, Mask]:
    """Return which rows have a number that can't be used, by what is wrong."""
    sides = rows.boxes[:, 2:] - rows.boxes[:, :2] if form == "xyxy" else rows.boxes[:, 2:]
    return {
        _NO_SCORE: ~np.isfinite(rows.scores),
        _NO_BOX: np.array(~np.isfinite(rows.boxes).all(axis=1)),
        _NEGATIVE: np.array((sides < 0).any(axis=1)),
    }


class Checks:
    """Collects the problems of rows, part by part.

    Args:
        source: the rows.
        images: how its images match the annotations.
        categories: how its categories match the annotations.
        known: what can be matched: names of images and of categories of the annotations, for
            messages.
    """

    def __init__(
        self,
        source: Source,
        images: Match,
        categories: Match,
        known: tuple[Sequence[str], Sequence[str]],
    ) -> None:
        self._source, self._images, self._categories, self._known = (
            source,
            images,
            categories,
            known,
        )
        self._bad: dict[str, tuple[int, set[int]]] = {}
        self._unknown = {"images": 0, "categories": 0}
        self._low, self._high = np.inf, -np.inf
        self._sample, self._sizes = list[Doubles](), list[Doubles]()
        self._sampled = 0
        self.rows = 0

    def add(self, rows: Rows, sizes: Floats) -> Mask:
        """Check rows and return which of them can be used.

        Args:
            rows: the rows.
            sizes: [M, 2] width and height of the image of each row; of any image for rows whose
                image is unknown.
        """
        images, categories = self.unknown(rows)
        wrong = wrong_numbers(rows, self._source.form)
        self._unknown["images"] += int(images.sum())
        self._unknown["categories"] += int(categories.sum())
        self.rows += len(rows)
        finite = rows.scores[np.isfinite(rows.scores)]
        if len(finite):
            self._low = min(self._low, float(finite.min()))
            self._high = max(self._high, float(finite.max()))
        for what, mask in wrong.items():
            self._count(what, rows.image[mask])
        sound = ~np.any([images, wrong[_NO_SCORE], wrong[_NO_BOX]], axis=0)
        self._add_sample(rows.boxes[sound], sizes[sound])
        return self.usable(rows)

    def unknown(self, rows: Rows) -> tuple[Mask, Mask]:
        """Return which rows are of unknown images, and which of unknown categories."""
        images = self._images.positions[rows.image] < 0
        return images, self._categories.positions[rows.category] < 0

    def usable(self, rows: Rows) -> Mask:
        """Return which rows can be used."""
        wrong = [*self.unknown(rows), *wrong_numbers(rows, self._source.form).values()]
        usable: Mask = np.logical_not(np.any(wrong, axis=0))
        return usable

    def problems(self, on_bad: OnBad) -> list[str]:
        """Return why the rows can't be used, one line each: where, what and the remedy."""
        found = [*self._forms(), *self._ranges()]
        if on_bad == "refuse":
            whole = bool(found)  # negative sides follow from another form
            skip = "or leave them out with --on-bad skip"
            found += [f"{line}, {skip}" for line in self._unmatched()]
            found += [
                f"{self._summary(what, *of)}: correct them, {skip}"
                for what, of in self._bad.items()
                if not (whole and what == _NEGATIVE)
            ]
        return [f"{self._source.where}: {line}" for line in found]

    def notes(self) -> tuple[str, ...]:
        """Return what was left out and how keys were matched, one line each."""
        lines = [
            f"{what} are matched by {match.way}, because more are known than by id"
            for what, match in (("images", self._images), ("categories", self._categories))
            if not match.usual
        ]
        lines += [f"left out {line.partition(': ')[0]}" for line in self._unmatched()]
        lines += [f"left out {self._summary(what, *of)}" for what, of in self._bad.items()]
        return tuple(f"{self._source.where}: {line}" for line in lines)

    def _unmatched(self) -> Iterator[str]:
        """Yield what is unknown, with examples of what is known."""
        remedies = {
            "images": "give the annotations of these images",
            "categories": "give their numbering with --categories",
        }
        pairs = (("images", self._images), ("categories", self._categories))
        keys = {"images": self._source.images, "categories": self._source.categories}
        for (what, match), known in zip(pairs, self._known, strict=True):
            names = [key for key, at in zip(keys[what], match.positions, strict=True) if at < 0]
            if names:
                rows = f"{self._unknown[what]} of {self.rows} detections"
                yield (
                    f"{rows} of {_unknown(what, len(names))} ({named(names)}): the annotations "
                    f"have {named(known)}; {remedies[what]}"
                )

    def _count(self, what: str, images: NDArray[np.int64]) -> None:
        if len(images):
            count, found = self._bad.get(what, (0, set()))
            self._bad[what] = (count + len(images), found | {*np.unique(images).tolist()})

    def _summary(self, what: str, count: int, images: set[int]) -> str:
        keys = [self._source.images[i] for i in sorted(images)[:_NAMED]]
        more = ", ..." if len(images) > _NAMED else ""
        return f"{what}: {count} (images {', '.join(map(str, keys))}{more})"

    def _add_sample(self, boxes: Floats, sizes: Floats) -> None:
        left = _SAMPLE - self._sampled
        if left > 0 and len(boxes):
            self._sample.append(boxes[:left].astype(np.float64))
            self._sizes.append(sizes[:left].astype(np.float64))
            self._sampled += len(self._sample[-1])

    def _forms(self) -> Iterator[str]:
        """Yield what boxes look like if they are written in another form."""
        if not self._sample:
            return
        boxes, sizes = np.concatenate(self._sample), np.concatenate(self._sizes)
        line = _looks(boxes, sizes, self._source.form)
        if line is not None:
            other = {"xywh": "xyxy", "xyxy": "xywh"}.get(self._source.form, "")
            named = "corners (x1" in line if other == "xyxy" else "look like x, y, width" in line
            yield f"{line}, or give --boxes {other}" if other and named else line

    def _ranges(self) -> Iterator[str]:
        if (self._low >= 0 and self._high <= 1 + _LARGEST_SLACK) or self._low > self._high:
            return
        between = f"scores are between {self._low:.4g} and {self._high:.4g}, not in [0, 1]"
        if self._low < 0:
            yield f"{between}: they look like logits; apply the sigmoid (or the softmax) first"
        elif 1.5 < self._high <= 100:
            yield f"{between}: they look like percentages; divide them by 100"
        else:
            yield f"{between}; write probabilities"


def _looks(boxes: Doubles, sizes: Doubles, form: BoxForm) -> str | None:
    """Return what boxes look like if they are written in another form than `form`."""
    if form == "xywh":
        return other_form(boxes, sizes)
    if form == "xyxy":
        return sides_for_corners(boxes, sizes)
    if np.abs(boxes).max() > 2:
        return (
            f"the {len(boxes)} boxes have coordinates up to {np.abs(boxes).max():.4g}, so they are "
            "not fractions of the image; divide pixels by the width and height of the image"
        )
    return corners_for_centres(boxes * np.tile(sizes, 2), sizes)


def _unknown(what: str, count: int) -> str:
    """Return `1 unknown image` or `2 unknown images`."""
    one = {"images": "image", "categories": "category"}[what]
    return f"{count} unknown {one if count == 1 else what}"


def named(keys: Iterable[Key]) -> str:
    """Return the first keys as text, and how many there are."""
    listed = [str(key) for key in keys]
    rest = f", ... {len(listed)} in all" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + rest
