"""Named versions of the drawn shapes, for results that can be compared over years.

A version is never changed: not its options, not a pixel. Where the generator or a default of
`Shapes` changes, versions go on as they are, and a new one gets a new name.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from detectors.data.base import DataOptions, Dataset, Expected, Listed, Split
from detectors.data.shapes import Shapes

_V1: dict[str, Any] = {
    "size": 96,
    "train_images": 1000,
    "val_images": 200,
    "classes": 4,
    "min_objects": 2,
    "max_objects": 6,
    "min_side": 10.0,
    "max_side": 56.0,
    "crowding": 0.35,
    "max_overlap": 0.55,
    "clutter": 3,
    "noise": 0.03,
    "contrast": 0.45,
    "hue_jitter": 0.35,
    "seed": 1,
}
_V1_CROWD: dict[str, Any] = _V1 | {
    "min_objects": 6,
    "max_objects": 16,
    "min_side": 8.0,
    "max_side": 32.0,
    "crowding": 0.85,
    "max_overlap": 0.75,
}


class ShapesVersion(DataOptions):
    """A version without options."""

    segmented: ClassVar[bool] = True
    OPTIONS: ClassVar[Mapping[str, Any]]
    """All options of `Shapes` that it stands for, whatever their defaults are."""
    name: str

    @property
    def label(self) -> str:
        """See `DataOptions.label`."""
        return self.name

    def expected(self) -> Expected:
        """See `DataOptions.expected`."""
        return self._shapes().expected()

    def listed(self, split: Split) -> Listed:
        """See `DataOptions.listed`."""
        return self._shapes().listed(split)

    def load(self, split: Split) -> Dataset:
        """See `DataOptions.load`."""
        return self._shapes().load(split)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the name and the options, in hex."""
        meaning = {"name": self.name, "options": dict(self.OPTIONS)}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    def _shapes(self) -> Shapes:
        return Shapes(**self.OPTIONS)


class ShapesV1(ShapesVersion):
    """1,000 + 200 images of 96 pixels with 2 to 6 shapes; one in three is crowded."""

    OPTIONS = _V1
    name: Literal["shapes-v1"] = "shapes-v1"


class ShapesV1Crowd(ShapesVersion):
    """The same with 6 to 16 smaller shapes, most of them partly over another one."""

    OPTIONS = _V1_CROWD
    name: Literal["shapes-v1-crowd"] = "shapes-v1-crowd"
