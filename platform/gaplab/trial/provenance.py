"""The provenance of an attempt: the code, packages, machine, seed and data with which it ran.

It has two halves, which are known in two places. The driver reads its code once, when it starts:
`save_changes(read_code(), storage)`. The worker reads its surroundings once its trial is loaded:
`worker_provenance`. `assemble` joins them into what the ledger stores with an attempt, plain JSON
with keys in this order:

    code            what the driver ran:
      commit          full SHA-1 of the checkout's commit; "" where there is no checkout
      dirty           whether the checkout differs from it; null: unknown
      digest          SHA-256 (16 hex digits) of all that differs; "" if nothing does
      uri             path of the file that holds what differs, relative to the home folder; "" if
                      nothing does
      left_out        changed files that may hold secrets; their changes are not stored
      note            why something above is unknown, else ""
      sources         SHA-256 (16 hex digits) of all modules of gaplab and detectors
    sources         the same for the modules of the worker
    results_version `detectors.RESULTS_VERSION` of the worker
    python          "3.11.2"
    packages        version of each distribution; null: not installed
    machine         os (with the kernel), cpu (its model), cores (that the worker may use)
    gpu             name, memory_mib, driver, cuda, cudnn; null on a CPU
    torch           threads, deterministic, cudnn_deterministic, cudnn_benchmark, matmul_precision,
                    cpu_capability (the vector instructions its kernels use)
    seed            of the trial
    data            the fingerprint of its data, as the worker sees it
    detector        parameters: their number at inference, with the branch that is kept only
"""

import hashlib
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import detectors
from detectors.cost import parameter_count
from gaplab.spec.models import Experiment
from gaplab.storage.filesystem import Storage
from gaplab.trial.git import SECONDS, Checkout, GitError, content_digest, read_checkout

ROOTS = (Path(__file__).resolve().parents[1], Path(str(detectors.__file__)).resolve().parent)
"""The folders of gaplab and detectors."""
MAX_BYTES = 1 << 20
"""Size limit of the file with the changes; a longer one is cut."""
PACKAGES = (
    *("gaplab", "torch", "numpy", "ray", "pyarrow", "hotcoco", "scipy", "pillow", "timm"),
    *("pydantic", "sqlalchemy"),
)
"""Distributions whose versions are stored."""

_DRIVER = Path("/proc/driver/nvidia/version")
_CPU = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Code:
    """The code of a driver. The module's docstring explains all attributes but one.

    Attributes:
        changes: what differs from the commit, as text: lines that start with `#`, then a patch.
    """

    sources: str
    commit: str = ""
    dirty: bool | None = None
    digest: str = ""
    uri: str = ""
    left_out: tuple[str, ...] = ()
    note: str = ""
    changes: str = ""


def read_code(roots: Sequence[Path] = ROOTS, seconds: float = SECONDS) -> Code:
    """Return the code in the folders of packages, with the checkout of the first one.

    Never fails: what can't be known is empty, and `note` says why.

    Args:
        roots: the folders.
        seconds: time limit for git. Reading the modules takes another 10 ms.
    """
    sources = sources_digest(tuple(roots))
    try:
        found = read_checkout(roots[0], seconds)
    except GitError as error:
        return Code(sources, note=str(error))
    whole = _head(found) + found.patch
    return Code(
        sources,
        commit=found.commit,
        dirty=found.dirty,
        digest=hashlib.sha256(whole).hexdigest()[:16] if found.dirty else "",
        left_out=found.left_out,
        note=found.note,
        changes=_cut(whole) if found.dirty else "",
    )


def save_changes(code: Code, storage: Storage) -> Code:
    """Store what differs from the commit, equal changes once; return the code with its `uri`.

    Raises:
        UserError: if the file can't be written.
    """
    if not code.changes:
        return code
    name = f"code/{code.digest}.diff"
    if f"{code.digest}.diff" not in storage.names("code"):
        storage.save_text(name, code.changes)
    return replace(code, uri=name)


def assemble(code: Code, worker: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of one attempt.

    Args:
        code: the code of the driver.
        worker: the worker's half; empty if the worker died before it reported.
    """
    driver = {
        "commit": code.commit,
        "dirty": code.dirty,
        "digest": code.digest,
        "uri": code.uri,
        "left_out": list(code.left_out),
        "note": code.note,
        "sources": code.sources,
    }
    return {"code": driver, **worker}


@cache
def sources_digest(roots: tuple[Path, ...]) -> str:
    """Return the SHA-256 (16 hex digits) of all modules in packages, read at the first call."""
    total = hashlib.sha256()
    for root in roots:
        for path in sorted(each for each in root.rglob("*.py") if each.is_file()):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            total.update(f"{name}\0{content_digest(path)}\n".encode())
    return total.hexdigest()[:16]


def _head(found: Checkout) -> bytes:
    """Return lines that start with `#` about what a patch can't contain; git skips them."""
    lines = [f"changes on top of commit {found.commit}"]
    lines += [f"untracked: {n} sha256={digest or 'unreadable'}" for n, digest in found.untracked]
    lines += [f"changed, and left out because it may hold secrets: {n}" for n in found.left_out]
    return "".join(f"# {' '.join(line.splitlines())}\n" for line in lines).encode()


def _cut(whole: bytes) -> str:
    if len(whole) <= MAX_BYTES:
        return whole.decode(errors="replace")
    kept = whole[: whole.rfind(b"\n", 0, MAX_BYTES) + 1]
    return kept.decode(errors="replace") + f"# cut here: {len(whole) - len(kept)} bytes more\n"


def worker_provenance(experiment: Experiment, device: torch.device, classes: int) -> dict[str, Any]:
    """Return the worker's half of the provenance of an attempt, as plain JSON.

    To be called once the data is loaded and the number of threads is set: the fingerprint of the
    data then parses nothing again. `classes` is the number of classes of the data.

    Raises:
        DataError: if the data can't be read any more.
    """
    kept = next(iter(experiment.assignment.branches()))
    return {
        "sources": sources_digest(ROOTS),
        "results_version": detectors.RESULTS_VERSION,
        **surroundings(device),
        "seed": experiment.seed,
        "data": experiment.data.fingerprint(),
        "detector": {"parameters": _parameters(experiment.detector, classes, (kept,))},
    }


def surroundings(device: torch.device) -> dict[str, Any]:
    """Return Python, packages, machine, GPU and PyTorch's settings of this process, as plain JSON.

    See the module's docstring for the keys.
    """
    return {
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "machine": _machine(),
        "gpu": _gpu(device) if device.type == "cuda" else None,
        "torch": _torch(),
    }


_parameters = cache(parameter_count)


@cache
def _versions() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, _version(name)) for name in PACKAGES)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    system = os.uname()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kernel = f"{system.sysname} {system.release} {system.machine}"
    return {"os": kernel, "cpu": _cpu_model(), "cores": cores}


@cache
def _cpu_model() -> str:
    found = next(_values(_CPU, "model name"), "")
    return found or platform.processor() or platform.machine()


def _values(path: Path, key: str) -> Iterator[str]:
    """Yield the values of the lines `key: value` in a file of the kernel, if the file exists."""
    lines = path.read_text().splitlines() if path.exists() else []
    parts = (line.partition(":") for line in lines)
    return (value.strip() for name, _, value in parts if name.strip() == key)


def _gpu(device: torch.device) -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "memory_mib": facts.total_memory // 2**20,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _driver() -> str | None:
    version = re.search(r"\d+(\.\d+)+", next(_values(_DRIVER, "NVRM version"), ""))
    return version and version[0]


def _torch() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
