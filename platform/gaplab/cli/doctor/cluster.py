"""Access to Ray: which cluster would be used, and whether a token guards it."""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.folder import check_secret, mode
from gaplab.cli.doctor.hosts import is_loopback

LOCAL = "local"
_PATIENCE = 3.0  # seconds


@dataclass(frozen=True)
class Access:
    """What `--address` leads to. target: the address behind `auto`, "" if there is none.

    answers: whether something listens there; auth: RAY_AUTH_MODE; token: where one comes from (a
    file, RAY_AUTH_TOKEN, or ""); bits: permission bits of the file.
    """

    address: str
    target: str
    answers: bool
    auth: str
    token: str
    bits: int | None


def look(address: str, environ: Mapping[str, str]) -> Access:
    """What this process would use. Connects once, without a word."""
    target = _auto(environ) if address == "auto" else address
    answers = address != LOCAL and bool(target) and _answers(target)
    token, bits = _token(environ)
    return Access(address, target, answers, environ.get("RAY_AUTH_MODE", ""), token, bits)


def check_access(access: Access) -> list[Finding]:
    """Address, token and its file. A cluster of our own has a token of its home folder."""
    if access.address == LOCAL:
        what = "each command starts a cluster of its own, on loopback, with the home folder's token"
        return [Finding("ok", "Ray", what), *_file(access)]
    return [_address(access), _auth(access), *_transport(access), *_file(access)]


def _address(access: Access) -> Finding:
    if not access.target:
        what = "--address auto finds no cluster on this machine"
        return Finding("problem", "Ray", what, "set RAY_ADDRESS, or name one with --address")
    name = f"{access.address} means {access.target}" if access.address == "auto" else access.target
    if not access.answers:
        remedy = "start it with `ray start --head`, or correct --address"
        return Finding("problem", "Ray", f"{name}: nobody answers there", remedy)
    return Finding("ok", "Ray", name)


def _auth(access: Access) -> Finding:
    check, auth = "Ray's token", access.auth.lower()
    remedy = "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, here and on every node"
    if auth == "disabled":
        what = "RAY_AUTH_MODE=disabled: whoever reaches the cluster runs code on it"
        return Finding("problem", check, what, remedy)
    if not access.token:
        what = "no token: whoever reaches a cluster without one runs code on it"
        return Finding("problem", check, what, remedy)
    if not auth:
        what = f"RAY_AUTH_MODE is unset; {access.token} counts only where Ray's default says so"
        return Finding("warn", check, what, remedy)
    return Finding("ok", check, access.token)


def _transport(access: Access) -> Iterator[Finding]:
    host, _ = _host_and_port(access.target)
    if access.target.startswith("http://") and not is_loopback(host):
        what = f"{access.target} takes the token unencrypted over the network"
        yield Finding("warn", "Ray's encryption", what, "use a tunnel (ssh -L), or https")


def _file(access: Access) -> Iterator[Finding]:
    if access.bits is not None:
        yield check_secret("Ray's token file", Path(access.token), access.bits)


def _auto(environ: Mapping[str, str]) -> str:
    """The address that Ray takes for `auto`: the variable, else the cluster begun here last."""
    if named := environ.get("RAY_ADDRESS"):
        return named
    place = environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or "/tmp"
    try:
        return Path(place, "ray", "ray_current_cluster").read_text().strip()
    except OSError:
        return ""


def _token(environ: Mapping[str, str]) -> tuple[str, int | None]:
    """Where Ray would take a token from, in its own order."""
    if environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", None
    own = os.path.expanduser("~/.ray/auth_token")
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or own)
    return (str(path), mode(path)) if path.is_file() else ("", None)


def _host_and_port(address: str) -> tuple[str, int | None]:
    """Of `host:port` or a URL; ("", None) where it is neither."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None


def _answers(address: str) -> bool:
    host, port = _host_and_port(address)
    try:
        with socket.create_connection((host, port or 6379), _PATIENCE):
            return True
    except OSError:
        return False
