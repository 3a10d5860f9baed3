"""Mixtures of two Gaussians, fitted to the values of many objects at once.

Rows of values [..., K] are sorted; those that a row lacks are infinite and come last.
"""

import math

import torch
from torch import Tensor

_TOLERANCE, _VARIANCE = 1e-3, 1e-6
"""When a fit has converged, and what is added to variances: scikit-learn's defaults, as in PAA."""
_TINY = 10 * torch.finfo(torch.float64).eps
_LOG_TWO_PI = math.log(2 * math.pi)

Mixture = tuple[Tensor, Tensor, Tensor]
"""Weights, means and variances of the two Gaussians: [..., 2, 1] each."""


def separate(cost_GK: Tensor, iterations: int) -> Tensor:
    """Return the values of the first Gaussian up to its likeliest one: [..., K] bool.

    The first Gaussian starts at the lowest value, the second one at the highest. A single value is
    returned as it is.

    Args:
        cost_GK: [..., K] float64, sorted, see above.
        iterations: maximum number of steps of the fit.
    """
    there_GK = cost_GK.isfinite()
    value_GK = torch.where(there_GK, cost_GK, 0.0)
    joint_G2K = _log_joint(value_GK, fit(value_GK, there_GK, iterations))
    first_GK = there_GK & (joint_G2K[..., 0, :] >= joint_G2K[..., 1, :])
    likelihood_GK = torch.where(first_GK, joint_G2K.logsumexp(-2), -torch.inf)
    likeliest = value_GK.gather(-1, likelihood_GK.argmax(-1, keepdim=True))
    found_GK = first_GK & (value_GK <= likeliest)
    return torch.where(there_GK.sum(-1, keepdim=True) > 1, found_GK, there_GK)


def fit(value_GK: Tensor, there_GK: Tensor, iterations: int) -> Mixture:
    """Fit two Gaussians to the values of each row by expectation maximisation.

    As scikit-learn does: the means start at the lowest and the highest value, the variances at 1,
    the weights at 1/2, and a row has converged when its mean log-likelihood changes by less than
    0.001. Rows that have converged stay as they are.
    """
    there_G1K = there_GK[..., None, :].double()
    count_G11 = there_G1K.sum(-1, keepdim=True).clamp(min=1)
    highest = torch.where(there_GK, value_GK, -torch.inf).amax(-1).clamp(min=value_GK[..., 0])
    means = torch.stack([value_GK[..., 0], highest], -1)[..., None]
    mixture: Mixture = (torch.full_like(means, 0.5), means, torch.ones_like(means))
    before = torch.full_like(count_G11, -torch.inf)
    done = torch.zeros_like(count_G11, dtype=torch.bool)
    for _ in range(iterations):
        joint_G2K = _log_joint(value_GK, mixture)
        total_G1K = joint_G2K.logsumexp(-2, keepdim=True)
        bound = (total_G1K * there_G1K).sum(-1, keepdim=True) / count_G11
        found = _maximise(value_GK[..., None, :], (joint_G2K - total_G1K).exp() * there_G1K)
        mixture = tuple(  # type: ignore[assignment]
            torch.where(done, old, new) for old, new in zip(mixture, found, strict=True)
        )
        done = done | ((bound - before).abs() < _TOLERANCE)
        before = bound
    return mixture


def _log_joint(value_GK: Tensor, mixture: Mixture) -> Tensor:
    """Return log(weight * density) of every value and Gaussian: [..., 2, K]."""
    weight, mean, variance = mixture
    square = (value_GK[..., None, :] - mean).square() / variance
    return weight.log() - 0.5 * (square + variance.log() + _LOG_TWO_PI)


def _maximise(value_G1K: Tensor, share_G2K: Tensor) -> Mixture:
    """Return the mixture of largest likelihood, given each value's share of it in a Gaussian."""
    total = share_G2K.sum(-1, keepdim=True) + _TINY
    mean = (share_G2K * value_G1K).sum(-1, keepdim=True) / total
    square = (share_G2K * value_G1K.square()).sum(-1, keepdim=True) / total
    weight = total / total.sum(-2, keepdim=True)
    return weight, mean, square - mean.square() + _VARIANCE
