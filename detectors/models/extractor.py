"""Initialise a detector with the feature extractor of another one (004 Table 11)."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from detectors.models.parts import names_in, within
from detectors.models.weights import WeightsError, differences

PRIVATE = (
    "head.predictors.",
    "head.scales",
    "head.o2m_",
    "head.initial.o2m_",
    "mask_branch.",
)
"""Prefixes of the weights that are copied only if frozen: predictors and gates of the branches,
additional queries of a one-to-many branch, the mask branch, and the scales of the levels, which
multiply the output of the predictors. Their meaning depends on how boxes are encoded: with `exp`
they multiply the logarithm of a distance, with `relu` a distance in strides."""


def load_extractor(
    detector: nn.Module, weights: Mapping[str, Tensor], source: str, frozen: Collection[str] = ()
) -> None:
    """Copy backbone, neck and towers from another detector's state dict into `detector`.

    Args:
        detector: the detector to initialise.
        weights: the state dict.
        source: where it comes from, for messages.
        frozen: names of parts (`training.freeze`) that are copied, too: they would stay random.

    Raises:
        WeightsError: names or shapes differ; the detector is then unchanged.
        ValueError: a part is unknown.
    """
    more = names_in(detector, frozen)
    own, given = (
        {key: x for key, x in each.items() if not key.startswith(PRIVATE) or within(key, more)}
        for each in (detector.state_dict(), weights)
    )
    if problems := differences(own, given):
        found = "; ".join(problems)
        raise WeightsError(
            [f"{source}: not the feature extractor of this detector: {found}; correct `init_from`"]
        )
    detector.load_state_dict(given, strict=False)
