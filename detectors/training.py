"""How a detector is trained: the optimiser's options and its learning-rate schedule."""

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from detectors.losses import LossOptions
from detectors.options import Options


class Training(Options):
    """Schedule, augmentation and losses. The defaults are the laptop recipe."""

    epochs: int = Field(12, ge=1)
    batch: int = Field(8, ge=1)
    """Images in one step, over all workers together."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    backbone_lr: float = Field(1.0, ge=0)
    """The trunk's learning rate as a share of the others' (DATE: 0.1)."""
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
    train_sides: tuple[Annotated[int, Field(ge=32, le=4096)], ...] = Field((), strict=False)
    """The shorter side, in pixels, is drawn from these for each training image (DeFCN: 640, 672,
    ..., 800), aspect kept, from the size that the data set gives; empty: that size."""
    side_range: bool = False
    """`train_sides` are the least and the greatest of a range of whole numbers (o2f: 640, 800)."""
    train_max_side: int = Field(1333, ge=32, le=8192)
    """Limit of the longer side in pixels, where `train_sides` are given."""
    crop: bool = False
    """Half of the images are first resized to a shorter side of 400, 500 or 600 and cropped to a
    random window with sides of 384 to 600 pixels, then resized as the others (DETR, OneNet, DATE's
    3x). Needs `train_sides`."""
    loss: LossOptions = LossOptions()
    o2m_loss: LossOptions | None = None
    """Of the one-to-many branch of a dual assignment; null: as `loss`. A key left out has its own
    default, not the value in `loss`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: trunk, neck and towers run under autocast; predictors and gates, boxes, assignment
    and losses stay in fp32."""
    init_from: str = ""
    """A finished trial's id, or a file of a detector's state dict: trunk, neck, towers and the
    levels' scales start from its (averaged) weights, predictors and gates anew (004 Table 11). A
    file counts in a trial's id by this text, not by its content."""

    @field_validator("decay_at")
    @classmethod
    def _drops_in_order(cls, decay_at: tuple[float, ...]) -> tuple[float, ...]:
        marks = (0.0, *decay_at, 1.0)
        if any(first >= second for first, second in pairwise(marks)):
            raise ValueError(f"must be rising between 0 and 1, got {list(decay_at)}")
        return decay_at

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        sides = self.train_sides
        if self.side_range and (len(sides) != 2 or sides[0] > sides[1]):
            raise ValueError(f"side_range needs two train_sides, rising, got {list(sides)}")
        if self.crop and not sides:
            raise ValueError("crop needs train_sides")
        return self


def lr_factor(options: Training, step: int, steps: int) -> float:
    """Learning rate at `step` of `steps` as a share of the peak: warm-up times decay."""
    warmup = min(1.0, (step + 1) / (options.warmup_steps + 1))
    done = step / max(1, steps - 1)
    if options.decay == "step":
        return float(warmup * options.decay_to ** sum(done >= at for at in options.decay_at))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return warmup * (options.decay_to + (1 - options.decay_to) * cosine)
