"""Check the address of a cluster before Ray connects to it: Ray would retry for minutes.

Ray itself is not imported, so that `gaplab doctor` stays quick.
"""

import json
import os
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from threading import Thread
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import grpc

from gaplab.launch.ray.private import GET_CLUSTER_ID

SECONDS = 4.0
"""How long an answer may take."""
HTTP = ("http://", "https://")
"""How the address of a dashboard begins."""
_START = "start the cluster with `ray start --head`, or correct the address"
_CLUSTER = "HOST:PORT, with the port of Ray itself, usually 6379"
_DASHBOARD = "http://HEAD:8265, the dashboard of a cluster"
_PROTECTED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
T = TypeVar("T")


@dataclass(frozen=True)
class RayProblem:
    """Why Ray can't be used, and the remedy."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


_NO_TOKEN = RayProblem(
    "the cluster needs a token", "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here"
)
"""Ray sends no token unless RAY_AUTH_MODE says so."""


def cluster_problem(address: str) -> RayProblem | None:
    """Return why a driver can't use the cluster at `address`, or None if it can.

    Takes at most `SECONDS`. Whether a token is the right one is not checked.
    """
    if address.startswith("ray://"):
        what = "Ray Client is not supported, because a driver must run on a node of its cluster"
        return RayProblem(what, "run gaplab on one of the nodes, or use `gaplab submit`")
    if address.startswith(HTTP):
        what = "this is a dashboard, which `gaplab submit` needs"
        return RayProblem(what, f"write {_CLUSTER}")
    host, port = host_and_port(address)
    if not host or not port:
        return RayProblem("not the address of a cluster", f"write {_CLUSTER}")
    return _problem(lambda: _no_cluster(host, port), f"{_START}: {_CLUSTER}")


def dashboard_problem(url: str) -> RayProblem | None:
    """Return why there is no dashboard of Ray at `url`, or None if there is one.

    Takes at most `SECONDS`. A token is not checked.
    """
    if not url.startswith(HTTP) or not host_and_port(url)[0]:
        remedy = f"write {_DASHBOARD} (HOST:6379 is for `gaplab run`)"
        return RayProblem("not a dashboard", remedy)
    return _problem(lambda: _no_dashboard(url), f"{_START}: {_DASHBOARD}")


def host_and_port(address: str) -> tuple[str, int | None]:
    """Split `host:port` or a URL; returns ("", None) for anything else."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None
    plain = parts.scheme or not (parts.path or parts.query or parts.fragment or parts.username)
    return (parts.hostname or "", port) if plain else ("", None)


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach `address`, HOST:PORT."""
    host, _ = host_and_port(address)
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def within(seconds: float, action: Callable[[], T]) -> T:
    """Return what `action` returns, or raise what it raises.

    Raises:
        TimeoutError: it took longer. It goes on in a thread that ends with the process.
    """
    result = Future[T]()

    def work() -> None:
        try:
            result.set_result(action())
        except Exception as error:
            result.set_exception(error)

    Thread(target=work, daemon=True).start()
    return result.result(seconds)


def _problem(check: Callable[[], str | RayProblem], remedy: str) -> RayProblem | None:
    """Return what `check` finds or fails with, by default with `remedy`; None if it is nothing."""
    try:
        what = within(SECONDS, check)
    except TimeoutError:
        what = f"nothing answers within {SECONDS:g} seconds"
    except (OSError, UnicodeError) as error:
        what = _connection_problem(error)
    if isinstance(what, RayProblem):
        return what
    return RayProblem(what, remedy) if what else None


def _connection_problem(error: OSError | UnicodeError) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    match cause:
        case ssl.SSLCertVerificationError():  # Ray's client may trust other certificates
            return ""
        case socket.gaierror():
            return f"its name does not resolve ({cause.strerror})"
        case UnicodeError():
            return "no host can have this name"
        case OSError():
            return f"can't connect ({cause.strerror or cause})"
    return f"can't connect ({cause})"


def _no_cluster(host: str, port: int) -> str | RayProblem:
    """Return why this is not the global control service of a cluster; raises OSError."""
    with socket.create_connection((host, port), SECONDS):
        pass
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return ""  # the call below is not encrypted
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(name, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(GET_CLUSTER_ID)(b"", timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            if error.code() not in _PROTECTED:
                return "something answers that is not Ray"
            return "" if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" else _NO_TOKEN
    return ""


def _no_dashboard(url: str) -> str:
    """Return why this is not a dashboard of Ray; raises OSError."""
    try:
        with urlopen(f"{url.rstrip('/')}/api/version", timeout=SECONDS) as response:
            if "ray_version" in json.load(response):
                return ""
    except HTTPError as error:
        if error.code in (401, 403):
            return ""
    except (HTTPException, ValueError, TypeError):
        pass
    return "something answers that is not Ray's dashboard"
