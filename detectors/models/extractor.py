"""Initialise a detector with the feature extractor of another one (004 Table 11)."""

from collections.abc import Mapping

from torch import Tensor, nn

from detectors.models.weights import WeightsError, differences

PRIVATE = ("head.predictors.", "head.scales")
"""Prefixes of the weights that are not copied: predictors and gates of the branches, and the scales
of the levels, which multiply the output of the predictors. Their meaning depends on how boxes are
encoded: with `exp` they multiply the logarithm of a distance, with `relu` a distance in strides."""


def load_extractor(detector: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy backbone, neck and towers from another detector's state dict into `detector`.

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
    return not key.startswith(PRIVATE)
