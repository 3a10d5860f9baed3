"""Predict the candidates of a data set; each rank predicts a part of the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from detectors.data.base import Dataset
from detectors.data.loader import val_batches
from detectors.engine import to_device
from detectors.postprocess import Frame, describe_non_finite, select_candidates
from detectors.structures import Candidates, Output, Points, Predictions
from detectors.world import World

_REMEDY = "training has diverged: lower lr, or set clip_norm"


class NonFinitePredictionsError(ValueError):
    """A detector predicted NaN or infinity. The message names the images."""


class Halted(Exception):  # noqa: N818 - nothing went wrong
    """Prediction was stopped on request before the last image."""


@dataclass(frozen=True)
class CandidateRequest:
    """Which candidates to predict."""

    branches: Sequence[str]
    topk: int
    """Number of candidates per level and image."""
    batch: int = 16
    """Number of images predicted at a time."""


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    request: CandidateRequest,
    world: World,
    halt: Callable[[], bool] = lambda: False,
) -> dict[str, Candidates]:
    """Predict the candidates of this rank's images (see `val_batches`). All ranks must call this.

    Args:
        model: the detector; it is set to eval mode.
        dataset: the images.
        request: which candidates to predict.
        world: the group of ranks.
        halt: called after each batch; True stops the prediction of this rank.

    Returns:
        The candidates of each requested branch.

    Raises:
        Halted: on every rank, after all ranks have finished, if `halt` returned True on any.
        NonFinitePredictionsError: on every rank, if predictions of any rank are not finite. Only
            on that rank does the message name the images.
    """
    model.eval()
    device = next(model.parameters()).device
    found = {branch: [Candidates.none()] for branch in request.branches}
    problem, halted = "", False
    for indices, images in val_batches(dataset, request.batch, world.rank, world.size):
        output = model(to_device(images.images, device), branches=request.branches)
        problem = _problem(output, images.image_ids)
        if problem:
            break
        frames = [Frame(i, scale) for i, scale in zip(indices, images.scales, strict=True)]
        for branch, parts in found.items():
            predictions = output.branches[branch][0]
            parts += _candidates(predictions, output.points[branch], request.topk, frames)
        if halted := halt():
            break
    _agree(problem, halted, world, device)
    return {branch: Candidates.join(parts) for branch, parts in found.items()}


def _agree(problem: str, halted: bool, world: World, device: torch.device) -> None:
    """Raise an error on every rank if any rank had a problem or was halted."""
    mine = torch.tensor([bool(problem), halted], dtype=torch.float32, device=device)
    any_problem, any_halted = (world.all_reduce_mean(mine) > 0).tolist()
    if any_problem:
        message = problem or "predictions of another worker are not finite"
        raise NonFinitePredictionsError(f"{message}; {_REMEDY}")
    if any_halted:
        raise Halted


def _problem(output: Output, image_ids: Sequence[int]) -> str:
    """Return which predictions of a batch are not finite; an empty text if all are finite."""
    heads = (head for predictions in output.branches.values() for head in predictions)
    problems = (describe_non_finite(head, image_ids) for head in heads)
    return ", ".join(problem for problem in problems if problem)


def _candidates(
    predictions: Predictions, points: Points, topk: int, frames: Sequence[Frame]
) -> list[Candidates]:
    """Return the candidates of each image of a batch, on the CPU."""
    points = points.to("cpu")
    scores, boxes = predictions.scores().cpu(), predictions.boxes.cpu()
    return [
        select_candidates(scores[i], boxes[i], points, topk, frame)
        for i, frame in enumerate(frames)
    ]
