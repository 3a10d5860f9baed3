"""What matching decided about each detection: enough for AP on any resample of the images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Matches:
    """D detections of N images against their objects, under COCO's matching at T IoU thresholds.

    Detections are sorted by class, then image id; of one image and class by falling score. It is
    the order in which COCO breaks ties. Ignored detections (matched to a crowd region) count
    neither as right nor as wrong; `hit` is False for them.

    image: [D] int64 in [0, N); label: [D] int64; score: [D] float64; hit: [T, D] bool, matched to
    an object; ignored: [T, D] bool. object_image, object_label: [G] int64, the objects to be found
    (crowd regions are none). images, classes: the numbers N and C of them.
    """

    images: int
    classes: int
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    object_image: NDArray[np.int64]
    object_label: NDArray[np.int64]
