"""The options of a training, and its learning-rate schedule."""

import math
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from detectors.assigners.base import Strategy
from detectors.losses import LossOptions
from detectors.models.decode import ENCODERS
from detectors.options import LATER, NOT_IDENTITY, Options


class Training(Options):
    """Schedule, optimiser, augmentation and losses. The defaults are the laptop recipe."""

    epochs: int = Field(12, ge=1, lt=2**31)
    """Passes over the training images."""
    batch: int = Field(8, ge=1)
    """Images per step, over all workers together."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with momentum."""
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    backbone_lr: float = Field(1.0, ge=0)
    """Learning rate of the backbone, relative to `lr` (DATE: 0.1)."""
    sampling_lr: float = Field(1.0, ge=0, json_schema_extra=LATER)
    """Learning rate of the layers that compute sampling offsets and reference points of deformable
    attention, relative to `lr` (Deformable DETR: 0.1)."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of all other parameters than those of the next two options. Tables of relative
    positions and position embeddings have none (Swin, the released code of 002)."""
    weight_decay_norm: float = Field(0.0, ge=0)
    """Weight decay of scale and shift of norms: 0 in detectron2, DeFCN and o2f; like `weight_decay`
    in the codes of 000, 001 and 004."""
    weight_decay_bias: float = Field(0.0, ge=0)
    """Weight decay of biases and level scales; like `weight_decay` in all released codes."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Used by `sgd` only."""
    warmup_steps: int = Field(100, ge=0)
    """Steps of linear warm-up."""
    decay: Literal["cosine", "step"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    decay_to: float = Field(0.02, gt=0, le=1)
    """`cosine`: last learning rate, relative to the peak. `step`: factor of each drop."""
    decay_at: tuple[float, ...] = Field((0.667, 0.917), strict=False)
    """`step`: fractions of the training, increasing in (0, 1), after which the rate drops."""
    clip_norm: float = Field(10.0, ge=0)
    """Maximum gradient norm; 0: no clipping."""
    ema: float = Field(0.998, ge=0, lt=1)
    """Decay of the averaged weights, which are evaluated; 0: no averaging."""
    augment: Literal["none", "hflip", "dihedral"] = "dihedral"
    """`hflip`: flip images left to right with probability 0.5. `dihedral`: also flip top to bottom
    and transpose (square images only), each with probability 0.5."""
    train_sides: tuple[Annotated[int, Field(ge=32, le=4096)], ...] = Field((), strict=False)
    """Sizes, in pixels, of the shorter side of a training image; one is drawn for each image and
    the aspect ratio is kept (DeFCN: 640, 672, ..., 800). Empty: images keep the size that the data
    set gives them."""
    side_range: bool = False
    """`train_sides` are the first and the last number of a range of integers (o2f: 640, 800)."""
    train_max_side: int = Field(1333, ge=32, le=8192)
    """Maximum of the longer side in pixels, if `train_sides` is given."""
    crop: bool = False
    """With probability 0.5, resize an image to a shorter side of 400, 500 or 600 and crop a random
    window with sides of 384 to 600 pixels, before resizing as usual (DETR, OneNet, DATE's 3x
    schedule). Requires `train_sides`."""
    colour: float = Field(0.0, ge=0, lt=1, json_schema_extra=LATER)
    """Change brightness, contrast and saturation of each image by random factors between
    1 - `colour` and 1 + `colour`."""
    mosaic: float = Field(0.0, ge=0, le=1, json_schema_extra=LATER)
    """Probability that a training image is made of four: itself and three random ones, each fitted
    into a quarter of its size (DEIM's dense one-to-one). Images are not cropped for it."""
    mixup: float = Field(0.0, ge=0, le=1, json_schema_extra=LATER)
    """Probability that a training image, or mosaic, becomes the mean of itself and another one with
    weights between 0.45 and 0.55, and has the objects of both (DEIM)."""
    mix_until: float = Field(1.0, gt=0, le=1, json_schema_extra=LATER)
    """Fraction of the epochs after which `mosaic` and `mixup` end."""
    group_by_aspect: bool = Field(False, json_schema_extra=LATER)
    """Put images that are higher than wide and others into different batches, so that less padding
    is needed (detectron2 does). The last batch of an epoch has the remainders of both."""
    loss: LossOptions = LossOptions()
    """Losses of every branch; see `o2m_loss` for the exception."""
    o2m_loss: LossOptions | None = None
    """Loss of the one-to-many branch of a dual assignment; null: same as `loss`. Omitted keys have
    their own defaults, not the values of `loss`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: backbone, neck and towers run under autocast; predictors, gates, boxes, assignment
    and losses stay in fp32."""
    compile: bool = Field(False, json_schema_extra=LATER)
    """Whether `torch.compile` compiles backbone, neck and head for training. It needs a C++
    compiler, on a GPU Triton; the first steps of each input size take minutes. Fused kernels round
    differently."""
    accumulate: int = Field(1, ge=1, json_schema_extra=LATER)
    """Number of parts in which each worker computes its images of a step, one part at a time in
    memory (gradient accumulation): with 4, two GPUs have room for the batch of eight. The loss is
    that of the whole batch, with its numbers of positive points. Each part is computed twice, so a
    step takes about a third longer. Sums round differently, and batch norm that is trained sees
    parts only."""
    recompute: bool = Field(False, json_schema_extra=NOT_IDENTITY)
    """Whether blocks of the detector compute their activations again in the backward pass instead
    of keeping them (activation checkpointing): less memory, and steps take about a third longer.
    Does not change results. Can't be combined with `compile`, which decides this itself."""
    sync_batch_norm: bool = Field(False, json_schema_extra=LATER)
    """Whether batch norm that is trained computes its statistics over the images of all workers. It
    needs GPUs; without effect with one worker."""
    log_every: int = Field(20, ge=1, json_schema_extra=NOT_IDENTITY)
    """On a GPU, losses are read, shown and checked after so many steps: to read them waits for the
    device. On a CPU they are read after each step. Does not change results."""
    freeze: tuple[str, ...] = Field((), strict=False)
    """Parts of the detector that are not trained, such as `backbone`, `neck`, `cls_tower` and
    `box_tower`; the error for a wrong name lists the parts that the detector has. Their weights and
    running statistics stay as they are initialised, see `init_from`. The location sub-network of
    000 Observation 4.1 is `[box_tower, box_predictor, scales]`."""
    init_from: str = ""
    """The id of a finished trial, in a spec also `row:NAME` for that row's trial with the same
    seed, or a file with the state dict of a detector. Backbone, neck and towers are initialised
    with its (averaged) weights; predictors, gates and level scales, which belong to the encoding of
    boxes, are not (004 section 4.6, Table 11), unless `freeze` names them. A trial's id contains
    this text, or the id of the row's trial, not the content of the file."""

    def loss_of(self, branch: str, branches: Collection[str]) -> LossOptions:
        """Return the losses of `branch`, one of the `branches` that are trained together."""
        own = self.o2m_loss if self._key(branch, branches) == "o2m_loss" else None
        return own or self.loss

    def _key(self, branch: str, branches: Collection[str]) -> str:
        """Return the name of the option with the losses of a branch."""
        second = branch == "o2m" and len(branches) > 1
        return "o2m_loss" if second and self.o2m_loss is not None else "loss"

    def unfit_losses(self, codes: Mapping[str, str]) -> list[str]:
        """Return why the box loss of a branch can't be computed; empty if all can.

        Args:
            codes: the encoding of boxes (`BranchShape.box`) of every branch.
        """
        pairs = [(branch, self.loss_of(branch, codes).box, code) for branch, code in codes.items()]
        return [
            f"training.{self._key(branch, codes)}.box: {loss} needs a detector that predicts "
            f"{loss}, but branch {branch} predicts {code}; choose giou or iou"
            for branch, loss, code in pairs
            if loss in ENCODERS and loss != code
        ]

    def unfit_queries(self, assignment: Strategy) -> list[str]:
        """Return which losses can't train points that are queries; empty if all can."""
        branches = assignment.branches()
        keys = {
            f"training.{self._key(branch, branches)}"
            for branch in branches
            if self.loss_of(branch, branches).box_by == "centerness"
        }
        return [
            f"{key}.box_by: centerness needs the positions of points, which queries do not have; "
            "choose degree or equal"
            for key in sorted(keys)
        ]

    def unfit_masks(self) -> list[str]:
        """Return why a detector with masks can't be trained; empty if it can."""
        mixing = [name for name in ("mosaic", "mixup") if getattr(self, name)]
        return [
            f"training.{name}: mixed images have no masks; set it to 0, or train without masks "
            "(detector.masks: null)"
            for name in mixing
        ]

    @field_validator("freeze")
    @classmethod
    def _sorted(cls, freeze: tuple[str, ...]) -> tuple[str, ...]:
        """Their order changes no result, so it must not change the id of a trial."""
        return tuple(sorted(set(freeze)))

    @field_validator("decay_at")
    @classmethod
    def _drops_in_order(cls, decay_at: tuple[float, ...]) -> tuple[float, ...]:
        marks = (0.0, *decay_at, 1.0)
        if any(first >= second for first, second in pairwise(marks)):
            raise ValueError(f"must increase, from above 0 to below 1, got {list(decay_at)}")
        return decay_at

    @model_validator(mode="after")
    def _memory_fits(self) -> Self:
        if self.accumulate > self.batch:
            raise ValueError(
                f"accumulate must be at most batch ({self.batch}), got {self.accumulate}"
            )
        if self.recompute and self.compile:
            raise ValueError("recompute and compile can't be combined; set one of them to false")
        return self

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        sides = self.train_sides
        if self.side_range and (len(sides) != 2 or sides[0] > sides[1]):
            raise ValueError(
                f"side_range needs two train_sides, the larger one last, got {list(sides)}"
            )
        if self.crop and not sides:
            raise ValueError("crop needs train_sides")
        return self


def lr_factor(options: Training, step: int, steps: int) -> float:
    """Return the learning rate at `step` of `steps`, relative to the peak: warm-up times decay."""
    warmup = min(1.0, (step + 1) / (options.warmup_steps + 1))
    done = step / max(1, steps - 1)
    if options.decay == "step":
        return float(warmup * options.decay_to ** sum(done >= at for at in options.decay_at))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return warmup * (options.decay_to + (1 - options.decay_to) * cosine)
