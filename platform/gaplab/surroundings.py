"""What surrounds a trial in its worker: packages, machine, seed, data. See `provenance`."""

import os
import platform
import re
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import detectors
from gaplab.provenance import ROOTS, sources_digest
from gaplab.spec import Experiment

PACKAGES = (
    *("gaplab", "torch", "numpy", "ray", "pyarrow", "hotcoco", "scipy", "pillow", "timm"),
    *("pydantic", "sqlalchemy"),
)
"""Distributions whose versions are kept."""

_DRIVER = Path("/proc/driver/nvidia/version")
_CPU = Path("/proc/cpuinfo")


def surroundings(experiment: Experiment, device: torch.device) -> dict[str, Any]:
    """The worker's half of a trial's provenance, as plain JSON.

    Call it once the trial's data is loaded and its threads are set: the fingerprint then reads the
    annotation files' bytes and the images' sizes on disk, and parses nothing again. Raises
    DataError where the data has gone since.
    """
    return {
        "sources": sources_digest(ROOTS),
        "results_version": detectors.RESULTS_VERSION,
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "machine": _machine(),
        "gpu": _gpu(device) if device.type == "cuda" else None,
        "torch": _torch(),
        "seed": experiment.seed,
        "data": experiment.data.fingerprint(),
    }


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
    """What stands after `key` and a colon in the lines of a file of the kernel, if it is there."""
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
    said = re.search(r"\d+(\.\d+)+", next(_values(_DRIVER, "NVRM version"), ""))
    return said and said[0]


def _torch() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
