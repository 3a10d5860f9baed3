"""Python, the PyTorch build, GPUs and threads of this machine."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from gaplab.cli.doctor.finding import Finding, ok, problem, warn

_DRIVERS = ("/dev/nvidia0", "/dev/kfd")


@dataclass(frozen=True)
class Machine:
    """Facts about this machine."""

    python: str
    accelerator: str  # what PyTorch is built for, "" for a CPU-only build
    usable: bool  # whether PyTorch can use a GPU now
    gpu: str  # device file of a GPU driver, or ""
    cores: int
    threads: str | None  # OMP_NUM_THREADS


def inspect_machine() -> Machine:
    """Return the facts as this process sees them. Imports PyTorch."""
    import torch

    cuda, rocm = torch.version.cuda, torch.version.hip
    return Machine(
        python=platform.python_version(),
        accelerator=f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "",
        usable=torch.cuda.is_available(),
        gpu=next((path for path in _DRIVERS if Path(path).exists()), ""),
        cores=len(os.sched_getaffinity(0)),
        threads=os.environ.get("OMP_NUM_THREADS"),
    )


def check_machine(machine: Machine) -> list[Finding]:
    """Return one finding each about Python, the GPU and the number of threads."""
    return [ok("Python", machine.python), _gpu(machine), _threads(machine)]


def _gpu(machine: Machine) -> Finding:
    built = f"PyTorch is built for {machine.accelerator}" if machine.accelerator else ""
    if machine.usable:
        return ok("GPU", built)
    if not machine.gpu:
        return ok("GPU", f"none found; {built or 'PyTorch is a CPU-only build'}")
    if not built:
        what = f"{machine.gpu} exists, but PyTorch is a CPU-only build"
        return warn("GPU", what, "install a CUDA or ROCm build of PyTorch")
    what = f"{machine.gpu} exists and {built}, but PyTorch cannot use the GPU"
    return problem("GPU", what, "check the driver with nvidia-smi or rocminfo")


def _threads(machine: Machine) -> Finding:
    check, text = "OMP_NUM_THREADS", machine.threads
    if text is None:
        return ok(check, "not set: each trial uses the CPUs that it was given")
    if not text.isdecimal() or not int(text):
        return problem(check, f"{text!r} is not a number of threads", "unset it")
    if int(text) > machine.cores:
        what = f"{text} threads per process on {machine.cores} cores"
        return warn(check, what, "unset it; otherwise trials compete for the cores")
    return ok(check, text)
