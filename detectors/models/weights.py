"""Weights from a file, checked name by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from detectors.data.base import DataError

SHOWN = 5
COUNTER = ".num_batches_tracked"
"""Batch norm's step counter: not a weight, and absent from old checkpoints."""


class WeightsError(DataError):
    """A checkpoint that can't be used."""


def load_weights(module: nn.Module, path: str, heads: tuple[str, ...] = ()) -> None:
    """Copy a state dict's weights into `module`; names that start with one of `heads` are left out.

    The file is read as plain tensors (`weights_only`). Raises WeightsError, in one line, where it
    can't be read, or where names or shapes are not exactly the module's; the module is then as
    before.
    """
    weights = {key: value for key, value in read_weights(path).items() if not key.startswith(heads)}
    if problems := differences(module.state_dict(), weights):
        said = "; ".join(problems)
        raise WeightsError([f"{path}: not the weights of this trunk: {said}; correct `weights`"])
    module.load_state_dict(weights, strict=False)


def read_weights(path: str, option: str = "weights") -> dict[str, Tensor]:
    """The state dict in a file, read as plain tensors (`weights_only`).

    Raises WeightsError, which names the `option` to correct, where it can't be read.
    """
    if not Path(path).is_file():
        raise WeightsError([f"{path}: no such file; correct `{option}`"])
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError([f"{path}: can't be read ({reason}); correct `{option}`"]) from error
    if not _is_state_dict(found):
        raise WeightsError([f"{path}: holds no state dict; correct `{option}`"])
    return dict(found)


def _is_state_dict(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    )


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` from being the weights of a module that has `own`; empty if nothing."""
    shapes = [
        f"{key} {list(given[key].shape)} not {list(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    missing = [key for key in own if key not in given and not key.endswith(COUNTER)]
    unexpected = [key for key in given if key not in own]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return [f"{kind} {_shown(names)}" for kind, names in kinds.items() if names]


def _shown(names: Sequence[str]) -> str:
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more])
