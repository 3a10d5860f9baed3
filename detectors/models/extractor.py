"""Starting a detector from another one's feature extractor (004 Table 11)."""

from collections.abc import Mapping

from torch import Tensor, nn

from detectors.models.weights import WeightsError, differences

PRIVATE = "head.predictors."
"""What a branch has for itself: its predictors and gate, which start anew."""


def load_extractor(detector: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy trunk, neck, towers and scales from another detector's state dict into `detector`.

    Raises WeightsError, in one line that names `source`, where names or shapes differ; the detector
    is then as before.
    """
    own = {key: value for key, value in detector.state_dict().items() if _shared(key)}
    given = {key: value for key, value in weights.items() if _shared(key)}
    if problems := differences(own, given):
        said = "; ".join(problems)
        raise WeightsError(
            [f"{source}: not the feature extractor of this detector: {said}; correct `init_from`"]
        )
    detector.load_state_dict(given, strict=False)


def _shared(key: str) -> bool:
    return not key.startswith(PRIVATE)
