"""Processes of this machine, as a ledger on several machines can name them."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from gaplab.records import Process

_PROC = Path("/proc")


def node_name() -> str:
    """What people call this machine."""
    return socket.gethostname()


def this_process() -> Process:
    """The one that asks."""
    pid = os.getpid()
    return Process(machine(), pid, _born(pid) or 0)


def machine() -> str:
    """See `Process`: this boot of this kernel, the container we are in, and the user whose
    processes we are sure to see.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat(_PROC / 'self/ns/pid').st_ino}:{os.getuid()}"
    except OSError:  # no Linux: then only leases tell who lives
        return f"{node_name()}:{os.getpid()}"


def living(processes: Iterable[Process]) -> set[Process]:
    """Those of `processes` that run on this machine now."""
    here = machine()
    return {
        each for each in processes if each.machine == here and each.born == (_born(each.pid) or 0)
    }


def _born(pid: int) -> int | None:
    """The kernel's ticks at which the process began; None for one that isn't, or is a zombie."""
    try:
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])
