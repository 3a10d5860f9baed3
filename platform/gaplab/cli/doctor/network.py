"""Ports of Ray and MLflow that other machines can reach."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from gaplab.cli.doctor.finding import Finding, ok, problem, warn

_MLFLOW, _GCS, _DASHBOARD = "MLflow", "Ray's GCS", "Ray's dashboard"
_PORTS = {5000: _MLFLOW, 5001: _MLFLOW, 6379: _GCS, 8265: _DASHBOARD, 10001: "Ray's client server"}
"""What usually listens on a port, for processes that are unknown or not visible."""


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket."""

    host: str
    port: int
    pid: int | None = None  # of the process, None if it is not visible to this user
    program: str = ""  # of Ray or MLflow, "" for any other
    auth_mode: str = ""  # RAY_AUTH_MODE of the process

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listeners() -> list[Listener] | None:
    """Return all listening TCP sockets of this machine, None if the system does not allow it."""
    try:
        sockets = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    listening = [each for each in sockets if each.status == psutil.CONN_LISTEN]
    return [_listener(*each.laddr, each.pid) for each in listening if each.laddr]


def program(name: str, command: Sequence[str]) -> str:
    """Return which part of Ray or MLflow a process is, by name and command line, or ""."""
    if name in ("gcs_server", "raylet"):
        return _GCS if name == "gcs_server" else "Ray's node"
    if any("ray/dashboard/dashboard.py" in word for word in command):
        return _DASHBOARD
    mlflow = any(word == "mlflow" or word.startswith("mlflow.server") for word in command)
    return _MLFLOW if mlflow else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: a name, an address or a Unix socket."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def check_ports(found: Sequence[Listener] | None) -> list[Finding]:
    """Return one finding per program that other machines can reach, or one that there is none."""
    if found is None:
        what = "cannot list listening sockets on this system"
        return [warn("ports", what, "list them with the system's own tools")]
    exposed = [each for each in found if not is_loopback(each.host)]
    programs = defaultdict[int | None, list[Listener]](list)
    for each in exposed:
        if each.program:
            programs[each.pid].append(each)
    lines = [_exposed(sockets) for sockets in programs.values()]
    for each in exposed:
        if not each.program and each.port in _PORTS:
            what = f"{each}, the usual port of {_PORTS[each.port]}, is open to other machines"
            lines.append(warn("ports", what, "find out what listens there; bind it to 127.0.0.1"))
    return lines or [ok("ports", "Ray and MLflow are not reachable from other machines")]


def _exposed(sockets: Sequence[Listener]) -> Finding:
    """Return the finding about one program of Ray or MLflow and all its open sockets."""
    first, places = sockets[0], ", ".join(sorted(set(map(str, sockets))))
    what = f"{first.program} is open to other machines at {places}"
    if first.program == _MLFLOW:
        return problem("ports", what, "start it with --host 127.0.0.1 or with authentication")
    if first.auth_mode == "token":
        return warn("ports", what, "a token protects it; keep it in a private network all the same")
    remedy = "restart it with RAY_AUTH_MODE=token; otherwise anyone who reaches it can run code"
    return problem("ports", what, remedy)


def _listener(host: str, port: int, pid: int | None) -> Listener:
    if pid is None:
        return Listener(host, port)
    try:
        process = psutil.Process(pid)
        kind = program(process.name(), process.cmdline())
        return Listener(host, port, pid, kind, process.environ().get("RAY_AUTH_MODE", "").lower())
    except psutil.Error:  # it has just ended
        return Listener(host, port, pid)
