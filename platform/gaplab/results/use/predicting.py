"""Detect objects in pictures with the detector of a trial."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.data.images import ImageError, read_size, to_rgb
from detectors.evaluation.protocol import Protocol
from detectors.inference import NonFinitePredictionsError
from detectors.trained import Detections, TrainedDetector
from gaplab.errors import StorageError, UserError
from gaplab.formatting import printable
from gaplab.results.use.drawing import Panel, side_by_side

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp", ".jp2", ".avif"}
)
"""Suffixes of the files of a folder that are pictures."""
DRAWN = ".detections.png"
"""End of the names of drawn pictures."""


@dataclass(frozen=True)
class Choice:
    """Which detections are wanted.

    Attributes:
        threshold: the lowest score.
        protocol: how detections are selected; None: as the trial is evaluated.
        branch: the branch that predicts; None: the one kept at inference.
    """

    threshold: float
    protocol: Protocol | None = None
    branch: str | None = None


@dataclass(frozen=True)
class Predicted:
    """What was detected in one picture, without NMS and with it."""

    path: Path
    without: Detections
    with_nms: Detections

    def coco(self, nms: bool) -> list[dict[str, Any]]:
        """Return COCO's results, with the path of the picture as its name."""
        return (self.with_nms if nms else self.without).coco(str(self.path))


def find_pictures(given: Sequence[Path]) -> list[Path]:
    """Return the pictures that paths mean: files, and for a folder the pictures directly in it.

    Every picture is decoded once, so that nothing is predicted if one of them can't be used.

    Raises:
        UserError: with every path that is no usable picture.
    """
    found, problems = list[Path](), list[str]()
    for path in given:
        held = _pictures_of(path)
        if not held:
            problems.append(f"{path}: no pictures in this folder; name their files")
        found += held
    found = [*dict.fromkeys(found)]
    for path in found:
        try:
            read_size(path, decode=True)
        except ImageError as error:
            why = str(error) if path.exists() else "no such file"
            problems.append(f"{path}: no picture that can be read ({why}); leave it out")
    if problems:
        raise UserError(*map(printable, problems))
    return found


def predict(
    detector: TrainedDetector, pictures: Sequence[Path], choice: Choice
) -> Iterator[Predicted]:
    """Yield what is detected in each picture.

    Raises:
        UserError: the detector has no such branch, or its predictions are not finite.
    """
    for path in pictures:
        try:
            without, with_nms = detector.both(
                path, threshold=choice.threshold, protocol=choice.protocol, branch=choice.branch
            )
        except (ImageError, NonFinitePredictionsError) as error:
            raise UserError(f"{path}: {error}") from error
        except ValueError as error:
            raise UserError(f"--{error}") from error
        yield Predicted(path, without, with_nms)


def drawings(target: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """Return the file that each picture is drawn to.

    Args:
        target: a folder, which may not exist yet, or for one picture a file that ends in `.png`.
        pictures: the pictures.

    Raises:
        UserError: the target is another file, or a file for several pictures, or is one of the
            pictures; or several pictures have the same name.
    """
    if target.suffix.lower() in SUFFIXES and not target.is_dir():
        _check_drawing(target, pictures)
        return {pictures[0]: target}
    if target.exists() and not target.is_dir():
        raise UserError(f"--draw {target}: is a file, but no picture; give a .png file or a folder")
    return _in_folder(target, pictures)


def check_not_given(option: str, target: Path, pictures: Sequence[Path]) -> None:
    """Raise UserError if writing `target` would replace one of the pictures."""
    if target.exists() and any(target.samefile(each) for each in pictures):
        raise UserError(
            f"{option} {target}: would replace a picture that is read; give another name"
        )


def _check_drawing(target: Path, pictures: Sequence[Path]) -> None:
    """Raise UserError unless one picture can be drawn to this file."""
    if len(pictures) > 1:
        raise UserError(
            f"--draw {target}: is one file, but there are {len(pictures)} pictures; give a folder, "
            f"such as --draw {target.with_suffix('')}"
        )
    if target.suffix.lower() != ".png":
        raise UserError(f"--draw {target}: a drawing is a PNG; give a name that ends in .png")
    if not target.parent.is_dir():
        raise UserError(
            f"--draw {target}: no folder {target.parent}; create it, or correct the path"
        )
    check_not_given("--draw", target, pictures)


def _in_folder(folder: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """Return the file in a folder that each picture is drawn to. Raises UserError."""
    users = defaultdict[str, list[Path]](list)
    for path in pictures:
        users[f"{path.stem}{DRAWN}".casefold()].append(path)
    problems = [
        f"--draw {folder}: {' and '.join(map(str, held))} would be drawn to the same file; "
        "draw them to different folders"
        for held in users.values()
        if len(held) > 1
    ]
    if problems:
        raise UserError(*problems)
    return {path: folder / f"{path.stem}{DRAWN}" for path in pictures}


def draw(found: Predicted, target: Path, detector: TrainedDetector, caption: str) -> None:
    """Draw the detections without NMS and with NMS side by side, as a PNG file.

    Raises:
        StorageError: the file can't be written.
    """
    picture = to_rgb(found.path, detector.config.input.exif)
    panels = [Panel("without NMS", found.without), Panel("with NMS", found.with_nms)]
    drawn = side_by_side(picture, panels, caption)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(target, "PNG")
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"{target}: can't be written ({reason}); choose another --draw"
        ) from error


def _pictures_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(
        each
        for each in path.iterdir()
        if each.suffix.lower() in SUFFIXES and not each.name.endswith(DRAWN)
    )
