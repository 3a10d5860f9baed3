"""The classes of COCO, in the order of their ids."""

from torch import Tensor

from detectors.models.weights import WeightsError

IDS = tuple(i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""Category ids of COCO; the others up to 90 are not used."""
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
"""Names of the 80 classes."""


def of_classes(layer: Tensor, others: int, where: str) -> Tensor:
    """Return the rows of the 80 classes of a layer with a row per category id, 0 to 90.

    Args:
        layer: [91 + others, ...], weight or bias.
        others: number of rows behind them.
        where: where it comes from, for messages.

    Raises:
        WeightsError: the layer has another number of rows.
    """
    if len(layer) != 91 + others:
        raise WeightsError(
            [
                f"{where}: its class layer has {len(layer)} outputs, not {91 + others}; only "
                "detectors with the category ids of COCO can be converted"
            ]
        )
    return layer[list(IDS)]
