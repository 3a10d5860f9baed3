"""Random detections and objects on a small grid, where equal scores and IoUs are frequent."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from tests.detectors.evaluation import cases

CLASSES, IMAGES = 2, 3
corner, side = st.integers(0, 3), st.sampled_from([0, 2, 3, 4, 4, 6])
boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
images, labels = st.integers(0, IMAGES - 1), st.integers(0, CLASSES - 1)
row = st.tuples(images, boxes, labels, st.integers(1, 8))
"""A detection: image, box, label, score in eighths."""
objects = st.lists(st.tuples(images, boxes, labels, st.booleans()), max_size=15)
"""Objects: image, box, label, whether it is a crowd region."""


def make(rows: list[Any], objects: list[Any]) -> tuple[Candidates, GroundTruth]:
    """Build a case; there is at least one object. Image ids fall while indices rise."""
    objects = [*objects, (0, (0, 0, 4, 4), 0, False)]
    truth = []
    for image in range(IMAGES):
        own = [row for row in objects if row[0] == image]
        columns = ([row[k] for row in own] for k in (1, 2, 3))
        truth.append(cases.image_truth(10 - image, *columns))
    found, scores, label, of = ([row[k] for row in rows] for k in (1, 3, 2, 0))
    detections = cases.candidates(found, np.array(scores) / 8, label, of)
    return detections, GroundTruth.of(truth, [f"class {k}" for k in range(CLASSES)])
