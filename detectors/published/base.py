"""From the state dict of a released detector to that of ours: a table of names per system."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from detectors.assigners.base import Branch
from detectors.models.base import DetectorOptions
from detectors.models.weights import COUNTER, WeightsError

Weights = dict[str, Tensor]
Names = Mapping[str, str]
"""Beginnings of published names -> those of ours; `{}` stands for a number. A beginning ends at a
dot or at the end of the name. The first one that fits is replaced, the rest of the name stays."""
BRANCH: Branch = "o2o"
"""The branch that the published predictors belong to."""
NORMAL: Mapping[str, Any] = {"bn": "trained", "frozen_stages": 0}
"""Options of a ResNet that need no file of weights; norms do the same at inference."""


class PublishedDetector(ABC):
    """A detector whose weights were released.

    Attributes:
        source: repository and files whose modules give the names.
        signs: published names that no other system has all of.
    """

    source: ClassVar[str]
    signs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def options(self, weights: Mapping[str, Tensor]) -> DetectorOptions:
        """Return the options of the detector, by the names and shapes of its weights."""

    @abstractmethod
    def names(self, weights: Mapping[str, Tensor]) -> Names:
        """Return the table of names of this checkpoint."""

    def values(self, found: Weights, where: str) -> Weights:
        """Return weights, by our names, with the values that our modules expect.

        Raises:
            WeightsError: the class layers are not those of COCO.
        """
        return found

    def convert(self, weights: Mapping[str, Tensor], where: str) -> Weights:
        """Return our state dict, without counters of batch norm.

        Args:
            weights: the published state dict.
            where: where it comes from, for messages.

        Raises:
            WeightsError: names are unknown, or weights differ that should be copies.
        """
        names, found = self.names(weights), Weights()
        unknown, differ = list[str](), list[str]()
        for key, value in weights.items():
            if key.endswith(COUNTER):
                continue
            ours = rename(key, names)
            if ours is None:
                unknown.append(key)
            elif ours in found and not _are_equal(found[ours], value):
                differ.append(key)
            else:
                found[ours] = value
        problems = [f"{where}: unknown weights {_some(unknown)}"] if unknown else []
        problems += [f"{where}: {_some(differ)}: not equal to its other copies"] if differ else []
        if problems:
            raise WeightsError(problems)
        return self.values(found, where)


def rename(key: str, names: Names) -> str | None:
    """Return our name of a published one; None if the table has none."""
    for published, ours in names.items():
        pattern = re.escape(published).replace(r"\{\}", r"(\d+)") + r"(?=\.|$)"
        if found := re.match(pattern, key):
            return ours.format(*found.groups()) + key[found.end() :]
    return None


def count(weights: Mapping[str, Tensor], name: str) -> int:
    """Return how many numbers stand at `{}` of a beginning of names."""
    pattern = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)") + r"(?=\.|$)")
    return len({found[1] for key in weights if (found := pattern.match(key))})


def depth_of(blocks: int) -> int:
    """Return the depth of a ResNet with this number of blocks in its third stage."""
    return {6: 50, 23: 101}.get(blocks, 50)


def _are_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (a.is_meta or torch.equal(a, b))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
