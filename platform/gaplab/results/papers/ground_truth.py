"""Rows of a table that show the ground truth: the recall that NMS leaves to a perfect detector."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from detectors.data.base import DataError, DataOptions
from detectors.evaluation.crowd import recall_ceiling
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from gaplab.errors import UserError
from gaplab.results.papers.paper_table import Line
from gaplab.spec.sections import Section


def with_ground_truth(
    lines: Sequence[Line], rows: Mapping[str, Mapping[str, Section]]
) -> list[Line]:
    """Return the lines with the recall of the rows that show the ground truth.

    The protocol is that of `read.protocol` or, without one, of `evaluation.protocol`. See
    `recall_ceiling`.

    Args:
        lines: the lines of a table.
        rows: `ResolvedSpec.ground_truth`.

    Raises:
        UserError: data can't be read, or a protocol has no such recall; with all problems.
    """
    found, problems = list[Line](), list[str]()
    for line in lines:
        try:
            found.append(_filled(line, rows[line.row]) if line.row in rows else line)
        except (ValueError, DataError) as error:
            problems += [f"rows.{line.row}: {each}" for each in getattr(error, "problems", [error])]
    if problems:
        raise UserError(*problems)
    return found


def _filled(line: Line, sections: Mapping[str, Section]) -> Line:
    protocol = line.reading.protocol or sections["evaluation"].value.protocol
    recall = _recall(sections["data"].value, protocol)
    values = {"recall": 100.0, "recall_nms": 100 * recall}
    return replace(line, protocols=(protocol.preset,), computed=values)


def _recall(options: DataOptions, protocol: Protocol) -> float:
    data = options.load("val")
    return recall_ceiling(GroundTruth.of(data.truth(), data.classes), protocol)
