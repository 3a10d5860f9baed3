"""From a quality matrix to an assignment: the exact one-to-one solution."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detectors.structures import Assignment


def negatives(num_points: int, device: torch.device) -> Assignment:
    """The assignment in which no point is responsible for anything."""
    return Assignment(
        torch.full((num_points,), -1, dtype=torch.int64, device=device),
        torch.zeros(num_points, device=device),
    )


def one_to_one(quality_GN: Tensor) -> Assignment:
    """The one-to-one assignment of largest total quality (Hungarian, exact, on the CPU).

    quality_GN: [G, N] finite. Each object gets one point and each point at most one object;
    with more objects than points, the N best pairs that fit are assigned.
    Raises ValueError where a quality is not finite.
    """
    assignment = negatives(quality_GN.shape[1], quality_GN.device)
    objects, points = linear_sum_assignment(quality_GN.double().cpu().numpy(), maximize=True)
    points = torch.from_numpy(points).to(quality_GN.device)
    assignment.object[points] = torch.from_numpy(objects).to(quality_GN.device)
    assignment.degree[points] = 1.0
    return assignment


def prefer(quality_GN: Tensor, candidate_GN: Tensor, distance_GN: Tensor) -> Tensor:
    """`quality_GN` in [0, 1] among candidates; elsewhere at most -G, falling with distance.

    With it the one-to-one solution leaves the candidates only for an object that has none left
    (a tiny object between points, or a crowd that shares a few), and then takes the nearest point.
    A smaller step than G would give up one object's only candidate to better two others.
    """
    worst = distance_GN.max().clamp(min=1.0) if distance_GN.numel() else 1.0
    return torch.where(candidate_GN, quality_GN, -len(quality_GN) - distance_GN / worst)
