"""Connect to a Ray cluster: one that is named, or a new one on this machine."""

import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from detectors.instructions import SWITCH
from gaplab.errors import UserError
from gaplab.launch.capacity import Node
from gaplab.launch.process import machine_id
from gaplab.launch.ray.address import cluster_problem, is_loopback
from gaplab.launch.ray.private import (
    LOOPBACK,
    current_cluster,
    draining_nodes,
    is_node,
    reload_settings,
    silent_worker_deaths,
)
from gaplab.launch.ray.start import start_problems, temporary_folder

LOCAL = "local"
"""The address that stands for a new cluster on this machine."""
AUTO = "auto"
"""The address that stands for the cluster that runs on this machine."""

_DEFAULTS = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the scheduler limits how many trials there are
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Settings for Ray; a value that the environment already has stays."""
_WRITTEN_BY_RAY = ("PYTHONBREAKPOINT",)
"""Variables that Ray sets while it is connected."""
_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Unless this is 0, Ray replaces 127.0.0.1 by the machine's own address and listens on that."""


@contextmanager
def cluster(address: str, home: Path) -> Iterator[tuple[Node, ...]]:
    """Connect to the cluster at `address`, or start one on loopback for `local`.

    A cluster that was not named is never joined. A local one is protected by a token of its own
    home folder and ends with the driver, however the driver ends. The environment variables that
    Ray reads are set while the context is open and restored on exit.

    Args:
        address: `local`, `auto` or HOST:PORT.
        home: the home folder; holds the token of a local cluster.

    Yields:
        The alive nodes of the cluster.

    Raises:
        UserError: if there is nothing to connect to, or this process is already connected.
    """
    _check_not_connected(address)
    with _settings(address, home):
        import ray  # only now: it reads some of its settings when it is imported

        target = current_cluster() if address == AUTO else address
        _check_address(address, target)
        with _one_machine(target if address == AUTO else ""):
            _connect(address)
            try:
                with silent_worker_deaths():
                    yield alive_nodes()
            finally:
                ray.shutdown()


@contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, or remove those that are None, and restore them on exit."""
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def alive_nodes() -> tuple[Node, ...]:
    """Return the alive nodes of the connected cluster, without those about to be taken away."""
    import ray

    leaving = draining_nodes()
    rows = [row for row in ray.nodes() if row["Alive"] and row["NodeID"] not in leaving]
    held = [row["Resources"] for row in rows]
    return tuple(Node(r.get("CPU", 0.0), r.get("GPU", 0.0)) for r in held)


def cluster_id(address: str) -> str:
    """Return a text that is the same for all drivers that share processors.

    Drivers share processors if they use one cluster, or if each has started a local cluster on this
    machine.
    """
    import ray

    if address == LOCAL:
        return f"local:{machine_id()}"
    return str(ray.get_runtime_context().gcs_address)


def _check_not_connected(address: str) -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise UserError(
            f"--address {address}: this process is connected to a Ray cluster already; call "
            "ray.shutdown() first"
        )


def _check_address(address: str, target: str) -> None:
    """Raise UserError if there is no cluster that a driver here can use, or none can start."""
    if address == LOCAL:
        if problems := start_problems(temporary_folder(os.environ)):
            raise UserError(*(f"--address local: {each}" for each in problems))
        return
    if address == AUTO and not target:
        raise UserError(
            "--address auto: no cluster runs on this machine; start one with `ray start --head`, "
            "or give its HOST:PORT"
        )
    name = target if target == address else f"{address} ({target})"
    if problem := cluster_problem(target):
        raise UserError(f"--address {name}: {problem}")
    if not is_node():
        raise UserError(
            f"--address {name}: this machine is not a node of the cluster; run `ray start "
            f"--address={target}` here first, or use `gaplab submit`"
        )


@contextmanager
def _settings(address: str, home: Path) -> Iterator[None]:
    """Set the environment variables for a cluster, and restore them on exit."""
    try:
        with changed_environment(_variables(address, home)):
            reload_settings()
            yield
    finally:
        reload_settings()


@contextmanager
def _one_machine(found: str) -> Iterator[None]:
    """Connect to a cluster that `auto` has found on loopback without leaving loopback."""
    if not is_loopback(found):
        yield
        return
    with changed_environment({_ONE_MACHINE: "0"}):
        reload_settings()
        yield


def _variables(address: str, home: Path) -> dict[str, str | None]:
    """Return the environment variables to set for a cluster; creates the token of a local one."""
    settings = {name: os.environ.get(name) for name in _WRITTEN_BY_RAY}
    settings |= {name: value for name, value in _DEFAULTS.items() if name not in os.environ}
    if address == LOCAL:
        token = _own_token(home / "ray.token")
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    if address == LOCAL or is_loopback(address):
        settings[_ONE_MACHINE] = "0"
    return settings


def _connect(address: str) -> None:
    import ray

    arguments: dict[str, object] = {
        "address": address,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": _worker_variables()},
    }
    if address == LOCAL:
        arguments |= {"include_dashboard": False, **LOOPBACK}
    try:
        # The URL of the ledger may hold a password, and workers, which inherit this environment,
        # need none.
        with changed_environment({"GAPLAB_LEDGER": None}), _hangup_blocked():
            ray.init(**arguments)
    except Exception as error:  # Ray raises errors of many kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--address {address}: {_failure(address, first)}") from error


@contextmanager
def _hangup_blocked() -> Iterator[None]:
    """Block SIGHUP in this thread and in processes that it starts.

    When a terminal is closed, all its processes get the signal: Ray's must live until the driver
    has saved what its trials have done. The driver gets one that arrives meanwhile afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _failure(address: str, reason: str) -> str:
    """Return what failed and the remedy, for an error of Ray."""
    if address == LOCAL:
        return (
            f"Ray can't start on this machine ({reason}); its logs are in "
            f"{temporary_folder(os.environ)}/session_latest/logs"
        )
    return (
        f"can't connect to a Ray cluster ({reason}); set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH "
        "here if it needs a token"
    )


def _worker_variables() -> dict[str, str]:
    """Return the environment variables that workers on every machine get."""
    forwarded = {SWITCH: os.environ[SWITCH]} if SWITCH in os.environ else {}
    return {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", **forwarded}


def _own_token(path: Path) -> Path:
    """Create the token at `path` unless it exists, readable by this user alone."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Linked, so that drivers that start together see a whole file or none.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name) as file:
            file.write(secrets.token_hex(32))
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    return path


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
