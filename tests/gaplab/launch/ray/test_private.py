"""The installed Ray has every private name that gaplab uses."""

import logging

import pytest
import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._private import worker
from ray._private.runtime_env import packaging
from ray.dashboard.modules import dashboard_sdk

from gaplab.launch.ray import private


def test_names_that_are_read() -> None:
    assert callable(ray._private.state.state.get_draining_nodes)
    assert private.HEAD_RESOURCE == HEAD_NODE_RESOURCE_NAME
    assert {dashboard_sdk.logger.name, packaging.default_logger.name} == set(private.UPLOAD_LOGGERS)


def test_the_argument_for_loopback() -> None:
    """`ray.init` reads private arguments from its keywords, so its code holds their names."""
    assert set(private.LOOPBACK) == {"_node_ip_address"}
    assert set(private.LOOPBACK) < set(ray.init.__wrapped__.__code__.co_consts)


def test_messages_about_dead_workers_are_suppressed_and_then_restored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = worker.print_to_stdstream
    message = {"lines": ["a worker died"], "pid": "raylet", "is_err": False}
    worker.print_to_stdstream(message, ignore_prefix=False)
    assert "a worker died" in capsys.readouterr().out
    with private.silent_worker_deaths():
        worker.print_to_stdstream(message, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    assert worker.print_to_stdstream is original


def test_log_levels_are_restored() -> None:
    names = ("gaplab.test.one", "gaplab.test.two")
    logging.getLogger(names[0]).setLevel(logging.INFO)
    with private.log_level(logging.CRITICAL, *names):
        assert {logging.getLogger(name).level for name in names} == {logging.CRITICAL}
    assert [logging.getLogger(name).level for name in names] == [logging.INFO, logging.NOTSET]
