"""Backbones of the timm library (Swin and others)."""

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.data.base import DataError
from detectors.models.backbone_base import Backbone, BackboneOptions, ImageNetBackbone
from detectors.models.weights import load_weights

COARSEST = 32
"""Stride of the last map. Images are padded to multiples of it."""


class Timm(BackboneOptions):
    """A model of timm with maps at strides 8, 16 and 32; by default Swin-T.

    Nothing is downloaded. timm needs a torchvision of the same build as torch. Images are padded
    with ImageNet's mean to multiples of 32, and maps are cropped. As in Swin's detection code, the
    windows of every stage are shifted, and each map of a model with channels last (Swin) passes
    through a layer norm, whose weights are not part of `weights`.

    The released code of 002 has stochastic depth 0.2, frozen stage 1 and no weight decay of norms
    and of the tables of relative positions (see `training.weight_decay_norm`).
    """

    name: Literal["timm"] = "timm"
    model: str = "swin_tiny_patch4_window7_224"
    """Name of a timm model with feature maps at strides 8, 16 and 32 for images of any size."""
    weights: str = ""
    """Path of a file with a state dict; empty: random weights. Save the `state_dict()` of timm's
    `create_model(model, pretrained=True, features_only=True, out_indices=(-3, -2, -1))`. A relative
    path starts at the working directory. A trial's id contains this text, not the content of the
    file: give other weights another file name."""
    drop_path_rate: float | None = Field(0.2, ge=0, lt=1)
    """Stochastic depth: probability, in training, that the last block is skipped; it increases
    linearly from the first block. 0.2 in the released code of 002. null: the model's default."""
    frozen_stages: int = Field(0, ge=0, le=5)
    """Number of stages that are not trained and stay in eval mode, with everything before them; 1
    in the released code of 002. A stage ends with a feature map of timm's model: those of Swin have
    strides 4, 8, 16 and 32. Deviation: there, the patch merging after a frozen stage, which is part
    of the next one in timm, is frozen, too."""

    @model_validator(mode="after")
    def _frozen_stages_have_weights(self) -> Self:
        if self.frozen_stages and not self.weights:
            raise ValueError(
                "frozen_stages needs weights: name a checkpoint or set frozen_stages: 0, "
                f"got {self.frozen_stages}"
            )
        return self

    @property
    def finest_stride(self) -> int:
        """See `BackboneOptions.finest_stride`."""
        return TimmBackbone.strides[0]

    def build(self) -> Backbone:
        """See `BackboneOptions.build`."""
        backbone = TimmBackbone(self)
        if self.weights:
            load_weights(backbone.net, self.weights)
        return backbone


class TimmBackbone(ImageNetBackbone):
    """See `Timm`."""

    strides = (8, 16, 32)

    def __init__(self, options: Timm) -> None:
        super().__init__()
        self.net = _create(options)
        self.channels = tuple(self.net.feature_info.channels())
        self._channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        normed = self.channels if self._channels_last else ()
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in normed)
        self._frozen = _first_stages(self.net, options)
        for name in self._frozen:
            self.net.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except for frozen stages."""
        super().train(mode)
        for name in self._frozen:
            self.net.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute maps [B, channels[i], ceil(H / strides[i]), ...] of images [B, 3, H, W]."""
        height, width = images.shape[-2:]
        maps = self.net(F.pad(images, (0, -width % COARSEST, 0, -height % COARSEST)))
        if self._channels_last:
            normed = (norm(x) for norm, x in zip(self.norms, maps, strict=True))
            maps = [x.permute(0, 3, 1, 2) for x in normed]
        sizes = ((-(-height // s), -(-width // s)) for s in self.strides)
        return [x[..., :h, :w] for x, (h, w) in zip(maps, sizes, strict=True)]


def _create(options: Timm) -> Any:
    """Create a `features_only` model with random weights and three maps, NCHW or NHWC."""
    timm, model = _timm(), options.model
    if not timm.is_model(model):
        raise _refused(model, "timm has no such model")
    # Without these options, which other models lack, Swin takes only images of 224 x 224.
    swin = {"strict_img_size": False, "always_partition": True} if model.startswith("swin") else {}
    depth = {"drop_path_rate": options.drop_path_rate} if options.drop_path_rate is not None else {}
    more: dict[str, Any] = swin | depth
    try:
        net = timm.create_model(model, features_only=True, out_indices=(-3, -2, -1), **more)
    except TypeError as error:
        problem = f"{model}: {_line(error)}; set drop_path_rate: null or correct `model`"
        raise DataError([f"backbone timm: {problem}"]) from error
    except (AssertionError, LookupError, RuntimeError) as error:
        raise _refused(model, f"it has no three feature maps ({_line(error)})") from error
    if (strides := tuple(net.feature_info.reduction())) != TimmBackbone.strides:
        raise _refused(model, f"its last maps have strides {strides}, not {TimmBackbone.strides}")
    _check_size(net, model)
    return net


def _first_stages(net: Any, options: Timm) -> list[str]:
    """Return the names of the parts of a model that `frozen_stages` freezes."""
    if not options.frozen_stages:
        return []
    ends = [stage["module"].replace(".", "_") for stage in net.feature_info.info]
    names = [name for name, _ in net.named_children()]
    if options.frozen_stages > len(ends) or ends[options.frozen_stages - 1] not in names:
        problem = f"{options.model}: has no stage {options.frozen_stages} that can be frozen"
        raise DataError([f"backbone timm: {problem}; correct `frozen_stages`"])
    return names[: names.index(ends[options.frozen_stages - 1]) + 1]


def _check_size(net: nn.Module, model: str) -> None:
    """Raise DataError if the model takes images of one size only, which its forward pass shows."""
    net.eval()
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, 96, 160))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _refused(model, f"it can't take images of any size ({_line(error)})") from error
    net.train()


def _refused(model: str, why: str) -> DataError:
    return DataError([f"backbone timm: {model}: {why}; correct `model`"])


def _timm() -> Any:
    try:
        import timm
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        # A torchvision of another build than torch raises any of these.
        problem = f"timm can't be imported ({_line(error)}); pip install 'gaplab[timm]'"
        raise DataError([f"backbone timm: {problem}"]) from error
    return timm


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
