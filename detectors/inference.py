"""From a trained detector to candidates of a whole data set, each rank its own share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from detectors.data.base import Dataset
from detectors.data.loader import val_batches
from detectors.engine import to_device
from detectors.postprocess import Frame, candidates, not_finite
from detectors.structures import Candidates, Output, Points, Predictions
from detectors.world import World

_REMEDY = "training has diverged: lower lr, or set clip_norm"


class NonFinitePredictionsError(ValueError):
    """A detector predicts NaN or infinity; the message names the images."""


class Halted(Exception):  # noqa: N818 - nothing went wrong
    """Somebody asked to break off before all images were seen."""


@dataclass(frozen=True)
class Wanted:
    """Candidates of these branches, `topk` a level, predicted for `batch` images at a time."""

    branches: Sequence[str]
    topk: int
    batch: int = 16


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    wanted: Wanted,
    world: World,
    halt: Callable[[], bool] = lambda: False,
) -> dict[str, Candidates]:
    """Candidates of this rank's images (see `val_batches`) for every branch.

    All ranks must call this. `halt` is asked after each batch; where it is True on any rank, Halted
    is raised on all of them, once the others have seen their images. Raises
    NonFinitePredictionsError on every rank when predictions of any are not finite; only those of
    the rank at fault name the images.
    """
    model.eval()
    device = next(model.parameters()).device
    sizes = [(truth.width, truth.height) for truth in dataset.truth()]
    found = {branch: [Candidates.none()] for branch in wanted.branches}
    problem, halted = "", False
    for indices, images in val_batches(dataset, wanted.batch, world.rank, world.size):
        output = model(to_device(images.images, device), branches=wanted.branches)
        problem = _problem(output, images.image_ids)
        if problem:
            break
        frames = [
            Frame(i, scale, sizes[i]) for i, scale in zip(indices, images.scales, strict=True)
        ]
        for branch, parts in found.items():
            predictions = output.branches[branch][0]
            parts += _candidates(predictions, output.points[branch], wanted.topk, frames)
        if halted := halt():
            break
    _agree(problem, halted, world, device)
    return {branch: Candidates.join(parts) for branch, parts in found.items()}


def _agree(problem: str, halted: bool, world: World, device: torch.device) -> None:
    """Raise on every rank what befell any of them."""
    mine = torch.tensor([bool(problem), halted], dtype=torch.float32, device=device)
    any_problem, any_halted = (world.all_reduce_mean(mine) > 0).tolist()
    if any_problem:
        said = problem or "predictions of another worker are not finite"
        raise NonFinitePredictionsError(f"{said}; {_REMEDY}")
    if any_halted:
        raise Halted


def _problem(output: Output, image_ids: Sequence[int]) -> str:
    problems = (not_finite(stage, image_ids) for each in output.branches.values() for stage in each)
    return ", ".join(problem for problem in problems if problem)


def _candidates(
    predictions: Predictions, points: Points, topk: int, frames: Sequence[Frame]
) -> list[Candidates]:
    points = points.to("cpu")
    scores, boxes = predictions.scores().cpu(), predictions.boxes.cpu()
    return [candidates(scores[i], boxes[i], points, topk, frame) for i, frame in enumerate(frames)]
