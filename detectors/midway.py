"""Save and restore a learner in the middle of an epoch, so that training continues exactly."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detectors.engine import Learner
from detectors.world import World


def state_of(learner: Learner) -> dict[str, Any] | None:
    """Return the state that `Learner.state` lacks in the middle of an epoch. All ranks must call.

    It holds the random states, running statistics and counts of every rank.

    Returns:
        The state on rank 0, None on the other ranks.

    Raises:
        NonFiniteLossError: see `Learner.read_losses`.
    """
    learner.read_losses()
    learner.averaged.refresh()
    ranks = learner.world.gather(_own(learner))
    if learner.world.rank:
        return None
    return {"batches": learner.batches, "sums": dict(learner.sums), "ranks": ranks}


def exact(state: Mapping[str, Any], world: World) -> bool:
    """Return whether `load` restores the state exactly: the number of ranks must be the same."""
    return len(state["ranks"]) == world.size


def load(learner: Learner, state: Mapping[str, Any]) -> None:
    """Restore the middle of an epoch, after `Learner.load`.

    If the number of ranks has changed, all ranks get the statistics and counts of rank 0, and their
    random generators stay as `seed_torch` has seeded them for the epoch.
    """
    learner.batches, learner.sums = state["batches"], dict(state["sums"])
    same = exact(state, learner.world)
    own = state["ranks"][learner.world.rank if same else 0]
    for name, buffers in _statistics(learner).items():
        for key, buffer in buffers.items():
            buffer.copy_(own[name][key])
    learner.tally = {b: counts.to(learner.device) for b, counts in own["tally"].items()}
    learner.measured = {b: sums.to(learner.device) for b, sums in own["measured"].items()}
    if same:
        _set_random(own["random"], learner.device)


def _own(learner: Learner) -> dict[str, Any]:
    """Return the part of the state that differs between ranks, on the CPU."""
    statistics = {
        name: {key: buffer.cpu() for key, buffer in buffers.items()}
        for name, buffers in _statistics(learner).items()
    }
    tally = {branch: counts.cpu() for branch, counts in learner.tally.items()}
    measured = {branch: sums.cpu() for branch, sums in learner.measured.items()}
    return {**statistics, "tally": tally, "measured": measured, "random": _random(learner.device)}


def _statistics(learner: Learner) -> dict[str, dict[str, Tensor]]:
    """Return the buffers in the state dicts of the module and of its average."""
    modules: dict[str, nn.Module] = {"model": learner.bare, "averaged": learner.averaged}
    kept = {name: module.state_dict().keys() for name, module in modules.items()}
    return {
        name: {key: buffer for key, buffer in module.named_buffers() if key in kept[name]}
        for name, module in modules.items()
    }


def _random(device: torch.device) -> list[Tensor]:
    """Return the states of the random generators that a model on `device` uses."""
    held = [torch.get_rng_state()]
    return [*held, torch.cuda.get_rng_state(device)] if device.type == "cuda" else held


def _set_random(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
