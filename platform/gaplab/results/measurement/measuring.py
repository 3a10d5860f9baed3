"""`gaplab.measure`: measure detections from Python."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from detectors.data.annotations import Annotations
from detectors.evaluation.protocol import Protocol
from gaplab.errors import UserError
from gaplab.results.measurement.inputs import Input, InputOptions, input_of, open_inputs, read_truth
from gaplab.results.measurement.measure import RESAMPLES, Measured
from gaplab.results.measurement.measure import measure as measure_input
from gaplab.spec.protocols import parse_protocol, read_protocol, with_key
from gaplab.storage.detections import ReadOptions, array_detections


def measure(
    detections: Any,
    annotations: str | PathLike[str] | Annotations,
    protocol: str | Protocol | Mapping[str, Any] = "default",
    *,
    options: InputOptions | None = None,
    allow_suppressed: bool = False,
    resamples: int = RESAMPLES,
) -> Measured:
    """Measure how much detections need NMS.

    Args:
        detections: a path as for `gaplab measure`; or in memory: a dict of arrays or a DataFrame
            with columns such as image_id, category_id, x1, y1, x2, y2, score; an array [M, 7] of
            image id, x, y, width, height, score, category id; a list of COCO's results; or objects
            with `xyxy`, `confidence` and `class_id` such as supervision.Detections: a dict by image
            id or file name, or a list in the order of the annotations' images.
        annotations: a path as for `gaplab measure`, or annotations that were read before.
        protocol: a preset, a protocol, or a mapping such as {"preset": "defcn", "nms_iou": 0.5}.
        options: how both are read.
        allow_suppressed: whether to measure the gap of detections that are suppressed already.
        resamples: number of resamples of the images for the interval; 0: no interval.

    Returns:
        The measurement: `ap`, `ap_nms` and `gap` in percent points, `gap_interval`, `verdict`, and
        everything else in `summary`; `to_dict()` returns plain JSON.

    Raises:
        UserError: the input can't be used; with all problems.

    Examples:
        >>> import gaplab
        >>> box, other = [10, 10, 20, 20], [60, 50, 20, 20]
        >>> rows = [(1, box, 0.9), (1, box, 0.8), (1, other, 0.5)]
        >>> dets = [{"image_id": i, "category_id": 3, "bbox": b, "score": s} for i, b, s in rows]
        >>> import json, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "annotations.json"
        >>> document = {
        ...     "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 3, "bbox": box},
        ...         {"id": 2, "image_id": 1, "category_id": 3, "bbox": other},
        ...     ],
        ...     "categories": [{"id": 3, "name": "cat"}],
        ... }
        >>> _ = path.write_text(json.dumps(document))
        >>> found = gaplab.measure(dets, path)
        >>> round(found.ap, 1), round(found.ap_nms, 1)
        (83.5, 100.0)
    """
    options = options or InputOptions()
    given = _input(detections, annotations, options)
    chosen = _protocol(protocol)
    (found,) = measure_input(
        given, [chosen], allow_suppressed=allow_suppressed, resamples=resamples
    )
    return found


def _input(detections: Any, annotations: Any, options: InputOptions) -> Input:
    """Open an input. Raises UserError."""
    known = isinstance(annotations, Annotations)
    if isinstance(detections, str | PathLike) and not known:
        return open_inputs([Path(detections)], Path(annotations), options)[0]
    truth = annotations if known else read_truth(Path(annotations), options)
    if isinstance(detections, str | PathLike):
        return input_of(Path(detections), truth, options)
    read: ReadOptions = options.read
    return Input(array_detections(detections, truth, read), truth, options.dataset or "data", {})


def _protocol(given: str | Protocol | Mapping[str, Any]) -> Protocol:
    """Return a protocol. Raises UserError."""
    if isinstance(given, str):
        return parse_protocol(given)
    if isinstance(given, Protocol):
        return with_key(given)
    try:
        return with_key(Protocol.model_validate(read_protocol(given)))
    except ValueError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"protocol: {'; '.join(lines[:3])}") from None
