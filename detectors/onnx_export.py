"""Export a trained detector to ONNX, with or without NMS in the graph.

The graph takes prepared pictures and returns the detections of a protocol. Suppression is ONNX's
operator NonMaxSuppression.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detectors.boxes import area
from detectors.data.mask_views import COARSE
from detectors.data.sizes import PAD, rounded_up
from detectors.evaluation.protocol import Protocol
from detectors.masks import coarse_logits, placed
from detectors.models.output import Output
from detectors.models.weights import replacing
from detectors.structures import Predictions
from detectors.trained import HEADER, TrainedDetector, portable

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""What an export needs; the extra `onnx` of gaplab installs them."""
INPUTS, OUTPUTS = ("images", "sizes"), ("boxes", "scores", "labels")
MASKS = "masks"
"""The fourth output, of detectors that predict masks."""
OPSET = 20
_INPUT = (
    f"images: [batch, 3, %d, %d] uint8, RGB in 0..255; the graph normalises them. Resize a picture "
    f"bilinearly until it fits, keeping its aspect ratio, and pad it at the right and bottom with "
    f"{PAD}. sizes: [batch, 2] float32, width and height of the resized picture without padding."
)
_OUTPUT = (
    "boxes: [batch, n, 4] float32, x1 y1 x2 y2 in pixels of images; divide them by the factor of "
    "the resizing. scores: [batch, n] float32, descending. labels: [batch, n] int64, positions in "
    "classes. Where a picture has fewer than n detections: label -1, score 0."
)
_MASKS = (
    " masks: [batch, n, h, w] float32, probabilities; that of column i and row j belongs to pixel "
    f"({COARSE}i + {COARSE // 2}, {COARSE}j + {COARSE // 2}) of images. Interpolate between them "
    "bilinearly at the pixels of the picture; one above 0.5 belongs to the object."
)
_ABSENT = -1.0
"""Score inside the graph of what is not a detection."""


class ExportError(ValueError):
    """A detector can't be exported. The message says why, and the remedy."""


class Found(NamedTuple):
    """Candidates of B pictures: boxes [B, K, 4], scores, labels and points, each [B, K]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    points: Tensor

    def best(self, count: int) -> "Found":
        """Return the `count` best by descending score, or all if there are fewer."""
        scores, index = self.scores.topk(min(count, self.scores.shape[1]))
        boxes = self.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        labels, points = (each.gather(1, index) for each in (self.labels, self.points))
        return Found(boxes, scores, labels, points)

    def only(self, keep: Tensor) -> "Found":
        """Return all with the score of those that are False in `keep` [B, K] replaced."""
        return self._replace(scores=torch.where(keep, self.scores, _ABSENT))

    def clipped(self, sizes: Tensor) -> "Found":
        """Return all with boxes clipped to pictures of `sizes` [B, 2]."""
        return self._replace(boxes=self.boxes.clamp(min=0).minimum(sizes.repeat(1, 2)[:, None]))


class Graph(nn.Module):
    """What is exported: network, selection of candidates and, if wanted, suppression.

    Args:
        detector: the detector; its inputs have one size (see `exportable`).
        branch: the branch that predicts.
        protocol: how detections are selected.
        nms: whether duplicates are suppressed.
    """

    def __init__(
        self, detector: TrainedDetector, branch: str, protocol: Protocol, nms: bool
    ) -> None:
        super().__init__()
        self.network, self.branch, self.protocol, self.nms = (
            detector.network,
            branch,
            protocol,
            nms,
        )
        self.classes, self.segments = len(detector.classes), detector.config.detector.segments
        points = self.network(_images(detector, 1), branches=(branch,)).points[branch]
        self.lengths: list[int] = points.level.bincount().tolist()

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels and perhaps masks; see the metadata of the file."""
        output: Output = self.network(images, branches=(self.branch,))
        found = self._selected(output.branches[self.branch][0], sizes)
        there = found.scores > _ABSENT
        boxes = torch.where(there[..., None], found.boxes, 0.0)
        scores, labels = torch.where(there, found.scores, 0.0), torch.where(there, found.labels, -1)
        if not self.segments:
            return boxes, scores, labels
        masks = torch.where(there[..., None, None], self._masks(output, found), 0.0)
        return boxes, scores, labels, masks

    def _selected(self, predictions: Predictions, sizes: Tensor) -> Found:
        """Return the detections of the protocol; absent ones have the score `_ABSENT`."""
        protocol = self.protocol
        found = self._candidates(predictions.scores(), predictions.boxes)
        found = found.clipped(sizes) if protocol.clip == "before" else found
        if self.nms and protocol.order == "nms_then_cut":
            found = self._suppressed(found)
        found = found.best(protocol.max_dets)
        if self.nms and protocol.order == "cut_then_nms":
            found = self._suppressed(found).best(protocol.max_dets)
        if protocol.clip == "after":
            found = found.clipped(sizes)
            found = found.only(area(found.boxes) > 0).best(protocol.max_dets)
        return found

    def _masks(self, output: Output, found: Found) -> Tensor:
        """Return the probabilities of masks: [B, K, h, w], see `COARSE`."""
        features, points = output.masks[self.branch], output.points[self.branch]
        parameters = output.branches[self.branch][0].masks
        assert parameters is not None
        index = found.points[..., None].expand(-1, -1, parameters.shape[2])
        image = torch.arange(features.shape[0])[:, None].expand_as(found.points).flatten()
        logits = coarse_logits(
            features,
            image,
            parameters.gather(1, index).flatten(0, 1),
            points.take(found.points.flatten()),
        )
        return logits.sigmoid().reshape(*found.points.shape, *logits.shape[1:])

    def _candidates(self, scores: Tensor, boxes: Tensor) -> Found:
        """Return the best pairs of point and class of each level, as in `best_pairs`."""
        parts, start = list[tuple[Tensor, Tensor]](), 0
        for length, level in zip(self.lengths, torch.split(scores, self.lengths, 1), strict=True):
            most = min(length * self.classes, self.protocol.pre_nms_topk)
            most = min(most, length) if self.protocol.cap_at_points else most
            values, pairs = level.flatten(1).topk(most)
            parts.append((values, pairs + start * self.classes))
            start += length
        best, index = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        point = torch.div(index, self.classes, rounding_mode="floor")
        held = boxes.gather(1, point[..., None].expand(-1, -1, 4))
        found = Found(held, best, index - point * self.classes, point)
        return found.only(best > self.protocol.score_floor)

    def _suppressed(self, found: Found) -> Found:
        scores = found.scores[:, None]
        if self.protocol.class_wise:
            own = found.labels[:, None] == torch.arange(self.classes)[:, None]
            scores = torch.where(own, scores, _ABSENT)
        kept = suppress(
            found.boxes,
            scores,
            self.protocol.max_dets,
            self.protocol.nms_iou,
            self.protocol.score_floor,
        )
        marks = torch.ones_like(kept[:, 0], dtype=torch.float32)
        mask = torch.zeros_like(found.scores).index_put((kept[:, 0], kept[:, 2]), marks)
        return found.only(mask > 0)


@torch.library.custom_op("gaplab::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, most: int, iou: float, floor: float) -> Tensor:
    """Stand for ONNX's NonMaxSuppression in a graph; it can't be called.

    Args:
        boxes: [B, K, 4].
        scores: [B, C, K]; 1 class if all classes suppress each other.
        most: maximum number of boxes per picture and class.
        iou: boxes with a greater IoU with a kept one are suppressed.
        floor: boxes with a score of at most this are left out.

    Returns:
        [n, 3] int64: picture, class and position of each box that is kept.
    """
    raise NotImplementedError("only in graphs of ONNX")


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, most: int, iou: float, floor: float) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 3), dtype=torch.int64)


def _translated(boxes: Any, scores: Any, most: int, iou: float, floor: float) -> Any:
    """Return the operator of ONNX for `suppress`. Its order of x and y makes no difference."""
    from onnxscript import opset20 as op

    limit, least = op.Constant(value_ints=[most]), op.Constant(value_floats=[floor])
    overlap = op.Constant(value_floats=[iou])
    return op.NonMaxSuppression(boxes, scores, limit, overlap, least)


def exportable(detector: TrainedDetector) -> TrainedDetector:
    """Return a detector that fits every picture into inputs of one size.

    It shares the network. It differs from `detector` for `portrait: turn` only, whose inputs
    have other sizes for other pictures.
    """
    given = detector.config.input
    if given.portrait == "fit":
        return detector
    sides = {"height": rounded_up(given.height), "width": rounded_up(given.width)}
    fixed = given.model_copy(update={**sides, "portrait": "fit"})
    config = detector.config.model_copy(update={"input": fixed})
    return TrainedDetector(detector.network, config)


def export(
    detector: TrainedDetector,
    path: Path,
    *,
    nms: bool,
    protocol: Protocol | None = None,
    branch: str | None = None,
) -> None:
    """Write a graph of ONNX. The number of pictures in a batch is free, their size is fixed.

    The metadata of the file describes inputs and outputs, and holds classes and options.

    Args:
        detector: the detector.
        path: the file; an existing one is replaced once the new one is complete.
        nms: whether duplicates are suppressed in the graph.
        protocol: how detections are selected; None: that of the detector.
        branch: the branch that predicts; None: the first one.

    Raises:
        ExportError: packages are missing, the detector has no such branch, or ONNX has no operator
            for the protocol's suppression.
        OSError: the file can't be written.
    """
    rule, name = protocol or detector.config.protocol, branch or detector.config.branches[0]
    if problem := _problem(detector, rule, name, nms):
        raise ExportError(problem)
    fixed = exportable(detector)
    config = fixed.config.model_copy(update={"protocol": rule})
    program = _program(Graph(fixed, name, rule, nms), _images(fixed, 2))
    program.model.metadata_props.update(
        {
            HEADER: portable(config).model_dump_json(),
            "classes": json.dumps(config.classes, ensure_ascii=False),
            "branch": name,
            "nms": str(nms).lower(),
            "input": _INPUT % (config.input.height, config.input.width),
            "output": _OUTPUT + (_MASKS if detector.config.detector.segments else ""),
        }
    )
    with replacing(path) as part:
        program.save(part)


def _problem(detector: TrainedDetector, rule: Protocol, branch: str, nms: bool) -> str:
    """Return why a detector can't be exported; empty if it can."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)}: not installed; run: pip install 'gaplab[onnx]'"
    if branch not in detector.config.branches:
        return f"branch {branch!r}: the detector has {', '.join(detector.config.branches)}"
    limited = rule.level_range is not None or rule.spatial_range is not None
    if nms and (rule.suppression != "nms" or limited):
        return (
            f"protocol {rule.preset}: ONNX has no operator for suppression within neighbouring "
            "points or levels; leave out --nms, or choose another --protocol"
        )
    return ""


def _images(detector: TrainedDetector, count: int) -> Tensor:
    given = detector.config.input
    return torch.zeros(count, 3, given.height, given.width, dtype=torch.uint8)


def _program(graph: Graph, images: Tensor) -> Any:
    """Trace the graph. The exporter's own notes and warnings are left out."""
    sizes, batch = torch.full((len(images), 2), 8.0), torch.export.Dim("batch", min=1)
    with _quiet(), torch.no_grad():
        return torch.onnx.export(
            graph.eval(),
            (images, sizes),
            input_names=list(INPUTS),
            output_names=[*OUTPUTS, *([MASKS] if graph.segments else [])],
            dynamic_shapes=({0: batch}, {0: batch}),
            opset_version=OPSET,
            custom_translation_table={torch.ops.gaplab.suppress.default: _translated},
            verbose=False,
            dynamo=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class Difference(NamedTuple):
    """Largest differences between the outputs of a file and those of its detector.

    Infinite if the numbers of detections differ.
    """

    boxes: float
    """In pixels of the input."""
    scores: float
    masks: float = 0.0
    """Largest part of the pixels of a picture that belong to one of two masks only."""


def difference(
    path: Path, detector: TrainedDetector, pictures: Sequence[Any], **options: Any
) -> Difference:
    """Run a file under onnxruntime and compare it with its detector, picture by picture.

    Args:
        path: a file that `export` wrote.
        detector: the detector.
        pictures: see `TrainedDetector.detections` (at least one).
        options: the other arguments of `export`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fixed, nms = exportable(detector), options.pop("nms")
    found = [_difference(session, fixed, picture, nms, options) for picture in pictures]
    return Difference(*(max(each) for each in zip(*found, strict=True)))


def _difference(
    session: Any, detector: TrainedDetector, picture: Any, nms: bool, options: dict[str, Any]
) -> Difference:
    prepared = detector.prepare(picture)
    scale = torch.tensor(prepared.scale)
    sizes = (torch.tensor(prepared.size) * scale).round()
    inputs = {"images": prepared.image[None].numpy(), "sizes": sizes[None].numpy()}
    found = [torch.from_numpy(each[0]) for each in session.run(None, inputs)]
    boxes, scores, labels, *masks = (each[found[2] >= 0] for each in found)
    own = detector.detections(picture, nms=nms, **options)
    if len(own) != len(scores):
        return Difference(torch.inf, torch.inf)
    if not len(own):
        return Difference(0.0, 0.0)
    apart = (own.boxes * scale.repeat(2))[:, None] - boxes
    apart = apart.abs().amax(-1).where(own.labels[:, None] == labels, torch.inf)
    nearest, row = apart.min(1)
    differ = [placed(m[row], prepared.scale, own.size) != own.bitmaps() for m in masks]
    parts = [float(each.float().mean((1, 2)).max()) for each in differ]
    return Difference(float(nearest.max()), float((own.scores - scores).abs().max()), *parts)
