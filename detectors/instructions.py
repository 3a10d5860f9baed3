"""Limit CPU kernels to the instruction set AVX2, so that every processor gives the same digits.

PyTorch, oneDNN and MKL choose their kernels by the processor. Those for AVX-512 add numbers in
another order than those for AVX2; after some epochs of training, AP differs by about a point. With
the limit, a CPU run gives the same digits on every x86-64 processor that has AVX2.

The libraries read these variables once, when they run their first kernel, so `detectors` sets them
when it is imported. A variable that the environment already has stays.
"""

import os
import platform
from collections.abc import MutableMapping
from pathlib import Path

SWITCH = "GAPLAB_INSTRUCTIONS"
"""Environment variable; `native` turns the limit off, which is a little faster."""
LIMITS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
"""Variables of PyTorch's own kernels, of oneDNN's convolutions and of MKL's matrix products."""
_CPU = Path("/proc/cpuinfo")


def limit_instructions(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables in `LIMITS`, unless SWITCH is `native` or the processor has no AVX2."""
    if environment.get(SWITCH) != "native" and has_avx2():
        for name, value in LIMITS.items():
            environment.setdefault(name, value)


def has_avx2(facts: Path = _CPU) -> bool:
    """Return whether this is an x86-64 processor with AVX2; False if that can't be found out.

    Args:
        facts: the file in which Linux describes the processors.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not facts.is_file():
        return False
    with facts.open() as lines:
        flags = next((line for line in lines if line.startswith("flags")), "")
    return "avx2" in flags.split()
