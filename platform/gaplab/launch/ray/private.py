"""All private names of Ray that gaplab uses, in one place. Nothing else may reach into Ray.

Ray may change these names in any release, so pyproject.toml pins Ray to one minor version, and
`tests/gaplab/launch/ray/test_private.py` fails where an installed Ray lacks one of them. A function
below raises AttributeError then. The names, and what gaplab could not do without them:

- `ray._private.worker.print_to_stdstream` prints messages about workers that died to standard
  output, whatever the logging settings. Without it they would stand among the lines of `--json`.
- `ray._private.state.state.get_draining_nodes` returns the nodes that are about to be taken away;
  the public `ray.nodes()` doesn't. Without it trials would run on such a node until it is lost
  and then be retried.
- `ray._raylet.Config.initialize` and `ray._raylet.AuthenticationTokenLoader` read the settings of
  authentication again; Ray reads them once, when it is imported. Without them a process that has
  imported Ray before could neither start a cluster with a token, nor use Ray without it afterwards.
- `ray._private.ray_constants.ENABLE_RAY_CLUSTER` is read when Ray is imported, too. Without it such
  a process would start clusters that listen on all addresses.
- The resource `node:__internal_head__` exists once, on the head node. Without it no trial with
  several workers could start.
- `ray._private.services.get_ray_address_from_environment` returns the address that `auto` stands
  for, and `find_node_ids` the nodes on this machine. Without them a driver would wait for minutes
  for a cluster that has died, or that this machine is not a node of.
- The call `GET_CLUSTER_ID` is answered by Ray's global control service alone. Without it a driver
  would wait for minutes for a program that is not Ray.
- The argument `_node_ip_address` of `ray.init` makes a local cluster listen on loopback only.
  Without it other machines could connect, but would still need the token.
- The loggers in `UPLOAD_LOGGERS` report every file that a job ships. Without these names the
  reports would be printed.

Ray is imported inside the functions, because it reads its settings when it is imported.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

GET_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
HEAD_RESOURCE = "node:__internal_head__"
LOOPBACK: dict[str, object] = {"_node_ip_address": "127.0.0.1"}
"""Arguments of `ray.init` for a cluster that other machines can't reach."""
UPLOAD_LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")


def draining_nodes() -> frozenset[str]:
    """Return the ids of nodes that the cluster is about to take away.

    Reasons are the notice of a spot machine, a scale-down and `ray drain-node`. Ray starts nothing
    new on such a node.
    """
    import ray

    return frozenset(ray._private.state.state.get_draining_nodes())


def current_cluster() -> str:
    """Return the address that `auto` stands for; empty if no cluster runs on this machine."""
    import ray

    try:
        return str(ray._private.services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return ""


def is_node() -> bool:
    """Return whether this machine is a node of a cluster, as Ray requires of a driver."""
    import ray

    return bool(ray._private.services.find_node_ids())


def reload_settings() -> None:
    """Let Ray read settings from the environment again. To be called while it is not connected.

    They are RAY_AUTH_MODE with the token, and RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER. Others that Ray
    reads when it is imported stay as they were.
    """
    import ray

    # In this order: a thread of an old connection that is still ending must not look for the token
    # after the mode has changed.
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    constants = ray._private.ray_constants
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(
        constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not constants.IS_WINDOWS_OR_OSX
    )


@contextmanager
def silent_worker_deaths() -> Iterator[None]:
    """Keep Ray from printing messages about workers that died; gaplab reports them itself."""
    import ray

    worker = ray._private.worker
    original = worker.print_to_stdstream
    worker.print_to_stdstream = _print_nothing
    try:
        yield
    finally:
        worker.print_to_stdstream = original


def _print_nothing(*_: object, **__: object) -> None:
    pass


@contextmanager
def log_level(level: int, *loggers: str) -> Iterator[None]:
    """Set the level of these loggers and restore it on exit."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level_before in before.items():
            logging.getLogger(name).setLevel(level_before)
