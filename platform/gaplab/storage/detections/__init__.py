"""Read detections that another tool wrote, check them and match them to annotations.

`open_detections` reads a file or a folder, and `flat_detections` arrays in memory. Both return
`Detections`, which yields `Candidates` in chunks of whole images.
"""

from gaplab.storage.detections.findings import Findings
from gaplab.storage.detections.opening import Detections, ReadOptions, open_detections

__all__ = ["Detections", "Findings", "ReadOptions", "open_detections"]
