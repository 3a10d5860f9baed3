"""Trunks of the timm library (Swin and others). The only importer of timm."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.data.base import DataError
from detectors.models.backbone_base import Backbone, BackboneOptions, ImageNetBackbone
from detectors.models.weights import load_weights

COARSEST = 32
"""Stride of the last map; images are padded to multiples of it."""


class Timm(BackboneOptions):
    """A trunk that timm knows by name, giving maps at strides 8, 16 and 32; by default Swin-T.

    Nothing is downloaded. timm needs a torchvision of the same build as torch. Images of any size
    are padded with ImageNet's mean, maps are cut back. As in Swin's detection code, the windows of
    every stage shift, and each map that is given out of a trunk with channels last (Swin) goes
    through a layer norm of its own, which is new. Stochastic depth is timm's default.
    """

    name: Literal["timm"] = "timm"
    model: str = "swin_tiny_patch4_window7_224"
    """timm's name of a model with feature maps at strides 8, 16 and 32 for images of any size."""
    weights: str = ""
    """A state dict on disk, or nothing: random weights. Its names are those of timm's
    `create_model(model, features_only=True, out_indices=(-3, -2, -1))`; save that one's
    `state_dict()` after `pretrained=True`. A relative path starts at the working directory. A
    trial's id counts this text, not the file's content: give other weights another file name."""

    @property
    def finest_stride(self) -> int:
        """See `BackboneOptions.finest_stride`."""
        return TimmTrunk.strides[0]

    def build(self) -> Backbone:
        """See `BackboneOptions.build`."""
        trunk = TimmTrunk(self.model)
        if self.weights:
            load_weights(trunk.net, self.weights)
        return trunk


class TimmTrunk(ImageNetBackbone):
    """See `Timm`."""

    strides = (8, 16, 32)

    def __init__(self, model: str) -> None:
        super().__init__()
        self.net = _create(model)
        self.channels = tuple(self.net.feature_info.channels())
        self._channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        normed = self.channels if self._channels_last else ()
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in normed)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> maps [B, channels[i], ceil(H / strides[i]), ...]."""
        height, width = images.shape[-2:]
        maps = self.net(F.pad(images, (0, -width % COARSEST, 0, -height % COARSEST)))
        if self._channels_last:
            normed = (norm(x) for norm, x in zip(self.norms, maps, strict=True))
            maps = [x.permute(0, 3, 1, 2) for x in normed]
        sizes = ((-(-height // s), -(-width // s)) for s in self.strides)
        return [x[..., :h, :w] for x, (h, w) in zip(maps, sizes, strict=True)]


def _create(model: str) -> Any:
    """A `features_only` model of timm with random weights and three maps, NCHW or NHWC."""
    timm = _timm()
    if not timm.is_model(model):
        raise _refused(model, "timm knows no such model")
    # Swin takes only images of 224 x 224 unless it is told otherwise; others know no such option.
    swin = {"strict_img_size": False, "always_partition": True} if model.startswith("swin") else {}
    try:
        net = timm.create_model(model, features_only=True, out_indices=(-3, -2, -1), **swin)
    except (AssertionError, LookupError, RuntimeError) as error:
        raise _refused(model, f"it gives no three feature maps ({_line(error)})") from error
    if (strides := tuple(net.feature_info.reduction())) != TimmTrunk.strides:
        raise _refused(model, f"its last maps have strides {strides}, not {TimmTrunk.strides}")
    _try_a_size(net, model)
    return net


def _try_a_size(net: nn.Module, model: str) -> None:
    """Raises DataError where the model takes images of one size alone; that shows in forward."""
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
        # A torchvision of another build than torch's fails with any of these.
        said = f"timm can't be imported ({_line(error)}); pip install 'gaplab[timm]'"
        raise DataError([f"backbone timm: {said}"]) from error
    return timm


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
