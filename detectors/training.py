"""How a detector is trained: the optimiser's options and its learning-rate schedule."""

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from detectors.options import Options


class Training(Options):
    """Schedule and loss weights. The defaults are the laptop recipe."""

    epochs: int = Field(12, ge=1)
    batch: int = Field(8, ge=1)
    """Images in one step, over all workers together."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.05, ge=0)
    """Applied to weights with two or more dimensions; norms and biases are free of it."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """For `sgd` only."""
    warmup_steps: int = Field(100, ge=0)
    """Steps of linear warm-up."""
    decay: Literal["cosine", "step"] = "cosine"
    decay_to: float = Field(0.02, gt=0, le=1)
    """`cosine`: last learning rate as a share of the peak. `step`: factor of each drop."""
    decay_at: tuple[float, ...] = Field((0.667, 0.917), strict=False)
    """`step`: shares of the training, rising in (0, 1), after which the rate drops."""
    clip_norm: float = Field(10.0, ge=0)
    """Largest gradient norm; 0 means no clipping."""
    ema: float = Field(0.998, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated; 0 evaluates the weights themselves."""
    augment: Literal["none", "hflip", "dihedral"] = "dihedral"
    """`hflip`: mirror half of the images left to right. `dihedral`: also flip top to bottom and
    transpose (square images only), each for half of the images."""
    cls_weight: float = Field(1.0, ge=0)
    box_weight: float = Field(5.0, ge=0)
    focal_alpha: float = Field(0.25, ge=0, le=1)
    focal_gamma: float = Field(2.0, ge=0)

    @field_validator("decay_at")
    @classmethod
    def _drops_in_order(cls, decay_at: tuple[float, ...]) -> tuple[float, ...]:
        marks = (0.0, *decay_at, 1.0)
        if any(first >= second for first, second in pairwise(marks)):
            raise ValueError(f"must be rising between 0 and 1, got {list(decay_at)}")
        return decay_at


def lr_factor(options: Training, step: int, steps: int) -> float:
    """Learning rate at `step` of `steps` as a share of the peak: warm-up times decay."""
    warmup = min(1.0, (step + 1) / (options.warmup_steps + 1))
    done = step / max(1, steps - 1)
    if options.decay == "step":
        return float(warmup * options.decay_to ** sum(done >= at for at in options.decay_at))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return warmup * (options.decay_to + (1 - options.decay_to) * cosine)
