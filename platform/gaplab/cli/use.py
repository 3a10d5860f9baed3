"""`gaplab predict`, `weights` and `onnx`: use the detector that a trial has trained."""

import json as jsonlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaplab.cli.opening import read_ledger
from gaplab.cli.options import MAX_EPOCH, BranchOption, HomeOption, JsonOption
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.tabular import number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.errors import StorageError, UserError
from gaplab.formatting import plural, printable
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from detectors.trained import TrainedDetector
    from gaplab.results.use.predicting import Choice, Predicted

TrialArgument = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL|FILE",
        help="Id of a trial, or its beginning; or a file of weights that `gaplab weights` wrote or "
        "that was released for DETR, Deformable DETR, Sparse R-CNN or POTO.",
    ),
]
EpochOption = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_EPOCH, help="Weights at the end of this epoch [default: newest]."),
]

ProtocolOption = Annotated[
    str | None,
    typer.Option(
        help="How boxes are selected: a preset, a mapping such as '{nms_iou: 0.5}', or a YAML file "
        "[default: as the trial is evaluated]."
    ),
]
_LARGEST = 1e-4
"""Largest difference under onnxruntime: of scores, and of boxes in sides of the input."""
_PIXELS = 1e-3
"""Largest part of the pixels of a picture by which a mask may differ: those near 0.5 may."""


def predict(  # noqa: PLR0913 - every argument is an option of the command
    trial: TrialArgument,
    pictures: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES", help="Pictures of any size, or folders of pictures."),
    ],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score.")] = 0.3,
    nms: Annotated[
        bool,
        typer.Option(
            "--nms", help="Write the boxes that NMS leaves to JSON, instead of all boxes."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write boxes as COCO's results."),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|FILE",
            help="Draw boxes without NMS and with NMS side by side; for one picture, this may be a "
            ".png file.",
        ),
    ] = None,
    protocol: ProtocolOption = None,
    branch: BranchOption = None,
    epoch: EpochOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Detect objects in pictures, without and with NMS.

    Nothing is predicted or written if one of the pictures can't be used. Without -o, --json and
    --draw, the number of boxes of each picture is printed.
    """
    from gaplab.results.use.predicting import Choice, check_not_given, drawings, find_pictures
    from gaplab.results.use.predicting import draw as draw_boxes
    from gaplab.results.use.predicting import predict as predict_boxes
    from gaplab.spec.protocols import parse_protocol

    rule = None if protocol is None else parse_protocol(protocol)
    choice = Choice(threshold, rule, branch)
    if output is not None:
        _check_folder(output)
    detector = _detector(home, trial, epoch)
    paths = find_pictures(pictures)
    if output is not None:
        check_not_given("-o", output, paths)
    targets = {} if draw is None else drawings(draw, paths)
    found = list["Predicted"]()
    with progress_line("predicting") as show:
        for each in predict_boxes(detector, paths, choice):
            found.append(each)
            show(f"{len(found)} of {len(paths)} pictures")
    rows = [row for each in found for row in each.coco(nms)]
    if output is not None:
        _write(output, jsonlib.dumps(rows))
    for each in found if targets else ():
        draw_boxes(each, targets[each.path], detector, _caption(detector, choice))
    if json:
        _print(jsonlib.dumps(rows))
    else:
        _print_counts(found, output, len(rows), targets.values())


def weights(
    trial: TrialArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="File to write.")],
    epoch: EpochOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Write the weights of a trial as a file of safetensors.

    They are the averaged ones; those of a released checkpoint get gaplab's names. The header has
    the classes and the options of the detector, so `detectors.load_detector` needs nothing else.
    `training.init_from` takes the file, too.
    """
    from detectors.models.weights import SAFETENSORS

    if output.suffix != SAFETENSORS:
        raise UserError(f"-o {output}: the name must end in {SAFETENSORS}; other tools expect that")
    _check_folder(output)
    detector = _detector(home, trial, epoch)
    try:
        detector.save(output)
    except OSError as error:
        raise _unwritable(output, error) from error
    count = sum(each.numel() for each in detector.parameters())
    _print(f"{output}: {_title(detector)}, {plural(count, 'weight')}")


def onnx(  # noqa: PLR0913 - every argument is an option of the command
    trial: TrialArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="File to write.")],
    nms: Annotated[bool, typer.Option("--nms", help="Suppress duplicates in the graph.")] = False,
    protocol: ProtocolOption = None,
    branch: BranchOption = None,
    epoch: EpochOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Write the detector of a trial as a graph of ONNX.

    The graph takes batches of any number of pictures of one size and returns detections. The
    metadata of the file says how pictures are prepared, and has classes and options. The outputs
    are then compared with those of the detector under onnxruntime, on a picture of noise.
    """
    from detectors.onnx_export import ExportError, difference, export
    from gaplab.spec.protocols import parse_protocol

    rule = None if protocol is None else parse_protocol(protocol)
    _check_folder(output)
    detector = _detector(home, trial, epoch)
    options: Any = {"nms": nms, "protocol": rule, "branch": branch}
    try:
        with progress_line("exporting"):
            export(detector, output, **options)
            apart = difference(output, detector, [_noise(detector)], **options)
    except ExportError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise _unwritable(output, error) from error
    given, segments = detector.config.input, detector.config.detector.segments
    masks = f", masks {100 * apart.masks:.1g} % of the pixels" if segments else ""
    _print(
        f"{output}: {_title(detector)}, {'with' if nms else 'without'} NMS, input [batch, 3, "
        f"{given.height}, {given.width}]; largest difference under onnxruntime: scores "
        f"{apart.scores:.1g}, boxes {apart.boxes:.1g} pixels{masks}"
    )
    if given.portrait == "turn":
        _print("note: pictures are padded to this size; the trial itself pads some of them less")
    wrong = apart.scores > _LARGEST or apart.boxes > _LARGEST * max(given.height, given.width)
    if wrong or apart.masks > _PIXELS:
        _print("the outputs differ: don't use this file; try another version of onnxruntime")
        raise typer.Exit(1)


def _noise(detector: "TrainedDetector") -> Any:
    """Return a picture of noise that has to be resized and padded: [height, width, 3] uint8."""
    import numpy as np

    height, width = detector.config.input.height, detector.config.input.width
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height + 8, width // 2 + 1, 3), dtype=np.uint8)


def _detector(home: Path, trial: str, epoch: int | None) -> "TrainedDetector":
    from gaplab.results.use.trained import StoredTrial, detector_of_file, is_file

    if is_file(trial):
        if epoch is not None:
            raise UserError(f"--epoch {epoch}: a file of weights has no epochs; leave it out")
        return detector_of_file(trial)
    with read_ledger(Home(home)) as ledger:
        stored = StoredTrial(ledger.find_trial(trial), Home(home))
    return stored.detector(epoch)


def _title(detector: "TrainedDetector") -> str:
    source = detector.config.source
    if "published" in source:
        return f"{source['published']} of {source['file']}"
    return f"{source['assignment']}, trial {source['trial']}, epoch {source['epoch']}"


def _caption(detector: "TrainedDetector", choice: "Choice") -> str:
    rule = choice.protocol or detector.config.protocol
    branch = f", branch {choice.branch}" if choice.branch else ""
    return (
        f"{_title(detector)}{branch}, score at least {choice.threshold:g}, protocol {rule.preset}"
    )


def _print_counts(found: "Sequence[Predicted]", output: Path | None, rows: int, drawn: Any) -> None:
    columns = [text("picture"), number("boxes\nwithout NMS"), number("with NMS")]
    lines = ([str(e.path), str(len(e.without)), str(len(e.with_nms))] for e in found)
    open_console().print(plain_table(columns, lines))
    if output is not None:
        _print(f"{output}: {plural(rows, 'box') if rows == 1 else f'{rows} boxes'}")
    for path in drawn:
        _print(str(path))


def _write(path: Path, content: str) -> None:
    """Write a file as a whole. Raises StorageError."""
    try:
        path.write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _check_folder(output: Path) -> None:
    """Raise UserError if a file can't be written because of its folder, before any work is done."""
    if output.is_dir():
        raise UserError(f"-o {output}: is a folder; give the name of a file")
    if not output.parent.is_dir():
        raise UserError(f"-o {output}: no folder {output.parent}; create it, or correct the path")


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"-o {path}: can't be written ({error.strerror}); choose another file")


def _print(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
