"""AP and AR with and without NMS, from candidates kept once."""

from detectors.evaluation.gap import ClassGap, GapMetrics, measure_gap, select
from detectors.evaluation.protocol import PROTOCOLS, Protocol

__all__ = ["PROTOCOLS", "ClassGap", "GapMetrics", "Protocol", "measure_gap", "select"]
