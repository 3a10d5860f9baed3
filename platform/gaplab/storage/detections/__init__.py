"""Read detections that another tool wrote, check them and match them to annotations.

`open_detections` reads a file or a folder, and `array_detections` arrays in memory. Both return
`Detections`, which yields `Candidates` in chunks of whole images.
"""

from gaplab.storage.detections.findings import Findings
from gaplab.storage.detections.opening import (
    Detections,
    FlatDetections,
    ReadOptions,
    StoredDetections,
    array_detections,
    open_detections,
)

__all__ = [
    "Detections",
    "Findings",
    "FlatDetections",
    "ReadOptions",
    "StoredDetections",
    "array_detections",
    "open_detections",
]
