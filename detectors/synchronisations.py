"""Count where code waits for its device, without one.

On a GPU, kernels run while Python is already ahead; whatever needs a value in Python, a size that
depends on values, or a copy that isn't marked as non-blocking, waits until all kernels are done.
`Synchronisations` counts these points in code that runs on a CPU, as if it ran on a GPU.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

P = ParamSpec("P")
R = TypeVar("R")
_HERE = Path(__file__)
_TORCH = Path(torch.__file__).parent
_host_calls = 0
"""How many functions marked with `on_host` are running."""
_host_seconds: list[float] | None = None
"""What `host_seconds` has found so far; None outside of it."""

VALUES = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
)
"""Operators whose result, or its size, is needed on the host."""
TO_HOST = ("cpu", "tolist")
"""Methods of a tensor that copy it to the host and wait."""
MADE = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
"""Functions that make a tensor on the host and copy it to the device."""


def on_host(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function whose tensors are always on the CPU, so that it waits for no device."""

    @wraps(function)
    def marked(*args: P.args, **kwargs: P.kwargs) -> R:
        global _host_calls
        _host_calls += 1
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            _host_calls -= 1
            if _host_seconds is not None and not _host_calls:
                _host_seconds.append(time.thread_time() - start)

    return marked


@contextmanager
def count_synchronisations() -> Iterator[Counter[str]]:
    """Count in a `with` block where the code would wait for a device.

    Code marked with `on_host` is left out. Collectives are not counted, since they wait for other
    ranks, not for the host.

    Yields:
        A counter of descriptions: the operation, and the file and function of `detectors` that
        called it. Its `total()` is the number of synchronisations.
    """
    found: Counter[str] = Counter()
    with _Operators(found), _Calls(found):
        yield found


@contextmanager
def host_seconds() -> Iterator[list[float]]:
    """Measure in a `with` block the calls of functions that are marked with `on_host`.

    Yields:
        The CPU seconds of each outermost call so far.
    """
    global _host_seconds
    before, _host_seconds = _host_seconds, []
    try:
        yield _host_seconds
    finally:
        _host_seconds = before


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators, in the forward and the backward pass."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count the operator and run it."""
        name = func.overloadpacket.__name__
        if name in VALUES or (name == "repeat_interleave" and isinstance(args[-1], Tensor)):
            _note(self.found, name.strip("_"))
        elif name.startswith("index") and _has_mask(args):
            _note(self.found, "index with a mask")
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    """Counts copies, which no operator shows where host and device are the same."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count the call and make it."""
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        new = func in MADE and (given.get("device") is not None or name == "new_tensor")
        if new or name in TO_HOST:
            _note(self.found, name)
        elif func is Tensor.to and _waits(args[1:], given) and not _in_torch(sys._getframe(1)):
            _note(self.found, "to")
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and _has_list(args[1]):
            _note(self.found, "index with a list")
        return func(*args, **given)


def _note(found: Counter[str], what: str) -> None:
    """Count `what`, with the innermost function of this package that called it."""
    if _host_calls:
        return
    frame = sys._getframe(2)
    while frame.f_back is not None and not _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    found[f"{what} in {Path(frame.f_code.co_filename).name}: {frame.f_code.co_name}"] += 1


def _in_torch(frame: FrameType) -> bool:
    """Return whether PyTorch itself made a call; it moves tensors that are there already."""
    return _TORCH in Path(frame.f_code.co_filename).parents


def _is_ours(file: str) -> bool:
    path = Path(file)
    return _HERE.parent in path.parents and path != _HERE


def _waits(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether `Tensor.to` with these arguments copies to a device and waits."""
    devices = [x for x in (*args, kwargs.get("device")) if isinstance(x, str | torch.device)]
    return bool(devices) and not kwargs.get("non_blocking", False)


def _has_mask(args: tuple[Any, ...]) -> bool:
    """Return whether an operator indexes with booleans, for which it looks for the true ones."""
    indices = next((x for x in args if isinstance(x, list | tuple)), ())
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices)


def _has_list(index: Any) -> bool:
    """Return whether an index holds a list of numbers, which is copied to the device."""
    return any(isinstance(x, list) for x in (index if isinstance(index, tuple) else (index,)))
