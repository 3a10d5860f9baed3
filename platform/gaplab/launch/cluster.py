"""Getting a Ray cluster: one of our own on this machine, or one that is named."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaplab.errors import UserError
from gaplab.launch.capacity import Node

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
    "RAY_AIR_NEW_OUTPUT": "0",
}


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
    import ray  # after its settings, which it reads on import

    try:
        ray.init(**_arguments(address))
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--address {address}: no Ray cluster ({first}); use `ray start --head` there"
        ) from error
    try:
        yield _nodes(ray.nodes())
    finally:
        ray.shutdown()


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
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _nodes(rows: list[dict[str, dict[str, float]]]) -> tuple[Node, ...]:
    held = [row["Resources"] for row in rows if row["Alive"]]
    return tuple(Node(r.get("CPU", 0.0), r.get("GPU", 0.0)) for r in held)
