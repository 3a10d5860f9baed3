"""Element-wise losses; the caller sums and normalises."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss per element: -alpha_t (1 - p_t)^gamma log(p_t), target in {0, 1}; [...] >= 0.

    The power is taken of the logarithm: 1 - p_t itself rounds to 0, where gamma < 1 has no slope.
    """
    log_p_t = -F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    log_rest = -F.binary_cross_entropy_with_logits(logits, 1 - target, reduction="none")
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    return -alpha_t * (gamma * log_rest).exp() * log_p_t


def soft_bce(logits: Tensor, degree: Tensor) -> Tensor:
    """-t log(p) - (1 - t) log(1 - p) per element (002 Eq. 2), from logits; degree t in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, degree, reduction="none")


def classification(
    logits: Tensor, degree: Tensor, *, soft: bool, alpha: float, gamma: float
) -> Tensor:
    """Loss of every class at every point, like `logits`.

    Hard: focal loss to degree in {0, 1}. Soft: BCE to the degree where it is positive (a certain
    point has 1, an ambiguous one t), focal loss to 0 elsewhere (002 Eq. 4).
    """
    if not soft:
        return sigmoid_focal(logits, degree, alpha, gamma)
    background = sigmoid_focal(logits, torch.zeros_like(logits), alpha, gamma)
    return torch.where(degree > 0, soft_bce(logits, degree), background)
