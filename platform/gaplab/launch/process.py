"""Identify processes of this machine so that a ledger shared by several machines can name them."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from gaplab.records import Process

_PROC = Path("/proc")


def node_name() -> str:
    """Return the host name of this machine."""
    return socket.gethostname()


def this_process() -> Process:
    """Return the identity of the calling process."""
    pid = os.getpid()
    return Process(machine_id(), pid, _start_time(pid) or 0)


def machine_id() -> str:
    """Return what `Process.machine` is here.

    It names the boot of the kernel, the PID namespace (container) and the user, whose processes
    are certainly visible. Without /proc it is unique to this process, so that only leases tell
    whether another driver is running.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat(_PROC / 'self/ns/pid').st_ino}:{os.getuid()}"
    except OSError:
        return f"{node_name()}:{os.getpid()}"


def running_processes(processes: Iterable[Process]) -> set[Process]:
    """Return those of `processes` that are running on this machine now."""
    here = machine_id()
    return {
        each
        for each in processes
        if each.machine == here and each.born == (_start_time(each.pid) or 0)
    }


def has_died(process: Process) -> bool:
    """Return whether a process of this machine has ended; False for one of another machine."""
    return process.machine == machine_id() and not running_processes([process])


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None for none or a zombie."""
    try:
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])
