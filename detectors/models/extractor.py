"""Initialise a detector with the feature extractor of another one (004 Table 11)."""

from collections.abc import Mapping

from torch import Tensor, nn

from detectors.models.weights import WeightsError, differences

PREDICTORS = "head.predictors."
"""Prefix of the weights that are not copied: predictors and gates of the branches."""


def load_extractor(detector: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy backbone, neck, towers and scales from another detector's state dict into `detector`.

    Args:
        detector: the detector to initialise.
        weights: the state dict.
        source: where it comes from, for messages.

    Raises:
        WeightsError: names or shapes differ; the detector is then unchanged.
    """
    own = {key: value for key, value in detector.state_dict().items() if _is_copied(key)}
    given = {key: value for key, value in weights.items() if _is_copied(key)}
    if problems := differences(own, given):
        found = "; ".join(problems)
        raise WeightsError(
            [f"{source}: not the feature extractor of this detector: {found}; correct `init_from`"]
        )
    detector.load_state_dict(given, strict=False)


def _is_copied(key: str) -> bool:
    return not key.startswith(PREDICTORS)
