"""Ports of Ray and MLflow that other machines can reach."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.hosts import is_loopback
from gaplab.cli.doctor.sockets import Listener, Process

_MLFLOW = "MLflow"
_USUAL = {
    **{8265: "Ray's dashboard", 6379: "Ray's GCS", 10001: "Ray's client server"},
    **{5000: _MLFLOW, 5001: _MLFLOW},
}
"""What usually listens on a port, where the process can't be seen or isn't known."""
_RAY = {"gcs_server": "Ray's GCS", "raylet": "Ray's node"}


def check_ports(found: Sequence[Listener] | None) -> list[Finding]:
    """One finding for each program that can be reached from elsewhere, or one that there is none.

    found: None where the system doesn't tell.
    """
    if found is None:
        what = "this system doesn't tell who listens"
        return [Finding("warn", "ports", what, "look at it with the system's own tools")]
    exposed = defaultdict[Process | None, list[Listener]](list)
    for each in found:
        if not is_loopback(each.host) and (_program(each.process) or each.port in _USUAL):
            exposed[each.process].append(each)
    none = Finding("ok", "ports", "none of Ray or MLflow is open to other machines")
    return [line for key, some in exposed.items() for line in _findings(key, some)] or [none]


def _program(process: Process | None) -> str:
    """What the process is, where it is one of Ray or MLflow."""
    if process is None:
        return ""
    if process.name in _RAY:
        return _RAY[process.name]
    if any("ray/dashboard/dashboard.py" in word for word in process.words):
        return _USUAL[8265]
    mlflow = any(word == "mlflow" or word.startswith("mlflow.server") for word in process.words)
    return _MLFLOW if mlflow else ""


def _findings(process: Process | None, some: Sequence[Listener]) -> Iterator[Finding]:
    program = _program(process)
    if process is None or not program:
        for each in some:
            what = f"{_shown(each)}, the usual port of {_USUAL[each.port]}, is open to others"
            yield Finding("warn", "ports", what, "see what listens there; bind it to 127.0.0.1")
        return
    places = ", ".join(sorted(set(map(_shown, some))))
    what = f"{program} is open to other machines at {places}"
    if program == _MLFLOW:
        remedy = "start it with --host 127.0.0.1, or behind authentication"
        yield Finding("problem", "ports", what, remedy)
    elif process.guard == "token":
        remedy = "a token guards it; keep it in a private network all the same"
        yield Finding("warn", "ports", what, remedy)
    else:
        remedy = "restart it with RAY_AUTH_MODE=token: without, whoever reaches it runs code"
        yield Finding("problem", "ports", what, remedy)


def _shown(listener: Listener) -> str:
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    return f"{host}:{listener.port}"
