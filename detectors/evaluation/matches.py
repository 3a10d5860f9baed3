"""The result of matching for each detection, from which AP on resampled images is computed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Matches:
    """COCO's matching of D detections in N images, at T IoU thresholds.

    Detections are sorted by class, then by image id, then by descending score: the order in which
    COCO breaks ties.

    Attributes:
        images: the number N of images.
        classes: the number of classes.
        image: [D] int64 in [0, N).
        label: [D] int64.
        score: [D] float64.
        hit: [T, D] bool, whether the detection is matched to an object.
        ignored: [T, D] bool, whether it is matched to a crowd region; such detections count neither
            as true nor as false positives, and `hit` is False for them.
        object_image: [G] int64, images of the objects, without crowd regions.
        object_label: [G] int64, labels of these objects.
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
