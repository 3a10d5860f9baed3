"""Getting a Ray cluster: one of our own on this machine, or one that is named."""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gaplab.errors import UserError
from gaplab.launch.capacity import Node
from gaplab.launch.process import machine

LOCAL = "local"

_QUIET = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the conductor knows how many there may be
    "RAY_AIR_NEW_OUTPUT": "0",
}
_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Unless this is 0, Ray takes an address of 127.0.0.1 for the machine's own and listens on all."""


@contextmanager
def cluster(address: str, home: Path) -> Iterator[tuple[Node, ...]]:
    """Connect to `address`, or start a cluster on loopback for "local"; yields its alive nodes.

    Never joins a cluster that was not named. A local one is guarded by a token of its own home
    folder and goes away with the driver, however that ends. Raises UserError where there is
    nothing to connect to.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    if address == LOCAL:
        _use_own_token(home / "ray.token")
    if address == LOCAL or address.startswith(("127.", "localhost")):
        os.environ[_ONE_MACHINE] = "0"
    import ray  # after its settings, which it reads on import

    ledger = os.environ.pop("GAPLAB_LEDGER", None)  # may hold a password, and workers need none
    try:
        ray.init(**_arguments(address))
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--address {address}: no Ray cluster for us ({first}); use `ray start --head` there, "
            "and where it asks for a token, RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH here"
        ) from error
    finally:
        os.environ |= {"GAPLAB_LEDGER": ledger} if ledger else {}
    # Ray tells on standard output, past all its settings, of workers that died: not among JSON.
    ray._private.worker.print_to_stdstream = _unsaid
    try:
        yield alive_nodes()
    finally:
        ray.shutdown()


def _unsaid(*_: object, **__: object) -> None:
    """What we tell in our own words."""


def leaving_nodes() -> frozenset[str]:
    """Ids of nodes that the cluster is about to take away: a spot machine's notice, a scale-down,
    `ray drain-node`. Ray starts nothing new there.
    """
    import ray

    return frozenset(ray._private.state.state.get_draining_nodes())


def alive_nodes() -> tuple[Node, ...]:
    """The nodes of the cluster that we are connected to, as they are now, but those that leave."""
    import ray

    gone = leaving_nodes()
    rows = [row for row in ray.nodes() if row["Alive"] and row["NodeID"] not in gone]
    held = [row["Resources"] for row in rows]
    return tuple(Node(r.get("CPU", 0.0), r.get("GPU", 0.0)) for r in held)


def cluster_id(address: str) -> str:
    """The same text for all drivers that share processors: those of one cluster, and those that
    each started a cluster of their own on this machine.
    """
    import ray

    return f"local:{machine()}" if address == LOCAL else ray.get_runtime_context().gcs_address


def _arguments(address: str) -> dict[str, object]:
    common = {
        "address": address,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}},
    }
    own = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    return common | own if address == LOCAL else common


def _use_own_token(path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not there, for drivers that begin together; for this user alone.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name) as file:
            file.write(secrets.token_hex(32))
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
