"""The installed Ray has every private name that gaplab uses."""

import logging
import re
from pathlib import Path

import pytest
import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._private import ray_constants, services, worker
from ray._private.runtime_env import packaging
from ray.dashboard.modules import dashboard_sdk

from gaplab.launch.ray import private


def test_names_that_are_read() -> None:
    assert callable(ray._private.state.state.get_draining_nodes)
    assert callable(ray._raylet.Config.initialize)
    assert callable(ray._raylet.AuthenticationTokenLoader.instance().reset_cache)
    assert private.HEAD_RESOURCE == HEAD_NODE_RESOURCE_NAME
    assert {dashboard_sdk.logger.name, packaging.default_logger.name} == set(private.UPLOAD_LOGGERS)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No process of Ray is visible."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(services.psutil, "process_iter", lambda *_: iter(()))
    services.find_gcs_addresses.cache_clear()


def test_which_cluster_auto_stands_for(
    no_cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert private.current_cluster() == ""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    assert private.current_cluster() == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert private.current_cluster() == "ray://head:10001"


def test_whether_this_machine_is_a_node(no_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not private.is_node()
    monkeypatch.setattr(services, "find_node_ids", lambda: {"node"})
    assert private.is_node()


def test_no_other_module_reaches_into_ray() -> None:
    package = Path(private.__file__).parents[2]
    private_name = re.compile(r"\bray\.(\w+\.)*_[a-z]|from ray\.(\w+\.)*_")
    found = {p.name for p in package.rglob("*.py") if private_name.search(p.read_text())}
    assert found == {"private.py"}


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


def test_authentication_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without that Ray keeps what it has read when it was imported."""

    def headers() -> dict[str, str]:
        private.reload_settings()
        loader = ray._raylet.AuthenticationTokenLoader.instance()
        found: dict[str, str] = loader.get_token_for_http_header()
        return found

    try:
        for token in ("0" * 64, "1" * 64):
            (tmp_path / token).write_text(token)
            monkeypatch.setenv("RAY_AUTH_MODE", "token")
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / token))
            assert token in str(headers())
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        assert headers() == {}
    finally:
        monkeypatch.undo()
        private.reload_settings()


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_clusters_on_one_machine_use_loopback(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Without that Ray replaces the address by one that other machines can reach."""
    try:
        monkeypatch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0")
        private.reload_settings()
        assert services.resolve_ip_for_localhost(address) == "127.0.0.1"
        monkeypatch.delenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
        private.reload_settings()
        assert ray_constants.ENABLE_RAY_CLUSTER
    finally:
        monkeypatch.undo()
        private.reload_settings()


def test_log_levels_are_restored() -> None:
    names = ("gaplab.test.one", "gaplab.test.two")
    logging.getLogger(names[0]).setLevel(logging.INFO)
    with private.log_level(logging.CRITICAL, *names):
        assert {logging.getLogger(name).level for name in names} == {logging.CRITICAL}
    assert [logging.getLogger(name).level for name in names] == [logging.INFO, logging.NOTSET]
