"""Load weights from a file, with a check of names and shapes, and write them as safetensors."""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from detectors.data.base import DataError

SHOWN = 5
"""Maximum number of names in a message."""
COUNTER = ".num_batches_tracked"
"""Step counter of batch norm, which is not a weight and is missing in old checkpoints."""


SAFETENSORS = ".safetensors"


class WeightsError(DataError):
    """A file of weights can't be used."""


def load_weights(
    module: nn.Module, path: str, heads: tuple[str, ...] = (), added: tuple[str, ...] = ()
) -> None:
    """Load a state dict from a file into a module.

    Args:
        module: the module to change.
        path: the file, read as plain tensors (`weights_only`).
        heads: prefixes of names to ignore.
        added: ends of names of the module that the file may lack; they keep their values.

    Raises:
        WeightsError: the file can't be read, or its names or shapes are not those of the module,
            which is then unchanged.
    """
    weights = {key: value for key, value in read_weights(path).items() if not key.startswith(heads)}
    own = module.state_dict()
    expected = {key: own[key] for key in own if key in weights or not key.endswith(added)}
    if problems := differences(expected, weights):
        found = "; ".join(problems)
        raise WeightsError(
            [f"{path}: not the weights of this backbone: {found}; correct `weights`"]
        )
    module.load_state_dict(weights, strict=False)


def read_weights(path: str, option: str = "weights") -> dict[str, Tensor]:
    """Read a state dict from a file as plain tensors (`weights_only`).

    Args:
        path: the file; with the suffix `.safetensors` in that format, else PyTorch's. It holds the
            state dict or, as many released checkpoints do, has it under the key `model`.
        option: name of the option that holds the path, for messages.

    Raises:
        WeightsError: the file can't be read or holds no state dict.
    """
    if not Path(path).is_file():
        raise WeightsError([f"{path}: no such file; correct `{option}`"])
    if Path(path).suffix == SAFETENSORS:
        return read_safetensors(Path(path))[0]
    try:
        with torch.serialization.safe_globals([Namespace]):  # options of released checkpoints
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, UnpicklingError):  # PyTorch then suggests to run the file's code
            reason = "no file of plain tensors"
        raise WeightsError([f"{path}: can't be read ({reason}); correct `{option}`"]) from error
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found = found["model"]
    if not _is_state_dict(found):
        raise WeightsError([f"{path}: holds no state dict; correct `{option}`"])
    return dict(found)


def write_safetensors(path: Path, weights: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a state dict in the format safetensors.

    Args:
        path: the file; an existing one is replaced once the new one is complete.
        weights: the state dict.
        header: texts for the header of the file, by name.

    Raises:
        OSError: the file can't be written.
    """
    data = save({key: value.contiguous() for key, value in weights.items()}, dict(header))
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path to write to; it then replaces `path`, or is deleted after an error."""
    part = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file in the format safetensors: its state dict, and the texts of its header.

    Raises:
        WeightsError: the file can't be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            [f"{path}: no weights in the format safetensors ({error}); write the file again"]
        ) from None


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
