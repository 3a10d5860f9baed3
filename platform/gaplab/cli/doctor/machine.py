"""Python, PyTorch's build, GPUs and threads of this machine."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from gaplab.cli.doctor.finding import Finding

_FIXES_END = {
    (3, 11): date(2027, 10, 31),
    (3, 12): date(2028, 10, 31),
    (3, 13): date(2029, 10, 31),
    (3, 14): date(2030, 10, 31),
}
"""When a version of Python gets its last security fixes, as its release schedule says."""
_DRIVERS = ("/dev/nvidia0", "/dev/kfd")


@dataclass(frozen=True)
class Machine:
    """accelerator: what PyTorch is built for ("" for a CPU build); works: it can use a GPU now.

    gpu: device file of a GPU's driver, or ""; threads: OMP_NUM_THREADS, or None where it is unset.
    """

    python: tuple[int, int, int]
    today: date
    accelerator: str
    works: bool
    gpu: str
    cores: int
    threads: str | None


def this_machine() -> Machine:
    """What this process sees. Imports PyTorch."""
    import torch

    cuda, rocm = torch.version.cuda, torch.version.hip
    return Machine(
        python=sys.version_info[:3],
        today=datetime.now(UTC).date(),
        accelerator=f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "",
        works=torch.cuda.is_available(),
        gpu=next((path for path in _DRIVERS if Path(path).exists()), ""),
        cores=len(os.sched_getaffinity(0)),
        threads=os.environ.get("OMP_NUM_THREADS"),
    )


def check_machine(machine: Machine) -> list[Finding]:
    """Python, GPU and threads: one finding each."""
    return [_python(machine), _gpu(machine), *_threads(machine)]


def _python(machine: Machine) -> Finding:
    text = ".".join(map(str, machine.python))
    end = _FIXES_END.get(machine.python[:2])
    if end is not None and machine.today > end:
        what = f"{text}, without security fixes since {end:%B %Y}"
        return Finding("warn", "Python", what, "use a newer Python")
    return Finding("ok", "Python", text)


def _gpu(machine: Machine) -> Finding:
    built = f"PyTorch is built for {machine.accelerator}" if machine.accelerator else ""
    if machine.works:
        return Finding("ok", "GPU", built)
    if not machine.gpu:
        return Finding("ok", "GPU", f"none here; {built or 'PyTorch is a CPU build'}")
    if not built:
        what = f"{machine.gpu} is here, but PyTorch is a CPU build"
        return Finding("warn", "GPU", what, "install a CUDA or ROCm build of PyTorch")
    what = f"{machine.gpu} is here and {built}, but PyTorch can't use it"
    return Finding("problem", "GPU", what, "see what nvidia-smi or rocminfo says of the driver")


def _threads(machine: Machine) -> Iterator[Finding]:
    check, text = "OMP_NUM_THREADS", machine.threads
    if text is None:
        yield Finding("ok", check, "unset: each trial takes its own CPUs")
    elif not text.isdecimal() or not int(text):
        yield Finding("problem", check, f"{text!r} is no number of threads", "unset it")
    elif int(text) > machine.cores:
        what = f"{text} threads a process, on {machine.cores} cores"
        yield Finding("warn", check, what, "unset it, or trials disturb each other")
    else:
        yield Finding("ok", check, text)
