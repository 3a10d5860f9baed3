"""From a trained detector to candidates of a whole data set, each rank its own share."""

from collections.abc import Sequence

import torch
from torch import nn

from detectors.data.base import Dataset
from detectors.data.loader import val_batches
from detectors.engine import to_device
from detectors.postprocess import Frame, candidates, not_finite
from detectors.structures import Candidates, Output, Points, Predictions
from detectors.world import World

_REMEDY = "training has diverged: lower lr, or set clip_norm"


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    branches: Sequence[str],
    topk: int,
    world: World,
    batch: int = 16,
) -> dict[str, Candidates]:
    """Candidates of this rank's images (see `val_batches`) for every branch, `topk` a level.

    All ranks must call this. Raises ValueError on every rank when predictions of any are not
    finite; only those of the rank at fault name the images.
    """
    model.eval()
    device = next(model.parameters()).device
    sizes = [(truth.width, truth.height) for truth in dataset.truth()]
    found = {branch: [Candidates.none()] for branch in branches}
    problem = ""
    for indices, images in val_batches(dataset, batch, world.rank, world.size):
        output = model(to_device(images.images, device), branches=branches)
        problem = _problem(output, images.image_ids)
        if problem:
            break
        frames = [
            Frame(i, scale, sizes[i]) for i, scale in zip(indices, images.scales, strict=True)
        ]
        for branch in branches:
            predictions = output.branches[branch][0]
            found[branch] += _candidates(predictions, output.points[branch], topk, frames)
    if world.all_reduce_mean(torch.tensor(float(bool(problem)), device=device)) > 0:
        raise ValueError(f"{problem or 'predictions of another worker are not finite'}; {_REMEDY}")
    return {branch: Candidates.join(parts) for branch, parts in found.items()}


def _problem(output: Output, image_ids: Sequence[int]) -> str:
    problems = (not_finite(stage, image_ids) for each in output.branches.values() for stage in each)
    return ", ".join(problem for problem in problems if problem)


def _candidates(
    predictions: Predictions, points: Points, topk: int, frames: Sequence[Frame]
) -> list[Candidates]:
    points = points.to("cpu")
    scores, boxes = predictions.scores().cpu(), predictions.boxes.cpu()
    return [candidates(scores[i], boxes[i], points, topk, frame) for i, frame in enumerate(frames)]
