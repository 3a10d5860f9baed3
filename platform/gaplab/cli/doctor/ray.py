"""Access to Ray: which cluster a command would use, and whether a token protects it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaplab.cli.doctor.finding import Finding, ok, problem, warn
from gaplab.cli.doctor.home import check_secret, permissions
from gaplab.cli.doctor.network import is_loopback
from gaplab.launch.ray.address import (
    HTTP,
    RayProblem,
    cluster_problem,
    dashboard_problem,
    host_and_port,
)
from gaplab.launch.ray.start import start_problems, temporary_folder

_LOCAL, _AUTO = "local", "auto"
_NO_TOKEN = "anyone who can reach the cluster can run code on it"


@dataclass(frozen=True)
class Access:
    """Facts about the cluster that `--address` selects."""

    address: str  # the option's value
    target: str  # of the cluster; "" if `auto` finds none
    problems: tuple[RayProblem, ...]  # why the cluster can't be used, or not be started here
    auth_mode: str  # RAY_AUTH_MODE
    token: str  # a file, "RAY_AUTH_TOKEN", or "" if there is none
    mode: int | None  # permission bits of the token's file


def inspect_access(address: str, environ: Mapping[str, str]) -> Access:
    """Return the facts; connects to the cluster and sends no token."""
    target = _current_cluster(environ) if address == _AUTO else address
    problems = _problems(address, target, environ)
    return Access(address, target, problems, environ.get("RAY_AUTH_MODE", ""), *_token(environ))


def check_access(access: Access) -> list[Finding]:
    """Return findings about the address, the token and its file."""
    if access.address == _LOCAL:
        what = "each command starts its own cluster on loopback, with the token of the home folder"
        here = [problem("Ray", each.what, each.remedy) for each in access.problems]
        return [*(here or [ok("Ray", what)]), *_file(access)]
    return [_address(access), _auth(access), *_encryption(access), *_file(access)]


def _address(access: Access) -> Finding:
    if access.address == _AUTO and not access.target:
        what = "--address auto finds no cluster on this machine"
        return problem("Ray", what, "set RAY_ADDRESS, or give an --address")
    name = f"{access.address} is {access.target}" if access.address == _AUTO else access.target
    for each in access.problems:
        return problem("Ray", f"{name}: {each.what}", each.remedy)
    return ok("Ray", name)


def _problems(address: str, target: str, environ: Mapping[str, str]) -> tuple[RayProblem, ...]:
    if address == _LOCAL:
        return tuple(start_problems(temporary_folder(environ)))
    if address == _AUTO and not target:
        return ()
    found = (dashboard_problem if target.startswith(HTTP) else cluster_problem)(target)
    return (found,) if found else ()


def _auth(access: Access) -> Finding:
    check, auth_mode = "Ray's token", access.auth_mode.lower()
    remedy = "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, here and on every node"
    if auth_mode == "disabled":
        return problem(check, f"RAY_AUTH_MODE=disabled: {_NO_TOKEN}", remedy)
    if not access.token:
        return problem(check, f"no token found: without one {_NO_TOKEN}", remedy)
    if not auth_mode:
        what = f"RAY_AUTH_MODE is not set: Ray's default decides whether {access.token} is used"
        return warn(check, what, remedy)
    return ok(check, access.token)


def _encryption(access: Access) -> Iterator[Finding]:
    host, _ = host_and_port(access.target)
    if access.target.startswith("http://") and not is_loopback(host):
        what = f"the token goes to {access.target} unencrypted"
        yield warn("Ray's encryption", what, "use a tunnel (ssh -L) or https")


def _file(access: Access) -> Iterator[Finding]:
    if access.mode is not None:
        yield check_secret("Ray's token file", Path(access.token), access.mode)


def _current_cluster(environ: Mapping[str, str]) -> str:
    """Return the address that Ray uses for `auto`: RAY_ADDRESS, else the latest local cluster."""
    if named := environ.get("RAY_ADDRESS"):
        return named
    try:
        return (temporary_folder(environ) / "ray_current_cluster").read_text().strip()
    except OSError:
        return ""


def _token(environ: Mapping[str, str]) -> tuple[str, int | None]:
    """Return where Ray takes a token from, in Ray's order, and the permission bits of a file."""
    if environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", None
    default = os.path.expanduser("~/.ray/auth_token")
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or default)
    return (str(path), permissions(path)) if path.is_file() else ("", None)
