"""Load weights from a file, with a check of names and shapes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from detectors.data.base import DataError

SHOWN = 5
"""Maximum number of names in a message."""
COUNTER = ".num_batches_tracked"
"""Step counter of batch norm, which is not a weight and is missing in old checkpoints."""


class WeightsError(DataError):
    """A file of weights can't be used."""


def load_weights(module: nn.Module, path: str, heads: tuple[str, ...] = ()) -> None:
    """Load a state dict from a file into a module.

    Args:
        module: the module to change.
        path: the file, read as plain tensors (`weights_only`).
        heads: prefixes of names to ignore.

    Raises:
        WeightsError: the file can't be read, or its names or shapes are not those of the module,
            which is then unchanged.
    """
    weights = {key: value for key, value in read_weights(path).items() if not key.startswith(heads)}
    if problems := differences(module.state_dict(), weights):
        found = "; ".join(problems)
        raise WeightsError(
            [f"{path}: not the weights of this backbone: {found}; correct `weights`"]
        )
    module.load_state_dict(weights, strict=False)


def read_weights(path: str, option: str = "weights") -> dict[str, Tensor]:
    """Read a state dict from a file as plain tensors (`weights_only`).

    Args:
        path: the file.
        option: name of the option that holds the path, for messages.

    Raises:
        WeightsError: the file can't be read or holds no state dict.
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
    """Describe how the state dict `given` differs from a module's `own` in names and shapes."""
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
